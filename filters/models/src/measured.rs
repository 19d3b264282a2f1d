//! Metrics of model calls under the names of OpenTelemetry's conventions for generative AI.
//!
//! A request looks its series up once per attempt, in a map of the words of the catalog; nothing is built for it, and
//! a series appears with its first value.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use dgx_gateway_filter::Outcome;
use dgx_gateway_filter::facts::Usage;
use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

use crate::backend::Protocol;

/// 1, 4, 16 … 67108864 tokens.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// The three that follow are those of the conventions, in seconds.
const OPERATION: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const FIRST_CHUNK: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const LATER_CHUNK: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

/// Labels that all of them have.
const LABELS: [&str; 4] =
    ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model"];

/// Why a call has no answer that is complete, where no error says it.
const CLIENT_LEFT: &str = "client_left";

/// The metrics, and the series that have been used.
#[derive(Debug)]
pub(crate) struct Measures {
    tokens: HistogramVec,
    operation: HistogramVec,
    first_chunk: HistogramVec,
    later_chunk: HistogramVec,
    known: RwLock<HashMap<Names, Arc<Series>>>,
}

/// What a series is about, in words of the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Names {
    protocol: Protocol,
    backend: Arc<str>,
    slug: Arc<str>,
    alias: Arc<str>,
}

/// The series of one kind of call.
#[derive(Debug, Default)]
struct Series {
    input: OnceLock<Histogram>,
    output: OnceLock<Histogram>,
    answered: OnceLock<Histogram>,
    first_chunk: OnceLock<Histogram>,
    later_chunk: OnceLock<Histogram>,
}

impl Measures {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name, help, buckets: &[f64], more: &[&str]| {
            let labels: Vec<&str> = LABELS.iter().chain(more).copied().collect();
            let made = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &labels)?;
            registry.register(Box::new(made.clone()))?;
            Ok::<_, prometheus::Error>(made)
        };
        Ok(Self {
            tokens: histogram(
                "gen_ai_client_token_usage",
                "Tokens of a model call, as the backend reported them.",
                &TOKENS,
                &["gen_ai_token_type"],
            )?,
            operation: histogram(
                "gen_ai_client_operation_duration_seconds",
                "Time from the call of the backend that served, or failed last, to the end of its answer.",
                &OPERATION,
                &["error_type"],
            )?,
            first_chunk: histogram(
                "gen_ai_client_operation_time_to_first_chunk_seconds",
                "Time from the call to the first piece of a stream that means something.",
                &FIRST_CHUNK,
                &[],
            )?,
            later_chunk: histogram(
                "gen_ai_client_operation_time_per_output_chunk_seconds",
                "Time between one piece of a stream and the next.",
                &LATER_CHUNK,
                &[],
            )?,
            known: RwLock::default(),
        })
    }

    fn series(&self, names: &Names) -> Arc<Series> {
        if let Some(series) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(names) {
            return Arc::clone(series);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(names.clone()).or_default())
    }
}

/// One call that is measured.
#[derive(Debug)]
pub(crate) struct Measured {
    names: Names,
    series: Arc<Series>,
    started: Instant,
    /// When the last piece of a stream left.
    last: Option<Instant>,
    /// When its answer was complete.
    ended: Option<Instant>,
}

impl Measured {
    /// A call begins.
    pub(crate) fn begin(
        measures: &Measures,
        protocol: Protocol,
        backend: &Arc<str>,
        slug: &Arc<str>,
        alias: &Arc<str>,
        now: Instant,
    ) -> Self {
        let names = Names { protocol, backend: Arc::clone(backend), slug: Arc::clone(slug), alias: Arc::clone(alias) };
        let series = measures.series(&names);
        Self { names, series, started: now, last: None, ended: None }
    }

    /// A piece of a stream leaves.
    pub(crate) fn chunk(&mut self, measures: &Measures, now: Instant) {
        let (cell, metric, since) = match self.last {
            None => (&self.series.first_chunk, &measures.first_chunk, self.started),
            Some(last) => (&self.series.later_chunk, &measures.later_chunk, last),
        };
        cell.get_or_init(|| metric.with_label_values(&self.names.labels())).observe(seconds(since, now));
        self.last = Some(now);
    }

    /// The backend has said everything; how long the client takes to read it is not the call's time.
    pub(crate) fn complete(&mut self, now: Instant) {
        self.ended.get_or_insert(now);
    }

    /// The request ends.
    pub(crate) fn finish(self, measures: &Measures, outcome: &Outcome, usage: Option<Usage>, now: Instant) {
        let took = seconds(self.started, self.ended.unwrap_or(now));
        let [operation, provider, slug, alias] = self.names.labels();
        match error_type(outcome) {
            None => {
                let metric = || measures.operation.with_label_values(&[operation, provider, slug, alias, ""]);
                self.series.answered.get_or_init(metric).observe(took);
            }
            Some(error) => {
                measures.operation.with_label_values(&[operation, provider, slug, alias, error]).observe(took);
            }
        }
        let Some(usage) = usage else { return };
        let sides = [
            (&self.series.input, "input", usage.prompt_tokens),
            (&self.series.output, "output", usage.completion_tokens),
        ];
        for (cell, side, tokens) in sides.into_iter().filter(|(_, _, tokens)| *tokens > 0) {
            let metric = || measures.tokens.with_label_values(&[operation, provider, slug, alias, side]);
            cell.get_or_init(metric).observe(as_number(tokens));
        }
    }
}

impl Names {
    fn labels(&self) -> [&str; 4] {
        [operation(self.protocol), &self.backend, &self.slug, &self.alias]
    }
}

