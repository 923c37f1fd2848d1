//! From a token to the rows of the input matrix that its character n-grams have.
//!
//! In: the bytes of a token. Out: row numbers, in no order that matters (sums are integers). FNV-1a over the UTF-8 bytes of an n-gram,
//! modulo the number of buckets; a pruned model keeps rows for some buckets only. Leaves adding the rows to `hidden.rs`.
//! Arithmetic: fastText 0.9.2 (Bojanowski et al. 2017). One pass over the bytes carries the hashes of all n-grams that have begun.
//! Division-free remainder: Lemire, Kaser and Kurz 2019, "Faster remainder by direct computation" (1902.01961), section 2.

const FNV_OFFSET: u32 = 2_166_136_261;

/// fastText's FNV-1a over *signed* bytes.
pub(super) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv_step(hash, byte))
}

#[inline(always)]
fn fnv_step(hash: u32, byte: u8) -> u32 {
    (hash ^ i32::from(byte as i8) as u32).wrapping_mul(16_777_619)
}

/// Remainder by a divisor that is known when the model is loaded; exact for all 32-bit values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remainder {
    divisor: u32,
    /// ceil(2^64 / divisor), modulo 2^64.
    inverse: u64,
}

impl Remainder {
    fn new(divisor: u32) -> Self {
        Self { divisor, inverse: (u64::MAX / u64::from(divisor)).wrapping_add(1) }
    }

    #[inline(always)]
    fn of(self, value: u32) -> u32 {
        let fraction = self.inverse.wrapping_mul(u64::from(value));
        ((u128::from(fraction) * u128::from(self.divisor)) >> 64) as u32
    }
}

/// Which row an n-gram has.
#[derive(Debug)]
pub(super) struct Buckets {
    /// `None`: the model has no buckets.
    remainder: Option<Remainder>,
    /// Row of the first bucket.
    first: u32,
    /// One entry for 32 buckets. Low half: which of them have a row. High half: rows of the buckets before them. `None`: each has one.
    kept: Option<Vec<u64>>,
}

impl Buckets {
    /// `kept`: the buckets that have a row, ascending, each once, in the order of their rows; `None`: all have.
    pub(super) fn new(buckets: u32, first: u32, kept: Option<&[u32]>) -> Self {
        let kept = kept.map(|kept| {
            let mut marks = vec![0_u64; (buckets as usize).div_ceil(32)];
            for &bucket in kept {
                marks[bucket as usize / 32] |= 1 << (bucket % 32);
            }
            let mut before = 0;
            for mark in &mut marks {
                let here = u64::from(mark.count_ones());
                *mark |= before << 32;
                before += here;
            }
            marks
        });
        Self { remainder: (buckets > 0).then(|| Remainder::new(buckets)), first, kept }
    }

    /// Writes the row of an n-gram with this hash to `rows[count]` and returns the new count. Without a branch on whether it has one,
    /// which no processor could predict.
    #[inline(always)]
    fn push<const PRUNED: bool>(
        &self,
        remainder: Remainder,
        marks: &[u64],
        hash: u32,
        rows: &mut [u32],
        count: usize,
    ) -> usize {
        let bucket = remainder.of(hash);
        if !PRUNED {
            rows[count] = self.first + bucket;
            return count + 1;
        }
        let mark = marks[bucket as usize / 32];
        let bits = mark as u32;
        let below = (bits & ((1 << (bucket % 32)) - 1)).count_ones();
        rows[count] = self.first + (mark >> 32) as u32 + below;
        count + (bits >> (bucket % 32) & 1) as usize
    }

    /// The row of a word n-gram, if it has one.
    pub(super) fn of_word_ngram(&self, hash: u64) -> Option<u32> {
        let remainder = self.remainder?;
        let bucket = (hash % u64::from(remainder.divisor)) as u32;
        let mut rows = [0];
        let hash = bucket; // its remainder is itself
        let count = match &self.kept {
            None => self.push::<false>(remainder, &[], hash, &mut rows, 0),
            Some(marks) => self.push::<true>(remainder, marks, hash, &mut rows, 0),
        };
        (count == 1).then_some(rows[0])
    }
}

/// Character n-grams of `min_n` to `max_n` characters of `<token>`; the markers alone are no 1-gram.
#[derive(Debug)]
pub(super) struct CharNgrams {
    pub(super) min_n: usize,
    /// 0: none.
    pub(super) max_n: usize,
    pub(super) buckets: Buckets,
}

impl CharNgrams {
    /// Appends the rows of a token's n-grams to `rows`. Rows are flushed to `full` whenever about `LIMIT` have come together, so that a
    /// page-long token needs no more room than a word.
    #[inline(always)]
    pub(super) fn rows(&self, token: &[u8], rows: &mut RowList, full: impl FnMut(&mut RowList)) {
        let Some(remainder) = self.buckets.remainder else { return };
        match (&self.buckets.kept, self.max_n) {
            (_, max_n) if max_n < self.min_n.max(1) => {}
            (None, 1..=4) => self.walk::<4, false>(remainder, &[], token, rows, full),
            (None, 5..=8) => self.walk::<8, false>(remainder, &[], token, rows, full),
            (None, _) => self.walk::<{ MAX_N }, false>(remainder, &[], token, rows, full),
            (Some(marks), 1..=4) => self.walk::<4, true>(remainder, marks, token, rows, full),
            (Some(marks), 5..=8) => self.walk::<8, true>(remainder, marks, token, rows, full),
            (Some(marks), _) => self.walk::<{ MAX_N }, true>(remainder, marks, token, rows, full),
        }
    }

