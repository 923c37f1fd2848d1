//! Counter-based random numbers: a draw is a pure function of its key and its counter.
//!
//! In: words and names that say what the draw is for. Out: u64, a number below a bound, a share in 0..1. Nothing is kept
//! between calls, so no draw depends on how many were made before it elsewhere.
//! The counter is mixed by SplitMix64 (Steele, Lea, Flood 2014); keys are blake3 over length-prefixed parts.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One part of a key.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A number: a seed, a step, an index.
    Word(u64),
    /// A name: a purpose, an id, a text.
    Name(&'a str),
}

impl From<u64> for Part<'_> {
    fn from(word: u64) -> Self {
        Part::Word(word)
    }
}

impl<'a> From<&'a str> for Part<'a> {
    fn from(name: &'a str) -> Self {
        Part::Name(name)
    }
}

/// The first 128 bits of blake3 over the length-prefixed parts; parts never run into each other.
pub fn key(parts: &[Part<'_>]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        match part {
            Part::Word(word) => {
                hasher.update(&8_u64.to_le_bytes());
                hasher.update(&word.to_le_bytes());
            }
            Part::Name(name) => {
                hasher.update(&(name.len() as u64).to_le_bytes());
                hasher.update(name.as_bytes());
            }
        }
    }
    let mut first = [0_u8; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_be_bytes(first)
}

/// A stream of draws with a key of its own.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    counter: u64,
}

impl Stream {
    /// The stream of this key, at counter 0.
    pub fn new(parts: &[Part<'_>]) -> Self {
        Self { key: key(parts) as u64, counter: 0 }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut z = self.key.wrapping_add(self.counter.wrapping_mul(GOLDEN));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`, by the high half of the product (bias below bound / 2^64). Panics if `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "a draw below 0 has no value");
        ((u128::from(self.next_u64()) * bound as u128) >> 64) as usize
    }

    /// A share in 0..1 (53 bits, never 1).
    pub fn share(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability, 0..=1.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_equal_draws_and_different_keys_do_not() {
        let draw = |parts: &[Part<'_>]| Stream::new(parts).next_u64();
        assert_eq!(draw(&[7.into(), "words".into()]), draw(&[7.into(), "words".into()]));
        assert_ne!(draw(&[7.into(), "words".into()]), draw(&[8.into(), "words".into()]));
        assert_ne!(key(&["ab".into(), "c".into()]), key(&["a".into(), "bc".into()]));
        assert_ne!(key(&[]), key(&["".into()]));
    }

    #[test]
    fn draws_below_a_bound_cover_it_evenly() {
        let mut stream = Stream::new(&[1.into()]);
        let mut counts = [0_u32; 5];
        for _ in 0..50_000 {
            counts[stream.below(5)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
        let mean = (0..50_000).map(|_| stream.share()).sum::<f64>() / 50_000.0;
        assert!((mean - 0.5).abs() < 0.01);
    }

    #[test]
    fn chance_never_fires_at_zero_and_always_at_one() {
        let mut stream = Stream::new(&[2.into()]);
        assert!((0..1000).all(|_| !stream.chance(0.0) && stream.chance(1.0)));
    }
}
