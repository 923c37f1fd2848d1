//! One merge over its occurrences: replace them, and note what that changes for the neighbours.
//!
//! In: cells, the postings of a pair (places where it stood when they were written), the merge. Out: cells with the new
//! symbol, the postings that still stood, and per side and neighbouring symbol the count made and the count lost. Postings
//! are looked up a block at a time, so that their cache misses overlap. A pair with many postings is replaced by several
//! threads: they get stretches of whole pieces, and their notes are sums, so that the result is that of one thread. Leaves
//! pair counts, new postings and the queue to `merges`.

use rayon::prelude::*;

use super::{
    layout::{Cell, Cursor, Weights},
    merges::Merge,
};

/// Postings looked up at once.
const BLOCK: usize = 32;
/// Fewer postings than this for each thread are not worth a thread.
const THREAD: usize = if cfg!(test) { 8 } else { 1 << 14 };

/// What one merge changes for one neighbouring symbol.
#[derive(Clone, Copy, Default)]
pub(super) struct Delta {
    pub(super) made: i64,     // count of the new pair; can fall again inside a run
    pub(super) lost: u64,     // count taken from the old pair
    pub(super) postings: u32, // places of the new pair, at most
    pub(super) start: u32,    // where they go; for `merges`
}

/// Neighbours on one side.
#[derive(Default)]
pub(super) struct Side {
    pub(super) delta: Vec<Delta>, // by symbol
    pub(super) touched: Vec<u32>,
}

impl Side {
    pub(super) fn at(&mut self, symbol: u32) -> &mut Delta {
        if self.delta.len() <= symbol as usize {
            self.delta.resize(symbol as usize + 1, Delta::default());
        }
        let delta = &mut self.delta[symbol as usize];
        if delta.postings == 0 {
            self.touched.push(symbol);
        }
        delta
    }

    fn record(&mut self, symbol: u32, weight: u64, lost: u64) {
        let delta = self.at(symbol);
        delta.made += weight as i64;
        delta.lost += lost;
        delta.postings += 1;
    }

    /// Adds other notes, and empties them.
    fn append(&mut self, other: &mut Self) {
        for symbol in other.touched.drain(..) {
            let theirs = std::mem::take(&mut other.delta[symbol as usize]);
            let ours = self.at(symbol);
            ours.made += theirs.made;
            ours.lost += theirs.lost;
            ours.postings += theirs.postings;
        }
    }
}

/// Both sides.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) before: Side,
    pub(super) after: Side,
}

/// Replaces every occurrence of the merge's pair among `postings` (in rising order), from left to right. Moves the postings
/// that stood to the front and returns their number.
pub(super) fn replace_all<C: Cell>(
    cells: &mut [C],
    weights: &Weights,
    lengths: &[u32],
    postings: &mut [u32],
    merge: Merge,
    notes: &mut [Notes],
) -> usize {
    let threads = (postings.len() / THREAD).min(rayon::current_num_threads()).min(notes.len());
    if threads < 2 {
        return Stretch { cells, start: 0, weights, lengths, merge }.replace(postings, &mut notes[0]);
    }
    let mut stretches = cut(cells, postings, threads);
    let stood = stretches.par_iter_mut().zip(&mut *notes).map(|((cells, start, postings), notes)| {
        let stood = Stretch { cells, start: *start, weights, lengths, merge }.replace(postings, notes);
        (postings.len(), stood)
    });
    let stood: Vec<(usize, usize)> = stood.collect();
    let (first, others) =
        notes.split_first_mut().expect("there are notes for every thread because `threads` counts them");
    for other in others {
        first.before.append(&mut other.before);
        first.after.append(&mut other.after);
    }
    let (mut from, mut to) = (0, 0);
    for (len, stood) in stood {
        postings.copy_within(from..from + stood, to);
        (from, to) = (from + len, to + stood);
    }
    to
}

/// Cuts cells and postings at edges of pieces into `n` stretches with about equally many postings: cells, place of their
/// first cell, postings.
fn cut<'a, C: Cell>(cells: &'a mut [C], postings: &'a mut [u32], n: usize) -> Vec<(&'a mut [C], usize, &'a mut [u32])> {
    let mut out = Vec::with_capacity(n);
    let share = postings.len() / n;
    let (mut rest, mut start, mut left) = (cells, 0, postings);
    for _ in 1..n {
        let Some(&middle) = left.get(share) else { break };
        let mut edge = middle as usize;
        while rest[edge - start] != C::EDGE {
            edge -= 1; // ends at `start` at the latest, which is an edge
        }
        let to = left.partition_point(|&place| (place as usize) < edge);
        let (cells, later) = rest.split_at_mut(edge - start);
        let (postings, others) = left.split_at_mut(to);
        out.push((cells, start, postings));
        (rest, start, left) = (later, edge, others);
    }
    out.push((rest, start, left));
    out
}

/// Some whole pieces, beginning with the edge before them.
struct Stretch<'a, C> {
    cells: &'a mut [C],
    start: usize,
    weights: &'a Weights,
    lengths: &'a [u32],
    merge: Merge,
}

impl<C: Cell> Stretch<'_, C> {
    fn replace(&mut self, postings: &mut [u32], notes: &mut Notes) -> usize {
        let Merge { left, right, token } = self.merge;
        let (left_cell, right_cell) = (C::new(left), C::new(right));
        let left_len = self.lengths[left as usize] as usize;
        let len = left_len + self.lengths[right as usize] as usize;
        let mut cursor = Cursor::default();
        let mut standing = [0_u32; BLOCK];
        let mut stood = 0;
        for from in (0..postings.len()).step_by(BLOCK) {
            let mut n = 0;
            for &place in &postings[from..postings.len().min(from + BLOCK)] {
                let at = place as usize - self.start;
                standing[n] = place;
                n += usize::from(self.cells[at] == left_cell && self.cells[at + left_len] == right_cell);
            }
            for &place in &standing[..n] {
                let at = place as usize - self.start;
                // Inside a run the replacement before may have taken the left symbol. A swallowed symbol's first cell is
                // `INSIDE` or the end of a longer symbol, whose id differs: the check is exact.
                if self.cells[at] != left_cell {
                    continue;
                }
                let weight = self.weights.at(place as usize, &mut cursor);
                let (x, y) = (self.cells[at - 1], self.cells.get(at + len).copied().unwrap_or(C::EDGE));
                if x != C::EDGE {
                    let x = x.id();
                    let mut lost = weight;
                    if x == token {
                        // A run: the replacement just before made (token, left), which now becomes (token, token).
                        notes.after.at(left).made -= weight as i64;
                        lost = 0;
                    }
                    notes.before.record(x, weight, lost);
                }
                if y != C::EDGE {
                    notes.after.record(y.id(), weight, weight);
                }
                postings[stood] = place;
                stood += 1;
                self.cells[at + left_len - 1] = C::INSIDE;
                self.cells[at + left_len] = C::INSIDE;
                self.cells[at] = C::new(token);
                self.cells[at + len - 1] = C::new(token);
            }
        }
        stood
    }
}
