//! Where the body of an attempt comes from: a rope that is held, or a spool and the client behind it.

use bytes::Bytes;
use dgx_gateway_filter::Rope;

use super::spooled::SpooledSource;

/// Largest slice given to the engine at once: 128 KiB keeps the watch on the client and the time limits close.
pub(super) const SLICE: usize = 128 * 1024;

/// Either kind.
pub(super) enum Source {
    /// Read completely, in memory.
    Held(HeldSource),
    /// It streams.
    Spooled(Box<SpooledSource>),
}

impl Source {
    /// Whether all of it has been handed out.
    pub(super) fn exhausted(&self) -> bool {
        match self {
            Self::Held(held) => held.exhausted(),
            Self::Spooled(spooled) => spooled.exhausted(),
        }
    }

    /// The body will not be sent again: what is not needed any more is let go.
    pub(super) fn forget(&mut self) {
        match self {
            Self::Held(held) => held.forget(),
            Self::Spooled(spooled) => spooled.forget(),
        }
    }
}

/// A held body, and how far it has been handed out.
#[derive(Default)]
pub(super) struct HeldSource {
    parts: Rope,
    part: usize,
    offset: usize,
}

impl HeldSource {
    /// At the start of a body.
    pub(super) fn new(parts: Rope) -> Self {
        Self { parts, part: 0, offset: 0 }
    }

    /// Whether all of it has been handed out.
    pub(super) fn exhausted(&self) -> bool {
        self.part >= self.parts.parts().len()
    }

    /// The next slice; nothing is copied.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let part = self.parts.parts().get(self.part)?;
        let end = part.len().min(self.offset + SLICE);
        let slice = part.slice(self.offset..end);
        (self.part, self.offset) = if end == part.len() { (self.part + 1, 0) } else { (self.part, end) };
        Some(slice)
    }

    /// The body will not be sent again: once it has been handed out, it is let go.
    pub(super) fn forget(&mut self) {
        if self.exhausted() {
            *self = Self::default();
        }
    }
}
