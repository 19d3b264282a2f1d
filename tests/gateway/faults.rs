//! The closing table of faults: what an upstream or a client does wrong, what the client sees of it, what the upstream
//! sees, and what the ledger says. docs/RELIABILITY.md shows it; each row there names one here.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{
    BEARER, Caller, Client, Gateway, SOON, Setup, Stage, backend, chunk_of_stream, finish_of_stream, model, soon, until,
};

const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n";
const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";
/// After this time a connection to an upstream counts as kept for another request.
const KEPT: Duration = Duration::from_millis(1500);
const DONE: &str = "data: [DONE]\n\n";
const WHOLE: &str = r#"{"id":"c","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#;

/// What an upstream does after its request.
enum Step {
    /// Sends this.
    Send(String),
    /// Sends these bytes.
    Bytes(Vec<u8>),
    /// Sends a megabyte of nothing, so many times.
    Flood(usize),
    /// Waits until the client has seen something.
    Seen,
    /// Ends the connection.
    End,
    /// Ends it with a reset.
    Reset,
    /// Sends on, whatever happens, until it is cut off.
    GoOn,
}

use Step::{Bytes, End, Flood, GoOn, Reset, Seen, Send};

/// What a client does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Reads to the end.
    Reads,
    /// Leaves inside its request.
    LeavesInside,
    /// Leaves once the upstream has its request.
    LeavesWaiting,
    /// Leaves once the head of the answer has come.
    LeavesAtHead,
    /// Leaves once something of the answer has come.
    LeavesLater,
    /// Closes its sending side.
    HalfCloses,
    /// Reads nothing until all of the answer could have come.
    ReadsLate,
}

use Does::{HalfCloses, LeavesAtHead, LeavesInside, LeavesLater, LeavesWaiting, Reads, ReadsLate};

/// Name, whether a stream is asked for, what the upstream and the client do; what the client sees, what the upstream
/// sees, and the row: status, source, tokens in and out.
struct Row {
    name: &'static str,
    stream: bool,
    steps: Vec<Step>,
    does: Does,
    seen: &'static str,
    upstream: &'static str,
    ledger: &'static str,
}

