//! Piece -> ids, remembered. One per thread, bounded, never wrong.
//!
//! In: a piece. Out: the ids found for it before, if it still is there. Two tables: pieces of at most 15 bytes with at most
//! four ids live in 32-byte slots, two to a set (one cache line); others in a direct-mapped table with an arena that is
//! thrown away when full. The first table begins small and grows with the number of different pieces up to its limit. Keys
//! are compared in full, so a hash collision costs time only. Leaves merging to `bpe`.

use std::ops::{Deref, DerefMut};

use memmap2::{MmapMut, MmapOptions};

use crate::key;

/// Sets at first (512 KiB), doubled when one in sixteen had to forget a piece, and at most: 1,048,576 pieces in 32 MiB. A 50 MB corpus in 25 languages
/// has 385,000 different pieces.
const FIRST_SETS: usize = 1 << 13;
const MOST_SETS: usize = 1 << 19;
const LONG_SLOTS: usize = 1 << 16;
/// Bytes and ids kept for long pieces before they are dropped.
const LONG_LIMIT: usize = 1 << 22;
/// Longer pieces are not remembered.
pub(crate) const LONGEST: usize = 256;

/// Number of ids, above the first id.
const COUNT_SHIFT: u32 = 24;
const ID: u32 = (1 << COUNT_SHIFT) - 1;

/// A short piece and its ids; a free slot has key 0, which no piece has. `ids[0]` holds their number too.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub(crate) struct Slot {
    key: [u64; 2],
    ids: [u32; 4],
}

impl Slot {
    /// The ids, of which [`Slot::count`] are meant.
    #[inline(always)]
    pub(crate) fn ids(&self) -> [u32; 4] {
        let [first, rest @ ..] = self.ids;
        [first & ID, rest[0], rest[1], rest[2]]
    }

    /// 1 to 4.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        (self.ids[0] >> COUNT_SHIFT) as usize
    }
}

#[repr(align(64))]
#[derive(Clone, Copy, Default)]
struct Set([Slot; 2]);

#[derive(Clone, Copy, Default)]
struct Long {
    hash: u64,
    start: u32,
    len: u32, // bytes, 0 if free
    first: u32,
    n: u32, // ids
}

/// Sets in anonymous memory, all bytes zero at first, in huge pages where the system gives them: neighbours in a text are
/// far apart in the table, so every look-up would need a page translation of its own.
struct Sets {
    map: MmapMut,
}

impl Sets {
    fn new(n: usize) -> Self {
        let map = MmapOptions::new().len(n * size_of::<Set>()).map_anon();
        let map = map.expect("the system gives anonymous memory, as it does for any allocation");
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage); // small pages work too
        Self { map }
    }
}

impl Deref for Sets {
    type Target = [Set];

    #[inline(always)]
    fn deref(&self) -> &[Set] {
        // SAFETY: the map begins at a page, so it is aligned; any bytes are valid integers; the length is a multiple.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / size_of::<Set>()) }
    }
}

impl DerefMut for Sets {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Set] {
        // SAFETY: as above, and the map is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().cast(), self.map.len() / size_of::<Set>()) }
    }
}

/// The memory of one thread.
pub(crate) struct Cache {
    sets: Sets,
    forgotten: usize,
    long: Vec<Long>,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

impl Default for Cache {
    fn default() -> Self {
        Self { sets: Sets::new(FIRST_SETS), forgotten: 0, long: Vec::new(), bytes: Vec::new(), ids: Vec::new() }
    }
}

/// Place of a key, whatever the size of the table.
#[inline(always)]
pub(crate) fn place(key: [u64; 2]) -> u32 {
    (key::hash(key) >> 36) as u32
}

impl Cache {
    /// Starts loading the line of a place.
    #[inline(always)]
    pub(crate) fn prefetch(&self, place: u32) {
        key::prefetch(&self.sets, place as usize & (self.sets.len() - 1));
    }

