//! FineWeb's normalisation, as datatrove 0.10.1 does it (`simplify_text` with its default settings).
//!
//! In: a text. Out: lower case; each number `0`; a fixed list of punctuation and control characters as spaces; white space
//! collapsed; decomposed (NFD) without non-spacing marks. Unlike [`crate::normalise`] it keeps every character that is not
//! on the list, such as symbols, and takes vowel signs from Indic words. Character classes are those of the `regex-syntax`
//! and `unicode-normalization` crates; Python's may be of another Unicode version, which shows in new characters only.

use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

/// Separators that may stand between the digits of a number.
const DECIMAL: [char; 7] = ['.', ',', '،', '٫', '⎖', '⎗', '⎘'];

/// The text as FineWeb compares it.
pub fn simplify(text: &str) -> String {
    let mut out = String::new();
    simplify_into(text, &mut out);
    out
}

/// [`simplify`] into a buffer, which is cleared first.
pub(super) fn simplify_into(text: &str, out: &mut String) {
    out.clear();
    // The lower case of a capital sigma depends on its neighbours; of other letters it does not.
    let spaced = if text.contains('Σ') { spaced(&text.to_lowercase()) } else { spaced(text) };
    if spaced.is_ascii() {
        *out = spaced;
    } else {
        decomposed(&spaced, out);
    }
    // Marks can have stood alone at an end.
    out.truncate(out.trim_end().len());
    let lead = out.len() - out.trim_start().len();
    out.drain(..lead);
}

