//! The words and labels of a model by their bytes, and a bounded cache from a token to the sum of its rows.
//!
//! In: a model's dictionary, then tokens. Out: a word's number, or the sum that the token had the last time. Every comparison is of
//! whole tokens: a hash alone decides nothing, and what the cache has forgotten is computed again to the same integers.
//! Leaves the rows to `ngrams.rs` and the sums to `hidden.rs`.

use super::ngrams::fnv;

/// Entries by hash, open addressing over one block of bytes. The entries are the words, then the labels.
#[derive(Debug)]
pub(super) struct WordTable {
    text: Vec<u8>,
    /// End of each entry in `text`.
    ends: Vec<usize>,
    /// Entry + 1; 0 is an empty slot. Length is a power of two, at most half full.
    slots: Vec<u32>,
}

impl WordTable {
    pub(super) fn new<'a>(entries: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let slots = vec![0; (2 * entries.len() + 1).next_power_of_two()];
        let mut table = Self { text: Vec::new(), ends: Vec::with_capacity(entries.len()), slots };
        for (index, entry) in entries.enumerate() {
            table.text.extend_from_slice(entry);
            table.ends.push(table.text.len());
            let mut slot = fnv(entry) as usize & (table.slots.len() - 1);
            while table.slots[slot] != 0 {
                slot = (slot + 1) & (table.slots.len() - 1);
            }
            table.slots[slot] = index as u32 + 1;
        }
        table
    }

    /// The first entry with these bytes, whose [`fnv`] the caller has.
    pub(super) fn find(&self, token: &[u8], hash: u32) -> Option<usize> {
        let mut slot = hash as usize & (self.slots.len() - 1);
        loop {
            let index = (self.slots[slot] as usize).checked_sub(1)?;
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            if &self.text[start..self.ends[index]] == token {
                return Some(index);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

/// Longest token that the cache holds, in bytes: 32 take in nine words of ten in Cyrillic, Greek and Devanagari too.
pub(super) const LONGEST: usize = 32;

/// A token padded with zero bytes. No token holds a zero byte, so equal keys are equal tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key(u128, u128);

impl Key {
    /// The key of `text[start..end]`; `None` if it is longer than [`LONGEST`].
    #[inline(always)]
    pub(super) fn new(text: &[u8], start: usize, end: usize) -> Option<Self> {
        let length = end - start;
        if length > LONGEST {
            return None;
        }
        let mut bytes = [0; LONGEST];
        match text.get(start..start + LONGEST) {
            Some(window) => bytes.copy_from_slice(window),
            None => bytes[..length].copy_from_slice(&text[start..end]),
        }
        let (low, high) = bytes.split_at(16);
        let half = |bytes: &[u8]| u128::from_le_bytes(bytes.try_into().expect("a half of 32 bytes has 16"));
        let mask = |kept: usize| if kept >= 16 { u128::MAX } else { (1 << (8 * kept)) - 1 };
        Some(Self(half(low) & mask(length), half(high) & mask(length.saturating_sub(16))))
    }

    #[inline(always)]
    fn slot(self, slots: usize) -> usize {
        let fold = |half: u128| (half as u64) ^ ((half >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (fold(self.0) ^ fold(self.1).rotate_left(29)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((mixed ^ (mixed >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as usize & (slots - 1)
    }
}

/// Sums of the rows of recent tokens, direct-mapped: a new token takes the place of the one that was there.
#[derive(Debug)]
pub(super) struct SumCache {
    dim: usize,
    keys: Vec<Key>,
    /// Rows in each sum.
    rows: Vec<u32>,
    /// [slots, dim]
    sums: Vec<i32>,
}

impl SumCache {
    /// Room for about 2 MiB of sums: 32,768 tokens at dim 16, 2,048 at dim 256.
    pub(super) fn new(dim: usize) -> Self {
        let slots = ((1 << 19) / dim).max(16).next_power_of_two().min(1 << 15);
        Self { dim, keys: vec![Key(0, 0); slots], rows: vec![0; slots], sums: vec![0; slots * dim] }
    }

    /// The slot of a token, and whether the token is in it.
    #[inline(always)]
    pub(super) fn probe(&self, key: Key) -> (usize, bool) {
        let slot = key.slot(self.keys.len());
        (slot, self.keys[slot] == key)
    }

    /// Rows in the sum, and the sum: [dim].
    #[inline(always)]
    pub(super) fn get(&self, slot: usize) -> (u32, &[i32]) {
        (self.rows[slot], &self.sums[slot * self.dim..(slot + 1) * self.dim])
    }

    #[inline(always)]
    pub(super) fn put(&mut self, slot: usize, key: Key, rows: u32) -> &mut [i32] {
        self.keys[slot] = key;
        self.rows[slot] = rows;
        &mut self.sums[slot * self.dim..(slot + 1) * self.dim]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_entries_is_found_and_a_missing_one_is_not() {
        let entries: [&[u8]; 4] = [b"haus", b"", b"haus", "дом".as_bytes()];
        let table = WordTable::new(entries.into_iter());
        let find = |token: &str| table.find(token.as_bytes(), fnv(token.as_bytes()));
        assert_eq!((find("haus"), find(""), find("дом"), find("maison")), (Some(0), Some(1), Some(3), None));
    }

    #[test]
    fn keys_are_equal_only_for_equal_tokens_wherever_they_stand() {
        let text = "ab abc ab 0123456789abcdef 0123456789abcdefg ab".as_bytes();
        let key = |start, end| Key::new(text, start, end).expect("a short token");
        assert_eq!(key(0, 2), key(7, 9));
        assert_eq!(key(0, 2), key(text.len() - 2, text.len())); // the end of the text takes the copying path
        assert_ne!(key(0, 2), key(3, 6));
        assert_ne!(key(10, 26), key(27, 44));
        assert_eq!(Key::new(text, 0, 33), None);
        assert_eq!(Key::new(text, 0, 32).is_some(), text.len() >= 32);
    }

    #[test]
    fn a_cache_gives_back_what_was_put_and_forgets_what_was_overwritten() {
        let mut cache = SumCache::new(16);
        let words: Vec<String> = (0..100_000).map(|i| format!("w{i}")).collect();
        let key = |i: usize| Key::new(words[i].as_bytes(), 0, words[i].len()).expect("a short token");
        for i in 0..words.len() {
            let (slot, _) = cache.probe(key(i));
            cache.put(slot, key(i), i as u32).fill(i as i32);
        }
        let mut held = 0;
        for i in 0..words.len() {
            let (slot, found) = cache.probe(key(i));
            if found {
                held += 1;
                assert_eq!(cache.get(slot), (i as u32, [i as i32; 16].as_slice()));
            }
        }
        assert!((28_000..=32_768).contains(&held), "{held}"); // 100,000 words spread over every slot
    }
}