    /// The slot of a short piece.
    #[inline(always)]
    pub(crate) fn get(&self, key: [u64; 2], place: u32) -> Option<&Slot> {
        let set = &self.sets[place as usize & (self.sets.len() - 1)].0;
        // Which of the two it is cannot be predicted, so it is not a branch.
        let slot = &set[usize::from(set[1].key == key)];
        (slot.key == key).then_some(slot)
    }

    /// Remembers one to four ids; the older piece of the set is forgotten.
    pub(crate) fn put(&mut self, key: [u64; 2], place: u32, ids: &[u32]) {
        if self.forgotten > self.sets.len() / 16 && self.sets.len() < MOST_SETS {
            self.grow();
        }
        let mut slot = Slot { key, ids: [0; 4] };
        slot.ids[..ids.len()].copy_from_slice(ids);
        slot.ids[0] |= (ids.len() as u32) << COUNT_SHIFT;
        self.put_slot(place, slot);
    }

    #[inline]
    fn put_slot(&mut self, place: u32, slot: Slot) {
        let mask = self.sets.len() - 1;
        let set = &mut self.sets[place as usize & mask].0;
        self.forgotten += usize::from(set[1].key != [0; 2]);
        set[1] = set[0];
        set[0] = slot;
    }

    #[cold]
    fn grow(&mut self) {
        let size = self.sets.len() * 2;
        let old = std::mem::replace(&mut self.sets, Sets::new(size));
        for set in old.iter() {
            for slot in set.0.iter().rev().filter(|slot| slot.key != [0; 2]) {
                self.put_slot(place(slot.key), *slot);
            }
        }
        self.forgotten = 0;
    }

    /// Ids of a long piece.
    pub(crate) fn get_long(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        let entry = self.long.get(hash as usize % LONG_SLOTS)?;
        if entry.hash != hash || entry.len as usize != piece.len() {
            return None;
        }
        let start = entry.start as usize;
        (self.bytes[start..start + piece.len()] == *piece)
            .then(|| &self.ids[entry.first as usize..entry.first as usize + entry.n as usize])
    }

    /// Remembers a piece unless it is longer than [`LONGEST`].
    pub(crate) fn put_long(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.bytes.len() + piece.len() > LONG_LIMIT || self.ids.len() + ids.len() > LONG_LIMIT / 4 {
            self.long.clear();
            self.bytes.clear();
            self.ids.clear();
        }
        if self.long.is_empty() {
            self.long.resize(LONG_SLOTS, Long::default());
        }
        self.long[hash as usize % LONG_SLOTS] = Long {
            hash,
            start: self.bytes.len() as u32,
            len: piece.len() as u32,
            first: self.ids.len() as u32,
            n: ids.len() as u32,
        };
        self.bytes.extend_from_slice(piece);
        self.ids.extend_from_slice(ids);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_what_was_put_however_many_pieces_pass() {
        let mut cache = Cache::default();
        let key = |i: u32| {
            let piece = format!("{i}").into_bytes();
            key::short(&piece, 0, piece.len()).unwrap()
        };
        const N: u32 = 700_000;
        let long = |i: u32| format!("{i} and much more than fifteen bytes").into_bytes();
        for i in 0..N {
            cache.put(key(i), place(key(i)), &[i, i + 1]);
            cache.put_long(&long(i), key::hash_bytes(&long(i)), &[i]);
        }
        let mut kept = 0;
        for i in 0..N {
            if let Some(slot) = cache.get(key(i), place(key(i))) {
                assert_eq!((slot.ids(), slot.count()), ([i, i + 1, 0, 0], 2));
                kept += 1;
            }
            if let Some(ids) = cache.get_long(&long(i), key::hash_bytes(&long(i))) {
                assert_eq!(ids, [i]);
            }
        }
        assert!((500_000..=2 * MOST_SETS).contains(&kept), "{kept}");
        assert!(cache.bytes.len() <= LONG_LIMIT);
    }
}
