//! Lists like `a=b,c=d` in variables, as OpenTelemetry writes them: the form of W3C Baggage, values percent-encoded.

use percent_encoding::percent_decode_str;

/// Why a list cannot be read. Names no value: some of them are secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoPairs {
    #[error("entry {0} has no name before a `=`")]
    NoName(usize),
    #[error("entry {0} is no UTF-8 once it is decoded")]
    NotText(usize),
}

/// The pairs, in their order.
pub(crate) fn read(text: &str) -> Result<Vec<(String, String)>, NoPairs> {
    let entries = text.split(',').map(str::trim).enumerate().filter(|(_, entry)| !entry.is_empty());
    entries.map(|(place, entry)| pair(place + 1, entry)).collect()
}

fn pair(place: usize, entry: &str) -> Result<(String, String), NoPairs> {
    let (name, value) = entry.split_once('=').ok_or(NoPairs::NoName(place))?;
    let decoded = |text: &str| {
        let text = percent_decode_str(text.trim()).decode_utf8();
        text.map(std::borrow::Cow::into_owned).map_err(|_| NoPairs::NotText(place))
    };
    let (name, value) = (decoded(name)?, decoded(value)?);
    if name.is_empty() { Err(NoPairs::NoName(place)) } else { Ok((name, value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_and_spaces_around_them_dropped() {
        let pairs = read("a=b, c = d%20e%2Cf ,,authorization=Basic%20eA==").unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "b"), ("c", "d e,f"), ("authorization", "Basic eA==")]);
        assert_eq!(read("x=").unwrap(), [("x".to_owned(), String::new())]);
    }

    #[test]
    fn what_is_no_pair_is_named_by_its_place() {
        for (text, error) in
            [("a=b,secret", NoPairs::NoName(2)), ("=secret", NoPairs::NoName(1)), ("a=%ff", NoPairs::NotText(1))]
        {
            assert_eq!(read(text), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
