//! A gateway after so much of everything that each of its metrics has a series.

use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_testkit::mock::{Behaviour, MockUpstream, Script};
use dgx_gateway_testkit::otlp::OtlpCollector;
use dgx_gateway_testkit::redis::RedisServer;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::harness::{Gateway, PROMPT, Setup, Stage, backend, chunk_of_stream, finish_of_stream, model, until};

pub(super) struct Busy {
    pub(super) gateway: Gateway,
    _collector: OtlpCollector,
    _mocks: [MockUpstream; 2],
    _prices: NamedTempFile,
    _store: RedisServer,
    stage: Stage,
}

fn chat(model: &str, stream: bool) -> String {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

fn status(status: StatusCode) -> Behaviour {
    Behaviour::Status { status, headers: HeaderMap::new(), body: "{}".into() }
}

fn event(text: String, after: u64) -> (Duration, Bytes) {
    (Duration::from_millis(after), Bytes::from(text))
}

impl Busy {
    pub(super) async fn start() -> Self {
        let store = RedisServer::start().await.unwrap();
        let collector = OtlpCollector::start().await.unwrap();
        let mocks = [
            MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
            MockUpstream::start(Script::default().with_looks_apart()).await.unwrap(),
        ];
        let stage = Stage::open().await;
        let prices = NamedTempFile::new().unwrap();
        let entry = json!({"backend": "*", "model": "*", "input": "1", "output": "2"});
        std::fs::write(prices.path(), json!({"version": 1, "entries": [entry]}).to_string()).unwrap();
        let mut first = backend("first", mocks[0].addr());
        first["max_in_flight"] = json!(4);
        let budgets = [
            json!({"id": "all", "models": ["*"], "window": "day", "limit_tokens": 1_000_000, "mode": "hard"}),
            json!({"id": "one", "models": ["n"], "window": "day", "limit_requests": 1, "mode": "hard"}),
        ];
        let setup = Setup::new()
            .backend(first)
            .backend(backend("second", mocks[1].addr()))
            .model(model("m", &[("first", "name-at-the-first"), ("second", "name-at-the-second")]))
            .backend(backend("third", stage.addr))
            .model(model("n", &[("first", "name-of-n")]))
            .model(model("s", &[("third", "name-of-s")]))
            .tokens(json!({"version": 1, "tokens": [], "tenants": [{"id": "default", "budgets": budgets}]}))
            .section("limits", json!({"store": store.url(), "expected_replicas": 1}))
            .section("pricing_file", prices.path().to_str().unwrap())
            .variable("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
            .variable("OTEL_BSP_SCHEDULE_DELAY", "50");
        let gateway = setup.start().await;
        let mut busy = Self { gateway, _collector: collector, _mocks: mocks, _prices: prices, _store: store, stage };
        busy.work().await;
        busy
    }

    /// A stream that breaks off once its first piece has reached the client.
    async fn break_off(&mut self) {
        let mut client = self.gateway.client().await;
        client.send_chat(chat("s", true)).await;
        let mut caller = self.stage.caller().await;
        caller.begin_stream().await;
        caller.chunk(chunk_of_stream("name-of-s", "a")).await;
        client.read_head().await;
        client.piece().await;
        caller.reset();
        while client.piece().await.is_some() {}
    }

    async fn work(&mut self) {
        self.break_off().await;
        let (gateway, first) = (&self.gateway, &self._mocks[0]);
        gateway.chat(chat("m", false)).await.is_ok();
        first.push(status(StatusCode::BAD_GATEWAY));
        gateway.chat(chat("m", false)).await.is_ok(); // the second serves
        let name = "name-at-the-first";
        let end = finish_of_stream(name) + "data: [DONE]\n\n";
        let pieces = [event(chunk_of_stream(name, "a"), 0), event(chunk_of_stream(name, "b"), 50), event(end, 50)];
        first.push(Behaviour::SseRaw(pieces.into()));
        gateway.chat(chat("m", true)).await.is_ok();
        gateway.chat(chat("n", false)).await.is_ok();
        assert_eq!(gateway.chat(chat("n", false)).await.status, 429, "its budget is used up");
        gateway.client().await.request(&Method::POST, "/v1/embeddings", &[], b"{").await;
        gateway.client().await.get("/nothing").await;
        let models = std::fs::read_to_string(gateway.file("conf/models.yaml")).unwrap();
        gateway.put("conf/models.yaml", "models: [");
        assert_eq!(gateway.reload().await.0, 422);
        gateway.put("conf/models.yaml", &models);
        assert_eq!(gateway.reload().await.0, 200);
        gateway.idle().await;
        until("spans are exported", async || {
            gateway.metrics().await.value("dgx_gateway_trace_spans_total{result=\"exported\"}") > 0.0
        })
        .await;
        // the store is noticed in the background
        until("the store answers", async || {
            gateway.metrics().await.text().contains("dgx_gateway_rate_limit_store_up 1")
        })
        .await;
    }
}
