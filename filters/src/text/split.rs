//! Splits one piece of text, a run without white space, into tokens.
//!
//! In: a text, a range of it and the bits of its characters. Out: ranges of tokens that cover the piece. Leaves white space, lines
//! and what a token is made of to `mod.rs`.
//! The order of work is that of spaCy's tokenizer for English: prefixes and suffixes are taken off until nothing changes or a
//! special piece is left (`specials`); what remains is special, a URL, or is split at infixes; in the end tokens that together are
//! a special piece are joined. Written by hand over character classes instead of regular expressions; texts on which the two
//! differ are listed in `tests/parity/rules.md`.

use super::classes::{
    BEFORE_STOP, Class, DIGIT, ICON, INFIX, LETTER, LOWER, PREFIX, QUOTE, SUFFIX, UPPER, class_of, table,
};
use super::specials::Specials;

type Range = (usize, usize);

/// Splits pieces; keeps its memory between them.
pub(super) struct Splitter<'a> {
    text: &'a str,
    bytes: &'a [u8],
    table: &'static [Class],
    specials: Option<&'static Specials>,
    suffixes: Vec<Range>,
    /// The tokens of the last piece, in order.
    pub tokens: Vec<Range>,
}

impl<'a> Splitter<'a> {
    /// A splitter for pieces of one text; without `specials` it knows affixes and infixes only.
    pub(super) fn new(text: &'a str, specials: Option<&'static Specials>) -> Self {
        Self { text, bytes: text.as_bytes(), table: table(), specials, suffixes: Vec::new(), tokens: Vec::new() }
    }

    /// Splits `start..end`, whose characters have the classes `seen` between them.
    pub(super) fn split(&mut self, start: usize, end: usize, seen: Class) {
        self.tokens.clear();
        self.suffixes.clear();
        let (start, end) = self.affixes(start, end, seen);
        if start < end && !self.push_special(start, end) {
            if seen & INFIX == 0 || is_url(self.table, &self.text[start..end]) {
                self.tokens.push((start, end));
            } else {
                self.infixes(start, end);
            }
        }
        while let Some(suffix) = self.suffixes.pop() {
            self.tokens.push(suffix);
        }
        if self.tokens.len() > 1 {
            self.join_specials();
        }
    }

    fn special(&self, start: usize, end: usize) -> bool {
        self.specials.is_some_and(|specials| specials.get(&self.bytes[start..end]).is_some())
    }

    fn push_special(&mut self, start: usize, end: usize) -> bool {
        let Some(special) = self.specials.and_then(|specials| specials.get(&self.bytes[start..end])) else {
            return false;
        };
        push_lengths(&mut self.tokens, start, &special.parts);
        true
    }

    /// Takes prefixes (to the tokens) and suffixes (to their stack) off; the range that is left.
    fn affixes(&mut self, mut start: usize, mut end: usize, seen: Class) -> Range {
        while start < end && !self.special(start, end) {
            let prefix = self.prefix(start, end);
            let inner = start + prefix;
            if prefix > 0 && self.special(inner, end) {
                self.tokens.push((start, inner));
                return (inner, end);
            }
            let suffix = if inner < end { self.suffix(inner, end, seen) } else { 0 };
            if suffix > 0 {
                self.suffixes.push((end - suffix, end));
                if self.special(start, end - suffix) {
                    return (start, end - suffix);
                }
            }
            if prefix == 0 && suffix == 0 {
                break;
            }
            if prefix > 0 {
                self.tokens.push((start, inner));
            }
            (start, end) = (inner, end - suffix);
        }
        (start, end)
    }

    #[inline(always)]
    fn class_at(&self, at: usize) -> (Class, usize) {
        let byte = self.bytes[at];
        if byte < 0x80 {
            return (self.table[usize::from(byte)], 1);
        }
        let c = self.text[at..].chars().next().unwrap_or('\0');
        (class_of(self.table, c), c.len_utf8())
    }

    #[inline]
    fn class_before(&self, at: usize) -> (Class, usize) {
        let byte = self.bytes[at - 1];
        if byte < 0x80 {
            return (self.table[usize::from(byte)], 1);
        }
        let c = self.text[..at].chars().next_back().unwrap_or('\0');
        (class_of(self.table, c), c.len_utf8())
    }

    /// Length in bytes of the prefix, 0 if there is none.
    fn prefix(&self, start: usize, end: usize) -> usize {
        let (class, width) = self.class_at(start);
        if class & PREFIX != 0 {
            return width;
        }
        let rest = &self.bytes[start..end];
        match rest {
            [b'.', b'.', ..] => run_of_dots(rest),
            [b'+', next, ..] => usize::from(!next.is_ascii_digit()),
            [b'+'] => 1,
            [b'U', b'S', b'$', ..] => 3,
            [b'A' | b'C', b'$', ..] => 2,
            _ => 0,
        }
    }

