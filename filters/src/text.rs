//! The one pass that turns a text into words and lines, shared by all rules.
//!
//! In: a text. Out: `Tokens`: words as (hash, length, kind), lines with their lengths and whitespace-separated words, and the
//! total number of characters; plus `paragraphs` over those lines and `sentences` of one line. No text is copied.
//! Leaves to `rules` what the numbers mean.
//!
//! A **word** is a run of letters, digits and marks; an apostrophe, full stop, comma, colon, hyphen, slash or at sign between two
//! of them joins as it does in spaCy's English tokenizer (`3.14`, `10,000`, `12:30`, `example.org`, `1/2`, but `well|-|known`), and
//! a URL is one word, and so are `--option` and `-5`. A run of one and the same symbol is a word too (`...`, `===`). In scripts written without spaces (Han,
//! Hiragana, Thai, Lao, Myanmar, Khmer) every character with its marks is a word: a dictionary would make the rules depend on its
//! version. Unlike spaCy, `don't` and `=====` are one word. Unicode: Rust's own `Alphabetic` and `Numeric`; UAX #29 agrees but for the joiners.

use std::ops::Range;
use std::sync::LazyLock;

use unicode_normalization::char::is_combining_mark;
use xxhash_rust::xxh3::xxh3_64;

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
        tokens: Tokens { words: Vec::with_capacity(text.len() / 5), lines: Vec::with_capacity(text.len() / 64), ..Tokens::default() },
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
static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    (0..=0xFFFF).map(|code| char::from_u32(code).map_or(Class::Symbol, classify)).collect()
});

fn classify(c: char) -> Class {
    match c {
        '\n' => Class::Newline,
        c if c.is_whitespace() || c.is_control() || c == '\u{FEFF}' || c == '\u{200B}' => Class::Space,
        '\u{AD}' | '\u{200C}' | '\u{200D}' | '\u{2060}' => Class::Mark,
        '_' => Class::Letter, // joins as in identifiers; a word of underscores alone becomes a symbol
        c if is_combining_mark(c) => Class::Mark,
        '\u{2E80}'..='\u{2FDF}' | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3038}'..='\u{303B}'
        | '\u{3041}'..='\u{309F}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{20000}'..='\u{3FFFF}' | '\u{0E01}'..='\u{0E30}' | '\u{0E32}'..='\u{0E33}' | '\u{0E40}'..='\u{0E46}'
        | '\u{0E81}'..='\u{0EB0}' | '\u{0EB2}'..='\u{0EC6}' | '\u{0EDC}'..='\u{0EDF}' | '\u{1000}'..='\u{103F}'
        | '\u{1050}'..='\u{108F}' | '\u{1780}'..='\u{17B3}' => Class::Solo,
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
                    self.line = Line { start: self.at, end: self.at, chars_before: self.chars, chars: 0, pieces: 0, longest_piece: 0 };
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
        let stop = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_control() || b"\"<>`{}|^".contains(byte) || *byte >= 0x80;
        let rest = &self.bytes[self.at..];
        let mut length = rest.iter().position(stop).unwrap_or(rest.len());
        while length > 3 && b".,;:!?)]'*".contains(&rest[length - 1]) {
            length -= 1;
        }
        self.at += length;
        self.chars += length; // all ASCII
    }
}

/// Abbreviations whose full stop ends no sentence, in lower case, from spaCy's English exceptions.
const ABBREVIATIONS: &[&str] = &[
    "al", "approx", "ca", "cf", "co", "corp", "dept", "dr", "e.g", "eq", "est", "etc", "fig", "gen", "gov", "i.e", "inc", "jr", "ltd",
    "mr", "mrs", "ms", "no", "nos", "p", "pp", "prof", "rep", "rev", "sen", "sr", "st", "vol", "vs",
];

/// Number of sentences in a line: runs of terminal punctuation that end a word, and what remains after the last of them if it
/// has a letter or digit. A full stop ends a sentence before white space or the end, but not after an abbreviation or a single
/// letter; ideographic and other full-width stops end one anywhere. No dictionary, no model: counts differ from Punkt's.
pub fn sentences(line: &str) -> usize {
    let (mut found, mut start, mut at) = (0, 0, 0);
    while let Some(offset) = line[at..].find(is_terminal) {
        let stop = at + offset;
        let run = line[stop..].find(|c| !is_terminal(c)).map_or(line.len(), |end| stop + end);
        at = run;
        if ends_sentence(line, stop, run) && line[start..stop].contains(char::is_alphanumeric) {
            found += 1;
            start = run;
        }
    }
    found + usize::from(line[start..].contains(char::is_alphanumeric))
}

