//! How often each piece occurs: the only thing that training needs from a text.
//!
//! In: texts and a splitter. Out: piece -> count, mergeable in any order, with one canonical byte form (`sorted`) so that a
//! pipeline can store one per fragment. `counter` counts within a memory budget. Leaves merging of symbols to `train`. Pieces of at most 15 bytes live
//! inside their table slot (98% of all occurrences in the measured corpora), longer ones in an arena.

mod counter;
mod sorted;

pub use counter::WordCounter;
pub use sorted::{SortedWords, merge_sorted};

use std::io::Write;

use crate::{TokenizerError, key, split::Splitter};

/// Short pieces looked up together, so that their cache misses overlap.
const AHEAD: usize = 32;

/// Piece counts. Counts are `u64` and do not wrap: above `u64::MAX` they stay there, and `train` refuses them.
#[derive(Clone, Debug, Default)]
pub struct WordCounts {
    short: Vec<Short>,
    n_short: usize,
    long: Vec<Long>,
    long_slots: Vec<u32>, // index into `long` + 1, 0 is free
    arena: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Short {
    key: [u64; 2], // 15 bytes and the length; a free slot has count 0
    count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Long {
    start: usize,
    len: usize,
    count: u64,
}

impl WordCounts {
    /// No pieces.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of different pieces.
    pub fn len(&self) -> usize {
        self.n_short + self.long.len()
    }

    /// Has nothing been counted?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sum of all counts: the number of pieces seen; `u64::MAX` if it is more.
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(count))
    }

    /// Counts a piece `count` times more. An empty piece is ignored.
    pub fn add(&mut self, piece: &[u8], count: u64) {
        if count == 0 || piece.is_empty() {
            return;
        }
        match key::short(piece, 0, piece.len()) {
            Some(key) => {
                self.reserve(1);
                self.add_short(self.home(key), key, count);
            }
            None => self.add_long(piece, count),
        }
    }

    /// Where a key's search begins.
    #[inline(always)]
    fn home(&self, key: [u64; 2]) -> usize {
        key::hash(key) as usize & (self.short.len() - 1)
    }

    /// Adds to a key; `at` is its home, and there is a free slot.
    #[inline(always)]
    fn add_short(&mut self, mut at: usize, key: [u64; 2], count: u64) {
        loop {
            let slot = &mut self.short[at];
            if slot.key == key && slot.count > 0 {
                slot.count = slot.count.saturating_add(count);
                return;
            }
            if slot.count == 0 {
                *slot = Short { key, count };
                self.n_short += 1;
                return;
            }
            at = (at + 1) & (self.short.len() - 1);
        }
    }

    /// Makes room for `more` short pieces; at most three quarters of the slots are used.
    #[inline(always)]
    fn reserve(&mut self, more: usize) {
        if (self.n_short + more) * 4 > self.short.len() * 3 {
            self.grow_short(more);
        }
    }

    #[cold]
    fn grow_short(&mut self, more: usize) {
        let size = ((self.n_short + more) * 4 / 3 + 1).next_power_of_two().max(self.short.len() * 2).max(1024);
        let old = std::mem::replace(&mut self.short, vec![Short::default(); size]);
        self.n_short = 0;
        for slot in old.into_iter().filter(|slot| slot.count > 0) {
            self.add_short(self.home(slot.key), slot.key, slot.count);
        }
    }

    fn add_long(&mut self, piece: &[u8], count: u64) {
        if self.long.len() * 2 >= self.long_slots.len() {
            let mut slots = vec![0; (self.long_slots.len() * 2).max(256)];
            for (i, entry) in self.long.iter().enumerate() {
                let bytes = &self.arena[entry.start..entry.start + entry.len];
                let at = free_slot(&slots, key::hash_bytes(bytes));
                slots[at] = i as u32 + 1;
            }
            self.long_slots = slots;
        }
        let mask = self.long_slots.len() - 1;
        let mut at = key::hash_bytes(piece) as usize & mask;
        while self.long_slots[at] != 0 {
            let entry = &mut self.long[self.long_slots[at] as usize - 1];
            if &self.arena[entry.start..entry.start + entry.len] == piece {
                entry.count = entry.count.saturating_add(count);
                return;
            }
            at = (at + 1) & mask;
        }
        self.long.push(Long { start: self.arena.len(), len: piece.len(), count });
        self.arena.extend_from_slice(piece);
        self.long_slots[at] =
            u32::try_from(self.long.len()).expect("4 billion different long pieces do not fit in memory");
    }

