//! Request bodies: what a filter needs of them, and the rope that carries a held one.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

/// How much of the request body a filter has to see before the upstream is chosen.
/// The strongest need on a route decides the plan; the core buffers only what was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyNeed {
    /// The body is not looked at.
    #[default]
    None,
    /// Each piece is seen on its way; nothing is kept.
    Chunks,
    /// The beginning of the body is read and shown to the filters, until each of them has seen enough
    /// ([`crate::Exchange::seen_enough`]). Then the upstream is chosen, and the body goes there as a stream: what was
    /// read, and what still comes. It may be patched on its way and is repeated at every attempt, but not held.
    Start,
    /// The whole body is held (within the body limit and the process-wide budget of held bytes),
    /// may be patched, and is replayed to the upstream at every attempt.
    Whole,
}

/// A body as a list of shared slices. Splicing replaces ranges without copying the rest.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    parts: Vec<Bytes>,
    len: usize,
}

/// One splice: the bytes of `range` are replaced.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Byte range in the rope as it is before any patch.
    pub range: Range<usize>,
    /// What stands there afterwards.
    pub with: Bytes,
}

impl Rope {
    /// An empty body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a piece; empty pieces are dropped.
    pub fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces in order, none of them empty.
    #[must_use]
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// Reads a range; borrows when it lies within one piece. A range past the end is cut.
    #[must_use]
    pub fn read(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let mut slices = self.slices(range).map(|(part, within)| part.get(within).unwrap_or_default());
        let first = slices.next().unwrap_or_default();
        match slices.next() {
            None => Cow::Borrowed(first),
            Some(second) => Cow::Owned([first, second].into_iter().chain(slices).collect::<Vec<_>>().concat()),
        }
    }

    /// A new rope with the patches applied; shares all other bytes.
    ///
    /// Patches must be ordered by start and must not overlap; one that breaks this, or that lies outside
    /// the rope, is left out.
    #[must_use]
    pub fn patched(&self, patches: &[Patch]) -> Self {
        let mut out = Self { parts: Vec::with_capacity(self.parts.len() + 2 * patches.len()), len: 0 };
        let mut from = 0;
        for patch in patches {
            if patch.range.start < from || patch.range.end < patch.range.start || patch.range.end > self.len {
                continue;
            }
            self.copy_into(&mut out, from..patch.range.start);
            out.push(patch.with.clone());
            from = patch.range.end;
        }
        self.copy_into(&mut out, from..self.len);
        out
    }

    /// All of it in one piece. What has been copied is let go at once, so that a large body is not there twice.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.parts.len() < 2 {
            return self.parts.pop().unwrap_or_default();
        }
        let mut whole = Vec::with_capacity(self.len);
        for part in self.parts {
            whole.extend_from_slice(&part);
        }
        whole.into()
    }

    /// The same bytes with runs of pieces below `small` bytes joined: each piece costs its receiver a write.
    #[must_use]
    pub fn joined(self, small: usize) -> Self {
        if self.parts.len() < 2 {
            return self;
        }
        let mut out = Self { parts: Vec::with_capacity(self.parts.len()), len: 0 };
        for run in self.parts.chunk_by(|a, b| a.len() < small && b.len() < small) {
            match run {
                [single] => out.push(single.clone()),
                several => out.push(several.concat().into()),
            }
        }
        out
    }

    fn copy_into(&self, out: &mut Self, range: Range<usize>) {
        for (part, within) in self.slices(range) {
            out.push(part.slice(within));
        }
    }

    /// The pieces that hold a range, each with the part of the range in it.
    fn slices(&self, range: Range<usize>) -> impl Iterator<Item = (&Bytes, Range<usize>)> {
        let mut at = 0;
        self.parts.iter().filter_map(move |part| {
            let (start, end) = (at, at + part.len());
            at = end;
            let within = range.start.max(start)..range.end.min(end);
            (within.start < within.end).then(|| (part, within.start - start..within.end - start))
        })
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        let mut rope = Self::new();
        rope.push(bytes);
        rope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn becomes_one_piece() {
        for pieces in [&[][..], &["a"], &["ab", "c"], &["a", "bc", "def"]] {
            let mut rope = Rope::new();
            pieces.iter().for_each(|piece| rope.push(Bytes::from_static(piece.as_bytes())));
            assert_eq!(rope.into_bytes(), pieces.concat());
        }
    }

    fn rope(pieces: &[Vec<u8>]) -> Rope {
        let mut rope = Rope::new();
        for piece in pieces {
            rope.push(Bytes::copy_from_slice(piece));
        }
        rope
    }

    proptest! {
        #[test]
        fn patched_equals_splicing_a_vector(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6),
            cuts in prop::collection::vec((0usize..50, 0usize..6, prop::collection::vec(any::<u8>(), 0..5)), 0..4),
        ) {
            let flat: Vec<u8> = pieces.concat();
            let mut from = 0;
            let mut patches = Vec::new();
            for (gap, width, with) in cuts {
                let start = from + gap;
                let end = start + width;
                if end > flat.len() { break; }
                patches.push(Patch { range: start..end, with: with.into() });
                from = end;
            }
            let mut expected = flat.clone();
            for patch in patches.iter().rev() {
                expected.splice(patch.range.clone(), patch.with.iter().copied());
            }
            let patched = rope(&pieces).patched(&patches);
            prop_assert_eq!(patched.parts().concat(), expected.clone());
            prop_assert_eq!(patched.len(), expected.len());
            prop_assert!(patched.parts().iter().all(|part| !part.is_empty()));
        }

        #[test]
        fn read_equals_slicing(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6), a in 0usize..60, b in 0usize..60) {
            let flat: Vec<u8> = pieces.concat();
            let (a, b) = (a.min(b), a.max(b));
            let expected = flat.get(a.min(flat.len())..b.min(flat.len())).unwrap();
            let rope = rope(&pieces);
            prop_assert_eq!(&*rope.read(a..b), expected);
        }
    }

    #[test]
    fn shares_the_bytes_it_does_not_change() {
        let big = Bytes::from(vec![7; 1 << 20]);
        let patched = Rope::from(big.clone()).patched(&[Patch { range: 10..12, with: Bytes::from_static(b"xyz") }]);
        assert_eq!(patched.parts()[0].as_ptr(), big.as_ptr());
        assert_eq!(patched.parts()[2].as_ptr(), big.slice(12..).as_ptr());
        assert_eq!(patched.len(), big.len() + 1);
    }

    #[test]
    fn small_pieces_are_joined_and_large_ones_stay() {
        let joined = rope(&[vec![1], vec![2; 3], vec![3; 9], vec![4], vec![5]]).joined(5);
        let lengths: Vec<usize> = joined.parts().iter().map(Bytes::len).collect();
        assert_eq!((lengths, joined.len()), (vec![4, 9, 2], 15));
        assert_eq!(rope(&[vec![1], vec![2]]).joined(5).parts().len(), 1);
    }

    #[test]
    fn leaves_out_a_patch_that_lies_outside() {
        let patched = Rope::from(Bytes::from_static(b"abc")).patched(&[Patch { range: 2..9, with: Bytes::new() }]);
        assert_eq!(patched.parts().concat(), b"abc");
    }
}
