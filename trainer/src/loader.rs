//! Token shards to training batches: which window of which shard every row of every step sees.
//!
//! In: open shards, a window length and a seed. Out: [`Batch`]es, and for `trace` the token ranges a step was made of.
//! The loader is a pure function of (seed, sample index): its whole state is one integer, the step. It opens no file
//! and knows no text; shuffling is by window, mixing of sources is the caller's business. The shards verify what is read from
//! them: bytes that are not those that were written are an error, never a batch.
//!
//! Window `w` holds the tokens `w * sequence_len ..= (w + 1) * sequence_len` of the concatenated shards, so neighbours
//! share one token and every token but the first is a target exactly once per epoch (at most `sequence_len - 1` tokens
//! at the very end fit no window). Each epoch visits all windows in a fresh keyed Feistel order (Luby and Rackoff 1988,
//! with cycle walking, Black and Rogaway 2002): O(1) to seek, nothing stored.
//!
//! Documents come from the shard's index: positions restart and attention ends at each one. The first token of a
//! document is never a target (`loss_mask` 0): what is seen before it belongs to an unrelated document.

use crate::rng::Key;
use crate::{Batch, Error, Result};
use std::ops::Range;
use tokenizer::shard::ShardSet;

/// A run of tokens of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Position of the shard in its set.
    pub shard: usize,
    /// First token, counted from the start of the shard.
    pub start: u64,
    /// Number of tokens.
    pub len: usize,
}

impl Window {
    /// The tokens as a range of the shard.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.len as u64
    }
}

/// Endless, seekable source of training rows over some shards.
pub struct Loader<'a> {
    shards: &'a ShardSet,
    sequence_len: usize,
    seed: u64,
    windows: u64,
}

impl<'a> Loader<'a> {
    /// A loader of rows of `sequence_len` positions; an error if not even one window of `sequence_len + 1` tokens fits.
    pub fn new(shards: &'a ShardSet, sequence_len: usize, seed: u64) -> Result<Self> {
        let total = shards.n_tokens();
        let windows = if sequence_len == 0 { 0 } else { total.saturating_sub(1) / sequence_len as u64 };
        if windows == 0 {
            let most = total.saturating_sub(1);
            let n = shards.shards().len();
            let expected = format!("the {n} shards hold {total} tokens, so expected 1 to {most}");
            return Err(Error::Config { field: "sequence_len", got: sequence_len.to_string(), expected });
        }
        Ok(Self { shards, sequence_len, seed, windows })
    }

    /// Windows per epoch.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Tokens in all shards.
    pub fn tokens(&self) -> u64 {
        self.shards.n_tokens()
    }

    /// Window number of sample `index`, where sample 0 is the first row of step 0 and epochs follow each other.
    pub fn window_of(&self, index: u64) -> u64 {
        let key = Key::new(self.seed).fold_str("loader.windows").fold(index / self.windows);
        permute(key, index % self.windows, self.windows)
    }

    /// The `rows` rows of `step`, all `sequence_len` long.
    pub fn batch(&self, step: u64, rows: usize) -> Result<Batch> {
        self.samples(step * rows as u64, rows)
    }

    /// The rows of `step` as micro-batches of `micro_rows` (the last may be shorter): the same rows for any split.
    pub fn micro_batches(&self, step: u64, rows: usize, micro_rows: usize) -> Result<Vec<Batch>> {
        let starts = (0..rows).step_by(micro_rows.max(1));
        starts.map(|r| self.samples(step * rows as u64 + r as u64, micro_rows.max(1).min(rows - r))).collect()
    }

    /// Samples `first .. first + rows` as one batch.
    pub fn samples(&self, first: u64, rows: usize) -> Result<Batch> {
        let t = self.sequence_len;
        let n = rows * t;
        let (mut ids, mut targets) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let (mut positions, mut doc_starts) = (Vec::with_capacity(n), Vec::with_capacity(n));
        let mut loss_mask = Vec::with_capacity(n);
        let mut tokens = Vec::with_capacity(t + 1);
        for row in 0..rows {
            let range = self.range_of_sample(first + row as u64);
            tokens.clear();
            self.shards.tokens_into(range.clone(), &mut tokens)?;
            ids.extend_from_slice(&tokens[..t]);
            targets.extend_from_slice(&tokens[1..]);
            let boundaries = self.boundaries(range);
            let mut document = boundaries.iter().copied().peekable();
            let mut start = 0;
            for i in 0..t {
                start = document.next_if_eq(&i).unwrap_or(start);
                positions.push((i - start) as u32);
                doc_starts.push(start as u32);
                loss_mask.push(if document.peek() == Some(&(i + 1)) { 0.0 } else { 1.0 });
            }
        }
        Ok(Batch { b: rows, t, ids, targets, positions, doc_starts, loss_mask })
    }

