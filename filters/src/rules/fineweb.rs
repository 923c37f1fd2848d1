//! `fineweb_quality`: lists, menus and boilerplate, by their lines.
//!
//! In: a text and its tokens. Out: four quotients.
//! Penedo et al. 2024, "The FineWeb Datasets", section 3.6, as datatrove 0.10.1: only lines that are not blank count; a line ends
//! well if its last character is a Unicode sentence terminal (FineWeb as first published: one of `.'"!?`); short is at most 30
//! characters; the divisor of duplicated characters is the text without line feeds. The paper keeps up to 0.1 duplicated
//! characters, the code that made FineWeb 0.01: see the dialects in `mod.rs`. Newlines per word are in the code only.

use crate::text::{Tokens, is_terminal};

use super::repetition::{Share, duplicates};

const SHORT_LINE_CHARS: usize = 30;

/// What the rules compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FineWeb {
    /// Lines that end in terminal punctuation.
    pub terminal_lines: Share,
    /// Lines of at most 30 characters.
    pub short_lines: Share,
    /// Characters in lines that equal an earlier line.
    pub duplicate_chars: Share,
    /// Line feeds per word.
    pub newlines: Share,
}

/// Measures a text.
pub(super) fn measure(text: &str, tokens: &Tokens) -> FineWeb {
    let (mut lines, mut terminal, mut short) = (0, 0, 0);
    for line in tokens.lines.iter().filter(|line| !line.is_blank()) {
        lines += 1;
        terminal += usize::from(line.of(text).ends_with(is_terminal)); // a carriage return hides the mark, as in datatrove
        short += usize::from(line.chars <= SHORT_LINE_CHARS);
    }
    let filled = tokens.lines.iter().filter(|line| !line.is_blank());
    let again = duplicates(filled.map(|line| (&text.as_bytes()[line.start..line.end], line.chars)));
    FineWeb {
        terminal_lines: Share { part: terminal, whole: lines },
        short_lines: Share { part: short, whole: lines },
        duplicate_chars: Share { part: again.chars_again, whole: tokens.chars - tokens.newlines },
        newlines: Share { part: tokens.newlines, whole: tokens.words.len() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenize;

    fn of(text: &str) -> FineWeb {
        measure(text, &tokenize(text))
    }

    #[test]
    fn an_empty_or_blank_text_has_no_lines() {
        for text in ["", " \n\n "] {
            let found = of(text);
            assert_eq!(
                (found.terminal_lines.value(), found.short_lines.value(), found.newlines.value()),
                (None, None, None)
            );
        }
    }

    #[test]
    fn one_word_is_one_short_line() {
        let found = of("word");
        assert_eq!((found.terminal_lines.value(), found.short_lines.value()), (Some(0.0), Some(1.0)));
        assert_eq!((found.duplicate_chars.value(), found.newlines.value()), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn blank_lines_do_not_count_as_lines_but_their_feeds_do() {
        let found = of("Menu\n\nA sentence that is longer than thirty characters.\r\n \nMenu\n我来了。");
        assert_eq!(found.terminal_lines, Share { part: 1, whole: 4 });
        assert_eq!(found.short_lines, Share { part: 3, whole: 4 });
        assert_eq!(found.duplicate_chars, Share { part: 4, whole: 63 });
        assert_eq!(found.newlines, Share { part: 5, whole: 15 });
    }
}
