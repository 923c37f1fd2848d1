//! Where the merge phase gets its pieces from: a table in memory or a sorted file.

use crate::{
    TokenizerError,
    words::{SortedWords, WordCounts},
};

/// Unique pieces with their counts; every pass sees the same ones in the same order.
pub(super) trait Words {
    fn each(&self, each: &mut dyn FnMut(&[u8], u64)) -> Result<(), TokenizerError>;
}

impl Words for WordCounts {
    fn each(&self, each: &mut dyn FnMut(&[u8], u64)) -> Result<(), TokenizerError> {
        self.iter().for_each(|(piece, count)| each(piece.bytes(), count));
        Ok(())
    }
}

impl Words for SortedWords {
    fn each(&self, each: &mut dyn FnMut(&[u8], u64)) -> Result<(), TokenizerError> {
        Self::each(self, each)
    }
}
