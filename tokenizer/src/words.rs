//! How often each piece occurs: the only thing that training needs from a text.
//!
//! In: texts and a splitter. Out: piece -> count, mergeable in any order, with one canonical byte form (sorted, front coded)
//! so that a pipeline can store one per fragment. Leaves merging of symbols to `merges`. Pieces of at most 15 bytes live
//! inside their table slot (98% of all occurrences in the measured corpora), longer ones in an arena.

use crate::{TokenizerError, key, split::Splitter};

/// Piece counts. Counts are `u64`: they do not wrap.
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

const MAGIC: &[u8; 8] = b"GMWORDS\x01";

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

    /// Sum of all counts: the number of pieces seen.
    pub fn total(&self) -> u64 {
        self.iter().fold(0, |sum, (_, count)| sum + count)
    }

    /// Counts a piece `count` times more. An empty piece is ignored.
    pub fn add(&mut self, piece: &[u8], count: u64) {
        self.add_span(piece, 0, piece.len(), count);
    }

    /// `add` of `text[start..end]`.
    #[inline]
    pub(crate) fn add_span(&mut self, text: &[u8], start: usize, end: usize, count: u64) {
        if count == 0 || start == end {
            return;
        }
        match key::short(text, start, end) {
            Some(key) => self.add_short(key, count),
            None => self.add_long(&text[start..end], count),
        }
    }

    #[inline]
    fn add_short(&mut self, key: [u64; 2], count: u64) {
        if self.n_short * 2 >= self.short.len() {
            self.grow_short();
        }
        let mask = self.short.len() - 1;
        let mut at = key::hash(key) as usize & mask;
        loop {
            let slot = &mut self.short[at];
            if slot.count == 0 {
                *slot = Short { key, count };
                self.n_short += 1;
                return;
            }
            if slot.key == key {
                slot.count += count;
                return;
            }
            at = (at + 1) & mask;
        }
    }

    #[cold]
    fn grow_short(&mut self) {
        let mut grown = vec![Short::default(); (self.short.len() * 2).max(1024)];
        let mask = grown.len() - 1;
        for slot in self.short.iter().filter(|slot| slot.count > 0) {
            let mut at = key::hash(slot.key) as usize & mask;
            while grown[at].count > 0 {
                at = (at + 1) & mask;
            }
            grown[at] = *slot;
        }
        self.short = grown;
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
                entry.count += count;
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
        for slot in other.short.iter().filter(|slot| slot.count > 0) {
            self.add_short(slot.key, slot.count);
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
        let mut rows: Vec<(Piece, u64)> = self.iter().collect();
        rows.sort_unstable_by(|a, b| a.0.bytes().cmp(b.0.bytes()));
        let mut out = MAGIC.to_vec();
        put(&mut out, rows.len() as u64);
        let mut before: &[u8] = &[];
        for (piece, count) in &rows {
            let bytes = piece.bytes();
            let shared = before.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            put(&mut out, shared as u64);
            put(&mut out, (bytes.len() - shared) as u64);
            out.extend_from_slice(&bytes[shared..]);
            put(&mut out, *count);
            before = bytes;
        }
        out
    }

    /// Reads `to_bytes`. Refuses foreign, truncated and unordered bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let fault = |what: &'static str| TokenizerError::Words { what };
        let mut rest =
            bytes.strip_prefix(MAGIC.as_slice()).ok_or(fault("it does not begin with GMWORDS, version 1"))?;
        let rows = take(&mut rest).ok_or(fault("the number of rows is cut off"))?;
        let mut counts = Self::new();
        let (mut piece, mut before): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let shared = take(&mut rest).ok_or(fault("a row is cut off"))? as usize;
            let len = take(&mut rest).ok_or(fault("a row is cut off"))? as usize;
            if shared > before.len() || len > rest.len() {
                return Err(fault("a row is longer than the file"));
            }
            piece.truncate(shared);
            piece.extend_from_slice(&rest[..len]);
            rest = &rest[len..];
            if piece <= before {
                return Err(fault("the rows are not in strictly rising order"));
            }
            let count = take(&mut rest).filter(|&count| count > 0).ok_or(fault("a count is missing or zero"))?;
            counts.add(&piece, count);
            before.clone_from(&piece);
        }
        if rest.is_empty() { Ok(counts) } else { Err(fault("there are bytes after the last row")) }
    }
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

/// LEB128.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// Counts the pieces of one text.
pub fn count(text: &str, splitter: &Splitter, counts: &mut WordCounts) {
    let bytes = text.as_bytes();
    splitter.spans(text, &mut |start, end| counts.add_span(bytes, start, end, 1));
}

/// Counts many texts on the current rayon pool. Equal to `count` on each of them.
pub fn count_all<T: AsRef<str> + Sync>(texts: &[T], splitter: &Splitter) -> WordCounts {
    use rayon::prelude::*;
    let size = texts.len().div_ceil(rayon::current_num_threads()).max(1);
    let count_some = |texts: &[T]| {
        let mut counts = WordCounts::new();
        texts.iter().for_each(|text| count(text.as_ref(), splitter, &mut counts));
        counts
    };
    let parts: Vec<WordCounts> = texts.par_chunks(size).map(count_some).collect();
    let mut parts = parts.into_iter();
    let mut all = parts.next().unwrap_or_default();
    parts.for_each(|part| all.merge(&part));
    all
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
        for threads in [1, 2, 7] {
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
