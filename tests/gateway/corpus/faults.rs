//! What an upstream does wrong inside a stream, and what its client sees of it.

use serde_json::json;

use super::{asked, last_error, rest, started};
use crate::harness::{Stage, chunk_of_stream, finish_of_stream};

const DONE: &str = "data: [DONE]\n\n";
const USAGE: &str = "\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1,\"total_tokens\":4}";

/// A chunk with these members beside the model.
fn with(members: &str) -> String {
    format!("data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up\",{members}}}\n\n")
}

fn choice(members: &str) -> String {
    with(&format!("\"choices\":[{{{members}}}]"))
}

fn text(content: &str) -> String {
    chunk_of_stream("up", content)
}

fn finish() -> String {
    finish_of_stream("up")
}

/// What a client sees of these events.
fn shown(events: &[String]) -> String {
    events.concat().replace("\"up\"", "\"m\"")
}

/// What comes of the events of an upstream that then ends the body properly.
enum Seen {
    /// An answer with an error status.
    Refused,
    /// These events, and an error event as the last one.
    Cut(Vec<String>),
    /// These events.
    All(Vec<String>),
}

#[tokio::test]
async fn each_fault_has_one_answer() {
    use Seen::{All, Cut, Refused};
    let done = || DONE.to_owned();
    let error =
        || "data: {\"error\":{\"message\":\"secret-of-the-upstream\",\"type\":\"x\",\"code\":500}}\n\n".to_owned();
    let named = || "event: error\ndata: {\"message\":\"secret-of-the-upstream\"}\n\n".to_owned();
    let broken = || "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"conte\n\n".to_owned();
    let html = || "<html>\n<body>secret-of-the-upstream</body>\n</html>\n\n".to_owned();
    let role = || choice("\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null");
    let empty = || choice("\"index\":0,\"delta\":{},\"finish_reason\":null");
    let null = || with("\"choices\":null");
    let null_usage = || with(&format!("\"choices\":null,{USAGE}"));
    let no_choices = || with(USAGE);
    let usage = || with(&format!("\"choices\":[],{USAGE}"));
    let counted = |content: &str| {
        with(&format!(
            "\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\"finish_reason\":null}}],{USAGE}"
        ))
    };
    let uncounted = |content: &str| counted(content).replace(&format!(",{USAGE}"), "");
    let call = |index: u8, id: &str| {
        choice(&format!(
            "\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{index},\"id\":{id},\"function\":{{\"arguments\":\"{{}}\"}}}}]}}"
        ))
    };
    let at = |index: u8, rest: &str| choice(&format!("\"index\":{index},{rest}"));
    let second = || choice("\"index\":0,\"delta\":{},\"finish_reason\":\"length\"");
    let both = || [text("a"), finish(), done()];

    let plain = || both().to_vec();
    let cases: Vec<(&str, bool, Vec<String>, Seen)> = vec![
        ("an error before content", false, vec![role(), error(), text("a")], Refused),
        ("a named error before content", false, vec![role(), named()], Refused),
        ("an error after content", false, vec![text("a"), error(), text("b"), done()], Cut(vec![text("a")])),
        ("a named error after content", false, vec![text("a"), named(), done()], Cut(vec![text("a")])),
        ("an error after the finish", false, vec![text("a"), finish(), error(), done()], All(plain())),
        ("the marker twice", false, [plain(), vec![done()]].concat(), All(plain())),
        ("an answer after the marker", false, [plain(), plain()].concat(), All(plain())),
        ("the marker alone", false, vec![done()], Refused),
        ("the marker before the finish", false, vec![text("a"), done()], All(vec![text("a"), done()])),
        ("the finish twice", false, vec![text("a"), finish(), second(), done()], All(plain())),
        (
            "an empty delta after the finish",
            true,
            vec![text("a"), finish(), empty(), usage(), done()],
            All(vec![text("a"), finish(), usage(), done()]),
        ),
        ("broken bytes after the finish", false, vec![text("a"), finish(), broken(), html(), done()], All(plain())),
        (
            "text after the finish",
            false,
            vec![text("a"), finish(), text("b"), finish(), done()],
            All(vec![text("a"), finish(), text("b"), done()]),
        ),
        (
            "gaps between calls",
            false,
            vec![call(0, "\"x\""), call(4, "\"y\""), call(4, "null"), finish(), done()],
            All(vec![call(0, "\"x\""), call(4, "\"y\""), call(4, "null"), finish(), done()]),
        ),
        (
            "gaps between choices",
            false,
            vec![
                at(2, "\"delta\":{\"content\":\"a\"}"),
                at(7, "\"delta\":{\"content\":\"b\"}"),
                at(2, "\"delta\":{},\"finish_reason\":\"stop\""),
                at(7, "\"delta\":{},\"finish_reason\":\"stop\""),
                done(),
            ],
            All(vec![
                at(2, "\"delta\":{\"content\":\"a\"}"),
                at(7, "\"delta\":{\"content\":\"b\"}"),
                at(2, "\"delta\":{},\"finish_reason\":\"stop\""),
                at(7, "\"delta\":{},\"finish_reason\":\"stop\""),
                done(),
            ]),
        ),
        (
            "usage on every chunk, unasked",
            false,
            vec![counted("a"), counted("b"), finish(), usage(), done()],
            All(vec![uncounted("a"), uncounted("b"), finish(), done()]),
        ),
        (
            "usage on every chunk, asked",
            true,
            vec![counted("a"), counted("b"), finish(), usage(), done()],
            All(vec![counted("a"), counted("b"), finish(), usage(), done()]),
        ),
        (
            "the role twice",
            false,
            vec![role(), role(), text("a"), role(), finish(), done()],
            All(vec![role(), role(), text("a"), role(), finish(), done()]),
        ),
        (
            "an empty delta",
            false,
            vec![empty(), text("a"), empty(), finish(), done()],
            All(vec![empty(), text("a"), empty(), finish(), done()]),
        ),
        (
            "no choices",
            false,
            vec![null(), text("a"), null(), finish(), done()],
            All(vec![null(), text("a"), null(), finish(), done()]),
        ),
        (
            "usage beside choices of null, unasked",
            false,
            vec![null_usage(), text("a"), null_usage(), no_choices(), finish(), null_usage(), done()],
            All(plain()),
        ),
        (
            "usage beside choices of null, asked",
            true,
            vec![text("a"), finish(), null_usage(), done()],
            All(vec![text("a"), finish(), null_usage(), done()]),
        ),
        ("broken JSON before content", false, vec![role(), broken(), text("a")], Refused),
        (
            "broken JSON after content",
            false,
            vec![text("a"), broken(), text("b"), finish(), done()],
            Cut(vec![text("a")]),
        ),
        (
            "an event that breaks off",
            false,
            vec![text("a"), "data: {\"id\":\"c\",\"choi".to_owned()],
            Cut(vec![text("a")]),
        ),
        (
            "JSON that is no object",
            false,
            vec![text("a"), "data: null\n\n".to_owned(), finish(), done()],
            Cut(vec![text("a")]),
        ),
        ("a page", false, vec![html()], Refused),
        ("a page as data", false, vec!["data: <html></html>\n\n".to_owned()], Refused),
        ("a page after content", false, vec![text("a"), html()], Cut(vec![text("a")])),
        (
            "bytes that are no text",
            false,
            vec![text("a"), "data: {\"choices\":[{\"delta\":{\"content\":\"\u{1}\"}}]}\n\n".to_owned()],
            Cut(vec![text("a")]),
        ),
        ("nothing", false, vec![], Refused),
        ("no finish", false, vec![text("a"), empty()], Cut(vec![text("a"), empty()])),
        (
            "an empty reason on every chunk",
            false,
            vec![at(0, "\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"")],
            Cut(vec![at(0, "\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"")]),
        ),
    ];
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    for (what, usage, events, seen) in cases {
        for step in [usize::MAX, 5] {
            let (mut client, mut caller) = asked(&gateway, &mut stage, usage).await;
            caller.begin_stream().await;
            let mut events = events.as_slice();
            let mut status = None;
            // as long as nothing has left, a fault is a real error: the first event has to be there before it
            if let (Cut(_), Some((first, later))) = (&seen, events.split_first()) {
                caller.chunk(first).await;
                status = Some(client.read_head().await.0);
                events = later;
            }
            // in one write, for after an error nobody reads on
            let mut body = Vec::new();
            for piece in events.concat().as_bytes().chunks(step) {
                body.extend(format!("{:x}\r\n", piece.len()).bytes());
                body.extend(piece);
                body.extend(b"\r\n");
            }
            caller.write([body.as_slice(), b"0\r\n\r\n"].concat()).await;
            match &seen {
                Refused => client.answer().await.is_error(502, "upstream_error", ""),
                All(expected) => {
                    assert_eq!(client.read_head().await.0, 200, "{what}");
                    assert_eq!(rest(&mut client).await, shown(expected), "{what}");
                }
                Cut(expected) => {
                    assert_eq!(status, Some(200), "{what}");
                    let text = rest(&mut client).await;
                    assert_eq!(last_error(&text), json!("upstream_error"), "{what}");
                    let (before, _) = text.split_at(text.rfind("data: ").unwrap());
                    assert_eq!(before, shown(expected), "{what}");
                    assert!(!text.contains("secret-of-the-upstream"), "{what} {text}");
                }
            }
            drop(caller);
        }
    }
    gateway.idle().await;
}

#[tokio::test]
async fn content_and_an_error_in_the_first_piece_are_a_real_error() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
    caller.begin_stream().await;
    caller.chunk(text("a") + "data: {\"error\":{\"message\":\"x\"}}\n\n").await;
    client.answer().await.is_error(502, "upstream_error", "");
}

#[tokio::test]
async fn what_is_not_said_to_be_events_is_no_stream_however_it_reads() {
    let mut stage = Stage::open().await;
    let gateway = started(&stage).await;
    let body = [text("a"), finish(), DONE.to_owned()].concat();
    let page = "<html>secret-of-the-upstream</html>";
    for (kind, body, passes) in [
        ("application/json", body.as_str(), false),
        ("text/plain", &body, false),
        ("text/html", page, false),
        ("text/event-stream", page, false),
        ("Text/Event-Stream;charset=UTF-8", &body, true),
        ("", &body, false),
    ] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, false).await;
        let kind_line = if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") };
        caller.write(format!("HTTP/1.1 200 OK\r\n{kind_line}content-length: {}\r\n\r\n{body}", body.len())).await;
        if passes {
            assert_eq!(client.read_head().await.0, 200, "{kind}");
            assert_eq!(rest(&mut client).await, body.replace("\"up\"", "\"m\""), "{kind}");
        } else {
            client.answer().await.is_error(502, "upstream_error", "");
        }
        drop(caller);
    }
}
