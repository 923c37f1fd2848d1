//! Piece -> ids, remembered. One per thread, bounded, never wrong.
//!
//! In: a piece. Out: the ids found for it before, if it still is there. Two tables: pieces of at most 15 bytes with at most
//! four ids live in 32-byte slots, two to a set (one cache line); others in a direct-mapped table with an arena that is
//! thrown away when full. Keys are compared in full, so a hash collision costs time only. Leaves merging to `encode`.

use crate::key;

/// 65,536 slots of 32 bytes: 2 MiB. In a 50 MB corpus as many pieces covered 95.3% of the occurrences.
const SETS: usize = 1 << 15;
const LONG_SLOTS: usize = 1 << 13;
/// Bytes and ids kept for long pieces before they are dropped.
const LONG_LIMIT: usize = 1 << 19;
/// Longer pieces are not remembered.
const LONGEST: usize = 256;

/// No id; fills unused places of a slot.
pub(crate) const NO_ID: u32 = u32::MAX;

#[derive(Clone, Copy)]
#[repr(align(32))]
struct Slot {
    key: [u64; 2],
    ids: [u32; 4],
}

#[derive(Clone, Copy, Default)]
struct Long {
    hash: u64,
    start: u32,
    len: u32, // bytes, 0 if free
    first: u32,
    n: u32, // ids
}

/// The memory of one thread.
pub(crate) struct Cache {
    slots: Vec<[Slot; 2]>,
    long: Vec<Long>,
    bytes: Vec<u8>,
    ids: Vec<u32>,
}

impl Default for Cache {
    fn default() -> Self {
        let free = Slot { key: [0; 2], ids: [NO_ID; 4] };
        Self {
            slots: vec![[free; 2]; SETS],
            long: vec![Long::default(); LONG_SLOTS],
            bytes: Vec::new(),
            ids: Vec::new(),
        }
    }
}

impl Cache {
    #[inline(always)]
    fn set(key: [u64; 2]) -> usize {
        (key::hash(key) >> 40) as usize & (SETS - 1)
    }

    /// Ids of a short piece; unused places hold [`NO_ID`].
    #[inline(always)]
    pub(crate) fn get(&self, key: [u64; 2]) -> Option<[u32; 4]> {
        let set = &self.slots[Self::set(key)];
        // Which of the two it is cannot be predicted, so it is not a branch.
        let slot = &set[usize::from(set[1].key == key)];
        (slot.key == key).then_some(slot.ids)
    }

    /// Remembers one to four ids; the older piece of the set is forgotten.
    pub(crate) fn put(&mut self, key: [u64; 2], ids: &[u32]) {
        let mut slot = Slot { key, ids: [NO_ID; 4] };
        slot.ids[..ids.len()].copy_from_slice(ids);
        let set = &mut self.slots[Self::set(key)];
        set[1] = set[0];
        set[0] = slot;
    }

    /// Ids of a long piece.
    pub(crate) fn get_long(&self, piece: &[u8], hash: u64) -> Option<&[u32]> {
        let entry = self.long[hash as usize % LONG_SLOTS];
        if entry.hash != hash || entry.len as usize != piece.len() {
            return None;
        }
        let start = entry.start as usize;
        (self.bytes[start..start + piece.len()] == *piece)
            .then(|| &self.ids[entry.first as usize..entry.first as usize + entry.n as usize])
    }

    /// Remembers a long piece unless it is very long.
    pub(crate) fn put_long(&mut self, piece: &[u8], hash: u64, ids: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.bytes.len() + piece.len() > LONG_LIMIT || self.ids.len() + ids.len() > LONG_LIMIT {
            self.long.fill(Long::default());
            self.bytes.clear();
            self.ids.clear();
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
        let mut kept = 0;
        for i in 0..300_000_u32 {
            let piece = format!("{i}").into_bytes();
            cache.put(key::short(&piece, 0, piece.len()).unwrap(), &[i, i + 1]);
            let long = format!("{i} and much more than fifteen bytes").into_bytes();
            cache.put_long(&long, key::hash_bytes(&long), &[i]);
        }
        for i in 0..300_000_u32 {
            let piece = format!("{i}").into_bytes();
            if let Some(ids) = cache.get(key::short(&piece, 0, piece.len()).unwrap()) {
                assert_eq!(ids, [i, i + 1, NO_ID, NO_ID]);
                kept += 1;
            }
            let long = format!("{i} and much more than fifteen bytes").into_bytes();
            if let Some(ids) = cache.get_long(&long, key::hash_bytes(&long)) {
                assert_eq!(ids, [i]);
            }
        }
        assert!((50_000..=65_536).contains(&kept), "{kept}");
        assert!(cache.bytes.len() <= LONG_LIMIT);
    }
}
