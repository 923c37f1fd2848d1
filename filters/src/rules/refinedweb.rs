//! `refinedweb`: lines that are no prose, and how much of a text they are.
//!
//! In: a text and its tokens. Out: the share of words in lines, or parts of lines, that the line rules take out; and the cuts
//! themselves for `edit::refinedweb`. Penedo et al. 2023, "The RefinedWeb Dataset", section 3.2 and appendix G.2, with the values of
//! DCLM's re-implementation (Li et al. 2024, `dclm_baseline_refinedweb.yaml`): a line goes if more than half of its characters are
//! upper case, if all are digits, if it is a counter (`3 likes`), or if it has only one word; of lines with at most 10 words goes
//! "items in cart" anywhere, "Read more..." at the end and "Sign-in" at the beginning. A text is kept if that is at most 5 % of its
//! words. Words are pieces between white space. We differ: the dots of "Read more..." are dots or an ellipsis (there any three
//! characters), a line with a trailing carriage return is looked at without it.

use std::ops::Range;

use super::repetition::Share;
use crate::text::{Line, Tokens, is_space};

/// Lines with more words are never cut by their phrases.
const MAX_PHRASE_LINE_WORDS: usize = 10;
const COUNTED: [&str; 12] = [
    "likes",
    "shares",
    "comments",
    "retweets",
    "reposts",
    "quotes",
    "bookmarks",
    "upvotes",
    "downvotes",
    "downloads",
    "views",
    "followers",
];

/// What is cut: a range of the text, the rule and the number of words in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub range: Range<usize>,
    pub rule: &'static str,
    pub words: usize,
    /// Whether nothing of its line is left.
    pub whole: bool,
}

/// Words that are cut, of all words.
pub(super) fn measure(text: &str, tokens: &Tokens) -> Share {
    let whole = tokens.lines.iter().map(|line| line.pieces).sum();
    Share { part: cuts(text, tokens).iter().map(|cut| cut.words).sum(), whole }
}

/// Everything the line rules take out of a text, in order.
pub(crate) fn cuts(text: &str, tokens: &Tokens) -> Vec<Cut> {
    let mut found = Vec::new();
    for line in &tokens.lines {
        let body = line.of(text);
        let body = body.strip_suffix('\r').unwrap_or(body);
        let range = line.start..line.start + body.len();
        if body.is_empty() {
            continue;
        }
        if let Some(rule) = line_rule(body, line) {
            found.push(Cut { range, rule, words: line.pieces, whole: true });
        } else if line.pieces <= MAX_PHRASE_LINE_WORDS {
            phrases(body, line, &mut found);
        }
    }
    found
}

/// The rule that takes out a whole line.
fn line_rule(body: &str, line: &Line) -> Option<&'static str> {
    let (mut chars, mut upper, mut digits) = (0_usize, 0_usize, 0_usize);
    for c in body.chars() {
        chars += 1;
        upper += usize::from(c.is_uppercase());
        digits += usize::from(c.is_numeric());
    }
    match () {
        () if 2 * upper > chars => Some("refinedweb.uppercase"),
        () if digits == chars => Some("refinedweb.numeric"),
        () if is_counter(body) => Some("refinedweb.counter"),
        () if line.pieces < 2 => Some("refinedweb.one_word"),
        () => None,
    }
}

/// A number, perhaps in thousands or millions, and what it counts, between anything but letters and digits.
fn is_counter(body: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let inner = body.trim_matches(|c: char| !is_word(c));
    if !inner.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    let after = inner.trim_start_matches(|c: char| c.is_ascii_digit() || c == ',' || c == '.');
    let after = after.strip_prefix(['K', 'k', 'M', 'm', 'B', 'b']).unwrap_or(after);
    let counted = after.trim_start_matches(is_space);
    counted.len() < after.len() && COUNTED.iter().any(|word| word.eq_ignore_ascii_case(counted))
}

