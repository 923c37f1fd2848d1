//! The one pass that turns a text into words, lines and sentences, shared by all rules.
//!
//! In: a text, or a text with the words and sentences that somebody else found in it. Out: `Tokens`: words with their place, hash
//! and kind, lines with their lengths, their pieces between white space and their sentences. No text is copied.
//! Leaves to `rules` what the numbers mean.
//!
//! A **word** is a token of spaCy's English tokenizer (`split`): `don't` is `do|n't`, `=====` five words, `-----` one, `word.Next`
//! three, a URL one. In scripts written without spaces (Han, Hiragana, Thai, Lao, Myanmar, Khmer) every character with its marks is a
//! word, which spaCy's English does not do: a dictionary would make the rules depend on its version.
//! A **sentence** begins at the first word of a line and at the first word that is no punctuation after a lone sentence mark, as in
//! spaCy's sentencizer. White space and line breaks are Python's (`str.isspace`, `str.splitlines`).

mod classes;
mod scan;
mod specials;
mod split;
mod tables;

use std::ops::Range;

use scan::Scanner;

/// One word, without its text. The text is shorter than 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// XXH3 of its bytes: equal words have equal hashes.
    pub hash: u64,
    /// First byte in the text.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Length in characters (Unicode code points).
    pub chars: u32,
    /// Whether it has a letter (general category L).
    pub alphabetic: bool,
    /// Whether there is nothing but punctuation and control characters in it (datatrove's set).
    pub symbol: bool,
}

impl Word {
    /// Its bytes in the text.
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One line, without what ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// First byte in the text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Characters before it in the text.
    pub chars_before: usize,
    /// Length in characters.
    pub chars: usize,
    /// Words in the sense of C4: pieces between white space.
    pub pieces: usize,
    /// Length of the longest piece, in characters.
    pub longest_piece: usize,
    /// Sentences in it, 0 if it is blank.
    pub sentences: usize,
}

impl Line {
    /// The line's text.
    pub fn of<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.end]
    }

    /// Whether there is nothing but white space in it.
    pub fn is_blank(&self) -> bool {
        self.pieces == 0
    }
}

/// A text taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All words, symbols included, in order.
    pub words: Vec<Word>,
    /// Lines between line feeds, empty ones included; a line feed at the very end begins no further line. No line in an empty text.
    pub lines: Vec<Line>,
    /// Characters in the text.
    pub chars: usize,
    /// Line feeds in the text.
    pub newlines: usize,
    /// Whether sentences come from outside, so that nobody may count them again.
    pub given: bool,
    /// Lines between breaks of any kind, if they are others than `lines`.
    rows: Option<Vec<Line>>,
}

impl Tokens {
    /// Lines as `str.splitlines` finds them: a carriage return, a form feed and others end one too.
    pub fn rows(&self) -> &[Line] {
        self.rows.as_deref().unwrap_or(&self.lines)
    }

    /// A text whose words and sentences somebody else has found: byte ranges in order. A sentence belongs to the line it begins in.
    ///
    /// # Panics
    /// If a range is no range of the text.
    pub fn given(text: &str, words: &[Range<usize>], sentences: &[Range<usize>]) -> Self {
        let mut scanner = Scanner::new(text, false);
        scanner.run();
        let mut tokens = std::mem::take(&mut scanner.tokens);
        tokens.words = words.iter().map(|word| scanner.word(word.start, word.end)).collect();
        tokens.given = true;
        let rows = tokens.rows.as_mut().unwrap_or(&mut tokens.lines);
        for row in rows {
            let from = sentences.partition_point(|sentence| sentence.start < row.start);
            row.sentences = sentences[from..].iter().take_while(|sentence| sentence.start <= row.end).count();
        }
        tokens
    }
}

/// Takes a text apart, in one pass.
pub fn tokenize(text: &str) -> Tokens {
    let mut scanner = Scanner::new(text, true);
    scanner.run();
    scanner.tokens
}

/// Sentences in a line, 0 if it is blank.
pub fn sentences(line: &str) -> usize {
    tokenize(line).rows().iter().map(|row| row.sentences).sum()
}

/// Runs of lines between empty lines, without white space at both ends of the text: their bytes and their length in characters.
pub fn paragraphs(text: &str, tokens: &Tokens) -> Vec<(Range<usize>, usize)> {
    let start = text.len() - text.trim_start_matches(is_space).len();
    let end = text.trim_end_matches(is_space).len();
    let mut found = Vec::new();
    for group in tokens.lines.split(|line| line.start == line.end) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let range = first.start.max(start)..last.end.min(end);
        if range.is_empty() {
            continue;
        }
        let clipped = range != (first.start..last.end);
        let chars = last.chars_before + last.chars - first.chars_before;
        let chars = if clipped { text[range.clone()].chars().count() } else { chars };
        found.push((range, chars));
    }
    found
}

/// White space to Python's `str.isspace`, `str.split` and `str.strip`.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