/// What an ASCII byte becomes: a letter in lower case, a digit itself, a space for all else.
const ASCII: [u8; 128] = {
    let mut table = [b' '; 128];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// Lower case, numbers, punctuation and white space; not yet decomposed.
fn spaced(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    let (mut at, mut last) = (0, b' ');
    while at < bytes.len() {
        if bytes[at].is_ascii_digit() {
            at = behind_number(text, at);
            out.push(b'0');
            last = b'0';
        } else if bytes[at].is_ascii() {
            // Up to the next digit or other letter, as in `crate::normalise`: stored always, kept or not.
            let end =
                bytes[at..].iter().position(|b| !b.is_ascii() || b.is_ascii_digit()).map_or(bytes.len(), |n| at + n);
            let start = out.len();
            out.resize(start + end - at, 0);
            let (room, mut used) = (&mut out[start..], 0);
            for &byte in &bytes[at..end] {
                let written = ASCII[usize::from(byte & 127)];
                room[used] = written;
                used += usize::from(written != b' ' || last != b' ');
                last = written;
            }
            out.truncate(start + used);
            at = end;
        } else {
            let letter = text[at..].chars().next().expect("the loop ends at the end of the text");
            let end = at + letter.len_utf8();
            if is_space(letter) {
                if last != b' ' {
                    out.push(b' ');
                }
                last = b' ';
            } else if DIGITS.has(letter) {
                out.push(b'0');
                last = b'0';
            } else {
                for lower in letter.to_lowercase() {
                    out.extend_from_slice(lower.encode_utf8(&mut [0; 4]).as_bytes());
                }
                last = b'a';
            }
            at = if DIGITS.has(letter) { behind_number(text, at) } else { end };
        }
    }
    String::from_utf8(out).expect("only whole characters were written")
}

/// Where the number that starts at `at` ends: digits, and if a separator and more digits follow, those.
fn behind_number(text: &str, at: usize) -> usize {
    let digits = |from: usize| text[from..].find(|l| !is_digit(l)).map_or(text.len(), |n| from + n);
    let end = digits(at);
    let separator = text[end..].chars().next().filter(|l| DECIMAL.contains(l)).map_or(0, char::len_utf8);
    if separator > 0 {
        Some(digits(end + separator)).filter(|more| *more > end + separator).unwrap_or(end)
    } else {
        end
    }
}

/// White space beyond ASCII, or punctuation that is taken for it.
fn is_space(letter: char) -> bool {
    match letter {
        '\u{80}'..='\u{9f}' => true,
        '«' | '»' | '´' | '–' | '—' | '’' | '“' | '”' | '„' | '…' | '∶' | '━' | '►' => true,
        '、' | '。' | '〈' | '〉' | '《' | '》' | '「' | '」' | '【' | '】' => true,
        '！' | '％' | '（' | '）' | '，' | '．' | '：' | '；' | '？' | '～' => true,
        _ => letter.is_whitespace(),
    }
}

fn decomposed(spaced: &str, out: &mut String) {
    // Characters that are their own decomposition part runs; all of a run is decomposed together.
    let is_itself = |letter: char| letter.is_ascii() || matches!(letter, '\u{4e00}'..='\u{9fff}');
    let mut rest = spaced;
    while !rest.is_empty() {
        let ascii = rest.bytes().position(|byte| !byte.is_ascii()).unwrap_or(rest.len());
        let plain = ascii + rest[ascii..].find(|letter| !is_itself(letter)).unwrap_or(rest.len() - ascii);
        out.push_str(&rest[..plain]);
        rest = &rest[plain..];
        let run = rest.find(is_itself).unwrap_or(rest.len());
        out.extend(rest[..run].nfd().filter(|l| !NON_SPACING.has(*l)));
        rest = &rest[run..];
    }
}

fn is_digit(letter: char) -> bool {
    if letter.is_ascii() { letter.is_ascii_digit() } else { DIGITS.has(letter) }
}

/// General category Nd.
static DIGITS: LazyLock<Class> = LazyLock::new(|| Class::new(r"\p{Nd}"));
/// General category Mn.
static NON_SPACING: LazyLock<Class> = LazyLock::new(|| Class::new(r"\p{Mn}"));
/// General category So: emoji and other signs, each of which is a word.
pub(super) static SIGNS: LazyLock<Class> = LazyLock::new(|| Class::new(r"\p{So}"));

/// A set of characters: one bit for each of the basic plane, ranges beyond.
pub(super) struct Class {
    basic: Vec<u64>,
    beyond: Vec<(char, char)>,
}

impl Class {
    fn new(pattern: &str) -> Self {
        let parsed = regex_syntax::parse(pattern).expect("the pattern is a constant and valid");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = parsed.kind() else {
            unreachable!("the pattern is a class of characters")
        };
        let mut basic = vec![0; 0x1_0000 / 64];
        for range in class.ranges() {
            for point in range.start() as usize..=(range.end() as usize).min(0xffff) {
                basic[point / 64] |= 1 << (point % 64);
            }
        }
        let beyond = class.ranges().iter().filter(|range| range.end() > '\u{ffff}');
        Self { basic, beyond: beyond.map(|range| (range.start(), range.end())).collect() }
    }

    pub(super) fn has(&self, letter: char) -> bool {
        let point = letter as usize;
        if point < 0x1_0000 {
            return self.basic[point / 64] >> (point % 64) & 1 == 1;
        }
        let after = self.beyond.partition_point(|&(start, _)| start <= letter);
        after > 0 && letter <= self.beyond[after - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What datatrove 0.10.1's `simplify_text` gives for the same texts; more in `tests/parity/minhash`.
    #[test]
    fn texts_are_simplified_as_by_datatrove() {
        let rows = [
            ("", ""),
            ("Word", "word"),
            ("  Hello,\tWORLD!\n\n", "hello world"),
            ("1.2.3 and 3,14 in 1999", "0 0 and 0 in 0"),
            ("1. 2", "0 0"),
            ("v2.b", "v0 b"),
            ("Crème Brûlée", "creme brulee"),
            ("don't_stop", "don t stop"),
            ("हिन्दी में", "हिनदी म"),
            ("٣٫٥ ½ ²", "0 ½ ²"),
            ("你好，世界", "你好 世界"),
            ("１２", "0"),
            ("ΌΣΑΣ ΑΣ", "οσας ας"),
            ("a \u{301} b \u{301}", "a  b"),
            ("© 2024 €5", "© 0 €0"),
        ];
        for (text, wanted) in rows {
            assert_eq!(simplify(text), wanted, "{text}");
        }
    }

    #[test]
    fn numbers_end_where_a_second_separator_stands() {
        let text = "A 1.5 b-c 2,x ..3 (d) \x07 4.4.4 5٫6,7 ٣،1é2. ";
        assert_eq!(simplify(text), "a 0 b c 0 x 0 d 0 0 0 0 0e0");
    }

    #[test]
    fn classes_hold_characters_of_all_planes() {
        assert!(SIGNS.has('©') && SIGNS.has('\u{1f600}') && !SIGNS.has('\u{20000}') && !SIGNS.has('a'));
        assert!(DIGITS.has('٣') && DIGITS.has('\u{1d7ce}') && !DIGITS.has('½'));
    }
}
