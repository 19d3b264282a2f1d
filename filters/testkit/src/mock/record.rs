//! What the mock has seen.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use tokio::sync::watch;

use super::WaitedTooLong;

/// One request.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Headers as they came. Over HTTP/2 the authority is not among them.
    pub headers: HeaderMap,
    /// The body, or what had arrived of it when the request ended.
    pub body: Bytes,
    /// When the head was complete.
    pub arrived: Instant,
    /// How it ended.
    pub ending: Ending,
}

/// How a request ended, as far as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The body is still arriving.
    Reading,
    /// The answer is under way.
    Answering,
    /// The client left.
    Cancelled {
        /// When it was seen.
        at: Instant,
        /// What the mock was doing.
        during: Phase,
    },
    /// The whole answer was handed to the system.
    Complete {
        /// When.
        at: Instant,
    },
    /// The mock itself broke off, as it was told to.
    Misbehaved {
        /// When.
        at: Instant,
    },
}

impl Ending {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Answering | Self::Reading)
    }
}

/// What the mock was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the request body.
    RequestBody,
    /// Not yet answering.
    BeforeHead,
    /// The head of the answer had left.
    ResponseBody,
}

#[derive(Clone, Copy, Debug, Default)]
struct Connections {
    open: usize,
    accepted: usize,
}

/// All of it, to be waited on.
#[derive(Debug)]
pub(super) struct Log {
    requests: watch::Sender<Vec<Recorded>>,
    connections: watch::Sender<Connections>,
    recording: bool,
}

/// Place of a request in the log; `None` when nothing is recorded.
pub(super) type Place = Option<usize>;

/// Counts a connection while it lives.
#[derive(Debug)]
pub(super) struct OpenConnection<'a>(&'a Log);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.connections.send_modify(|connections| connections.open = connections.open.saturating_sub(1));
    }
}

impl Log {
    pub(super) fn new(recording: bool) -> Self {
        let connections = watch::Sender::new(Connections::default());
        Self { requests: watch::Sender::new(Vec::new()), connections, recording }
    }

    pub(super) fn requests(&self) -> Vec<Recorded> {
        self.requests.borrow().clone()
    }

    pub(super) fn open_connections(&self) -> usize {
        self.connections.borrow().open
    }

    pub(super) fn accepted_connections(&self) -> usize {
        self.connections.borrow().accepted
    }

    pub(super) fn connection(&self) -> OpenConnection<'_> {
        self.connections.send_modify(|connections| {
            connections.open += 1;
            connections.accepted += 1;
        });
        OpenConnection(self)
    }

    /// A request whose head has arrived.
    pub(super) fn open(&self, method: &Method, path: &str, version: Version, headers: &HeaderMap) -> Place {
        if !self.recording {
            return None;
        }
        let recorded = Recorded {
            method: method.clone(),
            path: path.to_owned(),
            version,
            headers: headers.clone(),
            body: Bytes::new(),
            arrived: Instant::now(),
            ending: Ending::Reading,
        };
        let mut place = 0;
        self.requests.send_modify(|requests| {
            place = requests.len();
            requests.push(recorded);
        });
        Some(place)
    }

    /// The body is there, in whole or as far as it came.
    pub(super) fn body(&self, place: Place, body: Bytes, ending: Ending) {
        self.change(place, |recorded| {
            recorded.body = body;
            recorded.ending = ending;
        });
    }

    /// The request has ended. Only the first end counts.
    pub(super) fn end(&self, place: Place, ending: Ending) {
        self.change(place, |recorded| {
            if !recorded.ending.is_final() {
                recorded.ending = ending;
            }
        });
    }

    fn change(&self, place: Place, change: impl FnOnce(&mut Recorded)) {
        if let Some(place) = place {
            self.requests.send_modify(|requests| {
                if let Some(recorded) = requests.get_mut(place) {
                    change(recorded);
                }
            });
        }
    }

    pub(super) async fn wait<T>(
        &self,
        timeout: Duration,
        mut found: impl FnMut(&[Recorded]) -> Option<T>,
    ) -> Result<T, WaitedTooLong> {
        let mut changes = self.requests.subscribe();
        let wait = async {
            let mut result = None;
            let seen = changes.wait_for(|requests| {
                result = found(requests);
                result.is_some()
            });
            drop(seen.await);
            result
        };
        tokio::time::timeout(timeout, wait).await.ok().flatten().ok_or(WaitedTooLong)
    }

    pub(super) async fn wait_for_connections(&self, n: usize, timeout: Duration) -> Result<(), WaitedTooLong> {
        let mut changes = self.connections.subscribe();
        let wait = async { changes.wait_for(|connections| connections.open == n).await.is_ok() };
        match tokio::time::timeout(timeout, wait).await {
            Ok(true) => Ok(()),
            _ => Err(WaitedTooLong),
        }
    }
}
