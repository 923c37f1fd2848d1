//! The merge phase of BPE training, with incremental pair counts.
//!
//! In: unique pieces with counts, a tie rule, the number of tokens wanted. Out: the merges in order. One array holds every
//! piece byte by byte; a symbol's id stands at its first and at its last byte, so both neighbours of an occurrence are one
//! look away and a merge touches nothing but its occurrences. A pair's occurrences ("postings") are written when the pair is
//! made and checked when they are used. Work: O(bytes + occurrences touched), plus the queue. Leaves final ids to `train`.
//!
//! Counting follows Sennrich et al. 2016 as all of Hugging Face, rustbpe and tiktoken do it: overlapping pairs in a run count
//! ("aaa" holds two), merging goes from left to right.

use std::collections::{HashMap, HashSet};

use crate::{
    pairs::PairCounts,
    queue::{Entry, Queue, Symbols},
    train::Ties,
    words::WordCounts,
};

/// A merge in internal ids: 0..256 are the byte symbols in tie order, then one id per new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) token: u32,
}

/// Between pieces.
const EDGE: u32 = u32::MAX;
/// Inside a symbol.
const INSIDE: u32 = u32::MAX - 1;

/// Bytes of all unique pieces that the u32 positions and postings can address: occurrences written are at most three times
/// the bytes.
pub(crate) const MAX_BYTES: usize = 1 << 30;

/// A byte of a piece: the symbol that begins or ends here, and the piece.
#[derive(Clone, Copy)]
struct Cell {
    symbol: u32,
    word: u32,
}

/// What one merge changes for one neighbouring symbol.
#[derive(Clone, Copy, Default)]
struct Delta {
    made: i64,     // count of the new pair; can fall again inside a run
    lost: u64,     // count taken from the old pair
    postings: u32, // occurrences of the new pair
    start: u32,    // where they go
}

/// Neighbours on one side.
#[derive(Default)]
struct Side {
    delta: Vec<Delta>,
    touched: Vec<u32>,
    events: Vec<(u32, u32)>, // neighbour, position of the new pair
}

impl Side {
    fn at(&mut self, symbol: u32) -> &mut Delta {
        if self.delta.len() <= symbol as usize {
            self.delta.resize(symbol as usize + 1, Delta::default());
        }
        let delta = &mut self.delta[symbol as usize];
        if delta.postings == 0 {
            self.touched.push(symbol);
        }
        delta
    }

    fn record(&mut self, symbol: u32, position: u32, weight: u64, lost: u64) {
        let delta = self.at(symbol);
        delta.made += weight as i64;
        delta.lost += lost;
        delta.postings += 1;
        self.events.push((symbol, position));
    }
}

pub(crate) struct Merger {
    cells: Vec<Cell>,
    weights: Vec<u64>,
    lengths: Vec<u32>, // bytes of a symbol
    symbols: Symbols,
    ids: HashMap<Vec<u8>, u32>,
    forbidden: HashSet<Vec<u8>>,
    pairs: PairCounts,
    postings: Vec<u32>,
    queue: Queue,
    left: Side,
    right: Side,
}

impl Merger {
    /// `order`: the byte of each of the first 256 ids. `forbidden`: texts that no merge may build (the special tokens).
    pub(crate) fn new(words: &WordCounts, order: &[u8; 256], ties: Ties, forbidden: HashSet<Vec<u8>>) -> Self {
        let mut id_of = [0_u32; 256];
        let mut symbols = Symbols::default();
        for (id, &byte) in order.iter().enumerate() {
            id_of[usize::from(byte)] = id as u32;
            symbols.push(&[byte]);
        }
        let (mut cells, mut weights) = (vec![Cell { symbol: EDGE, word: 0 }], Vec::new());
        for (piece, count) in words.iter().filter(|(piece, _)| piece.bytes().len() > 1) {
            let word = weights.len() as u32;
            cells.extend(piece.bytes().iter().map(|&b| Cell { symbol: id_of[usize::from(b)], word }));
            cells.push(Cell { symbol: EDGE, word });
            weights.push(count);
        }
        let ids = order.iter().enumerate().map(|(id, &byte)| (vec![byte], id as u32)).collect();
        let mut merger = Self {
            cells,
            weights,
            lengths: vec![1; 256],
            symbols,
            ids,
            forbidden,
            pairs: PairCounts::default(),
            postings: Vec::new(),
            queue: Queue::new(ties),
            left: Side::default(),
            right: Side::default(),
        };
        merger.count_byte_pairs();
        merger
    }

