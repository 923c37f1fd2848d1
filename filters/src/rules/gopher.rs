//! `gopher_quality`: does a text look like prose.
//!
//! In: a text and its tokens. Out: counts whose quotients the rules compare.
//! Rae et al. 2021, "Scaling Language Models" (Gopher), appendix A1.1. As datatrove 0.10.1: lengths are of words that are not
//! symbols, shares are of all words; distinct stop words are counted (the paper and DCLM count occurrences), case-sensitive;
//! U+2022 and `-` are bullets; a word is a symbol if all its characters are in datatrove's list of punctuation, which lacks bullets,
//! arrows and emoji. `stop_word_count` is the other reading of the paper, that of DCLM.

use crate::text::{Tokens, is_space};
use memchr::{memchr_iter, memmem};
use xxhash_rust::xxh3::xxh3_64;

use super::repetition::Share;

/// Gopher's stop words.
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// What the rules compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Quality {
    /// Words that are not symbols.
    pub words: usize,
    /// Characters of those words, per word.
    pub word_chars: Share,
    /// `#`, per word.
    pub hashes: Share,
    /// `...` and U+2026, per word.
    pub ellipses: Share,
    /// Lines that begin with a bullet.
    pub bullet_lines: Share,
    /// Lines that end with an ellipsis.
    pub ellipsis_lines: Share,
    /// Words with a letter.
    pub alphabetic: Share,
    /// Stop words that occur, each counted once.
    pub stop_words: usize,
    /// Occurrences of stop words.
    pub stop_word_count: usize,
}

/// Words that prose cannot do without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StopWords {
    /// Hashes, sorted.
    hashes: Vec<u64>,
    /// One bit for each hash, by its lowest six bits: most words are turned away here.
    filter: u64,
}

impl StopWords {
    pub(super) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hashes: Vec<u64> = words.into_iter().map(|word| xxh3_64(word.as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let filter = hashes.iter().fold(0, |filter, hash| filter | 1 << (hash & 63));
        Self { hashes, filter }
    }

    /// Gopher's eight.
    pub(super) fn english() -> Self {
        Self::new(STOP_WORDS)
    }
}

/// Measures a text.
pub(super) fn measure(text: &str, tokens: &Tokens, stop_words: &StopWords) -> Quality {
    let mut found = vec![0_usize; stop_words.hashes.len()];
    let (mut words, mut word_chars, mut alphabetic) = (0, 0, 0);
    for word in &tokens.words {
        if !word.symbol {
            words += 1;
            word_chars += word.chars as usize;
        }
        alphabetic += usize::from(word.alphabetic);
        if stop_words.filter >> (word.hash & 63) & 1 != 0
            && let Ok(at) = stop_words.hashes.binary_search(&word.hash)
        {
            found[at] += 1;
        }
    }
    let (mut bullet_lines, mut ellipsis_lines) = (0, 0);
    for row in tokens.rows() {
        let row = row.of(text).trim_matches(is_space);
        bullet_lines += usize::from(row.starts_with(['•', '-']));
        ellipsis_lines += usize::from(row.ends_with("...") || row.ends_with('…'));
    }
    let hashes = memchr_iter(b'#', text.as_bytes()).count();
    let ellipses = memmem::find_iter(text.as_bytes(), "...").count() + memmem::find_iter(text.as_bytes(), "…").count();
    let per_word = |part| Share { part, whole: tokens.words.len() };
    let per_line = |part| Share { part, whole: tokens.rows().len() };
    Quality {
        words,
        word_chars: Share { part: word_chars, whole: words },
        hashes: per_word(hashes),
        ellipses: per_word(ellipses),
        bullet_lines: per_line(bullet_lines),
        ellipsis_lines: per_line(ellipsis_lines),
        alphabetic: per_word(alphabetic),
        stop_words: found.iter().filter(|&&count| count > 0).count(),
        stop_word_count: found.iter().sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenize;

    fn of(text: &str) -> Quality {
        measure(text, &tokenize(text), &StopWords::english())
    }

    #[test]
    fn an_empty_text_has_no_words_and_no_shares() {
        let empty = of("");
        assert_eq!((empty.words, empty.stop_words), (0, 0));
        assert_eq!(
            (empty.word_chars.value(), empty.alphabetic.value(), empty.bullet_lines.value()),
            (None, None, None)
        );
    }

    #[test]
    fn one_word_is_all_letters() {
        let one = of("Wörter");
        assert_eq!((one.words, one.word_chars.value(), one.alphabetic.value()), (1, Some(6.0), Some(1.0)));
    }

    #[test]
    fn symbols_count_as_words_in_shares_but_not_in_lengths() {
        let found = of("# It is 42 ... (ok)");
        assert_eq!(found.words, 4);
        assert_eq!(found.word_chars, Share { part: 8, whole: 4 });
        assert_eq!(of("→ ok !").words, 2, "an arrow is not in the list");
        assert_eq!(found.hashes, Share { part: 1, whole: 8 });
        assert_eq!(found.ellipses, Share { part: 1, whole: 8 });
        assert_eq!(found.alphabetic, Share { part: 3, whole: 8 });
    }

    #[test]
    fn bullets_and_ellipses_are_found_at_the_ends_of_lines() {
        let found = of("- one\n  • two\n* three\n\nfour... \nfünf…\n");
        assert_eq!(found.bullet_lines, Share { part: 2, whole: 6 });
        assert_eq!(found.ellipsis_lines, Share { part: 2, whole: 6 });
    }

    #[test]
    fn stop_words_are_counted_once_each_and_only_in_lower_case() {
        let found = of("the the THE of With");
        assert_eq!((found.stop_words, found.stop_word_count), (2, 3));
        let german = StopWords::new(["der", "und"]);
        assert_eq!(measure("der Hund", &tokenize("der Hund"), &german).stop_words, 1);
        assert_eq!(of("der Hund und die Katze").stop_words, 0);
        assert_eq!(of("我们的").stop_words, 0);
    }
}