    /// `hashes[k]` belongs to the n-gram of k + 1 characters that ends with the current one.
    #[inline(always)]
    fn walk<const N: usize, const PRUNED: bool>(
        &self,
        remainder: Remainder,
        marks: &[u64],
        token: &[u8],
        rows: &mut RowList,
        mut full: impl FnMut(&mut RowList),
    ) {
        let (min_n, max_n) = (self.min_n.max(1), self.max_n.min(N));
        let mut hashes = [FNV_OFFSET; N];
        hashes[1] = fnv_step(FNV_OFFSET, b'<');
        let (mut begun, mut at) = (1, 0); // characters before this one, `<` included
        loop {
            let last = at == token.len();
            if last {
                hashes.iter_mut().for_each(|hash| *hash = fnv_step(*hash, b'>'));
            } else {
                loop {
                    let byte = token[at];
                    hashes.iter_mut().for_each(|hash| *hash = fnv_step(*hash, byte));
                    at += 1;
                    if token.get(at).is_none_or(|&next| next & 0xC0 != 0x80) {
                        break;
                    }
                }
            }
            begun += 1;
            let shortest = if last { min_n.max(2) } else { min_n };
            for &hash in &hashes[shortest - 1..max_n.min(begun).max(shortest - 1)] {
                rows.count = self.buckets.push::<PRUNED>(remainder, marks, hash, &mut rows.rows, rows.count);
            }
            if last {
                return;
            }
            if rows.count >= LIMIT {
                full(rows);
            }
            hashes.copy_within(0..N - 1, 1);
            hashes[0] = FNV_OFFSET;
        }
    }
}

/// Longest n-gram that a model may ask for, in characters.
pub(super) const MAX_N: usize = 32;
/// Rows that are collected before they are added.
pub(super) const LIMIT: usize = 256;

/// Row numbers that wait to be added.
#[derive(Debug)]
pub(super) struct RowList {
    rows: [u32; LIMIT + 2 * MAX_N + 2],
    count: usize,
}

impl RowList {
    pub(super) fn new() -> Self {
        Self { rows: [0; LIMIT + 2 * MAX_N + 2], count: 0 }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, row: u32) {
        self.rows[self.count] = row;
        self.count += 1;
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[u32] {
        &self.rows[..self.count]
    }

    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: each n-gram by itself, `%` for the remainder, a list for the rows.
    fn plainly(token: &str, min_n: usize, max_n: usize, buckets: u32, kept: Option<&[u32]>) -> Vec<u32> {
        let marked: Vec<char> = format!("<{token}>").chars().collect();
        let mut rows = Vec::new();
        for start in 0..marked.len() {
            for n in min_n.max(1)..=max_n.min(marked.len() - start) {
                if n == 1 && (start == 0 || start + 1 == marked.len()) {
                    continue;
                }
                let ngram: String = marked[start..start + n].iter().collect();
                let bucket = fnv(ngram.as_bytes()) % buckets;
                rows.extend(match kept {
                    None => Some(7 + bucket),
                    Some(kept) => kept.binary_search(&bucket).ok().map(|rank| 7 + rank as u32),
                });
            }
        }
        rows.sort_unstable();
        rows
    }

    #[test]
    fn one_pass_finds_the_rows_of_every_ngram_for_every_length_and_script() {
        let long = "длинноеслово語".repeat(60);
        for buckets in [1, 2, 97, 4096, 1_000_003] {
            let some: Vec<u32> = (0..buckets).filter(|bucket| bucket % 3 != 1).collect();
            for kept in [None, Some(some.as_slice()), Some(&[][..])] {
                for (min_n, max_n) in [(1, 1), (1, 4), (2, 4), (3, 3), (2, 5), (3, 12), (0, 2), (5, 3)] {
                    let ngrams = CharNgrams { min_n, max_n, buckets: Buckets::new(buckets, 7, kept) };
                    for token in ["a", "ab", "Straße", "日本語の文", "é", "𝄞a𝄞", long.as_str()] {
                        let (mut list, mut found) = (RowList::new(), Vec::new());
                        ngrams.rows(token.as_bytes(), &mut list, |list| {
                            found.extend_from_slice(list.as_slice());
                            list.clear();
                        });
                        found.extend_from_slice(list.as_slice());
                        found.sort_unstable();
                        assert_eq!(found, plainly(token, min_n, max_n, buckets, kept), "{token} {min_n}..{max_n}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_remainder_is_exact_at_its_edges() {
        for divisor in [1, 2, 3, 1 << 26, 2_000_000, u32::MAX] {
            let remainder = Remainder::new(divisor);
            for value in [0, 1, divisor - 1, divisor, divisor.wrapping_add(1), u32::MAX - 1, u32::MAX, 0x9E37_79B9] {
                assert_eq!(remainder.of(value), value % divisor, "{value} % {divisor}");
            }
        }
    }
}
