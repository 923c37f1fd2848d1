//! The index of a shard: Megatron-LM's format, version 1 (`megatron/core/datasets/indexed_dataset.py`).
//!
//! All little endian: 9 bytes "MMIDIDX\0\0", u64 version, u8 dtype (8 = u16, 4 = i32; ids stay below 2^31, so u32 is i32), u64
//! sequences, u64 entries of the document list, i32 tokens per sequence, i64 byte offset per sequence, i64 first sequence per
//! document and the end. Ours have one sequence per document; those of others may have several, if they lie back to back.

use super::{ShardError, Storage, Width, search::partition};
use std::ops::Range;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: usize = 9 + 8 + 1 + 8 + 8;

/// What an index says; read where it lies, whatever its length.
#[derive(Debug)]
pub struct Index {
    bytes: Storage,
    width: Width,
    sequences: usize,
    documents: usize,
    tokens: u64,
}

/// The bytes of an index over documents of these numbers of tokens, one sequence each.
pub fn to_bytes(width: Width, lengths: &[i32]) -> Vec<u8> {
    let n = lengths.len();
    let mut bytes = Vec::with_capacity(HEADER + n * 20 + 8);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&1_u64.to_le_bytes());
    bytes.push(match width {
        Width::U16 => 8,
        Width::U32 => 4,
    });
    bytes.extend_from_slice(&(n as u64).to_le_bytes());
    bytes.extend_from_slice(&(n as u64 + 1).to_le_bytes());
    bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
    let mut offset = 0_i64;
    for &length in lengths {
        bytes.extend_from_slice(&offset.to_le_bytes());
        offset += i64::from(length) * width.bytes() as i64;
    }
    bytes.extend((0..=n as i64).flat_map(i64::to_le_bytes));
    bytes
}

impl Index {
    /// Reads the bytes of an index whose sequences lie back to back. `path` is for messages.
    pub fn parse(bytes: Vec<u8>, path: &str) -> Result<Self, ShardError> {
        Self::read(Storage::Owned(bytes), path)
    }

    pub(super) fn read(bytes: Storage, path: &str) -> Result<Self, ShardError> {
        let fault = |what: String| ShardError::Format { path: path.to_owned(), what };
        if bytes.len() < HEADER {
            return Err(fault(format!("{} bytes are no index: the header alone has {HEADER}", bytes.len())));
        }
        if &bytes[..9] != MAGIC {
            let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
            return Err(fault(format!("begins with {:?}, expected {:?}", shown(&bytes[..9]), shown(MAGIC))));
        }
        if word(&bytes, 9) != 1 {
            return Err(fault(format!("has version {}, expected 1", word(&bytes, 9))));
        }
        let width = match bytes[17] {
            8 => Width::U16,
            4 => Width::U32,
            code => return Err(fault(format!("has dtype code {code}, expected 8 (u16) or 4 (i32)"))),
        };
        let (n, n_list) = (u128::from(word(&bytes, 18)), u128::from(word(&bytes, 26)));
        let expected = HEADER as u128 + n * 12 + n_list * 8;
        if bytes.len() as u128 != expected {
            return Err(fault(format!("has {} bytes, its header says {expected}: cut short or damaged", bytes.len())));
        }
        let (sequences, n_list) = (n as usize, n_list as usize);
        let (lengths, offsets) = bytes[HEADER..HEADER + sequences * 12].split_at(sequences * 4);
        let mut tokens = 0_u64;
        for (i, (length, offset)) in lengths.as_chunks::<4>().0.iter().zip(offsets.as_chunks::<8>().0).enumerate() {
            let expected = tokens * width.bytes() as u64;
            let (length, offset) = (i32::from_le_bytes(*length), u64::from_le_bytes(*offset));
            if offset != expected {
                return Err(fault(format!("sequence {i} begins at byte {offset}, expected {expected}")));
            }
            tokens += u64::try_from(length).map_err(|_| fault(format!("sequence {i} has {length} tokens")))?;
        }
        let list = bytes[HEADER + sequences * 12..].as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        let ends = n_list > 0 && list.clone().next() == Some(0) && list.clone().next_back() == Some(sequences as u64);
        if !ends || !list.is_sorted() {
            return Err(fault(format!("the document list does not rise from 0 to {sequences}")));
        }
        Ok(Self { bytes, width, sequences, documents: n_list - 1, tokens })
    }

