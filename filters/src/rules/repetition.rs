//! `gopher_repetition`: how much of a text repeats itself.
//!
//! In: a text and its tokens. Out: thirteen shares, each one integer divided by another.
//! Rae et al. 2021, "Scaling Language Models" (Gopher), table A1; all are upper bounds. As datatrove 0.10.1: the divisor is the
//! number of characters of the whole text; the top n-gram counts even if it occurs once; its characters include the spaces between
//! its words; duplicated n-grams are compared and counted without them, so that `a b` equals `ab`; a line feed at either end of the
//! text makes an empty line there.

use xxhash_rust::xxh3::xxh3_64;

use crate::text::{Tokens, Word, paragraphs};

/// Characters and their divisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub part: usize,
    pub whole: usize,
}

impl Share {
    /// The share, 0..; `None` of an empty whole.
    pub(super) fn value(self) -> Option<f64> {
        (self.whole > 0).then(|| self.part as f64 / self.whole as f64)
    }
}

/// What the rules compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Repetition {
    pub paragraphs: Share,
    pub paragraph_chars: Share,
    pub lines: Share,
    pub line_chars: Share,
    /// Of 2-, 3- and 4-grams.
    pub top: [Share; 3],
    /// Of 5- to 10-grams.
    pub duplicated: [Share; 6],
}

/// Measures a text.
pub(super) fn measure(text: &str, tokens: &Tokens) -> Repetition {
    let bytes = text.as_bytes();
    let paragraphs = duplicates(paragraphs(text, tokens).into_iter().map(|(range, chars)| (&bytes[range], chars)));
    let lines = tokens.lines.iter().filter(|line| line.start < line.end);
    let mut lines = duplicates(lines.map(|line| (&bytes[line.start..line.end], line.chars)));
    let (first, last) = (text.starts_with('\n'), text.ends_with('\n'));
    lines.all += usize::from(first) + usize::from(last);
    lines.again += usize::from(first && last);
    let top = top_n_grams(&tokens.words);
    let duplicated = duplicated_n_grams(bytes, &tokens.words);
    let of_text = |part| Share { part, whole: tokens.chars };
    Repetition {
        paragraphs: Share { part: paragraphs.again, whole: paragraphs.all },
        paragraph_chars: of_text(paragraphs.chars_again),
        lines: Share { part: lines.again, whole: lines.all },
        line_chars: of_text(lines.chars_again),
        top: top.map(of_text),
        duplicated: duplicated.map(of_text),
    }
}

/// How many items were seen before, and their characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Duplicates {
    pub all: usize,
    pub again: usize,
    pub chars_again: usize,
}

/// Counts the items (bytes, characters) that equal an earlier one.
pub(super) fn duplicates<'a>(items: impl Iterator<Item = (&'a [u8], usize)>) -> Duplicates {
    let items: Vec<(u64, usize)> = items.map(|(bytes, chars)| (xxh3_64(bytes), chars)).collect();
    let mut seen = Counts::for_keys(items.len());
    let mut found = Duplicates { all: items.len(), ..Duplicates::default() };
    for (hash, chars) in items {
        if seen.add(hash).1 > 1 {
            found.again += 1;
            found.chars_again += chars;
        }
    }
    found
}

/// Characters of the top 2- to 4-gram.
///
/// An n-gram can only occur twice if both (n-1)-grams in it do, so each n looks at the positions that the last one left.
fn top_n_grams(words: &[Word]) -> [usize; 3] {
    let mut top = [0; 3];
    let mut hashes: Vec<u64> = words.iter().map(|word| word.hash).collect();
    let mut positions: Vec<u32> = (0..words.len().saturating_sub(1) as u32).collect();
    for n in 2..=4 {
        if words.len() < n {
            break;
        }
        for &at in &positions {
            let at = at as usize;
            hashes[at] = hashes[at].wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29) ^ words[at + n - 1].hash;
        }
        let (repeated, best) = repeated(&hashes, &positions);
        let (first, count) = best.unwrap_or((0, 1));
        top[n - 2] = (chars(&words[first..first + n]) + n - 1) * count;
        positions = longer(&repeated, words.len() - n);
    }
    top
}

fn chars(words: &[Word]) -> usize {
    words.iter().map(|word| word.chars as usize).sum()
}

