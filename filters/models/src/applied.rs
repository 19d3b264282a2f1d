//! Patches of `max_tokens`, and the headers that say so.

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::request::{Kind, Member, Scan, patch};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{DictSerializer, Integer, KeyRef};

use crate::backend::Protocol;
use crate::max_tokens::{Applied, Bounds};

/// Both names of the header, newest first.
const HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("spass-applied"), HeaderName::from_static("x-rust-api-applied")];
const CLAMPED: &KeyRef = KeyRef::constant("max_tokens_clamped");
const FLOORED: &KeyRef = KeyRef::constant("max_tokens_floored");
/// Largest value of the contract.
const LARGEST: i64 = 2_147_483_647;

/// The limits that a client sent, read once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sent {
    /// The limits with their values; of several the header reports the last one.
    limits: Vec<(Member, u64)>,
    /// The member that is added where none was sent, and where it stands as `null`.
    name: &'static str,
    null: Option<Member>,
}

impl Sent {
    /// Reads the members of the dialect; `null` counts as absent.
    pub(crate) fn read(scan: &Scan, body: &Rope, protocol: Protocol) -> Result<Self, FilterError> {
        let name = protocol.limit_member();
        let (first, second) = match protocol {
            Protocol::Messages => (&scan.max_tokens, None),
            Protocol::Responses => (&scan.max_output_tokens, None),
            _ => (&scan.max_tokens, scan.max_completion_tokens.as_ref()),
        };
        let first_sent = read(first.as_ref(), name, body)?;
        let second_sent = read(second, "max_completion_tokens", body)?;
        Ok(Self { limits: first_sent.into_iter().chain(second_sent).collect(), name, null: first.clone() })
    }

    /// The most that an attempt asks for; `None` when it leaves that to the upstream.
    pub(crate) fn asked(&self, bounds: Bounds) -> Option<u64> {
        let largest = self.limits.iter().map(|(_, value)| bounds.value(*value)).max();
        largest.or_else(|| bounds.absent())
    }

    /// The patches for one attempt, and what the headers say about them.
    pub(crate) fn patches(&self, scan: &Scan, bounds: Bounds) -> (Vec<Patch>, Applied) {
        let mut patches = Vec::new();
        let mut said = Applied::Unchanged;
        for (member, value) in &self.limits {
            let applied = bounds.apply(*value);
            if let Applied::Clamped(new) | Applied::Floored(new) = applied {
                patches.push(patch::replace(member, number(new)));
                said = applied; // the later one is max_completion_tokens, which the header reports
            }
        }
        if self.limits.is_empty()
            && let Some(value) = bounds.absent()
        {
            patches.push(match &self.null {
                Some(null) => patch::replace(null, number(value)),
                None => patch::append_member(scan, &format!("\"{}\":{value}", self.name)),
            });
            said = Applied::Clamped(value);
        }
        (patches, said)
    }
}

fn read(member: Option<&Member>, name: &'static str, body: &Rope) -> Result<Option<(Member, u64)>, FilterError> {
    let Some(member) = member.filter(|member| member.kind != Kind::Null) else { return Ok(None) };
    match patch::read_integer(body, member)
        .ok()
        .filter(|value| (1..=LARGEST).contains(value))
        .and_then(|value| u64::try_from(value).ok())
    {
        Some(value) => Ok(Some((member.clone(), value))),
        None => {
            Err(FilterError::client(ErrorCode::InvalidField, format!("{name} must be an integer from 1 to {LARGEST}."))
                .param(name))
        }
    }
}

