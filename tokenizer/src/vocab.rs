//! Bytes -> the token that they are.
//!
//! In: the bytes of a piece. Out: the id of the token with these bytes, and whether merging alone makes it too. Open
//! addressing over 8-byte slots: an absent piece, the common case, costs one cache line. Leaves merging to `bpe`.

use crate::{key, ranks::BITS};

const FREE: u64 = u64::MAX;
const BY_NAME: u64 = 1 << BITS;
const ID: u64 = BY_NAME - 1;
/// What of the hash a slot keeps.
const TAG: u64 = !(BY_NAME | ID);

/// A token found by its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: u32,
    /// Only the whole piece is this token: merging its bytes gives other ids.
    pub(crate) by_name_only: bool,
}

/// The table. The bytes themselves stay with the tokenizer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vocab {
    slots: Vec<u64>, // hash | by name only | id
}

impl Vocab {
    /// Room for `n` tokens.
    pub(crate) fn with_capacity(n: usize) -> Self {
        Self { slots: vec![FREE; (2 * n).next_power_of_two().max(64)] }
    }

    /// Adds a token whose bytes are not there yet.
    pub(crate) fn insert(&mut self, bytes: &[u8], found: Found) {
        let hash = key::hash_bytes(bytes);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = hash & TAG | if found.by_name_only { BY_NAME } else { 0 } | u64::from(found.id);
    }

    /// The token with these bytes. `tokens` are the bytes by id.
    #[inline]
    pub(crate) fn get(&self, bytes: &[u8], tokens: &[Vec<u8>]) -> Option<Found> {
        let hash = key::hash_bytes(bytes);
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return None;
            }
            let id = (slot & ID) as u32;
            if (slot ^ hash) & TAG == 0 && tokens[id as usize] == bytes {
                return Some(Found { id, by_name_only: slot & BY_NAME != 0 });
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_by_all_their_bytes_and_others_are_not() {
        let tokens: Vec<Vec<u8>> = (0..3000).map(|i| format!("token {i}").into_bytes()).collect();
        let mut vocab = Vocab::with_capacity(tokens.len());
        for (id, token) in (0..).zip(&tokens) {
            vocab.insert(token, Found { id, by_name_only: id % 3 == 0 });
        }
        for (id, token) in (0..).zip(&tokens) {
            assert_eq!(vocab.get(token, &tokens), Some(Found { id, by_name_only: id % 3 == 0 }));
            assert_eq!(vocab.get(&token[..5], &tokens), None);
        }
        assert_eq!(vocab.get(b"", &tokens), None);
        assert_eq!(Vocab::with_capacity(0).get(b"x", &[]), None);
    }
}
