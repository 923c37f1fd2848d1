//! Token shards: documents as ids in one flat file, with an index beside it.
//!
//! In: documents as ids. Out: `.bin`, raw little-endian u16 or u32 tokens without a header, documents back to back, each
//! ended by the end-of-text token (so nanoGPT's `np.memmap` reads it); and `.idx`, a Megatron-LM index of version 1 with one
//! sequence per document. [`Shard`] maps both and refuses what does not fit together. Leaves writing durably, and the table
//! of where documents come from, to `pipeline`.
//!
//! Width: u16 if and only if the vocabulary has at most 65,536 ids. Index (Megatron-LM, `indexed_dataset.py`), all little
//! endian: 9 bytes "MMIDIDX\0\0", u64 version, u8 dtype (8 = u16, 4 = i32; ids stay below 2^31, so u32 is i32), u64 sequences,
//! u64 entries of the document list, i32 tokens per sequence, i64 byte offset per sequence, i64 first sequence per document
//! and the end.

use std::{fs::File, ops::Range, path::Path};

use memmap2::Mmap;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: usize = 9 + 8 + 1 + 8 + 8;

/// Bytes of a token in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Two bytes, for vocabularies of at most 65,536 ids.
    U16,
    /// Four bytes.
    U32,
}

impl Width {
    /// The width for a vocabulary.
    pub fn of_vocab(vocab_size: usize) -> Self {
        if vocab_size <= 1 << 16 { Self::U16 } else { Self::U32 }
    }

    /// Bytes per token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::U32 => 4,
        }
    }
}

