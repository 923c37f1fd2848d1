//! The hand-written splitters: where does the piece that starts here end?
//!
//! In: valid UTF-8 and the byte offset of a piece's start. Out: the byte offset of its end, exactly as the published regex
//! of that splitter would cut (leftmost alternative first, greedy, backtracking). No regex engine, no allocation; each
//! function reads a piece at most three times. Leaves names, patterns and user regexes to `split`. Patterns: GPT-2
//! (Radford et al. 2019, `encoder.py`), cl100k and Llama 3 (one pattern), o200k (tiktoken, `openai_public.py`).

use crate::unicode::{CASELESS, Classes, LETTER, LOWER, MARK, NUMBER, REST, SPACE, SYMBOL, UPPER, WHITE};

/// A family of published patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// GPT-2, r50k, p50k. With `single_digits` every number character is a piece.
    Gpt2 { single_digits: bool },
    /// cl100k, Llama 3, Qwen. `digits` numbers at most in a piece; with `whole_tail` white space that ends the text is one
    /// piece even if it holds a newline.
    Cl100k { digits: usize, whole_tail: bool },
    /// o200k. `digits` numbers at most in a piece.
    O200k { digits: usize },
}

/// A text and the class table, so that a scanner can look at characters by byte offset.
pub(crate) struct Text<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) classes: &'static Classes,
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { bytes: text.as_bytes(), classes: Classes::get() }
    }

    /// End of the piece that starts at `i`, which is inside the text.
    pub(crate) fn next(&self, rule: Rule, i: usize) -> usize {
        match rule {
            Rule::Gpt2 { single_digits } => self.gpt2(i, single_digits),
            Rule::Cl100k { digits, whole_tail } => self.cl100k(i, digits, whole_tail),
            Rule::O200k { digits } => self.o200k(i, digits),
        }
    }

    /// Class and byte length of the character at `i`; `(0, 0)` at the end of the text.
    #[inline(always)]
    fn at(&self, i: usize) -> (u8, usize) {
        match self.bytes.get(i) {
            Some(&byte) if byte < 0x80 => (self.classes.ascii[usize::from(byte)], 1),
            Some(_) => self.wide(i),
            None => (0, 0),
        }
    }

    /// `at` for a character of two to four bytes.
    #[inline(always)]
    pub(crate) fn wide(&self, i: usize) -> (u8, usize) {
        let low = |k: usize| u32::from(self.bytes[i + k] & 0x3f);
        let lead = u32::from(self.bytes[i]);
        let (code, len) = match lead {
            ..0xe0 => ((lead & 0x1f) << 6 | low(1), 2),
            0xe0..0xf0 => ((lead & 0x0f) << 12 | low(1) << 6 | low(2), 3),
            _ => ((lead & 0x07) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4),
        };
        (self.classes.of(code), len)
    }

    /// End of the longest run from `i` whose characters are all in `mask`.
    #[inline(always)]
    fn run(&self, mut i: usize, mask: u8) -> usize {
        loop {
            while let Some(&byte) = self.bytes.get(i) {
                if self.classes.ascii[usize::from(byte)] & mask == 0 {
                    break;
                }
                i += 1;
            }
            match self.bytes.get(i) {
                Some(&byte) if byte >= 0x80 => match self.wide(i) {
                    (class, len) if class & mask != 0 => i += len,
                    _ => return i,
                },
                _ => return i,
            }
        }
    }

    /// `\s+(?!\S)|\s+` at `i`: a run of white space gives its last character back unless the text ends there.
    fn spaces(&self, i: usize, end: usize) -> usize {
        if end == self.bytes.len() {
            return end;
        }
        let mut last = end - 1;
        while self.bytes[last] & 0xc0 == 0x80 {
            last -= 1;
        }
        if last > i { last } else { end }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+` at `i`; with `whole_tail`, `\s+$` before these.
    fn spaces_by_line(&self, i: usize, whole_tail: bool) -> usize {
        let end = self.run(i, WHITE);
        if whole_tail && end == self.bytes.len() {
            return end;
        }
        match self.bytes[i..end].iter().rposition(|b| matches!(b, b'\r' | b'\n')) {
            Some(newline) => i + newline + 1,
            None => self.spaces(i, end),
        }
    }

    /// Bytes of `'s|'t|'re|'ve|'m|'ll|'d` at `i`, 0 if it is not there.
    pub(crate) fn contraction(&self, i: usize) -> usize {
        match &self.bytes[i..] {
            [b'\'', b's' | b't' | b'm' | b'd', ..] => 2,
            [b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => 3,
            _ => 0,
        }
    }

    /// `contraction` under `(?i:…)`. U+017F (long s, bytes C5 BF) folds to `s`.
    pub(crate) fn contraction_any_case(&self, i: usize) -> usize {
        match &self.bytes[i..] {
            [b'\'', b's' | b'S' | b't' | b'T' | b'm' | b'M' | b'd' | b'D', ..] => 2,
            [b'\'', b'r' | b'R' | b'v' | b'V', b'e' | b'E', ..] => 3,
            [b'\'', b'l' | b'L', b'l' | b'L', ..] => 3,
            [b'\'', 0xc5, 0xbf, ..] => 3,
            _ => 0,
        }
    }

    /// `\p{N}{1,limit}` at `i`, where the first number ends at `end`.
    fn numbers(&self, mut end: usize, limit: usize) -> usize {
        for _ in 1..limit {
            match self.at(end) {
                (NUMBER, len) => end += len,
                _ => break,
            }
        }
        end
    }

    /// ` ?[^\s\p{L}\p{N}]+[\r\n]*` (with `/` in the tail if `slash`) at `i`, or `None`.
    #[inline(always)]
    fn symbols(&self, i: usize, slash: bool) -> Option<usize> {
        let start = i + usize::from(self.bytes[i] == b' ');
        let (class, len) = self.at(start);
        if class & SYMBOL == 0 {
            return None;
        }
        let mut end = self.run(start + len, SYMBOL);
        while let Some(&byte) = self.bytes.get(end) {
            match byte {
                b'\r' | b'\n' => end += 1,
                b'/' if slash => end += 1,
                _ => break,
            }
        }
        Some(end)
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`; with `single_digits`, `\p{N}` in place
    /// of ` ?\p{N}+`.
    #[inline(always)]
    fn gpt2(&self, i: usize, single_digits: bool) -> usize {
        if self.bytes[i] == b'\'' {
            let len = self.contraction(i);
            if len > 0 {
                return i + len;
            }
        }
        let spaced = self.bytes[i] == b' ';
        let start = i + usize::from(spaced);
        let (class, len) = self.at(start);
        match class {
            UPPER | LOWER | CASELESS => self.run(start + len, LETTER),
            NUMBER if !single_digits => self.run(start + len, NUMBER),
            NUMBER if !spaced => start + len,
            MARK | REST => self.run(start + len, SYMBOL),
            _ => self.spaces(i, self.run(i, WHITE)),
        }
    }

    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    /// with at most `digits` numbers in a piece.
    #[inline(always)]
    fn cl100k(&self, i: usize, digits: usize, whole_tail: bool) -> usize {
        let (class, len) = self.at(i);
        match class {
            UPPER | LOWER | CASELESS => return self.run(i + len, LETTER),
            NUMBER => return self.numbers(i + len, digits),
            SPACE | MARK | REST => {
                if self.bytes[i] == b'\'' {
                    let len = self.contraction_any_case(i);
                    if len > 0 {
                        return i + len;
                    }
                }
                let (next, next_len) = self.at(i + len);
                if next & LETTER != 0 {
                    return self.run(i + len + next_len, LETTER);
                }
            }
            _ => {}
        }
        self.symbols(i, false).unwrap_or_else(|| self.spaces_by_line(i, whole_tail))
    }

    /// The o200k pattern (see `split::O200K`), with at most `digits` numbers in a piece.
    #[inline(always)]
    fn o200k(&self, i: usize, digits: usize) -> usize {
        let (class, len) = self.at(i);
        if class == NUMBER {
            return self.numbers(i + len, digits);
        }
        if let Some(end) = self.cased_word(i, class, len) {
            return end + self.contraction_any_case(end);
        }
        self.symbols(i, true).unwrap_or_else(|| self.spaces_by_line(i, false))
    }

    /// The two word alternatives of o200k without their contraction:
    /// `P?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+` and, if that fails, the same with `+` and `*`
    /// exchanged, where `P = [^\r\n\p{L}\p{N}]`. A mark can be `P` or part of the word, so both readings are tried.
    #[inline(always)]
    fn cased_word(&self, i: usize, class: u8, len: usize) -> Option<usize> {
        if class & (SPACE | SYMBOL) != 0 {
            let (next, _) = self.at(i + len);
            if next & (LETTER | MARK) != 0 {
                if let Some(end) = self.lowered(i + len) {
                    return Some(end);
                }
                if class != MARK {
                    return Some(self.run(i + len, UPPER | CASELESS | MARK));
                }
            }
        }
        if class & (LETTER | MARK) == 0 {
            return None;
        }
        // With neither a lower-case nor a caseless character the run is upper case only and the second form takes it all.
        Some(self.lowered(i).unwrap_or_else(|| self.run(i, UPPER | CASELESS | MARK)))
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+` at `i`, or `None`.
    #[inline(always)]
    fn lowered(&self, i: usize) -> Option<usize> {
        let mut end = i;
        let mut after_caseless = None; // where the run would end if it gave back to its last caseless character
        loop {
            match self.at(end) {
                (UPPER, len) => end += len,
                (CASELESS | MARK, len) => {
                    end += len;
                    after_caseless = Some(end);
                }
                (LOWER, len) => return Some(self.run(end + len, LOWER | CASELESS | MARK)),
                _ => return after_caseless,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, next: impl Fn(&Text, usize) -> usize) -> Vec<&str> {
        let scanner = Text::new(text);
        let (mut start, mut out) = (0, Vec::new());
        while start < text.len() {
            let end = next(&scanner, start);
            out.push(&text[start..end]);
            start = end;
        }
        out
    }

    #[test]
    fn gpt2_cuts_words_with_their_space_and_gives_the_last_space_back() {
        let gpt2 = |text| cut(text, |t, i| t.gpt2(i, false));
        assert_eq!(gpt2(""), Vec::<&str>::new());
        assert_eq!(gpt2("a"), ["a"]);
        assert_eq!(
            gpt2("I'll go  home's 42!?\n\n x "),
            ["I", "'ll", " go", " ", " home", "'s", " 42", "!?", "\n\n", " x", " "]
        );
        assert_eq!(gpt2("漢字 かな"), ["漢字", " かな"]);
        assert_eq!(cut("a 42", |t, i| t.gpt2(i, true)), ["a", " ", "4", "2"]);
    }

    #[test]
    fn cl100k_cuts_three_numbers_and_keeps_newlines_with_symbols() {
        let cl100k = |text| cut(text, |t, i| t.cl100k(i, 3, false));
        assert_eq!(
            cl100k("x 12345 'S it'S\n\n  y);\r\n\tz"),
            ["x", " ", "123", "45", " '", "S", " it", "'S", "\n\n", " ", " y", ");\r\n", "\tz"]
        );
        assert_eq!(cut("a12", |t, i| t.cl100k(i, 1, false)), ["a", "1", "2"]);
        assert_eq!(cut("a\n  ", |t, i| t.cl100k(i, 3, false)), ["a", "\n", "  "]);
        assert_eq!(cut("a\n  ", |t, i| t.cl100k(i, 3, true)), ["a", "\n  "]);
    }

    #[test]
    fn o200k_cuts_between_cases_and_keeps_contractions() {
        let o200k = |text| cut(text, |t, i| t.o200k(i, 3));
        assert_eq!(
            o200k("HTTPServer camelCase DON'T a//\n/b"),
            ["HTTPServer", " camel", "Case", " DON'T", " a", "//\n/", "b"]
        );
        assert_eq!(o200k("ABC漢DE"), ["ABC漢", "DE"]);
        assert_eq!(o200k("\u{301}AB x"), ["\u{301}", "AB", " x"]);
    }
}
