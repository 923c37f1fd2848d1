//! Token sequences of different lengths to batches, without one sequence seeing another.
//!
//! In: sequences of ids with a mask that says which tokens are to be learnt (or scored). Out: [`Batch`]es in which each
//! sequence is a document of its own, and for every sequence its [`Place`], so that a per-token statistic can be read
//! back. What a sequence means (conversation, pair, rollout) is the caller's business.
//!
//! A sequence of `n` tokens takes `n - 1` positions: position `i` reads token `i` and has token `i + 1` as its target.
//! Packing is best fit, longest first (Johnson 1973); ties go to the sequence and the row that came first.

use crate::{Batch, Error, Result};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Ids of one sequence, and per token whether it is a target that counts. The first token never is one.
pub type Masked = (Vec<u32>, Vec<bool>);

/// Where a sequence lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index into [`Packing::batches`].
    pub batch: usize,
    /// Flat index into that batch's columns of the sequence's first position; its target is token 1.
    pub first: usize,
    /// Positions taken: tokens less one.
    pub len: usize,
}

impl Place {
    /// Flat index of the position whose target is token `token` (1-based: token 0 is nobody's target).
    pub fn of_token(&self, token: usize) -> usize {
        assert!((1..=self.len).contains(&token), "token {token} is no target of a sequence of {} tokens", self.len + 1);
        self.first + token - 1
    }

    /// Row and position of the sequence's first position in a batch of rows of `t`.
    pub fn row_and_position(&self, t: usize) -> (usize, usize) {
        (self.first / t, self.first % t)
    }
}

/// Batches and the way back from sequences to positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Packing {
    /// Micro-batches, each at most the asked number of rows.
    pub batches: Vec<Batch>,
    /// One place per sequence, in the order given.
    pub places: Vec<Place>,
}

impl Packing {
    /// The slice of a per-position column that belongs to sequence `i`; `columns` holds one `[b * t]` column per batch.
    pub fn of<'c, T>(&self, columns: &'c [Vec<T>], i: usize) -> &'c [T] {
        let place = self.places[i];
        &columns[place.batch][place.first..place.first + place.len]
    }

    /// Share of positions that belong to no sequence, 0 to 1.
    pub fn padding(&self) -> f64 {
        let all: usize = self.batches.iter().map(Batch::len).sum();
        let used: usize = self.places.iter().map(|p| p.len).sum();
        if all == 0 { 0.0 } else { 1.0 - used as f64 / all as f64 }
    }
}

/// Packs sequences into rows of at most `sequence_len` positions, `rows` rows per batch. Each batch is as wide as its
/// fullest row. An error names a sequence that does not fit or whose mask has another length.
pub fn pack(examples: &[Masked], sequence_len: usize, rows: usize) -> Result<Packing> {
    check(examples, sequence_len)?;
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.sort_by_key(|&i| Reverse(examples[i].0.len()));
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new(); // (free positions, row)
    let mut packed: Vec<Vec<usize>> = Vec::new();
    for i in order {
        let need = examples[i].0.len() - 1;
        let (free, row) = match open.range((need, 0)..).next().copied() {
            Some(best) => {
                open.remove(&best);
                best
            }
            None => {
                packed.push(Vec::new());
                (sequence_len, packed.len() - 1)
            }
        };
        packed[row].push(i);
        open.insert((free - need, row));
    }
    // Rows, and sequences inside a row, go back to the order given: a step's data keep their order.
    packed.iter_mut().for_each(|row| row.sort_unstable());
    packed.sort();
    Ok(lay_out(examples, &packed, rows))
}

/// One sequence per row, in the order given, `rows` rows per batch; each batch is as wide as its longest sequence.
pub fn pad_one_per_row(examples: &[Masked], sequence_len: usize, rows: usize) -> Result<Packing> {
    check(examples, sequence_len)?;
    let one_each: Vec<Vec<usize>> = (0..examples.len()).map(|i| vec![i]).collect();
    Ok(lay_out(examples, &one_each, rows))
}

fn check(examples: &[Masked], sequence_len: usize) -> Result<()> {
    for (i, (ids, mask)) in examples.iter().enumerate() {
        let fault = |what: String| Err(Error::Batch { what: format!("sequence {i} {what}"), at: i });
        if ids.len() != mask.len() {
            return fault(format!("has {} tokens and a mask of {}", ids.len(), mask.len()));
        }
        if ids.len() < 2 || ids.len() - 1 > sequence_len {
            return fault(format!("has {} tokens, expected 2 to {}", ids.len(), sequence_len + 1));
        }
    }
    Ok(())
}

