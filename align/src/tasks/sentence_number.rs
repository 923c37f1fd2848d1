//! The one number in a sentence of a document: `Number in: The default is 64 bytes.` → `64`.
//!
//! In: documents. Out: items with the document's id and the byte span of the number in its text. A sentence that is too
//! long is cut to the words around its number; the answer stays the one number of the prompt. Held-out sentences are
//! chosen by a hash of their text, so a sentence that stands in several documents is in one split only. A distractor is
//! the number with another last digit.

use std::collections::BTreeMap;

use super::{Item, MAX_SENTENCE_USES, Split, TaskKind, held_out};
use crate::rng::{self, Stream};

/// One in so many sentences is held out: they are scarcer than made-up prompts.
const HELD_OUT_EVERY: u128 = 3;
const MIN_WORDS: usize = 4;
const MAX_SENTENCE_BYTES: usize = 400;
const MAX_DIGITS: usize = 4;

/// A sentence, or the part of one, with exactly one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// Bytes of the sentence (or its part) in the document's text.
    pub text: (usize, usize),
    /// Bytes of the number in the document's text.
    pub number: (usize, usize),
}

/// The sentences of `document` that have exactly one number of at most four digits, standing by itself, in plain ASCII
/// with single spaces, three quarters letters; each cut to the most words around its number for which `fits` holds, at least four.
pub fn sentences(document: &str, fits: &dyn Fn(&str) -> bool) -> Vec<Sentence> {
    let mut out = Vec::new();
    let mut line_start = 0;
    for line in document.split_inclusive('\n') {
        let mut start = 0;
        let bytes = line.as_bytes();
        for end in 1..=bytes.len() {
            let ends = end == bytes.len() || (matches!(bytes[end - 1], b'.' | b'!' | b'?') && bytes[end] == b' ');
            if ends {
                out.extend(sentence(document, line_start + start, line_start + end, fits));
                start = end;
            }
        }
        line_start += line.len();
    }
    out
}

fn sentence(document: &str, start: usize, end: usize, fits: &dyn Fn(&str) -> bool) -> Option<Sentence> {
    let raw = document.as_bytes().get(start..end)?;
    let lead = raw.iter().take_while(|b| b.is_ascii_whitespace()).count();
    let trail = raw[lead..].iter().rev().take_while(|b| b.is_ascii_whitespace()).count();
    let bytes = &raw[lead..raw.len() - trail];
    let start = start + lead;
    // `<|` could be read as a special token of the chat format.
    let plain =
        bytes.iter().all(|b| b.is_ascii_graphic() || *b == b' ') && !bytes.windows(2).any(|w| w == b"  " || w == b"<|");
    let letters = bytes.iter().filter(|b| b.is_ascii_alphabetic() || **b == b' ').count();
    if bytes.len() > MAX_SENTENCE_BYTES || !plain || 4 * letters < 3 * bytes.len() {
        return None;
    }
    let number = one_number(bytes)?;
    let words = words_of(bytes);
    let at = words.iter().position(|&(from, to)| from <= number.0 && number.1 <= to)?;
    let (mut first, mut last) = (0, words.len());
    let text = |first: usize, last: usize| (start + words[first].0, start + words[last - 1].1);
    while last - first >= MIN_WORDS {
        let (from, to) = text(first, last);
        if fits(&prompt(&document[from..to])) {
            return Some(Sentence { text: (from, to), number: (start + number.0, start + number.1) });
        }
        // Drop a word from the longer side.
        if last - 1 - at >= at - first { last -= 1 } else { first += 1 }
    }
    None
}

/// The only run of digits, if it stands by itself: no sign, point, letter or digit group touches it.
fn one_number(bytes: &[u8]) -> Option<(usize, usize)> {
    let start = bytes.iter().position(u8::is_ascii_digit)?;
    let len = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    let end = start + len;
    // `git(1)` names a manual page; its digit counts nothing.
    let opens = |at: usize| at == 0 || bytes[at - 1] == b' ';
    let free_before = opens(start) || (matches!(bytes[start - 1], b'(' | b'"') && opens(start - 1));
    let free_after = match bytes.get(end) {
        None => true,
        Some(b'.' | b',' | b';' | b':' | b'!' | b'?' | b')' | b'"') => {
            bytes.get(end + 1).is_none_or(|&b| !b.is_ascii_alphanumeric())
        }
        Some(b) => *b == b' ',
    };
    let alone = !bytes[end..].iter().any(u8::is_ascii_digit);
    (free_before && free_after && alone && len <= MAX_DIGITS).then_some((start, end))
}

fn words_of(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut start = 0;
    for word in bytes.split(|&b| b == b' ') {
        out.push((start, start + word.len()));
        start += word.len() + 1;
    }
    out
}

