//! When two texts count as the same: exactly, and for comparing shingles.
//!
//! In: a text. Out: a normalised text, or a 128-bit key. Left to others: splitting into words.
//! The normalisation is FineWeb's (datatrove `utils/text.py`: lower case, numbers to 0, punctuation to space, white space
//! collapsed, NFD with marks removed); we differ in taking every character that is neither letter, digit nor mark as
//! punctuation, and in keeping marks that are letters in their script (combining class 0, such as Devanagari vowels).

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfc_quick};
use xxhash_rust::xxh3::xxh3_128;

/// 128-bit key of the text as it is, byte for byte.
pub fn text_hash(text: &str) -> u128 {
    xxh3_128(text.as_bytes())
}

/// 128-bit key that is equal for texts that are equal after runs of white space become one space (none at the ends) and
/// Unicode form NFC.
pub fn exact_key(text: &str) -> u128 {
    let (spaced, is_composed) = spaced(text);
    if is_composed {
        return xxh3_128(spaced.as_bytes());
    }
    let mut composed = String::with_capacity(spaced.len());
    for (index, word) in spaced.split(' ').enumerate() {
        if index > 0 {
            composed.push(' ');
        }
        if word.is_ascii() || is_nfc_quick(word.chars()) == IsNormalized::Yes {
            composed.push_str(word);
        } else {
            composed.extend(word.nfc());
        }
    }
    xxh3_128(composed.as_bytes())
}

/// The text with one space for each run of white space, none at the ends; and whether it is certainly in form NFC.
fn spaced(text: &str) -> (String, bool) {
    let mut is_composed = true;
    let mut bytes = Vec::with_capacity(text.len());
    let (mut last, mut rest) = (b' ', text);
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        last = push_ascii::<false>(&rest.as_bytes()[..ascii], &SPACED, last, &mut bytes);
        rest = &rest[ascii..];
        let other = rest.bytes().position(|byte| byte.is_ascii()).unwrap_or(rest.len());
        is_composed = is_composed && is_nfc_quick(rest[..other].chars()) == IsNormalized::Yes;
        for letter in rest[..other].chars() {
            if !letter.is_whitespace() {
                bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                last = b'a';
            } else if last != b' ' {
                bytes.push(b' ');
                last = b' ';
            }
        }
        rest = &rest[other..];
    }
    if bytes.last() == Some(&b' ') {
        bytes.pop();
    }
    (String::from_utf8(bytes).expect("only whole characters were written"), is_composed)
}

/// The text as it is compared: lower case, each run of digits `0`, letters without accents, everything else one space.
pub fn normalise(text: &str) -> String {
    let mut out = String::new();
    normalise_into(text, &mut out);
    out
}

/// [`normalise`] into a buffer, which is cleared first.
pub(crate) fn normalise_into(text: &str, out: &mut String) {
    out.clear();
    let mut bytes = std::mem::take(out).into_bytes();
    // What was written last; a space at the start, so that none is written there.
    let mut last = b' ';
    let mut rest = text;
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        last = push_ascii::<true>(&rest.as_bytes()[..ascii], &COMPARED, last, &mut bytes);
        rest = &rest[ascii..];
        let other = rest.bytes().position(|byte| byte.is_ascii()).unwrap_or(rest.len());
        for letter in rest[..other].chars() {
            last = push_other(letter, last, &mut bytes);
        }
        rest = &rest[other..];
    }
    if bytes.last() == Some(&b' ') {
        bytes.pop();
    }
    *out = String::from_utf8(bytes).expect("only whole characters were written");
}

/// What an ASCII byte is compared as: a letter in lower case, [`DIGIT`] for a digit, a space for all else.
const COMPARED: [u8; 256] = {
    let mut table = [b' '; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphabetic() {
            table[byte as usize] = byte.to_ascii_lowercase();
        } else if byte.is_ascii_digit() {
            table[byte as usize] = DIGIT;
        }
        byte += 1;
    }
    table
};

