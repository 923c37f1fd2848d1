//! Counter-based random numbers: Philox4x32-10 under keys derived by folding.
//!
//! In: a seed, then any number of words and strings (step, sample, layer, purpose) folded into a [`Key`]; a counter is
//! the element index. Out: bits, uniforms, normals, Gumbels. There is no state, so any split of the work sees the same
//! numbers. Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

const PHILOX_M: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const PHILOX_W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32 with ten rounds: 128 random bits for a 64-bit key and a 128-bit counter.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    let mut k = [key as u32, (key >> 32) as u32];
    let mut c = counter;
    for round in 0..10 {
        if round > 0 {
            k = [k[0].wrapping_add(PHILOX_W[0]), k[1].wrapping_add(PHILOX_W[1])];
        }
        let p0 = u64::from(PHILOX_M[0]) * u64::from(c[0]);
        let p1 = u64::from(PHILOX_M[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
    }
    c
}

/// A stream of random numbers addressed by element index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u64);

impl Key {
    /// The root key of a run.
    pub fn new(seed: u64) -> Self {
        Self(0x6772_6973_746d_696c).fold(seed)
    }

    /// A key that also depends on `word`. Order matters: `a.fold(1).fold(2) != a.fold(2).fold(1)`.
    pub fn fold(self, word: u64) -> Self {
        let r = philox(self.0, [word as u32, (word >> 32) as u32, 0x666f_6c64, 0]);
        Self(u64::from(r[0]) | u64::from(r[1]) << 32)
    }

    /// A key that also depends on a name.
    pub fn fold_str(self, name: &str) -> Self {
        let mut key = self.fold(name.len() as u64);
        for chunk in name.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            key = key.fold(u64::from_le_bytes(word));
        }
        key
    }

    /// 128 random bits of element `index`.
    pub fn block(self, index: u64) -> [u32; 4] {
        philox(self.0, [index as u32, (index >> 32) as u32, 0, 1])
    }

    /// The blocks of elements `first..first + N`, word by word: as [`Key::block`], laid out for SIMD.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // lanes of four arrays at once
    pub fn blocks<const N: usize>(self, first: u64) -> [[u32; N]; 4] {
        let mut k = [self.0 as u32, (self.0 >> 32) as u32];
        let mut c = [[0_u32; N], [0; N], [0; N], [1; N]];
        for i in 0..N {
            (c[0][i], c[1][i]) = ((first + i as u64) as u32, ((first + i as u64) >> 32) as u32);
        }
        for _ in 0..10 {
            for i in 0..N {
                let p0 = u64::from(PHILOX_M[0]) * u64::from(c[0][i]);
                let p1 = u64::from(PHILOX_M[1]) * u64::from(c[2][i]);
                (c[0][i], c[1][i]) = ((p1 >> 32) as u32 ^ c[1][i] ^ k[0], p1 as u32);
                (c[2][i], c[3][i]) = ((p0 >> 32) as u32 ^ c[3][i] ^ k[1], p0 as u32);
            }
            k = [k[0].wrapping_add(PHILOX_W[0]), k[1].wrapping_add(PHILOX_W[1])];
        }
        c
    }

    /// 64 random bits of element `index`.
    pub fn bits(self, index: u64) -> u64 {
        let r = self.block(index);
        u64::from(r[0]) | u64::from(r[1]) << 32
    }

    /// Uniform in the open interval (0, 1), 53 bits.
    pub fn uniform(self, index: u64) -> f64 {
        open_unit(self.bits(index))
    }

    /// Standard normal by Box and Muller in f64.
    pub fn normal(self, index: u64) -> f64 {
        let r = self.block(index);
        let u = open_unit(u64::from(r[0]) | u64::from(r[1]) << 32);
        let v = open_unit(u64::from(r[2]) | u64::from(r[3]) << 32);
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Standard Gumbel: the argmax of `logit + gumbel` is a draw from the softmax.
    pub fn gumbel(self, index: u64) -> f64 {
        -(-self.uniform(index).ln()).ln()
    }

    /// Uniform integer below `bound` (> 0), by widening multiplication: bias below 2^-64 * bound.
    pub fn below(self, index: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(index)) * u128::from(bound)) >> 64) as u64
    }
}

fn open_unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // Random123 kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn blocks_side_by_side_are_the_blocks_one_by_one() {
        let (key, first) = (Key::new(5), u64::from(u32::MAX) - 3);
        let wide = key.blocks::<8>(first);
        for i in 0..8 {
            assert_eq!(wide.map(|word| word[i]), key.block(first + i as u64));
        }
    }

    #[test]
    fn normals_have_mean_zero_and_variance_one() {
        let key = Key::new(3).fold_str("normal");
        let n = 20_000;
        let xs: Vec<f64> = (0..n).map(|i| key.normal(i)).collect();
        let mean = xs.iter().sum::<f64>() / n as f64;
        let var = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.03 && (var - 1.0).abs() < 0.05, "{mean} {var}");
    }

    #[test]
    fn keys_differ_by_word_order_and_name() {
        let k = Key::new(1);
        assert_ne!(k.fold(1).fold(2), k.fold(2).fold(1));
        assert_ne!(k.fold_str("a"), k.fold_str("a\0"));
        assert!((0..1000).all(|i| k.below(i, 7) < 7));
    }
}
