//! The merge phase of BPE training, with incremental pair counts.
//!
//! In: unique pieces with counts, a tie rule, the number of tokens wanted. Out: the merges in order. Pieces lie in one array
//! (`layout`); a pair's occurrences ("postings") are written when the pair is made and checked when they are used, so a merge
//! touches nothing but its occurrences (`replace`). Work: O(bytes + occurrences touched), plus the queue. Leaves final ids to
//! `train`.
//!
//! Most pairs are never merged, and a pair is made once with its full count and only falls after that. So pairs made below a
//! floor are forgotten at once. The first floor is the count of the M-th most frequent piece where M tokens are wanted: while
//! fewer than M tokens are made, one of these M pieces is not whole and holds a pair at least as frequent. Where special
//! tokens forbid merges that bound can fail; then, and where a merge spells a token that exists (its pairs are made twice), the
//! floor sinks and all pairs are counted anew.
//!
//! Counting follows Sennrich et al. 2016 as all of Hugging Face, rustbpe and tiktoken do it: overlapping pairs in a run count
//! ("aaa" holds two), merging goes from left to right.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{
    Ties,
    layout::{Cell, Cursor, Weights, lay},
    pairs::PairCounts,
    queue::{Entry, Queue, Symbols},
    replace::{Delta, Notes, Side, replace_all},
    source::Words,
    store::{Array, PAGE, Pages, Scratch},
};
use crate::TokenizerError;

/// A merge in internal ids: 0..256 are the byte symbols in tie order, then one id per new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) token: u32,
}

/// Bytes of all unique pieces that the u32 places and postings can address: occurrences written are at most three times the
/// bytes.
pub(crate) const MAX_BYTES: usize = 1 << 30;
/// With more postings than this they are written anew before the next merge, which adds at most 3 * `MAX_BYTES`.
const MOST_POSTINGS: usize = u32::MAX as usize - 3 * MAX_BYTES;

/// What to learn, in internal ids.
pub(crate) struct Request<'a> {
    /// The byte of each of the first 256 ids.
    pub(crate) order: &'a [u8; 256],
    pub(crate) ties: Ties,
    /// Texts that no merge may build: the special tokens, and what else is not wanted.
    pub(crate) forbidden: &'a dyn Fn(&[u8]) -> bool,
    /// Symbols wanted, the 256 bytes included.
    pub(crate) n_symbols: usize,
    /// Merges to apply first; their tokens follow the bytes in order.
    pub(crate) base: &'a [Merge],
}

/// Merges until there are `n_symbols` symbols or no pair is left. Returns the new merges and the symbols' bytes by id. With
/// `scratch` cells and postings lie in files.
pub(crate) fn learn(
    words: &dyn Words,
    request: Request,
    scratch: Option<&Scratch>,
) -> Result<(Vec<Merge>, Symbols), TokenizerError> {
    if request.n_symbols <= u16::IDS {
        Merger::<u16>::new(words, request, scratch, None)?.run()
    } else {
        Merger::<u32>::new(words, request, scratch, None)?.run()
    }
}

struct Merger<'a, C> {
    cells: Array<C>,
    pages: Pages,
    weights: Weights,
    lengths: Vec<u32>, // bytes of a symbol
    symbols: Symbols,
    n_symbols: usize,
    ids: HashMap<Vec<u8>, u32>,
    forbidden: &'a dyn Fn(&[u8]) -> bool,
    base: &'a [Merge],
    wanted: Option<HashSet<(u32, u32)>>, // while the base is applied: its pairs, and only these are in `pairs`
    floor: u64,                          // else every pair that occurs at least so often is in `pairs`; at least 1
    pairs: PairCounts,
    postings: Array<u32>,
    queue: Queue,
    notes: Vec<Notes>, // one for each thread
}

