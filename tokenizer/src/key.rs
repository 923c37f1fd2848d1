//! Short pieces as 16-byte keys, and hashes of pieces.
//!
//! In: a range of a text. Out: `[u64; 2]` holding up to 15 bytes and their number, and 64-bit hashes. The hashes choose
//! table slots only; no output depends on them.

/// Longest piece that fits in a key, in bytes.
pub(crate) const SHORT: usize = 15;

/// `text[start..end]` as a key, or `None` if it is longer than [`SHORT`]. Reads 16 bytes at once where the text has them.
#[inline(always)]
pub(crate) fn short(text: &[u8], start: usize, end: usize) -> Option<[u64; 2]> {
    let len = end - start;
    if len > SHORT {
        return None;
    }
    let raw = match text.get(start..start + 16) {
        Some(chunk) => u128::from_le_bytes(chunk.try_into().expect("the range has 16 bytes")),
        None => {
            let mut buffer = [0; 16];
            buffer[..len].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(buffer)
        }
    };
    let key = raw & ((1_u128 << (8 * len)) - 1) | (len as u128) << 120;
    Some([key as u64, (key >> 64) as u64])
}

/// Hash of a key.
#[inline(always)]
pub(crate) fn hash(key: [u64; 2]) -> u64 {
    fold(key[0] ^ 0x9e37_79b9_7f4a_7c15, key[1] ^ 0xd1b5_4a32_d192_ed03)
}

/// Hash of any bytes.
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut state = bytes.len() as u64 ^ 0x2545_f491_4f6c_dd1d;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = fold(state ^ u64::from_le_bytes(word), 0x9e37_79b9_7f4a_7c15);
    }
    state
}

/// Asks for the cache line of `slots[at]`, so that a look a little later finds it near. Does nothing but that.
#[inline(always)]
pub(crate) fn prefetch<T>(slots: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(slot) = slots.get(at) {
        // SAFETY: a prefetch of a valid address changes nothing that a program can see.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(slot).cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slots, at);
}

/// Multiplies to 128 bits and folds the halves.
#[inline(always)]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_the_piece_alone() {
        let text = b"abcdefghijklmnopqrstuvwxyz";
        for (start, end) in [(0, 1), (2, 10), (11, 26), (25, 26), (12, 26)] {
            let alone = &text[start..end];
            assert_eq!(short(text, start, end), short(alone, 0, alone.len()));
        }
        assert_eq!(short(text, 0, 16), None);
        assert_ne!(short(b"a\0", 0, 2), short(b"a", 0, 1));
    }
}
