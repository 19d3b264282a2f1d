//! Headers of a part.

use super::scanner::FormError;

/// What the headers of a part say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    pub(super) name: String,
    /// `filename*` wins over `filename` (RFC 6266, section 4.3).
    pub(super) file_name: Option<String>,
    /// The value may be sent in another encoding than its bytes.
    pub(super) encoded: bool,
}

/// Reads the header block of a part, without the blank line that ends it.
pub(super) fn read(block: &[u8]) -> Result<Disposition, FormError> {
    let block = std::str::from_utf8(block).map_err(|_| FormError::Header)?;
    let mut found = None;
    let mut encoded = false;
    for line in block.split("\r\n").filter(|line| !line.is_empty()) {
        // a line that goes on in the next one is obsolete, and read differently by many
        if line.starts_with([' ', '\t']) || line.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(FormError::Header);
        }
        let (name, value) = line.split_once(':').ok_or(FormError::Header)?;
        if name.is_empty() || name.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(FormError::Header);
        }
        if name.eq_ignore_ascii_case("content-disposition") {
            if found.replace(disposition(value)?).is_some() {
                return Err(FormError::Header);
            }
        } else if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let plain = ["7bit", "8bit", "binary"];
            encoded |= !plain.iter().any(|plain| value.trim().eq_ignore_ascii_case(plain));
        }
    }
    let found = found.ok_or(FormError::Header)?;
    Ok(Disposition { encoded, ..found })
}

fn disposition(value: &str) -> Result<Disposition, FormError> {
    let (essence, rest) = value.split_once(';').ok_or(FormError::Header)?;
    if !essence.trim().eq_ignore_ascii_case("form-data") {
        return Err(FormError::Header);
    }
    let (mut name, mut plain, mut extended) = (None, None, None);
    for (parameter, value) in parameters(rest).ok_or(FormError::Header)? {
        let slot = match parameter.to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "filename" => &mut plain,
            "filename*" => &mut extended,
            "name*" => return Err(FormError::Header),
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(FormError::Header);
        }
    }
    let name: String = name.ok_or(FormError::Header)?;
    if name.is_empty() || name.contains(['\\', '"']) {
        return Err(FormError::Header);
    }
    let extended = extended.map(|value| decoded(&value).ok_or(FormError::Header)).transpose()?;
    Ok(Disposition { name, file_name: extended.or(plain), encoded: false })
}

/// `UTF-8'language'percent-encoded` (RFC 8187).
fn decoded(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    let mut bytes = encoded.bytes();
    let mut out = Vec::with_capacity(encoded.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(out).ok()
}

/// The parameters behind a type: `; name=token; name="quoted"`. `None` when they are malformed. In a quoted value a
/// backslash quotes a quote or a backslash; before anything else it stands for itself, as browsers of old sent it.
pub(super) fn parameters(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(found);
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end_matches([' ', '\t']);
        if name.is_empty() || name.contains(|c: char| !c.is_ascii_graphic() || "\"/;,".contains(c)) {
            return None;
        }
        let after = after.trim_start_matches([' ', '\t']);
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => self::quoted(quoted)?,
            None => {
                let end = after.find([';', ' ', '\t']).unwrap_or(after.len());
                let (token, after) = after.split_at_checked(end)?;
                if token.is_empty() || token.contains('"') {
                    return None;
                }
                (token.to_owned(), after)
            }
        };
        found.push((name.to_owned(), value));
        rest = after.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(';') {
            return None;
        }
    }
}

/// A quoted value and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, quoted)) => value.push(quoted),
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &str) -> Result<(String, Option<String>), FormError> {
        let found = read(format!("Content-Disposition: {value}\r\nContent-Type: audio/wav").as_bytes())?;
        Ok((found.name, found.file_name))
    }

    #[test]
    fn reads_names_in_every_form_that_has_one_meaning() {
        for (value, name, file) in [
            ("form-data; name=\"a\"", "a", None),
            ("form-data;name=a", "a", None),
            ("FORM-DATA ; NAME = \"a b\" ; x=y", "a b", None),
            ("form-data; name=\"f\"; filename=\"a;b=c.wav\"", "f", Some("a;b=c.wav")),
            ("form-data; name=\"f\"; filename=\"a\\\"b\\\\c.wav\"", "f", Some("a\"b\\c.wav")),
            ("form-data; name=\"f\"; filename=\"C:\\dir\\a.wav\"", "f", Some("C:\\dir\\a.wav")),
            ("form-data; name=f; filename=\"x.wav\"; filename*=UTF-8''%c3%a4.mp3", "f", Some("ä.mp3")),
            ("form-data; name=f; filename*=utf-8'de'a%20b.ogg", "f", Some("a b.ogg")),
            ("form-data; name=\"é\"; filename=\"\"", "é", Some("")),
        ] {
            assert_eq!(of(value), Ok((name.to_owned(), file.map(str::to_owned))), "{value}");
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for value in [
            "attachment; name=a",
            "form-data",
            "form-data; filename=a",
            "form-data; name=a; name=b",
            "form-data; name=a; NAME=b",
            "form-data; name*=utf-8''a",
            "form-data; name=\"a",
            "form-data; name=\"a\"b",
            "form-data; name=\"a\\\"b\"",
            "form-data; name=\"a\\b\"",
            "form-data; name=",
            "form-data; name=\"\"",
            "form-data; name",
            "form-data; name=f; filename*=latin1''a",
            "form-data; name=f; filename*=utf-8''%zz",
        ] {
            assert_eq!(of(value), Err(FormError::Header), "{value}");
        }
        let one = "Content-Disposition: form-data; name=a";
        for block in [
            String::new(),
            "Content-Type: text/plain".into(),
            format!("{one}\r\n{one}"),
            format!("{one};\r\n filename=x"),
            format!("{one}\r\nno colon"),
            format!("{one}\rX: y"),
            format!("{one}\nX: y"),
            format!("{one}\r\nContent-Disposition : form-data; name=b"),
        ] {
            assert_eq!(read(block.as_bytes()).unwrap_err(), FormError::Header, "{block:?}");
        }
        assert!(read(format!("{one}\r\nContent-Transfer-Encoding: base64").as_bytes()).unwrap().encoded);
        assert!(!read(format!("{one}\r\ncontent-transfer-encoding: Binary").as_bytes()).unwrap().encoded);
    }
}
