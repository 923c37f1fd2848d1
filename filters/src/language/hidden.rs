//! The hidden layer: the mean of the input rows of everything in a text.
//!
//! In: the bytes of a text. Out: `Total`, the sum of the rows of its words and n-grams and their number, and from it the mean as f32.
//! Order of sums: none. A row is kept as integers, each value times 2^k and rounded, k the largest for which no value is beyond
//! 2^24 (so the step is at most 2^-23 of the largest value in the matrix, as fine as f32); integer sums are exact. So
//! vector width, cache hits and the order of n-grams cannot change a bit, and a document's total is the sum of its paragraphs' totals.
//! Leaves hashing to `ngrams.rs`, labels to `output.rs`. Tokens as in fastText 0.9.2.

use super::ngrams::{CharNgrams, RowList, fnv};
use super::words::{Key, SumCache, WordTable};

const END_OF_SENTENCE: &[u8] = b"</s>";
const LABEL_PREFIX: &[u8] = b"__label__";
/// Largest value of an integer row: 2^24.
const LARGEST_BITS: i32 = 24;
/// Rows that an i32 sum can take: 64 times 2^24 is 2^30.
const BLOCK: usize = 64;

/// The input matrix as integers, and how a text finds its rows.
#[derive(Debug)]
pub(super) struct Hidden {
    dim: usize,
    word_ngrams: usize,
    /// Words, then labels.
    table: WordTable,
    n_words: usize,
    ngrams: CharNgrams,
    /// Row of the end of a sentence, which every text has once.
    end: Option<u32>,
    /// [rows, dim]: words, then buckets.
    rows: Vec<i32>,
    /// What one unit of `rows` is worth: a power of two.
    unit: f64,
    /// Whether to run the AVX2 build of the same code.
    wide: bool,
}

/// A sum of rows, and how many.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Total {
    /// [dim]
    sums: Vec<i64>,
    rows: u64,
}

impl Total {
    pub(super) fn new(dim: usize) -> Self {
        Self { sums: vec![0; dim], rows: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.sums.fill(0);
        self.rows = 0;
    }

    pub(super) fn add_total(&mut self, other: &Self) {
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, value)| *sum += value);
        self.rows += other.rows;
    }

    #[inline(always)]
    fn add(&mut self, sums: &[i32], rows: u64) {
        let dim = sums.len();
        self.sums[..dim].iter_mut().zip(sums).for_each(|(sum, &value)| *sum += i64::from(value));
        self.rows += rows;
    }
}

/// What a thread needs while it sums; holds no result.
#[derive(Debug)]
pub(super) struct Scratch {
    cache: SumCache,
    list: RowList,
    /// [dim]
    block: Vec<i32>,
    /// Hashes of the words so far, for word n-grams.
    hashes: Vec<u32>,
}