/// Why a shard cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// An id that the vocabulary does not have.
    #[error("token {id} of document {document} is not below the vocabulary size {vocab_size}")]
    Id {
        /// The id.
        id: u32,
        /// Ordinal of the document in the shard.
        document: usize,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A document that holds the token which ends documents.
    #[error("document {document} holds the end-of-text token {id} before its end")]
    EndInside {
        /// The end-of-text id.
        id: u32,
        /// Ordinal of the document in the shard.
        document: usize,
    },
    /// A document of 2^31 tokens or more.
    #[error("document {document} has {tokens} tokens, the index can hold 2147483647")]
    TooLong {
        /// Ordinal of the document in the shard.
        document: usize,
        /// Its tokens.
        tokens: usize,
    },
    /// The index is damaged or foreign.
    #[error("{path}: {what}")]
    Index {
        /// The index file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The token file does not have the length that the index says.
    #[error("{path} has {found} bytes, its index says {expected}: truncated, or not the file of this index")]
    Length {
        /// The token file.
        path: String,
        /// Bytes there.
        found: usize,
        /// Bytes that the index says.
        expected: usize,
    },
    /// The shard was written for a vocabulary of another width.
    #[error("{path} holds {found:?} tokens, a vocabulary of {vocab_size} needs {expected:?}")]
    Width {
        /// The token file.
        path: String,
        /// Width there.
        found: Width,
        /// Width of the vocabulary.
        expected: Width,
        /// Number of ids.
        vocab_size: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The two files of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardBytes {
    /// Tokens.
    pub bin: Vec<u8>,
    /// Index.
    pub idx: Vec<u8>,
}

/// Collects documents for one shard, in memory.
#[derive(Clone, Debug)]
pub struct ShardWriter {
    vocab_size: usize,
    eot: u32,
    width: Width,
    bin: Vec<u8>,
    lengths: Vec<i32>,
}

impl ShardWriter {
    /// An empty shard for ids below `vocab_size`, whose documents end in `eot`.
    pub fn new(vocab_size: usize, eot: u32) -> Self {
        assert!((eot as usize) < vocab_size, "the end-of-text token {eot} is in the vocabulary of {vocab_size}");
        assert!(vocab_size <= 1 << 31, "ids are below 2^31, so that u32 and i32 have the same bytes");
        Self { vocab_size, eot, width: Width::of_vocab(vocab_size), bin: Vec::new(), lengths: Vec::new() }
    }

    /// Appends a document (without its end-of-text token, which is added). Returns its range of tokens in the shard,
    /// end-of-text included. Nothing is appended on an error.
    pub fn push(&mut self, ids: &[u32]) -> Result<Range<u64>, ShardError> {
        let document = self.lengths.len();
        let largest = ids.iter().copied().max().unwrap_or(0);
        if largest as usize >= self.vocab_size {
            return Err(ShardError::Id { id: largest, document, vocab_size: self.vocab_size });
        }
        if ids.contains(&self.eot) {
            return Err(ShardError::EndInside { id: self.eot, document });
        }
        let length = i32::try_from(ids.len() + 1).map_err(|_| ShardError::TooLong { document, tokens: ids.len() })?;
        let start = self.n_tokens();
        let ended = ids.iter().chain([&self.eot]);
        match self.width {
            Width::U16 => self.bin.extend(ended.flat_map(|&id| (id as u16).to_le_bytes())),
            Width::U32 => self.bin.extend(ended.flat_map(|&id| id.to_le_bytes())),
        }
        self.lengths.push(length);
        Ok(start..self.n_tokens())
    }

    /// Tokens so far.
    pub fn n_tokens(&self) -> u64 {
        (self.bin.len() / self.width.bytes()) as u64
    }

    /// Documents so far.
    pub fn n_docs(&self) -> usize {
        self.lengths.len()
    }

    /// The bytes of the two files.
    pub fn finish(self) -> ShardBytes {
        let n = self.lengths.len();
        let mut idx = Vec::with_capacity(HEADER + n * 20 + 8);
        idx.extend_from_slice(MAGIC);
        idx.extend_from_slice(&1_u64.to_le_bytes());
        idx.push(self.width.code());
        idx.extend_from_slice(&(n as u64).to_le_bytes());
        idx.extend_from_slice(&(n as u64 + 1).to_le_bytes());
        idx.extend(self.lengths.iter().flat_map(|length| length.to_le_bytes()));
        let mut offset = 0_i64;
        for &length in &self.lengths {
            idx.extend_from_slice(&offset.to_le_bytes());
            offset += i64::from(length) * self.width.bytes() as i64;
        }
        idx.extend((0..=n as i64).flat_map(i64::to_le_bytes));
        ShardBytes { bin: self.bin, idx }
    }
}

/// What an index file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Width of the tokens.
    pub width: Width,
    /// Token offset where each document begins, and the end of the last one: `n_docs + 1` entries, rising.
    pub starts: Vec<u64>,
}

impl Index {
    /// Reads the bytes of an index whose sequences lie back to back. `path` is for messages.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Self, ShardError> {
        let fault = |what: String| ShardError::Index { path: path.to_owned(), what };
        if bytes.len() < HEADER {
            return Err(fault(format!("{} bytes are no index: the header alone has {HEADER}", bytes.len())));
        }
        if &bytes[..9] != MAGIC {
            return Err(fault(format!("begins with {:?}, expected {:?}", ascii(&bytes[..9]), ascii(MAGIC))));
        }
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were asked for"));
        if word(9) != 1 {
            return Err(fault(format!("has version {}, expected 1", word(9))));
        }
        let width = match bytes[17] {
            8 => Width::U16,
            4 => Width::U32,
            code => return Err(fault(format!("has dtype code {code}, expected 8 (u16) or 4 (i32)"))),
        };
        let (n, n_list) = (u128::from(word(18)), u128::from(word(26)));
        let expected = HEADER as u128 + n * 12 + n_list * 8;
        if bytes.len() as u128 != expected {
            return Err(fault(format!("has {} bytes, its header says {expected}: truncated or damaged", bytes.len())));
        }
        let (n, n_list) = (n as usize, n_list as usize);
        let mut ends = Vec::with_capacity(n + 1); // tokens before each sequence
        ends.push(0_u64);
        for i in 0..n {
            let at = HEADER + i * 4;
            let length = i32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes were asked for"));
            let length = u64::try_from(length).map_err(|_| fault(format!("sequence {i} has {length} tokens")))?;
            let start = ends[i];
            let offset = word(HEADER + n * 4 + i * 8);
            if offset != start * width.bytes() as u64 {
                return Err(fault(format!(
                    "sequence {i} begins at byte {offset}, expected {}",
                    start * width.bytes() as u64
                )));
            }
            ends.push(start + length);
        }
        let list = |i: usize| word(HEADER + n * 12 + i * 8);
        let rises =
            n_list > 0 && list(0) == 0 && list(n_list - 1) == n as u64 && (1..n_list).all(|i| list(i - 1) <= list(i));
        if !rises {
            return Err(fault(format!("the document list does not rise from 0 to {n}")));
        }
        Ok(Self { width, starts: (0..n_list).map(|i| ends[list(i) as usize]).collect() })
    }

    /// Number of documents.
    pub fn n_docs(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> u64 {
        *self.starts.last().expect("an index has at least the end")
    }
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

/// A shard for reading.
#[derive(Debug)]
pub struct Shard {
    storage: Storage,
    index: Index,
    path: String,
}

impl Shard {
    /// Maps the two files of a shard and checks that they belong together.
    pub fn open(bin: impl AsRef<Path>, idx: impl AsRef<Path>) -> Result<Self, ShardError> {
        let (bin, idx) = (bin.as_ref().display().to_string(), idx.as_ref().display().to_string());
        let read = |path: &str, source| ShardError::Read { path: path.to_owned(), source };
        let index = std::fs::read(&idx).map_err(|source| read(&idx, source))?;
        let file = File::open(&bin).map_err(|source| read(&bin, source))?;
        // SAFETY: committed shards are never written again (they appear by rename); the map is read only.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| read(&bin, source))?;
        Self::check(Storage::Mapped(map), Index::parse(&index, &idx)?, bin)
    }

    /// A shard in memory.
    pub fn from_bytes(bytes: ShardBytes) -> Result<Self, ShardError> {
        let index = Index::parse(&bytes.idx, "index in memory")?;
        Self::check(Storage::Owned(bytes.bin), index, "shard in memory".to_owned())
    }

    fn check(storage: Storage, index: Index, path: String) -> Result<Self, ShardError> {
        let shard = Self { storage, index, path };
        let found = shard.bytes().len();
        let expected = shard.n_tokens() as usize * shard.index.width.bytes();
        if found != expected {
            return Err(ShardError::Length { path: shard.path, found, expected });
        }
        Ok(shard)
    }

    /// Fails unless the shard has the width of a vocabulary of this size and its ids are all below it. Reads every token.
    pub fn check_vocab(&self, vocab_size: usize) -> Result<(), ShardError> {
        let (found, expected) = (self.index.width, Width::of_vocab(vocab_size));
        if found != expected {
            return Err(ShardError::Width { path: self.path.clone(), found, expected, vocab_size });
        }
        for document in 0..self.n_docs() {
            let largest = self.tokens(self.doc_range(document)).into_iter().max().unwrap_or(0);
            if largest as usize >= vocab_size {
                return Err(ShardError::Id { id: largest, document, vocab_size });
            }
        }
        Ok(())
    }

    /// The token file's bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }

    /// Width of the tokens.
    pub fn width(&self) -> Width {
        self.index.width
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
        self.index.starts[i]..self.index.starts[i + 1]
    }

    /// The document that holds token `position`, which must be below `n_tokens`.
    pub fn doc_of_token(&self, position: u64) -> usize {
        assert!(position < self.n_tokens(), "token {position} of {}", self.n_tokens());
        self.index.starts.partition_point(|&start| start <= position) - 1
    }

    /// Ids of a range of tokens, which must lie inside the shard.
    pub fn tokens(&self, range: Range<u64>) -> Vec<u32> {
        let mut out = Vec::new();
        self.tokens_into(range, &mut out);
        out
    }

    /// `tokens`, appended to `out`.
    pub fn tokens_into(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let width = self.index.width.bytes();
        let bytes = &self.bytes()[range.start as usize * width..range.end as usize * width];
        match self.index.width {
            Width::U16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|&id| u32::from(u16::from_le_bytes(id)))),
            Width::U32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&id| u32::from_le_bytes(id))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(vocab_size: usize, docs: &[&[u32]]) -> ShardBytes {
        let mut writer = ShardWriter::new(vocab_size, 0);
        for doc in docs {
            writer.push(doc).unwrap();
        }
        writer.finish()
    }

    #[test]
    fn documents_come_back_from_files_at_both_widths() {
        let folder = tempfile::tempdir().unwrap();
        let (bin, idx) = (folder.path().join("0.bin"), folder.path().join("0.idx"));
        for (vocab_size, width) in [(65_536, Width::U16), (65_537, Width::U32)] {
            for docs in [&[][..], &[&[][..]], &[&[5, 6, 65_535][..], &[], &[9]]] {
                let bytes = written(vocab_size, docs);
                std::fs::write(&bin, &bytes.bin).unwrap();
                std::fs::write(&idx, &bytes.idx).unwrap();
                let shard = Shard::open(&bin, &idx).unwrap();
                assert_eq!((shard.width(), shard.n_docs()), (width, docs.len()));
                shard.check_vocab(vocab_size).unwrap();
                for (i, doc) in docs.iter().enumerate() {
                    assert_eq!(shard.tokens(shard.doc_range(i)), [doc, &[0][..]].concat());
                    shard.doc_range(i).for_each(|position| assert_eq!(shard.doc_of_token(position), i));
                }
            }
        }
    }

    #[test]
    fn the_index_has_the_bytes_of_megatron() {
        let bytes = written(300, &[&[7, 8], &[]]);
        let mut expected = b"MMIDIDX\0\0".to_vec();
        expected.extend(1_u64.to_le_bytes());
        expected.push(8);
        expected.extend([2_u64, 3].map(u64::to_le_bytes).concat());
        expected.extend([3_i32, 1].map(i32::to_le_bytes).concat());
        expected.extend([0_i64, 6].map(i64::to_le_bytes).concat());
        expected.extend([0_i64, 1, 2].map(i64::to_le_bytes).concat());
        assert_eq!(bytes.idx, expected);
        assert_eq!(bytes.bin, [7, 0, 8, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_index_with_many_sequences_in_a_document_is_read() {
        let mut idx = written(300, &[&[7, 8], &[], &[4]]).idx;
        idx[26..34].copy_from_slice(&2_u64.to_le_bytes()); // documents: 0..3 only
        let list = idx.len() - 4 * 8;
        idx.truncate(list);
        idx.extend([0_i64, 3].map(i64::to_le_bytes).concat());
        assert_eq!(Index::parse(&idx, "x").unwrap().starts, [0, 6]);
    }

    #[test]
    fn wrong_documents_are_refused_and_leave_no_trace() {
        let mut writer = ShardWriter::new(300, 0);
        assert!(matches!(writer.push(&[1, 300]), Err(ShardError::Id { id: 300, .. })));
        assert!(matches!(writer.push(&[1, 0, 2]), Err(ShardError::EndInside { .. })));
        assert_eq!((writer.n_tokens(), writer.n_docs()), (0, 0));
        assert_eq!(writer.push(&[1]).unwrap(), 0..2);
    }

    #[test]
    fn damaged_and_foreign_files_are_refused_with_the_reason() {
        let good = written(300, &[&[7, 8], &[9]]);
        let fault = |change: &dyn Fn(&mut ShardBytes)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Shard::from_bytes(bytes).unwrap_err().to_string()
        };
        assert!(fault(&|b| b.bin.truncate(9)).contains("9 bytes, its index says 10"));
        assert!(fault(&|b| b.bin.push(0)).contains("11 bytes"));
        assert!(fault(&|b| b.idx[0] = b'X').contains("XMIDIDX"));
        assert!(fault(&|b| b.idx[9] = 2).contains("version 2"));
        assert!(fault(&|b| b.idx[17] = 7).contains("dtype code 7"));
        assert!(fault(&|b| b.idx[17] = 4).contains("begins at byte"));
        assert!(fault(&|b| b.idx[18] = 200).contains("its header says"));
        assert!(fault(&|b| b.idx[25] = 255).contains("its header says"));
        assert!(fault(&|b| b.idx[HEADER + 3] = 255).contains("sequence 0 has -"));
        assert!(fault(&|b| *b.idx.last_mut().unwrap() = 9).contains("document list"));
        for len in 0..good.idx.len() {
            fault(&|b| b.idx.truncate(len));
        }
        let shard = Shard::from_bytes(good).unwrap();
        assert!(matches!(shard.check_vocab(70_000), Err(ShardError::Width { .. })));
        assert!(matches!(shard.check_vocab(9), Err(ShardError::Id { id: 9, document: 1, .. })));
        assert!(
            Shard::open("/nonexistent.bin", "/nonexistent.idx").unwrap_err().to_string().contains("/nonexistent.idx")
        );
    }
}
