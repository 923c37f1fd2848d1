//! The words that the word tasks use.
//!
//! In: documents. Out: their most frequent short words (which a tokenizer trained on them holds as one token each), or a
//! fixed list where there are too few. Ties go to the alphabetically first.

use std::collections::HashMap;

use crate::rng::Stream;

/// Fewer words would make prompts repeat.
pub(super) const MIN_WORDS: usize = 8;
/// A word must occur so often to be taken from the documents.
const MIN_COUNT: u32 = 20;

const COMMON: &str = "able about after again also back been best both call case come data down each even file find first \
form from give good group hand have help here high home into just keep kind know last left life line list long look made \
make many more most move much must name need next only open over page part place point read right same set show side small \
some state such take tell than that them then there they this time turn type under use very want way well what when where \
which while will with word work world year you your";

/// The `n` most frequent lower-case ASCII words of 3 to 6 letters that stand between two spaces and occur at least 20
/// times; may be fewer than `n`.
pub fn frequent_words(documents: &[(&str, &str)], n: usize) -> Vec<String> {
    let mut counts: HashMap<&str, u32> = HashMap::new();
    for (_, text) in documents {
        let pieces: Vec<&str> = text.split(' ').collect();
        for &word in pieces.iter().skip(1).take(pieces.len().saturating_sub(2)) {
            if (3..=6).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase()) {
                *counts.entry(word).or_default() += 1;
            }
        }
    }
    let mut words: Vec<_> = counts.into_iter().filter(|&(_, count)| count >= MIN_COUNT).collect();
    words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    words.into_iter().take(n).map(|(word, _)| word.to_owned()).collect()
}

/// `n` words of the documents, or as many of the fixed list if the documents have fewer.
pub(super) fn word_list(documents: &[(&str, &str)], n: usize) -> Vec<String> {
    let words = frequent_words(documents, n);
    if words.len() == n {
        return words;
    }
    COMMON.split_ascii_whitespace().take(n).map(str::to_owned).collect()
}

/// `n` different words, by rejection.
pub(super) fn distinct<'a>(words: &'a [String], n: usize, stream: &mut Stream) -> Vec<&'a str> {
    let mut out: Vec<&str> = Vec::with_capacity(n);
    while out.len() < n {
        let word = words[stream.below(words.len())].as_str();
        if !out.contains(&word) {
            out.push(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_words_are_counted_between_spaces_and_ordered_by_count_then_name() {
        let text = format!("{}{}{}end", "a big red ".repeat(30), "the blue ".repeat(25), "über été ".repeat(40));
        let words = frequent_words(&[("d", &text)], 3);
        assert_eq!(words, ["big", "red", "blue"]);
        assert!(frequent_words(&[("d", ""), ("e", "word")], 3).is_empty());
    }

    #[test]
    fn too_few_frequent_words_fall_back_to_the_fixed_list() {
        assert_eq!(word_list(&[], 64).len(), 64);
        let mut list: Vec<_> = COMMON.split_ascii_whitespace().collect();
        let n = list.len();
        list.sort_unstable();
        list.dedup();
        assert_eq!(list.len(), n);
        assert!(n >= 100 && list.iter().all(|w| (2..=6).contains(&w.len())));
    }

    #[test]
    fn distinct_words_are_distinct() {
        let words = word_list(&[], 8);
        let mut stream = Stream::new(&[1.into()]);
        for _ in 0..100 {
            let mut five = distinct(&words, 5, &mut stream);
            five.sort_unstable();
            five.dedup();
            assert_eq!(five.len(), 5);
        }
    }
}
