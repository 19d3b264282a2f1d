//! How streams are conducted: their time limits, their head, and what keeps them alive.

use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use dgx_gateway_filter::ambient::Ambient;
use dgx_gateway_filter::facts::StreamConduct;
use dgx_gateway_filter::upstream::{AttemptTimeouts, KeepAlive};
use dgx_gateway_filter::{Problem, ResponseHead};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::settings::StreamFile;

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Headers that an answer has at most, as a rule: a map that grows hashes all of its names again.
const HEADERS: usize = 24;
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
/// The comment that is sent after a silence.
const HEARTBEAT: Bytes = Bytes::from_static(b": keep-alive\n\n");
/// Silence after which it is sent, in seconds.
const HEARTBEAT_SECONDS: u64 = 15;
/// The longest that can be set.
const MOST_HEARTBEAT_SECONDS: u64 = 120;

/// What holds for all streams of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    idle: Duration,
    total: Duration,
    commit_after: Option<Duration>,
    heartbeat_seconds: u64,
    pub(crate) cost_event: bool,
}

impl Streams {
    /// Checks the settings and the variables.
    pub(crate) fn check(file: StreamFile, ambient: &Ambient, problems: &mut Vec<Problem>) -> Self {
        let seconds = |key: &str, value: u64, least: u64, problems: &mut Vec<Problem>| {
            if !(least..=86_400).contains(&value) {
                problems.push(Problem::at(format!("stream.{key}"), format!("must be {least} to 86400")));
            }
            Duration::from_secs(value)
        };
        let commit_after = seconds("commit_after_seconds", file.commit_after_seconds, 0, problems);
        let heartbeat = variable("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "must be 0 to 120", ambient, problems);
        let cost_event = variable("DGX_GATEWAY_STREAM_COST_EVENT", "must be true or false", ambient, problems);
        if heartbeat.is_some_and(|seconds| seconds > MOST_HEARTBEAT_SECONDS) {
            problems.push(Problem::at("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "must be 0 to 120"));
        }
        Self {
            idle: seconds("idle_timeout_seconds", file.idle_timeout_seconds, 1, problems),
            total: seconds("max_seconds", file.max_seconds, 1, problems),
            commit_after: (!commit_after.is_zero()).then_some(commit_after),
            heartbeat_seconds: heartbeat.unwrap_or(HEARTBEAT_SECONDS),
            cost_event: cost_event.unwrap_or(true),
        }
    }

    /// Sets the limits of an attempt that streams.
    pub(crate) fn limit(&self, first_byte: Duration, timeouts: &mut AttemptTimeouts) {
        timeouts.first_byte = Some(first_byte);
        timeouts.idle = Some(self.idle);
        timeouts.total_once_begun = self.total.max(timeouts.total);
    }

    /// An answer that may turn out to be a stream.
    pub(crate) fn let_go_on(&self, timeouts: &mut AttemptTimeouts) {
        timeouts.total_once_begun = self.total.max(timeouts.total);
    }

    /// What keeps a stream alive, for a tenant that may want something of its own.
    pub(crate) fn keep_alive(&self, conduct: StreamConduct) -> KeepAlive {
        let heartbeat = conduct.heartbeat_seconds.unwrap_or(self.heartbeat_seconds);
        KeepAlive {
            commit_after: self.commit_after,
            head: ResponseHead { status: StatusCode::OK, headers: headers(), length: None },
            heartbeat: (heartbeat > 0).then_some((Duration::from_secs(heartbeat), HEARTBEAT)),
        }
    }
}

/// A variable that has a type; `right` says what it takes.
fn variable<T: FromStr>(name: &str, right: &str, ambient: &Ambient, problems: &mut Vec<Problem>) -> Option<T> {
    let value = ambient.var(name)?.parse().ok();
    if value.is_none() {
        problems.push(Problem::at(name, right.to_owned()));
    }
    value
}

/// The headers of every stream.
pub(crate) fn headers() -> HeaderMap {
    let mut headers = headers_of(EVENT_STREAM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers
}

/// The headers of an answer of this type, with room for all that the gateway says of a call.
pub(crate) fn headers_of(content_type: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::CONTENT_TYPE, content_type);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], commit_after_seconds: u64) -> (Streams, Vec<String>) {
        let mut problems = Vec::new();
        let file = StreamFile { commit_after_seconds, ..StreamFile::default() };
        let streams = Streams::check(
            file,
            &Ambient::new(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))),
            &mut problems,
        );
        (streams, problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn a_tenant_goes_before_the_process_and_zero_is_off() {
        let beat = |variables: &[(&str, &str)], tenant: Option<u64>| {
            let (streams, problems) = check(variables, 30);
            assert_eq!(problems, [""; 0]);
            let conduct = StreamConduct { heartbeat_seconds: tenant, cost_event: None };
            streams.keep_alive(conduct).heartbeat.map(|(every, _)| every.as_secs())
        };
        let five = [("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "5")];
        assert_eq!((beat(&[], None), beat(&five, None), beat(&five, Some(7))), (Some(15), Some(5), Some(7)));
        assert_eq!((beat(&five, Some(0)), beat(&[(five[0].0, "0")], None)), (None, None));
    }

    #[test]
    fn zero_commits_never_early() {
        assert_eq!(check(&[], 0).0.keep_alive(StreamConduct::default()).commit_after, None);
        let after = check(&[], 30).0.keep_alive(StreamConduct::default()).commit_after;
        assert_eq!(after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn values_out_of_range_are_told_by_name() {
        let variables = [("DGX_GATEWAY_STREAM_HEARTBEAT_SECONDS", "121"), ("DGX_GATEWAY_STREAM_COST_EVENT", "yes")];
        assert_eq!(check(&variables, 86_401).1, ["stream.commit_after_seconds", variables[1].0, variables[0].0]);
    }
}
