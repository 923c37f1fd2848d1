//! The receipt of a set of shards: what they were written with, and checksums of every byte.
//!
//! JSON, one object: `format` 1, `tokenizer` (blake3 of its `tokenizer.json`, how it cuts texts, number of ids, end-of-text id),
//! `width`, `block_bytes`, and `shards` in the order of the document table, each with counts, blake3 of the tokens (its
//! content address), CRC32C of every block of the tokens, and CRC32C of index and keys.

use super::{BLOCK, ShardError, Width};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;

/// What a set of shards was written with, and its shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of this format: 1.
    format: u32,
    /// The tokenizer whose ids they hold.
    pub tokenizer: Seal,
    /// Width of the tokens.
    pub width: Width,
    /// Bytes under one checksum: [`BLOCK`].
    block_bytes: usize,
    /// The shards; documents in this order are rows of the document table.
    pub shards: Vec<ShardEntry>,
}

/// A tokenizer, as far as ids depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// blake3 of its `tokenizer.json`, 64 hex digits.
    pub blake3: String,
    /// How texts are cut before merging: a known name or a regular expression.
    pub pretokens: String,
    /// Number of ids.
    pub vocab_size: usize,
    /// The id that ends documents.
    pub end_of_text: u32,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Name of its files without extension.
    pub name: String,
    /// What it is for: `"train"` or `"holdout"`.
    pub split: String,
    /// blake3 of its tokens, 64 hex digits.
    pub blake3: String,
    /// Counts and checksums.
    #[serde(flatten)]
    pub checks: Checks,
}

/// Counts and checksums of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Documents.
    pub documents: u64,
    /// Tokens, end-of-text tokens included.
    pub tokens: u64,
    /// CRC32C of each [`BLOCK`] of the token file; the last may be shorter.
    pub crc32c: Vec<u32>,
    /// CRC32C of the index.
    pub index_crc32c: u32,
    /// CRC32C of the keys.
    pub keys_crc32c: u32,
}

impl Receipt {
    /// A receipt.
    pub fn new(tokenizer: Seal, shards: Vec<ShardEntry>) -> Self {
        let width = Width::of_vocab(tokenizer.vocab_size);
        Self { format: FORMAT, tokenizer, width, block_bytes: BLOCK, shards }
    }

    /// Reads a receipt and checks that it holds together. `path` is for messages.
    pub fn parse(bytes: &[u8], path: &str) -> Result<Self, ShardError> {
        let fault = |what: String| ShardError::Format { path: path.to_owned(), what };
        let receipt: Self =
            serde_json::from_slice(bytes).map_err(|e| fault(format!("is no receipt of shards: {e}")))?;
        if (receipt.format, receipt.block_bytes) != (FORMAT, BLOCK) {
            return Err(fault(format!(
                "has format {} with blocks of {} bytes, expected {FORMAT} with {BLOCK}",
                receipt.format, receipt.block_bytes
            )));
        }
        let (found, expected) = (receipt.width, Width::of_vocab(receipt.tokenizer.vocab_size));
        if found != expected {
            return Err(ShardError::Width { path: path.to_owned(), found, expected });
        }
        let mut names: Vec<&str> = Vec::new();
        for shard in &receipt.shards {
            let name = shard.name.as_str();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return Err(fault(format!("shard name {name:?} is not made of letters, digits, - and _")));
            }
            let bytes = shard.checks.tokens.checked_mul(receipt.width.bytes() as u64);
            if bytes.is_none_or(|bytes| bytes.div_ceil(BLOCK as u64) != shard.checks.crc32c.len() as u64) {
                let (tokens, blocks) = (shard.checks.tokens, shard.checks.crc32c.len());
                return Err(fault(format!("shard {name} has {tokens} tokens and checksums of {blocks} blocks")));
            }
            names.push(name);
        }
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(fault(format!("shard {} stands there twice", pair[0]))),
            None => Ok(receipt),
        }
    }

    /// The bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a receipt is plain data because it derives Serialize");
        bytes.push(b'\n');
        bytes
    }

    /// An error unless the shards hold ids of the tokenizer with this blake3 and this number of ids.
    pub fn check_tokenizer(&self, blake3: &str, vocab_size: usize) -> Result<(), ShardError> {
        if (self.tokenizer.blake3.as_str(), self.tokenizer.vocab_size) == (blake3, vocab_size) {
            return Ok(());
        }
        Err(ShardError::Tokenizer {
            found: blake3.to_owned(),
            found_vocab: vocab_size,
            expected: self.tokenizer.blake3.clone(),
            expected_vocab: self.tokenizer.vocab_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let tokenizer = Seal { blake3: "ab".repeat(32), pretokens: "gpt2".into(), vocab_size: 300, end_of_text: 0 };
        let checks = Checks { documents: 2, tokens: 5, crc32c: vec![7], index_crc32c: 8, keys_crc32c: 9 };
        let entry = |name: &str| ShardEntry {
            name: name.into(),
            split: "train".into(),
            blake3: "cd".repeat(32),
            checks: checks.clone(),
        };
        Receipt::new(tokenizer, vec![entry("train-00000"), entry("train-00001")])
    }

    #[test]
    fn a_receipt_comes_back_and_whatever_is_changed_in_it_is_an_error_or_a_sound_receipt() {
        let good = receipt().to_bytes();
        assert_eq!(Receipt::parse(&good, "x").unwrap(), receipt());
        for at in 0..good.len() {
            for byte in [b'0', b'9', b'"', b'}', b'-', 0, good[at] ^ 1] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                if let Ok(read) = Receipt::parse(&bytes, "x") {
                    assert_eq!(Receipt::parse(&read.to_bytes(), "x").unwrap(), read);
                }
            }
            assert!(Receipt::parse(&good[..at.min(good.len() - 2)], "x").is_err());
        }
    }

    #[test]
    fn receipts_that_do_not_hold_together_are_refused_with_the_reason() {
        let fault = |change: &dyn Fn(&mut Receipt)| {
            let mut receipt = receipt();
            change(&mut receipt);
            Receipt::parse(&receipt.to_bytes(), "here").unwrap_err().to_string()
        };
        assert!(fault(&|r| r.format = 2).contains("has format 2 with blocks of 1048576 bytes, expected 1"));
        assert!(fault(&|r| r.width = Width::U32).contains("holds U32 tokens, expected U16"));
        assert!(fault(&|r| r.shards[1].name = "../x".into()).contains("\"../x\" is not made of letters"));
        assert!(fault(&|r| r.shards[1].name = "train-00000".into()).contains("train-00000 stands there twice"));
        assert!(fault(&|r| r.shards[0].checks.tokens = 1 << 20).contains("1048576 tokens and checksums of 1 blocks"));
        assert!(fault(&|r| r.shards[0].checks.tokens = u64::MAX).contains("checksums of 1 blocks"));
    }

    #[test]
    fn another_tokenizer_is_refused() {
        let receipt = receipt();
        receipt.check_tokenizer(&"ab".repeat(32), 300).unwrap();
        assert!(receipt.check_tokenizer(&"ab".repeat(32), 301).is_err());
        let said = receipt.check_tokenizer("ee", 300).unwrap_err().to_string();
        assert!(said.contains("written with tokenizer abab") && said.contains("this one is ee"), "{said}");
    }
}
