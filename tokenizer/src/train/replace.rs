//! One merge over its occurrences: replace them, and note what that changes for the neighbours.
//!
//! In: cells, the postings of a pair (places where it stood when they were written), the merge. Out: cells with the new
//! symbol, and per side and neighbouring symbol the count made, the count lost and the places of the new pair. Postings are
//! looked up a block at a time, so that their cache misses overlap. A pair with many postings is replaced by several threads:
//! they get stretches of whole pieces, and their notes are joined in the order of the text, so that the result is that of
//! one thread. Leaves pair counts and the queue to `merges`.

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
    pub(super) made: i64, // count of the new pair; can fall again inside a run
    pub(super) lost: u64, // count taken from the old pair
    pub(super) postings: u32,
    pub(super) start: u32, // where the postings go; for `merges`
}

/// Neighbours on one side.
#[derive(Default)]
pub(super) struct Side {
    pub(super) delta: Vec<Delta>, // by symbol
    pub(super) touched: Vec<u32>,
    pub(super) events: Vec<(u32, u32)>, // neighbour, place of the new pair
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

    fn record(&mut self, symbol: u32, place: u32, weight: u64, lost: u64) {
        let delta = self.at(symbol);
        delta.made += weight as i64;
        delta.lost += lost;
        delta.postings += 1;
        self.events.push((symbol, place));
    }

    /// Joins the notes on a later stretch of the text, and empties them.
    fn append(&mut self, later: &mut Self) {
        for symbol in later.touched.drain(..) {
            let theirs = std::mem::take(&mut later.delta[symbol as usize]);
            let ours = self.at(symbol);
            ours.made += theirs.made;
            ours.lost += theirs.lost;
            ours.postings += theirs.postings;
        }
        self.events.append(&mut later.events);
    }
}

/// Both sides.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) before: Side,
    pub(super) after: Side,
}

/// Replaces every occurrence of the merge's pair among `postings` (in rising order), from left to right.
pub(super) fn replace_all<C: Cell>(
    cells: &mut [C],
    weights: &Weights,
    lengths: &[u32],
    postings: &[u32],
    merge: Merge,
    notes: &mut [Notes],
) {
    let threads = (postings.len() / THREAD).min(rayon::current_num_threads()).min(notes.len());
    if threads < 2 {
        Stretch { cells, start: 0, weights, lengths, merge }.replace(postings, &mut notes[0]);
        return;
    }
    let mut stretches = cut(cells, postings, threads);
    stretches.par_iter_mut().zip(&mut *notes).for_each(|((cells, start, postings), notes)| {
        Stretch { cells, start: *start, weights, lengths, merge }.replace(postings, notes);
    });
    let (first, others) =
        notes.split_first_mut().expect("there are notes for every thread because `threads` counts them");
    for other in others {
        first.before.append(&mut other.before);
        first.after.append(&mut other.after);
    }
}

/// Cuts cells and postings at edges of pieces into `n` stretches with about equally many postings: cells, place of their
/// first cell, postings.
fn cut<'a, C: Cell>(cells: &'a mut [C], postings: &'a [u32], n: usize) -> Vec<(&'a mut [C], usize, &'a [u32])> {
    let mut out = Vec::with_capacity(n);
    let (mut rest, mut start, mut from) = (cells, 0, 0);
    for i in 1..n {
        let mut edge = postings[i * postings.len() / n] as usize;
        while rest.get(edge.wrapping_sub(start)).is_some_and(|cell| *cell != C::EDGE) {
            edge -= 1;
        }
        if edge <= start {
            continue; // the piece reaches back into the stretch before
        }
        let to = from + postings[from..].partition_point(|&place| (place as usize) < edge);
        let (stretch, later) = rest.split_at_mut(edge - start);
        out.push((stretch, start, &postings[from..to]));
        (rest, start, from) = (later, edge, to);
    }
    out.push((rest, start, &postings[from..]));
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
    fn replace(&mut self, postings: &[u32], notes: &mut Notes) {
        let Merge { left, right, token } = self.merge;
        let (left_cell, right_cell) = (C::new(left), C::new(right));
        let left_len = self.lengths[left as usize] as usize;
        let len = left_len + self.lengths[right as usize] as usize;
        let mut cursor = Cursor::default();
        let mut standing = [0_u32; BLOCK];
        for block in postings.chunks(BLOCK) {
            let mut n = 0;
            for &place in block {
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
                    notes.before.record(x, place - self.lengths[x as usize], weight, lost);
                }
                if y != C::EDGE {
                    notes.after.record(y.id(), place, weight, weight);
                }
                self.cells[at + left_len - 1] = C::INSIDE;
                self.cells[at + left_len] = C::INSIDE;
                self.cells[at] = C::new(token);
                self.cells[at + len - 1] = C::new(token);
            }
        }
    }
}