    /// Token ranges that the `rows` rows of `step` read, in row order; a row that crosses shards has several.
    pub fn windows_of_step(&self, step: u64, rows: usize) -> Vec<Window> {
        (0..rows as u64).flat_map(|r| self.windows_of_sample(step * rows as u64 + r)).collect()
    }

    /// Token ranges of one sample: `sequence_len + 1` tokens in order.
    pub fn windows_of_sample(&self, index: u64) -> Vec<Window> {
        let parts = self.shards.parts(self.range_of_sample(index));
        parts.map(|(shard, at)| Window { shard, start: at.start, len: (at.end - at.start) as usize }).collect()
    }

    /// Tokens of one sample, counted over all shards.
    fn range_of_sample(&self, index: u64) -> Range<u64> {
        let start = self.window_of(index) * self.sequence_len as u64;
        start..start + self.sequence_len as u64 + 1
    }

    /// Offsets into the row at which a document starts, ascending.
    fn boundaries(&self, range: Range<u64>) -> Vec<usize> {
        let mut offset = 0;
        let pieces = self.shards.documents(range).filter_map(|piece| {
            let at = offset;
            offset += (piece.tokens.end - piece.tokens.start) as usize;
            let starts = self.shards.shards()[piece.shard].doc_range(piece.document).start == piece.tokens.start;
            (starts && offset > at).then_some(at) // an empty document starts where the next one does
        });
        pieces.collect()
    }
}

