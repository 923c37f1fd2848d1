//! Overlap with evaluation sets: which documents repeat a run of words of a test question, and where.
//!
//! In: the texts of the evaluation sets, then documents. Out: for each document its longest [`Overlap`]. Left to others:
//! what to do with it. Words are those of [`normalise`](crate::normalise()); runs of `ngram` words as in Brown et al. 2020
//! (GPT-3, appendix C: 13) and datatrove (12). Hashes only nominate: words are compared before a match counts.

use crate::normalise::normalise_into;
use crate::shingle::{is_unspaced, split_words};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use xxhash_rust::xxh3::xxh3_64;

/// Evaluation texts, indexed by their runs of words.
#[derive(Clone, Debug, Default)]
pub struct EvaluationSet {
    /// Normalised words of all texts, one behind the other, and where each text's begin.
    words: Words,
    starts: Vec<u32>,
    /// Lengths of runs that are looked for, in words, longest first: `ngram`, and those of shorter texts.
    lengths: Vec<usize>,
    /// First occurrence of each run: its text and its first word.
    runs: HashMap<(u32, u64), (u32, u32)>,
    /// Texts with fewer than `min_words` words, which are not looked for.
    pub too_short: u64,
}

/// The longest run of a document's words that an evaluation text holds too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Number of the evaluation text, in the order in which they were given.
    pub text: usize,
    /// How many runs of the document are in the evaluation set.
    pub runs: u64,
    /// Where the longest stretch of such runs starts in the document, bytes.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

/// Words in one buffer.
#[derive(Clone, Debug, Default)]
struct Words {
    letters: String,
    /// End of each word in `letters`.
    ends: Vec<u32>,
}

impl Words {
    fn slice(&self, first: usize, count: usize) -> &str {
        let start = if first == 0 { 0 } else { self.ends[first - 1] as usize };
        &self.letters[start..self.ends[first + count - 1] as usize]
    }

    /// Whether the words at two places are the same: same letters, cut at the same places.
    fn same(&self, at: usize, other: &Words, other_at: usize, count: usize) -> bool {
        let lengths = |w: &Words, at: usize, i: usize| {
            let start = if at + i == 0 { 0 } else { w.ends[at + i - 1] };
            w.ends[at + i] - start
        };
        self.slice(at, count) == other.slice(other_at, count)
            && (0..count).all(|i| lengths(self, at, i) == lengths(other, other_at, i))
    }

    fn push(&mut self, word: &str) {
        self.letters.push_str(word);
        self.ends.push(self.letters.len() as u32);
    }
}

impl EvaluationSet {
    /// An index over runs of `ngram` words (at least 1); a text with fewer is looked for as a whole if it has at least
    /// `min_words`.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>, ngram: usize, min_words: usize) -> Self {
        let ngram = ngram.max(1);
        let mut set = Self::default();
        let (mut scratch, mut spans) = (Scratch::default(), Vec::new());
        for text in texts {
            set.starts.push(set.words.ends.len() as u32);
            words(text, &mut set.words, &mut spans, &mut scratch);
        }
        set.starts.push(set.words.ends.len() as u32);
        for text in 0..set.starts.len() - 1 {
            let (first, end) = (set.starts[text] as usize, set.starts[text + 1] as usize);
            let length = (end - first).min(ngram);
            if length < min_words.max(1) {
                set.too_short += 1;
                continue;
            }
            if !set.lengths.contains(&length) {
                set.lengths.push(length);
            }
            for at in first..=end - length {
                let hash = xxh3_64(set.words.slice(at, length).as_bytes());
                if let Entry::Vacant(slot) = set.runs.entry((length as u32, hash)) {
                    slot.insert((text as u32, at as u32));
                }
            }
        }
        set.lengths.sort_unstable_by(|a, b| b.cmp(a));
        set
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The overlap of a document, if it has any. Of stretches of one length the first counts.
    pub fn find(&self, document: &str) -> Option<Overlap> {
        let (mut held, mut spans) = (Words::default(), Vec::new());
        words(document, &mut held, &mut spans, &mut Scratch::default());
        let mut best: Option<Overlap> = None;
        let mut runs = 0;
        // A stretch: matching runs that overlap or touch.
        let mut stretch: Option<(usize, usize, u32)> = None;
        let mut close = |stretch: &mut Option<(usize, usize, u32)>| {
            if let Some((first, end, text)) = stretch.take() {
                let (start, end) = (spans[first].0 as usize, spans[end - 1].1 as usize);
                if best.as_ref().is_none_or(|b| end - start > b.end - b.start) {
                    best = Some(Overlap { text: text as usize, runs: 0, start, end });
                }
            }
        };
        for at in 0..held.ends.len() {
            let Some((length, text)) = self.run_at(&held, at) else { continue };
            runs += 1;
            match &mut stretch {
                Some((_, end, _)) if at <= *end => *end = (*end).max(at + length),
                _ => {
                    close(&mut stretch);
                    stretch = Some((at, at + length, text));
                }
            }
        }
        close(&mut stretch);
        best.map(|b| Overlap { runs, ..b })
    }

