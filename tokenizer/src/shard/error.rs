//! Why a shard cannot be written or read.

use super::Width;

/// A fault of a shard, its index, its keys or its receipt.
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
    /// The index, the keys or the receipt are damaged or foreign.
    #[error("{path}: {what}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A file has another length than its receipt or its index says.
    #[error("{path} has {found} bytes, expected {expected}: cut short, or not the file of this receipt")]
    Length {
        /// The file.
        path: String,
        /// Bytes there.
        found: u64,
        /// Bytes expected.
        expected: u64,
    },
    /// Bytes are not those that were written.
    #[error(
        "{path}, bytes {from}..{to}: CRC32C is {found:08x}, the receipt says {expected:08x}: changed, or not the file of this receipt"
    )]
    Checksum {
        /// The file.
        path: String,
        /// First byte of the checked stretch.
        from: u64,
        /// Its end.
        to: u64,
        /// CRC32C of the bytes there.
        found: u32,
        /// CRC32C of the receipt.
        expected: u32,
    },
    /// The shards were written for a vocabulary of another width.
    #[error("{path} holds {found:?} tokens, expected {expected:?}")]
    Width {
        /// The file.
        path: String,
        /// Width there.
        found: Width,
        /// Width of the vocabulary.
        expected: Width,
    },
    /// The shards were written with another tokenizer.
    #[error(
        "the shards were written with tokenizer {expected} of {expected_vocab} ids, this one is {found} of {found_vocab} ids"
    )]
    Tokenizer {
        /// blake3 of the tokenizer at hand.
        found: String,
        /// Its number of ids.
        found_vocab: usize,
        /// blake3 in the receipt.
        expected: String,
        /// Number of ids in the receipt.
        expected_vocab: usize,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write tokens: {0}")]
    Write(#[source] std::io::Error),
}