/// The phrases that are cut out of a short line; the whole line if nothing else is in it.
fn phrases(body: &str, line: &Line, found: &mut Vec<Cut>) {
    let lower = body.to_ascii_lowercase();
    let mut ranges: Vec<(Range<usize>, &'static str)> = Vec::new();
    let with_space_before = |start: usize| {
        let before = &body[..start];
        before.len() - before.chars().next_back().filter(|&c| is_space(c)).map_or(0, char::len_utf8)
    };
    for (start, phrase) in lower.match_indices("items in cart") {
        ranges.push((with_space_before(start)..start + phrase.len(), "refinedweb.cart"));
    }
    if let Some(rest) = lower.strip_suffix("read more...").or_else(|| lower.strip_suffix("read more…")) {
        ranges.push((with_space_before(rest.len())..body.len(), "refinedweb.read_more"));
    }
    if let Some(rest) = lower.strip_prefix("sign-in") {
        let space = rest.chars().next().filter(|&c| is_space(c)).map_or(0, char::len_utf8);
        ranges.push((0..body.len() - rest.len() + space, "refinedweb.sign_in"));
    }
    ranges.sort_by_key(|(range, _)| range.start);
    ranges.dedup_by(|next, earlier| next.0.start < earlier.0.end);
    let Some((_, rule)) = ranges.first() else { return };
    let mut left = String::new();
    let mut from = 0;
    for (range, _) in &ranges {
        left.push_str(&body[from..range.start]);
        from = range.end;
    }
    left.push_str(&body[from..]);
    let pieces = |text: &str| text.split(is_space).filter(|piece| !piece.is_empty()).count();
    if pieces(&left) == 0 {
        found.push(Cut { range: line.start..line.start + body.len(), rule, words: line.pieces, whole: true });
        return;
    }
    let mut lost = line.pieces.saturating_sub(pieces(&left));
    for (range, rule) in ranges {
        // Words are lost by all cuts of a line together, so the first of them says how many.
        let words = std::mem::take(&mut lost);
        found.push(Cut { range: line.start + range.start..line.start + range.end, rule, words, whole: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenize;

    fn of(text: &str) -> Vec<(&str, &'static str)> {
        cuts(text, &tokenize(text)).into_iter().map(|cut| (&text[cut.range], cut.rule)).collect()
    }

    #[test]
    fn lines_that_are_no_prose_are_cut_whole() {
        let rows = [
            ("", None),
            ("word", Some("refinedweb.one_word")),
            ("A line of prose", None),
            ("BUY NOW and save", None),
            ("BUY NOW OR GO now", Some("refinedweb.uppercase")),
            ("20240131", Some("refinedweb.numeric")),
            ("2024 01", None),
            ("3 likes", Some("refinedweb.counter")),
            ("• 1.2K  Followers!", Some("refinedweb.counter")),
            ("3 likes it", None),
            ("我们都在这里", Some("refinedweb.one_word")),
        ];
        for (line, rule) in rows {
            assert_eq!(of(line), rule.map(|rule| (line, rule)).into_iter().collect::<Vec<_>>(), "{line}");
        }
    }

    #[test]
    fn phrases_are_cut_out_of_short_lines_only() {
        assert_eq!(of("you have 3 Items in Cart now"), [(" Items in Cart", "refinedweb.cart")]);
        assert_eq!(of("the story goes on Read more..."), [(" Read more...", "refinedweb.read_more")]);
        assert_eq!(of("Sign-in or register"), [("Sign-in ", "refinedweb.sign_in")]);
        assert_eq!(of("Read more…"), [("Read more…", "refinedweb.read_more")]);
        assert_eq!(of("a b c d e f g h i j k read more..."), []);
    }

    #[test]
    fn the_share_is_of_words_between_white_space() {
        let text = "A line of prose with words\nLOGIN\n3 likes\nit goes on Read more...";
        assert_eq!(measure(text, &tokenize(text)), Share { part: 5, whole: 14 });
        assert_eq!(measure("", &tokenize("")).value(), None);
        assert_eq!(measure("word", &tokenize("word")), Share { part: 1, whole: 1 });
    }
}
