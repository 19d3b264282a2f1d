//! What the targets share.
//!
//! Inputs are plain files of the format that is read, so that seeds can be written by hand. Where an input is cut into
//! pieces follows from its own bytes.

/// Numbers that follow from some bytes, always the same ones (FNV-1a to begin with, then splitmix64).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The numbers of an input.
    pub fn of(input: &[u8]) -> Self {
        Self(
            input
                .iter()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)),
        )
    }

    /// The next one, below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap_or(0)
    }

    /// Cuts an input into pieces, some of them empty; every sixteenth input into single bytes.
    pub fn pieces<'a>(&mut self, input: &'a [u8]) -> Vec<&'a [u8]> {
        if self.below(16) == 0 {
            return input.chunks(1).collect();
        }
        let count = self.below(9);
        let mut places: Vec<usize> = (0..count).map(|_| self.below(input.len() + 1)).collect();
        places.sort_unstable();
        let ends = places.iter().copied().chain([input.len()]);
        let starts = [0].into_iter().chain(places.iter().copied());
        starts.zip(ends).map(|(start, end)| &input[start..end]).collect()
    }
}
