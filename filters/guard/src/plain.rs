//! The members of requests without a conversation: rerank, generated images, speech.

use dgx_gateway_filter::tenant_config::TenantSettings;
use dgx_gateway_filter::{ErrorCode, FilterError, Rope};
use dgx_gateway_wire::request::{Finding, Kind, Member, Problem, Scan, patch};

use crate::body::{invalid, required, wrong_type};

/// Most characters of the prompt of an image (specification of the gateway, images).
const MAX_IMAGE_PROMPT: usize = 32_000;
/// Most images of one request where no tenant says otherwise (default of the key `image_gen_max_per_request`).
const MAX_IMAGES: u64 = 2;
/// Most characters that are spoken at once (specification of the gateway, audio).
const MAX_SPEECH_INPUT: usize = 4096;
/// Most bytes of one character in JSON: two escapes of six.
const BYTES_PER_CHARACTER: usize = 12;

const SIZES: &[&str] = &["auto", "1024x1024", "1024x1536", "1536x1024"];
const QUALITIES: &[&str] = &["auto", "low", "medium", "high"];
/// Not `url` yet: without a store of images the URL would be that of the provider.
const IMAGE_FORMATS: &[&str] = &["b64_json"];

/// `query` and `documents`.
pub(crate) fn rerank(scan: &Scan) -> Result<(), FilterError> {
    required(scan.query.as_ref(), "query", &[Kind::String])?;
    required(scan.documents.as_ref(), "documents", &[Kind::Array])?;
    scan.findings.iter().find_map(document_error).map_or(Ok(()), Err)
}

fn document_error(finding: &Finding) -> Option<FilterError> {
    let message = match finding.problem {
        Problem::DocumentTooLarge => "A document has at most 32768 bytes.",
        Problem::DocumentType => "A document must be a string, or an object with a string text.",
        Problem::DocumentsCount => "documents must hold 1 to 1000 documents.",
        _ => return None,
    };
    Some(FilterError::client(ErrorCode::InvalidField, message).param(finding.param()))
}

/// Whether the tenant has switched images off.
pub(crate) fn refuse_images(settings: Option<&TenantSettings>) -> Result<(), FilterError> {
    match settings {
        Some(settings) if settings.image_gen_max_per_request == 0 => {
            Err(FilterError::policy(ErrorCode::Forbidden, "Images are switched off for this tenant."))
        }
        _ => Ok(()),
    }
}

/// `prompt`, and what an image shall be like.
pub(crate) fn images(scan: &Scan, body: &Rope, settings: Option<&TenantSettings>) -> Result<(), FilterError> {
    characters(scan.prompt.as_ref(), "prompt", MAX_IMAGE_PROMPT, body)?;
    let most = settings.map_or(MAX_IMAGES, |settings| settings.image_gen_max_per_request);
    let fits = |n: i64| u64::try_from(n).is_ok_and(|n| (1..=most).contains(&n));
    if let Some(n) = given(scan.n.as_ref())
        && !patch::read_integer(body, n).is_ok_and(fits)
    {
        return Err(invalid("n", format!("n must be an integer from 1 to {most}.")));
    }
    one_of(scan.size.as_ref(), "size", SIZES, body)?;
    one_of(scan.quality.as_ref(), "quality", QUALITIES, body)?;
    one_of(scan.response_format.as_ref(), "response_format", IMAGE_FORMATS, body)?;
    match given(scan.stream.as_ref()) {
        Some(stream) if stream.kind != Kind::Bool => Err(wrong_type("stream")),
        Some(stream) if *body.read(stream.value.clone()) == *b"true" => {
            Err(invalid("stream", "Images are not streamed.".to_owned()))
        }
        _ => Ok(()),
    }
}

/// `input` and `voice`.
pub(crate) fn speech(scan: &Scan, body: &Rope) -> Result<(), FilterError> {
    characters(scan.input.as_ref(), "input", MAX_SPEECH_INPUT, body)?;
    required(scan.voice.as_ref(), "voice", &[Kind::String])
}

/// A member that is not null, which counts as absent.
fn given(member: Option<&Member>) -> Option<&Member> {
    member.filter(|member| member.kind != Kind::Null)
}

/// A required string of 1 to `most` characters.
fn characters(member: Option<&Member>, name: &'static str, most: usize, body: &Rope) -> Result<(), FilterError> {
    required(member, name, &[Kind::String])?;
    let fits = member.is_some_and(|member| {
        // a text that cannot fit is not copied to be counted
        member.value.len() <= most * BYTES_PER_CHARACTER + 2
            && patch::read_string(body, member).is_some_and(|text| (1..=most).contains(&text.chars().count()))
    });
    if fits { Ok(()) } else { Err(invalid(name, format!("{name} must have 1 to {most} characters."))) }
}

