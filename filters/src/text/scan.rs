//! The scanner: one walk over a text that finds pieces, lines and rows, and hands pieces to the splitter.
//!
//! In: a text. Out: `Tokens`. Most pieces are ASCII letters, perhaps with a mark at the end: those never see the splitter.

use std::sync::LazyLock;

use xxhash_rust::xxh3::xxh3_64;

use super::classes::{
    self, BREAK, Class, LETTER, MARK, PLAIN, PUNCT, SENTENCE_MARK, SOLO, SPACE, SYMBOL, WIDE, class_of,
};
use super::specials::{self, Specials};
use super::split::Splitter;
use super::{Line, Tokens, Word};

pub(super) struct Scanner<'a> {
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
    pub tokens: Tokens,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, splits: bool) -> Self {
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

    pub(super) fn run(&mut self) {
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

    pub(super) fn word(&self, start: usize, end: usize) -> Word {
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

static SPECIALS: LazyLock<Specials> = LazyLock::new(|| {
    specials::build(|piece| {
        let table = classes::table();
        let seen = piece.chars().fold(0, |seen, c| seen | class_of(table, c));
        let mut splitter = Splitter::new(piece, None);
        splitter.split(0, piece.len(), seen);
        splitter.tokens.iter().map(|token| (token.1 - token.0) as u8).collect()
    })
});
