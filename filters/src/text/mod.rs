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
mod specials;
mod split;
mod tables;

use std::ops::Range;
use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use classes::{BREAK, Class, LETTER, MARK, PLAIN, PUNCT, SENTENCE_MARK, SOLO, SPACE, SYMBOL, WIDE, class_of};
use specials::Specials;
use split::Splitter;

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

static SPECIALS: LazyLock<Specials> = LazyLock::new(|| {
    specials::build(|piece| {
        let table = classes::table();
        let seen = piece.chars().fold(0, |seen, c| seen | class_of(table, c));
        let mut splitter = Splitter::new(piece, None);
        splitter.split(0, piece.len(), seen);
        splitter.tokens.iter().map(|token| (token.1 - token.0) as u8).collect()
    })
});

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    table: &'static [Class],
    specials: &'static Specials,
    splitter: Splitter<'a>,
    splits: bool,
    at: usize,
    /// Characters before `at`.
    chars: usize,
    line: Line,
    row: Line,
    /// Whether a sentence mark was seen in this row.
    after_mark: bool,
    tokens: Tokens,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str, splits: bool) -> Self {
        assert!(
            text.len() <= u32::MAX as usize,
            "a text is shorter than 4 GiB, because no column of texts holds a longer one"
        );
        let words = if splits { Vec::with_capacity(text.len() / 5) } else { Vec::new() };
        Self {
            text,
            bytes: text.as_bytes(),
            table: classes::table(),
            specials: &SPECIALS,
            splitter: Splitter::new(text, Some(&SPECIALS)),
            splits,
            at: 0,
            chars: 0,
            line: Line::default(),
            row: Line::default(),
            after_mark: false,
            tokens: Tokens { words, lines: Vec::with_capacity(text.len() / 64), ..Tokens::default() },
        }
    }

    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let (class, width) = self.class_at(self.at);
            if class & SPACE == 0 {
                self.piece();
            } else if class & BREAK == 0 {
                self.at += width;
                self.chars += 1;
            } else {
                self.line_break(width);
            }
        }
        if self.row.start < self.bytes.len() {
            self.end_row();
        }
        if self.line.start < self.bytes.len() {
            self.end_line();
        }
        self.tokens.chars = self.chars;
    }

    /// Class and width in bytes of the character at a byte offset.
    #[inline(always)]
    fn class_at(&self, at: usize) -> (Class, usize) {
        let byte = self.bytes[at];
        if byte < 0x80 {
            return (self.table[usize::from(byte)], 1);
        }
        let c = self.text[at..].chars().next().unwrap_or('\0');
        (class_of(self.table, c), c.len_utf8())
    }

    fn line_break(&mut self, width: usize) {
        let newline = self.bytes[self.at] == b'\n';
        if !newline && self.tokens.rows.is_none() {
            self.tokens.rows = Some(self.tokens.lines.clone());
        }
        self.end_row();
        if self.bytes[self.at..].starts_with(b"\r\n") {
            self.at += 1;
            self.chars += 1;
            self.end_line();
            self.tokens.newlines += 1;
        } else if newline {
            self.end_line();
            self.tokens.newlines += 1;
        }
        let at_line_feed = self.bytes[self.at] == b'\n';
        self.at += width;
        self.chars += 1;
        self.row = Line { start: self.at, chars_before: self.chars, ..Line::default() };
        if at_line_feed {
            self.line = Line { start: self.at, chars_before: self.chars, ..Line::default() };
        }
    }

    fn end_row(&mut self) {
        self.row.end = self.at;
        self.row.chars = self.chars - self.row.chars_before;
        self.line.pieces += self.row.pieces;
        self.line.longest_piece = self.line.longest_piece.max(self.row.longest_piece);
        self.line.sentences += self.row.sentences;
        if let Some(rows) = &mut self.tokens.rows {
            rows.push(self.row);
        }
        self.after_mark = false;
    }

    fn end_line(&mut self) {
        self.line.end = self.at;
        self.line.chars = self.chars - self.line.chars_before;
        self.tokens.lines.push(self.line);
    }

    /// Takes the piece that begins at `at`.
    fn piece(&mut self) {
        let (start, before) = (self.at, self.chars);
        let (mut seen, mut last) = (0, 0);
        let letters = self.bytes[start..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        if letters > 0 {
            (self.at, self.chars) = (start + letters, before + letters);
            seen = if letters > 1 { PLAIN_BITS } else { 0 };
            last = self.table[usize::from(self.bytes[self.at - 1])];
        }
        while self.at < self.bytes.len() {
            let (class, width) = self.class_at(self.at);
            if class & SPACE != 0 {
                break;
            }
            // All but the last character, which is often a full stop or a comma.
            seen |= last;
            last = class;
            self.at += width;
            self.chars += 1;
        }
        self.row.pieces += 1;
        self.row.longest_piece = self.row.longest_piece.max(self.chars - before);
        if !self.splits {
            return;
        }
        let end = self.at;
        if is_plain(seen | last) {
            return self.plain(start, end);
        }
        if seen != 0 && is_plain(seen) && self.ends_sentence_or_clause(start, end) {
            self.plain(start, end - 1);
            return self.push(end - 1, end);
        }
        self.splitter.split(start, end, seen | last);
        for at in 0..self.splitter.tokens.len() {
            let (from, to) = self.splitter.tokens[at];
            self.push(from, to);
        }
    }

    /// Whether ASCII letters are followed by one mark that no special piece and no rule keeps with them.
    #[inline]
    fn ends_sentence_or_clause(&self, start: usize, end: usize) -> bool {
        match self.bytes[end - 1] {
            b',' | b';' | b'?' | b'!' | b')' => true,
            // `id.` is `i|d.`: what a contraction leaves may itself be special with its full stop.
            b'.' => {
                let special = |end| self.specials.get(&self.bytes[start..end]).is_some();
                self.bytes[end - 2].is_ascii_lowercase() && !special(end) && !special(end - 1)
            }
            _ => false,
        }
    }

    /// Pushes ASCII letters: one word, or a contraction.
    #[inline]
    fn plain(&mut self, start: usize, end: usize) {
        if let Some(special) = self.specials.get(&self.bytes[start..end]) {
            let mut from = start;
            for &length in &special.parts {
                self.push(from, from + usize::from(length));
                from += usize::from(length);
            }
            return;
        }
        self.begins_word(false, false);
        self.tokens.words.push(Word {
            hash: xxh3_64(&self.bytes[start..end]),
            start: start as u32,
            end: end as u32,
            chars: (end - start) as u32,
            alphabetic: true,
            symbol: false,
        });
    }

    /// Counts the sentence that this word begins, if it does.
    #[inline]
    fn begins_word(&mut self, mark: bool, punctuation: bool) {
        if self.row.sentences == 0 {
            self.row.sentences = 1;
            self.after_mark = mark;
        } else if mark {
            self.after_mark = true;
        } else if self.after_mark && !punctuation {
            self.row.sentences += 1;
            self.after_mark = false;
        }
    }

    fn push(&mut self, start: usize, end: usize) {
        let (all, any, chars) = self.classes(start, end);
        if any & SOLO != 0 {
            return self.solos(start, end);
        }
        self.begins_word(all & SENTENCE_MARK != 0 && chars == 1, all & PUNCT != 0);
        let word = self.word_of(start, end, (all, any, chars));
        self.tokens.words.push(word);
    }

    /// Bits of all characters, bits of any character, and their number.
    fn classes(&self, start: usize, end: usize) -> (Class, Class, usize) {
        let (mut all, mut any, mut chars, mut at) = (Class::MAX, 0, 0, start);
        while at < end {
            let (class, width) = self.class_at(at);
            (all, any, chars, at) = (all & class, any | class, chars + 1, at + width);
        }
        (all, any, chars)
    }

    fn word(&self, start: usize, end: usize) -> Word {
        self.word_of(start, end, self.classes(start, end))
    }

    #[inline]
    fn word_of(&self, start: usize, end: usize, (all, any, chars): (Class, Class, usize)) -> Word {
        Word {
            hash: xxh3_64(&self.bytes[start..end]),
            start: start as u32,
            end: end as u32,
            chars: chars as u32,
            alphabetic: any & LETTER != 0,
            symbol: all & SYMBOL != 0,
        }
    }

    /// A token with characters of scripts without spaces: each of them with its marks is a word, so is what stands between them.
    fn solos(&mut self, start: usize, end: usize) {
        let mut from = start;
        while from < end {
            let (first, width) = self.class_at(from);
            let mut to = from + width;
            while to < end {
                let (class, width) = self.class_at(to);
                let goes_on = class & MARK != 0 || (first & SOLO == 0 && class & SOLO == 0 && is_like(first, class));
                if !goes_on {
                    break;
                }
                to += width;
            }
            let classes = self.classes(from, to);
            self.begins_word(classes.0 & SENTENCE_MARK != 0 && classes.2 == 1, classes.0 & PUNCT != 0);
            let word = self.word_of(from, to, classes);
            self.tokens.words.push(word);
            from = to;
        }
    }
}

/// Both punctuation or neither.
fn is_like(one: Class, other: Class) -> bool {
    (one & PUNCT == 0) == (other & PUNCT == 0)
}

/// ASCII letters only.
#[inline]
fn is_plain(seen: Class) -> bool {
    seen & !PLAIN_BITS == 0
}

/// All bits an ASCII letter may have.
const PLAIN_BITS: Class = LETTER | PLAIN | classes::LOWER | classes::UPPER | classes::BEFORE_STOP;
const _: () = assert!(PLAIN_BITS & WIDE == 0);

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
