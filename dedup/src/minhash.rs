//! MinHash signatures and the band keys of locality-sensitive hashing.
//!
//! In: a shingle set. Out: `bands * rows` 32-bit minima, and one 64-bit key per band. Left to others: joining on keys.
//! Broder 1997. The hash family is `(x ^ b) * a mod 2^32` with odd `a` over the upper half of the 64-bit shingle hash,
//! which is already mixed: 32-bit lanes, because there is no 64-bit multiply or minimum in AVX2. Two minima of different
//! sets are equal by accident with probability of about |set| / 2^33 per row, which `rows` of them make nothing.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Hashes per inner loop: four AVX2 registers of minima.
const LANES: usize = 32;

/// A family of `bands * rows` hash functions.
#[derive(Clone, Debug)]
pub struct Hasher {
    rows: usize,
    /// Rounded up to a multiple of [`LANES`].
    multipliers: Vec<[u32; LANES]>,
    masks: Vec<[u32; LANES]>,
    count: usize,
}

impl Hasher {
    /// A family drawn from `seed`; function `i` does not depend on the number of bands and rows.
    pub fn new(bands: usize, rows: usize, seed: u64) -> Self {
        let count = bands * rows;
        let mut hasher = Self { rows, multipliers: Vec::new(), masks: Vec::new(), count };
        let mut state = seed;
        for _ in 0..count.div_ceil(LANES) {
            let (mut multipliers, mut masks) = ([0; LANES], [0; LANES]);
            for lane in 0..LANES {
                let random = splitmix64(&mut state);
                (multipliers[lane], masks[lane]) = ((random >> 32) as u32 | 1, random as u32);
            }
            hasher.multipliers.push(multipliers);
            hasher.masks.push(masks);
        }
        hasher
    }

    /// The minimum of every hash function over the shingles: `bands * rows` values, all `u32::MAX` for an empty set.
    pub fn signature(&self, shingles: &[u64]) -> Vec<u32> {
        let mut signature = Vec::with_capacity(self.multipliers.len() * LANES);
        for (multipliers, masks) in self.multipliers.iter().zip(&self.masks) {
            signature.extend_from_slice(&minima(shingles, multipliers, masks));
        }
        signature.truncate(self.count);
        signature
    }

    /// One key per band, equal if all rows of the band are; keys of different bands are unrelated. Empty for the signature
    /// of an empty set, which has nothing to be similar to.
    pub fn band_keys(&self, signature: &[u32]) -> Vec<u64> {
        assert_eq!(signature.len(), self.count, "a signature has bands * rows values");
        if signature.iter().all(|&minimum| minimum == u32::MAX) {
            return Vec::new();
        }
        let mut bytes = Vec::with_capacity(self.rows * 4);
        let keys = signature.chunks_exact(self.rows).enumerate().map(|(band, rows)| {
            bytes.clear();
            bytes.extend(rows.iter().flat_map(|minimum| minimum.to_le_bytes()));
            xxh3_64_with_seed(&bytes, band as u64)
        });
        keys.collect()
    }
}

/// Steele, Lea & Flood 2014.
fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Minima of [`LANES`] functions over all shingles. Integer arithmetic: the same on every machine.
fn minima(shingles: &[u64], multipliers: &[u32; LANES], masks: &[u32; LANES]) -> [u32; LANES] {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512 F, which is all that the function asks for.
            return unsafe { minima_avx512(shingles, multipliers, masks) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, which is all that the function asks for.
            return unsafe { minima_avx2(shingles, multipliers, masks) };
        }
    }
    minima_loop(shingles, multipliers, masks)
}

/// [`minima_loop`] compiled for AVX-512: sixteen lanes to an instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn minima_avx512(shingles: &[u64], multipliers: &[u32; LANES], masks: &[u32; LANES]) -> [u32; LANES] {
    minima_loop(shingles, multipliers, masks)
}

/// [`minima_loop`] compiled for AVX2: eight lanes to an instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(shingles: &[u64], multipliers: &[u32; LANES], masks: &[u32; LANES]) -> [u32; LANES] {
    minima_loop(shingles, multipliers, masks)
}

