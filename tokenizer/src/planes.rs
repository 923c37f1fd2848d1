//! Which of 64 bytes are letters, digits, white space: one bit for each byte.
//!
//! In: 64 bytes. Out: [`Planes`]. One form for each instruction set that was measured to pay, chosen at run time by
//! [`Level::detect`]; all give the same masks. Leaves characters beyond ASCII and the rules to `window`.

use std::sync::OnceLock;

/// How windows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Character by character: any machine.
    Scalar,
    /// 32 bytes in a register.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 64 bytes in a register, compared straight into a mask.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// 16 bytes in a register.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The fastest level of this machine. No output depends on it.
    pub(crate) fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| *Self::all().last().expect("`Scalar` is always there"))
    }

    /// All levels that this machine has, the slowest first.
    pub(crate) fn all() -> Vec<Self> {
        #[allow(unused_mut, reason = "other machines have the scalar level alone")]
        let mut levels = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let bits = is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            if bits && is_x86_feature_detected!("avx2") {
                levels.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                    levels.push(Self::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        levels.push(Self::Neon);
        levels
    }
}

/// Masks of the ASCII classes and of the bytes beyond ASCII. What is in none of them is an ASCII symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planes {
    /// A to Z.
    pub(crate) upper: u64,
    /// a to z.
    pub(crate) lower: u64,
    /// 0 to 9.
    pub(crate) digit: u64,
    /// The space.
    pub(crate) space: u64,
    /// Tab, vertical tab, form feed.
    pub(crate) tab: u64,
    /// CR, LF.
    pub(crate) newline: u64,
    /// The apostrophe, which is a symbol too.
    pub(crate) apostrophe: u64,
    /// 0x80 and up.
    pub(crate) wide: u64,
}

/// # Safety
/// The machine has AVX-512 F and BW.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(crate) unsafe fn avx512(bytes: &[u8; 64]) -> Planes {
    use std::arch::x86_64::{
        __m512i, _mm512_cmpeq_epi8_mask, _mm512_cmple_epu8_mask, _mm512_loadu_si512, _mm512_movepi8_mask,
        _mm512_set1_epi8, _mm512_sub_epi8,
    };
    // SAFETY: 64 bytes can be read there.
    let v = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast::<__m512i>()) };
    let set = |byte: u8| _mm512_set1_epi8(byte as i8);
    let is = |byte: u8| _mm512_cmpeq_epi8_mask(v, set(byte));
    let from_to = |first: u8, last: u8| _mm512_cmple_epu8_mask(_mm512_sub_epi8(v, set(first)), set(last - first));
    let newline = is(b'\n') | is(b'\r');
    Planes {
        upper: from_to(b'A', b'Z'),
        lower: from_to(b'a', b'z'),
        digit: from_to(b'0', b'9'),
        space: is(b' '),
        tab: from_to(b'\t', b'\r') & !newline,
        newline,
        apostrophe: is(b'\''),
        wide: _mm512_movepi8_mask(v),
    }
}

/// # Safety
/// The machine has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn avx2(bytes: &[u8; 64]) -> Planes {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_set1_epi8,
        _mm256_sub_epi8,
    };
    // SAFETY: 64 bytes can be read there.
    let v = unsafe {
        let at = bytes.as_ptr().cast::<__m256i>();
        [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))]
    };
    let set = |byte: u8| _mm256_set1_epi8(byte as i8);
    let mask = |half: __m256i| u64::from(_mm256_movemask_epi8(half) as u32);
    let is = |byte: u8| mask(_mm256_cmpeq_epi8(v[0], set(byte))) | mask(_mm256_cmpeq_epi8(v[1], set(byte))) << 32;
    let from_to = |first: u8, last: u8| {
        let half = |v| {
            let moved = _mm256_sub_epi8(v, set(first));
            mask(_mm256_cmpeq_epi8(_mm256_min_epu8(moved, set(last - first)), moved))
        };
        half(v[0]) | half(v[1]) << 32
    };
    let newline = is(b'\n') | is(b'\r');
    Planes {
        upper: from_to(b'A', b'Z'),
        lower: from_to(b'a', b'z'),
        digit: from_to(b'0', b'9'),
        space: is(b' '),
        tab: from_to(b'\t', b'\r') & !newline,
        newline,
        apostrophe: is(b'\''),
        wide: mask(v[0]) | mask(v[1]) << 32,
    }
}

/// NEON is part of every aarch64 machine.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(crate) fn neon(bytes: &[u8; 64]) -> Planes {
    use std::arch::aarch64::{
        uint8x16_t, vandq_u8, vceqq_u8, vcleq_u8, vdupq_n_u8, vgetq_lane_u64, vld1q_u8, vpaddq_u8,
        vreinterpretq_u64_u8, vsubq_u8,
    };
    const WEIGHTS: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: NEON is there, and each load reads 16 of the 64 bytes (or of the 16 weights).
    unsafe {
        let v: [uint8x16_t; 4] = std::array::from_fn(|i| vld1q_u8(bytes.as_ptr().add(16 * i)));
        let weights = vld1q_u8(WEIGHTS.as_ptr());
        let mask = |quarters: [uint8x16_t; 4]| {
            let [a, b, c, d] = quarters.map(|quarter| vandq_u8(quarter, weights));
            let sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
            vgetq_lane_u64::<0>(vreinterpretq_u64_u8(vpaddq_u8(sums, sums)))
        };
        let is = |byte: u8| mask(v.map(|v| vceqq_u8(v, vdupq_n_u8(byte))));
        let from_to =
            |first: u8, last: u8| mask(v.map(|v| vcleq_u8(vsubq_u8(v, vdupq_n_u8(first)), vdupq_n_u8(last - first))));
        let newline = is(b'\n') | is(b'\r');
        Planes {
            upper: from_to(b'A', b'Z'),
            lower: from_to(b'a', b'z'),
            digit: from_to(b'0', b'9'),
            space: is(b' '),
            tab: from_to(b'\t', b'\r') & !newline,
            newline,
            apostrophe: is(b'\''),
            wide: from_to(0x80, 0xff),
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    fn slow(bytes: &[u8; 64]) -> Planes {
        let mask = |is: fn(&u8) -> bool| (0..64).fold(0, |mask, i| mask | u64::from(is(&bytes[i])) << i);
        Planes {
            upper: mask(u8::is_ascii_uppercase),
            lower: mask(u8::is_ascii_lowercase),
            digit: mask(u8::is_ascii_digit),
            space: mask(|b| *b == b' '),
            tab: mask(|b| matches!(b, 9 | 11 | 12)),
            newline: mask(|b| matches!(b, 10 | 13)),
            apostrophe: mask(|b| *b == b'\''),
            wide: mask(|b| *b >= 0x80),
        }
    }

    #[test]
    fn every_byte_at_every_place_has_its_class_at_every_level() {
        let levels = Level::all();
        for shift in 0..256_usize {
            let bytes: [u8; 64] = std::array::from_fn(|i| (i * 5 + shift) as u8);
            // SAFETY: only levels that were detected are called.
            unsafe {
                if levels.contains(&Level::Avx2) {
                    assert_eq!(avx2(&bytes), slow(&bytes));
                }
                if levels.contains(&Level::Avx512) {
                    assert_eq!(avx512(&bytes), slow(&bytes));
                }
            }
        }
    }
}
