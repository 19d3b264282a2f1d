//! The client's session, and writes to it that the engine does not know of.
//!
//! The engine stops waiting for the client as soon as the upstream has something, and drops what it waited with. A
//! write that was under way then would be cut in the middle of its bytes. So such a write takes the session with it
//! and is kept; whoever needs the session next lets it end first.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};

type Written = (Box<ServerSession>, Result<bool>);

/// The session, or a write that has it.
pub(super) enum Genuine {
    Here(Box<ServerSession>),
    /// Only while it changes hands.
    Moving,
    Writing(Box<Writing>),
}

/// A write under way.
pub(super) struct Writing {
    /// Never locked for long: the lock only lets the owner be shared between threads.
    work: Mutex<Pin<Box<dyn Future<Output = Written> + Send>>>,
    seen: Seen,
}

/// What others may ask of the session meanwhile.
struct Seen {
    request: RequestHeader,
    response: Option<ResponseHeader>,
    client: Option<SocketAddr>,
    bytes_sent: usize,
    bytes_read: usize,
}

impl Genuine {
    /// The session, unless a write has it.
    pub(super) fn session(&self) -> Option<&ServerSession> {
        match self {
            Self::Here(session) => Some(session),
            Self::Moving | Self::Writing(_) => None,
        }
    }

    /// The same, to change it.
    pub(super) fn session_mut(&mut self) -> Option<&mut ServerSession> {
        match self {
            Self::Here(session) => Some(session),
            Self::Moving | Self::Writing(_) => None,
        }
    }

    /// The session, once no write has it any more.
    ///
    /// # Errors
    /// The write failed.
    ///
    /// # Cancel safety
    /// The write goes on at the next call.
    pub(super) async fn ready(&mut self) -> Result<&mut ServerSession> {
        if let Self::Writing(writing) = self {
            let work = writing.work.get_mut().unwrap_or_else(PoisonError::into_inner);
            let (session, written) = work.await;
            *self = Self::Here(session);
            written?;
        }
        self.session_mut().ok_or_else(|| Error::explain(ErrorType::InternalError, "the session is not there"))
    }

    /// Begins a write that [`Genuine::ready`] ends.
    pub(super) fn write(&mut self, tasks: Vec<HttpTask>) {
        match std::mem::replace(self, Self::Moving) {
            Self::Here(mut session) => {
                let seen = Seen {
                    request: session.req_header().clone(),
                    response: session.response_written().cloned(),
                    client: session.client_addr().cloned(),
                    bytes_sent: session.body_bytes_sent(),
                    bytes_read: session.body_bytes_read(),
                };
                let work = Mutex::new(Box::pin(async move {
                    let written = session.response_duplex_vec(tasks).await;
                    (session, written)
                }) as Pin<Box<_>>);
                *self = Self::Writing(Box::new(Writing { work, seen }));
            }
            other => *self = other,
        }
    }

    /// Gives the session away, if no write has it.
    pub(super) fn take(&mut self) -> Option<Box<ServerSession>> {
        match std::mem::replace(self, Self::Moving) {
            Self::Here(session) => Some(session),
            Self::Moving | Self::Writing(_) => None,
        }
    }

    #[expect(clippy::expect_used, reason = "it is moving only inside of the functions of this file")]
    fn seen(&self) -> &Seen {
        match self {
            Self::Writing(writing) => Some(&writing.seen),
            Self::Here(_) | Self::Moving => None,
        }
        .expect("the session does not move while it is looked at")
    }

    pub(super) fn req_header(&self) -> &RequestHeader {
        self.session().map_or_else(|| &self.seen().request, ServerSession::req_header)
    }

    #[expect(clippy::expect_used, reason = "it is moving only inside of the functions of this file")]
    pub(super) fn req_header_mut(&mut self) -> &mut RequestHeader {
        match self {
            Self::Here(session) => Some(session.req_header_mut()),
            Self::Writing(writing) => Some(&mut writing.seen.request),
            Self::Moving => None,
        }
        .expect("the session does not move while it is looked at")
    }

    pub(super) fn response_written(&self) -> Option<&ResponseHeader> {
        self.session().map_or_else(|| self.seen().response.as_ref(), ServerSession::response_written)
    }

    pub(super) fn client_addr(&self) -> Option<&SocketAddr> {
        self.session().map_or_else(|| self.seen().client.as_ref(), ServerSession::client_addr)
    }

    pub(super) fn body_bytes_sent(&self) -> usize {
        self.session().map_or_else(|| self.seen().bytes_sent, ServerSession::body_bytes_sent)
    }

    pub(super) fn body_bytes_read(&self) -> usize {
        self.session().map_or_else(|| self.seen().bytes_read, ServerSession::body_bytes_read)
    }
}
