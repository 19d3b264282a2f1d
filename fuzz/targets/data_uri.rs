//! The check of image URLs, as part of a chat request, against one that has the whole URL and decodes all of it.

#![no_main]

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dgx_gateway_wire::request::{Problem, Protocol, Scanner};
use fuzzing::Numbers;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let url = String::from_utf8_lossy(input);
    let mut numbers = Numbers::of(input);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":{}}}}}]}}]}}"#,
        quoted(&url, &mut numbers)
    );
    let mut scanner = Scanner::new(Protocol::Chat);
    for piece in numbers.pieces(body.as_bytes()) {
        scanner.push(piece).expect("the body is JSON");
    }
    let scan = scanner.finish().expect("the body is JSON");
    assert_eq!(scan.images, 1);
    let found: Vec<Problem> =
        scan.findings.iter().map(|finding| finding.problem).filter(|problem| *problem != Problem::ImagePart).collect();
    assert_eq!(found, problem(&url).into_iter().collect::<Vec<_>>(), "{url}");
});

/// The URL as a JSON string; some characters are escaped although they need not be.
fn quoted(url: &str, numbers: &mut Numbers) -> String {
    let mut out = String::from("\"");
    for letter in url.chars() {
        if matches!(letter, '"' | '\\' | '\0'..='\x1f') || numbers.below(24) == 0 {
            for unit in letter.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(letter);
        }
    }
    out.push('"');
    out
}

fn problem(url: &str) -> Option<Problem> {
    let Some((scheme, rest)) = url.split_once(':') else { return Some(Problem::ImageDecode) };
    match scheme.to_ascii_lowercase().as_str() {
        "data" => {}
        "http" | "https" => return Some(Problem::ImageUrlRemote),
        _ => return Some(Problem::ImageDecode),
    }
    let Some((head, payload)) = rest.split_once(',') else { return Some(Problem::ImageDecode) };
    let Some((media_type, parameters)) = head.split_once(';') else { return Some(Problem::ImageDecode) };
    let media_type = media_type.to_ascii_lowercase();
    let is_image = ["image/gif", "image/jpeg", "image/png", "image/webp"].contains(&media_type.as_str());
    if !is_image || parameters.rsplit(';').next() != Some("base64") {
        return Some(Problem::ImageDecode);
    }
    // bits behind the last byte may be anything, as with most decoders
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical)
        .with_decode_allow_trailing_bits(true);
    match GeneralPurpose::new(&STANDARD, config).decode(payload) {
        Ok(bytes) if bytes.is_empty() => Some(Problem::ImageBase64),
        Ok(bytes) => (signature(&bytes) != Some(media_type.as_str())).then_some(Problem::ImageDecode),
        Err(_) => Some(Problem::ImageBase64),
    }
}

fn signature(bytes: &[u8]) -> Option<&'static str> {
    let starts = |sign: &[u8]| bytes.starts_with(sign);
    if starts(b"GIF87a") || starts(b"GIF89a") {
        Some("image/gif")
    } else if starts(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if starts(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else {
        None
    }
}
