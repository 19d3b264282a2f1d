//! Where a request may go: upstreams, the plan of attempts, and what an attempt came to.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::body::{Patch, Rope};
use crate::certificates::Authorities;
use crate::error::FilterError;
use crate::exchange::ResponseHead;

/// Most targets of one plan; a longer one is cut.
pub const MAX_TARGETS: usize = 32;

/// How to reach an upstream.
#[derive(Clone)]
pub enum Address {
    /// A service inside this process, reached through an in-memory connection.
    Embedded(Arc<axum::Router>),
    /// Host and port; the name is resolved for every new connection, off the request path where possible.
    Tcp {
        /// Host name or IP address.
        host: Arc<str>,
        /// Port.
        port: u16,
        /// Whether to speak TLS; the host is the server name.
        tls: bool,
    },
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(_) => f.write_str("embedded"),
            Self::Tcp { host, port, tls } => write!(f, "{}://{host}:{port}", if *tls { "https" } else { "http" }),
        }
    }
}

/// Services inside this process that can be an upstream, by name. Offered with
/// [`crate::BuildEnv::provide`] by the part that brings them.
#[derive(Clone, Debug, Default)]
pub struct EmbeddedUpstreams(pub Vec<(&'static str, Arc<axum::Router>)>);

/// HTTP version spoken to an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in cleartext, negotiated over TLS.
    Http2,
}

/// One upstream, shared by all requests that may use it.
#[derive(Debug)]
pub struct Upstream {
    /// Public name: metric label and log field.
    pub label: Arc<str>,
    /// Where it is.
    pub address: Address,
    /// What it speaks.
    pub version: HttpVersion,
    /// Whom it is checked against, over TLS; `None`: the authorities that the system trusts.
    pub authorities: Option<Arc<Authorities>>,
    /// Longest time for connect and TLS together.
    pub connect_timeout: Duration,
    /// Most calls that it is given at the same time, over all requests; `None`: no limit.
    pub slots: Option<NonZeroU32>,
}

/// Time limits of one attempt, counted from the moment the request has been sent.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimeouts {
    /// Until the first byte of the response body; `None`: only `total` bounds it.
    pub first_byte: Option<Duration>,
    /// Between two pieces of the response; `None`: only `total` bounds it.
    pub idle: Option<Duration>,
    /// Until the answer has begun to leave, counted from the arrival of the request.
    pub total: Duration,
    /// Until the answer is complete, counted from the arrival of the request; at least `total`.
    pub total_once_begun: Duration,
}

/// One place where a request may go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its number among what the maker of the plan knows. It stays with the target when the order changes.
    pub entry: usize,
    /// Targets that follow each other with the same number are one choice: whichever is free may come first.
    pub choice: usize,
}

/// Ordered targets for one request. Each is tried once, and once more after [`Verdict::Again`].
#[derive(Debug, Default)]
pub struct UpstreamPlan {
    /// In the order in which they are tried.
    pub targets: Vec<Target>,
    /// How the answer is kept alive while the request waits for its first attempt ([`Admission::Wait`]); `None`: the
    /// client waits.
    pub keep_alive: Option<KeepAlive>,
}

impl UpstreamPlan {
    /// Makes a plan of these upstreams, in their order, each a choice of its own.
    pub fn set(&mut self, upstreams: impl IntoIterator<Item = Arc<Upstream>>) {
        let target = |(entry, upstream)| Target { upstream, entry, choice: entry };
        self.targets = upstreams.into_iter().enumerate().map(target).collect();
    }

    /// The targets that may come next at a position: the one that stands there, and those behind it that are one
    /// choice with it.
    #[must_use]
    pub fn choice_at(&self, index: usize) -> &[Target] {
        let rest = self.targets.get(index..).unwrap_or_default();
        let alike = |target: &&Target| rest.first().is_some_and(|first| first.choice == target.choice);
        rest.get(..rest.iter().take_while(alike).count()).unwrap_or_default()
    }

    /// Has the target that stands `behind` places behind a position come first there; the others keep their order.
    pub fn prefer(&mut self, index: usize, behind: usize) {
        if let Some(targets) = self.targets.get_mut(index..=index.saturating_add(behind)) {
            targets.rotate_right(1);
        }
    }
}

/// Whether an attempt may begin.
pub enum Admission {
    /// It may.
    Granted,
    /// Not yet: the same question is asked again once this is over. It is dropped when the client leaves.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Granted => "Granted",
            Self::Wait(_) => "Wait",
        })
    }
}

