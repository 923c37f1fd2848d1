//! Piece -> ids, remembered. One per thread, bounded, never wrong.
//!
//! In: a piece. Out: the ids found for it before, if it still is there. Two tables: pieces of at most 15 bytes live in 32-byte
//! slots, two to a set (one cache line), with up to four ids, or with the place of their ids in an arena; those for which a set
//! has no room go to its neighbour. Longer ones live in a second table of four to a set, their bytes in an arena of their own. Both begin small and grow with the number of different
//! pieces up to a limit, 116 MiB in all; a full arena is thrown away with all that points into it. Keys are compared in full,
//! so a hash collision costs time only. Leaves merging to `bpe`.

use std::ops::{Deref, DerefMut};

use memmap2::{MmapMut, MmapOptions};

use crate::key;

/// Sets at first (512 KiB), doubled when one in thirty-two had to forget a piece, and at most: 2,097,152 pieces in 64 MiB. 50 MB in 25
/// languages have 240,000 different short pieces, 28 MB in 140 languages 720,000.
const FIRST_SETS: usize = 1 << 13;
const MOST_SETS: usize = 1 << 20;
/// The same for the table of long pieces: at most 262,144 in 4 MiB.
const FIRST_LONG_SETS: usize = 1 << 9;
const MOST_LONG_SETS: usize = 1 << 16;
/// Bytes, and ids, of the arenas before they are dropped: 16 and 32 MiB.
const MOST_BYTES: usize = 1 << 24;
const MOST_IDS: usize = 1 << 23;
/// Longer pieces are not remembered.
pub(crate) const LONGEST: usize = 256;

/// Number of ids, above the first id.
const COUNT_SHIFT: u32 = 24;
const ID: u32 = (1 << COUNT_SHIFT) - 1;

/// A short piece and its ids; a free slot has key 0, which no piece has. `ids[0]` holds their number too; where that is 0 the ids
/// are in the arena: `ids[1]` is the first, `ids[2]` their number, `ids[3]` the arena's generation.
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

    /// 1 to 4, or 0 if they are in the arena.
    #[inline(always)]
    pub(crate) fn count(&self) -> usize {
        (self.ids[0] >> COUNT_SHIFT) as usize
    }
}

#[repr(align(64))]
#[derive(Clone, Copy, Default)]
struct Set([Slot; 2]);

/// A long piece and the places of its bytes and ids in the arenas; free if it has no bytes.
#[derive(Clone, Copy, Default)]
struct Long {
    tag: u32,
    start: u32,
    first: u32,
    len: u16,
    n: u16,
}

impl Long {
    fn is(&self, tag: u32, piece: &[u8], bytes: &[u8]) -> bool {
        let start = self.start as usize;
        self.tag == tag && usize::from(self.len) == piece.len() && bytes[start..start + piece.len()] == *piece
    }
}