fn prompt(sentence: &str) -> String {
    format!("Number in: {sentence}")
}

/// The items of all documents, held-out ones apart, each list in an order of its own hash.
#[derive(Default)]
pub(super) struct Pools {
    test: Vec<Item>,
    rest: Vec<Item>,
}

impl Pools {
    pub(super) fn new(seed: u64, documents: &[(&str, &str)], fits: &dyn Fn(&str) -> bool) -> Self {
        // The same text in several documents belongs to the smallest (id, place), whatever the documents' order.
        let mut firsts: BTreeMap<&str, (&str, Sentence)> = BTreeMap::new();
        for &(id, text) in documents {
            for found in sentences(text, fits) {
                let key = &text[found.text.0..found.text.1];
                let entry = (id, found);
                match firsts.get_mut(key) {
                    Some(old) if (old.0, old.1.number) > (entry.0, entry.1.number) => *old = entry,
                    Some(_) => {}
                    None => {
                        firsts.insert(key, entry);
                    }
                }
            }
        }
        let mut ordered: Vec<_> = firsts
            .into_iter()
            .map(|(text, at)| (rng::key(&["sentence".into(), seed.into(), text.into()]), text, at))
            .collect();
        ordered.sort_unstable_by_key(|entry| entry.0);
        let mut pools = Self::default();
        for (_, text, (id, found)) in ordered {
            let test = held_out(seed, TaskKind::SentenceNumber, text, HELD_OUT_EVERY);
            if let Some(item) = item(seed, text, id, &found) {
                if test { pools.test.push(item) } else { pools.rest.push(item) }
            }
        }
        pools
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.test.is_empty()
    }

    /// The `number`-th item of a split; `None` once its pool is used up.
    pub(super) fn get(&self, split: Split, number: usize) -> Option<Item> {
        let (pool, uses) = match split {
            Split::Test => (&self.test, 1),
            Split::Train => (&self.rest, 1),
            Split::Pretrain | Split::Sft => (&self.rest, MAX_SENTENCE_USES),
        };
        (number < pool.len() * uses).then(|| pool[number % pool.len()].clone())
    }
}

/// `None` if the document is too long for the span's 32 bits.
fn item(seed: u64, text: &str, id: &str, found: &Sentence) -> Option<Item> {
    let span = (u32::try_from(found.number.0).ok()?, u32::try_from(found.number.1).ok()?);
    let from = found.number.0 - found.text.0;
    let answer = &text[from..from + (found.number.1 - found.number.0)];
    let mut stream = Stream::new(&["wrong digit".into(), seed.into(), text.into()]);
    let (head, last) = answer.split_at(answer.len() - 1);
    let digit = last.parse::<usize>().ok()?;
    let distractors = (0..3).map(|_| format!("{head}{}", (digit + 1 + stream.below(9)) % 10)).collect();
    Some(Item {
        prompt: prompt(text),
        answer: answer.to_owned(),
        distractors,
        subject: text.to_owned(),
        parent_id: Some(id.to_owned()),
        span: Some(span),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(document: &str) -> Vec<(&str, &str)> {
        let short = |prompt: &str| prompt.len() <= 50;
        let cut = |(from, to): (usize, usize)| &document[from..to];
        sentences(document, &short).into_iter().map(|s| (cut(s.text), cut(s.number))).collect()
    }

    #[test]
    fn sentences_with_exactly_one_free_number_are_found_with_their_spans() {
        for (document, expected) in [
            ("", vec![]),
            ("word", vec![]),
            ("The default is 64 bytes.", vec![("The default is 64 bytes.", "64")]),
            ("None here. It takes 3 more steps. Or so.", vec![("It takes 3 more steps.", "3")]),
            ("one two three 4\nfive six seven 8\n", vec![("one two three 4", "4"), ("five six seven 8", "8")]),
            ("Über alles: see the list (7) below. It takes 3 more steps.", vec![("It takes 3 more steps.", "3")]),
            ("From 3 to 5 of them.", vec![]),
            ("See the utf8 page here.", vec![]),
            ("See git(1) for more of it.", vec![]),
            ("It is 3.5 times more.", vec![]),
            ("It is -3 times more.", vec![]),
            ("A port of 54321 is good.", vec![]),
            ("Two  spaces and 3 words.", vec![]),
            ("Write <|end|> or 3 words.", vec![]),
            ("梨は 3 個 です", vec![]),
        ] {
            assert_eq!(found(document), expected, "{document:?}");
        }
    }

    #[test]
    fn a_long_sentence_is_cut_to_the_words_around_its_number() {
        let document = "This is quite a long sentence that has 12 as its number and goes on for a while after it.";
        assert_eq!(found(document), vec![("long sentence that has 12 as its number", "12")]);
        assert!(sentences(document, &|_| false).is_empty());
    }
}
