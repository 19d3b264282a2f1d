//! What passes, what is held back, and when a stream is whole.

use super::*;

const STREAM: &str = concat!(
    ": comment\n\n",
    "data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
    "data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"},\"finish_reason\":null}]}\n\n",
    "data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"model\":\"up\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}}\n\n",
    "data: [DONE]\n\n",
);

fn run(stream: &str, step: usize, usage: bool) -> Result<(String, Option<Usage>), FilterError> {
    let mut relay = Relay::new("slug".into(), usage, StreamForm::Chunks);
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

#[test]
fn rewrites_the_model_hides_usage_and_drops_comments_however_the_stream_is_cut() {
    let (expected, usage) = run(STREAM, STREAM.len(), false).unwrap();
    assert!(!expected.contains("\"up\"") && !expected.contains("usage") && !expected.contains("comment"));
    assert_eq!(expected.matches("data: ").count(), 4);
    assert_eq!(usage.unwrap().prompt_tokens, 3);
    for step in 1..STREAM.len() {
        assert_eq!(run(STREAM, step, false).unwrap().0, expected, "step {step}");
    }
    assert!(run(STREAM, 7, true).unwrap().0.contains("\"prompt_tokens\":3"));
}

#[test]
fn nothing_leaves_before_the_first_event_that_means_something() {
    let mut relay = Relay::new("slug".into(), false, StreamForm::Chunks);
    let (role, _) = STREAM
        .split_at(STREAM.find("data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"H").unwrap());
    let mut part = Some(Bytes::copy_from_slice(role.as_bytes()));
    relay.pass(&mut part, false).unwrap();
    assert_eq!(part, None);
    let mut part = Some(Bytes::copy_from_slice(&STREAM.as_bytes()[role.len()..]));
    relay.pass(&mut part, false).unwrap();
    assert_eq!(String::from_utf8(part.unwrap().to_vec()).unwrap().matches("\"role\"").count(), 1);
}

#[test]
fn the_bytes_that_end_a_stream_are_told_once_however_it_is_cut() {
    let bytes = [STREAM, "data: [DONE]\n\n"].concat();
    for step in 1..=bytes.len() {
        let mut relay = Relay::new("slug".into(), false, StreamForm::Chunks);
        let mut told = Vec::new();
        for piece in bytes.as_bytes().chunks(step) {
            let mut part = Some(Bytes::copy_from_slice(piece));
            relay.pass(&mut part, false).unwrap();
            told.extend(relay.take_ending().map(|ending| {
                let part = part.unwrap();
                part.slice(part.len() - ending..)
            }));
        }
        assert_eq!(told, [&DONE], "step {step}");
    }
}

#[test]
fn what_follows_the_end_is_dropped_even_if_it_is_longer_than_an_event_may_be() {
    let mut relay = Relay::new("slug".into(), false, StreamForm::Chunks);
    let mut part = Some(Bytes::from_static(STREAM.as_bytes()));
    relay.pass(&mut part, false).unwrap();
    for _ in 0..2 {
        let mut part = Some(Bytes::from(vec![b'x'; MAX_EVENT_BYTES + 1]));
        relay.pass(&mut part, false).unwrap();
        assert_eq!(part, None);
    }
    relay.pass(&mut None, true).unwrap();
}

#[test]
fn a_usage_chunk_with_an_empty_choice_is_hidden_unless_it_was_asked_for() {
    let stream = STREAM.replace(r#""choices":[],"usage""#, r#""choices":[{"index":0,"delta":{}}],"usage""#);
    assert_eq!(run(&stream, 9, false).unwrap().0.matches("data: ").count(), 4);
    assert_eq!(run(&stream, 9, true).unwrap().0.matches("data: ").count(), 5);
}

#[test]
fn events_before_an_error_in_the_same_piece_still_leave() {
    let (good, _) =
        STREAM.split_at(STREAM.find("data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{},").unwrap());
    let mut relay = Relay::new("slug".into(), false, StreamForm::Chunks);
    let mut part = Some(Bytes::from(format!("{good}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n")));
    assert!(relay.pass(&mut part, false).is_err());
    assert_eq!(String::from_utf8(part.unwrap().to_vec()).unwrap().matches("data: ").count(), 2);
}

fn of_choice(index: u8, rest: &str) -> String {
    format!("data: {{\"model\":\"slug\",\"choices\":[{{\"index\":{index},{rest}}}]}}\n\n")
}

#[test]
fn a_choice_that_begins_after_another_has_ended_keeps_its_role_and_has_to_end_too() {
    let begun = [
        of_choice(0, r#""delta":{"content":"a"}"#),
        of_choice(0, r#""delta":{},"finish_reason":"stop""#),
        of_choice(1, r#""delta":{"role":"assistant"}"#),
        of_choice(1, r#""delta":{"content":"b"}"#),
    ]
    .concat();
    assert_eq!(run(&begun, 11, false).unwrap_err().code, ErrorCode::UpstreamError);
    let whole = begun + &of_choice(1, r#""delta":{},"finish_reason":"stop""#) + "data: [DONE]\n\n";
    assert_eq!(run(&whole, 11, false).unwrap().0, whole);
}

#[test]
fn what_is_held_before_the_first_content_has_a_limit() {
    let padding = "x".repeat(1024 * 1024);
    let event = format!("data: {{\"choices\":[],\"padding\":\"{padding}\"}}\n\n");
    let mut relay = Relay::new("slug".into(), false, StreamForm::Chunks);
    let taken = (0..64).take_while(|_| relay.pass(&mut Some(event.clone().into()), false).is_ok()).count();
    assert!((16..=MAX_HELD_BYTES / padding.len()).contains(&taken), "{taken} MiB");
}

#[test]
fn a_stream_without_a_finish_is_an_error_and_one_without_a_marker_is_complete() {
    let (cut, _) =
        STREAM.split_at(STREAM.find("data: {\"model\":\"up\",\"choices\":[{\"index\":0,\"delta\":{},").unwrap());
    assert_eq!(run(cut, 11, false).unwrap_err().code, ErrorCode::UpstreamError);
    let unmarked = STREAM.strip_suffix("data: [DONE]\n\n").unwrap();
    assert!(run(unmarked, 11, false).is_ok());
}