/// Whether a character ends a line of prose in some script: Unicode's `Sentence_Terminal` and three Khmer signs.
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() { matches!(c, '.' | '!' | '?') } else { tables::has(tables::TERMINALS, c as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokenize(text).words.iter().map(|word| &text[word.range()]).collect()
    }

    #[test]
    fn words_are_split_as_spacy_splits_english() {
        for (text, expected) in [
            ("", ""),
            (" \n\t ", ""),
            ("word", "word"),
            ("Hello, world!", "Hello ,|world !"),
            ("don't stop... it’s 3.14 or 10,000 at 12:30", "do n't|stop ...|it ’s|3.14|or|10,000|at|12:30"),
            ("well-known 2020-01-02 a/b 1/2", "well - known|2020 - 01 - 02|a / b|1/2"),
            ("end.Next e.g. example.org J. U.S. etc.", "end . Next|e.g.|example.org|J.|U.S.|etc ."),
            ("see https://a.org/c?d=e#f. Or mail me@x.org", "see|https://a.org/c?d=e#f .|Or|mail|me@x.org"),
            ("snake_case ----- *** (x) ====", "snake_case|-----|* * *|( x )|= = = ="),
            ("ls -l --all=yes -5 a--b -", "ls|-l|--all = yes|-5|a -- b|-"),
            ("10km 5% $3 (see 8) cannot 12pm", "10 km|5 %|$ 3|( see|8)|can not|12 pm"),
            ("Привет, мир", "Привет ,|мир"),
            ("नमस्ते दुनिया है।", "नमस्ते|दुनिया|है ।"),
            ("e\u{301}te\u{301} a\u{a0}b", "e\u{301}te\u{301}|a|b"),
            ("我爱你。", "我 爱 你 。"),
            ("東京タワーへ", "東 京 タワー へ"),
            ("สวัสดี", "ส วั ส ดี"),
            ("안녕하세요 세계", "안녕하세요|세계"),
            ("😀😀 ok ©2020", "😀 😀|ok|© 2020"),
        ] {
            let expected: Vec<&str> = expected.split([' ', '|']).filter(|word| !word.is_empty()).collect();
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn words_know_whether_they_have_letters_or_are_symbols() {
        let kinds: Vec<(bool, bool)> =
            tokenize("x2 42 ... _ 我 3.5 é → Ⅷ").words.iter().map(|word| (word.alphabetic, word.symbol)).collect();
        let (letters, neither, symbol) = ((true, false), (false, false), (false, true));
        assert_eq!(kinds, [letters, neither, symbol, symbol, letters, neither, letters, neither, neither]);
    }

    #[test]
    fn sentences_begin_after_lone_marks() {
        for (line, expected) in [
            ("", 0),
            ("...", 1),
            ("word", 1),
            ("One. Two! Three? four", 4),
            ("Mr. Smith paid 3.50 to J. Doe, e.g. in cash.", 1),
            ("He said \"Stop.\" Then he left.", 2),
            ("glued.Next one", 2),
            ("see example.org for more", 1),
            ("Wait... what?!", 1),
            ("我来了。你呢？好", 3),
            ("यह एक है। यह दो है।", 2),
            ("هل أنت هنا؟ نعم", 2),
        ] {
            assert_eq!(sentences(line), expected, "{line}");
        }
    }

    #[test]
    fn lines_and_rows_are_those_of_python() {
        let text = "Zwei Wörter\r\n\n  \nend\u{c}of\u{2028}all";
        let tokens = tokenize(text);
        let of = |lines: &[Line]| -> Vec<(String, usize, usize, usize)> {
            lines.iter().map(|line| (line.of(text).to_owned(), line.chars, line.pieces, line.longest_piece)).collect()
        };
        let row = |text: &str, chars, pieces, longest| (text.to_owned(), chars, pieces, longest);
        let first = [
            row("Zwei Wörter\r", 12, 2, 6),
            row("", 0, 0, 0),
            row("  ", 2, 0, 0),
            row("end\u{c}of\u{2028}all", 10, 3, 3),
        ];
        assert_eq!(of(&tokens.lines), first);
        let rows = [("Zwei Wörter", 11), ("", 0), ("  ", 2), ("end", 3), ("of", 2), ("all", 3)];
        assert_eq!(tokens.rows().iter().map(|row| (row.of(text), row.chars)).collect::<Vec<_>>(), rows);
        assert_eq!((tokens.chars, tokens.newlines), (text.chars().count(), 3));
        for (text, lines, rows) in
            [("", 0, 0), ("a\n", 1, 1), ("\n", 1, 1), ("a\r", 1, 1), ("\r\r\n", 1, 2), ("a\n\n", 2, 2)]
        {
            let tokens = tokenize(text);
            assert_eq!((tokens.lines.len(), tokens.rows().len()), (lines, rows), "{text:?}");
        }
    }

    #[test]
    fn paragraphs_are_separated_by_empty_lines_after_both_ends_are_trimmed() {
        let text = " \n\n one\ntwo\n\n\nthree\n\n \n\ndrei ß\n";
        let found: Vec<(&str, usize)> =
            paragraphs(text, &tokenize(text)).into_iter().map(|(bytes, chars)| (&text[bytes], chars)).collect();
        assert_eq!(found, [("one\ntwo", 7), ("three", 5), (" ", 1), ("drei ß", 6)]);
        assert!(paragraphs("", &tokenize("")).is_empty());
        assert!(paragraphs(" \n\n ", &tokenize(" \n\n ")).is_empty());
    }

    #[test]
    fn given_words_and_sentences_replace_our_own() {
        let text = "One two. Three.\nfour";
        let tokens = Tokens::given(text, &[0..3, 4..8, 16..20], &[0..8, 9..15, 16..20]);
        assert_eq!(tokens.words.iter().map(|word| &text[word.range()]).collect::<Vec<_>>(), ["One", "two.", "four"]);
        assert_eq!(tokens.rows().iter().map(|row| row.sentences).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(Tokens::given("", &[], &[]), Tokens { given: true, ..tokenize("") });
    }

    #[test]
    fn every_character_but_white_space_is_in_a_word() {
        let alphabet: Vec<char> = "ab. ,:-'\"()n$5+=/@\n\r…é我ดี😀_".chars().collect();
        let mut state = 7_u64;
        for _ in 0..2000 {
            let text: String = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    alphabet[(state >> 33) as usize % alphabet.len()]
                })
                .collect();
            let joined: String = words(&text).concat();
            assert_eq!(joined, text.split_whitespace().collect::<String>(), "{text:?}");
        }
    }
}