#[inline(always)]
fn minima_loop(shingles: &[u64], multipliers: &[u32; LANES], masks: &[u32; LANES]) -> [u32; LANES] {
    let mut least = [u32::MAX; LANES];
    for shingle in shingles {
        let shingle = (shingle >> 32) as u32;
        for lane in 0..LANES {
            least[lane] = least[lane].min((shingle ^ masks[lane]).wrapping_mul(multipliers[lane]));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jaccard;

    fn random_set(state: &mut u64, count: usize) -> Vec<u64> {
        let mut set: Vec<u64> = (0..count).map(|_| splitmix64(state)).collect();
        set.sort_unstable();
        set
    }

    #[test]
    fn a_signature_is_the_minimum_of_each_function() {
        let hasher = Hasher::new(5, 9, 3);
        let set = random_set(&mut 1, 77);
        let signature = hasher.signature(&set);
        assert_eq!(signature.len(), 45);
        for (index, &found) in signature.iter().enumerate() {
            let (a, b) = (hasher.multipliers[index / LANES][index % LANES], hasher.masks[index / LANES][index % LANES]);
            let hashes = set.iter().map(|shingle| (((shingle >> 32) as u32) ^ b).wrapping_mul(a));
            assert_eq!(Some(found), hashes.min());
        }
        assert_eq!(minima_loop(&set, &hasher.multipliers[0], &hasher.masks[0])[..], signature[..LANES]);
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as in `minima`.
            let found = unsafe { minima_avx2(&set, &hasher.multipliers[0], &hasher.masks[0]) };
            assert_eq!(found[..], signature[..LANES]);
        }
        assert_eq!(Hasher::new(1, 2, 3).signature(&set), signature[..2]);
        assert_ne!(Hasher::new(5, 9, 4).signature(&set), signature);
    }

    #[test]
    fn an_empty_set_has_no_band_keys() {
        let hasher = Hasher::new(2, 3, 1);
        let signature = hasher.signature(&[]);
        assert_eq!(signature, [u32::MAX; 6]);
        assert_eq!(hasher.band_keys(&signature), Vec::<u64>::new());
        let keys = hasher.band_keys(&[7; 6]);
        assert!(keys.len() == 2 && keys[0] != keys[1]);
    }

    #[test]
    fn equal_rows_estimate_the_jaccard_similarity() {
        let hasher = Hasher::new(14, 8, 1);
        let mut state = 5;
        for shared in [10, 50, 90, 100] {
            let mut equal = 0;
            for _ in 0..200 {
                let (common, only) = (random_set(&mut state, shared), random_set(&mut state, 100 - shared));
                let mut a = common.clone();
                a.extend(&only);
                let equal_rows = hasher.signature(&a).into_iter().zip(hasher.signature(&common));
                equal += equal_rows.filter(|(x, y)| x == y).count();
            }
            let (count, wanted) = (200.0 * 112.0, shared as f64 / 100.0);
            let error = (wanted * (1.0 - wanted) / count).sqrt().max(1e-9);
            assert!((equal as f64 / count - wanted).abs() < 4.0 * error, "{shared}: {}", equal as f64 / count);
        }
    }

    /// The share of pairs that share a band lies within the binomial error of 1 - (1 - s^r)^b, at every similarity s.
    #[test]
    fn pairs_are_nominated_on_the_s_curve() {
        let trials = 1500;
        for (bands, rows) in [(14, 8), (20, 5)] {
            let mut state = 11;
            for shared in [50, 60, 70, 80, 90] {
                let mut nominated = 0;
                for trial in 0..trials {
                    let common = random_set(&mut state, shared);
                    let rest = random_set(&mut state, 100 - shared);
                    let (mut a, mut b) = (common.clone(), common);
                    a.extend(&rest[..rest.len() / 2]);
                    b.extend(&rest[rest.len() / 2..]);
                    a.sort_unstable();
                    b.sort_unstable();
                    assert!((jaccard(&a, &b) - shared as f64 / 100.0).abs() < 1e-12);
                    let hasher = Hasher::new(bands, rows, trial);
                    let keys = [a, b].map(|set| hasher.band_keys(&hasher.signature(&set)));
                    nominated += u32::from(keys[0].iter().zip(&keys[1]).any(|(x, y)| x == y));
                }
                let similarity = shared as f64 / 100.0;
                let wanted = 1.0 - (1.0 - similarity.powi(rows as i32)).powi(bands as i32);
                let error = (wanted * (1.0 - wanted) / trials as f64).sqrt() + 1.0 / trials as f64;
                let measured = f64::from(nominated) / trials as f64;
                assert!(
                    (measured - wanted).abs() < 4.0 * error,
                    "{bands}x{rows} at {similarity}: {measured}, {wanted}"
                );
            }
        }
    }
}