/// The positions whose hash occurs at least twice, and the most frequent hash: where it is first and how often it occurs.
fn repeated(hashes: &[u64], positions: &[u32]) -> (Vec<u32>, Option<(usize, usize)>) {
    let mut counts = Counts::for_keys(positions.len());
    let slots: Vec<u32> = positions.iter().map(|&at| counts.add(hashes[at as usize]).0 as u32).collect();
    let (mut repeated, mut best) = (Vec::new(), None);
    for (&at, slot) in positions.iter().zip(slots) {
        let count = counts.count(slot) as usize;
        if count > 1 {
            repeated.push(at);
            if best.is_none_or(|(_, highest)| count > highest) {
                best = Some((at as usize, count));
            }
        }
    }
    (repeated, best)
}

/// Positions at which the next longer n-gram may be repeated: this one and the one after it are, and a further word follows.
fn longer(repeated: &[u32], last: usize) -> Vec<u32> {
    let follows = |pair: &&[u32]| pair[1] == pair[0] + 1 && (pair[0] as usize) < last;
    repeated.windows(2).filter(follows).map(|pair| pair[0]).collect()
}

/// Characters of duplicated 5- to 10-grams, whose words are compared without the space between them.
fn duplicated_n_grams(text: &[u8], words: &[Word]) -> [usize; 6] {
    let mut duplicated = [0; 6];
    if words.len() < SHORTEST {
        return duplicated;
    }
    let joined = Joined::new(text, words);
    let all: Vec<u32> = (0..=(words.len() - SHORTEST) as u32).collect();
    let mut candidates = joined.candidates::<16>(&all, SHORTEST);
    for n in SHORTEST..=10 {
        if n == 7 {
            candidates = joined.candidates::<32>(&candidates, n);
        }
        let mut seen = Counts::for_keys(candidates.len());
        let mut next = 0;
        for &at in &candidates {
            let at = at as usize;
            if at < next || at + n > words.len() {
                continue;
            }
            // A new n-gram is remembered, one seen before counts and is stepped over.
            if seen.add(xxh3_64(joined.n_gram(at, n))).1 > 1 {
                duplicated[n - SHORTEST] += chars(&words[at..at + n]);
                next = at + n;
            }
        }
    }
    duplicated
}

/// The shortest n-gram that is looked for twice.
const SHORTEST: usize = 5;

/// The words of a text without what is between them.
struct Joined {
    bytes: Vec<u8>,
    /// Where each word begins, and the end.
    starts: Vec<u32>,
}

impl Joined {
    fn new(text: &[u8], words: &[Word]) -> Self {
        let mut bytes = Vec::with_capacity(text.len());
        let mut starts = Vec::with_capacity(words.len() + 1);
        for word in words {
            starts.push(bytes.len() as u32);
            bytes.extend_from_slice(&text[word.range()]);
        }
        starts.push(bytes.len() as u32);
        Self { bytes, starts }
    }

    fn n_gram(&self, at: usize, n: usize) -> &[u8] {
        &self.bytes[self.starts[at] as usize..self.starts[at + n] as usize]
    }

    /// Of these positions those at which an n-gram of `n` or more words may begin that occurs twice: its first `BYTES` bytes do, or it
    /// may be shorter than that.
    fn candidates<const BYTES: usize>(&self, positions: &[u32], n: usize) -> Vec<u32> {
        let mut counts = Counts::for_keys(positions.len());
        let key = |at: u32| self.bytes.get(self.starts[at as usize] as usize..)?.first_chunk::<BYTES>().map(prefix_key);
        let slots: Vec<Option<u32>> = positions.iter().map(|&at| key(at).map(|key| counts.add(key).0 as u32)).collect();
        let may_begin = |(at, slot): &(u32, Option<u32>)| {
            let at = *at as usize;
            let Some(&end) = self.starts.get(at + n) else { return false };
            ((end - self.starts[at]) as usize) < BYTES || slot.is_some_and(|slot| counts.count(slot) > 1)
        };
        positions.iter().copied().zip(slots).filter(may_begin).map(|(at, _)| at).collect()
    }
}

