//! `unicode`: repairs text that was decoded wrongly and takes out what nobody sees.
//!
//! In: a text. Out: changes in order. The common cases of ftfy 6.3 (Speer 2019, "ftfy"), by rules of our own:
//! - UTF-8 read as Windows-1252 or Latin-1 (`Ã©`, `â€™`, `ðŸ˜€`), also more than once, also as surrogate pairs (CESU-8). A sequence
//!   counts if it can hardly be meant: of three or more bytes; of two bytes that stand for U+0080..U+00FF or whose capital is in the
//!   middle of a word or before a sign that a word goes on after; with a dash, a quote or an ellipsis only within a word; any other
//!   if the text has one of the former or if two stand side by side.
//! - single C1 controls, which are Windows-1252 characters;
//! - terminal escapes, other controls, byte order marks, zero-width spaces, interlinear marks: taken out;
//! - carriage returns, next line, line and paragraph separators: line feeds;
//! - NFC (`compose`), in a second pass.
//!
//! Left alone: HTML entities, curly quotes, ligatures, the width of characters, joiners, soft hyphens, marks of direction.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use super::Change;

/// Windows-1252 from 0x80 to 0x9F; the five bytes it does not have stand for themselves.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
];

/// The byte that was read as this character.
fn byte_of(c: char) -> Option<u8> {
    match c {
        '\u{80}'..='\u{FF}' => Some(c as u8),
        _ => WINDOWS_1252.iter().position(|&known| known == c).map(|at| 0x80 + at as u8),
    }
}

/// Everything but normalisation.
pub(super) fn repair(text: &str) -> Vec<Change> {
    if text.bytes().all(|byte| (b' '..0x7F).contains(&byte) || matches!(byte, b'\n' | b'\t')) {
        return Vec::new();
    }
    let sure = has_sure_mojibake(text);
    let mut changes = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let byte = text.as_bytes()[at];
        if (b' '..0x7F).contains(&byte) || byte == b'\n' || byte == b'\t' {
            at += 1;
            continue;
        }
        let rest = &text[at..];
        let c = rest.chars().next().unwrap_or(' ');
        let change = mojibake(text, at, sure).or_else(|| single(rest, c));
        let width = change.as_ref().map_or(c.len_utf8(), |(width, _, _)| *width);
        if let Some((width, rule, with)) = change {
            changes.push(Change { range: at..at + width, rule, with });
        }
        at += width;
    }
    changes
}

/// What a single character, or a sequence that begins with a control, becomes.
fn single(rest: &str, c: char) -> Option<(usize, &'static str, Cow<'static, str>)> {
    let nothing = Cow::Borrowed("");
    let line_feed = Cow::Borrowed("\n");
    match c {
        '\r' if rest.starts_with("\r\n") => Some((2, "unicode.line_break", line_feed)),
        '\r' | '\u{85}' | '\u{2028}' | '\u{2029}' => Some((c.len_utf8(), "unicode.line_break", line_feed)),
        '\u{1B}' => Some((escape(rest), "unicode.control", nothing)),
        '\u{80}'..='\u{9F}' => {
            let meant = WINDOWS_1252[c as usize - 0x80];
            let with = if meant == c { nothing } else { Cow::Owned(meant.to_string()) };
            Some((2, "unicode.c1_control", with))
        }
        '\0'..='\u{1F}' | '\u{7F}' => Some((1, "unicode.control", nothing)),
        '\u{FEFF}' | '\u{200B}' | '\u{2060}' | '\u{206A}'..='\u{206F}' | '\u{FFF9}'..='\u{FFFB}' => {
            Some((3, "unicode.invisible", nothing))
        }
        _ => None,
    }
}

/// Length of a terminal escape (ECMA-48): `ESC [`, parameters, a final character; or the escape alone.
fn escape(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    if bytes.get(1) != Some(&b'[') {
        return 1;
    }
    let parameters = bytes[2..].iter().take_while(|byte| (0x20..0x40).contains(*byte)).count();
    match bytes.get(2 + parameters) {
        Some(0x40..0x7F) => 3 + parameters,
        _ => 1,
    }
}

/// One character that was decoded wrongly.
struct Garbled {
    /// Bytes of the text.
    width: usize,
    meant: char,
    /// Whether nobody can have meant it.
    sure: bool,
}

