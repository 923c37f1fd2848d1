//! `c4`: the document rules of C4, on the lines that C4's line rules leave.
//!
//! In: a text and its tokens. Out: counts over the surviving lines. The text is not changed: removing lines is an edit, a stage of
//! its own. A line does not survive if one of its words is longer than 1,000 characters, if it has fewer than 3 words, if it says
//! "javascript", or if it has a phrase of a cookie or usage policy. A line dropped for its words or for "javascript" hides its
//! curly bracket, a policy phrase does not: the order is C4's.
//! Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, in the mode of FineWeb (datatrove 0.10.1): no
//! terminal punctuation is asked of a line. We differ: all rules are measured, where datatrove stops at the first bracket;
//! sentences come from `text::sentences`, not from spaCy; ASCII case only. The list of bad words is not here.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use crate::text::{Line, Tokens, sentences};

const MAX_WORD_CHARS: usize = 1000;
const MIN_WORDS_PER_LINE: usize = 3;
/// mC4 (Xue et al. 2021, section 3.1): a line this long is a paragraph.
const PARAGRAPH_CHARS: usize = 200;

/// What is looked for in a line; the first two stand for themselves, the rest are policy phrases.
const PHRASES: [&str; 9] = [
    "lorem ipsum",
    "javascript",
    "{",
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];
const LOREM_IPSUM: usize = 0;
const JAVASCRIPT: usize = 1;
const CURLY_BRACKET: usize = 2;

static FINDER: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(PHRASES)
        .expect("nine short phrases fit into an automaton")
});

/// What the rules compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct C4 {
    /// Lines with "lorem ipsum".
    pub lorem_ipsum: usize,
    /// Lines with a curly bracket.
    pub curly_bracket: usize,
    /// Sentences in the lines that survive.
    pub sentences: usize,
    /// Lines of at least 200 characters, of all lines.
    pub long_lines: usize,
}

/// Phrases found in one line, one bit each.
type Found = u16;

/// Measures a text.
pub(super) fn measure(text: &str, tokens: &Tokens) -> C4 {
    let mut measured = C4::default();
    let mut hits = FINDER.find_iter(text).peekable();
    for line in &tokens.lines {
        let mut found: Found = 0;
        while let Some(hit) = hits.next_if(|hit| hit.start() < line.end) {
            found |= 1 << hit.pattern().as_usize();
        }
        measured.long_lines += usize::from(line.chars >= PARAGRAPH_CHARS);
        count_line(line.of(text), line, found, &mut measured);
    }
    measured
}

fn count_line(text: &str, line: &Line, found: Found, measured: &mut C4) {
    let has = |phrase: usize| found & (1 << phrase) != 0;
    if line.longest_piece > MAX_WORD_CHARS || line.pieces < MIN_WORDS_PER_LINE {
        return;
    }
    measured.lorem_ipsum += usize::from(has(LOREM_IPSUM));
    if has(JAVASCRIPT) {
        return;
    }
    measured.curly_bracket += usize::from(has(CURLY_BRACKET));
    if found >> (CURLY_BRACKET + 1) == 0 {
        measured.sentences += sentences(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenize;

    fn of(text: &str) -> C4 {
        measure(text, &tokenize(text))
    }

    #[test]
    fn an_empty_text_has_no_sentences_and_a_single_word_is_too_short_a_line() {
        assert_eq!(of(""), C4::default());
        assert_eq!(of("word."), C4::default());
    }

    #[test]
    fn sentences_are_those_of_the_lines_that_survive() {
        let text = "One is here. Two is here.\ntoo short.\nPlease enable JavaScript. Do it now.\n\
            We use cookies. A lot of them.\nThree is here.";
        assert_eq!(of(text).sentences, 3);
        let long_word = "x".repeat(1001);
        assert_eq!(of(&format!("It is {long_word} long. Really it is.")).sentences, 0);
        assert_eq!(of("यह एक है। यह दो है।").sentences, 2);
    }

    #[test]
    fn brackets_and_lorem_ipsum_are_found_unless_their_line_was_dropped_before() {
        assert_eq!(of("fn main() { body }\nmore of { it").curly_bracket, 2);
        assert_eq!(of("{ }\na javascript { line\nuse cookies { line").curly_bracket, 1);
        assert_eq!(of("Lorem Ipsum dolor sit").lorem_ipsum, 1);
        assert_eq!(of("Lorem ipsum").lorem_ipsum, 0);
    }

    #[test]
    fn long_lines_are_counted_in_characters() {
        let long = "ä".repeat(200);
        assert_eq!(of(&format!("{long}\n{long}b\n{}", &long[2..])).long_lines, 2);
    }
}
