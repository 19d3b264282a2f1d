//! Member names: the one being read, and the set of those that the top level has.

use std::collections::HashSet;

/// Longer than any name that the gateway knows; the rest of a longer one is not kept.
const KEPT: usize = 24;
/// Names compared one by one before a hash set is made; an ordinary request has fewer.
const FEW: usize = 32;

/// FNV-1a, 64 bits: offset basis and prime.
const HASH_START: u64 = 0xCBF2_9CE4_8422_2325;
const HASH_PRIME: u64 = 0x0000_0100_0000_01B3;

/// A short text that arrives in pieces, unescaped.
#[derive(Clone, Debug)]
pub(super) struct Name {
    kept: [u8; KEPT],
    len: usize,
}

impl Name {
    pub(super) fn new() -> Self {
        Self { kept: [0; KEPT], len: 0 }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        for (slot, &byte) in self.kept.iter_mut().skip(self.len).zip(piece) {
            *slot = byte;
        }
        self.len += piece.len();
    }

    /// The whole name, or nothing when it is longer than any known one.
    pub(super) fn known(&self) -> Option<&[u8]> {
        self.kept.get(..self.len)
    }
}

/// The names of one object, as hashes. Two names with one hash count as equal, which only harms the
/// sender that made them.
#[derive(Clone, Debug)]
pub(super) struct SeenNames {
    /// Hash of the name being read.
    hash: u64,
    few: Vec<u64>,
    many: HashSet<u64>,
}

impl SeenNames {
    pub(super) fn new() -> Self {
        Self { hash: HASH_START, few: Vec::new(), many: HashSet::new() }
    }

    /// Reads on in a name.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.hash = piece.iter().fold(self.hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME));
    }

    /// Ends the name; false if it was there before.
    pub(super) fn end(&mut self) -> bool {
        let hash = std::mem::replace(&mut self.hash, HASH_START);
        if self.few.contains(&hash) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(hash);
            return true;
        }
        self.many.insert(hash)
    }
}
