//! Member names: the one being read, and the set of those that the top level has.

use std::collections::HashSet;

/// Longer than any name that the gateway knows; the rest of a longer one is hashed but not kept.
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
    hash: u64,
}

impl Name {
    pub(super) fn new() -> Self {
        Self { kept: [0; KEPT], len: 0, hash: HASH_START }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        for (slot, &byte) in self.kept.iter_mut().skip(self.len).zip(piece) {
            *slot = byte;
        }
        self.len += piece.len();
        self.hash = piece.iter().fold(self.hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME));
    }

    /// The whole name, or nothing when it is longer than any known one.
    pub(super) fn known(&self) -> Option<&[u8]> {
        self.kept.get(..self.len)
    }
}

/// The names of one object, as hashes. Two names with one hash count as equal, which only harms the
/// sender that made them.
#[derive(Clone, Debug, Default)]
pub(super) struct SeenNames {
    few: Vec<u64>,
    many: HashSet<u64>,
}

impl SeenNames {
    /// Adds a name; false if it was there.
    pub(super) fn insert(&mut self, name: &Name) -> bool {
        if self.few.contains(&name.hash) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(name.hash);
            return true;
        }
        self.many.insert(name.hash)
    }
}
