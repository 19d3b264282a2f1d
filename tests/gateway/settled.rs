//! Calls that have to be on the disk are there before the last of their answer leaves, and nothing else waits.

use http::Method;
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::harness::{
    Caller, Client, Gateway, SOON, Setup, Stage, backend, chunk_of_stream, finish_of_stream, model, until,
};

const DATABASE: &str = "sqlite/gateway.sqlite";
const DONE: &str = "data: [DONE]\n\n";
/// More than the buffers of the system take between two sockets.
const LARGE: usize = 24 << 20;

fn chat(stream: bool) -> Vec<u8> {
    json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string().into_bytes()
}

fn whole(content: &str) -> String {
    json!({"id": "c", "object": "chat.completion", "created": 1, "model": "up",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}})
    .to_string()
}

/// A model `m` at a stage that speaks all dialects of text.
fn setup(stage: &Stage, domain: &str, durability: &str) -> Setup {
    let mut backend = backend("first", stage.addr);
    backend["protocols"] = json!(["chat", "completions", "messages", "responses"]);
    backend["domain"] = domain.into();
    let setup = Setup::new().backend(backend).model(model("m", &[("first", "up")]));
    setup.section("ledger", json!({"durability": durability}))
}

/// How each call stands: its status, or that it is open.
fn rows(gateway: &Gateway) -> Vec<String> {
    let database = Connection::open_with_flags(gateway.data(DATABASE), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    database.busy_timeout(SOON).unwrap();
    let mut select = database.prepare("SELECT coalesce(status, state) FROM usage_calls ORDER BY call_id").unwrap();
    select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn row(gateway: &Gateway) -> String {
    rows(gateway).pop().unwrap()
}

/// Nothing can be written to the database while this is there.
struct Locked(Connection);

impl Locked {
    fn the(gateway: &Gateway) -> Self {
        let connection = Connection::open(gateway.data(DATABASE)).unwrap();
        connection.busy_timeout(SOON).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }

    fn unlock(self) {
        self.0.execute_batch("COMMIT").unwrap();
    }
}

async fn asked(gateway: &Gateway, stage: &mut Stage, path: &str, body: &[u8]) -> (Client, Caller) {
    let mut client = gateway.client().await;
    client.send(&Method::POST, path, &[("content-type", "application/json")], body).await;
    (client, stage.caller().await)
}

/// What comes until all of `text` has.
async fn until_said(client: &mut Client, text: &str) -> String {
    let mut said = String::new();
    while !said.contains(text) {
        said.push_str(&client.piece().await.expect("the stream goes on"));
    }
    said
}

/// Path, request, and a stream in three parts: its beginning, what stands before its end, and what ends it.
fn dialects() -> [(&'static str, Vec<u8>, [String; 3]); 4] {
    let messages =
        json!({"model": "m", "stream": true, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
    let responses = json!({"model": "m", "stream": true, "input": "hi"});
    let event = |name: &str, data: serde_json::Value| format!("event: {name}\ndata: {data}\n\n");
    let first = || chunk_of_stream("up", "a");
    [
        ("/v1/chat/completions", chat(true), [first(), finish_of_stream("up"), DONE.to_owned()]),
        ("/v1/chat/completions", chat(true), [first(), finish_of_stream("up"), String::new()]),
        (
            "/v1/messages",
            messages.to_string().into_bytes(),
            [
                event(
                    "message_start",
                    json!({"type": "message_start", "message": {"id": "a", "type": "message", "role": "assistant", "model": "up", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}}}),
                ) + &event(
                    "content_block_delta",
                    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}}),
                ),
                event(
                    "message_delta",
                    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}),
                ),
                event("message_stop", json!({"type": "message_stop"})),
            ],
        ),
        (
            "/v1/responses",
            responses.to_string().into_bytes(),
            [
                event(
                    "response.output_text.delta",
                    json!({"type": "response.output_text.delta", "sequence_number": 1, "delta": "a"}),
                ),
                event(
                    "response.output_text.done",
                    json!({"type": "response.output_text.done", "sequence_number": 2, "text": "a"}),
                ),
                event(
                    "response.completed",
                    json!({"type": "response.completed", "sequence_number": 3, "response": {"id": "r", "object": "response", "model": "up", "status": "completed", "output": [], "usage": {"input_tokens": 3, "output_tokens": 1, "total_tokens": 4}}}),
                ),
            ],
        ),
    ]
}