    /// Width of the tokens.
    pub fn width(&self) -> Width {
        self.width
    }

    /// Number of documents.
    pub fn n_docs(&self) -> usize {
        self.documents
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> u64 {
        self.tokens
    }

    /// Token offset where a document begins; the end of the last one for `n_docs`.
    pub fn start(&self, document: usize) -> u64 {
        assert!(document <= self.documents, "document {document} of {}", self.documents);
        let sequence = word(&self.bytes, HEADER + self.sequences * 12 + document * 8) as usize;
        if sequence == self.sequences {
            return self.tokens;
        }
        word(&self.bytes, HEADER + self.sequences * 4 + sequence * 8) / self.width.bytes() as u64
    }

    /// Tokens of a document, its end-of-text token included. `document` must be below `n_docs`.
    pub fn doc_range(&self, document: usize) -> Range<u64> {
        self.start(document)..self.start(document + 1)
    }

    /// The document that holds a token, which must be below `n_tokens`.
    pub fn doc_of_token(&self, token: u64) -> usize {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        partition(self.documents as u64, |document| self.start(document as usize) <= token) as usize - 1
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes were asked for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_made_by_the_published_description_has_our_bytes() {
        // tests/parity/shards.py wrote it with numpy: u16, documents of 3, 1, 70000 and 2 tokens.
        let golden = include_bytes!("../../fixtures/megatron.idx");
        assert_eq!(to_bytes(Width::U16, &[3, 1, 70_000, 2]), golden);
        let index = Index::parse(golden.to_vec(), "golden").unwrap();
        assert_eq!((index.width(), index.n_docs(), index.n_tokens()), (Width::U16, 4, 70_006));
        assert_eq!((0..=4).map(|i| index.start(i)).collect::<Vec<_>>(), [0, 3, 4, 70_004, 70_006]);
        for (token, document) in [(0, 0), (2, 0), (3, 1), (4, 2), (70_003, 2), (70_004, 3), (70_005, 3)] {
            assert_eq!(index.doc_of_token(token), document);
        }
    }

    #[test]
    fn many_sequences_in_a_document_and_empty_documents_are_read() {
        let mut bytes = to_bytes(Width::U32, &[3, 1, 2]);
        bytes[26..34].copy_from_slice(&3_u64.to_le_bytes());
        bytes.truncate(bytes.len() - 4 * 8);
        bytes.extend([0_i64, 0, 3].map(i64::to_le_bytes).concat()); // an empty document, then one of three sequences
        let index = Index::parse(bytes, "x").unwrap();
        assert_eq!((index.n_docs(), index.doc_range(0), index.doc_range(1)), (2, 0..0, 0..6));
        assert_eq!(index.doc_of_token(0), 1);
    }

    #[test]
    fn damaged_and_foreign_indexes_are_refused_with_the_reason() {
        let good = to_bytes(Width::U16, &[3, 2]);
        let fault = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Index::parse(bytes, "here").unwrap_err().to_string()
        };
        assert!(fault(&|b| b[0] = b'X').starts_with("here: begins with \"XMIDIDX"));
        assert!(fault(&|b| b[9] = 2).contains("version 2"));
        assert!(fault(&|b| b[17] = 7).contains("dtype code 7"));
        assert!(fault(&|b| b[17] = 4).contains("begins at byte 6, expected 12"));
        assert!(fault(&|b| b[18] = 200).contains("its header says"));
        assert!(fault(&|b| b[25] = 255).contains("its header says"));
        assert!(fault(&|b| b[HEADER + 3] = 255).contains("sequence 0 has -"));
        assert!(fault(&|b| *b.last_mut().unwrap() = 9).contains("document list"));
        for len in 0..good.len() {
            fault(&|b| b.truncate(len));
        }
    }

    #[test]
    fn whatever_is_flipped_in_an_index_what_is_read_from_it_holds_together() {
        let good = to_bytes(Width::U16, &[3, 0, 2, 9]);
        for at in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            let Ok(index) = Index::parse(bytes, "flipped") else { continue };
            let starts: Vec<u64> = (0..=index.n_docs()).map(|i| index.start(i)).collect();
            assert!(starts.is_sorted() && starts[index.n_docs()] == index.n_tokens());
            let firsts = starts.into_iter().filter(|&start| start < index.n_tokens());
            firsts.for_each(|t| assert!(index.doc_range(index.doc_of_token(t)).contains(&t)));
        }
    }
}