impl<'a, C: Cell> Merger<'a, C> {
    /// `floor` in place of the one that the counts suggest.
    fn new(
        words: &dyn Words,
        request: Request<'a>,
        scratch: Option<&Scratch>,
        floor: Option<u64>,
    ) -> Result<Self, TokenizerError> {
        let Request { order, ties, forbidden, n_symbols, base } = request;
        let mut id_of = [0_u32; 256];
        let mut symbols = Symbols::default();
        for (id, &byte) in order.iter().enumerate() {
            id_of[usize::from(byte)] = id as u32;
            symbols.push(&[byte]);
        }
        let folder = scratch.map(|scratch| scratch.folder.as_path());
        let mut pages = Pages::new(scratch.map(|scratch| scratch.memory_limit_bytes));
        let mut cells = Array::new(folder, "cells")?;
        let weights = lay(words, &id_of, &mut cells, &mut pages)?;
        let mut merger = Self {
            cells,
            pages,
            weights,
            lengths: vec![1; 256],
            symbols,
            n_symbols,
            ids: order.iter().enumerate().map(|(id, &byte)| (vec![byte], id as u32)).collect(),
            forbidden,
            base,
            wanted: (!base.is_empty()).then(|| base.iter().map(|merge| (merge.left, merge.right)).collect()),
            floor: 1,
            pairs: PairCounts::default(),
            postings: Array::new(folder, "postings")?,
            queue: Queue::new(ties),
            notes: std::iter::repeat_with(Notes::default).take(rayon::current_num_threads()).collect(),
        };
        for merge in base {
            let bytes = merger.symbols.concat(merge.left, merge.right);
            assert_eq!(
                merger.symbol(&bytes),
                merge.token,
                "because a base numbers its tokens in the order of its merges"
            );
        }
        merger.floor = floor.unwrap_or_else(|| merger.bound()).max(1);
        merger.index_bytes()?;
        Ok(merger)
    }

    /// Count of the M-th most frequent piece where M tokens are wanted, 1 if there are fewer pieces.
    fn bound(&self) -> u64 {
        let wanted = self.n_symbols.saturating_sub(256).max(1);
        let edges = self.cells.iter().enumerate().filter(|(_, cell)| **cell == C::EDGE);
        edges.map(|(at, _)| at).nth(wanted).map_or(1, |edge| self.weights.at(edge - 1, &mut Cursor::default()))
    }

    /// Counts the pairs of single bytes and writes the postings of those that reach the floor.
    fn index_bytes(&mut self) -> Result<(), TokenizerError> {
        let mut counts = vec![(0_u64, 0_u32); 1 << 16];
        let mut cursor = Cursor::default();
        for block in byte_blocks(self.cells.len()) {
            each_byte_pair(&self.cells, block, |pair, place| {
                counts[pair].0 += self.weights.at(place, &mut cursor);
                counts[pair].1 += 1;
            });
            self.pages.touch(BYTE_BLOCK / 1024, &self.cells, &self.postings);
        }
        let mut next = vec![u32::MAX; 1 << 16];
        let mut groups = vec![0_u32; 1 << 16]; // of pairs whose postings are written in one pass
        let (mut total, mut group, mut group_start) = (0, 0, 0);
        let group_most = self.pages.most() / 2 * (PAGE / size_of::<u32>());
        for (i, &(count, n)) in counts.iter().enumerate().filter(|(_, (count, _))| *count > 0) {
            let (left, right) = (i as u32 >> 8, i as u32 & 255);
            if !self.is_known((left, right), count as i64) {
                continue;
            }
            if (total - group_start) as usize > group_most {
                (group, group_start) = (group + 1, total);
            }
            (next[i], groups[i]) = (total, group);
            self.pairs.add(left, right, count as i64, total, n);
            self.queue.push(Entry { count, left, right }, &self.symbols);
            total += n;
        }
        drop(counts);
        self.postings.extend(total as usize)?;
        for group in 0..=group {
            self.pages.touch(self.pages.most() / 2, &self.cells, &self.postings);
            for block in byte_blocks(self.cells.len()) {
                let postings: &mut [u32] = &mut self.postings;
                each_byte_pair(&self.cells, block, |pair, place| {
                    if next[pair] != u32::MAX && groups[pair] == group {
                        postings[next[pair] as usize] = place as u32;
                        next[pair] += 1;
                    }
                });
                self.pages.touch(BYTE_BLOCK / 1024, &self.cells, &self.postings);
            }
        }
        Ok(())
    }

