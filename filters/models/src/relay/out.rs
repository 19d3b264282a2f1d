//! What leaves at one time.

use bytes::{Bytes, BytesMut};

/// Events that leave together: one stays as it is, several are joined.
#[derive(Default)]
pub(super) struct Out {
    first: Option<Bytes>,
    joined: BytesMut,
}

impl Out {
    /// Adds one.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        match self.first.take() {
            None if self.joined.is_empty() => self.first = Some(bytes),
            None => self.joined.extend_from_slice(&bytes),
            Some(first) => {
                self.joined.extend_from_slice(&first);
                self.joined.extend_from_slice(&bytes);
            }
        }
    }

    /// All of them.
    pub(super) fn take(self) -> Option<Bytes> {
        self.first.or_else(|| (!self.joined.is_empty()).then(|| self.joined.freeze()))
    }
}