/// What a set does not choose a place by.
fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
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
    long: Vec<[Long; 4]>,
    long_forgotten: usize,
    bytes: Vec<u8>,
    ids: Vec<u32>,
    generation: u32,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            sets: Sets::new(FIRST_SETS),
            forgotten: 0,
            long: Vec::new(),
            long_forgotten: 0,
            bytes: Vec::new(),
            ids: Vec::new(),
            generation: 0,
        }
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

    /// The slot of a short piece, if it is in its own set.
    #[inline(always)]
    pub(crate) fn get(&self, key: [u64; 2], place: u32) -> Option<&Slot> {
        let set = &self.sets[place as usize & (self.sets.len() - 1)].0;
        // Which of the two it is cannot be predicted, so it is not a branch.
        let slot = &set[usize::from(set[1].key == key)];
        (slot.key == key).then_some(slot)
    }

    /// Appends the ids of a short piece, wherever they are. Were they remembered?
    #[inline]
    pub(crate) fn find(&self, key: [u64; 2], place: u32, found: &mut Vec<u32>) -> bool {
        let home = &self.sets[place as usize & (self.sets.len() - 1)].0;
        let slot = match self.get(key, place) {
            // A set that has room has sent nothing to its neighbour.
            None if home[1].key == [0; 2] => return false,
            None => self.get(key, place ^ 1),
            found => found,
        };
        let Some(slot) = slot else { return false };
        match slot.count() {
            0 if slot.ids[3] == self.generation => {
                let [_, first, n, _] = slot.ids;
                found.extend_from_slice(&self.ids[first as usize..(first + n) as usize]);
            }
            0 => return false,
            n => found.extend_from_slice(&slot.ids()[..n]),
        }
        true
    }

    /// Remembers the ids of a short piece; the older piece of the set is forgotten.
    pub(crate) fn put(&mut self, key: [u64; 2], place: u32, ids: &[u32]) {
        if self.forgotten > self.sets.len() / 32 && self.sets.len() < MOST_SETS {
            self.grow();
        }
        let mut slot = Slot { key, ids: [0; 4] };
        if ids.len() <= 4 {
            slot.ids[..ids.len()].copy_from_slice(ids);
            slot.ids[0] |= (ids.len() as u32) << COUNT_SHIFT;
        } else {
            let first = self.put_ids(ids, 0);
            slot.ids = [0, first, ids.len() as u32, self.generation];
        }
        self.put_slot(place, slot);
    }

    /// Ids at the end of their arena, which is emptied first if they, or `bytes` more bytes, would not fit.
    fn put_ids(&mut self, ids: &[u32], bytes: usize) -> u32 {
        if self.bytes.len() + bytes > MOST_BYTES || self.ids.len() + ids.len() > MOST_IDS {
            self.long.fill([Long::default(); 4]);
            self.bytes.clear();
            self.ids.clear();
            self.generation = self.generation.wrapping_add(1);
        }
        self.ids.extend_from_slice(ids);
        (self.ids.len() - ids.len()) as u32
    }

    #[inline]
    fn put_slot(&mut self, place: u32, slot: Slot) {
        let home = place as usize & (self.sets.len() - 1);
        for at in [home, home ^ 1] {
            // The same piece is here already only if its ids were thrown away.
            let free = self.sets[at].0.iter_mut().find(|old| old.key == [0; 2] || old.key == slot.key);
            if let Some(free) = free {
                *free = slot;
                return;
            }
        }
        self.forgotten += 1;
        let set = &mut self.sets[home].0;
        *set = [slot, set[0]];
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
        let set = self.long.get(hash as usize & self.long.len().wrapping_sub(1))?;
        let found = set.iter().find(|long| long.is(tag(hash), piece, &self.bytes))?;
        Some(&self.ids[found.first as usize..found.first as usize + usize::from(found.n)])
    }

    /// Remembers a piece unless it is longer than [`LONGEST`]; the older piece of the set is forgotten.
    pub(crate) fn put_long(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.long_forgotten > self.long.len() / 16 && self.long.len() < MOST_LONG_SETS {
            self.grow_long();
        }
        if self.long.is_empty() {
            self.long.resize(FIRST_LONG_SETS, <[Long; 4]>::default());
        }
        let first = self.put_ids(ids, piece.len());
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(piece);
        let (len, n) = (piece.len() as u16, ids.len() as u16);
        self.put_long_at(hash as usize, Long { tag: tag(hash), start, first, len, n });
    }

    #[inline]
    fn put_long_at(&mut self, place: usize, long: Long) {
        let mask = self.long.len() - 1;
        let set = &mut self.long[place & mask];
        self.long_forgotten += usize::from(set[3].len != 0);
        *set = [long, set[0], set[1], set[2]];
    }

    #[cold]
    fn grow_long(&mut self) {
        let size = self.long.len() * 2;
        let old = std::mem::replace(&mut self.long, vec![<[Long; 4]>::default(); size]);
        for long in old.iter().flat_map(|set| set.iter().rev()).filter(|long| long.len != 0) {
            let start = long.start as usize;
            let hash = key::hash_bytes(&self.bytes[start..start + usize::from(long.len)]);
            self.put_long_at(hash as usize, *long);
        }
        self.long_forgotten = 0;
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
            let ids = [i, i + 1, 9, 9, 9, i + 2];
            cache.put(key(i), place(key(i)), if i % 5 == 0 { &ids } else { &ids[..2] });
            cache.put_long(&long(i), key::hash_bytes(&long(i)), &[i]);
        }
        let (mut kept, mut found) = (0, Vec::new());
        for i in 0..N {
            found.clear();
            if cache.find(key(i), place(key(i)), &mut found) {
                assert_eq!(found, if i % 5 == 0 { vec![i, i + 1, 9, 9, 9, i + 2] } else { vec![i, i + 1] });
                kept += 1;
            }
            if let Some(ids) = cache.get_long(&long(i), key::hash_bytes(&long(i))) {
                assert_eq!(ids, [i]);
            }
        }
        assert!((500_000..=2 * MOST_SETS).contains(&kept), "{kept}");
        assert!(cache.bytes.len() <= MOST_BYTES && cache.ids.len() <= MOST_IDS && cache.generation > 0);
    }
}
