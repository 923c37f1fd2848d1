//! Words of a simplified text, split as FineWeb does for English (spaCy 3.8, `spacy.blank("en")`).
//!
//! In: what [`simplify`](super::simplify()) gave. Out: byte ranges of words. Only those rules are here that can still fire
//! on simplified text: contractions written without an apostrophe, units and currency behind a number, currency before
//! one, and signs, each of which is a word. For other languages datatrove uses other splitters: give their words to
//! [`FinewebShingler::shingles_of_words`](super::FinewebShingler::shingles_of_words).

use super::simplify::SIGNS;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Contractions that are split, at the bars (spaCy's English tokenizer exceptions of lower-case letters).
const CONTRACTIONS: &str = "ai|nt are|nt can|not ca|nt ca|nt|ve could|nt could|nt|ve could|ve dare|nt did|nt did|nt|ve \
    does|nt does|nt|ve do|nt do|nt|ve gon|na got|ta had|nt had|nt|ve has|nt have|nt he|d he|d|ve he|ll|ve he|s how|d \
    how|d|ve how|ll how|ll|ve how|re how|s how|ve i|d i|d|ve i|ll|ve i|m i|m|a is|nt it|d it|d|ve it|ll it|ll|ve i|ve \
    may|nt may|nt|ve might|nt might|nt|ve might|ve must|nt must|nt|ve must|ve need|nt need|nt|ve not|ve ought|nt \
    ought|nt|ve sha|nt sha|nt|ve she|d|ve she|ll|ve she|s should|nt should|nt|ve should|ve that|d that|d|ve that|ll \
    that|ll|ve that|s there|d there|d|ve there|ll there|ll|ve there|re there|s there|ve these|d these|d|ve these|ll \
    these|ll|ve these|re these|ve they|d they|d|ve they|ll they|ll|ve they|re they|ve this|d this|d|ve this|ll \
    this|ll|ve this|s those|d those|d|ve those|ll those|ll|ve those|re those|ve was|nt we|d we|d|ve we|ll|ve were|nt \
    we|ve what|d what|d|ve what|ll what|ll|ve what|re what|s what|ve when|d when|d|ve when|ll when|ll|ve when|re \
    when|s when|ve where|d where|d|ve where|ll where|ll|ve where|re where|s where|ve who|d who|d|ve who|ll who|ll|ve \
    who|s who|ve why|d why|d|ve why|ll why|ll|ve why|re why|s why|ve wo|nt wo|nt|ve would|nt would|nt|ve would|ve \
    y|all you|d you|d|ve you|ll you|ll|ve you|re you|ve";

/// Units that are split from the digit before them (spaCy's `UNITS`, those in lower case; longest first).
const UNITS: &[&str] = &[
    "اكواب",
    "kmh",
    "mph",
    "км²",
    "км³",
    "дм²",
    "дм³",
    "см²",
    "см³",
    "мм²",
    "мм³",
    "غرام",
    "جرام",
    "mbar",
    "мбар",
    "km²",
    "km³",
    "dm²",
    "dm³",
    "cm²",
    "cm³",
    "mm²",
    "mm³",
    "ملغ",
    "كوب",
    "كم²",
    "كم³",
    "سم²",
    "سم³",
    "مم²",
    "مم³",
    "km",
    "dm",
    "cm",
    "mm",
    "m²",
    "m³",
    "ha",
    "µm",
    "nm",
    "yd",
    "in",
    "ft",
    "kg",
    "mg",
    "µg",
    "lb",
    "oz",
    "mb",
    "kb",
    "gb",
    "tb",
    "км",
    "дм",
    "см",
    "мм",
    "м²",
    "м³",
    "нм",
    "кг",
    "мг",
    "кб",
    "كم",
    "سم",
    "مم",
    "جم",
    "كغ",
    "m",
    "g",
    "t",
    "м",
    "г",
    "م",
];

const CURRENCY: &str = "£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿";

/// Other characters that are words of their own at the start or the end of a piece.
const MARKS: &str = "=¿؟¡§·।،۔؛٪‘‚『』〔〕⟦⟧<>;`";

static SPLITS: LazyLock<HashMap<String, Vec<u32>>> = LazyLock::new(|| {
    let split = |word: &str| {
        let lengths = word.split('|').scan(0, |end, part| {
            *end += part.len() as u32;
            Some(*end)
        });
        (word.replace('|', ""), lengths.collect())
    };
    CONTRACTIONS.split_whitespace().map(split).collect()
});

/// For each first and last letter, the lengths of contractions that have them, as bits: most words need no look-up.
static MAY_SPLIT: LazyLock<Vec<u16>> = LazyLock::new(|| {
    let mut lengths = vec![0; 26 * 26];
    for word in SPLITS.keys() {
        lengths[ends(word.as_bytes())] |= 1 << word.len();
    }
    lengths
});

fn ends(word: &[u8]) -> usize {
    usize::from(word[0] - b'a') * 26 + usize::from(word[word.len() - 1] - b'a')
}

/// Appends the byte range of every word.
pub(super) fn english_words(simplified: &str, words: &mut Vec<(u32, u32)>) {
    words.clear();
    let may_split = &**MAY_SPLIT;
    let mut piece = |start: usize, end: usize, is_plain: bool| {
        let bytes = &simplified.as_bytes()[start..end];
        if bytes.is_empty() {
        } else if is_plain && (bytes.len() > 15 || may_split[ends(bytes)] >> bytes.len() & 1 == 0) {
            words.push((start as u32, end as u32));
        } else {
            split(&simplified[start..end], start as u32, words);
        }
    };
    let (mut start, mut is_plain) = (0, true);
    for (at, &byte) in simplified.as_bytes().iter().enumerate() {
        if byte == b' ' {
            piece(start, at, is_plain);
            (start, is_plain) = (at + 1, true);
        } else {
            is_plain &= byte.is_ascii_lowercase();
        }
    }
    piece(start, simplified.len(), is_plain);
}

fn split(piece: &str, start: u32, words: &mut Vec<(u32, u32)>) {
    let (mut from, mut to) = (0, piece.len());
    let mut behind = Vec::new();
    let word = |from: usize, to: usize| (start + from as u32, start + to as u32);
    loop {
        let rest = &piece[from..to];
        if let Some(ends) = SPLITS.get(rest) {
            let starts = std::iter::once(0).chain(ends.iter().copied());
            words.extend(starts.zip(ends).map(|(a, b)| word(from + a as usize, from + *b as usize)));
            break;
        }
        let first = rest.chars().next().filter(|l| SIGNS.has(*l) || CURRENCY.contains(*l) || MARKS.contains(*l));
        if let Some(letter) = first {
            words.push(word(from, from + letter.len_utf8()));
            from += letter.len_utf8();
        } else if let Some(length) = suffix(rest) {
            behind.push(word(to - length, to));
            to -= length;
        } else {
            inner(rest, start + from as u32, words);
            break;
        }
        if from == to {
            break;
        }
    }
    words.extend(behind.into_iter().rev());
}

/// Bytes of the suffix that is a word of its own, if there is one.
fn suffix(rest: &str) -> Option<usize> {
    let last = rest.chars().next_back()?;
    if SIGNS.has(last) || MARKS.contains(last) && !matches!(last, '=' | '§') {
        return Some(last.len_utf8());
    }
    let behind_digit = |length: usize| rest[..rest.len() - length].ends_with(|l: char| l.is_ascii_digit());
    if CURRENCY.contains(last) && behind_digit(last.len_utf8()) {
        return Some(last.len_utf8());
    }
    UNITS.iter().find(|unit| rest.ends_with(**unit) && behind_digit(unit.len())).map(|unit| unit.len())
}

/// What is left of a piece, cut around each sign in it.
fn inner(rest: &str, start: u32, words: &mut Vec<(u32, u32)>) {
    let mut from = 0;
    if !rest.is_ascii() {
        for (at, letter) in rest.char_indices().filter(|(_, l)| SIGNS.has(*l)) {
            let end = at + letter.len_utf8();
            if at > from {
                words.push((start + from as u32, start + at as u32));
            }
            words.push((start + at as u32, start + end as u32));
            from = end;
        }
    }
    if from < rest.len() {
        words.push((start + from as u32, start + rest.len() as u32));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `spacy.blank("en")` of spaCy 3.8.18 gives.
    #[test]
    fn words_are_spacys() {
        let rows: [(&str, &[&str]); 12] = [
            ("", &[]),
            ("word", &["word"]),
            ("we cannot go dont", &["we", "can", "not", "go", "do", "nt"]),
            ("0km 0m v0g 0in 0am b0b", &["0", "km", "0", "m", "v0", "g", "0", "in", "0am", "b0b"]),
            ("€0 0€ a€ £", &["€", "0", "0", "€", "a€", "£"]),
            ("©0 a©b a© ★★", &["©", "0", "a", "©", "b", "a", "©", "★", "★"]),
            ("im ima yall id", &["i", "m", "i", "m", "a", "y", "all", "i", "d"]),
            ("a  b", &["a", "b"]),
            ("你好 世界", &["你好", "世界"]),
            ("0м² 0кг", &["0", "м²", "0", "кг"]),
            ("¿que", &["¿", "que"]),
            ("हिनदी म", &["हिनदी", "म"]),
        ];
        let mut words = Vec::new();
        for (text, wanted) in rows {
            english_words(text, &mut words);
            let found: Vec<&str> = words.iter().map(|&(start, end)| &text[start as usize..end as usize]).collect();
            assert_eq!(found, wanted, "{text}");
        }
    }
}
