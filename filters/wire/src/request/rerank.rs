//! The `documents` of a rerank request: their form and their caps.

use super::finding::{Location, Problem};
use super::json::Kind;

/// Most documents of one request (specification of the gateway, rerank).
pub const MAX_DOCUMENTS: usize = 1000;
/// Most UTF-8 bytes of one document (same place).
pub const MAX_DOCUMENT_BYTES: u64 = 32_768;

/// The state of the check; one method per event, each of which may give a problem and its place.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Documents {
    /// Elements begun.
    begun: usize,
    /// UTF-8 bytes of the open one.
    bytes: u64,
    /// Whether the open one has text.
    has_text: bool,
}

type Found = Option<(Problem, Location)>;

impl Documents {
    /// The value of `documents` begins.
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    pub(super) fn end(self, kind: Kind) -> Found {
        (kind == Kind::Array && self.begun == 0).then_some((Problem::DocumentsCount, Location::Documents))
    }

    /// An element begins.
    pub(super) fn begin_document(&mut self, kind: Kind) -> Found {
        self.begun += 1;
        self.bytes = 0;
        self.has_text = kind == Kind::String;
        if self.begun == MAX_DOCUMENTS + 1 {
            return Some((Problem::DocumentsCount, Location::Documents));
        }
        (!matches!(kind, Kind::Object | Kind::String)).then(|| (Problem::DocumentType, self.document()))
    }

    pub(super) fn end_document(self, kind: Kind) -> Found {
        if kind == Kind::Object && !self.has_text {
            return Some((Problem::DocumentType, self.document()));
        }
        (self.bytes > MAX_DOCUMENT_BYTES).then(|| (Problem::DocumentTooLarge, self.document()))
    }

    /// The text of an object begins.
    pub(super) fn begin_text(&mut self, kind: Kind) -> Found {
        self.has_text = true;
        (kind != Kind::String).then(|| (Problem::DocumentType, self.document()))
    }

    /// Content of the open string.
    pub(super) fn text(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
    }

    fn document(self) -> Location {
        Location::Document(self.begun.saturating_sub(1))
    }
}