    /// Adds all counts of `other`. The result does not depend on the order of merges.
    pub fn merge(&mut self, other: &Self) {
        // Room first: slots come in the order of their hashes, and would cluster in a smaller table.
        self.reserve(other.n_short);
        for slot in other.short.iter().filter(|slot| slot.count > 0) {
            self.add_short(self.home(slot.key), slot.key, slot.count);
        }
        for entry in &other.long {
            self.add_long(&other.arena[entry.start..entry.start + entry.len], entry.count);
        }
    }

    /// All pieces with their counts, in no useful order.
    pub fn iter(&self) -> impl Iterator<Item = (Piece<'_>, u64)> {
        let short = self.short.iter().filter(|slot| slot.count > 0).map(|slot| (Piece::inline(slot.key), slot.count));
        short.chain(
            self.long
                .iter()
                .map(|entry| (Piece::Arena(&self.arena[entry.start..entry.start + entry.len]), entry.count)),
        )
    }

    /// The canonical bytes: equal counts give equal bytes, however they were collected.
    pub fn to_bytes(&self) -> Vec<u8> {
        let short = self.short.iter().filter(|slot| slot.count > 0).copied().collect();
        let mut out = Vec::new();
        write_sorted(&mut out, short, self.long.clone(), &self.arena).expect("a vector takes all bytes");
        out
    }

    /// Writes `to_bytes` and forgets everything; needs no more memory than the counts had.
    fn drain_to(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        let mut counts = std::mem::take(self);
        counts.long_slots = Vec::new();
        counts.short.retain(|slot| slot.count > 0);
        write_sorted(out, counts.short, counts.long, &counts.arena)
    }

    /// Bytes held now, and while the next piece makes the larger of the tables grow.
    fn held_bytes(&self) -> (usize, usize) {
        let short = self.short.capacity() * size_of::<Short>();
        let long = self.long.capacity() * size_of::<Long>() + self.long_slots.capacity() * 4;
        let held = short + long + self.arena.capacity();
        (held, held + (2 * short).max(long).max(self.arena.capacity()))
    }

    /// Would the next few pieces make a table grow?
    fn is_about_to_grow(&self) -> bool {
        (self.n_short + 2 * AHEAD) * 4 > self.short.len() * 3
            || self.long.len() + AHEAD >= self.long.capacity()
            || self.arena.capacity() - self.arena.len() < self.arena.capacity() / 8
    }

    /// Reads `to_bytes`. Refuses foreign, truncated and unordered bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let mut rows = sorted::Rows::new(bytes)?;
        let mut counts = Self::new();
        while let Some((piece, count)) = rows.next()? {
            counts.add(piece, count);
        }
        Ok(counts)
    }
}

/// Sorts and writes the canonical bytes.
fn write_sorted(out: &mut impl Write, mut short: Vec<Short>, mut long: Vec<Long>, arena: &[u8]) -> std::io::Result<()> {
    let bytes_of = |entry: &Long| &arena[entry.start..entry.start + entry.len];
    // The key's bytes in order and then the length: that is the order of the pieces.
    short.sort_unstable_by_key(|slot| slot.key.map(u64::swap_bytes));
    long.sort_unstable_by(|a, b| bytes_of(a).cmp(bytes_of(b)));
    out.write_all(sorted::MAGIC)?;
    sorted::put(out, (short.len() + long.len()) as u64)?;
    let mut rows = sorted::RowWriter::new(out);
    let mut long = long.iter().peekable();
    for slot in &short {
        let piece = Piece::inline(slot.key);
        while let Some(entry) = long.next_if(|entry| bytes_of(entry) < piece.bytes()) {
            rows.row(bytes_of(entry), entry.count)?;
        }
        rows.row(piece.bytes(), slot.count)?;
    }
    long.try_for_each(|entry| rows.row(bytes_of(entry), entry.count))
}

/// A counted piece.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// At most 15 bytes and their number.
    Inline([u8; 16], usize),
    /// More than 15 bytes.
    Arena(&'a [u8]),
}

impl Piece<'_> {
    fn inline(key: [u64; 2]) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&key[0].to_le_bytes());
        bytes[8..].copy_from_slice(&key[1].to_le_bytes());
        Self::Inline(bytes, usize::from(bytes[15]))
    }

    /// The piece's bytes, never empty.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes, len) => &bytes[..*len],
            Self::Arena(bytes) => bytes,
        }
    }
}

fn free_slot(slots: &[u32], hash: u64) -> usize {
    let mut at = hash as usize & (slots.len() - 1);
    while slots[at] != 0 {
        at = (at + 1) & (slots.len() - 1);
    }
    at
}

/// Counts the pieces of one text.
pub fn count(text: &str, splitter: &Splitter, counts: &mut WordCounts) {
    count_within(text, splitter, counts, &mut |_| {});
}