fn lay_out(examples: &[Masked], packed: &[Vec<usize>], rows: usize) -> Packing {
    let mut places = vec![Place { batch: 0, first: 0, len: 0 }; examples.len()];
    let mut batches = Vec::new();
    for chunk in packed.chunks(rows.max(1)) {
        let width = |row: &Vec<usize>| row.iter().map(|&i| examples[i].0.len() - 1).sum::<usize>();
        let t = chunk.iter().map(width).max().unwrap_or(0);
        let mut batch = blank(chunk.len(), t);
        for (r, row) in chunk.iter().enumerate() {
            let mut at = 0;
            for &i in row {
                places[i] = Place { batch: batches.len(), first: r * t + at, len: examples[i].0.len() - 1 };
                put(&mut batch, r, at, &examples[i]);
                at += places[i].len;
            }
            // What is left is a document of its own: zeros that nothing reads and nothing scores.
            for p in at..t {
                batch.positions[r * t + p] = (p - at) as u32;
                batch.doc_starts[r * t + p] = at as u32;
            }
        }
        batches.push(batch);
    }
    Packing { batches, places }
}

fn blank(b: usize, t: usize) -> Batch {
    let zeros = || vec![0_u32; b * t];
    Batch { b, t, ids: zeros(), targets: zeros(), positions: zeros(), doc_starts: zeros(), loss_mask: vec![0.0; b * t] }
}

fn put(batch: &mut Batch, row: usize, at: usize, (ids, mask): &Masked) {
    let first = row * batch.t + at;
    for i in 0..ids.len() - 1 {
        batch.ids[first + i] = ids[i];
        batch.targets[first + i] = ids[i + 1];
        batch.positions[first + i] = i as u32;
        batch.doc_starts[first + i] = at as u32;
        batch.loss_mask[first + i] = f32::from(u8::from(mask[i + 1]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(tokens: std::ops::Range<u32>, learn_from: usize) -> Masked {
        let ids: Vec<u32> = tokens.collect();
        let mask = (0..ids.len()).map(|i| i >= learn_from).collect();
        (ids, mask)
    }

    fn some() -> Vec<Masked> {
        vec![example(0..5, 2), example(10..13, 1), example(20..28, 4), example(30..33, 0), example(40..42, 1)]
    }

    #[test]
    fn every_target_is_found_where_its_place_says() {
        for packing in [pack(&some(), 8, 2).unwrap(), pad_one_per_row(&some(), 8, 2).unwrap()] {
            for batch in &packing.batches {
                batch.check(64).unwrap();
            }
            for ((ids, mask), place) in some().iter().zip(&packing.places) {
                let batch = &packing.batches[place.batch];
                for token in 1..ids.len() {
                    let at = place.of_token(token);
                    assert_eq!((batch.ids[at], batch.targets[at]), (ids[token - 1], ids[token]));
                    assert_eq!(batch.positions[at] as usize, token - 1);
                    assert_eq!(batch.doc_starts[at] as usize, place.row_and_position(batch.t).1);
                    assert_eq!(batch.loss_mask[at] > 0.0, mask[token]);
                }
            }
            let learnt: f32 = packing.batches.iter().flat_map(|b| &b.loss_mask).sum();
            let wanted = some().iter().flat_map(|(_, m)| m[1..].to_vec()).filter(|&m| m).count();
            assert_eq!(learnt as usize, wanted);
        }
    }

    #[test]
    fn packing_fills_rows_and_one_per_row_does_not() {
        // 7 + 4 + 2 + 2 + 1 = 16 positions: two rows of 8 hold all.
        let packing = pack(&some(), 8, 2).unwrap();
        assert_eq!((packing.batches.len(), packing.batches[0].b, packing.batches[0].t), (1, 2, 8));
        assert_eq!(packing.padding(), 0.0);
        let padded = pad_one_per_row(&some(), 8, 2).unwrap();
        assert_eq!(padded.batches.iter().map(|b| (b.b, b.t)).collect::<Vec<_>>(), [(2, 4), (2, 7), (1, 1)]);
        assert!(padded.padding() > 0.2);
    }

    #[test]
    fn a_sequence_that_does_not_fit_is_named() {
        let error = pack(&some(), 6, 2).unwrap_err().to_string();
        assert!(error.contains("sequence 2 has 8 tokens, expected 2 to 7"), "{error}");
        assert!(pack(&[(vec![1], vec![true])], 6, 2).is_err());
        assert!(pack(&[(vec![1, 2], vec![true])], 6, 2).is_err());
        assert_eq!(pack(&[], 6, 2).unwrap().batches, vec![]);
    }

    #[test]
    fn a_column_is_read_back_by_sequence() {
        let packing = pack(&some(), 8, 1).unwrap();
        let columns: Vec<Vec<u32>> = packing.batches.iter().map(|b| b.targets.clone()).collect();
        for (i, (ids, _)) in some().iter().enumerate() {
            assert_eq!(packing.of(&columns, i), &ids[1..]);
        }
    }
}
