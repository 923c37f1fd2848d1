//! MinHash signatures as FineWeb made them: bit-equal with datatrove 0.10.1, so that its results can be repeated.
//!
//! In: texts, or their words. Out: one 64-bit minimum per hash function, and band keys. Left to others: joining on keys,
//! which is the same as for [`crate::Hasher`]. Penedo et al. 2024 (FineWeb), §3.4 and datatrove `pipeline/dedup/minhash.py`.
//!
//! A shingle is the 64-bit hash of `ngram` words joined by spaces. Function `i` is `(a_i x + b_i) mod 2^61 - 1` with a and b
//! from numpy's `RandomState(seed)`; `a x + b` is taken modulo 2^64 first, so it is not the textbook family, and we copy that.
//! A text with fewer than `ngram` words has no signature. datatrove joins equal bands into chains and removes all but one of
//! each connected component: that is [`crate::Components`] over these band keys (our keys are 64-bit hashes of a band, where
//! datatrove compares its eight numbers).

mod minima;
mod random;
mod sha1;
mod simplify;
mod words;

pub use simplify::simplify;

use minima::{LANES, Lanes, PRIME, minima};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;
use xxhash_rust::xxh64::xxh64;

/// How a shingle's words become a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FinewebHash {
    /// xxHash64 with seed 0: datatrove's default, and FineWeb 2.
    #[default]
    Xxhash,
    /// The first eight bytes of SHA-1, little-endian: FineWeb.
    Sha1,
}

impl FinewebHash {
    fn of(self, bytes: &[u8]) -> u64 {
        match self {
            Self::Xxhash => xxh64(bytes, 0),
            Self::Sha1 => sha1::sha1_64(bytes),
        }
    }
}

/// Turns texts into shingles as datatrove does, reusing its buffers.
#[derive(Clone, Debug)]
pub struct FinewebShingler {
    ngram: usize,
    hash: FinewebHash,
    text: String,
    words: Vec<(u32, u32)>,
}

impl FinewebShingler {
    /// For shingles of `ngram` words; 0 is taken as 1.
    pub fn new(ngram: usize, hash: FinewebHash) -> Self {
        Self { ngram: ngram.max(1), hash, text: String::new(), words: Vec::new() }
    }

    /// Hashes of all runs of `ngram` English words of the simplified text, in order, with repeats; none if there are fewer
    /// words.
    pub fn shingles(&mut self, text: &str) -> Vec<u64> {
        // Offsets are 32-bit; simplified text is at most three times as long as the text.
        assert!(text.len() < 1 << 30, "a text of {} bytes is not one document", text.len());
        simplify::simplify_into(text, &mut self.text);
        words::english_words(&self.text, &mut self.words);
        self.join();
        self.hashes()
    }

    /// The same for words that someone else has split, already simplified.
    pub fn shingles_of_words<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
        self.text.clear();
        self.words.clear();
        for word in words {
            if !self.words.is_empty() {
                self.text.push(' ');
            }
            let start = self.text.len();
            self.text.push_str(word);
            self.words.push((start as u32, self.text.len() as u32));
        }
        self.hashes()
    }

    /// The words of the last text as byte ranges of [`text`](Self::text).
    pub fn words(&self) -> &[(u32, u32)] {
        &self.words
    }

    /// The words of the last text, joined by spaces.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts one space between words that lie side by side, so that a shingle is one slice.
    fn join(&mut self) {
        let apart = |pair: &[(u32, u32)]| pair[0].1 + 1 == pair[1].0;
        if self.words.windows(2).all(apart) {
            return;
        }
        let mut joined = String::with_capacity(self.text.len() + self.text.len() / 8);
        for word in &mut self.words {
            if !joined.is_empty() {
                joined.push(' ');
            }
            let start = joined.len();
            joined.push_str(&self.text[word.0 as usize..word.1 as usize]);
            *word = (start as u32, joined.len() as u32);
        }
        self.text = joined;
    }

    fn hashes(&self) -> Vec<u64> {
        let bytes = self.text.as_bytes();
        let grams = self.words.windows(self.ngram);
        let slices = grams.map(|words| &bytes[words[0].0 as usize..words[words.len() - 1].1 as usize]);
        slices.map(|slice| self.hash.of(slice)).collect()
    }
}

/// datatrove's family of `bands * rows` hash functions.
#[derive(Clone, Debug)]
pub struct FinewebHasher {
    rows: usize,
    count: usize,
    multipliers: Vec<Lanes>,
    addends: Vec<Lanes>,
}

