//! CRC32C (Castagnoli), reflected, polynomial 0x1EDC6F41; RFC 3720, appendix B.4, has test values.
//!
//! In: bytes. Out: their checksum. Uses the processor's instruction where there is one (SSE 4.2, ARMv8 CRC), else eight tables.
//! A block of [`BLOCK`] bytes goes through four lanes at the same time, since the instruction has a latency of three and a
//! throughput of one: crc(A B) = crc(A) x^(8 |B|) + crc(B) over GF(2).

use super::BLOCK;

const POLYNOMIAL: u32 = 0x82F6_3B78; // reflected
const LANE: usize = BLOCK / 4;
/// x^(8 * LANE) modulo the polynomial.
const SHIFT_LANE: u32 = {
    let mut power = 1 << 30; // x
    let mut doubled = 0;
    while doubled < (8 * LANE).trailing_zeros() {
        power = multiply(power, power);
        doubled += 1;
    }
    power
};

/// CRC32C of some bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    if bytes.len() != BLOCK {
        return !update(!0, bytes);
    }
    let [a, b, c, d] = four_lanes(bytes);
    let joined = [b, c, d].iter().fold(a, |joined, lane| multiply(joined, SHIFT_LANE) ^ lane);
    !joined
}

/// Product of two polynomials modulo the polynomial, reflected: bit 31 is x^0.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1_u32 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
        bit >>= 1;
    }
    product
}

const TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0_u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = before >> 8 ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
};

/// Eight bytes at a time through tables (Kounavis and Berry 2005, "slicing by 8").
fn update_tables(mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mixed = u64::from_le_bytes(*word) ^ u64::from(crc);
        crc = (0..8).fold(0, |sum, i| sum ^ TABLES[7 - i][(mixed >> (8 * i) & 255) as usize]);
    }
    rest.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLES[0][(crc as u8 ^ byte) as usize])
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the instruction is there.
        return unsafe { hardware::update(crc, bytes) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the instruction is there.
        return unsafe { hardware::update(crc, bytes) };
    }
    update_tables(crc, bytes)
}

/// States after each quarter of a block; the first begins with ones, the others with zeros.
fn four_lanes(block: &[u8]) -> [u32; 4] {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the instruction is there.
        return unsafe { hardware::four_lanes(block) };
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("crc") {
        // SAFETY: the instruction is there.
        return unsafe { hardware::four_lanes(block) };
    }
    let lane = |i: usize| &block[i * LANE..(i + 1) * LANE];
    [update_tables(!0, lane(0)), update_tables(0, lane(1)), update_tables(0, lane(2)), update_tables(0, lane(3))]
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod hardware {
    #[cfg(target_arch = "aarch64")]
    use std::arch::aarch64::{__crc32cb as step_byte, __crc32cd as step_word};
    #[cfg(target_arch = "x86_64")]
    use std::arch::x86_64::{_mm_crc32_u8 as step_byte, _mm_crc32_u64};

    use super::LANE;

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse4.2")]
    #[inline]
    fn step_word(crc: u32, word: u64) -> u32 {
        _mm_crc32_u64(u64::from(crc), word) as u32
    }

    /// Needs the instruction.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "sse4.2"))]
    #[cfg_attr(target_arch = "aarch64", target_feature(enable = "crc"))]
    pub(super) fn update(crc: u32, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut crc = crc;
        for word in words {
            crc = step_word(crc, u64::from_le_bytes(*word));
        }
        for byte in rest {
            crc = step_byte(crc, *byte);
        }
        crc
    }

    /// Needs the instruction.
    #[cfg_attr(target_arch = "x86_64", target_feature(enable = "sse4.2"))]
    #[cfg_attr(target_arch = "aarch64", target_feature(enable = "crc"))]
    pub(super) fn four_lanes(block: &[u8]) -> [u32; 4] {
        let words = block.as_chunks::<8>().0;
        let (a, rest) = words.split_at(LANE / 8);
        let (b, rest) = rest.split_at(LANE / 8);
        let (c, d) = rest.split_at(LANE / 8);
        let mut crcs = [!0_u32, 0, 0, 0];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            crcs[0] = step_word(crcs[0], u64::from_le_bytes(*a));
            crcs[1] = step_word(crcs[1], u64::from_le_bytes(*b));
            crcs[2] = step_word(crcs[2], u64::from_le_bytes(*c));
            crcs[3] = step_word(crcs[3], u64::from_le_bytes(*d));
        }
        crcs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_the_standard_come_out_of_the_instruction_and_of_the_tables() {
        let rising: Vec<u8> = (0..32).collect();
        let falling: Vec<u8> = (0..32).rev().collect();
        let cases: [(&[u8], u32); 7] = [
            (b"", 0),
            (b"a", 0xc1d0_4330),
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[255; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
            (&falling, 0x113f_db5c),
        ];
        for (bytes, expected) in cases {
            assert_eq!((crc32c(bytes), !update_tables(!0, bytes)), (expected, expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_whole_block_in_four_lanes_has_the_checksum_of_one_lane() {
        let mut state = 3_u64;
        let block: Vec<u8> = (0..BLOCK)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        assert_eq!(crc32c(&block), !update_tables(!0, &block));
        assert_ne!(crc32c(&block), crc32c(&block[1..]));
    }
}
