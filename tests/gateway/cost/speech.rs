//! Seconds of sound that a model makes: counted while it passes, priced, and written down.

use std::net::SocketAddr;

use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use http::{HeaderMap, Method, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{priced, told};
use crate::harness::{Answer, Client, Gateway, Setup, Stage, backend, until};

const SPEECH: &str = "/v1/audio/speech";
const BODY: &str = r#"{"model":"voice","input":"Hello","voice":"alloy"}"#;

fn setup(addr: SocketAddr) -> (Setup, tempfile::NamedTempFile) {
    let mut first = backend("first", addr);
    first["domain"] = "cloud".into();
    first["protocols"] = json!(["speech"]);
    let model = json!({"alias": "voice", "type": "audio", "route": [{"backend": "first", "model": "tts"}]});
    let setup = Setup::new().backend(first).model(model);
    priced(setup, json!([{"backend": "first", "model": "tts", "second": "2"}]))
}

async fn send(client: &mut Client) {
    client.send(&Method::POST, SPEECH, &[("content-type", "application/json")], BODY.as_bytes()).await;
}

async fn spoken(content_type: &str, cost: Option<&str>, body: Vec<u8>) -> (Answer, Gateway) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    if let Some(cost) = cost {
        headers.insert("x-litellm-response-cost", cost.parse().unwrap());
    }
    let answered = Behaviour::Status { status: StatusCode::OK, headers, body: body.into() };
    let mock = MockUpstream::start(Script::always(answered).with_looks_apart()).await.unwrap();
    let (setup, _file) = setup(mock.addr());
    let gateway = setup.start().await;
    let mut client = gateway.client().await;
    send(&mut client).await;
    (client.answer().await, gateway)
}

/// Status, source, seconds, dollars and billed euros of the only call.
async fn booked(gateway: &Gateway) -> String {
    let mut found = None;
    until("the call is booked", async || {
        let connection = Connection::open(gateway.data("sqlite/gateway.sqlite")).unwrap();
        let row =
            "SELECT c.status || ' ' || c.source || ' ' || c.seconds || ' ' || c.upstream_usd || ' ' || r.billed_eur
             FROM usage_calls c JOIN usage_requests r USING (request_uid)";
        found = connection.query_row(row, [], |row| row.get::<_, String>(0)).ok();
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn generated_speech_is_priced_by_the_seconds_that_it_lasts() {
    // frames of 24 ms; samples of 16 bits; something that does not tell how long it lasts
    let mp3 = [b"\xff\xf3\x84\x00".as_slice(), &[0; 188]].concat().repeat(500);
    for (content_type, sound, expected) in [
        ("audio/mpeg", mp3, "ok computed 12 24 21.54"),
        ("audio/pcm", vec![1; 72_000], "ok computed 1.5 3 2.70"),
        ("audio/amr", vec![1; 32_001], "ok estimated 3 6 5.39"),
        ("application/octet-stream", vec![0; 1], "ok estimated 1 2 1.80"),
    ] {
        let (answer, gateway) = spoken(content_type, None, sound.clone()).await;
        assert_eq!(answer.is_ok().body, sound, "{content_type}");
        // the head left before the sound was there
        assert_eq!(told(&answer), [Some("false"), Some("unknown"), None, None, None, None], "{content_type}");
        assert_eq!(booked(&gateway).await, expected, "{content_type}");
        let cost: Value = gateway.audited("cost", 1).await.remove(0);
        let amount = expected.rsplit_once(' ').unwrap().1;
        assert_eq!((&cost["billed_eur"], &cost["available"]), (&json!(amount), &json!(true)));
        let source = expected.split(' ').nth(1).unwrap();
        let series = format!("dgx_gateway_cost_eur_total{{model=\"voice\",source=\"{source}\",tenant=\"default\"}}");
        assert_eq!(gateway.metrics().await.value(&series), amount.parse::<f64>().unwrap());
    }
}

#[tokio::test]
async fn a_reported_cost_goes_before_the_seconds_and_is_known_in_the_head() {
    let (answer, gateway) = spoken("audio/pcm", Some("0.5"), vec![1; 72_000]).await;
    assert_eq!(told(answer.is_ok())[..3], [Some("true"), Some("upstream"), Some("0.45")]);
    assert_eq!(booked(&gateway).await, "ok upstream 1.5 0.5 0.45");
}

#[tokio::test]
async fn speech_that_the_client_leaves_is_billed_as_far_as_it_came() {
    let mut stage = Stage::open().await;
    let (setup, _file) = setup(stage.addr);
    let gateway = setup.start().await;
    let mut client = gateway.client().await;
    send(&mut client).await;
    let mut caller = stage.caller().await;
    caller.write("HTTP/1.1 200 OK\r\ncontent-type: audio/pcm\r\ntransfer-encoding: chunked\r\n\r\n").await;
    caller.chunk(vec![1; 24_000]).await;
    assert_eq!(client.read_head().await.0, 200);
    let mut heard = 0;
    while heard < 24_000 {
        heard += client.raw.read_piece().await.unwrap().unwrap().len();
    }
    drop(client);
    assert_eq!(booked(&gateway).await, "aborted computed 0.5 1 0.90");
}