    fn count_byte_pairs(&mut self) {
        let index = |pair: &[Cell]| {
            (pair[0].symbol < 256 && pair[1].symbol < 256).then(|| (pair[0].symbol << 8 | pair[1].symbol) as usize)
        };
        let mut counts = vec![(0_u64, 0_u32); 1 << 16];
        for pair in self.cells.windows(2) {
            if let Some(i) = index(pair) {
                counts[i].0 += self.weights[pair[0].word as usize];
                counts[i].1 += 1;
            }
        }
        let mut next = vec![0_u32; 1 << 16];
        let mut total = 0;
        for (i, &(count, n)) in counts.iter().enumerate().filter(|(_, (_, n))| *n > 0) {
            let (left, right) = (i as u32 >> 8, i as u32 & 255);
            next[i] = total;
            self.pairs.add(left, right, count as i64, total, n);
            self.queue.push(Entry { count, left, right }, &self.symbols);
            total += n;
        }
        self.postings = vec![0; total as usize];
        for (position, pair) in self.cells.windows(2).enumerate() {
            if let Some(i) = index(pair) {
                self.postings[next[i] as usize] = position as u32;
                next[i] += 1;
            }
        }
    }

    /// Merges until there are `n_symbols` symbols or no pair is left. Returns the merges and the symbols' bytes by id.
    pub(crate) fn run(mut self, n_symbols: usize) -> (Vec<Merge>, Symbols) {
        let mut merges = Vec::new();
        let mut done = HashSet::new();
        while self.symbols.len() < n_symbols {
            let Some((left, right)) = self.next_pair() else { break };
            let bytes = self.symbols.concat(left, right);
            if self.forbidden.contains(&bytes) {
                continue; // out of the queue; its count goes on being kept, because its neighbours still change it
            }
            // Two pairs can spell the same token; like Hugging Face, the second one gets the id of the first.
            let fresh = self.symbols.len() as u32;
            let token = *self.ids.entry(bytes.clone()).or_insert(fresh);
            if token == fresh {
                self.symbols.push(&bytes);
                self.lengths.push(bytes.len() as u32);
            }
            if done.insert((left, right)) {
                merges.push(Merge { left, right, token });
            }
            self.apply(Merge { left, right, token });
        }
        (merges, self.symbols)
    }

    /// The pair with the highest true count.
    fn next_pair(&mut self) -> Option<(u32, u32)> {
        loop {
            let entry = self.queue.pop(&self.symbols)?;
            match self.pairs.count(entry.left, entry.right) {
                0 => {}
                count if count == entry.count => return Some((entry.left, entry.right)),
                count => self.queue.push(Entry { count, ..entry }, &self.symbols),
            }
        }
    }

    /// Replaces every occurrence of a pair, from left to right, and updates the pairs around it.
    fn apply(&mut self, merge: Merge) {
        let (start, n) = self.pairs.take(merge.left, merge.right);
        for i in start as usize..start as usize + n as usize {
            self.replace(self.postings[i] as usize, merge);
        }
        let Merge { left, right, token } = merge;
        let (mut before, mut after) = (std::mem::take(&mut self.left), std::mem::take(&mut self.right));
        self.publish(&mut before, |x| (x, token), |x| (x, left), merge);
        self.publish(&mut after, |y| (token, y), |y| (right, y), merge);
        (self.left, self.right) = (before, after);
    }

    /// Replaces one occurrence if it still stands at `at`.
    #[inline]
    fn replace(&mut self, at: usize, Merge { left, right, token }: Merge) {
        let (left_len, right_len) = (self.lengths[left as usize] as usize, self.lengths[right as usize] as usize);
        let middle = at + left_len;
        // A swallowed symbol's first cell is `INSIDE` or the end of a longer symbol, whose id differs: the check is exact.
        if self.cells[at].symbol != left || self.cells[middle].symbol != right {
            return;
        }
        let end = middle + right_len;
        let weight = self.weights[self.cells[at].word as usize];
        let (x, y) = (self.cells[at - 1].symbol, self.cells[end].symbol);
        if x == token {
            // A run: the replacement just before made (token, left), which now becomes (token, token).
            self.right.at(left).made -= weight as i64;
            self.left.record(x, (at - self.lengths[x as usize] as usize) as u32, weight, 0);
        } else if x != EDGE {
            self.left.record(x, (at - self.lengths[x as usize] as usize) as u32, weight, weight);
        }
        if y != EDGE {
            self.right.record(y, at as u32, weight, weight);
        }
        self.cells[middle - 1].symbol = INSIDE;
        self.cells[middle].symbol = INSIDE;
        self.cells[at].symbol = token;
        self.cells[end - 1].symbol = token;
    }