/// A run of wrongly decoded characters that begins here, decoded again until nothing changes.
fn mojibake(text: &str, at: usize, sure: bool) -> Option<(usize, &'static str, Cow<'static, str>)> {
    let first = garbled(text, at)?;
    if !(sure || first.sure || garbled(text, at + first.width).is_some()) {
        return None;
    }
    let (mut meant, mut width) = (String::new(), 0);
    while let Some(found) = garbled(text, at + width) {
        meant.push(found.meant);
        width += found.width;
    }
    let around = [text[..at].chars().next_back(), text[at + width..].chars().next()];
    for _ in 0..3 {
        match again(&meant, around) {
            Some(better) => meant = better,
            None => break,
        }
    }
    Some((width, "unicode.mojibake", Cow::Owned(meant)))
}

/// A decoded run that was encoded wrongly more than once, given the characters around it.
fn again(run: &str, [before, after]: [Option<char>; 2]) -> Option<String> {
    let text: String = before.into_iter().chain(run.chars()).chain(after).collect();
    let mut at = before.map_or(0, char::len_utf8);
    let end = at + run.len();
    let (mut better, mut changed, mut running) = (String::new(), false, false);
    while at < end {
        let rest = &text[at..end];
        let found = garbled(&text, at).filter(|found| found.width <= rest.len());
        let found = found.filter(|found| running || found.sure || garbled(&text, at + found.width).is_some());
        running = found.is_some();
        changed |= running;
        let (c, width) = match found {
            Some(found) => (found.meant, found.width),
            None => rest.chars().next().map(|c| (c, c.len_utf8()))?,
        };
        better.push(c);
        at += width;
    }
    changed.then_some(better)
}

fn has_sure_mojibake(text: &str) -> bool {
    let leads = |(_, c): &(usize, char)| byte_of(*c).is_some_and(|byte| byte >= 0xC2);
    text.char_indices().filter(leads).any(|(at, _)| garbled(text, at).is_some_and(|found| found.sure))
}

/// The wrongly decoded character that begins here, if it may be one.
fn garbled(text: &str, at: usize) -> Option<Garbled> {
    let rest = &text[at..];
    let lead = rest.chars().next()?;
    let length = match byte_of(lead)? {
        0xC2..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF4 => 4,
        _ => return None,
    };
    let (width, code) = decoded(rest, length)?;
    if (0xD800..0xDC00).contains(&code) {
        // Half of a surrogate pair; the other half must follow.
        let low = decoded(&rest[width..], 3).filter(|low| (0xDC00..0xE000).contains(&low.1))?;
        let code = 0x10000 + ((code - 0xD800) << 10) + (low.1 - 0xDC00);
        return Some(Garbled { width: width + low.0, meant: char::from_u32(code)?, sure: true });
    }
    let meant = char::from_u32(code)?;
    let sure =
        length > 2 || is_sure(text[..at].chars().next_back(), lead, rest.chars().nth(1)?, rest[width..].chars().next());
    (length == 2 || !meant.is_control()).then_some(Garbled { width, meant, sure })
}

/// Whether a capital and what follows it, which together are a sequence of two bytes, can hardly be meant, by what is around them.
fn is_sure(before: Option<char>, lead: char, second: char, after: Option<char>) -> bool {
    let (in_word, goes_on) = (before.is_some_and(char::is_lowercase), after.is_some_and(char::is_lowercase));
    if "…–—‘’“”".contains(second) {
        // Single letters are words in some languages: `É—ele—verdade`.
        return "ÂÃÄÅÎÏÐÑ".contains(lead) && goes_on && !before.is_some_and(char::is_uppercase);
    }
    // Few words end in Â or Ã before such a character; `Úžasný` is a word; `kuÅ¡` and `Ä‡e` are none.
    matches!(lead, 'Â' | 'Ã') || (lead.is_uppercase() && (in_word || (goes_on && !second.is_alphabetic())))
}

/// The width in bytes and the code point of a sequence of this many wrongly read bytes; no overlong forms.
fn decoded(rest: &str, length: usize) -> Option<(usize, u32)> {
    let mut width = 0;
    let mut code = 0;
    let mut chars = rest.chars();
    for at in 0..length {
        let c = chars.next()?;
        let byte = u32::from(byte_of(c)?);
        code = match at {
            0 => byte & (0x7F >> length),
            _ if byte & 0xC0 == 0x80 => code << 6 | byte & 0x3F,
            _ => return None,
        };
        width += c.len_utf8();
    }
    let least = [0, 0, 0x80, 0x800, 0x10000][length];
    (least..0x11_0000).contains(&code).then_some((width, code))
}