impl Hidden {
    /// matrix: [rows, dim], finite; `ngrams` and `entries` (words, then labels) may only name rows that it has.
    pub(super) fn new<'a>(
        matrix: Vec<f32>,
        dim: usize,
        word_ngrams: usize,
        entries: impl ExactSizeIterator<Item = &'a [u8]>,
        n_words: usize,
        ngrams: CharNgrams,
    ) -> Self {
        let (rows, unit) = to_integers(matrix);
        let table = WordTable::new(entries);
        let end = table.find(END_OF_SENTENCE, fnv(END_OF_SENTENCE)).filter(|&entry| entry < n_words);
        let end = end.map(|entry| entry as u32);
        Self { dim, word_ngrams, table, n_words, ngrams, end, rows, unit, wide: has_avx2() }
    }

    /// Never the AVX2 build, for comparison.
    #[cfg(test)]
    pub(super) fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }

    pub(super) fn scratch(&self) -> Scratch {
        Scratch { cache: SumCache::new(self.dim), list: RowList::new(), block: vec![0; self.dim], hashes: Vec::new() }
    }

    /// Whether neighbouring words have rows of their own.
    pub(super) fn joins_words(&self) -> bool {
        self.word_ngrams > 1
    }

    /// Adds the rows of a text, without those of its end. Returns the number of bytes read: fewer than there are only if the text
    /// contains the token `</s>`, which ends a text for fastText.
    pub(super) fn add(&self, text: &str, scratch: &mut Scratch, total: &mut Total) -> usize {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            // SAFETY: `wide` is true only where the processor has the four features.
            return unsafe { self.add_wide(text.as_bytes(), scratch, total) };
        }
        self.add_any(text.as_bytes(), scratch, total)
    }

    /// Adds the row of the end of a text and the rows of the word n-grams that the texts since the last call form together.
    pub(super) fn finish(&self, scratch: &mut Scratch, total: &mut Total) {
        if let Some(end) = self.end {
            total.add(self.row(end), 1);
        }
        if self.word_ngrams > 1 {
            scratch.hashes.push(fnv(END_OF_SENTENCE));
            let widen = |hash: u32| i64::from(hash as i32) as u64; // fastText keeps word hashes as i32
            for (first, &hash) in scratch.hashes.iter().enumerate() {
                let mut hash = widen(hash);
                let last = scratch.hashes.len().min(first.saturating_add(self.word_ngrams));
                for &next in &scratch.hashes[first + 1..last] {
                    hash = hash.wrapping_mul(116_049_371).wrapping_add(widen(next));
                    if let Some(row) = self.ngrams.buckets.of_word_ngram(hash) {
                        total.add(self.row(row), 1);
                    }
                }
            }
            scratch.hashes.clear();
        }
    }

    /// The mean of the rows: [dim]; `None` if there are none.
    pub(super) fn mean(&self, total: &Total, hidden: &mut Vec<f32>) -> Option<()> {
        hidden.clear();
        let scale = self.unit / total.rows as f64;
        hidden.extend(total.sums.iter().map(|&sum| (sum as f64 * scale) as f32));
        (total.rows > 0).then_some(())
    }

    fn row(&self, row: u32) -> &[i32] {
        &self.rows[row as usize * self.dim..(row as usize + 1) * self.dim]
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn add_wide(&self, text: &[u8], scratch: &mut Scratch, total: &mut Total) -> usize {
        self.add_any(text, scratch, total)
    }

    #[inline(always)]
    fn add_any(&self, text: &[u8], scratch: &mut Scratch, total: &mut Total) -> usize {
        match self.dim {
            16 => self.add_tokens::<16>(text, scratch, total),
            32 => self.add_tokens::<32>(text, scratch, total),
            _ => self.add_tokens::<0>(text, scratch, total),
        }
    }

    /// `D`: dim where the compiler shall know it, else 0.
    #[inline(always)]
    fn add_tokens<const D: usize>(&self, text: &[u8], scratch: &mut Scratch, total: &mut Total) -> usize {
        let mut at = 0;
        loop {
            while text.get(at).is_some_and(|&byte| is_space(byte)) {
                at += 1;
            }
            let start = at;
            while text.get(at).is_some_and(|&byte| !is_space(byte)) {
                at += 1;
            }
            if start == at {
                return text.len();
            }
            if self.word_ngrams > 1 && !self.note_hash(&text[start..at], &mut scratch.hashes) {
                continue;
            }
            let key = Key::new(text, start, at);
            let slot = match key.map(|key| scratch.cache.probe(key)) {
                Some((slot, true)) => {
                    let (rows, sums) = scratch.cache.get(slot);
                    total.add(known::<D>(sums), u64::from(rows));
                    continue;
                }
                Some((slot, false)) => slot,
                None => 0,
            };
            let token = &text[start..at];
            if token == END_OF_SENTENCE {
                return start;
            }
            scratch.list.clear();
            let mut flushed = false;
            let block = known_mut::<D>(&mut scratch.block);
            self.list_rows(token, &mut scratch.list, |list| {
                self.sum::<D>(list.as_slice(), block, total);
                list.clear();
                flushed = true;
            });
            let rows = scratch.list.as_slice();
            match key {
                Some(key) if !flushed && rows.len() <= BLOCK => {
                    let sums = known_mut::<D>(scratch.cache.put(slot, key, rows.len() as u32));
                    self.sum_block::<D>(rows, sums);
                    total.add(sums, rows.len() as u64);
                }
                _ => self.sum::<D>(rows, block, total),
            }
        }
    }

    /// Keeps a token's hash for word n-grams. False: the token is a label, which has no part in a text.
    fn note_hash(&self, token: &[u8], hashes: &mut Vec<u32>) -> bool {
        let hash = fnv(token);
        let word = if token.starts_with(LABEL_PREFIX) { self.is_word(token, hash) } else { true };
        if word && token != END_OF_SENTENCE {
            hashes.push(hash);
        }
        word
    }

    fn is_word(&self, token: &[u8], hash: u32) -> bool {
        self.table.find(token, hash).is_some_and(|entry| entry < self.n_words)
    }

    /// Appends the rows of a token: its own if it is a word of the model, and those of its character n-grams.
    #[inline(always)]
    fn list_rows(&self, token: &[u8], list: &mut RowList, full: impl FnMut(&mut RowList)) {
        match self.table.find(token, fnv(token)) {
            Some(entry) if entry < self.n_words => list.push(entry as u32),
            Some(_) => return, // a label
            None if token.starts_with(LABEL_PREFIX) => return,
            None => {}
        }
        self.ngrams.rows(token, list, full);
    }

    #[inline(always)]
    fn sum<const D: usize>(&self, rows: &[u32], block: &mut [i32], total: &mut Total) {
        for rows in rows.chunks(BLOCK) {
            self.sum_block::<D>(rows, block);
            total.add(block, rows.len() as u64);
        }
    }

    /// sums: [dim] = the sum of at most `BLOCK` rows.
    #[inline(always)]
    fn sum_block<const D: usize>(&self, rows: &[u32], sums: &mut [i32]) {
        if D == 0 {
            sums.fill(0);
            for &row in rows {
                sums.iter_mut().zip(self.row(row)).for_each(|(sum, value)| *sum += value);
            }
            return;
        }
        let mut held = [0; D];
        for &row in rows {
            let row: &[i32; D] = self.rows[row as usize * D..][..D].try_into().expect("a row has D values");
            for (sum, value) in held.iter_mut().zip(row) {
                *sum += value;
            }
        }
        sums.copy_from_slice(&held);
    }
}

