//! All unique pieces as one array of cells, and how often the piece at a place occurs.
//!
//! In: piece counts. Out: `[EDGE, piece, EDGE, piece, …, EDGE]` with one cell a byte, the frequent pieces first. A symbol's id
//! stands in its first and in its last cell, so both neighbours of an occurrence are one look away; cells between are
//! `INSIDE`. Because pieces are ordered by count, counts are a step function of the place: a few thousand steps in place of
//! one number a piece (real text: half of all unique pieces occur once). A cell has two bytes while all ids fit.

use super::{
    source::Words,
    store::{Array, PAGE, Pages, Plain},
};
use crate::TokenizerError;

/// A symbol id in two or four bytes.
pub(super) trait Cell: Plain + Eq + Send + Sync {
    /// Between pieces.
    const EDGE: Self;
    /// Inside a symbol.
    const INSIDE: Self;
    /// Number of ids that can be told from these two.
    const IDS: usize;
    fn new(id: u32) -> Self;
    fn id(self) -> u32;
}

impl Cell for u16 {
    const EDGE: Self = Self::MAX;
    const INSIDE: Self = Self::MAX - 1;
    const IDS: usize = Self::INSIDE as usize;

    fn new(id: u32) -> Self {
        id as Self
    }

    fn id(self) -> u32 {
        u32::from(self)
    }
}

impl Cell for u32 {
    const EDGE: Self = Self::MAX;
    const INSIDE: Self = Self::MAX - 1;
    const IDS: usize = Self::INSIDE as usize;

    fn new(id: u32) -> Self {
        id
    }

    fn id(self) -> u32 {
        self
    }
}

/// Counts below this are sorted by counting.
const SMALL: usize = 1 << 12;
/// Cells of a block of `Weights::first`.
const BLOCK: usize = 256;

/// Lays the pieces of at least two bytes into `cells`, which is empty.
pub(super) fn lay<C: Cell>(
    words: &dyn Words,
    id_of: &[u32; 256],
    cells: &mut Array<C>,
    pages: &mut Pages,
) -> Result<Weights, TokenizerError> {
    let mut next = vec![0_usize; SMALL]; // by count: cells, then where the next piece goes
    let mut large: Vec<Large> = Vec::new(); // the others, in the order of `words`
    words.each(&mut |piece, count| match next.get_mut(count.min(SMALL as u64) as usize) {
        _ if piece.len() < 2 => {}
        Some(cells) => *cells += piece.len() + 1,
        None => large.push(Large { count, place: piece.len() + 1 }),
    })?;
    let mut by_count: Vec<u32> = (0..large.len() as u32).collect();
    by_count.sort_by_key(|&i| std::cmp::Reverse(large[i as usize].count));
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 1;
    let mut run_from = |start: usize, weight: u64| {
        if runs.last().is_none_or(|run| run.weight != weight) {
            runs.push(Run { start, weight });
        }
    };
    for &i in &by_count {
        let piece = &mut large[i as usize];
        run_from(at, piece.count);
        at += std::mem::replace(&mut piece.place, at);
    }
    drop(by_count);
    for (count, cells) in next.iter_mut().enumerate().rev().filter(|(_, cells)| **cells > 0) {
        run_from(at, count as u64);
        at += std::mem::replace(cells, at);
    }
    cells.extend(at)?;
    cells[0] = C::EDGE;
    let mut large = large.iter();
    words.each(&mut |piece, count| {
        if piece.len() < 2 {
            return;
        }
        let place = match next.get_mut(count.min(SMALL as u64) as usize) {
            Some(next) => std::mem::replace(next, *next + piece.len() + 1),
            None => large.next().expect("both passes see the same pieces").place,
        };
        let symbols = piece.iter().map(|&byte| C::new(id_of[usize::from(byte)])).chain([C::EDGE]);
        cells[place..].iter_mut().zip(symbols).for_each(|(cell, symbol)| *cell = symbol);
        // Rare pieces, which are most, are written side by side; frequent ones anywhere.
        let crosses = place * size_of::<C>() / PAGE < (place + piece.len() + 1) * size_of::<C>() / PAGE;
        pages.touch(usize::from(count >= 64 || crosses) + piece.len() / 1024, cells, cells);
    })?;
    Ok(Weights::new(runs, at))
}

/// A piece that occurs at least `SMALL` times.
struct Large {
    count: u64,
    place: usize, // cells, then the first cell
}

/// Equal counts from `start` up to the next run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) start: usize,
    pub(super) weight: u64,
}

/// Count of the piece at any place.
pub(super) struct Weights {
    runs: Vec<Run>,
    first: Vec<u32>, // by block: the run of its first cell
}

/// Where the last look was; looks mostly move on from there.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    from: usize,
    to: usize,
    weight: u64,
}

impl Weights {
    fn new(mut runs: Vec<Run>, len: usize) -> Self {
        runs.insert(0, Run { start: 0, weight: 0 });
        let mut run = 0;
        let mut first = Vec::with_capacity(len / BLOCK + 1);
        for block in (0..len).step_by(BLOCK) {
            while runs.get(run + 1).is_some_and(|next| next.start <= block) {
                run += 1;
            }
            first.push(run as u32);
        }
        Self { runs, first }
    }

    /// Count of the piece that has a cell at `at`.
    #[inline(always)]
    pub(super) fn at(&self, at: usize, cursor: &mut Cursor) -> u64 {
        if at < cursor.from || at >= cursor.to {
            *cursor = self.find(at);
        }
        cursor.weight
    }

    fn find(&self, at: usize) -> Cursor {
        let mut run = self.first[at / BLOCK] as usize;
        while self.runs.get(run + 1).is_some_and(|next| next.start <= at) {
            run += 1;
        }
        let Run { start, weight } = self.runs[run];
        Cursor { from: start, to: self.runs.get(run + 1).map_or(usize::MAX, |next| next.start), weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::WordCounts;

    fn laid<C: Cell>(words: &WordCounts) -> (Array<C>, Weights) {
        let mut cells = Array::new(None, "cells").unwrap();
        let id_of = std::array::from_fn(|byte| byte as u32);
        let weights = lay(words, &id_of, &mut cells, &mut Pages::new(None)).unwrap();
        (cells, weights)
    }

    #[test]
    fn every_piece_lies_once_between_edges_with_its_count_frequent_ones_first() {
        let mut words = WordCounts::new();
        let mut expected = std::collections::BTreeMap::new();
        for i in 0..3000_u64 {
            let piece = format!("{:0width$}", i, width = 4 + (i % 20) as usize);
            let count = [1, 2, 7, SMALL as u64 - 1, SMALL as u64, 1 << 40][i as usize % 6] + i % 3;
            words.add(piece.as_bytes(), count);
            expected.insert(piece.into_bytes(), count);
        }
        words.add(b"x", 9); // one byte: nothing to merge
        let (cells, weights) = laid::<u16>(&words);
        let mut cursor = Cursor::default();
        let mut at = 1;
        let mut before = u64::MAX;
        for piece in cells[1..cells.len() - 1].split(|cell| *cell == u16::EDGE) {
            let bytes: Vec<u8> = piece.iter().map(|cell| cell.id() as u8).collect();
            let count = expected.remove(&bytes).unwrap();
            for place in at..at + bytes.len() {
                assert_eq!(weights.at(place, &mut cursor), count);
                assert_eq!(weights.at(place, &mut Cursor::default()), count);
            }
            assert!(count <= before);
            before = count;
            at += bytes.len() + 1;
        }
        assert!(expected.is_empty());
        assert_eq!(*laid::<u32>(&WordCounts::new()).0, [u32::EDGE]);
    }
}
