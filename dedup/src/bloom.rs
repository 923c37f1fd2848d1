//! A Bloom filter: what was seen, in a few bits an item, at the price of some first occurrences taken for repeats.
//!
//! In: how many items to expect and how often to err, then 128-bit keys. Out: whether a key was seen before. Left to others:
//! which keys (of documents, paragraphs), and their order: visit documents in survivor order and the first stays.
//! Bloom 1970; two hashes stand for all (Kirsch & Mitzenmacher 2006). With m bits, k hashes and n items a new key is taken
//! for a seen one with probability (1 - e^(-kn/m))^k; m and k are chosen so that this is the stated rate at the expected n.
//! Memory: 1.44 log2(1 / rate) bits an item: 1.2 bytes at 1 %, 1.8 at 0.1 %, 3.6 at 10^-6. Nothing seen is ever forgotten, so no
//! repeat is missed; filters of one shape can be joined, and the joined bits do not depend on the order.

use crate::ConfigError;
use crate::config::faults;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What a filter is made for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BloomConfig {
    /// Different items to expect, 1 or more. Beyond, errors are more frequent than stated.
    pub expected_items: u64,
    /// Share of new items that may be taken for seen ones when all expected items are in; above 0, at most 0.5.
    pub false_positive_rate: f64,
}

impl Default for BloomConfig {
    fn default() -> Self {
        Self { expected_items: 100_000_000, false_positive_rate: 1e-6 }
    }
}

/// A set of keys that errs on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bloom {
    words: Vec<u64>,
    hashes: u32,
    /// Keys added that did not seem to be there.
    items: u64,
}

/// Why a filter could not be read or joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BloomError {
    /// The bytes are not a filter of this version.
    #[error("not a Bloom filter of version 1: {0}")]
    Format(&'static str),
    /// The system gives no memory for the bits.
    #[error("no memory for a filter of {bytes} bytes")]
    Memory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// The filters have different sizes.
    #[error("filters differ: {bits} bits and {hashes} hashes against {other_bits} and {other_hashes}")]
    Shape {
        /// Bits of this one.
        bits: u64,
        /// Its hashes.
        hashes: u32,
        /// Bits of the other.
        other_bits: u64,
        /// Its hashes.
        other_hashes: u32,
    },
}

const MAGIC: &[u8; 8] = b"gmbloom1";

impl BloomConfig {
    /// Checks every range; returns all faults.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let (items, rate) = (self.expected_items, self.false_positive_rate);
        faults(&[
            ("expected_items", items.to_string(), items >= 1, "1 or more"),
            ("false_positive_rate", rate.to_string(), rate > 0.0 && rate <= 0.5, "above 0, at most 0.5"),
        ])
    }

    /// Bits and hash functions: `-n ln p / (ln 2)^2`, rounded up to whole 64-bit words, and `bits / n ln 2`, rounded.
    pub fn shape(&self) -> (u64, u32) {
        let ln2 = std::f64::consts::LN_2;
        let items = self.expected_items.max(1) as f64;
        let bits = (-items * self.false_positive_rate.clamp(f64::MIN_POSITIVE, 0.5).ln() / (ln2 * ln2)).ceil() as u64;
        let bits = bits.div_ceil(64).clamp(1, u64::MAX / 64) * 64;
        (bits, ((bits as f64 / items * ln2).round() as u32).clamp(1, 64))
    }

    /// Memory of the filter, in bytes.
    pub fn bytes(&self) -> u64 {
        self.shape().0 / 8
    }

    /// How often a new key is taken for a seen one once `items` are in, 0..1: the formula, not a measurement.
    pub fn rate_after(&self, items: u64) -> f64 {
        let (bits, hashes) = self.shape();
        (-(-f64::from(hashes) * items as f64 / bits as f64).exp_m1()).powi(hashes as i32)
    }
}

impl Bloom {
    /// An empty filter; an error if there is no memory for it.
    pub fn new(config: &BloomConfig) -> Result<Self, BloomError> {
        let (bits, hashes) = config.shape();
        let mut words: Vec<u64> = Vec::new();
        words.try_reserve_exact((bits / 64) as usize).map_err(|_| BloomError::Memory { bytes: bits / 8 })?;
        words.resize((bits / 64) as usize, 0);
        Ok(Self { words, hashes, items: 0 })
    }

    /// Adds a key; whether it was there before, or seems so.
    pub fn insert(&mut self, key: u128) -> bool {
        let mut was_there = true;
        for (word, bit) in places(key, self.words.len(), self.hashes) {
            was_there &= self.words[word] & bit != 0;
            self.words[word] |= bit;
        }
        self.items += u64::from(!was_there);
        was_there
    }