fn one_of(member: Option<&Member>, name: &'static str, words: &[&str], body: &Rope) -> Result<(), FilterError> {
    let Some(member) = given(member) else { return Ok(()) };
    match patch::read_string(body, member) {
        Some(word) if words.contains(&word.as_str()) => Ok(()),
        _ => Err(invalid(name, format!("{name} must be one of {}.", words.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dgx_gateway_wire::request::{Protocol, Scanner};
    use serde_json::{Value, json};

    fn refused(protocol: Protocol, body: &str) -> String {
        let mut scanner = Scanner::new(protocol);
        scanner.push(body.as_bytes()).unwrap();
        let scan = scanner.finish().unwrap();
        let rope = Rope::from(bytes::Bytes::copy_from_slice(body.as_bytes()));
        let checked = match protocol {
            Protocol::Images => images(&scan, &rope, None),
            Protocol::Rerank => rerank(&scan),
            _ => speech(&scan, &rope),
        };
        checked.err().map(|error| format!("{} {}", error.code, error.param.unwrap_or_default())).unwrap_or_default()
    }

    fn with(base: &Value, name: &str, value: Value) -> String {
        let mut body = base.clone();
        body[name] = value;
        body.to_string()
    }

    #[test]
    fn members_of_rerank() {
        let base = json!({"query": "q", "documents": ["a", {"text": "b"}]});
        for (name, value, expected) in [
            ("top_n", json!(1), ""),
            ("query", json!(null), "missing_field query"),
            ("query", json!(5), "invalid_field query"),
            ("documents", json!(null), "missing_field documents"),
            ("documents", json!("a"), "invalid_field documents"),
            ("documents", json!([]), "invalid_field documents"),
            ("documents", json!(["a", 5]), "invalid_field documents[1]"),
            ("documents", json!(["a", "b", "x".repeat(32_769)]), "invalid_field documents[2]"),
        ] {
            assert_eq!(refused(Protocol::Rerank, &with(&base, name, value.clone())), expected, "{name} {value}");
        }
        assert_eq!(refused(Protocol::Rerank, "{}"), "missing_field query");
        assert_eq!(refused(Protocol::Rerank, r#"{"query":"q"}"#), "missing_field documents");
    }

    #[test]
    fn members_of_images() {
        let base = json!({"prompt": "a dog"});
        for (name, value, expected) in [
            ("n", json!(1), ""),
            ("n", json!(2), ""),
            ("n", json!(null), ""),
            ("n", json!(3), "invalid_field n"),
            ("n", json!(0), "invalid_field n"),
            ("n", json!(1.5), "invalid_field n"),
            ("n", json!("1"), "invalid_field n"),
            ("size", json!("1536x1024"), ""),
            ("size", json!("auto"), ""),
            ("size", json!("256x256"), "invalid_field size"),
            ("size", json!(1024), "invalid_field size"),
            ("quality", json!("medium"), ""),
            ("quality", json!("hd"), "invalid_field quality"),
            ("response_format", json!("b64_json"), ""),
            ("response_format", json!(null), ""),
            ("response_format", json!("url"), "invalid_field response_format"),
            ("response_format", json!({"type": "json_object"}), "invalid_field response_format"),
            ("stream", json!(false), ""),
            ("stream", json!(true), "invalid_field stream"),
            ("stream", json!("no"), "invalid_field stream"),
            ("prompt", json!("é".repeat(32_000)), ""),
            ("prompt", json!("é".repeat(32_001)), "invalid_field prompt"),
            ("prompt", json!("x".repeat(400_000)), "invalid_field prompt"),
            ("prompt", json!(""), "invalid_field prompt"),
            ("prompt", json!(["a"]), "invalid_field prompt"),
            ("prompt", json!(null), "missing_field prompt"),
        ] {
            let body = with(&base, name, value.clone());
            assert_eq!(refused(Protocol::Images, &body), expected, "{name} of {} bytes", body.len());
        }
    }

    #[test]
    fn members_of_speech() {
        let base = json!({"input": "Hello", "voice": "alloy"});
        for (name, value, expected) in [
            ("speed", json!(1.25), ""),
            ("input", json!("ü".repeat(4096)), ""),
            ("input", json!("ü".repeat(4097)), "invalid_field input"),
            ("input", json!(""), "invalid_field input"),
            ("input", json!(["a"]), "invalid_field input"),
            ("input", json!(null), "missing_field input"),
            ("voice", json!(null), "missing_field voice"),
            ("voice", json!(5), "invalid_field voice"),
        ] {
            let body = with(&base, name, value.clone());
            assert_eq!(refused(Protocol::Speech, &body), expected, "{name} of {} bytes", body.len());
        }
        let escaped = format!("{{\"voice\":\"a\",\"input\":\"{}\"}}", "\\ud83d\\ude00".repeat(4096));
        assert_eq!(refused(Protocol::Speech, &escaped), "", "the longest way to write a text that fits");
    }
}
