//! The sending half of an exchange: what of a request is on its way to the upstream.

use std::future::poll_fn;

use bytes::Bytes;
use h2::{Reason, SendStream};
use pingora::protocols::http::HttpTask;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};

/// What happened next in an exchange.
pub(super) enum Step {
    /// The upstream sent this.
    Answer(HttpTask),
    /// The client sent this, or its end.
    Read(Option<Bytes>),
    /// The upstream took something.
    Sent,
}

/// Who failed.
pub(super) enum Failed {
    Client(Box<Error>),
    Sending(h2::Error),
    Upstream(Box<Error>),
}

/// What of a request is on its way to the upstream: at most one piece of the client.
pub(super) struct Upload {
    writer: SendStream<Bytes>,
    piece: Bytes,
    /// The piece is the last one.
    end: bool,
    /// Everything was sent.
    done: bool,
    /// The upstream takes nothing more.
    broken: bool,
}

impl Upload {
    pub(super) fn new(writer: SendStream<Bytes>) -> Self {
        Self { writer, piece: Bytes::new(), end: false, done: false, broken: false }
    }

    /// The next piece of the client, once nothing waits.
    pub(super) fn put(&mut self, piece: Bytes, end: bool) {
        self.piece = piece;
        self.end = end;
    }

    /// The upstream takes nothing more; what the client still sends is not read.
    pub(super) fn give_up(&mut self) {
        self.broken = true;
    }

    /// The exchange is over. A request that is not complete, or whose answer nobody wants, is cancelled.
    pub(super) fn finish(&mut self, answered: bool) {
        if !answered || !self.done {
            self.writer.send_reset(Reason::CANCEL);
        }
    }

    fn waits(&self) -> bool {
        !self.done && !self.broken && (self.end || !self.piece.is_empty())
    }

    /// Sends as much as the upstream takes now; waits until it takes something.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    async fn send(&mut self) -> Result<(), h2::Error> {
        let wanted = self.piece.len();
        let mut room = self.writer.capacity().min(wanted);
        if wanted > 0 && room == 0 {
            self.writer.reserve_capacity(wanted);
            room = match poll_fn(|cx| self.writer.poll_capacity(cx)).await {
                Some(room) => room?.min(wanted),
                None => return Err(Reason::STREAM_CLOSED.into()),
            };
            if room == 0 {
                return Ok(()); // it was taken back
            }
        }
        let part = self.piece.split_to(room);
        let last = self.end && self.piece.is_empty();
        self.writer.send_data(part, last)?;
        self.done = last;
        Ok(())
    }

    /// Sends what waits, and else reads what the client sends; watches meanwhile whether it is still there.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(super) async fn step(&mut self, session: &mut Session) -> Result<Step, Failed> {
        if !self.waits() && !self.broken {
            let read = session.downstream_session.read_body_or_idle(self.done).await;
            return read.map(Step::Read).map_err(Failed::Client);
        }
        let gone = async {
            match session.downstream_session.watch_h2_stream_close() {
                None => std::future::pending().await, // what it sends next cannot be read yet
                Some(left) => left.await,
            }
        };
        tokio::select! {
            biased;
            sent = self.send(), if !self.broken => sent.map(|()| Step::Sent).map_err(Failed::Sending),
            reason = gone => {
                let reason = reason.map_err(Failed::Client)?;
                Err(Failed::Client(Error::explain(ErrorType::H2Error, format!("the client left: {reason}"))))
            }
        }
    }
}
