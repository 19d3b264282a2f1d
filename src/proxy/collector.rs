//! Bodies that come in pieces of any size, held in a bounded number of parts.
//!
//! Nothing grows in place: a buffer that doubles holds up to three times what has come.

use bytes::{Bytes, BytesMut};
use dgx_gateway_filter::Rope;

/// Pieces below this size are joined, so that a body sent byte by byte does not become a rope of bytes.
const SMALL_PIECE: usize = 4 * 1024;
/// Joined pieces are handed over at this size.
const JOINED_PIECE: usize = 64 * 1024;

/// What has come of a body.
#[derive(Default)]
pub(super) struct Collector {
    rope: Rope,
    joined: BytesMut,
}

impl Collector {
    pub(super) fn len(&self) -> usize {
        self.rope.len() + self.joined.len()
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL_PIECE {
            self.joined.extend_from_slice(&piece);
            if self.joined.len() >= JOINED_PIECE {
                self.flush();
            }
        } else {
            self.flush();
            self.rope.push(piece);
        }
    }

    fn flush(&mut self) {
        self.rope.push(self.joined.split().freeze());
    }

    /// All of it, in parts.
    pub(super) fn finish(mut self) -> Rope {
        self.flush();
        self.rope
    }

    /// All of it, in one part.
    pub(super) fn into_bytes(mut self) -> Bytes {
        if self.rope.is_empty() {
            return self.joined.freeze();
        }
        self.flush();
        self.rope.into_bytes()
    }

    /// Its first bytes, at most so many.
    pub(super) fn beginning(self, most: usize) -> Bytes {
        self.finish().read(0..most).into_owned().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_sent_byte_by_byte_becomes_few_parts() {
        let mut collector = Collector::default();
        for _ in 0..200_000 {
            collector.push(Bytes::from_static(b"x"));
        }
        collector.push(Bytes::from(vec![b'y'; SMALL_PIECE]));
        let rope = collector.finish();
        assert_eq!(rope.len(), 200_000 + SMALL_PIECE);
        assert!(rope.parts().len() <= 5, "{}", rope.parts().len());
    }

    #[test]
    fn all_of_it_is_one_part_whatever_it_came_in() {
        let sizes = [&[][..], &[3], &[SMALL_PIECE], &[3, 4], &[3, SMALL_PIECE], &[SMALL_PIECE, 1, SMALL_PIECE + 1, 5]];
        for sizes in sizes {
            let mut collector = Collector::default();
            let mut expected = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let piece = vec![u8::try_from(index).unwrap(); *size];
                expected.extend_from_slice(&piece);
                collector.push(piece.into());
                assert_eq!(collector.len(), expected.len());
            }
            assert_eq!(collector.into_bytes(), expected, "{sizes:?}");
        }
    }

    #[test]
    fn its_beginning_is_cut_and_may_lie_in_several_parts() {
        for (most, expected) in [(0, ""), (2, "ab"), (3, "abc"), (9, "abc")] {
            let mut collector = Collector::default();
            ["a", "b", "c"].into_iter().for_each(|piece| collector.push(Bytes::from_static(piece.as_bytes())));
            assert_eq!(collector.beginning(most), expected);
        }
        let mut collector = Collector::default();
        [&b"x"[..], &[b'y'; SMALL_PIECE], b"z"].into_iter().for_each(|piece| collector.push(piece.to_vec().into()));
        assert_eq!(collector.beginning(3), "xyy");
    }
}
