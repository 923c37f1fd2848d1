//! Stretches counted in words: the same words in the same order, whatever white space is between them.
//!
//! In: a text. Out: its words as places and hashes, the symbols of `spans.rs`; repeats in words as byte spans. Left to others:
//! finding the repeats.
//! A word is what stands between white space; in scripts written without spaces each character is one. Words are equal if their
//! bytes are, compared by 64-bit hashes: two different words are taken for equal with probability 2^-64, and a whole window
//! would have to be. Lee et al. 2022 (§4.1) count 50 tokens.

use crate::shingle::is_unspaced;
use crate::spans::{Repeat, join, repeats_of};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// Where each word of a text stands, in bytes, ascending.
pub fn word_places(text: &str) -> Vec<Range<usize>> {
    let mut places: Vec<Range<usize>> = Vec::new();
    let mut open = None;
    for (at, letter) in text.char_indices() {
        let alone = is_unspaced(letter);
        if alone || letter.is_whitespace() {
            places.extend(open.take().map(|start| start..at));
            places.extend(alone.then(|| at..at + letter.len_utf8()));
        } else if open.is_none() {
            open = Some(at);
        }
    }
    places.extend(open.map(|start| start..text.len()));
    places
}

/// The hash of each word of a text, in order.
pub fn word_hashes(text: &str) -> Vec<u64> {
    word_places(text).into_iter().map(|place| xxh3_64(&text.as_bytes()[place])).collect()
}

/// Byte spans of one text out of its repeats in words, in any order: from the start of a first word to the end of a last one, so
/// that the white space around stays.
pub fn merge_word_spans(text: &str, repeats: &mut [Repeat]) -> Vec<Range<usize>> {
    if repeats.is_empty() {
        return Vec::new();
    }
    let places = word_places(text);
    join(repeats).into_iter().map(|words| places[words.start].start..places[words.end - 1].end).collect()
}

/// All steps in memory: the spans to remove from each text; texts come in survivor order.
pub fn repeated_word_spans(texts: &[&str], min_words: usize) -> Vec<Vec<Range<usize>>> {
    let words: Vec<Vec<u64>> = texts.iter().map(|text| word_hashes(text)).collect();
    let mut repeats = repeats_of(&words.iter().map(Vec::as_slice).collect::<Vec<_>>(), min_words);
    texts.iter().zip(&mut repeats).map(|(text, repeats)| merge_word_spans(text, repeats)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        word_places(text).into_iter().map(|place| &text[place]).collect()
    }

    #[test]
    fn words_stand_between_white_space_or_alone() {
        let rows: [(&str, &[&str]); 7] = [
            ("", &[]),
            (" \n\t", &[]),
            ("word", &["word"]),
            ("  It's  a\u{a0}mill.\n", &["It's", "a", "mill."]),
            ("\u{4e16}\u{754c} x\u{4e16}y", &["\u{4e16}", "\u{754c}", "x", "\u{4e16}", "y"]),
            ("Третий текст", &["Третий", "текст"]),
            ("สวัส", &["ส", "ว", "ั", "ส"]),
        ];
        for (text, wanted) in rows {
            assert_eq!(words(text), wanted, "{text}");
        }
    }

    /// The definition, window by window, on words.
    fn brute_force(texts: &[&str], size: usize) -> Vec<Vec<Range<usize>>> {
        let all: Vec<Vec<&str>> = texts.iter().map(|text| words(text)).collect();
        let spans = texts.iter().enumerate().map(|(document, text)| {
            let own = &all[document];
            let repeats = own.windows(size).enumerate().filter(|(at, window)| {
                let before = all[..document].iter().any(|other| other.windows(size).any(|w| w == *window));
                before || (0..(at + 1).saturating_sub(size)).any(|start| own[start..start + size] == **window)
            });
            let repeat = |(at, _): (usize, &[&str])| Repeat { document: 0, start: at as u32, end: (at + size) as u32 };
            merge_word_spans(text, &mut repeats.map(repeat).collect::<Vec<_>>())
        });
        spans.collect()
    }

    #[test]
    fn white_space_does_not_count_and_stays_around_a_span() {
        let texts =
            ["one two three four five six seven eight", "So:  one two\nthree four   five six seven eight  nine"];
        let spans = repeated_word_spans(&texts, 8);
        assert_eq!(spans[0], []);
        assert_eq!(&texts[1][spans[1][0].clone()], "one two\nthree four   five six seven eight");
        assert_eq!(repeated_word_spans(&[texts[0], &texts[0].to_uppercase()], 8), [[], []]);
        let unspaced = "\u{4e16}\u{754c}\u{4f60}\u{597d}\u{5417}\u{670b}\u{53cb}\u{4eec}";
        let twice = &repeated_word_spans(&[unspaced, unspaced], 8)[1];
        assert_eq!((twice.len(), twice[0].clone()), (1, 0..24));
        assert_eq!(repeated_word_spans(&["", "word"], 8), [[], []]);
    }

    #[test]
    fn spans_are_those_of_brute_force_on_random_corpora() {
        let mut state = 29_u64;
        let mut random = |most: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % most
        };
        let mut removed = 0;
        for round in 0..120 {
            let kinds = [2, 6, 400][round % 3];
            let mut texts: Vec<String> = Vec::new();
            for _ in 0..1 + random(7) {
                let mut text = String::new();
                for _ in 0..random(5) {
                    let (start, count) = (random(60), 1 + random(30));
                    let copied = random(2) == 0 && !texts.is_empty();
                    let source = if copied { texts[random(texts.len())].clone() } else { String::new() };
                    let copied = words(&source).into_iter().skip(start).take(count).map(str::to_string);
                    let made: Vec<String> =
                        copied.chain((0..count / 2).map(|_| format!("w{}", random(kinds)))).collect();
                    made.iter().for_each(|word| text += &(word.clone() + [" ", "\n", "  "][random(3)]));
                }
                texts.push(text);
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let size = 8 + random(6);
            let found = repeated_word_spans(&texts, size);
            assert_eq!(found, brute_force(&texts, size), "{size} {texts:?}");
            removed += found.iter().flatten().map(Range::len).sum::<usize>();
        }
        assert!(removed > 2_000, "{removed}");
    }
}
