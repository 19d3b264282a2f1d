//! A collector of traces that decodes what it gets with the messages of OpenTelemetry, and misbehaves on demand.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

pub use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess as PartialSuccess;

/// What the collector does with a call.
#[derive(Clone, Debug)]
pub enum Manner {
    /// It reads the call and never answers.
    Hang,
    /// It takes the spans, but says that it refused some of them.
    Partly(PartialSuccess),
    /// It answers with this status, and these headers, and takes nothing.
    Status(StatusCode, Vec<(&'static str, String)>),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Path and query.
    pub path: String,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Bytes,
    /// What it says; `None` when it cannot be decoded.
    pub request: Option<ExportTraceServiceRequest>,
    /// Whether the spans were taken.
    pub taken: bool,
}

#[derive(Default)]
struct Seen {
    calls: Vec<Call>,
    manners: VecDeque<Manner>,
    /// What it does once no other manner is left; `None`: it takes everything.
    always: Option<Manner>,
}

/// A collector; it stops when dropped.
pub struct OtlpCollector {
    addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    serving: AbortHandle,
}

impl OtlpCollector {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// There is none.
    pub async fn start() -> io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts one at an address.
    ///
    /// # Errors
    /// It is taken.
    pub async fn start_at(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let router = axum::Router::new().fallback(answer).with_state(Arc::clone(&seen));
        let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) }).abort_handle();
        Ok(Self { addr, seen, serving })
    }

    /// Its address.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` says to reach it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next call is treated like this.
    pub fn push(&self, manner: Manner) {
        self.seen().manners.push_back(manner);
    }

    /// All further calls are treated like this; `None`: it takes them.
    pub fn always(&self, manner: Option<Manner>) {
        self.seen().always = manner;
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.seen().calls.clone()
    }

    /// The spans that were taken so far.
    #[must_use]
    pub fn spans(&self) -> Vec<SeenSpan> {
        let calls = self.calls();
        let requests = calls.into_iter().filter(|call| call.taken).filter_map(|call| call.request);
        let of_resources = requests.flat_map(|request| request.resource_spans);
        of_resources
            .flat_map(|of_resource| {
                let resource = of_resource.resource.unwrap_or_default().attributes;
                let spans: Vec<Span> = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans).collect();
                spans.into_iter().map(move |span| SeenSpan { resource: resource.clone(), span })
            })
            .collect()
    }
}

impl Drop for OtlpCollector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A span, and what it came from.
#[derive(Clone, Debug)]
pub struct SeenSpan {
    resource: Vec<KeyValue>,
    /// As it was sent.
    pub span: Span,
}

impl SeenSpan {
    /// Number of the trace in hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// Number of the span in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Number of its parent in hexadecimal digits; empty where it has none.
    #[must_use]
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// An attribute as text; a list with commas.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<String> {
        find(&self.span.attributes, key)
    }

    /// An attribute of what sent it.
    #[must_use]
    pub fn resource(&self, key: &str) -> Option<String> {
        find(&self.resource, key)
    }

    /// Names of its attributes, sorted.
    #[must_use]
    pub fn keys(&self) -> Vec<&str> {
        let mut keys: Vec<&str> = self.span.attributes.iter().map(|pair| &*pair.key).collect();
        keys.sort_unstable();
        keys
    }

    /// Whether its status is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code == 2)
    }
}

fn find(pairs: &[KeyValue], key: &str) -> Option<String> {
    pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_ref()).and_then(text)
}

fn text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        Value::ArrayValue(list) => Some(list.values.iter().filter_map(text).collect::<Vec<_>>().join(",")),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn answer(State(seen): State<Arc<Mutex<Seen>>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return plain(StatusCode::BAD_REQUEST, Body::empty()) };
    let says = |name: header::HeaderName, value: &str| head.headers.get(name).is_some_and(|found| found == value);
    let body = if says(header::CONTENT_ENCODING, "gzip") { unzipped(&body.to_bytes()) } else { Some(body.to_bytes()) };
    let body = body.unwrap_or_default();
    let json = says(header::CONTENT_TYPE, "application/json");
    let request = if json {
        serde_json::from_slice(&body).ok()
    } else if says(header::CONTENT_TYPE, "application/x-protobuf") {
        ExportTraceServiceRequest::decode(body.clone()).ok()
    } else {
        None
    };
    let known = request.is_some();
    let manner = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let manner = seen.manners.pop_front().or_else(|| seen.always.clone());
        let taken = known && matches!(manner, None | Some(Manner::Partly(_)));
        let path = head.uri.to_string();
        seen.calls.push(Call { path, headers: head.headers, body, request, taken });
        manner
    };
    let partial_success = match manner {
        None if !known => return plain(StatusCode::BAD_REQUEST, Body::empty()),
        None => None,
        Some(Manner::Partly(partial)) => Some(partial),
        Some(Manner::Hang) => std::future::pending().await,
        Some(Manner::Status(status, headers)) => {
            let mut response = plain(status, Body::empty());
            for (name, value) in headers {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
            return response;
        }
    };
    let answer = ExportTraceServiceResponse { partial_success };
    let body = if json { serde_json::to_vec(&answer).unwrap_or_default() } else { answer.encode_to_vec() };
    plain(StatusCode::OK, Body::from(body))
}

fn plain(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn unzipped(body: &[u8]) -> Option<Bytes> {
    let mut out = Vec::new();
    GzDecoder::new(body).read_to_end(&mut out).ok()?;
    Some(out.into())
}
