//! Token shards: documents as ids in flat files that other programs read as they are, and that know where each token came from.
//!
//! In: documents as ids, each under a 128-bit key. Out, for every shard NAME:
//!
//! | file | bytes, all little endian |
//! |---|---|
//! | `NAME.bin` | tokens, u16 or i32 without a header; documents back to back, each ended by the end-of-text token |
//! | `NAME.idx` | Megatron-LM index of version 1, one sequence per document (`index`) |
//! | `NAME.keys` | the documents' keys in order, then their ordinals in order of key (`keys`) |
//!
//! and one receipt for all (`receipt`): tokenizer, width, and per shard its length, blake3 and a CRC32C for each MiB, so that
//! a window is verified before its first use without reading the shard. A window of a [`ShardSet`] leads to its documents and
//! a key to its tokens by binary search. Leaves writing durably, and the table of documents, to `pipeline`.
//!
//! Width: u16 if and only if the vocabulary has at most 65,536 ids.

mod crc32c;
mod error;
pub mod index;
mod keys;
pub mod llmc;
mod reader;
pub mod receipt;
mod search;
mod set;
mod widen;
mod writer;

pub use crc32c::crc32c;
pub use error::ShardError;
pub use index::Index;
pub use keys::key_of;
pub use reader::Shard;
pub use receipt::{Checks, Receipt, ShardEntry};
pub use set::{Piece, ShardSet};
pub use writer::{ShardWriter, Written};

use memmap2::Mmap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes of a block with a checksum of its own.
pub const BLOCK: usize = 1 << 20;

/// Bytes of a token in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
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
}

/// Bytes of a file, mapped or in memory.
#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Storage {
    fn map(path: &str) -> Result<Self, ShardError> {
        let read = |source| ShardError::Read { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(read)?;
        // SAFETY: committed shards are never written again (they appear by rename); the map is read only.
        Ok(Self::Mapped(unsafe { Mmap::map(&file) }.map_err(read)?))
    }
}

impl std::ops::Deref for Storage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
