//! Rules of embedding requests: caps of the model, the format, the number of dimensions. Pure.

use bytes::Bytes;
use dgx_gateway_filter::body::{Patch, Rope};
use dgx_gateway_filter::{ErrorCode, FilterError};
use dgx_gateway_wire::request::{InputSize, Kind, Member, Scan, patch};

use crate::catalog::EmbeddingCaps;

/// Formats that backends know.
const FORMATS: [&str; 4] = ["float", "base64", "bytes", "bytes_only"];

/// Checks a request against the model and gives what changes in it.
pub(crate) fn check(scan: &Scan, body: &Rope, caps: &EmbeddingCaps) -> Result<Vec<Patch>, FilterError> {
    if scan.input_count > caps.max_inputs {
        return Err(too_large(format!("At most {} inputs are embedded at once.", caps.max_inputs), "input".to_owned()));
    }
    within(scan.longest_input_text.as_ref(), caps.max_input_bytes, "bytes")?;
    within(scan.longest_input_tokens.as_ref(), caps.max_input_tokens, "tokens")?;
    let format = format(scan, body)?;
    let dimensions = dimensions(scan, body, caps)?;
    Ok(dimensions.into_iter().chain(format).collect())
}

fn within(longest: Option<&InputSize>, cap: u64, unit: &str) -> Result<(), FilterError> {
    match longest.filter(|longest| longest.size > cap) {
        Some(longest) => {
            Err(too_large(format!("An embedding input has at most {cap} {unit}."), longest.location.to_string()))
        }
        None => Ok(()),
    }
}

fn too_large(message: String, param: String) -> FilterError {
    FilterError::client(ErrorCode::EmbeddingInputTooLarge, message).param(param)
}

/// `float` is said, because backends differ in what they take for granted.
fn format(scan: &Scan, body: &Rope) -> Result<Option<Patch>, FilterError> {
    let Some(member) = &scan.encoding_format else {
        return Ok(Some(patch::append_member(scan, "\"encoding_format\":\"float\"")));
    };
    if member.kind == Kind::Null {
        return Ok(Some(patch::replace(member, Bytes::from_static(b"\"float\""))));
    }
    match patch::read_string(body, member).filter(|format| FORMATS.contains(&format.as_str())) {
        Some(_) => Ok(None),
        None => Err(invalid("encoding_format", format!("encoding_format must be one of {}.", FORMATS.join(", ")))),
    }
}

fn dimensions(scan: &Scan, body: &Rope, caps: &EmbeddingCaps) -> Result<Option<Patch>, FilterError> {
    let Some(member) = scan.dimensions.as_ref().filter(|member| member.kind != Kind::Null) else { return Ok(None) };
    let asked = asked(body, member)?;
    if caps.dimensions.map(i64::from) == Some(asked) {
        return Ok(Some(patch::remove_member(scan, body, member)));
    }
    if caps.dimensions_supported {
        return Ok(None);
    }
    Err(invalid("dimensions", "This model has a fixed number of dimensions.".to_owned()))
}

fn asked(body: &Rope, member: &Member) -> Result<i64, FilterError> {
    patch::read_integer(body, member)
        .ok()
        .filter(|asked| *asked > 0)
        .ok_or_else(|| invalid("dimensions", "dimensions must be a positive integer.".to_owned()))
}

fn invalid(param: &'static str, message: String) -> FilterError {
    FilterError::client(ErrorCode::InvalidField, message).param(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_wire::request::{Protocol, Scanner};

    fn run(body: &str, native: Option<u32>, supported: bool) -> Result<String, String> {
        let mut scanner = Scanner::new(Protocol::Embeddings);
        scanner.push(body.as_bytes()).unwrap();
        let scan = scanner.finish().unwrap();
        let rope = Rope::from(Bytes::copy_from_slice(body.as_bytes()));
        let caps = EmbeddingCaps {
            dimensions: native,
            dimensions_supported: supported,
            max_inputs: 2,
            max_input_bytes: 5,
            max_input_tokens: 3,
        };
        match check(&scan, &rope, &caps) {
            Ok(mut patches) => {
                patches.sort_by_key(|patch| patch.range.start);
                Ok(String::from_utf8(rope.patched(&patches).parts().concat()).unwrap())
            }
            Err(error) => Err(format!("{} {}", error.code, error.param.unwrap_or_default())),
        }
    }

    #[test]
    fn follows_the_rules_of_the_contract() {
        for (body, native, supported, expected) in [
            (r#"{"input":"a"}"#, None, false, Ok(r#"{"input":"a","encoding_format":"float"}"#)),
            (r#"{"input":"a","encoding_format":null}"#, None, false, Ok(r#"{"input":"a","encoding_format":"float"}"#)),
            (
                r#"{"input":"a","encoding_format":"base64"}"#,
                None,
                false,
                Ok(r#"{"input":"a","encoding_format":"base64"}"#),
            ),
            (
                r#"{"input":"a","encoding_format":"bytes"}"#,
                None,
                false,
                Ok(r#"{"input":"a","encoding_format":"bytes"}"#),
            ),
            (
                r#"{"input":"a","encoding_format":"bytes_only"}"#,
                None,
                false,
                Ok(r#"{"input":"a","encoding_format":"bytes_only"}"#),
            ),
            (r#"{"input":"a","encoding_format":5}"#, None, false, Err("invalid_field encoding_format")),
            (r#"{"input":"a","dimensions":"768"}"#, Some(768), true, Err("invalid_field dimensions")),
            (r#"{"input":[1,2,3]}"#, None, false, Ok(r#"{"input":[1,2,3],"encoding_format":"float"}"#)),
            (r#"{"input":"a","encoding_format":"hex"}"#, None, false, Err("invalid_field encoding_format")),
            (
                r#"{"input":"a", "dimensions" : 768 , "encoding_format":"float"}"#,
                Some(768),
                false,
                Ok(r#"{"input":"a",  "encoding_format":"float"}"#),
            ),
            (
                r#"{"encoding_format":"float","input":"a" , "dimensions":768}"#,
                Some(768),
                false,
                Ok(r#"{"encoding_format":"float","input":"a" }"#),
            ),
            (
                r#"{"input":"a","dimensions":256,"encoding_format":"float"}"#,
                Some(768),
                false,
                Err("invalid_field dimensions"),
            ),
            (
                r#"{"input":"a","dimensions":256,"encoding_format":"float"}"#,
                Some(768),
                true,
                Ok(r#"{"input":"a","dimensions":256,"encoding_format":"float"}"#),
            ),
            (r#"{"input":"a","dimensions":0}"#, Some(768), true, Err("invalid_field dimensions")),
            (r#"{"input":["a","b","c"]}"#, None, false, Err("embedding_input_too_large input")),
            (r#"{"input":["a","123456"]}"#, None, false, Err("embedding_input_too_large input[1]")),
            (r#"{"input":"123456"}"#, None, false, Err("embedding_input_too_large input")),
            (r#"{"input":[1,2,3,4]}"#, None, false, Err("embedding_input_too_large input")),
        ] {
            assert_eq!(run(body, native, supported).as_deref().map_err(|error| error.as_str()), expected, "{body}");
        }
    }
}
