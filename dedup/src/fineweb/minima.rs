//! The inner loop of FineWeb's signatures: minima of `(a * x + b) mod 2^61 - 1`, where `a * x + b` wraps at 2^64.
//!
//! In: shingles and the parameters of [`LANES`] functions. Out: their minima. One loop, compiled for several instruction
//! sets and chosen at run time; integers only, so that every choice gives the same bits.

/// Functions per call: two AVX-512 registers of minima, or four of AVX2.
pub(super) const LANES: usize = 16;

/// 2^61 - 1.
pub(super) const PRIME: u64 = (1 << 61) - 1;

/// Multipliers and addends of [`LANES`] functions.
pub(super) type Lanes = [u64; LANES];

/// Minima over all shingles; `u64::MAX` if there are none.
pub(super) fn minima(shingles: &[u64], multipliers: &Lanes, addends: &Lanes) -> Lanes {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
            // SAFETY: the CPU has AVX-512 F and DQ, which is all that the function asks for.
            return unsafe { minima_avx512(shingles, multipliers, addends) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, which is all that the function asks for.
            return unsafe { minima_avx2(shingles, multipliers, addends) };
        }
    }
    minima_loop(shingles, multipliers, addends)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn minima_avx512(shingles: &[u64], multipliers: &Lanes, addends: &Lanes) -> Lanes {
    minima_loop(shingles, multipliers, addends)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(shingles: &[u64], multipliers: &Lanes, addends: &Lanes) -> Lanes {
    minima_loop(shingles, multipliers, addends)
}

#[inline(always)]
fn minima_loop(shingles: &[u64], multipliers: &Lanes, addends: &Lanes) -> Lanes {
    let mut least = [u64::MAX; LANES];
    for &shingle in shingles {
        for lane in 0..LANES {
            let hash = shingle.wrapping_mul(multipliers[lane]).wrapping_add(addends[lane]);
            // 2^61 = 1 modulo the prime: fold the upper three bits onto the rest; the sum is below 2^61 + 7. What is
            // left to subtract is subtracted by the second minimum, since a smaller sum would wrap to a large number.
            let folded = (hash & PRIME) + (hash >> 61);
            least[lane] = least[lane].min(folded).min(folded.wrapping_sub(PRIME));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_remainder_also_at_its_edges() {
        let mut state = 7_u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state ^ (state >> 29)
        };
        let multipliers: Lanes = std::array::from_fn(|_| random() % PRIME);
        let addends: Lanes = std::array::from_fn(|_| random() % PRIME);
        let edges = [0, 1, PRIME - 1, PRIME, PRIME + 1, PRIME + 6, PRIME + 7, 2 * PRIME, u64::MAX, u64::MAX - 7];
        let ones = [1; LANES];
        for shingle in edges {
            let wanted = [shingle % PRIME; LANES];
            assert_eq!(minima(&[shingle], &ones, &[0; LANES]), wanted, "{shingle}");
            assert_eq!(minima_loop(&[shingle], &ones, &[0; LANES]), wanted, "{shingle}");
        }
        for count in [0, 1, 2, 3, 100] {
            let shingles: Vec<u64> = (0..count).map(|_| random()).collect();
            let hash = |lane: usize, x: u64| x.wrapping_mul(multipliers[lane]).wrapping_add(addends[lane]) % PRIME;
            let least = |lane: usize| shingles.iter().map(|&x| hash(lane, x)).min().unwrap_or(u64::MAX);
            let wanted: Lanes = std::array::from_fn(least);
            assert_eq!(minima(&shingles, &multipliers, &addends), wanted);
            assert_eq!(minima_loop(&shingles, &multipliers, &addends), wanted);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: as in `minima`.
                assert_eq!(unsafe { minima_avx2(&shingles, &multipliers, &addends) }, wanted);
            }
        }
    }
}
