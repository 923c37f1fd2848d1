//! The one pass that turns a text into words and lines, shared by all rules.
//!
//! In: a text. Out: `Tokens`: words as (hash, length, kind), lines with their lengths and whitespace-separated words, and the
//! total number of characters; plus `paragraphs` over those lines. No text is copied.
//! Leaves to `rules` what the numbers mean.
//!
//! A **word** is a run of letters, digits and marks; an apostrophe, full stop, comma, colon, hyphen, slash or at sign between two
//! of them joins as it does in spaCy's English tokenizer (`3.14`, `10,000`, `12:30`, `example.org`, `1/2`, but `well|-|known`), and
//! a URL is one word, and so are `--option` and `-5`. A run of one and the same symbol is a word too (`...`, `===`). In scripts written without spaces (Han,
//! Hiragana, Thai, Lao, Myanmar, Khmer) every character with its marks is a word: a dictionary would make the rules depend on its
//! version. Unlike spaCy, `don't` and `=====` are one word. Unicode: Rust's own `Alphabetic` and `Numeric`; UAX #29 agrees but for the joiners.

mod sentences;

use std::ops::Range;
use std::sync::LazyLock;

use unicode_normalization::char::is_combining_mark;
use xxhash_rust::xxh3::xxh3_64;

pub use sentences::{is_terminal, sentences};

/// What a word is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordKind {
    /// At least one letter.
    Alphabetic,
    /// Digits, no letter.
    Numeric,
    /// Neither letters nor digits.
    Symbol,
}

/// One word, without its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// XXH3 of its bytes: equal words have equal hashes.
    pub hash: u64,
    /// Length in characters (Unicode code points).
    pub chars: u32,
    /// What it is made of.
    pub kind: WordKind,
}

/// One line, without its line feed or carriage return and line feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// All lines, empty ones included; a line feed at the very end begins no further line. No line in an empty text.
    pub lines: Vec<Line>,
    /// Characters in the text.
    pub chars: usize,
    /// Line feeds in the text.
    pub newlines: usize,
}

/// Takes a text apart, in one pass over its bytes.
pub fn tokenize(text: &str) -> Tokens {
    let mut scanner = Scanner {
        text,
        bytes: text.as_bytes(),
        classes: &CLASSES,
        at: 0,
        chars: 0,
        line: Line { start: 0, end: 0, chars_before: 0, chars: 0, pieces: 0, longest_piece: 0 },
        piece_start: None,
        tokens: Tokens {
            words: Vec::with_capacity(text.len() / 5),
            lines: Vec::with_capacity(text.len() / 64),
            ..Tokens::default()
        },
    };
    scanner.run();
    scanner.tokens
}

/// Runs of lines between empty lines: their bytes and their length in characters. Runs of nothing but white space are left out.
pub fn paragraphs(tokens: &Tokens) -> Vec<(Range<usize>, usize)> {
    let mut found = Vec::new();
    for group in tokens.lines.split(|line| line.start == line.end) {
        if let (Some(first), Some(last)) = (group.first(), group.last())
            && !group.iter().all(Line::is_blank)
        {
            found.push((first.start..last.end, last.chars_before + last.chars - first.chars_before));
        }
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    Space,
    Newline,
    Letter,
    Digit,
    /// A combining mark or joiner: belongs to the character before it.
    Mark,
    /// A character of a script written without spaces.
    Solo,
    Symbol,
}

impl Class {
    fn is_inside(self) -> bool {
        matches!(self, Self::Letter | Self::Digit)
    }
}

/// The class of every character of the Basic Multilingual Plane.
static CLASSES: LazyLock<Vec<Class>> =
    LazyLock::new(|| (0..=0xFFFF).map(|code| char::from_u32(code).map_or(Class::Symbol, classify)).collect());

fn classify(c: char) -> Class {
    match c {
        '\n' => Class::Newline,
        c if c.is_whitespace() || c.is_control() || c == '\u{FEFF}' || c == '\u{200B}' => Class::Space,
        '\u{AD}' | '\u{200C}' | '\u{200D}' | '\u{2060}' => Class::Mark,
        '_' => Class::Letter, // joins as in identifiers; a word of underscores alone becomes a symbol
        c if is_combining_mark(c) => Class::Mark,
        '\u{2E80}'..='\u{2FDF}'
        | '\u{3005}'..='\u{3007}'
        | '\u{3021}'..='\u{3029}'
        | '\u{3038}'..='\u{303B}'
        | '\u{3041}'..='\u{309F}'
        | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}'
        | '\u{0E01}'..='\u{0E30}'
        | '\u{0E32}'..='\u{0E33}'
        | '\u{0E40}'..='\u{0E46}'
        | '\u{0E81}'..='\u{0EB0}'
        | '\u{0EB2}'..='\u{0EC6}'
        | '\u{0EDC}'..='\u{0EDF}'
        | '\u{1000}'..='\u{103F}'
        | '\u{1050}'..='\u{108F}'
        | '\u{1780}'..='\u{17B3}' => Class::Solo,
        c if c.is_alphabetic() => Class::Letter,
        c if c.is_numeric() => Class::Digit,
        _ => Class::Symbol,
    }
}

struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    classes: &'a [Class],
    at: usize,
    /// Characters before `at`.
    chars: usize,
    line: Line,
    /// Characters before the piece that `at` is in.
    piece_start: Option<usize>,
    tokens: Tokens,
}

impl Scanner<'_> {
    fn run(&mut self) {
        while self.at < self.bytes.len() {
            let (class, width) = self.class_at(self.at);
            match class {
                Class::Newline => {
                    self.end_line();
                    self.step(width);
                    self.tokens.newlines += 1;
                    self.line = Line {
                        start: self.at,
                        end: self.at,
                        chars_before: self.chars,
                        chars: 0,
                        pieces: 0,
                        longest_piece: 0,
                    };
                    continue;
                }
                Class::Space => {
                    self.end_piece();
                    self.step(width);
                    continue;
                }
                _ => {}
            }
            let begins_piece = self.piece_start.is_none();
            if begins_piece {
                self.piece_start = Some(self.chars);
            }
            match class {
                Class::Solo => self.solo(width),
                Class::Letter | Class::Digit => self.word(0),
                Class::Symbol if begins_piece && self.bytes[self.at] == b'-' => self.hyphens(),
                _ => self.symbols(width),
            }
        }
        if self.line.start < self.bytes.len() {
            self.end_line();
        }
        self.tokens.chars = self.chars;
    }

    /// Class and width in bytes of the character at a byte offset; the end of the text counts as a space.
    #[inline]
    fn class_at(&self, at: usize) -> (Class, usize) {
        match self.bytes.get(at) {
            None => (Class::Space, 0),
            Some(&byte) if byte < 0x80 => (self.classes[usize::from(byte)], 1),
            Some(_) => {
                let c = self.char_at(at);
                let class = self.classes.get(c as usize).copied().unwrap_or_else(|| classify(c));
                (class, c.len_utf8())
            }
        }
    }

    fn char_at(&self, at: usize) -> char {
        self.text[at..].chars().next().expect("the caller stands on a character")
    }

    #[inline]
    fn step(&mut self, width: usize) {
        self.at += width;
        self.chars += 1;
    }

    fn end_piece(&mut self) {
        if let Some(start) = self.piece_start.take() {
            self.line.pieces += 1;
            self.line.longest_piece = self.line.longest_piece.max(self.chars - start);
        }
    }

    fn end_line(&mut self) {
        self.end_piece();
        let has_return = self.at > self.line.start && self.bytes[self.at - 1] == b'\r';
        self.line.end = self.at - usize::from(has_return);
        self.line.chars = self.chars - self.line.chars_before - usize::from(has_return);
        self.tokens.lines.push(self.line);
    }

    fn push(&mut self, start: usize, chars_before: usize, kind: WordKind) {
        let hash = xxh3_64(&self.bytes[start..self.at]);
        self.tokens.words.push(Word { hash, chars: (self.chars - chars_before) as u32, kind });
    }

    fn solo(&mut self, width: usize) {
        let (start, before) = (self.at, self.chars);
        self.step(width);
        self.marks();
        self.push(start, before, WordKind::Alphabetic);
    }

    fn marks(&mut self) {
        while let (Class::Mark, width) = self.class_at(self.at) {
            self.step(width);
        }
    }

    /// A run of one and the same symbol, with the marks on it.
    fn symbols(&mut self, width: usize) {
        let (start, before) = (self.at, self.chars);
        self.step(width);
        while self.bytes[self.at..].starts_with(&self.bytes[start..start + width]) {
            self.step(width);
        }
        self.marks();
        self.push(start, before, WordKind::Symbol);
    }

    /// Hyphens at the beginning of a piece belong to the word that follows at once: `--option`, `-5`.
    fn hyphens(&mut self) {
        let count = self.bytes[self.at..].iter().take_while(|&&byte| byte == b'-').count();
        if self.class_at(self.at + count).0.is_inside() {
            self.word(count);
        } else {
            self.symbols(1);
        }
    }

    /// A word that begins with this many hyphens.
    fn word(&mut self, hyphens: usize) {
        let (start, before) = (self.at, self.chars);
        self.at += hyphens;
        self.chars += hyphens;
        let mut kind = WordKind::Symbol;
        let mut last = Class::Letter;
        loop {
            let (class, width) = self.class_at(self.at);
            match class {
                Class::Letter => {
                    if self.bytes[self.at] != b'_' {
                        kind = WordKind::Alphabetic;
                    }
                    last = class;
                }
                Class::Digit => {
                    if kind == WordKind::Symbol {
                        kind = WordKind::Numeric;
                    }
                    last = class;
                }
                Class::Mark => {}
                Class::Symbol if self.bytes[self.at..].starts_with(b"://") => {
                    self.url();
                    break;
                }
                Class::Symbol if self.joins(width, last) => {}
                _ => break,
            }
            self.step(width);
        }
        self.push(start, before, kind);
    }

    /// Whether the symbol at `at` joins the letters or digits on both its sides into one word.
    fn joins(&self, width: usize, last: Class) -> bool {
        let next = self.class_at(self.at + width).0;
        let digits = last == Class::Digit && next == Class::Digit;
        match self.bytes[self.at] {
            b'\'' | b'@' => next.is_inside(),
            b'.' => next.is_inside() && !self.sentence_ends_here(next),
            b',' | b':' | b'-' | b'/' => digits,
            0xE2 => self.char_at(self.at) == '\u{2019}' && next.is_inside(),
            _ => false,
        }
    }

    /// `word.Next`: a lower-case letter before the full stop at `at` and an upper-case one after it.
    fn sentence_ends_here(&self, next: Class) -> bool {
        next == Class::Letter
            && self.bytes[self.at + 1].is_ascii_uppercase()
            && self.bytes[self.at - 1].is_ascii_lowercase()
    }

    /// The rest of a URL: up to white space, a quote or a bracket, without the punctuation that ends a sentence.
    fn url(&mut self) {
        let stop = |byte: &u8| {
            byte.is_ascii_whitespace() || byte.is_ascii_control() || b"\"<>`{}|^".contains(byte) || *byte >= 0x80
        };
        let rest = &self.bytes[self.at..];
        let mut length = rest.iter().position(stop).unwrap_or(rest.len());
        while length > 3 && b".,;:!?)]'*".contains(&rest[length - 1]) {
            length -= 1;
        }
        self.at += length;
        self.chars += length; // all ASCII
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a text, found again by their lengths: tokenizing never skips anything but white space.
    fn words(text: &str) -> Vec<String> {
        let mut rest = text;
        let mut found = Vec::new();
        for word in tokenize(text).words {
            rest = rest.trim_start_matches(|c: char| classify(c) == Class::Space || c == '\n');
            let end = rest.char_indices().nth(word.chars as usize).map_or(rest.len(), |(at, _)| at);
            assert_eq!(word.hash, xxh3_64(&rest.as_bytes()[..end]), "{text}");
            found.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        assert!(
            rest.chars().all(|c| matches!(classify(c), Class::Space | Class::Newline)),
            "{rest:?} is left of {text:?}"
        );
        found
    }

    #[test]
    fn words_are_split_as_people_would_in_many_scripts() {
        for (text, expected) in [
            ("", ""),
            (" \n\t ", ""),
            ("word", "word"),
            ("Hello, world!", "Hello|,|world|!"),
            ("don't stop... it’s 3.14 or 10,000 at 12:30", "don't|stop|...|it’s|3.14|or|10,000|at|12:30"),
            ("well-known 2020-01-02 a/b 1/2", "well|-|known|2020-01-02|a|/|b|1/2"),
            ("end.Next e.g. example.org", "end|.|Next|e.g|.|example.org"),
            ("see https://a.b/c?d=e#f. Or mail me@x.org", "see|https://a.b/c?d=e#f|.|Or|mail|me@x.org"),
            ("snake_case --- *** (x)", "snake_case|---|***|(|x|)"),
            ("ls -l --all=yes -5 a--b -", "ls|-l|--all|=|yes|-5|a|--|b|-"),
            ("Привет, мир", "Привет|,|мир"),
            ("नमस्ते दुनिया", "नमस्ते|दुनिया"),
            ("e\u{301}te\u{301} cafe\u{301}", "e\u{301}te\u{301}|cafe\u{301}"),
            ("我爱你。", "我|爱|你|。"),
            ("東京タワーへ", "東|京|タワー|へ"),
            ("สวัสดี", "ส|วั|ส|ดี"),
            ("안녕하세요 세계", "안녕하세요|세계"),
            ("a\u{a0}b", "a|b"),
            ("😀😀 ok", "😀😀|ok"),
        ] {
            let expected: Vec<&str> = expected.split('|').filter(|word| !word.is_empty()).collect();
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn words_know_whether_they_have_letters() {
        let kinds: Vec<WordKind> = tokenize("x2 42 ... _ 我 3.5 é").words.iter().map(|word| word.kind).collect();
        use WordKind::{Alphabetic, Numeric, Symbol};
        assert_eq!(kinds, [Alphabetic, Numeric, Symbol, Symbol, Alphabetic, Numeric, Alphabetic]);
    }

    #[test]
    fn lines_keep_their_lengths_in_bytes_characters_and_pieces() {
        let text = "Zwei Wörter\r\n\n  \nend";
        let tokens = tokenize(text);
        let lines: Vec<(&str, usize, usize, usize)> =
            tokens.lines.iter().map(|line| (line.of(text), line.chars, line.pieces, line.longest_piece)).collect();
        assert_eq!(lines, [("Zwei Wörter", 11, 2, 6), ("", 0, 0, 0), ("  ", 2, 0, 0), ("end", 3, 1, 3)]);
        assert_eq!((tokens.chars, tokens.newlines), (text.chars().count(), 3));
        assert_eq!(tokenize("").lines.len(), 0);
        assert_eq!(tokenize("a\n").lines.len(), 1);
        assert_eq!(tokenize("\n").lines.len(), 1);
    }

    #[test]
    fn paragraphs_are_separated_by_empty_lines() {
        let text = "\n\none\ntwo\n\n\nthree\n\n \n\ndrei ß\n";
        let found: Vec<(&str, usize)> =
            paragraphs(&tokenize(text)).into_iter().map(|(bytes, chars)| (&text[bytes], chars)).collect();
        assert_eq!(found, [("one\ntwo", 7), ("three", 5), ("drei ß", 6)]);
        assert!(paragraphs(&tokenize("")).is_empty());
    }
}