    /// Calls `each` with every pair that stands now, its place and its weight, in text order.
    fn each_pair(&mut self, mut each: impl FnMut(&mut Self, (u32, u32), u32, u64)) {
        let mut cursor = Cursor::default();
        let mut at = 0;
        while at + 1 < self.cells.len() {
            if self.cells[at] == C::EDGE {
                at += 1;
                continue;
            }
            let left = self.cells[at].id();
            let next = at + self.lengths[left as usize] as usize;
            if self.cells[next] != C::EDGE {
                let weight = self.weights.at(at, &mut cursor);
                each(self, (left, self.cells[next].id()), at as u32, weight);
            }
            at = next;
            self.pages.touch(1, &self.cells, &self.postings);
        }
    }

    /// Is a new pair with this count kept in the table?
    fn is_known(&self, pair: (u32, u32), count: i64) -> bool {
        match &self.wanted {
            Some(wanted) => wanted.contains(&pair),
            None => self.floor == 1 || count >= self.floor as i64,
        }
    }

    /// Counts all pairs anew and keeps those that reach `floor`; without one, half the count of the M-th most frequent pair
    /// where M tokens are wanted.
    fn index_all(&mut self, floor: Option<u64>) -> Result<(), TokenizerError> {
        self.queue.clear();
        self.pairs.clear();
        self.each_pair(|merger, (left, right), _, weight| merger.pairs.add_one(left, right, weight));
        let wanted = self.n_symbols - self.symbols.len().min(self.n_symbols);
        self.floor = floor.unwrap_or_else(|| self.pairs.nth_count(wanted) / 2).max(1);
        self.pairs.keep(self.floor);
        let mut total = 0;
        for slot in self.pairs.iter_mut() {
            slot.start = total;
            total += std::mem::take(&mut slot.n); // filled below
            let (left, right) = slot.symbols();
            self.queue.push(Entry { count: slot.count, left, right }, &self.symbols);
        }
        self.postings.resize(0, 0)?;
        self.postings.extend(total as usize)?;
        self.each_pair(|merger, (left, right), place, _| {
            if let Some(slot) = merger.pairs.get(left, right) {
                merger.postings[(slot.start + slot.n) as usize] = place;
                slot.n += 1;
            }
        });
        Ok(())
    }

    fn run(mut self) -> Result<(Vec<Merge>, Symbols), TokenizerError> {
        for merge in self.base {
            self.apply(*merge)?;
        }
        if let Some(wanted) = self.wanted.take() {
            drop(wanted);
            self.index_all(None)?;
        }
        let mut merges = Vec::new();
        let mut done: HashSet<(u32, u32)> = self.base.iter().map(|merge| (merge.left, merge.right)).collect();
        while self.symbols.len() < self.n_symbols {
            if self.postings.len() > MOST_POSTINGS {
                self.index_all(Some(self.floor))?;
            }
            let Some((left, right)) = self.next_pair()? else { break };
            let bytes = self.symbols.concat(left, right);
            if (self.forbidden)(&bytes) {
                continue; // out of the queue; its count goes on being kept, because its neighbours still change it
            }
            // Two pairs can spell the same token; like Hugging Face, the second one gets the id of the first.
            let fresh = self.symbols.len() as u32;
            let token = self.symbol(&bytes);
            if token != fresh && self.floor > 1 {
                self.index_all(Some(1))?;
            }
            if done.insert((left, right)) {
                merges.push(Merge { left, right, token });
            }
            self.apply(Merge { left, right, token })?;
        }
        Ok((merges, self.symbols))
    }