/// Where `index` (below `n`) goes in a pseudo-random permutation of `0..n`; equal for equal keys.
pub fn permute(key: Key, index: u64, n: u64) -> u64 {
    assert!(index < n, "the index to permute must be below n");
    let bits = (u64::BITS - (n - 1).leading_zeros()).max(2);
    let half = bits.div_ceil(2);
    let mask = (1_u64 << half) - 1;
    let mut x = index;
    loop {
        let (mut left, mut right) = (x >> half, x & mask);
        for round in 0..6 {
            (left, right) = (right, left ^ (key.fold(round).bits(right) & mask));
        }
        x = left << half | right;
        if x < n {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokenizer::shard::{Shard, ShardWriter};

    const END: u32 = 999;

    /// A shard of documents of these lengths, end-of-text token included; the others are numbered from `next` on.
    fn shard(next: &mut u32, lens: &[u32]) -> Shard {
        let mut writer = ShardWriter::new(Vec::new(), 1000, END);
        for len in lens {
            writer.push(0, &(*next..*next + len - 1).collect::<Vec<_>>()).unwrap();
            *next += len;
        }
        Shard::in_memory(writer.finish().unwrap()).unwrap()
    }

    const LENS: [&[u32]; 3] = [&[7, 13, 1, 9, 12, 11], &[1], &[2, 3, 5, 13, 13, 11]];

    /// 53 + 1 + 47 tokens. A token that ends no document is its own global number.
    fn shards() -> ShardSet {
        let mut next = 0;
        ShardSet::new(LENS.iter().map(|lens| shard(&mut next, lens)).collect())
    }

    fn starts() -> BTreeSet<u32> {
        LENS.concat().iter().scan(0, |sum, len| Some(std::mem::replace(sum, *sum + len))).collect()
    }

    /// Id of the token with this global number.
    fn id(global: u32) -> u32 {
        if starts().contains(&(global + 1)) || global == 100 { END } else { global }
    }

    #[test]
    fn an_epoch_shows_every_window_once_and_the_next_in_another_order() {
        let shards = shards();
        let loader = Loader::new(&shards, 8, 5).unwrap();
        assert_eq!((loader.tokens(), loader.windows()), (101, 12));
        let epoch = |e: u64| (0..12).map(|i| loader.window_of(e * 12 + i)).collect::<Vec<_>>();
        for e in 0..4 {
            assert_eq!(epoch(e).into_iter().collect::<BTreeSet<_>>(), (0..12).collect());
        }
        assert!(epoch(0) != epoch(1) && epoch(1) != epoch(2));
        // Every token but the first is a target once.
        let mut targets: Vec<u32> = (0..4).flat_map(|step| loader.batch(step, 3).unwrap().targets).collect();
        let mut expected: Vec<u32> = (1..97).map(id).collect();
        targets.sort_unstable();
        expected.sort_unstable();
        assert_eq!(targets, expected);
    }

    #[test]
    fn documents_restart_positions_and_their_first_token_is_never_learnt() {
        let shards = shards();
        let loader = Loader::new(&shards, 8, 5).unwrap();
        let batch = loader.batch(0, 12).unwrap();
        batch.check(1000).unwrap();
        for at in 0..batch.len() {
            let row_start = 8 * loader.window_of(at as u64 / 8) as u32;
            let global = row_start + at as u32 % 8;
            assert_eq!((batch.ids[at], batch.targets[at]), (id(global), id(global + 1)));
            let document = (*starts().range(..=global).next_back().unwrap()).max(row_start);
            assert_eq!(batch.positions[at], global - document);
            assert_eq!(batch.doc_starts[at], document - row_start);
            assert_eq!(batch.loss_mask[at], if starts().contains(&(global + 1)) { 0.0 } else { 1.0 });
        }
    }

    #[test]
    fn traced_windows_hold_exactly_the_tokens_of_the_step() {
        let shards = shards();
        let loader = Loader::new(&shards, 8, 5).unwrap();
        for step in 0..6 {
            let mut tokens = Vec::new();
            for w in loader.windows_of_step(step, 4) {
                shards.shards()[w.shard].tokens_into(w.range(), &mut tokens).unwrap();
            }
            let batch = loader.batch(step, 4).unwrap();
            let rows = batch.ids.chunks(8).zip(batch.targets.chunks(8));
            assert_eq!(tokens, rows.flat_map(|(ids, t)| [ids, &t[7..]].concat()).collect::<Vec<_>>());
        }
        // A row over the seam of the shards (tokens 48 to 56) has three parts.
        let seam = (0..12).find(|&i| loader.window_of(i) == 6).unwrap();
        let window = |shard, start, len| Window { shard, start, len };
        assert_eq!(loader.windows_of_sample(seam), [window(0, 48, 5), window(1, 0, 1), window(2, 0, 3)]);
    }

    #[test]
    fn any_split_into_micro_batches_shows_the_same_rows() {
        let shards = shards();
        let loader = Loader::new(&shards, 8, 5).unwrap();
        let whole = loader.batch(3, 5).unwrap();
        for micro_rows in [1, 2, 5, 9] {
            let split = loader.micro_batches(3, 5, micro_rows).unwrap();
            assert_eq!(split.iter().flat_map(|b| b.ids.clone()).collect::<Vec<_>>(), whole.ids);
            assert_eq!(split.iter().map(|b| b.b).sum::<usize>(), 5);
        }
        let other = Loader::new(&shards, 8, 6).unwrap();
        assert_ne!(other.batch(3, 5).unwrap(), whole);
    }

    #[test]
    fn too_few_tokens_for_one_window_are_an_error() {
        let few = ShardSet::new(vec![shard(&mut 0, &[3, 1])]);
        let error = |t| Loader::new(&few, t, 1).err().unwrap().to_string();
        assert_eq!(error(4), "`sequence_len` is 4: the 1 shards hold 4 tokens, so expected 1 to 3");
        let none = ShardSet::new(Vec::new());
        assert!(
            Loader::new(&few, 3, 1).is_ok() && Loader::new(&none, 3, 1).is_err() && Loader::new(&few, 0, 1).is_err()
        );
        let batch = Loader::new(&few, 3, 1).unwrap().batch(7, 2).unwrap();
        assert_eq!((batch.ids, batch.targets), (vec![0, 1, END, 0, 1, END], vec![1, END, END, 1, END, END]));
        assert_eq!(batch.loss_mask, [1.0, 1.0, 0.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn tokens_that_are_not_those_that_were_written_never_reach_a_batch() {
        let mut writer = ShardWriter::new(Vec::new(), 1000, END);
        writer.push(0, &[1; 40]).unwrap();
        let mut written = writer.finish().unwrap();
        written.out[30] ^= 4;
        let shards = ShardSet::new(vec![Shard::in_memory(written).unwrap()]);
        let said = Loader::new(&shards, 8, 5).unwrap().batch(0, 1).unwrap_err().to_string();
        assert!(said.contains("bytes 0..82: CRC32C"), "{said}");
    }

    #[test]
    fn a_permutation_hits_every_number_once() {
        for n in [1, 2, 3, 4, 5, 31, 32, 33, 1000] {
            let seen: BTreeSet<u64> = (0..n).map(|i| permute(Key::new(n), i, n)).collect();
            assert_eq!(seen, (0..n).collect());
        }
        // No window keeps its place more often than chance would have it.
        let fixed = (0..1000).filter(|&i| permute(Key::new(1), i, 1000) == i).count();
        assert!(fixed < 10, "{fixed} fixed points");
    }
}
