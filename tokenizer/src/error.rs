//! What can go wrong with a tokenizer.
//!
//! Faults of shards are in `shard`, of conversations in `chat`, of splits in `split`.

use crate::split::SplitError;

/// A tokenizer that cannot be trained, read or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The split is not usable.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The vocabulary is too small for the fixed tokens or too large for the pair table.
    #[error("vocab_size is {vocab_size}, expected {least} (special tokens and 256 bytes) to {most}")]
    VocabSize {
        /// As given.
        vocab_size: usize,
        /// Special tokens + 256.
        least: usize,
        /// The largest supported size.
        most: usize,
    },
    /// A special token is shorter than two characters or stands in the list twice.
    #[error("special token `{token}` stands there twice or has fewer than two characters")]
    SpecialToken {
        /// The token's text.
        token: String,
    },
    /// There is no token that ends a document.
    #[error("no token ends a document: add \"<|endoftext|>\" to the special tokens")]
    NoEndOfText,
    /// More unique text than positions can address.
    #[error(
        "the unique pieces have {bytes} bytes, at most {most} can be trained on; sample the text or split it finer"
    )]
    TooManyWords {
        /// Bytes of all unique pieces.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Token counts of another tokenizer.
    #[error("there are counts for {got} ids, expected {expected}: count with the tokenizer that is to be pruned")]
    Usage {
        /// Counts given.
        got: usize,
        /// Ids of the tokenizer.
        expected: usize,
    },
    /// Damaged piece counts.
    #[error("damaged piece counts: {what}")]
    Words {
        /// What is wrong.
        what: &'static str,
    },
    /// `tokenizer.json` is not JSON of the expected shape.
    #[error("not a tokenizer.json: {0}")]
    Json(#[from] serde_json::Error),
    /// `tokenizer.json` asks for something that this crate does not do.
    #[error("tokenizer.json: `{field}` is {found}; this reader knows byte-level BPE with {expected}")]
    Unsupported {
        /// Path of the field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is supported there.
        expected: &'static str,
    },
    /// The parts of `tokenizer.json` contradict each other.
    #[error("tokenizer.json: {what}")]
    Inconsistent {
        /// What is wrong and where.
        what: String,
    },
    /// A file of piece counts or of the merge phase cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}
