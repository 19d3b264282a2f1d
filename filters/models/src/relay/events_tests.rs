//! Streams of named events, cut everywhere: what leaves, and what is an error.

use bytes::Bytes;
use dgx_gateway_filter::facts::Usage;
use dgx_gateway_filter::render::ErrorRenderer;
use dgx_gateway_filter::{ErrorCode, FilterError};

use super::Relay;
use crate::dialect::StreamForm;

const MESSAGES: &str = include_str!("../../../wire/tests/fixtures/streams/anthropic.sse");
const RESPONSES: &str = include_str!("../../../wire/tests/fixtures/streams/responses.sse");

fn run(stream: &str, step: usize) -> Result<(String, Option<Usage>), FilterError> {
    let mut relay = Relay::new("slug".into(), false, StreamForm::Events);
    let mut out = Vec::new();
    for piece in stream.as_bytes().chunks(step) {
        let mut part = Some(Bytes::copy_from_slice(piece));
        relay.pass(&mut part, false)?;
        out.extend(part.unwrap_or_default());
    }
    let mut part = None;
    relay.pass(&mut part, true)?;
    out.extend(part.unwrap_or_default());
    Ok((String::from_utf8(out).unwrap(), relay.usage()))
}

fn names(stream: &str) -> Vec<&str> {
    stream.lines().filter_map(|line| line.strip_prefix("event: ")).collect()
}

/// Everything before the line that begins like this.
fn until<'a>(stream: &'a str, line: &str) -> &'a str {
    stream.split_at(stream.find(line).unwrap()).0
}

#[test]
fn events_keep_their_names_and_order_however_the_stream_is_cut() {
    for (stream, upstream, tokens) in [(MESSAGES, "claude-opus-4-7", (35, 15)), (RESPONSES, "gpt-x-2026", (11, 5))] {
        let (expected, usage) = run(stream, stream.len()).unwrap();
        assert_eq!(names(&expected), names(stream));
        assert!(!expected.contains(upstream) && expected.contains("\"model\":\"slug\""), "{expected}");
        assert_eq!(usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some(tokens));
        for step in 1..stream.len() {
            assert_eq!(run(stream, step).unwrap().0, expected, "step {step}");
        }
    }
}

#[test]
fn nothing_leaves_before_the_first_event_that_means_something() {
    for (stream, first) in [(MESSAGES, "event: content_block_delta"), (RESPONSES, "event: response.output_text.delta")]
    {
        let mut relay = Relay::new("slug".into(), false, StreamForm::Events);
        let head = until(stream, first);
        let mut part = Some(Bytes::copy_from_slice(head.as_bytes()));
        relay.pass(&mut part, false).unwrap();
        assert_eq!((part, relay.left()), (None, false));
        let mut part = Some(Bytes::copy_from_slice(&stream.as_bytes()[head.len()..]));
        relay.pass(&mut part, false).unwrap();
        assert_eq!(names(std::str::from_utf8(&part.unwrap()).unwrap()), names(stream));
        assert!(relay.left() && relay.complete());
    }
}

#[test]
fn a_stream_without_its_last_event_is_an_error_whatever_marker_it_has() {
    for (stream, last) in [(MESSAGES, "event: message_stop"), (RESPONSES, "event: response.completed")] {
        let cut = until(stream, last);
        assert_eq!(run(cut, 11).unwrap_err().code, ErrorCode::UpstreamError);
        assert_eq!(run(&format!("{cut}data: [DONE]\n\n"), 11).unwrap_err().code, ErrorCode::UpstreamError);
        let whole = run(stream, 11).unwrap().0;
        assert_eq!(run(&format!("{stream}data: [DONE]\n\nevent: ping\ndata: {{}}\n\n"), 11).unwrap().0, whole);
    }
    let incomplete = RESPONSES.replace("response.completed", "response.incomplete");
    assert_eq!(names(&run(&incomplete, 7).unwrap().0), names(&incomplete));
}

#[test]
fn a_response_that_failed_is_the_last_event_and_one_without_content_is_no_answer() {
    let failed = RESPONSES
        .replace("response.completed", "response.failed")
        .replace(r#""error":null"#, r#""error":{"code":"x","message":"gpu-a.internal is down"}"#);
    let (sent, _) = run(&failed, 13).unwrap();
    assert_eq!(names(&sent), names(&failed));
    assert!(!sent.contains("gpu-a.internal") && sent.contains("\"The upstream failed.\""), "{sent}");
    let at_once = until(&failed, "event: response.output_text.delta").to_owned()
        + failed.split_at(failed.find("event: response.failed").unwrap()).1;
    assert_eq!(run(&at_once, 13).unwrap_err().code, ErrorCode::UpstreamError);
}

#[test]
fn an_error_takes_the_number_after_the_last_event_that_left() {
    let head = until(RESPONSES, "event: response.output_text.done");
    let mut relay = Relay::new("slug".into(), false, StreamForm::Events);
    let errors = relay.errors();
    let broken =
        format!("{head}event: error\ndata: {{\"type\":\"error\",\"message\":\"x\",\"sequence_number\":99}}\n\n");
    let mut part = Some(Bytes::from(broken));
    let error = relay.pass(&mut part, false).unwrap_err();
    let sent = String::from_utf8(part.unwrap().to_vec()).unwrap();
    let last = sent.rsplit("\"sequence_number\":").next().unwrap().split(['}', ',']).next().unwrap();
    let said = String::from_utf8(errors.stream_event(&error, "id").unwrap().to_vec()).unwrap();
    let next = last.parse::<u64>().unwrap() + 1;
    assert!(said.ends_with(&format!("\"sequence_number\":{next}}}\n\n")), "{last} {said}");
    assert!(said.starts_with("event: error\ndata: {\"type\":\"error\",\"code\":\"upstream_error\""), "{said}");
}

#[test]
fn events_without_numbers_are_counted() {
    let unnumbered = "event: response.created\ndata: {\"type\":\"response.created\"}\n\nevent: a\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n";
    let mut relay = Relay::new("slug".into(), false, StreamForm::Events);
    relay.pass(&mut Some(Bytes::from_static(unnumbered.as_bytes())), false).unwrap();
    assert_eq!(relay.errors().next(), 2);
}
