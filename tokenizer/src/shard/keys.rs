//! Whose tokens a shard holds: the documents' keys, in order and by value.
//!
//! `NAME.keys`, little endian, for n documents: n keys of 16 bytes in document order, then n ordinals of u32 in order of (key,
//! ordinal). A document's key is a look-up, a key's documents a binary search; a key may stand there several times.

use super::{ShardError, Storage, search::partition};

/// Key of a document id: 32 lower-case hexadecimal digits as they are, else a hash of the text.
pub fn key_of(id: &str) -> u128 {
    let plain = id.len() == 32 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if plain {
        return u128::from_str_radix(id, 16).expect("32 hexadecimal digits are 128 bits");
    }
    // FNV-1a of 128 bits (Fowler, Noll and Vo): ids of users are few and no adversary chooses them.
    const PRIME: u128 = (1 << 88) + 0x13b;
    id.bytes()
        .fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

pub(super) fn to_bytes(keys: &[u128]) -> Vec<u8> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (keys[i as usize], i));
    let mut bytes = Vec::with_capacity(keys.len() * 20);
    bytes.extend(keys.iter().flat_map(|key| key.to_le_bytes()));
    bytes.extend(order.iter().flat_map(|i| i.to_le_bytes()));
    bytes
}

#[derive(Debug)]
pub(super) struct Keys {
    pub(super) path: String,
    pub(super) bytes: Storage,
    documents: usize,
}

impl Keys {
    pub(super) fn new(bytes: Storage, documents: usize, path: String) -> Result<Self, ShardError> {
        let (found, expected) = (bytes.len() as u64, documents as u64 * 20);
        if found != expected {
            return Err(ShardError::Length { path, found, expected });
        }
        Ok(Self { path, bytes, documents })
    }

    /// Do all ordinals name a document?
    pub(super) fn in_range(&self) -> bool {
        (0..self.documents).all(|i| self.ordinal(i) < self.documents)
    }

    pub(super) fn key(&self, document: usize) -> u128 {
        let at = document * 16;
        u128::from_le_bytes(self.bytes[at..at + 16].try_into().expect("16 bytes were asked for"))
    }

    fn ordinal(&self, rank: usize) -> usize {
        let at = self.documents * 16 + rank * 4;
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("4 bytes were asked for")) as usize
    }

    /// Ordinals of the documents under a key, rising.
    pub(super) fn find(&self, key: u128) -> Vec<usize> {
        let first = partition(self.documents as u64, |rank| self.key(self.ordinal(rank as usize)) < key) as usize;
        (first..self.documents).map(|rank| self.ordinal(rank)).take_while(|&i| self.key(i) == key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_by_their_key_also_when_it_stands_there_twice() {
        let keys = [7, 3, u128::MAX, 7, 0];
        let read = Keys::new(Storage::Owned(to_bytes(&keys)), 5, "x".into()).unwrap();
        assert!(read.in_range());
        assert_eq!((0..5).map(|i| read.key(i)).collect::<Vec<_>>(), keys);
        let found: Vec<Vec<usize>> = [0, 3, 7, 8, u128::MAX].iter().map(|&key| read.find(key)).collect();
        assert_eq!(found, [vec![4], vec![1], vec![0, 3], vec![], vec![2]]);
        let none = Keys::new(Storage::Owned(Vec::new()), 0, "x".into()).unwrap();
        assert_eq!(none.find(7), [0_usize; 0]);
        assert!(Keys::new(Storage::Owned(vec![0; 19]), 1, "x".into()).is_err());
    }

    #[test]
    fn ids_of_32_digits_are_their_own_key_and_others_are_hashed() {
        assert_eq!(key_of("000000000000000000000000000000ff"), 255);
        let others = ["", "a", "b", "page 1", "000000000000000000000000000000FF", "+00000000000000000000000000000ff"];
        let mut keys: Vec<u128> = others.iter().map(|id| key_of(id)).collect();
        // The published value for "a" (draft-eastlake-fnv).
        assert_eq!(keys[1], 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), others.len());
    }
}