fn number(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

/// Says in the answer what was changed.
pub(crate) fn announce(applied: Applied, headers: &mut HeaderMap) {
    match told(applied) {
        None => HEADERS.iter().for_each(|name| drop(headers.remove(name))),
        Some(value) => HEADERS.into_iter().for_each(|name| drop(headers.insert(name, value.clone()))),
    }
}

/// A structured dictionary (RFC 8941) of one member.
fn told(applied: Applied) -> Option<HeaderValue> {
    let (key, value) = match applied {
        Applied::Clamped(value) => (CLAMPED, value),
        Applied::Floored(value) => (FLOORED, value),
        Applied::Unchanged => return None,
    };
    let mut dictionary = DictSerializer::new();
    let _parameters = dictionary.bare_item(key, Integer::try_from(value).ok()?);
    HeaderValue::from_str(&dictionary.finish()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_wire::request::{Protocol as Form, Scanner};
    use sfv::{BareItem, Dictionary, ListEntry, Parser};

    #[test]
    fn what_was_changed_is_read_back_as_a_dictionary_under_both_names() {
        for (applied, key, value) in [
            (Applied::Floored(200), "max_tokens_floored", 200),
            (Applied::Clamped(1072), "max_tokens_clamped", 1072),
            (Applied::Clamped(2_147_483_647), "max_tokens_clamped", 2_147_483_647),
        ] {
            let mut headers = HeaderMap::new();
            announce(applied, &mut headers);
            assert_eq!(headers.len(), 2);
            for name in ["spass-applied", "x-rust-api-applied"] {
                assert_eq!(headers[name], format!("{key}={value}"));
                let read: Dictionary = Parser::new(headers[name].to_str().unwrap()).parse().unwrap();
                let Some(ListEntry::Item(item)) = read.get(key) else { panic!("{read:?}") };
                assert_eq!((read.len(), &item.bare_item), (1, &BareItem::Integer(value.into())));
            }
        }
    }

    #[test]
    fn an_attempt_that_changes_nothing_takes_back_what_an_earlier_one_said() {
        let mut headers = HeaderMap::new();
        announce(Applied::Clamped(7), &mut headers);
        announce(Applied::Unchanged, &mut headers);
        assert!(headers.is_empty());
    }

    /// What becomes of a body with a floor of 200 and a ceiling of 4096, and what is said about it.
    fn run(protocol: Protocol, body: &str) -> Result<(String, String), String> {
        let mut scanner = Scanner::new(Form::Chat);
        scanner.push(body.as_bytes()).unwrap();
        let scan = scanner.finish().unwrap();
        let rope = Rope::from(Bytes::copy_from_slice(body.as_bytes()));
        let bounds = Bounds { floor: Some(200), token_ceiling: Some(4096), model_ceiling: None, left: None };
        let sent = Sent::read(&scan, &rope, protocol)
            .map_err(|error| format!("{} {}", error.code, error.param.unwrap_or_default()))?;
        let (mut patches, applied) = sent.patches(&scan, bounds);
        patches.sort_by_key(|patch| patch.range.start);
        let mut headers = HeaderMap::new();
        announce(applied, &mut headers);
        let said = headers.get("spass-applied").map_or("", |value| value.to_str().unwrap());
        Ok((String::from_utf8(rope.patched(&patches).parts().concat()).unwrap(), said.to_owned()))
    }

    #[test]
    fn each_dialect_has_its_own_member() {
        use Protocol::{Chat, Messages, Responses};
        for (protocol, sent, expected, said) in [
            (Chat, r#"{"m":1}"#, r#"{"m":1,"max_tokens":4096}"#, "max_tokens_clamped=4096"),
            (
                Chat,
                r#"{"max_tokens":5,"max_completion_tokens":9000}"#,
                r#"{"max_tokens":200,"max_completion_tokens":4096}"#,
                "max_tokens_clamped=4096",
            ),
            (Responses, r#"{"m":1}"#, r#"{"m":1,"max_output_tokens":4096}"#, "max_tokens_clamped=4096"),
            (Responses, r#"{"max_output_tokens":null}"#, r#"{"max_output_tokens":4096}"#, "max_tokens_clamped=4096"),
            (Responses, r#"{"max_output_tokens": 16 }"#, r#"{"max_output_tokens": 200 }"#, "max_tokens_floored=200"),
            (
                Responses,
                r#"{"max_output_tokens":9000,"max_tokens":"x"}"#,
                r#"{"max_output_tokens":4096,"max_tokens":"x"}"#,
                "max_tokens_clamped=4096",
            ),
            (Responses, r#"{"max_output_tokens":1000}"#, r#"{"max_output_tokens":1000}"#, ""),
            (Messages, r#"{"max_tokens":50}"#, r#"{"max_tokens":200}"#, "max_tokens_floored=200"),
            (
                Messages,
                r#"{"max_tokens":9000,"max_completion_tokens":"x","max_output_tokens":1}"#,
                r#"{"max_tokens":4096,"max_completion_tokens":"x","max_output_tokens":1}"#,
                "max_tokens_clamped=4096",
            ),
        ] {
            assert_eq!(run(protocol, sent), Ok((expected.to_owned(), said.to_owned())), "{protocol:?} {sent}");
        }
    }

    #[test]
    fn a_limit_is_a_positive_integer_under_the_name_of_the_dialect() {
        for (protocol, name) in [
            (Protocol::Chat, "max_tokens"),
            (Protocol::Messages, "max_tokens"),
            (Protocol::Responses, "max_output_tokens"),
        ] {
            for value in ["0", "-5", "1.5", "200.0", "1e3", "\"100\"", "2147483648", "true", "[]"] {
                let refused = run(protocol, &format!("{{\"{name}\":{value}}}"));
                assert_eq!(refused, Err(format!("invalid_field {name}")), "{value}");
            }
            assert!(run(protocol, &format!("{{\"{name}\":2147483647}}")).is_ok());
        }
    }
}