/// What an ASCII byte is for [`exact_key`]: itself, white space a space.
const SPACED: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = if byte >= b'\t' as usize && byte <= b'\r' as usize { b' ' } else { byte as u8 };
        byte += 1;
    }
    table
};

/// Stands for a run of digits while [`COMPARED`] is written.
const DIGIT: u8 = b'0';

/// Writes a stretch of ASCII as `table` says; returns what was written last. A space is not written behind a space, with
/// `DIGITS` nor a digit behind a digit: the byte is stored in any case and the end moved or not, because a branch here is
/// mispredicted at every word.
fn push_ascii<const DIGITS: bool>(ascii: &[u8], table: &[u8; 256], mut last: u8, out: &mut Vec<u8>) -> u8 {
    let start = out.len();
    out.resize(start + ascii.len(), 0);
    let (room, mut end) = (&mut out[start..], 0);
    for &byte in ascii {
        let written = table[usize::from(byte)];
        room[end] = written;
        // In `COMPARED` nothing but a space is below a digit.
        let is_single = if DIGITS { written <= DIGIT } else { written == b' ' };
        end += usize::from(written != last || !is_single);
        last = written;
    }
    out.truncate(start + end);
    last
}

fn push(written: char, last: u8, out: &mut Vec<u8>) -> u8 {
    match written {
        ' ' | '0' => {
            if last != written as u8 {
                out.push(written as u8);
            }
            written as u8
        }
        _ => {
            out.extend_from_slice(written.encode_utf8(&mut [0; 4]).as_bytes());
            b'a'
        }
    }
}

fn push_other(letter: char, mut last: u8, out: &mut Vec<u8>) -> u8 {
    // Han and Hangul have no case and no accents, and decomposing them costs most of the time.
    if matches!(letter, '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}') {
        return push(letter, last, out);
    }
    for letter in letter.to_lowercase().nfd() {
        last = match letter {
            _ if canonical_combining_class(letter) != 0 => last,
            _ if letter.is_numeric() => push('0', last, out),
            _ if is_letter(letter) => push(letter, last, out),
            _ => push(' ', last, out),
        };
    }
    last
}

/// Letters, and the marks of combining class 0 that belong to a word.
fn is_letter(letter: char) -> bool {
    letter.is_alphabetic() || unicode_normalization::char::is_combining_mark(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised() {
        let rows = [
            ("", ""),
            ("word", "word"),
            ("  Hello,\tWORLD! ", "hello world"),
            ("in 1999 and 3.14", "in 0 and 0 0"),
            ("v2beta10", "v0beta0"),
            ("Crème Brûlée", "creme brulee"),
            ("İstanbul ΌΣΑ", "istanbul οσα"),
            ("«你好»，世界！", "你好 世界"),
            ("हिन्दी में", "हिनदी में"),
            ("한국어 12", "한국어 0"),
            ("٣٤ ½", "0 0"),
            ("don't stop", "don t stop"),
            ("!!! --- ...", ""),
            ("emoji \u{1f600} here", "emoji here"),
        ];
        for (text, wanted) in rows {
            assert_eq!(normalise(text), wanted, "{text}");
            assert_eq!(normalise(&normalise(text)), wanted, "twice: {text}");
        }
    }

    #[test]
    fn exact_keys_see_through_white_space_and_unicode_form_only() {
        assert_eq!(exact_key(" a\u{a0}b\nc "), exact_key("a b c"));
        assert_eq!(exact_key("caf\u{e9}"), exact_key("cafe\u{301}"));
        assert_eq!(exact_key(""), exact_key(" \n"));
        assert_eq!(exact_key("a b"), xxh3_128(b"a b"));
        for other in ["a bc", "ab c", "A b c", "a b, c", ""] {
            assert_ne!(exact_key("a b c"), exact_key(other), "{other}");
        }
        assert_ne!(text_hash("a b"), text_hash("a  b"));
    }
}
