//! Documents to a shard.
//!
//! In: documents as ids, each under a key. Out: the tokens, as they come, to any writer; at the end the index, the keys and
//! what the receipt says of them. Memory: the longest document, a block, and 20 bytes per document.

use super::{BLOCK, Checks, ShardError, Width, crc32c, index, keys};
use std::{io::Write, ops::Range};

/// Writes one shard.
#[derive(Debug)]
pub struct ShardWriter<W> {
    out: W,
    vocab_size: usize,
    eot: u32,
    width: Width,
    /// Bytes not yet written: less than a block between documents.
    pending: Vec<u8>,
    tokens: u64,
    crc32c: Vec<u32>,
    lengths: Vec<i32>,
    keys: Vec<u128>,
}

/// What a finished shard consists of beside its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written<W> {
    /// Where the tokens went.
    pub out: W,
    /// Bytes of the index.
    pub idx: Vec<u8>,
    /// Bytes of the keys.
    pub keys: Vec<u8>,
    /// Counts and checksums.
    pub checks: Checks,
    /// Width of the tokens.
    pub width: Width,
}

impl<W: Write> ShardWriter<W> {
    /// An empty shard for ids below `vocab_size`, whose documents end in `eot`.
    pub fn new(out: W, vocab_size: usize, eot: u32) -> Self {
        assert!((eot as usize) < vocab_size, "the end-of-text token {eot} is in the vocabulary of {vocab_size}");
        assert!(vocab_size <= 1 << 31, "ids are below 2^31, so that u32 and i32 have the same bytes");
        Self {
            out,
            vocab_size,
            eot,
            width: Width::of_vocab(vocab_size),
            pending: Vec::new(),
            tokens: 0,
            crc32c: Vec::new(),
            lengths: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Appends a document (without its end-of-text token, which is added). Returns its range of tokens in the shard,
    /// end-of-text included. Nothing is appended for ids that cannot be.
    pub fn push(&mut self, key: u128, ids: &[u32]) -> Result<Range<u64>, ShardError> {
        let document = self.lengths.len();
        let (mut largest, mut ends) = (0, false);
        for &id in ids {
            largest = largest.max(id);
            ends |= id == self.eot;
        }
        if largest as usize >= self.vocab_size {
            return Err(ShardError::Id { id: largest, document, vocab_size: self.vocab_size });
        }
        if ends {
            return Err(ShardError::EndInside { id: self.eot, document });
        }
        let length = i32::try_from(ids.len() + 1).map_err(|_| ShardError::TooLong { document, tokens: ids.len() })?;
        let from = self.pending.len();
        self.pending.resize(from + length as usize * self.width.bytes(), 0);
        let (body, end) = self.pending[from..].split_at_mut(ids.len() * self.width.bytes());
        match self.width {
            Width::U16 => {
                let places = body.as_chunks_mut::<2>().0.iter_mut();
                places.zip(ids).for_each(|(place, &id)| *place = (id as u16).to_le_bytes());
            }
            Width::U32 => {
                let places = body.as_chunks_mut::<4>().0.iter_mut();
                places.zip(ids).for_each(|(place, &id)| *place = id.to_le_bytes());
            }
        }
        end.copy_from_slice(&self.eot.to_le_bytes()[..self.width.bytes()]);
        self.lengths.push(length);
        self.keys.push(key);
        let start = self.tokens;
        self.tokens += length as u64;
        if self.pending.len() >= BLOCK {
            self.flush()?;
        }
        Ok(start..self.tokens)
    }

    /// Documents so far.
    pub fn n_docs(&self) -> usize {
        self.lengths.len()
    }

    /// Writes the whole blocks.
    fn flush(&mut self) -> Result<(), ShardError> {
        let whole = self.pending.len() - self.pending.len() % BLOCK;
        self.crc32c.extend(self.pending[..whole].chunks_exact(BLOCK).map(crc32c));
        self.out.write_all(&self.pending[..whole]).map_err(ShardError::Write)?;
        self.pending.drain(..whole);
        Ok(())
    }

    /// Writes what is left.
    pub fn finish(mut self) -> Result<Written<W>, ShardError> {
        self.crc32c.extend(self.pending.chunks(BLOCK).map(crc32c));
        self.out.write_all(&self.pending).map_err(ShardError::Write)?;
        let (idx, keys) = (index::to_bytes(self.width, &self.lengths), keys::to_bytes(&self.keys));
        let checks = Checks {
            documents: self.lengths.len() as u64,
            tokens: self.tokens,
            crc32c: self.crc32c,
            index_crc32c: crc32c(&idx),
            keys_crc32c: crc32c(&keys),
        };
        Ok(Written { out: self.out, idx, keys, checks, width: self.width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_documents_are_refused_and_leave_no_trace() {
        let mut writer = ShardWriter::new(Vec::new(), 300, 0);
        assert!(matches!(writer.push(1, &[1, 300]), Err(ShardError::Id { id: 300, document: 0, .. })));
        assert!(matches!(writer.push(1, &[1, 0, 2]), Err(ShardError::EndInside { .. })));
        assert_eq!(writer.push(1, &[1]).unwrap(), 0..2);
        let written = writer.finish().unwrap();
        assert_eq!((written.out.as_slice(), written.checks.documents), ([1, 0, 0, 0].as_slice(), 1));
    }

    #[test]
    fn tokens_are_little_endian_and_have_a_checksum_per_block_at_both_widths() {
        for (vocab_size, width) in [(65_536, 2), (65_537, 4)] {
            let mut writer = ShardWriter::new(Vec::new(), vocab_size, 9);
            let documents: Vec<Vec<u32>> =
                [0, 1, 300_000, 7, 900_001].iter().map(|&n| (0..n).map(|i| 10 + i * 7 % 65_526).collect()).collect();
            let pushed: u64 = documents.iter().map(|ids| writer.push(5, ids).unwrap()).map(|r| r.end - r.start).sum();
            let written = writer.finish().unwrap();
            let expected: Vec<u8> = documents
                .iter()
                .flat_map(|ids| ids.iter().chain([&9]).flat_map(|id| id.to_le_bytes()[..width].to_vec()))
                .collect();
            assert!(written.out == expected);
            assert_eq!(written.checks.crc32c, expected.chunks(BLOCK).map(crc32c).collect::<Vec<_>>());
            assert_eq!((written.checks.tokens, pushed), (1_200_014, 1_200_014));
        }
    }

    #[test]
    fn a_full_disk_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut writer = ShardWriter::new(Full, 300, 0);
        writer.push(1, &[5; 100]).unwrap();
        assert!(matches!(writer.finish(), Err(ShardError::Write(e)) if e.kind() == std::io::ErrorKind::StorageFull));
    }
}
