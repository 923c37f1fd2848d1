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

/// What becomes a space besides white space, beyond ASCII; in ASCII it is all punctuation and control characters.
const PUNCTUATION: &str = "«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～";

/// The text as FineWeb compares it.
pub fn simplify(text: &str) -> String {
    let mut out = String::new();
    simplify_into(text, &mut out);
    out
}

/// [`simplify`] into a buffer, which is cleared first.
pub(super) fn simplify_into(text: &str, out: &mut String) {
    out.clear();
    out.reserve(text.len());
    if text.is_ascii() {
        spaced_ascii(text.as_bytes(), out);
    } else {
        // Lower case of a whole text: the form of a final sigma depends on its neighbours.
        let mut spaced = String::with_capacity(text.len());
        spaced_letters(&text.to_lowercase(), &mut spaced);
        decomposed(&spaced, out);
    }
    // Marks can have stood alone at the end.
    out.truncate(out.trim_end().len());
    let lead = out.len() - out.trim_start().len();
    out.drain(..lead);
}

fn spaced_ascii(text: &[u8], out: &mut String) {
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        at += 1;
        if byte.is_ascii_alphabetic() {
            out.push(char::from(byte.to_ascii_lowercase()));
        } else if byte.is_ascii_digit() {
            let digits = |from: usize| text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
            at += digits(at);
            if at + 1 < text.len() && matches!(text[at], b'.' | b',') && text[at + 1].is_ascii_digit() {
                at += 1 + digits(at + 1);
            }
            out.push('0');
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
}

fn spaced_letters(lower: &str, out: &mut String) {
    let mut letters = lower.chars().peekable();
    while let Some(letter) = letters.next() {
        if is_digit(letter) {
            while letters.next_if(|l| is_digit(*l)).is_some() {}
            let mut ahead = letters.clone();
            if ahead.next().is_some_and(|l| DECIMAL.contains(&l)) && ahead.next().is_some_and(is_digit) {
                letters = ahead;
                while letters.next_if(|l| is_digit(*l)).is_some() {}
            }
            out.push('0');
        } else if !is_space(letter) {
            out.push(letter);
        } else if !out.is_empty() && !out.ends_with(' ') {
            out.push(' ');
        }
    }
    out.truncate(out.trim_end().len());
}

/// White space, or punctuation that is taken for it.
fn is_space(letter: char) -> bool {
    match letter {
        '\0'..='\u{7f}' => !letter.is_ascii_alphanumeric(),
        '\u{80}'..='\u{9f}' => true,
        _ => letter.is_whitespace() || PUNCTUATION.contains(letter),
    }
}

fn decomposed(spaced: &str, out: &mut String) {
    // Characters that are their own decomposition end a run; all between is decomposed together.
    let mut run = 0;
    for (at, letter) in spaced.char_indices() {
        if letter.is_ascii() || matches!(letter, '\u{4e00}'..='\u{9fff}') {
            out.extend(spaced[run..at].nfd().filter(|l| !NON_SPACING.has(*l)));
            out.push(letter);
            run = at + letter.len_utf8();
        }
    }
    out.extend(spaced[run..].nfd().filter(|l| !NON_SPACING.has(*l)));
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
    fn ascii_and_other_texts_take_the_same_way() {
        let text = "A 1.5 b-c 2,x ..3 (d) \x07 4.4.4";
        let (mut ascii, mut letters) = (String::new(), String::new());
        spaced_ascii(text.as_bytes(), &mut ascii);
        spaced_letters(&text.to_lowercase(), &mut letters);
        assert_eq!(ascii.trim_end(), letters);
    }

    #[test]
    fn classes_hold_characters_of_all_planes() {
        assert!(SIGNS.has('©') && SIGNS.has('\u{1f600}') && !SIGNS.has('\u{20000}') && !SIGNS.has('a'));
        assert!(DIGITS.has('٣') && DIGITS.has('\u{1d7ce}') && !DIGITS.has('½'));
    }
}