    /// The id of a symbol by its bytes; a new one if there is none.
    fn symbol(&mut self, bytes: &[u8]) -> u32 {
        if let Some(&id) = self.ids.get(bytes) {
            return id;
        }
        let id = self.symbols.len() as u32;
        self.ids.insert(bytes.to_owned(), id);
        self.symbols.push(bytes);
        self.lengths.push(bytes.len() as u32);
        id
    }

    /// The pair with the highest true count.
    fn next_pair(&mut self) -> Result<Option<(u32, u32)>, TokenizerError> {
        loop {
            let Some(entry) = self.queue.pop(&self.symbols) else {
                if self.floor == 1 {
                    return Ok(None);
                }
                self.index_all(Some((self.floor / 16).max(1)))?;
                continue;
            };
            match self.pairs.count(entry.left, entry.right) {
                count if count < self.floor => {} // pairs that nobody knows may be as frequent
                count if count == entry.count => return Ok(Some((entry.left, entry.right))),
                count => self.queue.push(Entry { count, ..entry }, &self.symbols),
            }
        }
    }

    /// Replaces every occurrence of a pair, from left to right, and updates the pairs around it.
    fn apply(&mut self, merge: Merge) -> Result<(), TokenizerError> {
        let Some((start, n)) = self.pairs.take(merge.left, merge.right) else { return Ok(()) };
        let start = start as usize;
        let mut stood = start; // end of the postings that stood
        let (mut from, end) = (start, start + n as usize);
        while from < end {
            let (to, pages) = self.page_block(from, end);
            let postings = &mut self.postings[from..to];
            let n = replace_all(&mut self.cells, &self.weights, &self.lengths, postings, merge, &mut self.notes);
            self.postings.copy_within(from..from + n, stood);
            stood += n;
            from = to;
            self.pages.touch(pages, &self.cells, &self.postings);
        }
        let Merge { left, right, token } = merge;
        let mut notes = std::mem::take(&mut self.notes[0]);
        let first = self.postings.len();
        let next = self.reserve(&mut notes.before, |x| (x, token), first as u32);
        let next = self.reserve(&mut notes.after, |y| (token, y), next) as usize;
        if next > first {
            self.postings.extend(next - first)?;
            let neighbours = notes.before.touched.len() + notes.after.touched.len();
            let mut from = start;
            while from < stood {
                let (to, pages) = self.page_block(from, stood);
                self.post(from..to, stood, &mut notes, merge);
                self.pages.touch(pages + neighbours.min(2 * (to - from)), &self.cells, &self.postings);
                from = to;
            }
        }
        self.publish(&mut notes.before, |x| (x, token), |x| (x, left), merge)?;
        self.publish(&mut notes.after, |y| (token, y), |y| (right, y), merge)?;
        self.notes[0] = notes;
        Ok(())
    }

    /// End of the longest stretch of postings from `from` whose places touch no more pages than may be, and those pages.
    fn page_block(&self, from: usize, end: usize) -> (usize, usize) {
        let most = self.pages.most();
        if most == usize::MAX {
            return (end, 0);
        }
        let (mut pages, mut last) = (0, usize::MAX);
        for at in from..end {
            let page = self.postings[at] as usize * size_of::<C>() / PAGE;
            if page != last {
                if pages == most {
                    return (at, pages + (at - from) / 1024);
                }
                (pages, last) = (pages + 1, page);
            }
        }
        (end, pages + (end - from) / 1024)
    }

    /// Sets where the postings of one side's new pairs go, from `next` on, and returns where they end.
    fn reserve(&self, side: &mut Side, new: impl Fn(u32) -> (u32, u32), mut next: u32) -> u32 {
        for &symbol in &side.touched {
            let delta = &mut side.delta[symbol as usize];
            // With a floor above 1 a pair is made only once, so what is made now is all there will be.
            if self.is_known(new(symbol), delta.made) {
                delta.start = next;
                next += delta.postings;
            } else {
                delta.start = FORGET;
            }
            delta.postings = 0; // from here on: those written
        }
        next
    }