fn row(
    name: &'static str,
    stream: bool,
    steps: Vec<Step>,
    does: Does,
    [seen, upstream, ledger]: [&'static str; 3],
) -> Row {
    Row { name, stream, steps, does, seen, upstream, ledger }
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The head of a stream and an event with eight letters.
fn begun() -> Step {
    Send(format!("{SSE}{CHUNKED}{}", chunk(&chunk_of_stream("up", "abcdefgh"))))
}

fn event(text: &str) -> Step {
    Send(chunk(text))
}

fn answer(status: &str, body: &str) -> Step {
    Send(format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
}

/// A gateway whose only backend is in the cloud, and has a price.
async fn started(base_url: String, prices: &tempfile::TempDir, early: bool) -> Gateway {
    let file = prices.path().join("pricing.yaml");
    std::fs::write(
        &file,
        json!({"version": 1, "entries": [{"backend": "*", "model": "*", "input": "1", "output": "1"}]}).to_string(),
    )
    .unwrap();
    let mut first = backend("first", ([127, 0, 0, 1], 9).into());
    first["domain"] = "cloud".into();
    first["base_url"] = base_url.into();
    first["first_byte_timeout_seconds"] = 2.into();
    let mut setup = Setup::new()
        .backend(first)
        .model(model("m", &[("first", "up")]))
        .server("total_timeout_seconds", 3)
        .stream("idle_timeout_seconds", 1)
        .section("pricing_file", file.to_str().unwrap())
        .log("info");
    if early {
        setup = setup.stream("commit_after_seconds", 1);
    }
    setup.start().await
}

/// Plays the upstream; says how it ended there.
async fn play(caller: Caller, steps: Vec<Step>, mut seen: tokio::sync::oneshot::Receiver<()>) -> &'static str {
    let mut caller = Some(caller);
    for step in steps {
        let Some(upstream) = &mut caller else { break };
        match step {
            Send(text) => upstream.write(text).await,
            Bytes(bytes) => upstream.write(bytes).await,
            Flood(times) => {
                let piece = chunk(&"y".repeat(1 << 20));
                let mut left = times;
                while left > 0 && upstream.try_write(&piece).await {
                    left -= 1;
                }
            }
            Seen => drop(soon("the client sees something", &mut seen).await),
            End => return "ended it",
            Reset => {
                if let Some(upstream) = caller.take() {
                    upstream.reset();
                }
                return "ended it";
            }
            GoOn => {
                let piece = chunk(&chunk_of_stream("up", "abcdefgh"));
                while upstream.try_write(&piece).await {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                return "closed";
            }
        }
    }
    let Some(caller) = caller else { return "ended it" };
    let (mut reading, _writing) = caller.split();
    drop(reading.read_to_end(&mut Vec::new()).await); // an end or a reset
    "closed"
}

/// What a client that reads to the end sees: status, code of an error, how it ended.
async fn read(client: &mut Client, told: &mut Option<tokio::sync::oneshot::Sender<()>>) -> String {
    let Ok((status, _)) = client.raw.read_head().await else { return "closed".to_owned() };
    told.take().map(|told| told.send(()));
    let mut body = Vec::new();
    let end = loop {
        match client.raw.read_piece().await {
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => break "",
            Err(_) => break " cut",
        }
    };
    let text = String::from_utf8_lossy(&body);
    let code = text
        .split_once("\"error\":{")
        .and_then(|(_, rest)| rest.split_once("\"code\":\"")?.1.split_once('"').map(|(code, _)| format!(" {code}")));
    let done = if text.ends_with(DONE) { " to its end" } else { "" };
    format!("{}{}{done}{end}", status.as_u16(), code.unwrap_or_default())
}

async fn act(client: &mut Option<Client>, does: Does, told: tokio::sync::oneshot::Sender<()>) -> String {
    let mut told = Some(told);
    let Some(reading) = client else { return String::new() };
    match does {
        Reads => soon("the answer", read(reading, &mut told)).await,
        ReadsLate => {
            told.take().map(|told| told.send(()));
            tokio::time::sleep(Duration::from_millis(500)).await;
            soon("the answer", read(reading, &mut told)).await
        }
        LeavesAtHead | LeavesLater => {
            soon("the head", reading.raw.read_head()).await.unwrap();
            if does == LeavesLater {
                soon("a piece", reading.raw.read_piece()).await.unwrap();
            }
            told.take().map(|told| told.send(()));
            *client = None;
            "left".to_owned()
        }
        // the other two are played apart
        LeavesWaiting | LeavesInside | HalfCloses => {
            *client = None;
            "left".to_owned()
        }
    }
}

/// The only row since the last one.
async fn booked(gateway: &Gateway, known: &mut usize) -> String {
    let database = rusqlite::Connection::open(gateway.data("sqlite/gateway.sqlite")).unwrap();
    database.busy_timeout(SOON).unwrap();
    let rows = || -> Vec<String> {
        let mut select = database
            .prepare("SELECT CASE state WHEN 'settled' THEN status || ' ' || source || ' ' || prompt_tokens || ' ' || completion_tokens ELSE state END FROM usage_calls ORDER BY call_id")
            .unwrap();
        select.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    until("all rows are settled", async || !rows().contains(&"reserved".to_owned())).await;
    let mut new = rows().split_off(*known);
    *known += new.len();
    assert!(new.len() < 2, "{new:?}");
    new.pop().unwrap_or("none".to_owned())
}

async fn check(rows: Vec<Row>, early: bool) {
    let prices = tempfile::tempdir().unwrap();
    let mut stage = Stage::open().await;
    let gateway = started(format!("http://{}/v1", stage.addr), &prices, early).await;
    let mut known = 0;
    let mut wrong = Vec::new();
    for Row { name, stream, steps, does, seen, upstream, ledger } in rows {
        let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}).to_string();
        let got = if does == HalfCloses {
            half_closes(&gateway, &mut stage, &body).await
        } else {
            let mut client = gateway.client().await;
            if does == LeavesInside {
                let length = body.len().to_string();
                client.chat_head(&[("content-length", &length)]).await;
                client.raw.send(&body.as_bytes()[1..]).await.unwrap();
                let running = async || gateway.metrics().await.sum("dgx_gateway_http_in_flight") == 1.0;
                until("the request runs", running).await;
                drop(client);
                ("left".to_owned(), "nothing")
            } else {
                client.send_chat(&body).await;
                let caller = stage.caller().await;
                let (told, learns) = tokio::sync::oneshot::channel();
                let mut client = Some(client);
                let mut playing = tokio::spawn(play(caller, steps, learns));
                let saw = act(&mut client, does, told).await;
                let ended = tokio::time::timeout(KEPT, &mut playing).await.map_or("kept", Result::unwrap);
                playing.abort();
                (saw, ended)
            }
        };
        gateway.idle().await;
        let got = (got.0, got.1, booked(&gateway, &mut known).await);
        println!("| {name} | {} | {} | {} |", got.0, got.1, got.2);
        // how much of what goes on is received before the client is seen to be gone is left to chance
        let fits =
            ledger == got.2 || ledger == SOME && got.2.starts_with("aborted estimated 5 ") && !got.2.ends_with(" 0");
        if !fits || got.0 != seen || got.1 != upstream {
            wrong.push(format!("{name}: {got:?}, expected {:?}", (seen, upstream, ledger)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn half_closes(gateway: &Gateway, stage: &mut Stage, body: &str) -> (String, &'static str) {
    let mut client = tokio::net::TcpStream::connect(gateway.addr).await.unwrap();
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {BEARER}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let caller = stage.caller().await;
    client.shutdown().await.unwrap();
    caller.gone(std::time::Instant::now()).await;
    let mut answer = Vec::new();
    soon("the end", client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.is_empty());
    ("closed".to_owned(), "closed")
}

const FAILED: &str = "failed zero 0 0";
/// Prompt and eight letters, estimated.
const TWO: &str = "aborted estimated 5 2";
/// Eight letters or some more.
const SOME: &str = "aborted estimated 5 2..";
const ERROR: &str = "502 upstream_error";

#[tokio::test]
async fn before_an_answer() {
    let sized = |length: usize| Send(format!("{JSON}content-length: {length}\r\n\r\n{WHOLE}"));
    let quota = "{\"error\":{\"message\":\"quota\",\"code\":\"insufficient_quota\"}}";
    let unknown = "{\"error\":{\"message\":\"The model `up` does not exist.\",\"code\":\"model_not_found\"}}";
    let rows = |stream: bool, late: &'static str| {
        vec![
            row("5xx", stream, vec![answer("500 No", "{}")], Reads, [ERROR, "closed", FAILED]),
            row("429", stream, vec![answer("429 No", quota)], Reads, ["429 model_quota_exhausted", "closed", FAILED]),
            row("unknown model", stream, vec![answer("404 No", unknown)], Reads, [ERROR, "closed", FAILED]),
            row("reset", stream, vec![Reset], Reads, [ERROR, "ended it", FAILED]),
            row("end", stream, vec![End], Reads, [ERROR, "ended it", FAILED]),
            row(late, stream, vec![], Reads, ["504 upstream_timeout", "closed", FAILED]),
            row("short length", stream, vec![sized(WHOLE.len() - 5)], Reads, [ERROR, "closed", FAILED]),
            row("long length", stream, vec![sized(WHOLE.len() + 5), End], Reads, [ERROR, "ended it", FAILED]),
            row(
                "chunk lie",
                stream,
                vec![Send(format!("{JSON}{CHUNKED}zz\r\n{WHOLE}\r\n"))],
                Reads,
                [ERROR, "closed", FAILED],
            ),
            row("leaves inside its request", stream, vec![], LeavesInside, ["left", "nothing", "none"]),
            row("leaves waiting", stream, vec![], LeavesWaiting, ["left", "closed", "aborted estimated 5 0"]),
            row("half-closes", stream, vec![], HalfCloses, ["closed", "closed", "aborted estimated 5 0"]),
        ]
    };
    check(rows(false, "silence: total time"), false).await;
    check(rows(true, "silence: first byte"), false).await;
}

#[tokio::test]
async fn nothing_to_speak_to() {
    let prices = tempfile::tempdir().unwrap();
    let stage = Stage::open().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (name, url) in [("connect", format!("http://{nobody}/v1")), ("TLS", format!("https://{}/v1", stage.addr))] {
        let gateway = started(url, &prices, false).await;
        let mut known = 0;
        for stream in [false, true] {
            let body = json!({"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]});
            let answer = gateway.chat(body.to_string()).await;
            answer.is_error(503, "upstream_unavailable", "");
            assert_eq!(booked(&gateway, &mut known).await, FAILED, "{name}");
        }
    }
}

#[tokio::test]
async fn inside_a_whole_answer() {
    let gzip = || {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(WHOLE.as_bytes()).unwrap();
        let body = encoder.finish().unwrap();
        let head = format!("{JSON}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", body.len());
        Bytes([head.as_bytes(), &body].concat())
    };
    let half = || Send(format!("{JSON}content-length: {}\r\n\r\n{}", WHOLE.len(), WHOLE.split_at(40).0));
    check(
        vec![
            row("an answer", false, vec![answer("200 OK", WHOLE)], Reads, ["200", "kept", "ok computed 3 5"]),
            row("gzip unasked", false, vec![gzip()], Reads, ["200", "kept", "ok computed 3 5"]),
            row("breaks off", false, vec![half(), Reset], Reads, [ERROR, "ended it", FAILED]),
            row("stands still", false, vec![half()], Reads, ["504 upstream_timeout", "closed", FAILED]),
            row("leaves inside it", false, vec![half()], LeavesWaiting, ["left", "closed", "aborted estimated 5 0"]),
            row("no JSON", false, vec![answer("200 OK", "<html>")], Reads, [ERROR, "closed", FAILED]),
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn inside_a_stream() {
    let usage = chunk(
        "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"up\",\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":5,\"total_tokens\":8}}\n\n",
    );
    let finish = || event(&finish_of_stream("up"));
    let said = || event("data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n");
    let done = || Send(format!("{}0\r\n\r\n", chunk(DONE)));
    let cut = |upstream| ["200 upstream_error", upstream, TWO];
    check(
        vec![
            row(
                "a stream",
                true,
                vec![begun(), finish(), Send(usage.clone()), done()],
                Reads,
                ["200 to its end", "kept", "ok computed 3 5"],
            ),
            row(
                "a stream without usage",
                true,
                vec![begun(), finish(), done()],
                Reads,
                ["200 to its end", "kept", "ok estimated 5 2"],
            ),
            row(
                "reads late",
                true,
                vec![begun(), finish(), Send(usage.clone()), done()],
                ReadsLate,
                ["200 to its end", "kept", "ok computed 3 5"],
            ),
            row("breaks off", true, vec![begun(), Seen, Reset], Reads, cut("ended it")),
            row("ends without a finish", true, vec![begun(), Seen, Send("0\r\n\r\n".into())], Reads, cut("closed")),
            row("error event", true, vec![begun(), Seen, said()], Reads, cut("closed")),
            row(
                "error event behind usage",
                true,
                vec![begun(), Seen, Send(usage.clone()), said()],
                Reads,
                ["200 upstream_error", "closed", "aborted computed 3 5"],
            ),
            row("chunk lie", true, vec![begun(), Seen, Send("zz\r\n".into())], Reads, cut("closed")),
            row("no event ends", true, vec![begun(), Seen, Flood(100)], Reads, cut("closed")),
            row("stands still: idle time", true, vec![begun()], Reads, ["200 upstream_timeout", "closed", TWO]),
            row(
                "breaks off behind its finish",
                true,
                vec![begun(), finish(), Seen, Reset],
                Reads,
                ["200", "ended it", "ok estimated 5 2"],
            ),
            row(
                "error event behind its finish",
                true,
                vec![begun(), finish(), said(), done()],
                Reads,
                ["200 to its end", "kept", "ok estimated 5 2"],
            ),
            row(
                "error event before content",
                true,
                vec![Send(format!("{SSE}{CHUNKED}")), said()],
                Reads,
                [ERROR, "closed", FAILED],
            ),
            row(
                "no event ends, before content",
                true,
                vec![Send(format!("{SSE}{CHUNKED}")), Flood(100)],
                Reads,
                [ERROR, "closed", FAILED],
            ),
            row(
                "leaves before content",
                true,
                vec![Send(format!("{SSE}{CHUNKED}"))],
                LeavesWaiting,
                ["left", "closed", "aborted estimated 5 0"],
            ),
            row("leaves inside", true, vec![begun()], LeavesLater, ["left", "closed", TWO]),
            row("leaves, upstream goes on", true, vec![begun(), Seen, GoOn], LeavesLater, ["left", "closed", SOME]),
        ],
        false,
    )
    .await;
}

#[tokio::test]
async fn behind_a_head_that_left_early() {
    let opened = || Send(format!("{SSE}{CHUNKED}"));
    let said = || event("data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n");
    let last = || Send("0\r\n\r\n".to_owned());
    check(
        vec![
            row(
                "a stream",
                true,
                vec![Seen, begun(), event(&finish_of_stream("up")), event(DONE), last()],
                Reads,
                ["200 to its end", "kept", "ok estimated 5 2"],
            ),
            row("5xx", true, vec![Seen, answer("500 No", "{}")], Reads, ["200 upstream_error", "closed", FAILED]),
            row("reset", true, vec![Seen, Reset], Reads, ["200 upstream_error", "ended it", FAILED]),
            row("silence: first byte", true, vec![], Reads, ["200 upstream_timeout", "closed", FAILED]),
            row(
                "error event before content",
                true,
                vec![Seen, opened(), said()],
                Reads,
                ["200 upstream_error", "closed", FAILED],
            ),
            row(
                "ends without a finish",
                true,
                vec![Seen, begun(), last()],
                Reads,
                ["200 upstream_error", "closed", TWO],
            ),
            row("leaves", true, vec![], LeavesAtHead, ["left", "closed", "aborted estimated 5 0"]),
        ],
        true,
    )
    .await;
}
