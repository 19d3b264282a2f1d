//! Speed of the request scan, the check of base64 in it included, by the kinds of bodies that a gateway sees. Throughput is per core.
//!
//! `cargo bench -p dgx-gateway-wire --bench scan`

use dgx_gateway_wire::request::{Protocol, Scan, Scanner};
use divan::Bencher;
use divan::counter::BytesCount;

/// Size of the pieces in which a proxy hands a body on.
const CHUNK: usize = 64 * 1024;

fn main() {
    divan::main();
}

fn scan(body: &[u8]) -> Option<Scan> {
    let mut scanner = Scanner::new(Protocol::Chat);
    for chunk in body.chunks(CHUNK) {
        scanner.push(chunk).ok()?;
    }
    scanner.finish().ok()
}

fn run(bencher: Bencher<'_, '_>, body: &str) {
    let is_good = |scan: Scan| scan.findings.iter().all(|finding| finding.problem.depends_on_model());
    assert!(scan(body.as_bytes()).is_some_and(is_good), "no check may stop early");
    bencher.counter(BytesCount::of_str(body)).bench(|| scan(divan::black_box(body.as_bytes())));
}

fn chat(content: &str) -> String {
    format!(
        r#"{{"model": "llama-4-scout", "stream": true, "stream_options": {{"include_usage": true}}, "temperature": 0.7,
        "max_tokens": 512, "messages": [{{"role": "system", "content": "You are a helpful assistant."}},
        {{"role": "user", "content": {content}}}]}}"#
    )
}

/// Text of a length, with a line break every 80 characters.
fn text(line: &str, len: usize) -> String {
    let lines = format!("{line}\\n").repeat(len / line.len());
    format!("\"{lines}\"")
}

const ENGLISH: &str = "The quick brown fox jumps over the lazy dog, and then it rests for a short while";
const GERMAN: &str = "Überall dort, wo für größere Mengen schöne Wörter nötig wären, fügt man Umlaute";
const CHINESE: &str = "敏捷的棕色狐狸跳过了懒狗然后休息了一会儿敏捷的棕色狐狸跳过了懒狗然后休息";

#[divan::bench]
fn chat_1_kb(bencher: Bencher<'_, '_>) {
    run(bencher, &chat(&text(ENGLISH, 740)));
}

#[divan::bench]
fn chat_64_kb_of_english(bencher: Bencher<'_, '_>) {
    run(bencher, &chat(&text(ENGLISH, 64 << 10)));
}

#[divan::bench]
fn chat_64_kb_of_german(bencher: Bencher<'_, '_>) {
    run(bencher, &chat(&text(GERMAN, 64 << 10)));
}

#[divan::bench]
fn chat_64_kb_of_chinese(bencher: Bencher<'_, '_>) {
    run(bencher, &chat(&text(CHINESE, 64 << 10)));
}

#[divan::bench]
fn chat_64_kb_of_turns(bencher: Bencher<'_, '_>) {
    let turn = r#"{"role": "user", "content": "And what comes next?"}, {"role": "assistant", "content": "Nothing."}"#;
    let turns = vec![turn; (64 << 10) / turn.len()].join(", ");
    run(bencher, &format!(r#"{{"model": "m", "messages": [{turns}]}}"#));
}

/// A body with one image whose payload repeats a text.
fn image(payload: &str, times: usize) -> String {
    let payload = payload.repeat(times);
    let part =
        format!(r#"{{"type": "image_url", "image_url": {{"url": "data:image/png;base64,iVBORw0KGgoA{payload}"}}}}"#);
    chat(&format!(r#"[{{"type": "text", "text": "What is this?"}}, {part}]"#))
}

#[divan::bench]
fn image_8_mb(bencher: Bencher<'_, '_>) {
    run(bencher, &image("Ab3/", 2 << 20));
}

/// Some encoders escape each slash, which is one character of 64 in random bytes.
#[divan::bench]
fn image_8_mb_with_escaped_slashes(bencher: Bencher<'_, '_>) {
    let payload = format!(r"{}\/", "Ab3+".repeat(16).split_at(63).0);
    run(bencher, &image(&payload, (8 << 20) / payload.len()));
}

#[divan::bench]
fn token_array_64_kb(bencher: Bencher<'_, '_>) {
    run(bencher, &format!(r#"{{"prompt": [{}]}}"#, vec!["12345"; 11_000].join(",")));
}