    /// The longest run of an evaluation text that starts at word `at` of a document.
    fn run_at(&self, document: &Words, at: usize) -> Option<(usize, u32)> {
        self.lengths.iter().filter(|&&l| at + l <= document.ends.len()).find_map(|&length| {
            let hash = xxh3_64(document.slice(at, length).as_bytes());
            let &(text, first) = self.runs.get(&(length as u32, hash))?;
            self.words.same(first as usize, document, at, length).then_some((length, text))
        })
    }
}

#[derive(Default)]
struct Scratch {
    normalised: String,
    words: Vec<(u32, u32)>,
}

/// Appends the words of a text to `into`, and to `spans` where in the text the piece that holds each word lies, bytes:
/// what white space encloses, or one character of a script without spaces.
fn words(text: &str, into: &mut Words, spans: &mut Vec<(u32, u32)>, scratch: &mut Scratch) {
    assert!(text.len() < 1 << 30, "a text of {} bytes is not one document", text.len());
    spans.clear();
    let mut piece = |start: usize, end: usize| {
        normalise_into(&text[start..end], &mut scratch.normalised);
        split_words(&scratch.normalised, &mut scratch.words);
        for &(from, to) in &scratch.words {
            into.push(&scratch.normalised[from as usize..to as usize]);
            spans.push((start as u32, end as u32));
        }
    };
    let base = text.as_ptr() as usize;
    for part in text.split_whitespace() {
        let start = part.as_ptr() as usize - base;
        let mut from = 0;
        if !part.is_ascii() {
            for (at, letter) in part.char_indices().filter(|(_, l)| is_unspaced(*l)) {
                let end = at + letter.len_utf8();
                if at > from {
                    piece(start + from, start + at);
                }
                piece(start + at, start + end);
                from = end;
            }
        }
        if from < part.len() {
            piece(start + from, start + part.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "What is the boiling point of water at sea level, in degrees Celsius?";

    fn found(documents: &str, texts: &[&str], ngram: usize, min_words: usize) -> Option<(usize, u64, String)> {
        let overlap = EvaluationSet::new(texts.iter().copied(), ngram, min_words).find(documents)?;
        Some((overlap.text, overlap.runs, documents[overlap.start..overlap.end].to_string()))
    }

    #[test]
    fn a_quoted_question_is_found_where_it_stands() {
        let page = format!(
            "Quiz night!\n\n1. what IS the boiling point of water at sea level in degrees celsius -- 100. {QUESTION}"
        );
        let (text, runs, span) = found(&page, &["something else entirely", QUESTION], 8, 8).unwrap();
        assert_eq!((text, runs), (1, 12));
        assert_eq!(span, QUESTION);
    }

    #[test]
    fn runs_are_compared_by_words_not_letters() {
        assert_eq!(found("a bc d", &["ab c d"], 3, 1), None);
        assert_eq!(found("x ab c d", &["ab c d"], 3, 1).unwrap().2, "ab c d");
    }

    #[test]
    fn short_texts_are_looked_for_whole_or_counted() {
        let set = EvaluationSet::new(["one two three four", "five"], 13, 3);
        assert_eq!((set.too_short, set.len()), (1, 2));
        assert_eq!(set.find("zero one two three four five").unwrap().runs, 1);
        assert_eq!(set.find("zero one two three"), None);
    }

    #[test]
    fn touching_runs_join_to_one_stretch() {
        let text = "a b c d e f g h";
        let (_, runs, span) = found("x a b c d e f g h y a b c", &[text], 3, 3).unwrap();
        assert_eq!((runs, span.as_str()), (7, "a b c d e f g h"));
    }

    #[test]
    fn scripts_without_spaces_have_character_runs() {
        let (_, _, span) = found("前面的话，世界你好吗朋友。后面", &["世界你好吗朋友"], 5, 5).unwrap();
        assert_eq!(span, "世界你好吗朋友");
    }
}
