//! A shard for reading: mapped, and verified block by block before the first use.
//!
//! In: the three files and what the receipt says of them. Out: tokens of any range, documents of tokens, keys. Lengths, index
//! and counts are checked on opening; a block of tokens when it is first read by this process, the keys when first asked for.

use super::keys::Keys;
use super::widen::widen;
use super::{BLOCK, Checks, Index, ShardEntry, ShardError, Storage, Width, Written, crc32c};
use std::{
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// A shard.
#[derive(Debug)]
pub struct Shard {
    path: String,
    tokens: Storage,
    index: Index,
    keys: Keys,
    keys_verified: AtomicBool,
    checks: Checks,
    /// One bit per block: its checksum was right.
    verified: Vec<AtomicU64>,
}

impl Shard {
    /// Maps the files of a shard in `folder` and checks that they belong together.
    pub fn open(folder: &Path, entry: &ShardEntry, width: Width) -> Result<Self, ShardError> {
        let file = |extension: &str| -> Result<(String, Storage), ShardError> {
            let path = folder.join(format!("{}.{extension}", entry.name)).display().to_string();
            let bytes = Storage::map(&path)?;
            Ok((path, bytes))
        };
        Self::new([file("bin")?, file("idx")?, file("keys")?], width, &entry.checks)
    }

    /// A shard in memory.
    pub fn in_memory(written: Written<Vec<u8>>) -> Result<Self, ShardError> {
        let Written { out, idx, keys, checks, width } = written;
        let file = |name: &str, bytes| (format!("{name} in memory"), Storage::Owned(bytes));
        Self::new([file("tokens", out), file("index", idx), file("keys", keys)], width, &checks)
    }

    /// Tokens, index and keys, each with the name of its file.
    fn new(files: [(String, Storage); 3], width: Width, checks: &Checks) -> Result<Self, ShardError> {
        let [(path, tokens), (idx_path, idx), (keys_path, keys)] = files;
        verify(&idx_path, 0, &idx, checks.index_crc32c)?;
        let index = Index::read(idx, &idx_path)?;
        if index.width() != width {
            return Err(ShardError::Width { path: idx_path, found: index.width(), expected: width });
        }
        let (found, expected) = ((index.n_docs() as u64, index.n_tokens()), (checks.documents, checks.tokens));
        if found != expected {
            let what = format!(
                "has {} documents of {} tokens, the receipt says {} of {}",
                found.0, found.1, expected.0, expected.1
            );
            return Err(ShardError::Format { path: idx_path, what });
        }
        let (found, expected) = (tokens.len() as u64, index.n_tokens() * width.bytes() as u64);
        if found != expected {
            return Err(ShardError::Length { path, found, expected });
        }
        let keys = Keys::new(keys, index.n_docs(), keys_path)?;
        let blocks = tokens.len().div_ceil(BLOCK);
        assert_eq!(blocks, checks.crc32c.len(), "there is a checksum for each block because the receipt was parsed");
        let verified = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { path, tokens, index, keys, keys_verified: AtomicBool::new(false), checks: checks.clone(), verified })
    }

    /// Width of the tokens.
    pub fn width(&self) -> Width {
        self.index.width()
    }

    /// Number of tokens, end-of-text tokens included.
    pub fn n_tokens(&self) -> u64 {
        self.index.n_tokens()
    }

    /// Number of documents.
    pub fn n_docs(&self) -> usize {
        self.index.n_docs()
    }

    /// Tokens of document `i`, its end-of-text token included, as a range of the shard. `i` must be below `n_docs`.
    pub fn doc_range(&self, i: usize) -> Range<u64> {
        self.index.doc_range(i)
    }

    /// The document that holds a token, which must be below `n_tokens`.
    pub fn doc_of_token(&self, token: u64) -> usize {
        self.index.doc_of_token(token)
    }

    /// Bytes of a range of tokens, which must lie inside the shard, where they are mapped.
    pub fn bytes(&self, range: Range<u64>) -> Result<&[u8], ShardError> {
        let width = self.width().bytes();
        let (from, to) = (range.start as usize * width, range.end as usize * width);
        let bytes = &self.tokens[from..to];
        if from < to {
            for block in from / BLOCK..=(to - 1) / BLOCK {
                if self.verified[block / 64].load(Ordering::Relaxed) >> (block % 64) & 1 == 0 {
                    self.verify_block(block)?;
                }
            }
        }
        Ok(bytes)
    }

    #[cold]
    fn verify_block(&self, block: usize) -> Result<(), ShardError> {
        let from = block * BLOCK;
        let bytes = &self.tokens[from..self.tokens.len().min(from + BLOCK)];
        verify(&self.path, from, bytes, self.checks.crc32c[block])?;
        self.verified[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        Ok(())
    }

    /// Ids of a range of tokens, which must lie inside the shard.
    pub fn tokens(&self, range: Range<u64>) -> Result<Vec<u32>, ShardError> {
        let mut out = Vec::new();
        self.tokens_into(range, &mut out)?;
        Ok(out)
    }

    /// `tokens`, appended to `out`.
    pub fn tokens_into(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<(), ShardError> {
        let bytes = self.bytes(range)?;
        match self.width() {
            Width::U16 => widen(bytes.as_chunks::<2>().0, out),
            Width::U32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
        Ok(())
    }

    /// Key of document `i`, which must be below `n_docs`.
    pub fn key(&self, i: usize) -> Result<u128, ShardError> {
        assert!(i < self.n_docs(), "document {i} of {}", self.n_docs());
        Ok(self.keys()?.key(i))
    }

    /// Documents under a key, rising.
    pub fn find(&self, key: u128) -> Result<Vec<usize>, ShardError> {
        Ok(self.keys()?.find(key))
    }

    fn keys(&self) -> Result<&Keys, ShardError> {
        if !self.keys_verified.load(Ordering::Relaxed) {
            verify(&self.keys.path, 0, &self.keys.bytes, self.checks.keys_crc32c)?;
            if !self.keys.in_range() {
                let what = "names documents beyond the last".to_owned();
                return Err(ShardError::Format { path: self.keys.path.clone(), what });
            }
            self.keys_verified.store(true, Ordering::Relaxed);
        }
        Ok(&self.keys)
    }
}

fn verify(path: &str, from: usize, bytes: &[u8], expected: u32) -> Result<(), ShardError> {
    let found = crc32c(bytes);
    if found == expected {
        return Ok(());
    }
    let (from, to) = (from as u64, (from + bytes.len()) as u64);
    Err(ShardError::Checksum { path: path.to_owned(), from, to, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::ShardWriter;

    fn written(vocab_size: usize, docs: &[&[u32]]) -> Written<Vec<u8>> {
        let mut writer = ShardWriter::new(Vec::new(), vocab_size, 0);
        for (key, doc) in docs.iter().enumerate() {
            writer.push(100 - key as u128, doc).unwrap();
        }
        writer.finish().unwrap()
    }

    fn store(folder: &Path, name: &str, written: &Written<Vec<u8>>) -> ShardEntry {
        for (extension, bytes) in [("bin", &written.out), ("idx", &written.idx), ("keys", &written.keys)] {
            std::fs::write(folder.join(format!("{name}.{extension}")), bytes).unwrap();
        }
        let checks = written.checks.clone();
        ShardEntry { name: name.into(), split: "train".into(), blake3: String::new(), checks }
    }

    #[test]
    fn documents_come_back_from_files_at_both_widths() {
        let folder = tempfile::tempdir().unwrap();
        for (vocab_size, width) in [(65_536, Width::U16), (65_537, Width::U32)] {
            for docs in [&[][..], &[&[][..]], &[&[5, 6, 65_535][..], &[], &[9]]] {
                let entry = store(folder.path(), "x", &written(vocab_size, docs));
                let shard = Shard::open(folder.path(), &entry, width).unwrap();
                assert_eq!((shard.width(), shard.n_docs()), (width, docs.len()));
                for (i, doc) in docs.iter().enumerate() {
                    assert_eq!(shard.tokens(shard.doc_range(i)).unwrap(), [doc, &[0][..]].concat());
                    shard.doc_range(i).for_each(|token| assert_eq!(shard.doc_of_token(token), i));
                    assert_eq!(shard.find(shard.key(i).unwrap()).unwrap(), [i]);
                }
                assert!(shard.find(7).unwrap().is_empty());
            }
        }
    }

    #[test]
    fn a_short_a_swapped_and_a_flipped_file_are_found_before_use() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (written(300, &[&[7, 8], &[9]]), written(300, &[&[7, 8], &[10]]));
        let entry = store(folder.path(), "a", &one);
        store(folder.path(), "b", &two);
        let path = |name: &str| folder.path().join(name);
        let use_it = || -> Result<(), ShardError> {
            let shard = Shard::open(folder.path(), &entry, Width::U16)?;
            shard.tokens(2..4)?;
            shard.find(100).map(drop)
        };
        use_it().unwrap();
        let said = |name: &str, bytes: &[u8]| {
            let good = std::fs::read(path(name)).unwrap();
            std::fs::write(path(name), bytes).unwrap();
            let said = use_it().unwrap_err().to_string();
            std::fs::write(path(name), good).unwrap();
            said
        };
        assert!(said("a.bin", &one.out[..9]).contains("a.bin has 9 bytes, expected 10"));
        assert!(said("a.bin", &two.out).contains("a.bin, bytes 0..10: CRC32C is "));
        let other = written(300, &[&[7], &[8, 9]]);
        assert!(said("a.idx", &other.idx).contains("a.idx, bytes 0.."));
        assert!(said("a.keys", &one.keys[1..]).contains("a.keys has 39 bytes, expected 40"));
        for (name, bytes) in [("a.bin", &one.out), ("a.idx", &one.idx), ("a.keys", &one.keys)] {
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(said(name, &flipped).contains("CRC32C"), "{name} {bit}");
            }
        }
        use_it().unwrap();
        let wrong = Shard::open(folder.path(), &entry, Width::U32).unwrap_err();
        assert!(matches!(wrong, ShardError::Width { .. }));
        let missing = ShardEntry { name: "none".into(), ..entry.clone() };
        let said = Shard::open(folder.path(), &missing, Width::U16).unwrap_err().to_string();
        assert!(said.contains("cannot read") && said.contains("none.bin"), "{said}");
    }

    #[test]
    fn only_the_blocks_that_are_read_are_verified() {
        let ids: Vec<u32> = (0..BLOCK as u32).map(|i| 1 + i % 60_000).collect(); // two blocks and one token
        let mut bytes = written(60_001, &[&ids]);
        bytes.out[BLOCK + 5] ^= 1;
        let shard = Shard::in_memory(bytes).unwrap();
        let half = (BLOCK / 2) as u64;
        assert_eq!(shard.tokens(half - 2..half).unwrap(), ids[half as usize - 2..half as usize]);
        assert_eq!(shard.tokens(2 * half..2 * half + 1).unwrap(), [0]);
        for range in [half - 1..half + 1, half..half + 1, 2 * half - 1..2 * half] {
            let said = shard.tokens(range).unwrap_err().to_string();
            assert!(said.contains("bytes 1048576..2097152"), "{said}");
        }
        assert!(shard.tokens(half..half).unwrap().is_empty());
    }
}
