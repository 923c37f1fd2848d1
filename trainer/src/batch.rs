//! A micro-batch: packed rows of ids with their targets, positions and document boundaries.
//!
//! In: columns from the loader, a renderer or a rollout. Out: the same columns, checked. It knows nothing of shards.

use crate::{Error, Result};

/// `b` rows of `t` positions, all columns row-major `[b * t]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Rows.
    pub b: usize,
    /// Positions per row.
    pub t: usize,
    /// Input token ids, each below `vocab_size`.
    pub ids: Vec<u32>,
    /// The id whose log-prob is wanted at each position (usually the next id).
    pub targets: Vec<u32>,
    /// Rotary position of each token; restarts at 0 with each document.
    pub positions: Vec<u32>,
    /// Index *within its row* of the first token of its document; attention never looks before it.
    pub doc_starts: Vec<u32>,
    /// Weight of each position in the loss. The head skips positions with exactly 0: their statistics are 0.
    pub loss_mask: Vec<f32>,
}

impl Batch {
    /// Rows that are one document each: positions 0.., every position counted.
    pub fn from_rows(b: usize, t: usize, ids: Vec<u32>, targets: Vec<u32>) -> Result<Self> {
        let positions = (0..b * t).map(|i| (i % t) as u32).collect();
        let batch = Self { b, t, ids, targets, positions, doc_starts: vec![0; b * t], loss_mask: vec![1.0; b * t] };
        batch.check(usize::MAX)?;
        Ok(batch)
    }

    /// Positions in the batch.
    pub fn len(&self) -> usize {
        self.b * self.t
    }

    /// True if there is no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ok if all columns have `b * t` entries, ids and targets are below `vocab_size`, and `doc_starts` describes runs.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        let n = self.len();
        let lens = [self.targets.len(), self.positions.len(), self.doc_starts.len(), self.loss_mask.len()];
        if self.ids.len() != n || lens.iter().any(|&l| l != n) {
            let what = format!("columns have {} and {lens:?} entries, expected b * t = {n}", self.ids.len());
            return Err(Error::Batch { what, at: 0 });
        }
        for at in 0..n {
            let (row_pos, start) = (at % self.t, self.doc_starts[at] as usize);
            let continues = row_pos > 0 && self.doc_starts[at] == self.doc_starts[at - 1];
            if !continues && start != row_pos {
                let what = format!("doc_starts is {start}, expected {row_pos} or the value before it");
                return Err(Error::Batch { what, at });
            }
            if let Some(id) = [self.ids[at], self.targets[at]].into_iter().find(|&id| id as usize >= vocab_size) {
                return Err(Error::Batch { what: format!("id {id} is not below vocab_size {vocab_size}"), at });
            }
            if !self.loss_mask[at].is_finite() {
                return Err(Error::Batch { what: "loss_mask is not finite".into(), at });
            }
        }
        Ok(())
    }

    /// The same tokens in rows of `t` positions, which must divide the length of the rows: a document that is cut goes on as a
    /// document of its own, its positions from 0. For schedules that begin with short rows.
    pub fn in_rows_of(mut self, t: usize) -> Self {
        assert!(t > 0 && self.t.is_multiple_of(t), "rows of {} cannot be cut into rows of {t}", self.t);
        for at in 0..self.len() {
            let (start, cut) = (self.doc_starts[at] as usize, at % self.t / t * t);
            if start <= cut {
                self.positions[at] = (at % t) as u32;
            }
            self.doc_starts[at] = start.saturating_sub(cut) as u32;
        }
        (self.b, self.t) = (self.len() / t, t);
        self
    }

    /// Documents of row `row` as half-open ranges of positions within the row.
    pub fn documents(&self, row: usize) -> Vec<std::ops::Range<usize>> {
        let starts = &self.doc_starts[row * self.t..(row + 1) * self.t];
        let mut docs: Vec<std::ops::Range<usize>> = Vec::new();
        for (i, &s) in starts.iter().enumerate() {
            match docs.last_mut() {
                Some(last) if last.start == s as usize => last.end = i + 1,
                _ => docs.push(i..i + 1),
            }
        }
        docs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_documents_split_where_the_start_changes() {
        let mut batch = Batch::from_rows(2, 4, vec![1; 8], vec![2; 8]).unwrap();
        batch.doc_starts[4..].copy_from_slice(&[0, 0, 2, 2]);
        batch.check(3).unwrap();
        assert_eq!(batch.documents(0), vec![0..4]);
        assert_eq!(batch.documents(1), vec![0..2, 2..4]);
    }

    #[test]
    fn shorter_rows_hold_the_same_tokens_and_cut_documents_start_anew() {
        let mut batch = Batch::from_rows(1, 8, (0..8).collect(), (1..9).collect()).unwrap();
        batch.doc_starts = vec![0, 0, 0, 0, 0, 0, 6, 6];
        batch.positions = vec![0, 1, 2, 3, 4, 5, 0, 1];
        let whole = batch.clone();
        assert_eq!(batch.clone().in_rows_of(8), whole);
        let short = batch.in_rows_of(4);
        short.check(9).unwrap();
        assert_eq!((short.b, short.t, &short.ids, &short.targets), (2, 4, &whole.ids, &whole.targets));
        assert_eq!(short.positions, [0, 1, 2, 3, 0, 1, 0, 1]);
        assert_eq!(short.doc_starts, [0, 0, 0, 0, 0, 0, 2, 2]);
    }

    #[test]
    fn a_start_that_is_no_run_start_and_a_large_id_are_refused() {
        let mut batch = Batch::from_rows(1, 3, vec![1; 3], vec![1; 3]).unwrap();
        assert!(batch.check(1).is_err());
        batch.doc_starts = vec![0, 0, 1];
        assert!(matches!(batch.check(9), Err(Error::Batch { at: 2, .. })));
    }

    #[test]
    fn an_empty_batch_is_fine_and_a_short_column_is_not() {
        assert!(Batch::from_rows(0, 4, vec![], vec![]).unwrap().is_empty());
        assert!(Batch::from_rows(1, 2, vec![1], vec![1, 1]).is_err());
    }
}