/// The same slice, of a length that the compiler knows unless `D` is 0.
#[inline(always)]
fn known<const D: usize>(values: &[i32]) -> &[i32] {
    if D == 0 { values } else { &values[..D] }
}

#[inline(always)]
fn known_mut<const D: usize>(values: &mut [i32]) -> &mut [i32] {
    if D == 0 { values } else { &mut values[..D] }
}

/// The matrix times a power of two, rounded to the nearest integer (halves to even), and what one unit is worth.
fn to_integers(matrix: Vec<f32>) -> (Vec<i32>, f64) {
    let largest = matrix.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let mut unit = 1.0_f64;
    while f64::from(largest) < unit * f64::from(1 << LARGEST_BITS) && unit > f64::from(f32::MIN_POSITIVE) {
        unit /= 2.0;
    }
    while f64::from(largest) > unit * f64::from(1 << LARGEST_BITS) {
        unit *= 2.0;
    }
    let integers = matrix.into_iter().map(|value| (f64::from(value) / unit).round_ties_even() as i32).collect();
    (integers, unit)
}

/// fastText splits on these seven bytes and on nothing else: a no-break space is part of a word.
#[inline(always)]
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0B | 0x0C | 0)
}

/// Whether a text has no token.
pub(super) fn is_blank(text: &str) -> bool {
    text.bytes().all(is_space)
}

/// Whether the AVX2 build can run here.
pub(super) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
