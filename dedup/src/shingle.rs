//! Shingles: a text as the set of its word n-grams, and how similar two sets are.
//!
//! In: a text. Out: its shingles as sorted unique 64-bit hashes. Left to others: signatures.
//! Broder 1997. Words are separated by spaces; in scripts written without spaces each character is a word.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::normalise::normalise_into;

/// Seed of the shingle hash; part of the format of side files.
const SHINGLE_SEED: u64 = 0x6772_6973_746d_696c; // "gristmil"

/// Turns texts into shingle sets, reusing its buffers.
#[derive(Clone, Debug)]
pub struct Shingler {
    ngram: usize,
    normalised: String,
    /// Where each word starts and ends in `normalised`, bytes.
    words: Vec<(u32, u32)>,
}

impl Shingler {
    /// For shingles of `ngram` words; 0 is taken as 1.
    pub fn new(ngram: usize) -> Self {
        Self { ngram: ngram.max(1), normalised: String::new(), words: Vec::new() }
    }

    /// Hashes of all runs of `ngram` words of the normalised text, sorted, without repeats. A text with fewer words has
    /// one shingle, all its words; a text without words has none.
    pub fn shingles(&mut self, text: &str) -> Vec<u64> {
        // Offsets are 32-bit; normalised text is at most three times as long as the text.
        assert!(text.len() < 1 << 30, "a text of {} bytes is not one document", text.len());
        normalise_into(text, &mut self.normalised);
        split_words(&self.normalised, &mut self.words);
        if self.words.is_empty() {
            return Vec::new();
        }
        let bytes = self.normalised.as_bytes();
        // Words lie side by side, so a shingle is one slice, from the start of its first word to the end of its last.
        let grams = self.words.windows(self.ngram.min(self.words.len()));
        let slices = grams.map(|words| &bytes[words[0].0 as usize..words[words.len() - 1].1 as usize]);
        let mut hashes: Vec<u64> = slices.map(|slice| xxh3_64_with_seed(slice, SHINGLE_SEED)).collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// How many words the last text had.
    pub fn words(&self) -> usize {
        self.words.len()
    }

    /// The last text as it was compared; see [`normalise`](crate::normalise()).
    pub fn normalised(&self) -> &str {
        &self.normalised
    }
}

/// The shingles of one text; see [`Shingler::shingles`].
pub fn shingles(text: &str, ngram: usize) -> Vec<u64> {
    Shingler::new(ngram).shingles(text)
}

/// Share of shingles that two sorted unique lists have in common, |A ∩ B| / |A ∪ B|, 0..1; 1 for two empty lists.
pub fn jaccard(a: &[u64], b: &[u64]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0_usize);
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        common += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let union = a.len() + b.len() - common;
    if union == 0 { 1.0 } else { common as f64 / union as f64 }
}

pub(crate) fn split_words(normalised: &str, words: &mut Vec<(u32, u32)>) {
    words.clear();
    let (mut start, mut is_ascii) = (0, true);
    for (at, &byte) in normalised.as_bytes().iter().enumerate() {
        is_ascii &= byte < 128;
        if byte == b' ' {
            push_word(normalised, start, at, is_ascii, words);
            (start, is_ascii) = (at + 1, true);
        }
    }
    push_word(normalised, start, normalised.len(), is_ascii, words);
}

fn push_word(normalised: &str, start: usize, end: usize, is_ascii: bool, words: &mut Vec<(u32, u32)>) {
    if start == end {
        return;
    }
    if is_ascii {
        words.push((start as u32, end as u32));
    } else {
        split_unspaced(&normalised[start..end], start as u32, words);
    }
}

/// Splits a part without spaces before and after each character of an unspaced script.
fn split_unspaced(part: &str, start: u32, words: &mut Vec<(u32, u32)>) {
    let mut word_start = 0;
    for (at, letter) in part.char_indices() {
        if is_unspaced(letter) {
            if at > word_start {
                words.push((start + word_start as u32, start + at as u32));
            }
            let end = at + letter.len_utf8();
            words.push((start + at as u32, start + end as u32));
            word_start = end;
        }
    }
    if part.len() > word_start {
        words.push((start + word_start as u32, start + part.len() as u32));
    }
}

/// Han, Hiragana, Katakana, Thai, Lao, Myanmar, Khmer and Tibetan.
pub(crate) fn is_unspaced(letter: char) -> bool {
    matches!(letter,
        '\u{0e00}'..='\u{0fff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}'
        | '\u{20000}'..='\u{323af}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), SHINGLE_SEED)
    }

    fn set(parts: &[&str]) -> Vec<u64> {
        let mut hashes: Vec<u64> = parts.iter().map(|part| hash(part)).collect();
        hashes.sort_unstable();
        hashes
    }

    #[test]
    fn shingles_are_the_runs_of_words() {
        let rows: [(&str, usize, &[&str]); 8] = [
            ("", 5, &[]),
            ("?!", 5, &[]),
            ("Word", 5, &["word"]),
            ("one, two three", 5, &["one two three"]),
            ("a b c d", 3, &["a b c", "b c d"]),
            ("a b a b a", 2, &["a b", "b a"]),
            ("你好 世界x", 2, &["你好", "好 世", "世界", "界x"]),
            ("สวัส", 0, &["ส", "ว"]),
        ];
        for (text, ngram, wanted) in rows {
            let found = shingles(text, ngram);
            if text == "สวัส" {
                assert!(found.contains(&hash("ส")) && found.contains(&hash("ว")));
            } else {
                assert_eq!(found, set(wanted), "{text}");
            }
        }
    }

    #[test]
    fn a_shingler_gives_the_same_for_every_text_in_any_order() {
        let mut shingler = Shingler::new(3);
        for text in ["a long text that fills the buffers 1 2 3", "", "short", "你好世界", "a b"] {
            assert_eq!(shingler.shingles(text), shingles(text, 3));
        }
    }

    #[test]
    fn jaccard_counts_shared_shingles() {
        let rows: [(&[u64], &[u64], f64); 6] = [
            (&[], &[], 1.0),
            (&[], &[1], 0.0),
            (&[1, 2, 3], &[1, 2, 3], 1.0),
            (&[1, 2, 3], &[2, 3, 4], 0.5),
            (&[1, 9], &[2, 3, 4], 0.0),
            (&[1], &[0, 1, 2, 3], 0.25),
        ];
        for (a, b, wanted) in rows {
            assert_eq!((jaccard(a, b), jaccard(b, a)), (wanted, wanted), "{a:?} {b:?}");
        }
    }
}
