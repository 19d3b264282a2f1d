//! Chunks in, events out.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::boundary::Boundary;
use super::event::Event;

/// An event is larger than the framer was told to hold. The stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {max_event_bytes} bytes")]
pub struct TooLarge {
    /// The limit that was exceeded.
    pub max_event_bytes: usize,
}

/// Cuts a body into events.
///
/// Push a chunk, then take events until there is none; at the end of the body call [`Framer::finish`].
/// Blank lines between events, and a byte order mark at the start of the stream, belong to no event and
/// are skipped.
#[derive(Debug)]
pub struct Framer {
    max_event_bytes: usize,
    chunks: VecDeque<Bytes>,
    /// The part of the current event that earlier chunks held.
    carry: BytesMut,
    boundary: Boundary,
    /// Whether something came before the current event, if only blank lines: a byte order mark there is none.
    started: bool,
    failed: bool,
}

impl Framer {
    /// A framer that refuses events of more than `max_event_bytes`, their terminator included.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            chunks: VecDeque::new(),
            carry: BytesMut::new(),
            boundary: Boundary::default(),
            started: false,
            failed: false,
        }
    }

    /// Takes the next part of the body.
    pub fn push(&mut self, chunk: Bytes) {
        if !self.failed && !chunk.is_empty() {
            self.chunks.push_back(chunk);
        }
    }

    /// The next complete event; `None` until more of the body is pushed.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] once, when the upstream sends an event above the limit; nothing comes out after that.
    pub fn next_event(&mut self) -> Option<Result<Event, TooLarge>> {
        Some(self.next_raw()?.map(Event::parse))
    }

    /// As [`Framer::next_event`], the event as it came: for those who can tell from its bytes what it says.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn next_raw(&mut self) -> Option<Result<Bytes, TooLarge>> {
        while let Some(chunk) = self.chunks.front_mut() {
            let blanks = self.boundary.leading_blanks(chunk);
            self.started |= blanks > 0;
            chunk.advance(blanks);
            let end = self.boundary.advance(chunk);
            let part = chunk.split_to(end.unwrap_or(chunk.len()));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            if self.carry.len() + part.len() > self.max_event_bytes {
                return Some(Err(self.fail()));
            }
            if end.is_some() {
                return Some(Ok(self.complete(part)));
            }
            self.carry.extend_from_slice(&part);
        }
        None
    }

    /// The last event of a body that ended without the blank line, if it has data.
    ///
    /// Many servers leave out the last line end. Whether such data is whole is for its reader to judge.
    pub fn finish(&mut self) -> Option<Event> {
        while let Some(next) = self.next_event() {
            if let Ok(event) = next {
                return Some(event);
            }
        }
        self.boundary = Boundary::default();
        let raw = self.complete(Bytes::new());
        let event = Event::parse(raw);
        (!event.data.is_empty()).then_some(event)
    }

    /// The bytes of an event whose last part is `part`.
    fn complete(&mut self, part: Bytes) -> Bytes {
        let raw = if self.carry.is_empty() {
            part
        } else {
            self.carry.extend_from_slice(&part);
            std::mem::take(&mut self.carry).freeze()
        };
        if std::mem::replace(&mut self.started, true) { raw } else { Event::strip_mark(raw) }
    }

    fn fail(&mut self) -> TooLarge {
        self.failed = true;
        self.chunks.clear();
        self.carry = BytesMut::new();
        TooLarge { max_event_bytes: self.max_event_bytes }
    }
}
