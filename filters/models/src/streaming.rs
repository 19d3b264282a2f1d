//! How streams are conducted: their time limits, their head, and what keeps them alive.

use std::time::Duration;

use bytes::Bytes;
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

/// What holds for all streams of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    idle: Duration,
    total: Duration,
    commit_after: Option<Duration>,
}

impl Streams {
    /// Checks the settings.
    pub(crate) fn check(file: StreamFile, problems: &mut Vec<Problem>) -> Self {
        let seconds = |key: &str, value: u64, least: u64, problems: &mut Vec<Problem>| {
            if !(least..=86_400).contains(&value) {
                problems.push(Problem::at(format!("stream.{key}"), format!("must be {least} to 86400")));
            }
            Duration::from_secs(value)
        };
        let commit_after = seconds("commit_after_seconds", file.commit_after_seconds, 0, problems);
        Self {
            idle: seconds("idle_timeout_seconds", file.idle_timeout_seconds, 1, problems),
            total: seconds("max_seconds", file.max_seconds, 1, problems),
            commit_after: (!commit_after.is_zero()).then_some(commit_after),
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

    /// What keeps a stream alive, with a heartbeat after so many seconds of silence; 0: never.
    pub(crate) fn keep_alive(&self, heartbeat: u64) -> KeepAlive {
        KeepAlive {
            commit_after: self.commit_after,
            head: || ResponseHead { status: StatusCode::OK, headers: headers(), length: None },
            heartbeat: (heartbeat > 0).then_some((Duration::from_secs(heartbeat), HEARTBEAT)),
        }
    }
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

    fn check(commit_after_seconds: u64) -> (Streams, Vec<String>) {
        let mut problems = Vec::new();
        let file = StreamFile { commit_after_seconds, ..StreamFile::default() };
        let streams = Streams::check(file, &mut problems);
        (streams, problems.into_iter().map(|problem| problem.key).collect())
    }

    #[test]
    fn a_heartbeat_of_zero_is_off() {
        let (streams, problems) = check(30);
        assert_eq!(problems, [""; 0]);
        let beat = |seconds| streams.keep_alive(seconds).heartbeat.map(|(every, _)| every.as_secs());
        assert_eq!((beat(7), beat(0)), (Some(7), None));
    }

    #[test]
    fn zero_commits_never_early() {
        assert_eq!(check(0).0.keep_alive(15).commit_after, None);
        assert_eq!(check(30).0.keep_alive(15).commit_after, Some(Duration::from_secs(30)));
    }

    #[test]
    fn values_out_of_range_are_told_by_name() {
        assert_eq!(check(86_401).1, ["stream.commit_after_seconds"]);
    }
}
