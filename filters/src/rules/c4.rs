//! `c4`: the document rules of C4, on the lines that C4's line rules leave.
//!
//! In: a text and its tokens. Out: counts over the surviving lines. The text is not changed: removing lines is an edit (`edit::c4`).
//! A line does not survive if one of its words is longer than 1,000 characters, if it has fewer than 3 words, if it says
//! "javascript", or if it has a phrase of a cookie or usage policy. A line dropped for its words or for "javascript" hides its
//! curly bracket, a policy phrase does not: the order is C4's. Citation marks (`[12]`, `[edit]`) are left out before all but the words
//! are looked at.
//! Raffel et al. 2020, "Exploring the Limits of Transfer Learning", section 2.2, in the mode of FineWeb (datatrove 0.10.1): no
//! terminal punctuation is asked of a line. We differ: all rules are measured, where datatrove stops at the first bracket; ASCII
//! case only.

use std::ops::Range;
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

/// Why C4 leaves out a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LineRule {
    LongWord,
    FewWords,
    Javascript,
    Policy,
}

impl LineRule {
    /// The name under which an edit says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::LongWord => "c4.long_word",
            Self::FewWords => "c4.few_words",
            Self::Javascript => "c4.javascript",
            Self::Policy => "c4.policy",
        }
    }
}

/// Measures a text.
pub(super) fn measure(text: &str, tokens: &Tokens) -> C4 {
    let mut measured =
        C4 { long_lines: tokens.lines.iter().filter(|line| line.chars >= PARAGRAPH_CHARS).count(), ..C4::default() };
    each_row(text, tokens, |row, found, cleaned| {
        let has = |phrase: usize| found & (1 << phrase) != 0;
        let dropped = line_rule(row, found);
        if matches!(dropped, Some(LineRule::LongWord | LineRule::FewWords)) {
            return;
        }
        measured.lorem_ipsum += usize::from(has(LOREM_IPSUM));
        if dropped != Some(LineRule::Javascript) {
            measured.curly_bracket += usize::from(has(CURLY_BRACKET));
        }
        if dropped.is_none() {
            let counted = if tokens.given { None } else { cleaned.map(sentences) };
            measured.sentences += counted.unwrap_or(row.sentences).max(1); // what is left of a line of citations is a sentence
        }
    });
    measured
}

/// The lines that C4 leaves out, with the reason; lines are those between breaks of any kind.
pub(crate) fn dropped_rows(text: &str, tokens: &Tokens) -> Vec<(Line, LineRule)> {
    let mut dropped = Vec::new();
    each_row(text, tokens, |row, found, _| dropped.extend(line_rule(row, found).map(|rule| (*row, rule))));
    dropped
}

fn line_rule(row: &Line, found: Found) -> Option<LineRule> {
    match () {
        () if row.longest_piece > MAX_WORD_CHARS => Some(LineRule::LongWord),
        () if row.pieces < MIN_WORDS_PER_LINE => Some(LineRule::FewWords),
        () if found & (1 << JAVASCRIPT) != 0 => Some(LineRule::Javascript),
        () if found >> (CURLY_BRACKET + 1) != 0 => Some(LineRule::Policy),
        () => None,
    }
}

/// Calls with each row, the phrases in it and, if it has citation marks, what is left of it without them.
fn each_row(text: &str, tokens: &Tokens, mut call: impl FnMut(&Line, Found, Option<&str>)) {
    let mut hits = FINDER.find_iter(text).peekable();
    for row in tokens.rows() {
        let mut found: Found = 0;
        while let Some(hit) = hits.next_if(|hit| hit.start() < row.end) {
            found |= 1 << hit.pattern().as_usize();
        }
        match without_citations(row.of(text)) {
            None => call(row, found, None),
            Some(cleaned) => {
                let found = FINDER.find_iter(&cleaned).fold(0, |found, hit| found | 1 << hit.pattern().as_usize());
                call(row, found, Some(&cleaned));
            }
        }
    }
}

fn without_citations(line: &str) -> Option<String> {
    let marks = citations(line);
    if marks.is_empty() {
        return None;
    }
    let mut cleaned = String::with_capacity(line.len());
    let mut from = 0;
    for mark in marks {
        cleaned.push_str(&line[from..mark.start]);
        from = mark.end;
    }
    cleaned.push_str(&line[from..]);
    Some(cleaned)
}

/// Citation marks as Wikipedia writes them: digits in brackets (none in `[]`), `[edit]`, `[citation needed]`.
pub(crate) fn citations(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = memchr::memchr(b'[', &text.as_bytes()[at..]) {
        let start = at + offset;
        let inside = &text[start + 1..];
        let after_digits = inside.trim_start_matches(is_decimal_digit);
        let closed =
            [after_digits.strip_prefix(']'), inside.strip_prefix("edit]"), inside.strip_prefix("citation needed]")];
        at = start + 1;
        if let Some(rest) = closed.into_iter().flatten().next() {
            at = text.len() - rest.len();
            found.push(start..at);
        }
    }
    found
}

/// Zeros of the decimal digits (general category Nd) of the Basic Multilingual Plane.
const ZEROS: [u32; 37] = [
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50, 0xED0,
    0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620,
    0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10,
];

fn is_decimal_digit(c: char) -> bool {
    let before = ZEROS.partition_point(|&zero| zero <= c as u32);
    before > 0 && c as u32 - ZEROS[before - 1] < 10
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
    fn citation_marks_are_left_out_before_phrases_and_sentences_are_looked_for() {
        assert_eq!(of("A fact.[12] Another fact.").sentences, 2);
        assert_eq!(of("[1] [2] [3]").sentences, 1);
        assert_eq!(of("we use[4] cookies here").sentences, 0);
        let text = "a[1] b[] c[edit] d[x] [citation needed] [٣] [[5]";
        let found: Vec<&str> = citations(text).into_iter().map(|mark| &text[mark]).collect();
        assert_eq!(found, ["[1]", "[]", "[edit]", "[citation needed]", "[٣]", "[5]"]);
        assert!(citations("").is_empty());
    }

    #[test]
    fn long_lines_are_counted_in_characters() {
        let long = "ä".repeat(200);
        assert_eq!(of(&format!("{long}\n{long}b\n{}", &long[2..])).long_lines, 2);
    }
}