/// Canonical composition: changes where the text is not NFC.
pub(super) fn compose(text: &str) -> Vec<Change> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        return Vec::new();
    }
    let mut changes = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] < 0x80 {
            at += 1;
            continue;
        }
        // Nothing in ASCII composes with what stands before it, but a letter may with a mark after it.
        let start = at.saturating_sub(1);
        let end = at + bytes[at..].iter().take_while(|&&byte| byte >= 0x80).count();
        let old = &text[start..end];
        let new: String = old.nfc().collect();
        if new != old {
            let same = |pair: &(char, char)| pair.0 == pair.1;
            let head: usize = old.chars().zip(new.chars()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
            let (old_rest, new_rest) = (&old[head..], &new[head..]);
            let tail: usize =
                old_rest.chars().rev().zip(new_rest.chars().rev()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
            changes.push(Change {
                range: start + head..end - tail,
                rule: "unicode.nfc",
                with: Cow::Owned(new_rest[..new_rest.len() - tail].to_owned()),
            });
        }
        at = end;
    }
    changes
}

#[cfg(test)]
mod tests {
    use crate::edit::{EditConfig, Step, edit, rebuild};

    fn repaired(text: &str) -> String {
        let edited = edit(text, &EditConfig { steps: vec![Step::Unicode], pii: None });
        assert_eq!(rebuild(&edited.text, &edited.edits), text);
        edited.text
    }

    /// UTF-8 bytes read as Windows-1252 (where it has no character, as Latin-1).
    fn garble(text: &str) -> String {
        let read = |byte: u8| {
            if (0x80..0xA0).contains(&byte) { super::WINDOWS_1252[usize::from(byte) - 0x80] } else { char::from(byte) }
        };
        text.bytes().map(read).collect()
    }

    #[test]
    fn garbled_texts_of_many_scripts_come_back() {
        for text in [
            "",
            "word",
            "café crème, naïve façade — it’s “quoted” … 20 € ©",
            "Übergröße für Mädchen",
            "привет МИР",
            "kuš će ığ œuf cœur",
            "我们都在这里。",
            "नमस्ते दुनिया",
            "smile 😀 and 👍🏽",
        ] {
            assert_eq!(repaired(&garble(text)), text, "{:?}", garble(text));
            let twice = garble(&garble(text));
            assert_eq!(repaired(&twice), text, "{twice:?}");
            let latin1: String = text.bytes().map(char::from).collect();
            assert_eq!(repaired(&latin1), text, "{latin1:?}");
        }
        assert_eq!(repaired("\u{ED}\u{A0}\u{BD}\u{ED}\u{B8}\u{80}"), "😀");
    }

    #[test]
    fn texts_that_only_look_garbled_stay() {
        for text in [
            "MANHÃ… e depois",
            "O “NÃO” é não",
            "KRAKÓW— miasto",
            "50 °C ± 2 §",
            "Ça va? Où ça? «Très» bien",
            "Đà Nẵng",
            "Ã la carte",
        ] {
            assert_eq!(repaired(text), text);
        }
    }

    #[test]
    fn what_nobody_sees_goes_and_line_breaks_become_line_feeds() {
        assert_eq!(repaired("\u{FEFF}a\u{200B}b\0c\u{7}d\u{7F}"), "abcd");
        assert_eq!(repaired("a\r\nb\rc\u{85}d\u{2028}e\tf"), "a\nb\nc\nd\ne\tf");
        assert_eq!(repaired("\u{1b}[31mred\u{1b}[0m \u{1b}x"), "red x");
        assert_eq!(repaired("it\u{92}s \u{93}ok\u{94}"), "it’s “ok”");
        assert_eq!(repaired("a\u{200D}b \u{AD}"), "a\u{200D}b \u{AD}", "joiners and soft hyphens have a meaning");
    }

    #[test]
    fn marks_are_composed() {
        assert_eq!(repaired("re\u{301}sume\u{301} x\u{301}"), "résumé x\u{301}");
        assert_eq!(repaired("\u{1112}\u{1161}\u{11AB}글"), "한글");
        assert_eq!(repaired("\u{212B}"), "Å");
    }
}