/// The name of what is done, of the conventions where they have one.
pub(crate) fn operation(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Chat | Protocol::Messages | Protocol::Responses => "chat",
        Protocol::Completions => "text_completion",
        Protocol::Embeddings => "embeddings",
        Protocol::Images => "generate_content",
        Protocol::Rerank => "rerank",
        Protocol::Speech => "speech",
        Protocol::Tokenize => "tokenize",
        Protocol::Transcription => "transcription",
        Protocol::Translation => "translation",
    }
}

fn error_type(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::Answered { code, .. } => code.map(|code| code.as_str()),
        Outcome::Cut(code) => Some(code.as_str()),
        Outcome::ClientLeft | Outcome::Dropped => Some(CLIENT_LEFT),
    }
}

fn seconds(since: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(since).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "a histogram counts; above 2^53 tokens it may be off by one")]
fn as_number(tokens: u64) -> f64 {
    tokens as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dgx_gateway_filter::ErrorCode;
    use http::StatusCode;
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    struct Bench {
        registry: Registry,
        measures: Measures,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let registry = Registry::new();
            let measures = Measures::register(&registry).unwrap();
            Self { registry, measures, start: Instant::now() }
        }

        fn after(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn call(&self, protocol: Protocol, slug: &str) -> Measured {
            Measured::begin(&self.measures, protocol, &"cloud-2".into(), &slug.into(), &"m".into(), self.start)
        }

        fn text(&self) -> String {
            let mut text = Vec::new();
            TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
            String::from_utf8(text).unwrap()
        }

        /// Count and sum of a series.
        fn seen(&self, name: &str, labels: &str) -> (String, String) {
            let text = self.text();
            let value = |suffix: &str| {
                let series = format!("{name}_{suffix}{{{labels}}} ");
                text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("-").to_owned()
            };
            (value("count"), value("sum"))
        }
    }

    const ANSWERED: Outcome = Outcome::Answered { status: StatusCode::OK, code: None };
    const CHAT: &str = r#"gen_ai_operation_name="chat",gen_ai_provider_name="cloud-2",gen_ai_request_model="m-long",gen_ai_response_model="m""#;

    #[test]
    fn a_stream_is_measured_from_its_call_to_its_last_piece() {
        let bench = Bench::new();
        let mut call = bench.call(Protocol::Messages, "m-long");
        for at in [500, 750, 1500] {
            call.chunk(&bench.measures, bench.after(at));
        }
        call.complete(bench.after(2000));
        let usage = Usage { prompt_tokens: 70, completion_tokens: 3, ..Usage::default() };
        call.finish(&bench.measures, &ANSWERED, Some(usage), bench.after(9000));
        let seen = |name: &str| bench.seen(&format!("gen_ai_client_operation_{name}_seconds"), CHAT);
        assert_eq!(seen("time_to_first_chunk"), ("1".into(), "0.5".into()));
        assert_eq!(seen("time_per_output_chunk"), ("2".into(), "1".into()));
        let with = |more: &str| format!(r#"{more},{CHAT}"#);
        let took = bench.seen("gen_ai_client_operation_duration_seconds", &with(r#"error_type="""#));
        assert_eq!(took, ("1".into(), "2".into()), "the client's own time does not count");
        for (side, tokens) in [("input", "70"), ("output", "3")] {
            let labels = format!(r#"{CHAT},gen_ai_token_type="{side}""#);
            assert_eq!(bench.seen("gen_ai_client_token_usage", &labels), ("1".into(), tokens.into()));
        }
    }

    #[test]
    fn a_call_that_fails_has_the_type_of_its_error_and_nothing_else() {
        let bench = Bench::new();
        for outcome in [
            Outcome::Answered { status: StatusCode::BAD_GATEWAY, code: Some(ErrorCode::UpstreamError) },
            Outcome::Cut(ErrorCode::UpstreamTimeout),
            Outcome::ClientLeft,
            Outcome::Dropped,
        ] {
            bench.call(Protocol::Chat, "m-long").finish(&bench.measures, &outcome, None, bench.after(250));
        }
        for (error, count) in [("upstream_error", "1"), ("upstream_timeout", "1"), ("client_left", "2")] {
            let labels = format!(r#"error_type="{error}",{CHAT}"#);
            assert_eq!(bench.seen("gen_ai_client_operation_duration_seconds", &labels).0, count, "{error}");
        }
        assert!(!bench.text().contains("token_usage") && !bench.text().contains("chunk"), "no series without a value");
    }

    #[test]
    fn embeddings_write_no_tokens() {
        let bench = Bench::new();
        let usage = Usage { prompt_tokens: 5, ..Usage::default() };
        bench.call(Protocol::Embeddings, "v").finish(&bench.measures, &ANSWERED, Some(usage), bench.after(1));
        assert!(bench.text().contains(r#"gen_ai_operation_name="embeddings""#));
        assert!(!bench.text().contains(r#"gen_ai_token_type="output""#));
    }

    #[test]
    fn the_series_of_a_kind_of_call_are_looked_up_and_not_made_again() {
        let bench = Bench::new();
        let (one, again, other) =
            (bench.call(Protocol::Chat, "m"), bench.call(Protocol::Chat, "m"), bench.call(Protocol::Chat, "m-long"));
        assert!(Arc::ptr_eq(&one.series, &again.series) && !Arc::ptr_eq(&one.series, &other.series));
        assert_eq!(bench.measures.known.read().unwrap().len(), 2);
    }

    #[test]
    fn the_buckets_of_tokens_are_powers_of_four() {
        assert!(
            TOKENS.windows(2).all(|pair| pair[1] == 4.0 * pair[0]) && TOKENS[0] == 1.0 && TOKENS[13] == 67_108_864.0
        );
    }
}