    /// Length in bytes of the suffix, 0 if there is none; the piece is not empty.
    fn suffix(&self, start: usize, end: usize, seen: Class) -> usize {
        let (class, width) = self.class_before(end);
        let piece = &self.bytes[start..end];
        match piece[piece.len() - 1] {
            b'.' => return self.full_stop(start, end),
            b's' | b'S' if piece.len() > 1 && piece[piece.len() - 2] == b'\'' => return 2,
            b's' | b'S' if piece[..piece.len() - 1].ends_with("\u{2019}".as_bytes()) => return 4,
            b'+' => return usize::from(piece.len() > 1 && piece[piece.len() - 2].is_ascii_digit()),
            _ => {}
        }
        if class & SUFFIX != 0 {
            let doubled = piece.ends_with("……".as_bytes());
            return if doubled { 2 * width } else { width };
        }
        if seen & DIGIT == 0 { 0 } else { self.unit(start, end) }
    }

    fn full_stop(&self, start: usize, end: usize) -> usize {
        let dots = self.bytes[start..end].iter().rev().take_while(|&&byte| byte == b'.').count();
        if dots > 1 {
            return dots;
        }
        if end - 1 == start {
            return 0;
        }
        let (before, width) = self.class_before(end - 1);
        let at = end - 1 - width;
        let two_capitals = before & UPPER != 0 && at > start && self.class_before(at).0 & UPPER != 0;
        let degrees = self.text[start..end - 1].strip_suffix(['F', 'C', 'K']).is_some_and(|rest| rest.ends_with('°'));
        usize::from(before & BEFORE_STOP != 0 || two_capitals || degrees)
    }

    /// A unit or a currency right after the last digit.
    fn unit(&self, start: usize, end: usize) -> usize {
        const LONGEST: usize = 12;
        let from = start.max(end.saturating_sub(LONGEST));
        let Some(digit) = self.bytes[from..end].iter().rposition(u8::is_ascii_digit) else { return 0 };
        let tail = &self.text[from + digit + 1..end];
        if !tail.is_empty() && UNITS.split(' ').any(|unit| unit == tail) { tail.len() } else { 0 }
    }

    fn infixes(&mut self, start: usize, end: usize) {
        let (mut from, mut at) = (start, start);
        while at < end {
            let (class, width) = self.class_at(at);
            let length = if class & INFIX == 0 { 0 } else { self.infix(start, at, end) };
            if length == 0 {
                at += width;
                continue;
            }
            if at > start {
                if at > from {
                    self.tokens.push((from, at));
                }
                self.tokens.push((at, at + length));
                from = at + length;
            }
            at += length;
        }
        if from < end {
            self.tokens.push((from, end));
        }
    }

    /// Length in bytes of the infix that begins at `at`, 0 if there is none.
    fn infix(&self, start: usize, at: usize, end: usize) -> usize {
        let (class, width) = self.class_at(at);
        if class & ICON != 0 {
            return width;
        }
        let rest = &self.bytes[at..end];
        if rest.starts_with(b"..") {
            return run_of_dots(rest);
        }
        if at == start {
            return 0;
        }
        let before = self.class_before(at).0;
        let after = |length: usize| if at + length < end { self.class_at(at + length).0 } else { 0 };
        let next = after(width);
        let follows = |holds: bool| if holds { width } else { 0 };
        let arithmetic = before & DIGIT != 0 && (next & DIGIT != 0 || rest.get(1) == Some(&b'-'));
        match rest[0] {
            b'+' | b'*' | b'^' => follows(arithmetic),
            b'.' => follows(before & (LOWER | QUOTE) != 0 && next & (UPPER | QUOTE) != 0),
            b',' => follows(before & LETTER != 0 && next & LETTER != 0),
            b':' | b'<' | b'>' | b'=' | b'/' => follows(before & (LETTER | DIGIT) != 0 && next & LETTER != 0),
            b'-' if arithmetic => 1,
            b'-' if before & (LETTER | DIGIT) != 0 => {
                let run = rest.iter().take(3).take_while(|&&byte| byte == b'-').count();
                (1..=run).find(|&length| after(length) & LETTER != 0).unwrap_or(0)
            }
            b'~' => follows(before & (LETTER | DIGIT) != 0 && next & LETTER != 0),
            0xE2 if before & (LETTER | DIGIT) != 0 => {
                let dash = rest.starts_with("–".as_bytes()) || rest.starts_with("—".as_bytes());
                match () {
                    () if dash && next & LETTER != 0 => 3,
                    () if rest.starts_with("——".as_bytes()) && after(6) & LETTER != 0 => 6,
                    () => 0,
                }
            }
            _ => 0,
        }
    }

