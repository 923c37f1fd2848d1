//! All shards of one split as one run of tokens, with the way from tokens to documents and back.
//!
//! In: shards in order. Out: tokens by global position, the documents of a window, the places of a key. Each is a binary
//! search over what lies in the shards' files; nothing is read ahead and nothing is built.

use super::{Receipt, Shard, ShardError, search::partition};
use std::{ops::Range, path::Path};

/// Shards one after another.
#[derive(Debug)]
pub struct ShardSet {
    shards: Vec<Shard>,
    /// First token of each shard, then the total.
    starts: Vec<u64>,
    /// Row of each shard's first document in the document table.
    rows: Vec<u64>,
}

/// Tokens of one document in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the shard in its set.
    pub shard: usize,
    /// Ordinal of the document in the shard.
    pub document: usize,
    /// Tokens, counted from the start of the shard.
    pub tokens: Range<u64>,
}

impl ShardSet {
    /// Opens the shards of one split in `folder`, in the order of their receipt.
    pub fn open(folder: &Path, receipt: &Receipt, split: &str) -> Result<Self, ShardError> {
        let (mut shards, mut rows, mut row) = (Vec::new(), Vec::new(), 0);
        for entry in &receipt.shards {
            if entry.split == split {
                shards.push(Shard::open(folder, entry, receipt.width)?);
                rows.push(row);
            }
            row += entry.checks.documents;
        }
        Ok(Self::with_rows(shards, rows))
    }

    /// Shards whose documents are the rows of a table, one shard after another.
    pub fn new(shards: Vec<Shard>) -> Self {
        let rows = shards.iter().scan(0, |row, s| Some(std::mem::replace(row, *row + s.n_docs() as u64))).collect();
        Self::with_rows(shards, rows)
    }

    fn with_rows(shards: Vec<Shard>, rows: Vec<u64>) -> Self {
        let mut starts = vec![0];
        starts.extend(shards.iter().scan(0, |sum, shard| {
            *sum += shard.n_tokens();
            Some(*sum)
        }));
        Self { shards, starts, rows }
    }

    /// The shards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Tokens in all shards.
    pub fn n_tokens(&self) -> u64 {
        self.starts[self.shards.len()]
    }

    /// Row of a document in the document table.
    pub fn row(&self, shard: usize, document: usize) -> u64 {
        self.rows[shard] + document as u64
    }

    /// The parts of a global range of tokens in each shard that it touches: shard, tokens counted from its start.
    pub fn parts(&self, range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
        assert!(range.end <= self.n_tokens(), "tokens {range:?} of {}", self.n_tokens());
        let first = partition(self.shards.len() as u64, |i| self.starts[i as usize + 1] <= range.start) as usize;
        let clipped = (first..self.shards.len()).take_while(move |&i| self.starts[i] < range.end).map(move |i| {
            let start = self.starts[i];
            (i, range.start.max(start) - start..range.end.min(self.starts[i + 1]) - start)
        });
        clipped.filter(|(_, tokens)| !tokens.is_empty())
    }

    /// Ids of a global range of tokens, appended to `out`.
    pub fn tokens_into(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<(), ShardError> {
        self.parts(range).try_for_each(|(shard, tokens)| self.shards[shard].tokens_into(tokens, out))
    }

    /// The documents of a range of tokens of one shard, in order, cut to the range.
    pub fn documents_in(&self, shard: usize, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        let of = &self.shards[shard];
        let first = if range.is_empty() { of.n_docs() } else { of.doc_of_token(range.start) };
        (first..of.n_docs()).map(|document| (document, of.doc_range(document))).map_while(move |(document, whole)| {
            (whole.start < range.end).then(|| {
                let tokens = whole.start.max(range.start)..whole.end.min(range.end);
                Piece { shard, document, tokens }
            })
        })
    }

    /// The documents of a global range of tokens, in order, cut to the range.
    pub fn documents(&self, range: Range<u64>) -> impl Iterator<Item = Piece> + '_ {
        self.parts(range).flat_map(|(shard, tokens)| self.documents_in(shard, tokens))
    }

