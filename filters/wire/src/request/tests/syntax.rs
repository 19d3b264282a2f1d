//! Members of the top level, and refusals at the bad byte.

use super::{scan, scan_chunks};
use crate::request::{Member, Protocol, ScanErrorKind, Scanner};

#[test]
fn records_members_after_unescaping_their_names() {
    let body = r#" { "m\u006fdel" : "x" ,"stream":true,"stream_options":{"include_usage":false , "a":[]},"n":2.5,"max_tokens" :-7,
        "messages":[{"role":"user","model":"no"}],"user_id":null,"other":{"tools":[]},"a-name-that-is-longer-than-any-known-one":1 } "#;
    let scan = scan(Protocol::Chat, body);
    let text = |member: &Option<Member>| {
        member.as_ref().and_then(|member| body.get(member.key.clone()).zip(body.get(member.value.clone())))
    };
    assert_eq!(text(&scan.model), Some((r#""m\u006fdel""#, r#""x""#)));
    assert_eq!(text(&scan.stream), Some((r#""stream""#, "true")));
    assert_eq!(text(&scan.n), Some((r#""n""#, "2.5")));
    assert_eq!(text(&scan.max_tokens), Some((r#""max_tokens""#, "-7")));
    assert_eq!(text(&scan.user_id), Some((r#""user_id""#, "null")));
    assert_eq!(text(&scan.messages), Some((r#""messages""#, r#"[{"role":"user","model":"no"}]"#)));
    assert_eq!(text(&scan.include_usage), Some((r#""include_usage""#, "false")));
    assert_eq!(scan.tools, None);
    assert_eq!(body.get(scan.close..), Some("} "));
    let close = scan.stream_options_close.unwrap();
    assert_eq!(body.get(close..close + 4), Some("},\"n"));
    assert!(!scan.is_empty_object && !scan.stream_options_is_empty);
    assert_eq!(scan.len, body.len());
}

#[test]
fn refuses_at_the_bad_byte() {
    use ScanErrorKind::{
        ControlCharacter, DuplicateMember, Escape, NotAnObject, NumberOutOfRange, Syntax, TooDeep, Truncated, Utf8,
    };
    let deep = format!(r#"{{"a":{}"#, "[".repeat(127));
    let table: Vec<(&[u8], usize, ScanErrorKind)> = vec![
        (b"", 0, Truncated),
        (b"  ", 2, Truncated),
        (b"{\"a\":1", 6, Truncated),
        (b" [1]", 1, NotAnObject),
        (b"\"x\"", 0, NotAnObject),
        (b"\xEF\xBB\xBF{}", 0, Syntax),
        (b"{} x", 3, Syntax),
        (b"{}{}", 2, Syntax),
        (b"{\"a\":01}", 6, Syntax),
        (b"{\"a\":1.}", 7, Syntax),
        (b"{\"a\":tru }", 8, Syntax),
        (b"{\"a\":1,}", 7, Syntax),
        (b"{,}", 1, Syntax),
        (b"{\"a\":[1}", 7, Syntax),
        (b"{\"a\":\"\t\"}", 6, ControlCharacter),
        (b"{\"a\":\"\\x\"}", 7, Escape),
        (b"{\"a\":\"\\ud800x\"}", 12, Escape),
        (b"{\"a\":\"\\ud800\\u0041\"}", 17, Escape),
        (b"{\"a\":\"\\ud800\\ue000\"}", 17, Escape),
        (b"{\"a\":\"\\udc00\"}", 11, Escape),
        (b"{\"a\":\"x\xC3\"}", 7, Utf8),
        (b"{\"a\":\"\xE0\x80\x80\"}", 6, Utf8),
        (b"{\"a\":\"\xC3\\n\"}", 6, Utf8),
        (b"{\"a\":1e999}", 5, NumberOutOfRange),
        (b"{\"a\":1,\"\\u0061\":2}", 7, DuplicateMember),
        (deep.as_bytes(), 131, TooDeep),
    ];
    for (body, offset, kind) in table {
        for size in [1, 2, 3, 5, 1000] {
            let mut scanner = Scanner::new(Protocol::Chat);
            let pushed = body.chunks(size).try_for_each(|chunk| scanner.push(chunk));
            let error = pushed.and_then(|()| scanner.finish().map(drop)).unwrap_err();
            assert_eq!((error.offset, error.kind), (offset, kind), "{:?}", String::from_utf8_lossy(body));
        }
    }
}

#[test]
fn stays_refused() {
    let mut scanner = Scanner::new(Protocol::Chat);
    let error = scanner.push(b"}").unwrap_err();
    assert_eq!(scanner.push(b"{}"), Err(error));
    assert_eq!(scanner.finish().unwrap_err(), error);
}

#[test]
fn accepts_many_members_and_finds_the_late_duplicate() {
    let members: Vec<String> = (0..5000).map(|index| format!("\"member {index}\":0")).collect();
    scan(Protocol::Chat, &format!("{{{}}}", members.join(",")));
    let body = format!("{{{},\"member 40\":0}}", members.join(","));
    let error = Scanner::new(Protocol::Chat).push(body.as_bytes()).unwrap_err();
    assert_eq!((error.offset, error.kind), (body.len() - 14, ScanErrorKind::DuplicateMember));
}

#[test]
fn reads_long_wide_text_at_every_alignment() {
    for pad in 0..4 {
        let text = "x".repeat(pad) + &"€ä😀".repeat(6000);
        let body = format!(r#"{{"prompt":"{text}"}}"#).into_bytes();
        let mut bad = body.clone();
        let at = 11 + pad + 9 * 5000;
        bad.splice(at..=at, [0xFF]).for_each(drop);
        for size in [1, 7, 1000, 16 << 10, (16 << 10) + 1, 1 << 20] {
            let scan = scan_chunks(Protocol::Completions, body.chunks(size));
            assert_eq!(scan.prompt_text_bytes, text.len() as u64);
            let mut scanner = Scanner::new(Protocol::Completions);
            let error = bad.chunks(size).try_for_each(|chunk| scanner.push(chunk)).unwrap_err();
            assert_eq!((error.offset, error.kind), (at, ScanErrorKind::Utf8), "{size}");
        }
    }
}
