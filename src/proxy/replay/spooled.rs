//! A body that streams: what has been read of it comes from a spool, the rest from the client, and goes there too.

use std::time::{Duration, Instant};

use bytes::Bytes;
use dgx_gateway_filter::FilterError;
use dgx_gateway_filter::body::Patch;
use pingora::protocols::http::ServerSession;

use super::source::SLICE;
use super::splice::Splice;
use crate::proxy::body::{READ_TIMEOUT, ReadError, too_late};
use crate::proxy::spool::Spool;

/// What was read of a body before the engine took over.
#[derive(Debug)]
pub(in crate::proxy) struct Beginning {
    /// Its bytes.
    pub spool: Spool,
    /// Whether there is no more.
    pub complete: bool,
    /// Most bytes of the whole body.
    pub max_bytes: usize,
}

/// A body of which the beginning has been read.
pub(super) struct SpooledSource {
    spool: Spool,
    /// Whether the body may have to be sent again.
    keep: bool,
    complete: bool,
    max_bytes: usize,
    /// Bytes that the client has sent.
    received: usize,
    /// The last of these, while it is not in the spool yet.
    pending: Option<Bytes>,
    /// Bytes that were handed out, as they came.
    handed: usize,
    splice: Splice,
    /// Pieces that came from the client since this was last asked.
    fresh: Vec<Bytes>,
}

impl SpooledSource {
    pub(super) fn new(beginning: Beginning) -> Self {
        Self {
            received: beginning.spool.len(),
            spool: beginning.spool,
            keep: true,
            complete: beginning.complete,
            max_bytes: beginning.max_bytes,
            pending: None,
            handed: 0,
            splice: Splice::default(),
            fresh: Vec::new(),
        }
    }

    /// An attempt begins: from the start of the body, with patches of its own.
    pub(super) fn rewind(&mut self, patches: Vec<Patch>) {
        self.handed = 0;
        self.splice = Splice::new(patches);
    }

    /// Whether all of it has been handed out.
    pub(super) fn exhausted(&self) -> bool {
        self.complete && self.handed == self.received
    }

    /// Whether the client has sent all of it.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes that the client has sent.
    pub(super) fn received(&self) -> usize {
        self.received
    }

    /// The body will not be sent again: once what is in the spool has been handed out, it is let go.
    pub(super) fn forget(&mut self) {
        self.keep = false;
        if self.handed >= self.spool.len() {
            self.spool.clear();
        }
    }

    /// Pieces that came from the client since this was last asked.
    pub(super) fn take_fresh(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.fresh)
    }

    /// The next piece, never an empty one; `None` at the end. While it waits for the client, a client that leaves is
    /// an error.
    ///
    /// # Errors
    /// The client left, or the rest of the body is refused.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing: what was read is in `pending` until it is in the spool.
    pub(super) async fn next(
        &mut self,
        client: &mut ServerSession,
        until: Option<Instant>,
    ) -> Result<Option<Bytes>, ReadError> {
        loop {
            let spooled = self.spool.len();
            let piece = if self.handed < spooled {
                self.spool.read(self.handed, SLICE).await?
            } else if let Some(piece) = self.store_pending().await? {
                piece
            } else if self.complete {
                return Ok(None);
            } else {
                self.receive(client, until).await?;
                continue;
            };
            self.handed += piece.len();
            let piece = self.splice.pass(piece);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
    }

    /// Reads a piece that nobody asked for yet, while the upstream is not known: into the spool, as far as there is one.
    ///
    /// # Errors
    /// The client left, or the rest of the body is refused.
    ///
    /// # Cancel safety
    /// As [`SpooledSource::next`].
    pub(super) async fn read_ahead(&mut self, client: &mut ServerSession) -> Result<(), ReadError> {
        if self.pending.is_none() {
            self.receive(client, None).await?;
        }
        self.store_pending().await.map(drop)
    }

    /// Puts what came last into the spool; `None` when it is there already.
    async fn store_pending(&mut self) -> Result<Option<Bytes>, ReadError> {
        let Some(piece) = self.pending.clone() else { return Ok(None) };
        if self.keep {
            self.spool.append(&piece).await?;
        }
        self.pending = None;
        self.fresh.push(piece.clone());
        Ok(Some(piece))
    }

    async fn receive(&mut self, client: &mut ServerSession, until: Option<Instant>) -> Result<(), ReadError> {
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        let read = tokio::time::timeout(READ_TIMEOUT.min(left), client.read_request_body()).await;
        let piece = read.map_err(|_| too_late())?.map_err(ReadError::Broken)?;
        let Some(piece) = piece else {
            self.complete = true;
            return Ok(());
        };
        self.received += piece.len();
        if self.received > self.max_bytes {
            return Err(FilterError::too_large(self.max_bytes).into());
        }
        self.complete = client.is_body_done();
        self.pending = Some(piece).filter(|piece| !piece.is_empty());
        Ok(())
    }
}
