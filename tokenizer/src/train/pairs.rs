//! Pair -> count and place of its occurrences, for training.
//!
//! In: two symbol ids. Out: their count and a range of the postings array. Open addressing in one flat array; pairs whose
//! count fell to zero are dropped when the table grows. Leaves the postings themselves to `merges`.

use crate::key;

/// One pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pair: u64, // left << 32 | right, FREE if unused
    pub(super) count: u64,
    pub(super) start: u32,
    pub(super) n: u32,
}

impl Slot {
    pub(super) fn symbols(&self) -> (u32, u32) {
        ((self.pair >> 32) as u32, self.pair as u32)
    }
}

const FREE: u64 = u64::MAX;
const FREE_SLOT: Slot = Slot { pair: FREE, count: 0, start: 0, n: 0 };

/// The table.
#[derive(Debug, Default)]
pub(super) struct PairCounts {
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

    /// The pair's slot, if it has one.
    pub(super) fn get(&mut self, left: u32, right: u32) -> Option<&mut Slot> {
        if self.slots.is_empty() {
            return None;
        }
        let at = self.find(pack(left, right));
        Some(&mut self.slots[at]).filter(|slot| slot.pair != FREE)
    }

    /// The pair's slot, made with count 0 if it has none.
    fn entry(&mut self, left: u32, right: u32) -> &mut Slot {
        if self.used * 3 >= self.slots.len() * 2 {
            self.keep(1);
        }
        let pair = pack(left, right);
        let at = self.find(pair);
        let slot = &mut self.slots[at];
        if slot.pair == FREE {
            slot.pair = pair;
            self.used += 1;
        }
        slot
    }

    /// The pair's count, 0 if unknown.
    pub(super) fn count(&mut self, left: u32, right: u32) -> u64 {
        self.get(left, right).map_or(0, |slot| slot.count)
    }

    /// Where the pair's occurrences stand, if it has any.
    pub(super) fn postings(&mut self, left: u32, right: u32) -> Option<(u32, u32)> {
        self.get(left, right).filter(|slot| slot.count > 0).map(|slot| (slot.start, slot.n))
    }

    /// Adds to the pair's count, sets its postings, returns the new count.
    pub(super) fn add(&mut self, left: u32, right: u32, change: i64, start: u32, n: u32) -> u64 {
        let slot = self.entry(left, right);
        let count = slot.count.checked_add_signed(change).expect("a pair never loses more than it has");
        *slot = Slot { count, start, n, ..*slot };
        count
    }

    /// Counts one occurrence of a pair whose postings are not written yet.
    pub(super) fn add_one(&mut self, left: u32, right: u32, weight: u64) {
        let slot = self.entry(left, right);
        slot.count += weight;
        slot.n += 1;
    }

    /// Takes from the pair's count. Unless the table is `complete` the pair may be one that was forgotten.
    pub(super) fn lose(&mut self, left: u32, right: u32, lost: u64, complete: bool) {
        match self.get(left, right) {
            Some(slot) => slot.count = slot.count.checked_sub(lost).expect("a pair never loses more than it has"),
            None => assert!(!complete, "a pair that loses an occurrence was counted because the table is complete"),
        }
    }

    /// Sets the pair's count to zero and returns its postings.
    pub(super) fn take(&mut self, left: u32, right: u32) -> Option<(u32, u32)> {
        let slot = self.get(left, right)?;
        slot.count = 0;
        Some((slot.start, slot.n))
    }

    /// All pairs, in no useful order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut().filter(|slot| slot.pair != FREE)
    }

    /// The n-th highest count, from 1; 0 if there are fewer pairs.
    pub(super) fn nth_count(&self, n: usize) -> u64 {
        let mut counts: Vec<u64> = self.slots.iter().filter(|slot| slot.pair != FREE).map(|slot| slot.count).collect();
        match n.checked_sub(1).filter(|&n| n < counts.len()) {
            Some(n) => *counts.select_nth_unstable_by(n, |a, b| b.cmp(a)).1,
            None => 0,
        }
    }

    /// Forgets all pairs.
    pub(super) fn clear(&mut self) {
        self.slots.fill(FREE_SLOT);
        self.used = 0;
    }

    /// Drops pairs that occur less often than `least`, and makes room.
    pub(super) fn keep(&mut self, least: u64) {
        let kept = |slot: &Slot| slot.pair != FREE && slot.count >= least;
        let live = self.slots.iter().filter(|slot| kept(slot)).count();
        let size = (live * 3).next_power_of_two().max(1 << 12);
        let old = std::mem::replace(&mut self.slots, vec![FREE_SLOT; size]);
        for slot in old.into_iter().filter(kept) {
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
                pairs.lose(i, i + 1, u64::from(i) + 1, true);
            }
        }
        assert!(pairs.slots.len() <= 1 << 15);
        for i in 0..20_000 {
            assert_eq!(pairs.count(i, i + 1), if i % 2 == 0 { 0 } else { u64::from(i) + 1 });
        }
        assert_eq!(pairs.take(7, 8), Some((7, 1)));
        assert_eq!(pairs.count(7, 8), 0);
        assert_eq!(pairs.postings(7, 8), None);
        pairs.lose(1, 9, 5, false); // forgotten
        assert_eq!((pairs.nth_count(1), pairs.nth_count(3), pairs.nth_count(50_000)), (20_000, 19_996, 0));
        pairs.keep(15_000);
        assert_eq!((pairs.count(15_001, 15_002), pairs.count(13_001, 13_002)), (15_002, 0));
        pairs.clear();
        assert_eq!(pairs.iter_mut().count(), 0);
    }
}