    /// Writes the postings of the new pairs around the replaced places in `block`; such places end at `end`.
    fn post(&mut self, block: Range<usize>, end: usize, notes: &mut Notes, merge: Merge) {
        let len = (self.lengths[merge.left as usize] + self.lengths[merge.right as usize]) as usize;
        let write = |delta: &mut Delta, postings: &mut [u32], place: usize| {
            if delta.start != FORGET {
                postings[(delta.start + delta.postings) as usize] = place as u32;
                delta.postings += 1;
            }
        };
        for i in block.clone() {
            let at = self.postings[i] as usize;
            let (x, y) = (self.cells[at - 1], self.cells[at + len]);
            if x != C::EDGE {
                let x = x.id();
                let place = at - self.lengths[x as usize] as usize;
                write(&mut notes.before.delta[x as usize], &mut self.postings, place);
            }
            // Of two neighbours made now the second one writes the place.
            let made_now = i + 1 < end && self.postings[i + 1] as usize == at + len;
            if y != C::EDGE && !made_now {
                write(&mut notes.after.delta[y.id() as usize], &mut self.postings, at);
            }
        }
    }

    /// Takes the lost counts from the old pairs of one side, and puts its new pairs into the table and the queue.
    fn publish(
        &mut self,
        side: &mut Side,
        new: impl Fn(u32) -> (u32, u32),
        old: impl Fn(u32) -> (u32, u32),
        merge: Merge,
    ) -> Result<(), TokenizerError> {
        for &symbol in &side.touched {
            let delta = std::mem::take(&mut side.delta[symbol as usize]);
            if delta.lost > 0 && old(symbol) != (merge.left, merge.right) {
                let (left, right) = old(symbol);
                self.pairs.lose(left, right, delta.lost, self.floor == 1 && self.wanted.is_none());
            }
            if delta.start != FORGET {
                self.create(new(symbol), delta)?;
            }
        }
        side.touched.clear();
        Ok(())
    }

    fn create(&mut self, (left, right): (u32, u32), delta: Delta) -> Result<(), TokenizerError> {
        let (mut start, mut n) = (delta.start, delta.postings);
        if let Some((old_start, old_n)) = self.pairs.postings(left, right) {
            // Only when a merge spelled an existing token: join the occurrences, in text order.
            let mut all = self.postings[old_start as usize..(old_start + old_n) as usize].to_vec();
            all.extend_from_slice(&self.postings[start as usize..(start + n) as usize]);
            all.sort_unstable();
            (start, n) = (self.postings.len() as u32, all.len() as u32);
            self.postings.extend(all.len())?;
            self.postings[start as usize..].copy_from_slice(&all);
        }
        let count = self.pairs.add(left, right, delta.made, start, n);
        if count > 0 {
            self.queue.push(Entry { count, left, right }, &self.symbols);
        }
        Ok(())
    }
}

/// In place of the start of postings: the pair is not kept.
const FORGET: u32 = u32::MAX;

/// Cells between two looks at the number of touched pages.
const BYTE_BLOCK: usize = 1 << 14;

fn byte_blocks(cells: usize) -> impl Iterator<Item = Range<usize>> {
    (0..cells - 1).step_by(BYTE_BLOCK).map(move |from| from..(from + BYTE_BLOCK).min(cells - 1))
}

/// Calls `each` with (left << 8 | right) and the place of every pair of single bytes.
#[inline(always)]
fn each_byte_pair<C: Cell>(cells: &[C], block: Range<usize>, mut each: impl FnMut(usize, usize)) {
    for (place, pair) in block.clone().zip(cells[block.start..=block.end].windows(2)) {
        if pair[0] != C::EDGE && pair[1] != C::EDGE {
            each((pair[0].id() << 8 | pair[1].id()) as usize, place);
        }
    }
}

#[cfg(test)]
mod tests;
