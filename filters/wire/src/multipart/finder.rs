//! Finds a delimiter in a body that comes in pieces.

use memchr::memmem;

/// Looks for one delimiter.
#[derive(Debug)]
pub(super) struct Finder {
    finder: memmem::Finder<'static>,
    /// Bytes of the delimiter that the pieces so far end with.
    matched: usize,
}

impl Finder {
    pub(super) fn new(delimiter: &[u8]) -> Self {
        Self { finder: memmem::Finder::new(delimiter).into_owned(), matched: 0 }
    }

    /// As if the pieces so far ended with the first `matched` bytes of the delimiter.
    pub(super) fn begin_with(&mut self, matched: usize) {
        self.matched = matched;
    }

    /// Looks at the next piece. Gives what is certainly content (first what was held back of earlier pieces, then how
    /// many bytes of this one), and how many bytes were used when the delimiter ends in this piece.
    pub(super) fn look(&mut self, piece: &[u8]) -> Found {
        let delimiter = self.finder.needle();
        let earlier = self.matched;
        if earlier > 0 {
            // does what was held back, with this piece, go on to be the delimiter, at any of its starts?
            for skipped in 0..earlier {
                let kept = earlier - skipped;
                let wanted = delimiter.get(kept..).unwrap_or_default();
                let begins = delimiter.get(skipped..earlier) == delimiter.get(..kept);
                let here = wanted.len().min(piece.len());
                if begins && wanted.get(..here) == piece.get(..here) {
                    if here == wanted.len() {
                        self.matched = 0;
                        return Found { released: skipped, content: 0, ends: Some(here) };
                    }
                    self.matched = kept + here;
                    return Found { released: skipped, content: 0, ends: None };
                }
            }
            self.matched = 0;
        }
        if let Some(at) = self.finder.find(piece) {
            return Found { released: earlier, content: at, ends: Some(at + delimiter.len()) };
        }
        let longest = piece.len().min(delimiter.len() - 1);
        let tail = (1..=longest).rev().find(|tail| piece.get(piece.len() - tail..) == delimiter.get(..*tail));
        self.matched = tail.unwrap_or(0);
        Found { released: earlier, content: piece.len() - self.matched, ends: None }
    }
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of earlier pieces that turned out to be content: the first so many of the delimiter.
    pub(super) released: usize,
    /// Bytes of this piece that are content.
    pub(super) content: usize,
    /// The delimiter ends behind so many bytes of this piece.
    pub(super) ends: Option<usize>,
}
