//! Patches in a body that passes piece by piece.

use bytes::{Bytes, BytesMut};
use dgx_gateway_filter::body::Patch;

/// The patches of one attempt, and how far the body has passed.
#[derive(Default)]
pub(super) struct Splice {
    patches: Vec<Patch>,
    /// Patches that lie behind.
    done: usize,
    /// Place in the body as it came.
    at: usize,
}

impl Splice {
    /// The patches are ordered by start and do not overlap; one that breaks this is left out.
    pub(super) fn new(patches: Vec<Patch>) -> Self {
        Self { patches: ordered(patches), done: 0, at: 0 }
    }

    /// The next piece of the body as it goes out. What stands for a range leaves at its start.
    pub(super) fn pass(&mut self, piece: Bytes) -> Bytes {
        let (start, end) = (self.at, self.at + piece.len());
        self.at = end;
        if self.patches.get(self.done).is_none_or(|patch| patch.range.start >= end) {
            return piece;
        }
        let mut out = BytesMut::with_capacity(piece.len());
        let mut from = start;
        while let Some(patch) = self.patches.get(self.done).filter(|patch| patch.range.start < end) {
            if patch.range.start >= start {
                out.extend_from_slice(piece.get(from - start..patch.range.start - start).unwrap_or_default());
                out.extend_from_slice(&patch.with);
            }
            from = patch.range.end.min(end);
            if patch.range.end > end {
                break; // goes on in the next piece
            }
            self.done += 1;
        }
        out.extend_from_slice(piece.get(from - start..).unwrap_or_default());
        out.freeze()
    }
}

/// Leaves out what cannot be applied: an empty range, or one that does not lie behind the one before.
fn ordered(patches: Vec<Patch>) -> Vec<Patch> {
    let mut from = 0;
    patches
        .into_iter()
        .filter(|patch| {
            let fits = patch.range.start >= from && patch.range.start < patch.range.end;
            from = if fits { patch.range.end } else { from };
            fits
        })
        .collect()
}

/// Length of a body of `length` bytes with the patches in it.
pub(super) fn patched_length(length: usize, patches: &[Patch]) -> usize {
    let applied = ordered(patches.to_vec());
    let applied = applied.iter().filter(|patch| patch.range.end <= length);
    applied.fold(length, |length, patch| (length + patch.with.len()).saturating_sub(patch.range.len()))
}

#[cfg(test)]
mod tests {
    use dgx_gateway_filter::Rope;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_it_is_cut_it_equals_the_patched_rope(
            body in prop::collection::vec(any::<u8>(), 1..60),
            cuts in prop::collection::vec((0usize..20, 1usize..8, prop::collection::vec(any::<u8>(), 0..6)), 0..4),
            steps in prop::collection::vec(1usize..9, 1..5),
        ) {
            let (mut from, mut patches) = (0, Vec::new());
            for (gap, width, with) in cuts {
                let range = from + gap..from + gap + width;
                if range.end > body.len() { break; }
                from = range.end;
                patches.push(Patch { range, with: with.into() });
            }
            let expected = Rope::from(Bytes::from(body.clone())).patched(&patches).parts().concat();
            prop_assert_eq!(patched_length(body.len(), &patches), expected.len());
            let mut splice = Splice::new(patches);
            let (mut out, mut rest, mut step) = (Vec::new(), Bytes::from(body), steps.iter().cycle());
            while !rest.is_empty() {
                let piece = rest.split_to(rest.len().min(*step.next().unwrap()));
                out.extend_from_slice(&splice.pass(piece));
            }
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_piece_without_a_patch_is_not_copied() {
        let piece = Bytes::from_static(b"0123456789");
        let mut splice = Splice::new(vec![Patch { range: 12..13, with: Bytes::new() }]);
        assert_eq!(splice.pass(piece.clone()).as_ptr(), piece.as_ptr());
        assert_eq!(&splice.pass(Bytes::from_static(b"abcd"))[..], b"abd");
    }
}
