//! Pair -> count and place of its occurrences, for training.
//!
//! In: two symbol ids. Out: their count and a range of the postings array. Open addressing in one flat array; pairs whose
//! count fell to zero are dropped when the table grows. Leaves the postings themselves to `merges`.

use crate::key;

#[derive(Clone, Copy, Debug)]
struct Slot {
    pair: u64, // left << 32 | right, FREE if unused
    count: u64,
    start: u32,
    n: u32,
}

const FREE: u64 = u64::MAX;

/// The table.
#[derive(Debug, Default)]
pub(crate) struct PairCounts {
    slots: Vec<Slot>,
    used: usize,
}

fn pack(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl PairCounts {
    /// Slot of the pair, or the free slot where it would go. The table must have a free slot.
    fn find(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = key::fold(pair ^ 0xa076_1d64_78bd_642f, 0x9e37_79b9_7f4a_7c15) as usize & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != FREE {
            at = (at + 1) & mask;
        }
        at
    }

    fn get(&mut self, left: u32, right: u32) -> Option<&mut Slot> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.find(pack(left, right));
        Some(&mut self.slots[at]).filter(|slot| slot.pair != FREE)
    }

    /// The pair's count, 0 if unknown.
    pub(crate) fn count(&mut self, left: u32, right: u32) -> u64 {
        self.get(left, right).map_or(0, |slot| slot.count)
    }

    /// Where the pair's occurrences stand, if it has any.
    pub(crate) fn postings(&mut self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.get(left, right).filter(|slot| slot.count > 0).map(|slot| (slot.start, slot.n))
    }

    /// Adds to the pair's count, sets its postings, returns the new count.
    pub(crate) fn add(&mut self, left: u32, right: u32, change: i64, start: u32, n: u32) -> u64 {
        if self.used * 3 >= self.slots.len() * 2 {
            self.grow();
        }
        let pair = pack(left, right);
        let at = self.find(pair);
        let slot = &mut self.slots[at];
        if slot.pair == FREE {
            *slot = Slot { pair, count: 0, start, n };
            self.used += 1;
        }
        let count = slot.count.checked_add_signed(change).expect("a pair never loses more than it has");
        *slot = Slot { pair, count, start, n };
        count
    }

    /// Takes from the pair's count.
    pub(crate) fn lose(&mut self, left: u32, right: u32, lost: u64) {
        let slot = self.get(left, right).expect("a pair that loses an occurrence was counted");
        slot.count = slot.count.checked_sub(lost).expect("a pair never loses more than it has");
    }

    /// Sets the pair's count to zero and returns its postings.
    pub(crate) fn take(&mut self, left: u32, right: u32) -> (u32, u32) {
        let slot = self.get(left, right).expect("only counted pairs are merged");
        slot.count = 0;
        (slot.start, slot.n)
    }

    fn grow(&mut self) {
        let live = self.slots.iter().filter(|slot| slot.pair != FREE && slot.count > 0).count();
        let size = (live * 3).next_power_of_two().max(1 << 12);
        let free = Slot { pair: FREE, count: 0, start: 0, n: 0 };
        let old = std::mem::replace(&mut self.slots, vec![free; size]);
        for slot in old.into_iter().filter(|slot| slot.pair != FREE && slot.count > 0) {
            let at = self.find(slot.pair);
            self.slots[at] = slot;
        }
        self.used = live;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_growth_and_empty_pairs_are_dropped() {
        let mut pairs = PairCounts::default();
        assert_eq!(pairs.count(1, 2), 0);
        for i in 0..20_000 {
            assert_eq!(pairs.add(i, i + 1, i64::from(i) + 1, i, 1), u64::from(i) + 1);
            if i % 2 == 0 {
                pairs.lose(i, i + 1, u64::from(i) + 1);
            }
        }
        assert!(pairs.slots.len() <= 1 << 15);
        for i in 0..20_000 {
            assert_eq!(pairs.count(i, i + 1), if i % 2 == 0 { 0 } else { u64::from(i) + 1 });
        }
        assert_eq!(pairs.take(7, 8), (7, 1));
        assert_eq!(pairs.count(7, 8), 0);
        assert_eq!(pairs.postings(7, 8), None);
    }
}
