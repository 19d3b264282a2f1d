//! One call of the collector, and what its answer means (OTLP/HTTP, specification 1.7).

use std::error::Error as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;
use reqwest::{Certificate, Client, Response, StatusCode, Url};
use serde::Deserialize;

/// Longest answer that is read.
const MOST_ANSWER: usize = 64 * 1024;
/// Longest rest that a collector may ask for.
const LONGEST_REST: Duration = Duration::from_secs(300);
/// Longest time for the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// What the spans are made by.
const SCOPE: &str = "dgx-gateway";

/// How spans are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Protobuf,
}

/// Where spans go, and how.
pub(crate) struct Collector {
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) encoding: Encoding,
    pub(crate) gzip: bool,
    pub(crate) timeout: Duration,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) resource: Resource,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("the spans cannot be written: {0}")]
    Encode(String),
    #[error("the collector cannot be reached: {0}")]
    Unreachable(String),
    /// Later it may take them.
    #[error("the collector answered {status}")]
    Busy { status: u16, rest: Option<Duration> },
    /// It will never take them.
    #[error("the collector refused with {0}")]
    Refused(u16),
}

impl Collector {
    /// A client for the calls of one runtime.
    pub(crate) fn client(&self) -> reqwest::Result<Client> {
        let builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none()) // the headers are for the collector alone
            .no_proxy()
            .connect_timeout(CONNECT)
            .timeout(self.timeout);
        let trusting = self.certificates.iter().cloned().fold(builder, reqwest::ClientBuilder::add_root_certificate);
        trusting.build()
    }

    /// Its host, for the log.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Writes spans; they stay where they are.
    pub(crate) fn encode(&self, spans: &mut Vec<Span>) -> Result<Vec<u8>, Trouble> {
        let scope = InstrumentationScope {
            name: SCOPE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let own = ScopeSpans { scope: Some(scope), spans: std::mem::take(spans), ..ScopeSpans::default() };
        let resource = Some(self.resource.clone());
        let of_resource = ResourceSpans { resource, scope_spans: vec![own], ..ResourceSpans::default() };
        let request = ExportTraceServiceRequest { resource_spans: vec![of_resource] };
        let body = match self.encoding {
            Encoding::Json => serde_json::to_vec(&request).map_err(|error| Trouble::Encode(error.to_string())),
            Encoding::Protobuf => Ok(request.encode_to_vec()),
        };
        let scopes = request.resource_spans.into_iter().flat_map(|of_resource| of_resource.scope_spans);
        *spans = scopes.flat_map(|scope| scope.spans).collect();
        let body = body?;
        if self.gzip { compressed(&body).map_err(|error| Trouble::Encode(error.to_string())) } else { Ok(body) }
    }

    /// Sends what was written; gives how many spans the collector did not take all the same.
    pub(crate) async fn send(&self, client: &Client, body: Vec<u8>) -> Result<usize, Trouble> {
        let content_type = HeaderValue::from_static(match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/x-protobuf",
        });
        let mut request =
            client.post(self.url.clone()).headers(self.headers.clone()).header(header::CONTENT_TYPE, content_type);
        if self.gzip {
            request = request.header(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let answer = request.body(body).send().await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        match status {
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                Err(Trouble::Busy { status: status.as_u16(), rest: rest(answer.headers(), SystemTime::now()) })
            }
            status if status.is_success() => Ok(refused_of(self.encoding, &read(answer).await)),
            status => Err(Trouble::Refused(status.as_u16())),
        }
    }
}

fn compressed(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// An error without the address, which may hold a password.
fn unreachable(error: &reqwest::Error) -> Trouble {
    if error.is_timeout() {
        return Trouble::Unreachable("it does not answer in time".to_owned());
    }
    let mut text: Vec<String> = Vec::new();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push(source.to_string());
        cause = source.source();
    }
    Trouble::Unreachable(if text.is_empty() { "the call failed".to_owned() } else { text.join(": ") })
}

/// What of an answer fits; the spans have been taken, so that trouble with it changes nothing.
async fn read(mut answer: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        if body.len() + piece.len() > MOST_ANSWER {
            return Vec::new();
        }
        body.extend_from_slice(&piece);
    }
    body
}

/// How long the collector asks to be left alone: seconds or a date.
fn rest(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let rest = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or(Duration::ZERO),
    };
    Some(rest.min(LONGEST_REST))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JsonAnswer {
    partial_success: Option<JsonPartial>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JsonPartial {
    rejected_spans: Option<Count>,
}

/// A number of 64 bits, which in JSON may be a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Count {
    Number(i64),
    Text(String),
}

/// How many spans an answer says were not taken.
fn refused_of(encoding: Encoding, body: &[u8]) -> usize {
    let refused = match encoding {
        Encoding::Protobuf => ExportTraceServiceResponse::decode(body)
            .ok()
            .and_then(|answer| answer.partial_success)
            .map(|partial| partial.rejected_spans),
        Encoding::Json => serde_json::from_slice::<JsonAnswer>(body)
            .ok()
            .and_then(|answer| answer.partial_success?.rejected_spans)
            .and_then(|count| match count {
                Count::Number(number) => Some(number),
                Count::Text(text) => text.parse().ok(),
            }),
    };
    refused.and_then(|refused| usize::try_from(refused).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn a_rest_is_seconds_or_a_date_and_not_endless() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let of = |text: &'static str| {
            rest(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]), now)
        };
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("86400"), Some(LONGEST_REST));
        assert_eq!(of("Sun, 09 Sep 2001 01:47:10 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(of("Sun, 09 Sep 2001 01:46:10 GMT"), Some(Duration::ZERO), "that was before");
        assert_eq!((of("soon"), rest(&HeaderMap::new(), now)), (None, None));
    }

    #[test]
    fn spans_that_were_not_taken_are_counted_in_both_encodings() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "x".to_owned() };
        let answer = ExportTraceServiceResponse { partial_success: Some(partial) };
        assert_eq!(refused_of(Encoding::Protobuf, &answer.encode_to_vec()), 3);
        for (body, refused) in [
            (r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#, 3),
            (r#"{"partialSuccess":{"rejectedSpans":2}}"#, 2),
            (r#"{"partialSuccess":{}}"#, 0),
            ("{}", 0),
            ("", 0),
            ("<html>", 0),
            (r#"{"partialSuccess":{"rejectedSpans":-1}}"#, 0),
        ] {
            assert_eq!(refused_of(Encoding::Json, body.as_bytes()), refused, "{body}");
        }
        assert_eq!(refused_of(Encoding::Protobuf, b""), 0);
        assert_eq!(refused_of(Encoding::Protobuf, b"<html>"), 0);
    }
}