#[tokio::test]
async fn the_end_of_a_stream_waits_for_the_account_and_no_other_event_does() {
    let mut stage = Stage::open().await;
    for (domain, durability) in [("local", "strict"), ("cloud", "auto")] {
        let gateway = setup(&stage, domain, durability).start().await;
        for (path, body, [first, before, end]) in dialects() {
            let (mut client, mut caller) = asked(&gateway, &mut stage, path, &body).await;
            caller.begin_stream().await;
            caller.chunk(&first).await;
            client.read_head().await;
            client.piece().await.unwrap();
            let locked = Locked::the(&gateway);
            caller.chunk_and_end(before.clone() + &end).await;
            let last_word = before.trim_end().replace("\"up\"", "\"m\"");
            let said = until_said(&mut client, &last_word).await;
            assert!(end.is_empty() || !said.contains(end.lines().next().unwrap()), "{path}: {said}");
            assert_eq!(row(&gateway), "reserved", "{path}");
            locked.unlock();
            let rest = client.piece().await;
            assert_eq!(rest.is_none(), end.is_empty(), "{path}: {rest:?}");
            assert_eq!(row(&gateway), "ok", "{path}: its end has just left");
        }
    }
}

#[tokio::test]
async fn a_whole_answer_and_an_error_wait_for_the_account() {
    let mut stage = Stage::open().await;
    let gateway = setup(&stage, "cloud", "auto").start().await;
    for (status, row_says) in [(200, "ok"), (502, "failed")] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(false)).await;
        let locked = Locked::the(&gateway);
        if status == 200 {
            caller.answer(&whole("hi")).await;
        } else {
            caller.write("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await;
        }
        // what is not waited for is here by now
        gateway.client().await.get("/healthz").await.is_ok();
        assert_eq!(row(&gateway), "reserved");
        let (answer, ()) = tokio::join!(client.answer(), async {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            locked.unlock();
        });
        assert_eq!((answer.status, row(&gateway)), (status, row_says.to_owned()));
    }
}

#[tokio::test]
async fn an_error_inside_a_stream_waits_for_the_account_and_is_aborted_there() {
    let mut stage = Stage::open().await;
    let gateway = setup(&stage, "cloud", "auto").start().await;
    for says_so in [true, false] {
        let (mut client, mut caller) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(true)).await;
        caller.begin_stream().await;
        caller.chunk(chunk_of_stream("up", "a")).await;
        client.read_head().await;
        client.piece().await.unwrap();
        let locked = Locked::the(&gateway);
        let last = chunk_of_stream("up", "b");
        if says_so {
            caller.chunk(last + "data: {\"error\":{\"message\":\"x\"}}\n\n").await;
        } else {
            caller.chunk(last).await;
            drop(caller);
        }
        let said = until_said(&mut client, "\"b\"").await;
        assert!(!said.contains("\"error\""), "{said}");
        assert_eq!(row(&gateway), "reserved");
        locked.unlock();
        until_said(&mut client, "\"error\"").await;
        assert_eq!(row(&gateway), "aborted");
    }
}

#[tokio::test]
async fn without_a_disk_that_answers_the_end_leaves_all_the_same_and_the_row_follows() {
    let mut stage = Stage::open().await;
    let gateway = setup(&stage, "local", "strict").start().await;
    let (mut client, mut caller) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(true)).await;
    let (mut other, mut answering) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(false)).await;
    let locked = Locked::the(&gateway);
    caller.begin_stream().await;
    caller.chunk_and_end(chunk_of_stream("up", "a") + &finish_of_stream("up") + DONE).await;
    answering.answer(&whole("hi")).await;
    client.read_head().await;
    until_said(&mut client, DONE).await;
    other.answer().await.is_ok();
    assert_eq!(rows(&gateway), ["reserved", "reserved"]);
    locked.unlock();
    until("the rows are settled", async || rows(&gateway) == ["ok", "ok"]).await;
}

