//! SHA-1 (FIPS 180-4), for signatures as FineWeb made them. Not for security.
//!
//! Two forms of one function, chosen at run time: plain, and with the CPU's SHA instructions, which is four times as fast.

const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// The first eight bytes of the digest, little-endian.
pub(super) fn sha1_64(message: &[u8]) -> u64 {
    let mut state = START;
    let (blocks, rest) = message.as_chunks::<64>();
    compress(&mut state, blocks);
    // The rest, one bit, zeros, and the length in bits: one block or two.
    let mut tail = [0; 128];
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let end = if rest.len() < 56 { 64 } else { 128 };
    tail[end - 8..end].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    compress(&mut state, tail[..end].as_chunks::<64>().0);
    u64::from(state[0].swap_bytes()) | u64::from(state[1].swap_bytes()) << 32
}

fn compress(state: &mut [u32; 5], blocks: &[[u8; 64]]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("sha") && std::arch::is_x86_feature_detected!("sse4.1") {
        // SAFETY: the CPU has SHA and SSE 4.1 (and so SSSE3), which is all that the function asks for.
        return unsafe { compress_sha(state, blocks) };
    }
    blocks.iter().for_each(|block| compress_plain(state, block));
}

fn compress_plain(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..80 {
        words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (at, word) in words.iter().enumerate() {
        let (mixed, constant) = match at {
            0..20 => ((b & c) | (!b & d), 0x5a82_7999),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6_u32),
        };
        let next = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(*word);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    for (sum, value) in state.iter_mut().zip([a, b, c, d, e]) {
        *sum = sum.wrapping_add(value);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn compress_sha(state: &mut [u32; 5], blocks: &[[u8; 64]]) {
    use std::arch::x86_64::*;
    // Lane 3 holds the first of four words, as the instructions want it.
    let [a, b, c, d, e] = state.map(u32::cast_signed);
    let (mut abcd, mut e) = (_mm_set_epi32(a, b, c, d), _mm_set_epi32(e, 0, 0, 0));
    for block in blocks {
        let mut words = [_mm_setzero_si128(); 20];
        for (word, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
            let [w0, w1, w2, w3] =
                [0, 4, 8, 12].map(|at| i32::from_be_bytes(*bytes[at..].first_chunk().expect("four bytes")));
            *word = _mm_set_epi32(w0, w1, w2, w3);
        }
        for at in 4..20 {
            let mixed = _mm_xor_si128(_mm_sha1msg1_epu32(words[at - 4], words[at - 3]), words[at - 2]);
            words[at] = _mm_sha1msg2_epu32(mixed, words[at - 1]);
        }
        let (start, mut last) = (abcd, abcd);
        for (at, word) in words.iter().enumerate() {
            let with_e = if at == 0 { _mm_add_epi32(e, *word) } else { _mm_sha1nexte_epu32(last, *word) };
            last = abcd;
            abcd = match at / 5 {
                0 => _mm_sha1rnds4_epu32::<0>(abcd, with_e),
                1 => _mm_sha1rnds4_epu32::<1>(abcd, with_e),
                2 => _mm_sha1rnds4_epu32::<2>(abcd, with_e),
                _ => _mm_sha1rnds4_epu32::<3>(abcd, with_e),
            };
        }
        (abcd, e) = (_mm_add_epi32(abcd, start), _mm_sha1nexte_epu32(last, e));
    }
    let lanes = [_mm_extract_epi32::<3>(abcd), _mm_extract_epi32::<2>(abcd), _mm_extract_epi32::<1>(abcd)];
    let more = [_mm_extract_epi32::<0>(abcd), _mm_extract_epi32::<3>(e)];
    *state = [lanes[0], lanes[1], lanes[2], more[0], more[1]].map(i32::cast_unsigned);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests of hashlib.sha1, first eight bytes.
    #[test]
    fn digests_are_those_of_the_standard() {
        let rows = [
            (String::new(), "da39a3ee5e6b4b0d"),
            ("abc".into(), "a9993e364706816a"),
            ("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".into(), "84983e441c3bd26e"),
            ("a".repeat(1_000_000), "34aa973cd4c4daa4"),
        ];
        for (message, wanted) in rows {
            let found: String = sha1_64(message.as_bytes()).to_le_bytes().map(|byte| format!("{byte:02x}")).concat();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn both_forms_give_the_same_state() {
        for seed in 0..50_u8 {
            let blocks: Vec<[u8; 64]> = (0..seed % 4)
                .map(|n| std::array::from_fn(|at| seed.wrapping_mul(37) ^ n ^ (at as u8).wrapping_mul(91)))
                .collect();
            let (mut plain, mut chosen) = (START, START);
            blocks.iter().for_each(|block| compress_plain(&mut plain, block));
            compress(&mut chosen, &blocks);
            assert_eq!(chosen, plain);
        }
    }
}
