//! http.md 13: what an upstream says about itself reaches no client, no log of everyday and no metric.

use std::net::SocketAddr;

use dgx_gateway_testkit::client::RawClient;
use dgx_gateway_testkit::mock::{MockUpstream, Script};
use http::Method;
use serde_json::{Value, json};

use super::{Ask, CHAT, Findings, MESSAGES, RESPONSES, error, least, speaks_all, status, typed, with_type};
use crate::harness::{Answer, BACKEND_KEY, Gateway, Setup, Stage, soon};

/// The id of the backend, which callers know as `local-1`.
const BACKEND: &str = "secretbox";
/// What the backend calls the model.
const UPSTREAM: &str = "acme-internal/llama-99-awq";

/// Hosts, each with a name that a backend could tell.
const HOSTS: [&str; 6] = [
    "gpu-a.internal",
    "gpu-a.internal:8000",
    "node7.rack2.example.com",
    "model-server.default.svc.cluster.local",
    "API.Provider.AI:443",
    "localhost:11434",
];
const KEYS: [&str; 12] = [
    "sk-abcdefgh12345678",
    "sk-proj-AbCdEfGh_12345678",
    "sk_live_abcdefgh1234",
    "pk-abcdefgh1234",
    "rk-abcdefgh1234",
    "gsk_abcdefgh1234",
    "hf_abcdefgh1234",
    "nvapi-abcdefgh1234",
    "xai-abcdefgh1234",
    "AIzaabcdefgh1234",
    "Bearer abc.def-ghi",
    "0123456789abcdef0123456789abcdef",
];
const ADDRESSES: [&str; 6] =
    ["10.0.0.11", "10.0.0.11:8000", "192.168.178.20:443", "[fd00::17]:8000", "2001:db8::8a2e:370:7334", "172.16.5.4"];
const PROVIDERS: [&str; 19] = [
    "OpenAI",
    "anthropic",
    "Google",
    "AZURE",
    "bedrock",
    "Vertex",
    "xAI",
    "OpenRouter",
    "ollama",
    "NVIDIA",
    "nim",
    "LiteLLM",
    "vLLM",
    "groq",
    "Together AI",
    "fireworks",
    "Cohere",
    "Mistral AI",
    "Hugging Face",
];

/// Bodies as providers write them. `H`, `K`, `A`, `P` in angles become a host, a key, an address, a provider; `M` and `B`
/// the names of the model and of the backend.
const BODIES: [&str; 26] = [
    r#"{"error":{"message":"litellm.BadRequestError: OpenAIException - Invalid schema, see https://<H>/v1 key <K>","type":null,"param":null,"code":"400"}}"#,
    r#"{"error":{"message":"Connection to <A> refused by <H>","type":"server_error"}}"#,
    r#"{"error":{"message":"Incorrect API key provided: <K>. You can find your API key at https://<H>/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
    r#"{"object":"error","message":"The model `<M>` does not exist at <H>.","type":"NotFoundError","param":null,"code":404}"#,
    r#"{"type":"error","error":{"type":"invalid_request_error","message":"<P>: messages.0: bad content for <M>"},"request_id":"req_<K>"}"#,
    r#"{"detail":"<P> worker <B> on <A> said: no"}"#,
    r#"{"detail":[{"loc":["body","messages"],"msg":"bad at <H>","input":"<K>"}]}"#,
    r#"{"error":"model <M> not found, try pulling it from <H> first"}"#,
    r#"{"error":{"code":400,"message":"Provider returned error","metadata":{"raw":"{\"error\":\"<K> at <H>\"}","provider_name":"<P>"}}}"#,
    r#"{"error":{"code":400,"message":"API key <K> not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type","domain":"<H>"}]}}"#,
    r#"[{"error":{"code":400,"message":"bad <K> from <A>","status":"X"}}]"#,
    r#"{"message":"upstream connect error or disconnect/reset before headers. reset reason: connection failure, transport failure: <A> (<H>)"}"#,
    "<html><head><title>502</title></head><body>nginx at <H> (<A>), backend <B>, key <K></body></html>",
    "Traceback (most recent call last):\n  File \"/srv/app.py\", line 1\nhttpx.ConnectError: All attempts to <H> (<A>) failed with <K>",
    "<H> <A> <K> <P> <M> <B>",
    r#"{"error":{"message":"AuthenticationError: <P>Exception - <K>\n\tat <A>\r\nvia <H>","code":null}}"#,
    r#"{"error":{"message":"Deployment <M> on ws://<H>/socket and grpc://<A>/x failed: authorization=<K>"}}"#,
    r#"{"error":{"message":"'<K>' (\"<H>\") [<A>] {<P>} <M>, <B>; <K>.","type":"<P>_error","param":"<M>","code":"<K>"}}"#,
    r#"{"error":{"message":"max retries exceeded with url: http://<H>/v1/chat/completions?key=<K>&host=<A> (Caused by <P>Error(<M>))"}}"#,
    r#"{"error":{"message":"{\"error\":{\"message\":\"nested <K> at <H>\",\"model\":\"<M>\"}}"}}"#,
    r#"{"message":"Rate limit reached for <M> in organization org-<K> on tokens per min. Visit https://<H>/rate-limits"}"#,
    r#"[{"error":{"message":"bad\n<K>\n<H>\n<A>\n<P>\n<M>\n<B>"}}]"#,
    r#"{"detail":[{"msg":"bad\t<K>\r\n<H>\t<A>\n<P>\r<M>\n<B>"}]}"#,
    r#"{"error":{"message":"{\"detail\":\"bad\\n<K>\\n<H>\\n<A>\\n<P>\\n<B>\"}"}}"#,
    r#"{"error":{"message":"\u001b[31m<K>\u001b[0m \u001b[1;4m<P>\u001b[m \u001b[2K<H>\u001b[0m \u001b[31m<A> \u001b[0m<B>"}}"#,
    r#"{"error":{"message":"  The   backend <B>\u0000 \u001b[31m<P>\u001b[0m at <A>   refused  "}}"#,
];

