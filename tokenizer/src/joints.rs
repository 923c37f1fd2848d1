//! Places inside a piece that no token can cross.
//!
//! In: two characters that follow each other in a text. Out: can a token hold the last byte of the first and the first byte
//! of the second? Where none can, no merge ever crosses, so the piece can be cut there and both halves merged alone. That
//! turns a sentence without spaces into short segments, which repeat where sentences do not. Asked only where one of the two
//! characters is beyond ASCII. Bits are chosen by a hash: a "yes" can be wrong and costs time, a "no" is certain.

use crate::key;

/// Bit sets by hash.
#[derive(Clone, Debug)]
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// For about `n` entries: at most one bit in sixteen is set.
    fn for_entries(n: usize) -> Self {
        Self { words: vec![0; (n * 16).next_power_of_two().max(1024) / 64] }
    }

    #[inline(always)]
    fn place(&self, left: u32, right: u32) -> (usize, u32) {
        let hash = key::fold((u64::from(left) << 32 | u64::from(right)) ^ 0x2545_f491_4f6c_dd1d, 0x9e37_79b9_7f4a_7c15);
        ((hash >> 6) as usize & (self.words.len() - 1), hash as u32 & 63)
    }

    fn set(&mut self, left: u32, right: u32) {
        let (word, bit) = self.place(left, right);
        self.words[word] |= 1 << bit;
    }

    #[inline(always)]
    fn get(&self, left: u32, right: u32) -> bool {
        let (word, bit) = self.place(left, right);
        self.words[word] >> bit & 1 != 0
    }
}

/// Which neighbours tokens hold together. A character is the number whose little-endian bytes are its UTF-8.
#[derive(Clone, Debug)]
pub(crate) struct Joints {
    /// What a token holds of the two characters; the left or the right one can be a part.
    pairs: Bits,
    /// Characters after which a token ends inside the next one.
    cut_right: Bits,
    /// Characters before which a token begins inside the one before.
    cut_left: Bits,
    /// (last byte of the left, first byte of the right) of tokens that hold a part of both.
    cut_both: Bits,
}

impl Joints {
    /// Learns from all tokens that a merge can make.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = &'t [u8]> + Clone) -> Self {
        let entries = tokens.clone().flat_map(crossings).count();
        let mut joints = Self {
            pairs: Bits::for_entries(entries),
            cut_right: Bits::for_entries(entries / 4),
            cut_left: Bits::for_entries(entries / 4),
            cut_both: Bits::for_entries(1024),
        };
        for (left, right) in tokens.flat_map(crossings) {
            let part_of_left = left[0] & 0xc0 == 0x80;
            let part_of_right = right.len() < char_len(right[0]);
            let (l, r) = (number(left), number(right));
            joints.pairs.set(l, r);
            match (part_of_left, part_of_right) {
                (false, false) => {}
                (false, true) => joints.cut_right.set(l, 0),
                (true, false) => joints.cut_left.set(0, r),
                (true, true) => joints.cut_both.set(l >> (8 * (left.len() - 1)), r & 0xff),
            }
        }
        joints
    }

    /// Can a token cross from character `left` to character `right`?
    #[inline]
    pub(crate) fn can_cross(&self, left: u32, right: u32) -> bool {
        let (left_len, right_len) = (char_len(left as u8), char_len(right as u8));
        if self.pairs.get(left, right) {
            return true;
        }
        if self.cut_right.get(left, 0) && (1..right_len).any(|n| self.pairs.get(left, right & low_bytes(n))) {
            return true;
        }
        if self.cut_left.get(0, right) && (1..left_len).any(|n| self.pairs.get(left >> (8 * n), right)) {
            return true;
        }
        left_len > 1 && right_len > 1 && self.cut_both.get(left >> (8 * (left_len - 1)), right & 0xff)
    }
}

/// The bytes of the character that starts at `i` as a number, and how many they are.
#[inline(always)]
pub(crate) fn char_at(text: &[u8], i: usize) -> (u32, usize) {
    let len = char_len(text[i]);
    match text.get(i..i + 4) {
        Some(bytes) => (u32::from_le_bytes(bytes.try_into().expect("the range has 4 bytes")) & low_bytes(len), len),
        None => (number(&text[i..i + len]), len),
    }
}

#[inline(always)]
fn low_bytes(n: usize) -> u32 {
    u32::MAX >> (32 - 8 * n)
}

/// Length of a character by its first byte.
#[inline(always)]
fn char_len(first: u8) -> usize {
    match first {
        ..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

/// For each character that starts inside the token: what it holds of the character before and of this one.
fn crossings(token: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let starts = |byte: u8| byte & 0xc0 != 0x80;
    (1..token.len()).filter(move |&i| starts(token[i])).filter_map(move |i| {
        let from = token[..i].iter().rposition(|&byte| starts(byte)).unwrap_or(0);
        let (left, right) = (&token[from..i], &token[i..token.len().min(i + char_len(token[i]))]);
        // Longer than a character: no text has that.
        (left.len() <= 4 && !(left.is_ascii() && right.is_ascii())).then_some((left, right))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_crosses_where_the_answer_is_no() {
        let mut state = 1_u64;
        let mut noise = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
            (state >> 40) as usize % n
        };
        let alphabet: Vec<char> = "abé–漢字かのЯж😀👍\u{301}".chars().collect();
        // Tokens are ranges of bytes, so they begin and end inside characters too.
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        for _ in 0..60 {
            let text: String = (0..4).map(|_| alphabet[noise(alphabet.len())]).collect();
            let from = noise(text.len() - 1);
            let to = from + 1 + noise(text.len() - from);
            tokens.push(text.as_bytes()[from..to].to_vec());
        }
        let joints = Joints::new(tokens.iter().map(Vec::as_slice));
        let (mut no, mut yes) = (0, 0);
        for _ in 0..400 {
            let text: String = (0..30).map(|_| alphabet[noise(alphabet.len())]).collect();
            let bytes = text.as_bytes();
            let mut before = char_at(bytes, 0).0;
            for (i, _) in text.char_indices().skip(1) {
                let (c, _) = char_at(bytes, i);
                let ascii = before < 0x80 && c < 0x80;
                let crosses = |token: &Vec<u8>| {
                    (1..token.len())
                        .any(|k| k <= i && bytes[..i].ends_with(&token[..k]) && bytes[i..].starts_with(&token[k..]))
                };
                if !ascii && !joints.can_cross(before, c) {
                    assert!(!tokens.iter().any(crosses), "{text} at {i}");
                    no += 1;
                } else {
                    yes += 1;
                }
                before = c;
            }
        }
        assert!(no > 3000 && yes > 100, "{no} {yes}");
    }
}
