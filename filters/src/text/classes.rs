//! What each character is, as bits: one look into a table tells the splitter all it asks.
//!
//! In: a character. Out: its `Class`. The splitter follows spaCy's English tokenizer, so the sets of prefixes, suffixes and infixes
//! are spaCy's; symbols are datatrove's, white space and letters Python's (`str.isspace`, `str.isalpha`). We differ from spaCy for
//! cased scripts that it does not list (Armenian, Georgian): here they are letters with their case.

use std::sync::LazyLock;

use unicode_normalization::char::is_combining_mark;

use super::tables::{LETTER_NUMBERS, OTHER_SYMBOLS, PUNCTUATION, SENTENCE_MARKS, SYMBOLS, has};

/// Bits of one character, or of all characters in a run together.
pub(super) type Class = u32;

pub(super) const SPACE: Class = 1;
/// Ends a line as `str.splitlines` sees it; a line feed too.
pub(super) const BREAK: Class = 1 << 1;
pub(super) const LETTER: Class = 1 << 2;
/// 0 to 9.
pub(super) const DIGIT: Class = 1 << 3;
/// Lower case, or a letter or mark of a script without case.
pub(super) const LOWER: Class = 1 << 4;
/// Upper case, or a letter or mark of a script without case.
pub(super) const UPPER: Class = 1 << 5;
/// Is split off the beginning of a piece.
pub(super) const PREFIX: Class = 1 << 6;
/// Is split off the end of a piece.
pub(super) const SUFFIX: Class = 1 << 7;
/// Not a character of words (datatrove).
pub(super) const SYMBOL: Class = 1 << 8;
/// Ends a sentence if it stands alone.
pub(super) const SENTENCE_MARK: Class = 1 << 9;
/// General category P.
pub(super) const PUNCT: Class = 1 << 10;
/// A character of a script written without spaces.
pub(super) const SOLO: Class = 1 << 11;
pub(super) const QUOTE: Class = 1 << 12;
/// A full stop after it is a token of its own.
pub(super) const BEFORE_STOP: Class = 1 << 13;
/// General category So, or an ellipsis: a token of its own anywhere.
pub(super) const ICON: Class = 1 << 14;
/// A combining mark or joiner: belongs to the character before it.
pub(super) const MARK: Class = 1 << 15;
/// May split a piece between two letters or digits.
pub(super) const INFIX: Class = 1 << 16;
/// After a digit it is split off the end.
pub(super) const CURRENCY: Class = 1 << 17;
/// None of the 128 ASCII characters.
pub(super) const WIDE: Class = 1 << 18;
/// An ASCII letter.
pub(super) const PLAIN: Class = 1 << 19;

const QUOTES: &str = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧";
const LISTED: &str = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪";
const CURRENCIES: &str = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿";

/// The class of every character of the Basic Multilingual Plane.
static CLASSES: LazyLock<Vec<Class>> =
    LazyLock::new(|| (0..=0xFFFF).map(|code| char::from_u32(code).map_or(0, classify)).collect());

/// The table of classes, for those who look into it often.
pub(super) fn table() -> &'static [Class] {
    &CLASSES
}

/// The class of a character, given the table.
#[inline]
pub(super) fn class_of(table: &[Class], c: char) -> Class {
    table.get(c as usize).copied().unwrap_or_else(|| classify(c))
}

/// A letter to Python's `str.isalpha`.
fn is_letter(c: char) -> bool {
    c.is_alphabetic() && !is_combining_mark(c) && !has(LETTER_NUMBERS, c as u32)
}

fn classify(c: char) -> Class {
    let code = c as u32;
    let mut class = if c.is_ascii() { 0 } else { WIDE };
    let mut set = |bits: Class, holds: bool| class |= if holds { bits } else { 0 };
    set(SPACE, c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c));
    set(BREAK, matches!(c, '\n'..='\r' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}'));
    set(DIGIT, c.is_ascii_digit());
    set(PLAIN, c.is_ascii_alphabetic());
    let (letter, mark) = (is_letter(c), is_combining_mark(c));
    let uncased = (letter && !c.is_lowercase() && !c.is_uppercase()) || (mark && !('\u{300}'..='\u{36F}').contains(&c));
    set(LETTER, letter);
    set(LOWER, (letter && c.is_lowercase()) || uncased);
    set(UPPER, (letter && c.is_uppercase()) || uncased);
    set(MARK, mark || matches!(c, '\u{AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}'));
    let (icon, quote) = (has(OTHER_SYMBOLS, code), QUOTES.contains(c));
    let (listed, currency) = (LISTED.contains(c), CURRENCIES.contains(c));
    set(QUOTE, quote);
    set(CURRENCY, currency);
    set(ICON, icon || c == '…');
    set(PREFIX, icon || quote || listed || currency || "§%=—–".contains(c));
    set(SUFFIX, icon || quote || listed || "—–".contains(c));
    set(BEFORE_STOP, c.is_ascii_digit() || (letter && c.is_lowercase()) || uncased);
    set(BEFORE_STOP, quote || listed || "%²-+|".contains(c));
    set(INFIX, icon || "….+-*^,–—~:<>=/".contains(c));
    set(SYMBOL, has(SYMBOLS, code));
    set(SENTENCE_MARK, has(SENTENCE_MARKS, code));
    set(PUNCT, has(PUNCTUATION, code));
    set(SOLO, is_solo(code));
    class
}

/// Han, Hiragana, Thai, Lao, Myanmar and Khmer without their marks.
fn is_solo(code: u32) -> bool {
    matches!(code,
        0x2E80..=0x2FDF | 0x3005..=0x3007 | 0x3021..=0x3029 | 0x3038..=0x303B | 0x3041..=0x3096 | 0x309D..=0x309F
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF
        | 0x0E01..=0x0E30 | 0x0E32..=0x0E33 | 0x0E40..=0x0E46 | 0x0E81..=0x0EB0 | 0x0EB2..=0x0EB3 | 0x0EBD..=0x0EC6
        | 0x0EDC..=0x0EDF | 0x1000..=0x102A | 0x103F | 0x1050..=0x1055 | 0x105A..=0x105D | 0x1061 | 0x1065..=0x1066
        | 0x106E..=0x1070 | 0x1075..=0x1081 | 0x108E | 0x1780..=0x17B3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_what_python_and_the_tables_say() {
        for (c, bits) in [
            ('a', LETTER | LOWER | PLAIN),
            ('Z', LETTER | UPPER | PLAIN),
            ('7', DIGIT),
            ('\u{1F}', SPACE),
            ('\u{2028}', SPACE | BREAK),
            ('\u{A0}', SPACE | WIDE),
            ('。', PREFIX | SUFFIX | SENTENCE_MARK | PUNCT | SYMBOL),
            ('我', LETTER | SOLO | LOWER | UPPER),
            ('ี', MARK),
            ('©', ICON | PREFIX | SUFFIX),
            ('²', BEFORE_STOP),
        ] {
            assert_eq!(classify(c) & bits, bits, "{c:?}");
        }
        assert_eq!(classify('Ⅷ') & LETTER, 0);
        assert_eq!(classify('\u{200B}') & SPACE, 0);
        assert_eq!(classify('\u{1F}') & BREAK, 0);
        assert_eq!(class_of(table(), '𠀀') & SOLO, SOLO);
    }
}