#[tokio::test]
async fn rows_that_do_not_wait_hold_nothing_up() {
    let mut stage = Stage::open().await;
    for (domain, durability) in [("local", "auto"), ("cloud", "relaxed")] {
        let gateway = setup(&stage, domain, durability).start().await;
        let (mut client, mut caller) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(true)).await;
        caller.begin_stream().await;
        caller.chunk(chunk_of_stream("up", "a")).await;
        client.read_head().await;
        client.piece().await.unwrap();
        let locked = Locked::the(&gateway);
        caller.chunk_and_end(finish_of_stream("up") + DONE).await;
        let said = until_said(&mut client, "\"stop\"").await;
        assert!(said.ends_with(DONE), "it leaves with what stands before it: {said}");
        locked.unlock();
    }
}

#[tokio::test]
async fn a_client_that_closes_at_the_end_of_its_stream_was_answered() {
    let mut stage = Stage::open().await;
    for durability in ["strict", "relaxed"] {
        let gateway = setup(&stage, "local", durability).start().await;
        let mut settled = 0;
        for (path, body, [first, before, end]) in dialects().into_iter().filter(|(_, _, parts)| !parts[2].is_empty()) {
            let (mut client, mut caller) = asked(&gateway, &mut stage, path, &body).await;
            caller.begin_stream().await;
            caller.chunk(first + &before + &end).await; // its body has no end yet
            client.read_head().await;
            until_said(&mut client, &end.replace("\"up\"", "\"m\"")).await;
            drop(client);
            caller.gone(std::time::Instant::now()).await;
            gateway.idle().await;
            settled += 1;
            let all = |status: &str| rows(&gateway).iter().filter(|row| *row == status).count();
            until("the row is settled", async || all("ok") + all("aborted") == settled).await;
            assert_eq!(all("ok"), settled, "{path}");
        }
        let answered = |line: &&str| line.contains("\"http.method\":\"POST\"") && line.contains("\"answered\"");
        until("the log says so", async || gateway.log().lines().filter(answered).count() == settled).await;
        assert!(!gateway.log().contains("client_left"), "{}", gateway.log());
    }
}

/// The end of the answer is larger than what fits between the sockets, and its client reads nothing: the row is on the
/// disk, and the last byte is not on its way.
#[tokio::test]
async fn a_kill_between_the_row_and_the_last_byte_leaves_the_call_as_answered() {
    let mut stage = Stage::open().await;
    for stream in [false, true] {
        let mut gateway = setup(&stage, "local", "strict").start().await;
        let text = "x".repeat(LARGE);
        let mut client = if stream {
            let [.., (path, body, [first, before, end])] = dialects();
            let (client, mut caller) = asked(&gateway, &mut stage, path, &body).await;
            caller.begin_stream().await;
            caller.chunk(first + &before).await;
            caller.chunk_and_end(end.replace("\"output\":[]", &format!("\"output\":[\"{text}\"]"))).await;
            client
        } else {
            let (client, mut caller) = asked(&gateway, &mut stage, "/v1/chat/completions", &chat(false)).await;
            caller.answer(&whole(&text)).await;
            client
        };
        until("the row is settled", async || row(&gateway) == "ok").await;
        gateway.killed_and_started_again().await;
        let mut cut = client.raw.read_head().await.is_err(); // a reset may overtake what was sent
        while !cut {
            match client.raw.read_piece().await {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => cut = true,
            }
        }
        assert!(cut, "stream {stream}: the last byte had left");
        assert_eq!(rows(&gateway), ["ok"], "stream {stream}");
    }
}
