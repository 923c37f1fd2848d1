//! Text to ids and back.
//!
//! In: texts. Out: a byte-level BPE tokenizer trained on them (`train`), ids (`Tokenizer`), conversations as ids with a loss
//! mask (`chat`), and token shards (`shard`). Leaves reading documents, writing files durably and scheduling to `pipeline`.
//! A tokenizer is written as a Hugging Face `tokenizer.json` (schema 1.0) and gives the same ids there.

mod added;
mod bpe;
mod bytes;
mod cache;
pub mod chat;
mod encode;
mod error;
#[cfg(feature = "foreign")]
pub mod foreign;
#[cfg(test)]
mod golden;
mod joints;
mod json;
mod key;
mod model;
#[cfg(test)]
mod oracle;
mod planes;
mod ranks;
mod scan;
pub mod shard;
pub mod split;
pub mod stream;
mod tiktoken;
pub mod train;
mod unicode;
mod vocab;
mod window;
pub mod words;

pub use encode::{Encoder, Id};
pub use error::TokenizerError;
pub use model::{END_OF_TEXT, MAX_VOCAB, Tokenizer};
pub(crate) use model::{Parts, Special};
pub use split::{Split, SplitError, Splitter};
pub use stream::Utf8Stream;
pub use train::{DEFAULT_SPECIAL_TOKENS, Scratch, Ties, TokenizerConfig, train, train_sorted};
pub use words::{SortedWords, WordCounter, WordCounts, count, count_all, merge_sorted};