/// What goes to an upstream at one attempt. The core adds the framing headers, `host`, `user-agent`,
/// `accept-encoding: identity` and the trace headers; nothing of the client's head is copied.
#[derive(Debug)]
pub struct AttemptRequest {
    /// Position in the plan, from 0.
    pub index: usize,
    /// The target's own number ([`Target::entry`]).
    pub entry: usize,
    /// Method; that of the client unless changed.
    pub method: Method,
    /// Path and query in origin form.
    pub path: String,
    /// Allow-listed headers and the upstream's own credential.
    pub headers: HeaderMap,
    /// The body, shared with all other attempts; empty when it streams.
    pub body: Rope,
    /// What changes in the body, ordered by start, without overlaps and without empty ranges; the places are those of
    /// the body as it came. The way to change a body that streams.
    pub patches: Vec<Patch>,
    /// Limits of this attempt.
    pub timeouts: AttemptTimeouts,
    /// How the answer is kept alive while nothing of it comes; `None`: the client waits.
    pub keep_alive: Option<KeepAlive>,
    /// Whether an answer that comes compressed, although that was not asked for, is decoded before a filter sees it.
    /// One in a coding that nobody knows then counts as a broken connection.
    pub decode_answer: bool,
}

/// Keeps an answer alive of which nothing comes, in a protocol in which that can be said.
#[derive(Debug)]
pub struct KeepAlive {
    /// How long after the arrival of the request the head leaves if none has; `None`: not before the answer does.
    /// Attempts go on behind an early head; an error is then said in the body.
    pub commit_after: Option<Duration>,
    /// Makes the head that leaves early. Most answers come in time, and need none.
    pub head: fn() -> ResponseHead,
    /// What is sent, once the head has left, whenever nothing has been sent for so long.
    pub heartbeat: Option<(Duration, Bytes)>,
}

/// Why an attempt gave no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection: refused, unreachable, unknown name, or too slow.
    Connect,
    /// The connection broke before or inside the response.
    Reset,
    /// The first byte or the next piece came too late.
    Timeout,
    /// TLS was refused.
    Tls,
    /// The whole request took too long.
    Total,
}

/// What an attempt came to, as far as is known.
#[derive(Debug)]
pub enum AttemptResult<'a> {
    /// The response head is here. [`Verdict::ReadBody`] asks for the body as well.
    Head(&'a ResponseHead),
    /// The body that was asked for.
    Body {
        /// The head that came before it.
        head: &'a ResponseHead,
        /// The body, or its beginning, up to 64 KiB, when it is not complete.
        body: &'a Bytes,
        /// Whether it is complete: it fits the limit that was asked for, and did not break off.
        complete: bool,
    },
    /// There is no (further) response.
    Failed(AttemptFailure),
}

/// What to do with the result of an attempt.
#[derive(Debug)]
pub enum Verdict {
    /// Try the same target once more, with what [`crate::Exchange::attempt`] makes of the request then. Granted once
    /// per target, and only while the body is held; else the core answers as if there were no further target.
    Again,
    /// Answer the client with this error.
    Fail(Box<FilterError>),
    /// Try the next target of the plan. Without one the core answers 502.
    Next,
    /// Read at most so many bytes of the body, then ask again. Only valid for [`AttemptResult::Head`].
    /// If the body is then relayed, [`crate::Exchange::response_head`] and one call of
    /// [`crate::Exchange::response_chunk`] with the whole body run before anything is sent.
    ReadBody {
        /// Limit of what is held.
        max_bytes: usize,
    },
    /// Pass the response on.
    Relay,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(choices: &[usize]) -> UpstreamPlan {
        let upstream = Arc::new(Upstream {
            label: "u".into(),
            address: Address::Tcp { host: "localhost".into(), port: 1, tls: false },
            version: HttpVersion::Http1,
            authorities: None,
            connect_timeout: Duration::from_secs(1),
            slots: None,
        });
        let mut plan = UpstreamPlan::default();
        plan.set(choices.iter().map(|_| Arc::clone(&upstream)));
        plan.targets.iter_mut().zip(choices).for_each(|(target, choice)| target.choice = *choice);
        plan
    }

    fn entries(targets: &[Target]) -> Vec<usize> {
        targets.iter().map(|target| target.entry).collect()
    }

    #[test]
    fn a_choice_is_what_follows_each_other_with_one_number() {
        let plan = plan(&[0, 1, 1, 1, 2, 1]);
        let choices: Vec<_> = (0..7).map(|index| entries(plan.choice_at(index))).collect();
        assert_eq!(choices, [vec![0], vec![1, 2, 3], vec![2, 3], vec![3], vec![4], vec![5], vec![]]);
    }

    #[test]
    fn a_preferred_target_comes_first_and_the_others_keep_their_order() {
        let mut plan = plan(&[0, 1, 1, 1, 2]);
        plan.prefer(1, 2);
        assert_eq!(entries(&plan.targets), [0, 3, 1, 2, 4]);
        plan.prefer(2, 0);
        plan.prefer(4, 1); // there is none
        assert_eq!(entries(&plan.targets), [0, 3, 1, 2, 4]);
    }
}