/// A hash of some words of 8 bytes; two prefixes that share it are both candidates, no more.
#[inline]
fn prefix_key<const BYTES: usize>(bytes: &[u8; BYTES]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words
        .iter()
        .fold(0, |key: u64, word| (key.rotate_left(31) ^ u64::from_le_bytes(*word)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Counts of 64-bit keys: open addressing, at most half full, sized once; a key and its count share a cache line.
struct Counts {
    slots: Vec<(u64, u32)>,
}

impl Counts {
    fn for_keys(keys: usize) -> Self {
        Self { slots: vec![(0, 0); (2 * keys).next_power_of_two().max(2)] }
    }

    /// Adds one; the key's slot and its new count.
    #[inline]
    fn add(&mut self, key: u64) -> (usize, u32) {
        let mask = self.slots.len() - 1;
        let mut at = (key.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32) as usize & mask;
        loop {
            let slot = &mut self.slots[at & mask];
            if slot.1 == 0 {
                slot.0 = key;
            }
            if slot.0 == key {
                slot.1 += 1;
                return (at, slot.1);
            }
            at = (at + 1) & mask;
        }
    }

    fn count(&self, slot: u32) -> u32 {
        self.slots[slot as usize].1
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use crate::text::tokenize;

    fn of(text: &str) -> Repetition {
        measure(text, &tokenize(text))
    }

    #[test]
    fn an_empty_text_has_no_shares_and_one_word_repeats_nothing() {
        let empty = of("");
        assert_eq!(empty.lines.value(), None);
        assert_eq!(empty.top[0].value(), None);
        let one = of("word");
        assert_eq!(
            (one.lines.value(), one.paragraphs.value(), one.duplicated[0].value()),
            (Some(0.0), Some(0.0), Some(0.0))
        );
        assert_eq!(one.top.map(Share::value), [Some(0.0); 3]);
    }

    #[test]
    fn repeated_lines_and_paragraphs_are_counted_from_their_second_time_on() {
        let text = "a b\nc\na b\n\nc\n\nd\n\nc";
        let found = of(text);
        assert_eq!(found.lines, Share { part: 3, whole: 6 });
        assert_eq!(found.line_chars, Share { part: 5, whole: text.len() });
        assert_eq!(found.paragraphs, Share { part: 1, whole: 4 });
        assert_eq!(found.paragraph_chars, Share { part: 1, whole: text.len() });
        let chinese = of("我们\n我们\n你们");
        assert_eq!((chinese.lines, chinese.line_chars), (Share { part: 1, whole: 3 }, Share { part: 2, whole: 8 }));
    }

    #[test]
    fn a_bigram_that_occurs_once_is_still_the_top_bigram() {
        assert_eq!(
            of("ab cde f").top,
            [Share { part: 6, whole: 8 }, Share { part: 8, whole: 8 }, Share { part: 0, whole: 8 }]
        );
    }

    /// Gopher's definition as datatrove writes it: sets of strings, one n at a time.
    fn by_definition(words: &[&str]) -> ([usize; 3], [usize; 6]) {
        let (mut top, mut duplicated) = ([0; 3], [0; 6]);
        for n in 2..=4 {
            let grams: Vec<String> = words.windows(n).map(|gram| gram.join(" ")).collect();
            let mut counts: HashMap<&str, usize> = HashMap::new();
            grams.iter().for_each(|gram| *counts.entry(gram).or_default() += 1);
            let highest = counts.values().max().copied().unwrap_or(0);
            let first = grams.iter().find(|gram| counts[gram.as_str()] == highest);
            top[n - 2] = first.map_or(0, |gram| gram.chars().count() * highest);
        }
        for n in 5..=10 {
            let mut seen = HashSet::new();
            let mut at = 0;
            while at + n <= words.len() {
                if seen.insert(words[at..at + n].concat()) {
                    at += 1;
                } else {
                    duplicated[n - 5] += words[at..at + n].concat().chars().count();
                    at += n;
                }
            }
        }
        (top, duplicated)
    }

    #[test]
    fn line_feeds_at_both_ends_are_equal_empty_lines() {
        assert_eq!(of("\na\n").lines, Share { part: 1, whole: 3 });
        assert_eq!(of("a\n").lines, Share { part: 0, whole: 2 });
        assert_eq!(of("\n").lines, Share { part: 1, whole: 2 });
    }

    #[test]
    fn duplicated_n_grams_are_compared_without_spaces() {
        let text = "ab c d e f and so on ; a bc d e f and so on";
        let words: Vec<&str> = text.split(' ').collect();
        let found = of(text).duplicated.map(|share| share.part);
        assert_eq!(found, by_definition(&words).1);
        assert!(found[0] > 0);
    }

    #[test]
    fn n_grams_agree_with_the_definition_on_repetitive_texts() {
        let vocabulary = ["the", "cat", "sat", "дом", "on", "a", "mat"];
        for seed in 0..200_u64 {
            let (length, kinds) = (seed * 3 % 157, 2 + seed % 6);
            let mut state = seed;
            let words: Vec<&str> = (0..length)
                .map(|at| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let noisy = (state >> 33) % 10 < seed % 10;
                    vocabulary[if noisy { (state >> 40) % kinds } else { at % 11 % kinds } as usize]
                })
                .collect();
            let found = of(&words.join(" "));
            let (top, duplicated) = by_definition(&words);
            assert_eq!(found.top.map(|share| share.part), top, "{words:?}");
            assert_eq!(found.duplicated.map(|share| share.part), duplicated, "{words:?}");
        }
    }
}