fn ends_sentence(line: &str, stop: usize, run: usize) -> bool {
    let mark = line[stop..].chars().next().unwrap_or(' ');
    if mark >= '\u{2E80}' {
        return true;
    }
    let after = skip_closers(&line[run..]);
    let breaks_here = after.chars().next().is_none_or(char::is_whitespace);
    let before = line[..stop].chars().next_back();
    let glued = before.is_some_and(char::is_lowercase) && after.starts_with(char::is_uppercase) && after.len() == line.len() - run;
    if !breaks_here && !glued {
        return false;
    }
    let word = line[..stop].rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or("");
    let is_plain_stop = mark == '.' && run - stop == 1 && !after.is_empty();
    let single_letter = word.chars().count() == 1 && word.contains(char::is_alphabetic);
    !(is_plain_stop && (single_letter || ABBREVIATIONS.iter().any(|short| short.eq_ignore_ascii_case(word))))
}

/// Leaves out closing quotes and brackets, and citation marks such as `[12]`.
fn skip_closers(mut rest: &str) -> &str {
    loop {
        let closed = rest.trim_start_matches(['"', '\'', ')', ']', '}', '\u{201D}', '\u{2019}', '»']);
        let digits = closed.strip_prefix('[').map(|inner| inner.trim_start_matches(|c: char| c.is_ascii_digit()));
        match digits.and_then(|inner| inner.strip_prefix(']')) {
            Some(cited) => rest = cited,
            None => return closed,
        }
    }
}

/// Characters that end a sentence: Unicode's `Sentence_Terminal` (UAX #29, PropList 15), as first and last of each range.
const TERMINALS: &[(u32, u32)] = &[
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702), (0x7F9, 0x7F9),
    (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B), (0x1362, 0x1362), (0x1367, 0x1368),
    (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D5), (0x1803, 0x1803), (0x1809, 0x1809), (0x1944, 0x1945), (0x1AA8, 0x1AAB),
    (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7E), (0x1C3B, 0x1C3C), (0x1C7E, 0x1C7F), (0x203C, 0x203D), (0x2047, 0x2049),
    (0x2E2E, 0x2E2E), (0x2E3C, 0x2E3C), (0x2E53, 0x2E54), (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F), (0xA6F3, 0xA6F3),
    (0xA6F7, 0xA6F7), (0xA876, 0xA877), (0xA8CE, 0xA8CF), (0xA92F, 0xA92F), (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F), (0xAAF0, 0xAAF1),
    (0xABEB, 0xABEB), (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01), (0xFF0E, 0xFF0E), (0xFF1F, 0xFF1F), (0xFF61, 0xFF61),
    (0x10A56, 0x10A57), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11047, 0x11048), (0x110BE, 0x110C1), (0x11141, 0x11143),
    (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF), (0x11238, 0x11239), (0x1123B, 0x1123C), (0x112A9, 0x112A9),
    (0x1144B, 0x1144C), (0x115C2, 0x115C3), (0x115C9, 0x115D7), (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11944, 0x11944),
    (0x11946, 0x11946), (0x11A42, 0x11A43), (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x11EF7, 0x11EF8), (0x11F43, 0x11F44),
    (0x16A6E, 0x16A6F), (0x16AF5, 0x16AF5), (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x16E98, 0x16E98), (0x1BC9F, 0x1BC9F),
    (0x1DA88, 0x1DA88),
];

/// Whether a character ends a sentence in some script (Unicode `Sentence_Terminal`).
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, '.' | '!' | '?');
    }
    let code = c as u32;
    code >= 0x589 && TERMINALS.binary_search_by(|&(first, last)| {
        if last < code {
            std::cmp::Ordering::Less
        } else if first > code {
            std::cmp::Ordering::Greater
        } else {
            std::cmp::Ordering::Equal
        }
    }).is_ok()
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
        assert!(rest.chars().all(|c| matches!(classify(c), Class::Space | Class::Newline)), "{rest:?} is left of {text:?}");
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

    #[test]
    fn sentences_are_counted_without_a_model() {
        for (line, expected) in [
            ("", 0),
            ("...", 0),
            ("word", 1),
            ("One. Two! Three? four", 4),
            ("Mr. Smith paid 3.50 to J. Doe, e.g. in cash.", 1),
            ("He said \"Stop.\" Then he left.", 2),
            ("A fact.[12] Another fact.", 2),
            ("glued.Next one", 2),
            ("see example.org for more", 1),
            ("Wait... what?!", 2),
            ("我来了。你呢？好", 3),
            ("यह एक है। यह दो है।", 2),
            ("هل أنت هنا؟ نعم", 2),
        ] {
            assert_eq!(sentences(line), expected, "{line}");
        }
    }

    #[test]
    fn the_table_of_terminal_marks_is_sorted() {
        assert!(TERMINALS.windows(2).all(|pair| pair[0].1 < pair[1].0));
        assert!(is_terminal('。') && is_terminal('।') && is_terminal('.') && !is_terminal(',') && !is_terminal('…'));
    }
}