impl FinewebHasher {
    /// The family that `MinhashConfig(num_buckets=bands, hashes_per_bucket=rows, seed=seed)` stands for.
    pub fn new(bands: usize, rows: usize, seed: u32) -> Self {
        let count = bands * rows;
        let mut random = random::RandomState::new(seed);
        let mut draw = |low: u64| {
            let mut lanes = vec![[0; LANES]; count.div_ceil(LANES)];
            lanes.as_flattened_mut()[..count].iter_mut().for_each(|number| *number = random.below(low, PRIME));
            lanes
        };
        let multipliers = draw(1);
        Self { rows, count, multipliers, addends: draw(0) }
    }

    /// The minimum of every hash function over the shingles, each below 2^61 - 1; none for no shingles.
    pub fn signature(&self, shingles: &[u64]) -> Vec<u64> {
        if shingles.is_empty() {
            return Vec::new();
        }
        let mut signature = Vec::with_capacity(self.multipliers.len() * LANES);
        for (multipliers, addends) in self.multipliers.iter().zip(&self.addends) {
            signature.extend_from_slice(&minima(shingles, multipliers, addends));
        }
        signature.truncate(self.count);
        signature
    }

    /// One key per band, equal if all rows of the band are; keys of different bands are unrelated. None for an empty
    /// signature.
    pub fn band_keys(&self, signature: &[u64]) -> Vec<u64> {
        assert!(signature.is_empty() || signature.len() == self.count, "a signature has bands * rows values");
        let mut bytes = Vec::with_capacity(self.rows * 8);
        let keys = signature.chunks_exact(self.rows).enumerate().map(|(band, rows)| {
            bytes.clear();
            bytes.extend(rows.iter().flat_map(|minimum| minimum.to_le_bytes()));
            xxh3_64_with_seed(&bytes, band as u64)
        });
        keys.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jaccard;

    #[test]
    fn a_text_with_fewer_words_than_a_shingle_has_no_signature() {
        let hasher = FinewebHasher::new(14, 8, 1);
        let mut shingler = FinewebShingler::new(5, FinewebHash::Xxhash);
        for (text, count) in
            [("", 0), ("one", 0), ("one two three four", 0), ("1, 2, 3: four five", 1), ("你 好 世 界", 0)]
        {
            let shingles = shingler.shingles(text);
            assert_eq!(shingles.len(), count, "{text}");
            assert_eq!(hasher.signature(&shingles).len(), count * 112);
            assert_eq!(hasher.band_keys(&hasher.signature(&shingles)).len(), count * 14);
        }
    }

    #[test]
    fn shingles_are_hashes_of_words_joined_by_spaces() {
        let mut shingler = FinewebShingler::new(3, FinewebHash::Xxhash);
        let wanted: Vec<u64> =
            ["i do nt", "do nt know", "nt know 0", "know 0 km"].map(|gram| xxh64(gram.as_bytes(), 0)).into();
        assert_eq!(shingler.shingles("I dont... know 12.5km"), wanted);
        assert_eq!((shingler.text(), shingler.words().len()), ("i do nt know 0 km", 6));
        assert_eq!(shingler.shingles_of_words(["i", "do", "nt", "know", "0", "km"]), wanted);
        let mut sha1 = FinewebShingler::new(1, FinewebHash::Sha1);
        assert_eq!(sha1.shingles("abc"), [u64::from_le_bytes([0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a])]);
    }

    /// The share of pairs that share a band lies within the binomial error of 1 - (1 - s^r)^b, also for this family.
    #[test]
    fn pairs_are_nominated_on_the_s_curve() {
        let (bands, rows, trials) = (14, 8, 1200);
        let mut state = 3_u64;
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            xxh64(&state.to_le_bytes(), 0)
        };
        for shared in [60, 70, 80] {
            let mut nominated = 0;
            for trial in 0..trials {
                let common: Vec<u64> = (0..shared).map(|_| random()).collect();
                let mut sets = [common.clone(), common];
                for (index, only) in (shared..100).map(|_| random()).enumerate() {
                    sets[index % 2].push(only);
                }
                sets.iter_mut().for_each(|set| set.sort_unstable());
                assert!((jaccard(&sets[0], &sets[1]) - f64::from(shared) / 100.0).abs() < 1e-12);
                let hasher = FinewebHasher::new(bands, rows, trial);
                let keys = sets.map(|set| hasher.band_keys(&hasher.signature(&set)));
                nominated += u32::from(keys[0].iter().zip(&keys[1]).any(|(x, y)| x == y));
            }
            let similarity = f64::from(shared) / 100.0;
            let wanted = 1.0 - (1.0 - similarity.powi(rows as i32)).powi(bands as i32);
            let error = (wanted * (1.0 - wanted) / f64::from(trials)).sqrt() + 1.0 / f64::from(trials);
            let measured = f64::from(nominated) / f64::from(trials);
            assert!((measured - wanted).abs() < 4.0 * error, "{similarity}: {measured}, {wanted}");
        }
    }
}