    /// Joins neighbours that together are a special piece: the longest first, then the first.
    fn join_specials(&mut self) {
        let Some(specials) = self.specials else { return };
        const MOST: usize = 7;
        let mut found: Vec<(usize, usize)> = Vec::new();
        for first in 0..self.tokens.len() - 1 {
            for last in first + 1..self.tokens.len().min(first + MOST) {
                let (start, end) = (self.tokens[first].0, self.tokens[last].1);
                let Some(special) = specials.get(&self.bytes[start..end]) else { continue };
                let lengths = self.tokens[first..=last].iter().map(|token| token.1 - token.0);
                if special.affixes.iter().map(|&length| usize::from(length)).eq(lengths) {
                    found.push((first, last));
                }
            }
        }
        if found.is_empty() {
            return;
        }
        found.sort_by_key(|&(first, last)| (std::cmp::Reverse(last - first), first));
        let mut taken = vec![false; self.tokens.len()];
        let mut joined: Vec<(usize, usize)> = Vec::new();
        for (first, last) in found {
            if !taken[first] && !taken[last] {
                joined.push((first, last));
            }
            taken[first..=last].fill(true);
        }
        joined.sort_unstable();
        let old = std::mem::take(&mut self.tokens);
        let mut next = 0;
        for (first, last) in joined {
            self.tokens.extend_from_slice(&old[next..first]);
            if !self.push_special(old[first].0, old[last].1) {
                self.tokens.extend_from_slice(&old[first..=last]);
            }
            next = last + 1;
        }
        self.tokens.extend_from_slice(&old[next..]);
    }
}

/// Ranges one after another, of these lengths.
pub(super) fn push_lengths(tokens: &mut Vec<Range>, mut start: usize, lengths: &[u8]) {
    for &length in lengths {
        tokens.push((start, start + usize::from(length)));
        start += usize::from(length);
    }
}

fn run_of_dots(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|&&byte| byte == b'.').count()
}

/// Units and currencies that are split off a number.
const UNITS: &str = "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa \
    mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч кПа Па мбар Кб \
    КБ кб Мб МБ мб Гб ГБ гб Тб ТБ كم كم² كم³ م م² م³ سم سم² سم³ مم مم² مم³ غرام جرام جم كغ ملغ كوب اكواب $ £ € ¥ ฿ US$ C$ A$ \
    ₽ ﷼ ₴ ₠ ₡ ₢ ₣ ₤ ₥ ₦ ₧ ₨ ₩ ₪ ₫ ₭ ₮ ₯ ₰ ₱ ₲ ₳ ₵ ₶ ₷ ₸ ₹ ₺ ₻ ₼ ₾ ₿";

/// A host with a lower-case top-level domain, perhaps after a scheme or a user and before a port or a path: URLs, mail addresses,
/// file names.
fn is_url(table: &[Class], piece: &str) -> bool {
    if !piece.contains('.') {
        return false;
    }
    let scheme = |c: char| c.is_alphanumeric() || "_+-.".contains(c);
    let after_scheme = piece
        .split_once("://")
        .filter(|(name, _)| name.chars().count() > 1 && name.chars().all(scheme))
        .map_or(piece, |(_, rest)| rest);
    has_host(table, after_scheme)
        || after_scheme.match_indices('@').any(|(at, _)| at > 0 && has_host(table, &after_scheme[at + 1..]))
}

fn has_host(table: &[Class], rest: &str) -> bool {
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let port = |port: &str| (2..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = match authority.rsplit_once(':') {
        Some((host, after)) if port(after) => host,
        Some(_) => return false,
        None => authority,
    };
    let Some((labels, top)) = host.rsplit_once('.') else { return false };
    let lower = |c: char| class_of(table, c) & (LOWER | LETTER) == (LOWER | LETTER);
    (2..=63).contains(&top.chars().count()) && top.chars().all(lower) && labels.split('.').all(is_label)
}

fn is_label(label: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || ('\u{A1}'..='\u{FFFF}').contains(&c);
    label.starts_with(inner)
        && label.ends_with(inner)
        && label.chars().count() <= 64
        && label.chars().all(|c| inner(c) || c == '_' || c == '-')
}
