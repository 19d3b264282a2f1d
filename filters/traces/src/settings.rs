//! The variables `OTEL_*`, checked. Without a collector, none of the others is looked at: they may be meant for other
//! programs of the machine. With one, what cannot be understood or carried out stops the start.

use std::str::FromStr;
use std::time::Duration;

use dgx_gateway_filter::Problem;
use dgx_gateway_filter::ambient::Ambient;
use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use reqwest::{Certificate, Url};

use crate::attributes::text;
use crate::collector::{Collector, Encoding};
use crate::pairs;
use crate::queue::Batching;
use crate::sampler::{Sampler, Share};

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// What they ask for cannot be done, and to leave it out would send traces otherwise than was wanted.
const NOT_DONE: [&str; 4] = [
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
];

/// Most spans that may be asked to wait; each takes about 2 KiB.
const MOST_SPANS: u64 = 1 << 20;
/// Longest time of a variable: a day.
const MOST_MILLIS: u64 = 86_400_000;

/// What the variables ask for.
pub struct Export {
    pub(crate) sampler: Sampler,
    pub(crate) batch: Batching,
    pub(crate) collector: Collector,
}

/// Reads the variables; `None` where no traces are wanted.
///
/// # Errors
/// Every variable that cannot be used. No value is repeated: some are secrets.
pub(crate) fn read(ambient: &Ambient) -> Result<Option<Export>, Vec<Problem>> {
    if ambient.var("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || ambient.var(EXPORTER) == Some("none")
    {
        return Ok(None);
    }
    let mut reader = Reader { ambient, problems: Vec::new() };
    let Some(url) = reader.url() else {
        return if reader.problems.is_empty() { Ok(None) } else { Err(reader.problems) };
    };
    let export = reader.export(url);
    if reader.problems.is_empty() { Ok(Some(export)) } else { Err(reader.problems) }
}

struct Reader<'a> {
    ambient: &'a Ambient,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn problem(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem::at(name, message));
    }

    fn export(&mut self, url: Url) -> Export {
        if self.ambient.var(EXPORTER).is_some_and(|value| value != "otlp") {
            self.problem(EXPORTER, "must be otlp or none");
        }
        for name in NOT_DONE {
            if self.ambient.var(name).is_some() {
                self.problem(name, "client certificates are not supported; use headers");
            }
        }
        let (queue, batch) =
            (self.spans("OTEL_BSP_MAX_QUEUE_SIZE", 2048), self.spans("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512));
        let delay = self.millis("OTEL_BSP_SCHEDULE_DELAY", 5000);
        let whole = self.millis("OTEL_BSP_EXPORT_TIMEOUT", 30_000);
        let timeout = match self.of_traces("TIMEOUT") {
            Some((name, value)) => self.millis_of(name, value),
            None => Duration::from_secs(10),
        };
        Export {
            sampler: self.sampler(),
            batch: Batching { queue, batch: batch.min(queue), delay },
            collector: Collector {
                url,
                headers: self.headers(),
                encoding: self.encoding(),
                gzip: self.gzip(),
                timeout: timeout.min(whole),
                certificates: self.certificates(),
                resource: self.resource(),
            },
        }
    }

    /// A variable of the export in the form for traces, else in that for all signals.
    fn of_traces(&self, what: &str) -> Option<(String, &'a str)> {
        let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")];
        names.into_iter().find_map(|name| self.ambient.var(&name).map(|value| (name, value)))
    }

    fn url(&mut self) -> Option<Url> {
        let (name, value) = [TRACES_ENDPOINT, ENDPOINT]
            .into_iter()
            .find_map(|name| self.ambient.var(name).map(|value| (name, value)))?;
        let url = Url::parse(value).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(mut url) = url else {
            self.problem(name, "must be a URL with http or https, such as http://localhost:4318");
            return None;
        };
        if name == ENDPOINT {
            let path = format!("{}/v1/traces", url.path().trim_end_matches('/'));
            url.set_path(&path);
        }
        Some(url)
    }

    fn encoding(&mut self) -> Encoding {
        match self.of_traces("PROTOCOL") {
            None | Some((_, "http/protobuf")) => Encoding::Protobuf,
            Some((_, "http/json")) => Encoding::Json,
            Some((name, _)) => {
                self.problem(name, "must be http/protobuf or http/json; grpc is not supported");
                Encoding::Protobuf
            }
        }
    }

    fn gzip(&mut self) -> bool {
        match self.of_traces("COMPRESSION") {
            None | Some((_, "none")) => false,
            Some((_, "gzip")) => true,
            Some((name, _)) => {
                self.problem(name, "must be gzip or none");
                false
            }
        }
    }

    /// They may hold credentials, so a file may hold them.
    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"] {
            let text = match self.ambient.secret(name) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    self.problem(format!("{name}_FILE"), format!("cannot be read: {error}"));
                    break;
                }
            };
            match pairs::read(&text) {
                Ok(pairs) => {
                    for (place, (key, value)) in pairs.into_iter().enumerate() {
                        match (HeaderName::from_str(&key), HeaderValue::from_str(&value)) {
                            (Ok(key), Ok(mut value)) => {
                                value.set_sensitive(true);
                                headers.insert(key, value);
                            }
                            _ => self.problem(name, format!("header {} is none that HTTP allows", place + 1)),
                        }
                    }
                }
                Err(error) => self.problem(name, error.to_string()),
            }
            break;
        }
        headers
    }

    fn certificates(&mut self) -> Vec<Certificate> {
        let Some((name, path)) = self.of_traces("CERTIFICATE") else { return Vec::new() };
        let read = match std::fs::read(path) {
            Ok(read) => read,
            Err(error) => {
                self.problem(name, format!("cannot be read: {error}"));
                return Vec::new();
            }
        };
        match Certificate::from_pem_bundle(&read) {
            Ok(certificates) if !certificates.is_empty() => certificates,
            _ => {
                self.problem(name, "is no file of certificates in PEM form");
                Vec::new()
            }
        }
    }

    fn sampler(&mut self) -> Sampler {
        let (make, share): (fn(Share) -> Sampler, _) = match self.ambient.var(SAMPLER) {
            None | Some("parentbased_always_on") => (Sampler::ParentBased, Share::ALL),
            Some("parentbased_always_off") => (Sampler::ParentBased, Share::NONE),
            Some("parentbased_traceidratio") => (Sampler::ParentBased, self.share()),
            Some("always_on") => (Sampler::Root, Share::ALL),
            Some("always_off") => (Sampler::Root, Share::NONE),
            Some("traceidratio") => (Sampler::Root, self.share()),
            Some(_) => {
                self.problem(
                    SAMPLER,
                    "must be always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or parentbased_traceidratio",
                );
                (Sampler::Root, Share::NONE)
            }
        };
        make(share)
    }

    fn share(&mut self) -> Share {
        let Some(text) = self.ambient.var(SAMPLER_ARG) else { return Share::ALL };
        text.parse().ok().and_then(Share::of).unwrap_or_else(|| {
            self.problem(SAMPLER_ARG, "must be a number from 0 to 1");
            Share::NONE
        })
    }

    fn resource(&mut self) -> Resource {
        let given = match self.ambient.var(RESOURCE).map(pairs::read) {
            None => Vec::new(),
            Some(Ok(pairs)) => pairs,
            Some(Err(error)) => {
                self.problem(RESOURCE, error.to_string());
                Vec::new()
            }
        };
        let own = [
            ("service.name", "dgx-gateway".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", uuid::Uuid::new_v4().to_string()), // tells processes apart
        ];
        let named = self.ambient.var(SERVICE_NAME).map(|name| ("service.name".to_owned(), name.to_owned()));
        let mut all: Vec<(String, String)> = Vec::new();
        let own = own.map(|(key, value)| (key.to_owned(), value));
        for (key, value) in own.into_iter().chain(given).chain(named) {
            match all.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = value, // the later one counts
                None => all.push((key, value)),
            }
        }
        Resource { attributes: all.into_iter().map(|(key, value)| text(key, value)).collect(), ..Resource::default() }
    }

    fn spans(&mut self, name: &'static str, default: usize) -> usize {
        let Some(text) = self.ambient.var(name) else { return default };
        let number = text.parse::<u64>().ok().filter(|number| (1..=MOST_SPANS).contains(number));
        number.and_then(|number| usize::try_from(number).ok()).unwrap_or_else(|| {
            self.problem(name, format!("must be a whole number from 1 to {MOST_SPANS}"));
            default
        })
    }

    fn millis(&mut self, name: &'static str, default: u64) -> Duration {
        match self.ambient.var(name) {
            Some(text) => self.millis_of(name.to_owned(), text),
            None => Duration::from_millis(default),
        }
    }

    fn millis_of(&mut self, name: String, text: &str) -> Duration {
        let number = text.parse::<u64>().ok().filter(|number| (1..=MOST_MILLIS).contains(number));
        Duration::from_millis(number.unwrap_or_else(|| {
            self.problem(name, format!("must be a whole number of milliseconds from 1 to {MOST_MILLIS}"));
            1
        }))
    }
}