fn setup(addr: SocketAddr) -> Setup {
    let mut backend = speaks_all(BACKEND, addr);
    backend["label"] = json!("local-1");
    Setup::new().backend(backend).model(typed("m", "chat", &[(BACKEND, UPSTREAM)])).log("info")
}

async fn started() -> (Gateway, MockUpstream) {
    let mock = MockUpstream::start(Script::default().with_looks_apart()).await.unwrap();
    (setup(mock.addr()).start().await, mock)
}

async fn asked(gateway: &Gateway, path: &str, stream: bool) -> Answer {
    let mut body = least(path, "m");
    body["stream"] = json!(stream);
    Ask::post(path, body.to_string()).of(gateway.addr).await
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_examples_of_the_contract() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let long = "word ".repeat(200);
    let cut = format!("{}…", long.get(..511).unwrap());
    for (raw, expected) in [
        (
            "litellm.BadRequestError: OpenAIException - Invalid schema, see https://api.example.com/v1 key sk-abcdefghijkl",
            "Invalid schema, see [url] key [secret]",
        ),
        ("Connection to 10.0.0.11:8000 refused by gpu-a.internal", "Connection to [address] refused by [host]"),
        (
            "vLLM: This model's maximum context length is 4096 tokens.",
            "upstream: This model's maximum context length is 4096 tokens.",
        ),
        // the steps, one by one
        ("tools.0.function.name is missing", "tools.0.function.name is missing"),
        (&*format!("no {UPSTREAM} here"), "no m here"),
        ("a.b.FooError: x.BarException - ValueError: what", "what"),
        ("line\none\ttwo\u{7}three   four", "line one two three four"),
        ("", "The upstream refused the request."),
        ("  \n ", "The upstream refused the request."),
        ("together ai and Mistral AI at hugging face", "upstream and upstream at upstream"),
        ("openaigate and groqs are no names", "openaigate and groqs are no names"),
        (&*format!("backend {BACKEND} down"), "backend upstream down"),
        ("ftp://u:p@h/x and s3://bucket/key", "[url] and [url]"),
        ("sk-short and sk-1234567", "sk-short and sk-1234567"),
        ("version 1.2.3 of 4.5", "version 1.2.3 of 4.5"),
        (&*long, &*cut),
    ] {
        for code in [400, 422] {
            mock.push(error(code, raw));
            let answer = asked(&gateway, CHAT, false).await;
            findings.equal(&format!("{code} {raw:?}"), message(&answer), expected);
        }
    }
    // where the text stands
    for (body, expected) in [
        (r#"{"error":{"message":"one"},"message":"two","detail":"three"}"#, "one"),
        (r#"{"message":"two","detail":"three"}"#, "two"),
        (r#"{"detail":"three"}"#, "three"),
        ("plain words", "plain words"),
    ] {
        mock.push(with_type(400, "text/plain", body));
        findings.equal(body, message(&asked(&gateway, CHAT, false).await), expected);
    }
    findings.none();
}

/// Whether a text holds something that only an upstream knows.
fn leaks(text: &str, filled: &[&str]) -> Option<String> {
    let lower = text.to_lowercase();
    let words = || lower.split(|letter: char| !letter.is_ascii_alphanumeric());
    let provider = PROVIDERS.iter().find(|name| {
        let name = name.to_lowercase();
        if name.contains(' ') { lower.contains(&name) } else { words().any(|word| word == name) }
    });
    let canaries = filled.iter().copied().chain([UPSTREAM, "llama-99-awq", BACKEND_KEY]);
    let secret = canaries.into_iter().find(|secret| lower.contains(&secret.to_lowercase()));
    secret.or_else(|| provider.copied()).map(str::to_owned)
}

#[tokio::test]
async fn nothing_that_an_upstream_tells_about_itself_gets_out() {
    let (gateway, mock) = started().await;
    let mut findings = Findings::default();
    let mut all: Vec<&str> = vec![];
    for round in 0..12 {
        let (host, key) = (HOSTS[round % HOSTS.len()], KEYS[round % KEYS.len()]);
        let address = ADDRESSES[(round + round / 6) % ADDRESSES.len()];
        all.extend([host, key, address]);
        for (index, body) in BODIES.iter().enumerate() {
            let provider = PROVIDERS[(round * BODIES.len() + index) % PROVIDERS.len()];
            // a class has no space in its name
            let class = provider.replace(' ', "");
            let body = body.replace("<P>Ex", &format!("{class}Ex")).replace("<P>Er", &format!("{class}Er"));
            let filled =
                [("<H>", host), ("<K>", key), ("<A>", address), ("<P>", provider), ("<M>", UPSTREAM), ("<B>", BACKEND)]
                    .iter()
                    .fold(body, |text, (mark, value)| text.replace(mark, value));
            // every status on every body, and every dialect, in the end
            let code = [400, 422, 500, 401, 403, 404, 409, 429, 503, 200][(round + index) % 10];
            let path = [CHAT, RESPONSES, MESSAGES][(round + index) % 3];
            mock.push(status(code, filled.clone()));
            let answer = asked(&gateway, path, round % 2 == 1).await;
            let what = format!("{path} {code} {filled}");
            findings.equal(&what, answer.status >= 400, true);
            findings.equal(&what, message(&answer).chars().count() <= 512, true);
            let mut shown = answer.headers.clone();
            for name in ["x-request-id", "spass-request-id", "request-id", "date"] {
                shown.remove(name);
            }
            let mut body: Value = answer.json();
            body.as_object_mut().unwrap().remove("request_id");
            let text = format!("{body} {shown:?}");
            let backend = text.contains(BACKEND).then_some(BACKEND);
            findings.equal(&what, leaks(&text, &[host, key, address]).map(|leak| (leak, text.clone())), None);
            findings.equal(&what, backend, None);
        }
    }
    gateway.idle().await;
    let mut admin = RawClient::connect(gateway.admin).await.unwrap();
    admin.send_head(&Method::GET, "/metrics", &[]).await.unwrap();
    let metrics = admin.read_response().await.unwrap().text();
    let log = gateway.log();
    findings.equal("lines of the log", log.lines().count() > 0, true);
    for secret in all.into_iter().filter(|secret| !secret.starts_with("localhost")).chain([UPSTREAM, BACKEND_KEY]) {
        findings.equal("the metrics", metrics.contains(secret).then_some(secret), None);
        findings.equal("the log", log.lines().find(|line| line.contains(secret)), None);
    }
    findings.none();
}

fn event(name: &str, data: &Value) -> String {
    let name = if name.is_empty() { String::new() } else { format!("event: {name}\n") };
    format!("{name}data: {data}\n\n")
}

/// What stands before the failure, per dialect.
fn begun(path: &str) -> String {
    match path {
        MESSAGES => {
            let message = json!({"id": "m", "type": "message", "role": "assistant", "model": UPSTREAM, "content": [],
                "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 1, "output_tokens": 1}});
            let delta = json!({"type": "text_delta", "text": "hi"});
            event("message_start", &json!({"type": "message_start", "message": message}))
                + &event("content_block_delta", &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
        }
        RESPONSES => {
            let response =
                json!({"id": "r", "object": "response", "model": UPSTREAM, "status": "in_progress", "output": []});
            let created = json!({"type": "response.created", "sequence_number": 0, "response": response});
            let delta = json!({"type": "response.output_text.delta", "sequence_number": 1, "delta": "hi",
                "item_id": "i", "output_index": 0, "content_index": 0});
            event("response.created", &created) + &event("response.output_text.delta", &delta)
        }
        _ => crate::harness::chunk_of_stream(UPSTREAM, "hi"),
    }
}

/// Whatever comes in place of an event after the first words, in any dialect.
#[tokio::test]
async fn no_kind_of_failure_inside_a_stream_gives_the_upstream_away() {
    let mut stage = Stage::open().await;
    let gateway = setup(stage.addr).start().await;
    let mut findings = Findings::default();
    let (host, key, address) = ("gpu-a.internal", "sk-abcdefgh12345678", "10.0.0.11:8000");
    let text = format!("vLLM at {host} ({address}) refused {key} for {UPSTREAM} on {BACKEND}");
    let failed = json!({"id": "r", "object": "response", "model": UPSTREAM, "status": "failed", "output": [],
        "error": {"code": "server_error", "message": text}});
    let endings = [
        event("", &json!({"error": {"message": text, "code": 500}})),
        event("", &json!({"error": text})),
        event("error", &json!({"message": text})),
        event("error", &json!({"type": "error", "error": {"type": "overloaded_error", "message": text}})),
        event("error", &json!({"type": "error", "code": key, "message": text, "param": null, "sequence_number": 2})),
        event("response.failed", &json!({"type": "response.failed", "sequence_number": 2, "response": failed})),
        event("", &json!({"object": "error", "message": text, "code": 500})),
        format!("data: {text}\n\n"),
        format!(": {text}\n\n"),
        format!("{text}\n\n"),
        format!("event: error\ndata: {text}\n\n"),
        format!(": {text}\ndata: {{\"choices\":[],\"type\":\"ping\"}}\n\n"),
        format!("id: {key}\nx-host: {host}\ndata: {{\"choices\":[],\"type\":\"ping\"}}\n: {address}\n\n"),
        format!(": {text}\rdata: {{\"choices\":[],\"type\":\"ping\"}}\r\r"),
        format!("data: {{\"choices\":[],\"type\":\"ping\"}}\r: {text}\r\r"),
    ];
    for path in [CHAT, RESPONSES, MESSAGES] {
        for ending in &endings {
            let mut client = gateway.client().await;
            let mut body = least(path, "m");
            body["stream"] = json!(true);
            client
                .send(&Method::POST, path, &[("content-type", "application/json")], body.to_string().as_bytes())
                .await;
            let mut caller = stage.caller().await;
            caller.begin_stream().await;
            caller.chunk(begun(path)).await;
            let (status, headers) = client.read_head().await;
            assert_eq!(status, 200);
            let mut seen = String::new();
            while !seen.contains("\"hi\"") {
                seen += &client.piece().await.unwrap();
            }
            caller.chunk(ending).await;
            caller.end_chunks().await;
            while let Ok(Some(piece)) = soon("the end of the stream", client.raw.read_piece()).await {
                seen += &String::from_utf8_lossy(&piece);
            }
            let what = format!("{path} {ending} {seen}");
            // a response says itself that it failed
            let failed = ["\"upstream_error\"", "\"response.failed\""].iter().any(|word| seen.contains(word));
            findings.equal(&what, failed, true);
            findings.equal(&what, seen.contains("[DONE]"), false);
            let id = headers["x-request-id"].to_str().unwrap();
            findings.equal(&what, leaks(&seen.replace(id, ""), &[host, key, address, BACKEND]), None);
        }
    }
    findings.none();
}