    /// Where the tokens of the documents under a key are: in shard order, whole documents.
    pub fn find(&self, key: u128) -> Result<Vec<Piece>, ShardError> {
        let mut found = Vec::new();
        for (shard, of) in self.shards.iter().enumerate() {
            let documents = of.find(key)?.into_iter();
            found.extend(documents.map(|document| Piece { shard, document, tokens: of.doc_range(document) }));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::search::STEPS;
    use crate::shard::{ShardWriter, index};

    const LENS: [&[u64]; 4] = [&[7, 13, 1], &[], &[1], &[2, 3, 5]];

    /// Documents of these many tokens; keys count down from 100; token ids are 1.
    fn set() -> ShardSet {
        let mut key = 100;
        let shards = LENS.iter().map(|lens| {
            let mut writer = ShardWriter::new(Vec::new(), 300, 0);
            for &len in *lens {
                writer.push(key, &vec![1; len as usize - 1]).unwrap();
                key -= 1;
            }
            Shard::in_memory(writer.finish().unwrap()).unwrap()
        });
        ShardSet::new(shards.collect())
    }

    #[test]
    fn every_window_has_the_documents_that_a_walk_over_all_tokens_finds() {
        let set = set();
        let owner: Vec<(usize, usize, u64)> = LENS
            .iter()
            .enumerate()
            .flat_map(|(shard, lens)| {
                let owners = lens.iter().enumerate().flat_map(|(d, &len)| (0..len).map(move |_| d));
                owners.enumerate().map(move |(token, d)| (shard, d, token as u64)).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(set.n_tokens(), 32);
        for from in 0..=32_u64 {
            for to in from..=32 {
                let walked: Vec<_> = set
                    .documents(from..to)
                    .flat_map(|p| p.tokens.clone().map(move |t| (p.shard, p.document, t)))
                    .collect();
                assert_eq!(walked, owner[from as usize..to as usize]);
                let mut ids = Vec::new();
                set.tokens_into(from..to, &mut ids).unwrap();
                assert_eq!(ids.len() as u64, to - from);
            }
        }
    }

    #[test]
    fn every_document_is_found_by_its_key_with_its_row() {
        let set = set();
        let mut row = 0;
        for (shard, lens) in LENS.iter().enumerate() {
            for document in 0..lens.len() {
                let tokens = set.shards()[shard].doc_range(document);
                let found = set.find(100 - u128::from(row)).unwrap();
                assert_eq!(found, [Piece { shard, document, tokens }]);
                assert_eq!(set.row(shard, document), row);
                row += 1;
            }
        }
        assert_eq!(set.find(7).unwrap(), []);
    }

    /// 10^9 tokens of 10^6 documents in ten shards, tokens left out: index and keys alone.
    #[test]
    fn a_window_and_a_document_of_a_billion_tokens_are_found_in_a_few_steps() {
        const DOCUMENTS: usize = 100_000;
        let mut lengths = Vec::new();
        let indexes: Vec<index::Index> = (0..10)
            .map(|shard| {
                let own: Vec<i32> = (0..DOCUMENTS).map(|i| 1 + (i * 7919 + shard) as i32 % 1999).collect();
                let index = index::Index::parse(index::to_bytes(crate::shard::Width::U16, &own), "x").unwrap();
                lengths.push(own);
                index
            })
            .collect();
        assert!(indexes.iter().map(index::Index::n_tokens).sum::<u64>() > 990_000_000);
        for (index, own) in indexes.iter().zip(&lengths) {
            for (document, &length) in own.iter().enumerate().step_by(977) {
                let start: u64 = own[..document].iter().map(|&n| n as u64).sum();
                STEPS.with(|steps| steps.set(0));
                assert_eq!(index.doc_of_token(start + length as u64 - 1), document);
                assert!(STEPS.with(std::cell::Cell::get) <= 17);
            }
        }
        let keys: Vec<u128> =
            (0..DOCUMENTS as u128).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).collect();
        let bytes = crate::shard::keys::to_bytes(&keys);
        let keys_file =
            crate::shard::keys::Keys::new(crate::shard::Storage::Owned(bytes), DOCUMENTS, "x".into()).unwrap();
        for (document, &key) in keys.iter().enumerate().step_by(1013) {
            STEPS.with(|steps| steps.set(0));
            assert_eq!(keys_file.find(key), [document]);
            assert!(STEPS.with(std::cell::Cell::get) <= 17);
        }
    }
}