    /// Whether a key is there, or seems so.
    pub fn contains(&self, key: u128) -> bool {
        places(key, self.words.len(), self.hashes).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Keys that were new when added, to the best of its knowledge.
    pub fn items(&self) -> u64 {
        self.items
    }

    /// How often a new key would now be taken for a seen one: (set bits / bits)^hashes, 0..1.
    pub fn false_positive_rate(&self) -> f64 {
        let set: u64 = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        (set as f64 / (self.words.len() * 64) as f64).powi(self.hashes as i32)
    }

    /// Adds everything that is in a filter of the same shape. Keys in both count twice in [`items`](Self::items).
    pub fn join(&mut self, other: &Self) -> Result<(), BloomError> {
        if (self.words.len(), self.hashes) != (other.words.len(), other.hashes) {
            return Err(BloomError::Shape {
                bits: self.words.len() as u64 * 64,
                hashes: self.hashes,
                other_bits: other.words.len() as u64 * 64,
                other_hashes: other.hashes,
            });
        }
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
        self.items += other.items;
        Ok(())
    }

    /// As bytes: magic with version, hashes, items, words (all little-endian), xxh3-64 of all that.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.words.len() * 8 + 28);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.hashes.to_le_bytes());
        bytes.extend_from_slice(&self.items.to_le_bytes());
        self.words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        let sum = xxh3_64(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Out of what [`to_bytes`](Self::to_bytes) gave.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BloomError> {
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or(BloomError::Format("too short"))?;
        let rest = body.strip_prefix(MAGIC).ok_or(BloomError::Format("other first bytes"))?;
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(BloomError::Format("the checksum does not match"));
        }
        let (hashes, rest) = rest.split_first_chunk::<4>().ok_or(BloomError::Format("too short"))?;
        let (items, rest) = rest.split_first_chunk::<8>().ok_or(BloomError::Format("too short"))?;
        let (words, over) = rest.as_chunks::<8>();
        let hashes = u32::from_le_bytes(*hashes);
        if words.is_empty() || !over.is_empty() || !(1..=64).contains(&hashes) {
            return Err(BloomError::Format("a length that no filter has"));
        }
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(Self { words, hashes, items: u64::from_le_bytes(*items) })
    }
}

/// Word and bit of each hash of a key.
fn places(key: u128, words: usize, hashes: u32) -> impl Iterator<Item = (usize, u64)> {
    let bits = words as u128 * 64;
    let (first, step) = ((key >> 64) as u64, key as u64 | 1);
    (0..u64::from(hashes)).map(move |n| {
        // A product's upper half spreads the hash evenly over the bits.
        let bit = ((u128::from(first.wrapping_add(step.wrapping_mul(n))) * bits) >> 64) as u64;
        ((bit / 64) as usize, 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_128;

    fn key(n: u64) -> u128 {
        xxh3_128(&n.to_le_bytes())
    }

    fn filled(config: &BloomConfig, items: std::ops::Range<u64>) -> Bloom {
        let mut bloom = Bloom::new(config).unwrap();
        items.for_each(|n| _ = bloom.insert(key(n)));
        bloom
    }

    #[test]
    fn the_measured_rate_is_the_stated_one() {
        for rate in [0.1, 0.01, 0.001] {
            let config = BloomConfig { expected_items: 50_000, false_positive_rate: rate };
            let bloom = filled(&config, 0..50_000);
            assert!((0..50_000).all(|n| bloom.contains(key(n))));
            let trials = 400_000;
            let wrong = (1_000_000..1_000_000 + trials).filter(|n| bloom.contains(key(*n))).count() as f64;
            let error = (rate * (1.0 - rate) / trials as f64).sqrt();
            let measured = wrong / trials as f64;
            assert!((measured - rate).abs() < 4.0 * error + rate / 20.0, "{rate}: {measured}");
            assert!(
                (bloom.false_positive_rate() - rate).abs() < rate / 10.0,
                "{rate}: {}",
                bloom.false_positive_rate()
            );
            assert!((config.rate_after(50_000) - rate).abs() < rate / 50.0, "{rate}: {}", config.rate_after(50_000));
            assert!(config.rate_after(0) == 0.0 && config.rate_after(500_000) > rate);
        }
    }

    #[test]
    fn the_first_occurrence_is_new_and_the_second_is_not() {
        let mut bloom = Bloom::new(&BloomConfig { expected_items: 10, false_positive_rate: 1e-9 }).unwrap();
        let seen: Vec<bool> = [1, 2, 1, 3, 3, 1].map(|n| bloom.insert(key(n))).into();
        assert_eq!(seen, [false, false, true, false, true, true]);
        assert_eq!(bloom.items(), 3);
        assert!(!Bloom::new(&BloomConfig { expected_items: 0, false_positive_rate: 0.5 }).unwrap().contains(0));
        let vast = BloomConfig { expected_items: u64::MAX, false_positive_rate: 1e-9 };
        assert!(matches!(Bloom::new(&vast), Err(BloomError::Memory { .. })));
    }

    #[test]
    fn joined_filters_hold_both_in_either_order() {
        let config = BloomConfig { expected_items: 1000, false_positive_rate: 0.01 };
        let (a, b) = (filled(&config, 0..300), filled(&config, 300..700));
        let (mut one, mut other) = (a.clone(), b.clone());
        one.join(&b).unwrap();
        other.join(&a).unwrap();
        assert_eq!(one.to_bytes(), other.to_bytes());
        assert_eq!(one.words, filled(&config, 0..700).words);
        let larger = Bloom::new(&BloomConfig { expected_items: 2000, ..config }).unwrap();
        assert!(matches!(one.join(&larger), Err(BloomError::Shape { .. })));
    }

    #[test]
    fn bytes_bring_a_filter_back_and_damage_is_noticed() {
        let bloom = filled(&BloomConfig { expected_items: 100, false_positive_rate: 0.01 }, 0..100);
        let bytes = bloom.to_bytes();
        assert_eq!(Bloom::from_bytes(&bytes), Ok(bloom));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Bloom::from_bytes(&damaged).is_err(), "{at}");
            assert!(Bloom::from_bytes(&bytes[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn shapes_follow_the_formula() {
        let shape = |items, rate| BloomConfig { expected_items: items, false_positive_rate: rate }.shape();
        assert_eq!(shape(1_000_000, 0.01), (9_585_088, 7));
        assert_eq!(shape(1, 0.5), (64, 44));
        assert_eq!(BloomConfig::default().check(), Ok(()));
        let faults = BloomConfig { expected_items: 0, false_positive_rate: f64::NAN }.check().unwrap_err();
        assert_eq!(
            faults.iter().map(|fault| fault.field).collect::<Vec<_>>(),
            ["expected_items", "false_positive_rate"]
        );
        assert_eq!(shape(1_000_000, 1e-6).1, 20);
    }
}
