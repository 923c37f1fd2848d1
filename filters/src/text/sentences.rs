//! Sentences of a line, counted without a dictionary or a model.
//!
//! In: a line. Out: how many sentences it has; and which characters end one. Leaves words and lines to `mod.rs`.
//! Unicode `Sentence_Terminal` (UAX #29); the treatment of abbreviations, initials and glued sentences follows spaCy's rule-based
//! sentencizer on spaCy's English tokens, which is what datatrove counts with.

/// Abbreviations whose full stop ends no sentence, in lower case, from spaCy's English exceptions.
const ABBREVIATIONS: &[&str] = &[
    "al", "approx", "ca", "cf", "co", "corp", "dept", "dr", "e.g", "eq", "est", "etc", "fig", "gen", "gov", "i.e",
    "inc", "jr", "ltd", "mr", "mrs", "ms", "no", "nos", "p", "pp", "prof", "rep", "rev", "sen", "sr", "st", "vol",
    "vs",
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
    let glued = before.is_some_and(char::is_lowercase)
        && after.starts_with(char::is_uppercase)
        && after.len() == line.len() - run;
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
#[rustfmt::skip]
const TERMINALS: &[(u32, u32)] = &[
    (0x21, 0x21), (0x2E, 0x2E), (0x3F, 0x3F), (0x589, 0x589), (0x61D, 0x61F), (0x6D4, 0x6D4), (0x700, 0x702),
    (0x7F9, 0x7F9), (0x837, 0x837), (0x839, 0x839), (0x83D, 0x83E), (0x964, 0x965), (0x104A, 0x104B), (0x1362, 0x1362),
    (0x1367, 0x1368), (0x166E, 0x166E), (0x1735, 0x1736), (0x17D4, 0x17D5), (0x1803, 0x1803), (0x1809, 0x1809),
    (0x1944, 0x1945), (0x1AA8, 0x1AAB), (0x1B5A, 0x1B5B), (0x1B5E, 0x1B5F), (0x1B7D, 0x1B7E), (0x1C3B, 0x1C3C),
    (0x1C7E, 0x1C7F), (0x203C, 0x203D), (0x2047, 0x2049), (0x2E2E, 0x2E2E), (0x2E3C, 0x2E3C), (0x2E53, 0x2E54),
    (0x3002, 0x3002), (0xA4FF, 0xA4FF), (0xA60E, 0xA60F), (0xA6F3, 0xA6F3), (0xA6F7, 0xA6F7), (0xA876, 0xA877),
    (0xA8CE, 0xA8CF), (0xA92F, 0xA92F), (0xA9C8, 0xA9C9), (0xAA5D, 0xAA5F), (0xAAF0, 0xAAF1), (0xABEB, 0xABEB),
    (0xFE52, 0xFE52), (0xFE56, 0xFE57), (0xFF01, 0xFF01), (0xFF0E, 0xFF0E), (0xFF1F, 0xFF1F), (0xFF61, 0xFF61),
    (0x10A56, 0x10A57), (0x10F55, 0x10F59), (0x10F86, 0x10F89), (0x11047, 0x11048), (0x110BE, 0x110C1),
    (0x11141, 0x11143), (0x111C5, 0x111C6), (0x111CD, 0x111CD), (0x111DE, 0x111DF), (0x11238, 0x11239),
    (0x1123B, 0x1123C), (0x112A9, 0x112A9), (0x1144B, 0x1144C), (0x115C2, 0x115C3), (0x115C9, 0x115D7),
    (0x11641, 0x11642), (0x1173C, 0x1173E), (0x11944, 0x11944), (0x11946, 0x11946), (0x11A42, 0x11A43),
    (0x11A9B, 0x11A9C), (0x11C41, 0x11C42), (0x11EF7, 0x11EF8), (0x11F43, 0x11F44), (0x16A6E, 0x16A6F),
    (0x16AF5, 0x16AF5), (0x16B37, 0x16B38), (0x16B44, 0x16B44), (0x16E98, 0x16E98), (0x1BC9F, 0x1BC9F),
    (0x1DA88, 0x1DA88),
];

/// Whether a character ends a sentence in some script (Unicode `Sentence_Terminal`).
pub fn is_terminal(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, '.' | '!' | '?');
    }
    let code = c as u32;
    code >= 0x589
        && TERMINALS
            .binary_search_by(|&(first, last)| {
                if last < code {
                    std::cmp::Ordering::Less
                } else if first > code {
                    std::cmp::Ordering::Greater
                } else {
                    std::cmp::Ordering::Equal
                }
            })
            .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