/// `count` that shows the counts to `visit` after every few pieces.
fn count_within(text: &str, splitter: &Splitter, counts: &mut WordCounts, visit: &mut impl FnMut(&mut WordCounts)) {
    let bytes = text.as_bytes();
    let mut waiting = [(0, [0; 2]); AHEAD];
    let (mut n, mut pieces) = (0, 0);
    counts.reserve(AHEAD);
    splitter.spans(text, &mut |start, end| {
        match key::short(bytes, start, end) {
            Some(key) => {
                let home = counts.home(key);
                key::prefetch(&counts.short, home);
                waiting[n] = (home, key);
                n += 1;
            }
            None => counts.add_long(&bytes[start..end], 1),
        }
        pieces += 1;
        if pieces == AHEAD {
            waiting[..n].iter().for_each(|&(home, key)| counts.add_short(home, key, 1));
            visit(counts);
            counts.reserve(AHEAD);
            (n, pieces) = (0, 0);
        }
    });
    waiting[..n].iter().for_each(|&(home, key)| counts.add_short(home, key, 1));
}

/// Counts many texts on the current rayon pool. Equal to `count` on each of them.
pub fn count_all<T: AsRef<str> + Sync>(texts: &[T], splitter: &Splitter) -> WordCounts {
    use rayon::prelude::*;
    let count_some = |texts: &[T]| {
        let mut counts = WordCounts::new();
        texts.iter().for_each(|text| count(text.as_ref(), splitter, &mut counts));
        counts
    };
    let join = |mut a: WordCounts, b: WordCounts| {
        a.merge(&b);
        a
    };
    shares(texts, rayon::current_num_threads()).into_par_iter().map(count_some).reduce_with(join).unwrap_or_default()
}

/// Cuts texts into at most `n` stretches of about equally many bytes.
fn shares<T: AsRef<str>>(texts: &[T], n: usize) -> Vec<&[T]> {
    let total = texts.iter().map(|text| text.as_ref().len()).sum::<usize>().max(1);
    let (mut shares, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (i, text) in texts.iter().enumerate() {
        bytes += text.as_ref().len();
        if bytes * n >= total * (shares.len() + 1) || i + 1 == texts.len() {
            shares.push(&texts[from..=i]);
            from = i + 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split::Split;

    const TEXTS: [&str; 5] = [
        "",
        "the",
        "the cat, the hat",
        "чай 漢字漢字漢字漢字漢字漢字 чай",
        "naïve antidisestablishmentarianism antidisestablishmentarianism",
    ];

    fn counted(texts: &[&str]) -> WordCounts {
        let splitter = Splitter::new(&Split::Gpt2, false).unwrap();
        let mut counts = WordCounts::new();
        texts.iter().for_each(|text| count(text, &splitter, &mut counts));
        counts
    }

    #[test]
    fn pieces_are_counted_whatever_their_length_and_script() {
        let counts = counted(&TEXTS);
        let find = |word: &str| {
            counts.iter().find(|(piece, _)| piece.bytes() == word.as_bytes()).map_or(0, |(_, count)| count)
        };
        assert_eq!(find("the"), 2);
        assert_eq!(find(" the"), 1);
        assert_eq!(find(" antidisestablishmentarianism"), 2);
        assert_eq!(find(" чай"), 1);
        assert_eq!(find(" 漢字漢字漢字漢字漢字漢字"), 1);
        assert_eq!(counts.total(), 1 + 5 + 3 + 3);
        assert!(counted(&[]).is_empty());
    }

    #[test]
    fn any_chunking_and_merge_order_gives_the_same_bytes() {
        let whole = counted(&TEXTS).to_bytes();
        for cut in 0..TEXTS.len() {
            let (a, b) = TEXTS.split_at(cut);
            let mut merged = counted(b);
            merged.merge(&counted(a));
            assert_eq!(merged.to_bytes(), whole);
        }
        let splitter = Splitter::new(&Split::Gpt2, false).unwrap();
        for threads in [1, 2, 7, 16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| count_all(&TEXTS, &splitter)).to_bytes(), whole);
        }
    }

    #[test]
    fn bytes_round_trip_and_every_truncation_is_refused() {
        let mut counts = counted(&TEXTS);
        counts.add(b"huge", u64::MAX / 2);
        for i in 0..5000_u32 {
            counts.add(format!("{i} is a piece").as_bytes(), u64::from(i) + 1);
        }
        let bytes = counts.to_bytes();
        assert_eq!(WordCounts::from_bytes(&bytes).unwrap().to_bytes(), bytes);
        let small = counted(&TEXTS).to_bytes();
        for len in 0..small.len() {
            assert!(WordCounts::from_bytes(&small[..len]).is_err(), "{len}");
        }
        assert!(WordCounts::from_bytes(&[small, vec![0]].concat()).is_err());
        assert!(WordCounts::from_bytes(&WordCounts::new().to_bytes()).unwrap().is_empty());
    }
}