    /// Writes one side's new pairs and postings, and takes the lost counts from the old pairs.
    fn publish(
        &mut self,
        side: &mut Side,
        new: impl Fn(u32) -> (u32, u32),
        old: impl Fn(u32) -> (u32, u32),
        merge: Merge,
    ) {
        let base = self.postings.len();
        let mut next = base as u32;
        for &symbol in &side.touched {
            let delta = &mut side.delta[symbol as usize];
            delta.start = next;
            next += delta.postings;
        }
        self.postings.resize(next as usize, 0);
        for &(symbol, position) in &side.events {
            let delta = &mut side.delta[symbol as usize];
            self.postings[delta.start as usize] = position;
            delta.start += 1;
        }
        for &symbol in &side.touched {
            let delta = std::mem::take(&mut side.delta[symbol as usize]);
            if delta.lost > 0 && old(symbol) != (merge.left, merge.right) {
                let (left, right) = old(symbol);
                self.pairs.lose(left, right, delta.lost);
            }
            self.create(new(symbol), delta);
        }
        side.touched.clear();
        side.events.clear();
    }

    fn create(&mut self, (left, right): (u32, u32), delta: Delta) {
        let (mut start, mut n) = (delta.start - delta.postings, delta.postings);
        if let Some((old_start, old_n)) = self.pairs.postings(left, right) {
            // Only when a merge spelled an existing token: join the occurrences, in text order.
            let mut all = self.postings[old_start as usize..(old_start + old_n) as usize].to_vec();
            all.extend_from_slice(&self.postings[start as usize..(start + n) as usize]);
            all.sort_unstable();
            (start, n) = (self.postings.len() as u32, all.len() as u32);
            self.postings.extend(all);
        }
        let count = self.pairs.add(left, right, delta.made, start, n);
        if count > 0 {
            self.queue.push(Entry { count, left, right }, &self.symbols);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: count every pair of every word from scratch before each merge.
    fn recount(words: &[(Vec<u8>, u64)], n_symbols: usize, ties: Ties) -> Vec<(Vec<u8>, Vec<u8>)> {
        let order = crate::bytes::symbol_order();
        let mut id_of: HashMap<Vec<u8>, u32> =
            (0..=255_u8).map(|b| (vec![b], order.iter().position(|&o| o == b).unwrap() as u32)).collect();
        let mut words: Vec<(Vec<Vec<u8>>, u64)> =
            words.iter().map(|(word, n)| (word.iter().map(|&b| vec![b]).collect(), *n)).collect();
        let mut merges = Vec::new();
        while id_of.len() < n_symbols {
            let mut counts: HashMap<(Vec<u8>, Vec<u8>), u64> = HashMap::new();
            for (word, n) in &words {
                for pair in word.windows(2) {
                    *counts.entry((pair[0].clone(), pair[1].clone())).or_default() += n;
                }
            }
            let key = |pair: &(Vec<u8>, Vec<u8>)| (id_of[&pair.0], id_of[&pair.1]);
            let best = counts.into_iter().max_by(|a, b| {
                a.1.cmp(&b.1)
                    .then_with(|| if ties == Ties::Greatest { a.0.cmp(&b.0) } else { key(&b.0).cmp(&key(&a.0)) })
            });
            let Some((pair, _)) = best else { break };
            let token = [pair.0.clone(), pair.1.clone()].concat();
            for (word, _) in &mut words {
                let mut i = 0;
                while i + 1 < word.len() {
                    if word[i] == pair.0 && word[i + 1] == pair.1 {
                        word[i] = token.clone();
                        word.remove(i + 1);
                    }
                    i += 1;
                }
            }
            let fresh = id_of.len() as u32;
            id_of.entry(token).or_insert(fresh);
            if !merges.contains(&pair) {
                merges.push(pair);
            }
        }
        merges
    }

    #[test]
    fn incremental_counts_equal_a_full_recount_on_small_corpora_with_runs() {
        let mut state = 99_u64;
        let mut noise = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for round in 0..600 {
            let letters = 1 + noise(4);
            let words: Vec<(Vec<u8>, u64)> = (0..1 + noise(8))
                .map(|_| ((0..1 + noise(14)).map(|_| b'a' + noise(letters) as u8).collect(), 1 + noise(5)))
                .collect();
            let mut counts = WordCounts::new();
            words.iter().for_each(|(word, n)| counts.add(word, *n));
            for ties in [Ties::Hf, Ties::Greatest] {
                let (merges, symbols) =
                    Merger::new(&counts, &crate::bytes::symbol_order(), ties, HashSet::new()).run(400);
                let spelled: Vec<_> =
                    merges.iter().map(|m| (symbols.get(m.left).to_vec(), symbols.get(m.right).to_vec())).collect();
                assert_eq!(spelled, recount(&words, 400, ties), "round {round}: {words:?}");
            }
        }
    }
}
