//! Pair of ids -> rank of its merge, for encoding.
//!
//! In: two ids. Out: the rank (0 = merged first) or [`NONE`]. Open addressing, one `u64` per merge: 21 bits for each id and
//! for the rank, at most half full, so a look-up is one cache line most of the time. This bounds the vocabulary to 2^21 - 1.
//! Most pairs that are asked for are no merge: a bit set by hash, small enough for the nearest caches, answers most of these.

use crate::key;

/// No such merge.
pub(crate) const NONE: u32 = u32::MAX;
const FREE: u64 = u64::MAX;
/// Bits of an id or a rank.
pub(crate) const BITS: u32 = 21;

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct Ranks {
    slots: Vec<u64>,
    shift: u32,
    /// One bit or more for each place in `slots`; where it is 0 there is no such pair.
    maybe: Vec<u64>,
}

impl Ranks {
    /// A table of `(left, right)` in rank order. Of a pair that stands there twice the later rank counts, as in Hugging Face.
    pub(crate) fn new(pairs: impl ExactSizeIterator<Item = (u32, u32)>) -> Self {
        let mut table = Self::with_capacity(pairs.len());
        for ((left, right), rank) in pairs.zip(0..) {
            table.insert(left, right, rank);
        }
        table
    }

    /// An empty table with room for `n` pairs.
    pub(crate) fn with_capacity(n: usize) -> Self {
        let bits = (n * 2).next_power_of_two().max(64).trailing_zeros();
        Self { slots: vec![FREE; 1 << bits], shift: 64 - bits, maybe: vec![0; (4 << bits) / 64] }
    }

    /// Is the table at most half full with `n` pairs?
    pub(crate) fn has_room_for(&self, n: usize) -> bool {
        2 * n <= self.slots.len()
    }

    /// Sets the rank of a pair.
    pub(crate) fn insert(&mut self, left: u32, right: u32, rank: u32) {
        let hash = hash(left, right);
        let at = self.find(left, right, hash);
        self.slots[at] = pack(left, right) << BITS | u64::from(rank);
        let word = (hash >> 6) as usize & (self.maybe.len() - 1);
        self.maybe[word] |= 1 << (hash & 63);
    }

    #[inline(always)]
    fn find(&self, left: u32, right: u32, hash: u64) -> usize {
        let pair = pack(left, right);
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        while self.slots[at & mask] >> BITS != pair && self.slots[at & mask] != FREE {
            at += 1;
        }
        at & mask
    }

    /// Rank of the merge of `left` and `right`, or [`NONE`].
    #[inline(always)]
    pub(crate) fn get(&self, left: u32, right: u32) -> u32 {
        let hash = hash(left, right);
        let word = self.maybe[(hash >> 6) as usize & (self.maybe.len() - 1)];
        if word >> (hash & 63) & 1 == 0 {
            return NONE;
        }
        match self.slots[self.find(left, right, hash)] {
            FREE => NONE,
            slot => (slot & ((1 << BITS) - 1)) as u32,
        }
    }
}

#[inline(always)]
fn hash(left: u32, right: u32) -> u64 {
    key::fold(pack(left, right) ^ 0xa076_1d64_78bd_642f, 0x9e37_79b9_7f4a_7c15)
}

#[inline(always)]
fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << BITS | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_is_found_with_its_last_rank_and_no_other_pair_is() {
        let pairs: Vec<(u32, u32)> =
            (0..5000).map(|i| (i * 7 % 2000, i)).chain([(0, 0), (2_097_150, 2_097_150)]).collect();
        let ranks = Ranks::new(pairs.iter().copied());
        assert_eq!(ranks.get(0, 0), 5000);
        assert_eq!(ranks.get(2_097_150, 2_097_150), 5001);
        assert_eq!(ranks.get(7, 1), 1);
        assert_eq!(ranks.get(8, 1), NONE);
        assert_eq!(Ranks::new([].into_iter()).get(1, 1), NONE);
    }
}
