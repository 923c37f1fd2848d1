//! HTML text to tokens.
//!
//! In: a page. Out: calls to the tree builder with tags, text and the end. Follows the WHATWG tokeniser where readers can
//! tell the difference, and leaves out what extraction never reads: comments, most scripts, styles, doctypes, and attributes
//! other than those in [`Attr`]. Linear in the input for every input.
//! Spec: WHATWG HTML "tokenization".

use std::borrow::Cow;

use html5ever::data::{C1_REPLACEMENTS, NAMED_ENTITIES};

use super::build::Builder;
use super::dom::Attr;
use super::names::pack;
use super::tag::Tag;

/// Longest legacy entity name that works without a semicolon, as in `&frac12`.
const LEGACY_NAME_BYTES: usize = 6;

/// Longest entity name of all, `CounterClockwiseContourIntegral;`.
const NAME_BYTES: usize = 32;

/// Feeds `html` to `builder`; stops early once `proceed` says no, which it is asked after each tag.
pub(super) fn tokenize(html: &str, builder: &mut Builder<'_>, proceed: impl Fn(&Builder<'_>) -> bool) {
    let html = preprocess(html);
    let mut tokens = Tokens { html: &html, at: 0, builder };
    while tokens.at < html.len() && tokens.step() && proceed(tokens.builder) {}
}

/// Line breaks become `\n`; NUL characters, which no state renders, go.
fn preprocess(html: &str) -> Cow<'_, str> {
    let mut html = Cow::Borrowed(html);
    if memchr::memchr(b'\r', html.as_bytes()).is_some() {
        html = Cow::Owned(html.replace("\r\n", "\n").replace('\r', "\n"));
    }
    if memchr::memchr(0, html.as_bytes()).is_some() {
        html = Cow::Owned(html.replace('\0', ""));
    }
    html
}

struct Tokens<'a, 'b, 'c> {
    html: &'a str,
    at: usize,
    builder: &'b mut Builder<'c>,
}

impl<'a> Tokens<'a, '_, '_> {
    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            let has_references = memchr::memchr(b'&', text.as_bytes()).is_some();
            self.builder.text(text, has_references);
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.html.as_bytes()[self.at..]
    }

    /// Goes past the next `needle`, or to the end.
    fn skip_past(&mut self, from: usize, needle: u8) {
        let found = self.html.as_bytes().get(from..).and_then(|rest| memchr::memchr(needle, rest));
        self.at = found.map_or(self.html.len(), |i| from + i + 1);
    }

    /// Text up to the next `<`, and what begins there; false at the end of the input.
    fn step(&mut self) -> bool {
        let html = self.html;
        let Some(open) = memchr::memchr(b'<', self.rest()) else {
            self.text(&html[self.at..]);
            self.at = html.len();
            return false;
        };
        self.text(&html[self.at..self.at + open]);
        self.at += open;
        match self.rest() {
            [_, first, ..] if first.is_ascii_alphabetic() => return self.start_tag(),
            [_, b'/', first, ..] if first.is_ascii_alphabetic() => return self.end_tag(),
            [_, b'/' | b'?', ..] => self.skip_past(self.at + 1, b'>'),
            [_, b'!', ..] => self.declaration(),
            _ => {
                self.text("<");
                self.at += 1;
            }
        }
        true
    }

    /// Comment, doctype or CDATA section.
    fn declaration(&mut self) {
        let rest = self.rest();
        if rest.starts_with(b"<!--") {
            match &rest[4..] {
                [b'>', ..] => self.at += 5,
                [b'-', b'>', ..] => self.at += 6,
                body => self.at += 4 + comment_length(body),
            }
        } else if rest.starts_with(b"<![CDATA[") && self.builder.in_foreign() {
            let html = self.html;
            let start = self.at + 9;
            let length = memchr::memmem::find(&html.as_bytes()[start..], b"]]>");
            let section = &html[start..length.map_or(html.len(), |n| start + n)];
            self.at = (start + section.len() + 3).min(html.len());
            if !section.is_empty() {
                self.builder.text(section, false);
            }
        } else {
            self.skip_past(self.at, b'>');
        }
    }

    /// False if the input ends inside the tag.
    fn start_tag(&mut self) -> bool {
        self.at += 1;
        let name = self.take_while(is_in_tag_name);
        let key = pack(name.as_bytes());
        self.builder.begin_tag();
        let mut self_closing = false;
        loop {
            self.skip_space();
            match self.rest() {
                [] => return false,
                [b'>', ..] => break self.at += 1,
                [b'/', b'>', ..] => {
                    self_closing = true;
                    break self.at += 2;
                }
                [b'/', ..] => self.at += 1,
                _ => {
                    if let (Some(attr), value) = self.attribute() {
                        self.builder.attribute(attr, value);
                    }
                }
            }
        }
        if let Some(tag) = self.builder.start(key, self_closing) {
            self.raw_text(name, tag);
        } else if key == const { pack(b"plaintext") } {
            let rest = &self.html[self.at..];
            if !rest.is_empty() {
                self.builder.text(rest, false);
            }
            self.at = self.html.len();
        }
        true
    }

    /// False if the input ends inside the tag.
    fn end_tag(&mut self) -> bool {
        self.at += 2;
        let name = self.take_while(is_in_tag_name);
        loop {
            self.skip_space();
            match self.rest() {
                [] => return false,
                [b'>', ..] => break self.at += 1,
                [b'/', ..] => self.at += 1,
                _ => {
                    self.attribute();
                }
            }
        }
        self.builder.end(pack(name.as_bytes()));
        true
    }

    /// Name, if extraction reads it, and raw value of the attribute that begins here.
    fn attribute(&mut self) -> (Option<Attr>, &'a str) {
        let start = self.at;
        self.at += usize::from(self.rest()[0] == b'='); // a name may begin with `=`
        self.take_while(|b| !is_space(b) && !matches!(b, b'/' | b'>' | b'='));
        let name = &self.html[start..self.at];
        self.skip_space();
        let mut value = "";
        if self.rest().first() == Some(&b'=') {
            self.at += 1;
            self.skip_space();
            value = match self.rest() {
                [quote @ (b'"' | b'\''), body @ ..] => {
                    let length = memchr::memchr(*quote, body).unwrap_or(body.len());
                    let from = self.at + 1;
                    self.at = (from + length + 1).min(self.html.len());
                    &self.html[from..from + length]
                }
                _ => self.take_while(|b| !is_space(b) && b != b'>'),
            };
        }
        (Attr::of(pack(name.as_bytes())), value)
    }

    /// Text of an element without markup inside, up to its end tag.
    fn raw_text(&mut self, name: &str, tag: Tag) {
        let text = &self.html[self.at..];
        let is_script = name.eq_ignore_ascii_case("script");
        let length = if is_script { script_length(text.as_bytes()) } else { raw_length(text.as_bytes(), name) };
        self.at += length;
        self.builder.raw_text(tag, &text[..length]);
    }

    fn skip_space(&mut self) {
        while self.rest().first().is_some_and(|b| is_space(*b)) {
            self.at += 1;
        }
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.at += length;
        &self.html[self.at - length..self.at]
    }
}

fn is_in_tag_name(byte: u8) -> bool {
    !is_space(byte) && !matches!(byte, b'/' | b'>')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c')
}

/// Bytes of a comment after `<!--`, its end included.
fn comment_length(body: &[u8]) -> usize {
    let ends = |i: &usize| body[..*i].ends_with(b"--") || body[..*i].ends_with(b"--!");
    memchr::memchr_iter(b'>', body).find(ends).map_or(body.len(), |i| i + 1)
}

/// True if `rest` begins with `prefix` and `name`, in any case, and the name ends there.
fn is_tag(rest: &[u8], prefix: &[u8], name: &[u8]) -> bool {
    let end = prefix.len() + name.len();
    rest.starts_with(prefix)
        && rest.get(prefix.len()..end).is_some_and(|found| found.eq_ignore_ascii_case(name))
        && rest.get(end).is_some_and(|b| is_space(*b) || matches!(b, b'/' | b'>'))
}

/// Bytes before `</name`.
fn raw_length(text: &[u8], name: &str) -> usize {
    memchr::memchr_iter(b'<', text).find(|&i| is_tag(&text[i..], b"</", name.as_bytes())).unwrap_or(text.len())
}

/// Bytes before the `</script` that ends a script; one after `<!-- <script` does not.
fn script_length(text: &[u8]) -> usize {
    let mut at = 0;
    // Most scripts hold no comment mark: only `<` is looked for until there is one.
    while let Some(i) = memchr::memchr(b'<', &text[at..]) {
        at += i;
        let rest = &text[at..];
        if is_tag(rest, b"</", b"script") {
            return at;
        }
        if rest.starts_with(b"<!--") {
            return at + commented_script_length(rest);
        }
        at += 1;
    }
    text.len()
}

fn commented_script_length(text: &[u8]) -> usize {
    let (mut commented, mut nested) = (false, false);
    for i in memchr::memchr2_iter(b'<', b'-', text) {
        let rest = &text[i..];
        if rest.starts_with(b"<!--") {
            commented = true;
        } else if commented && rest.starts_with(b"-->") {
            (commented, nested) = (false, false);
        } else if commented && is_tag(rest, b"<", b"script") {
            nested = true;
        } else if is_tag(rest, b"</", b"script") {
            if !nested {
                return i;
            }
            nested = false;
        }
    }
    text.len()
}

/// Appends `text` with its character references replaced.
pub(super) fn decode_into(text: &str, in_attribute: bool, out: &mut String) {
    let mut at = 0;
    while let Some(i) = memchr::memchr(b'&', &text.as_bytes()[at..]) {
        out.push_str(&text[at..at + i]);
        at += i + 1;
        let reference = &text[at..];
        let length = match reference.strip_prefix('#') {
            Some(number) => numeric(number, out).map(|n| n + 1),
            None => named(reference, in_attribute, out),
        };
        if length.is_none() {
            out.push('&');
        }
        at += length.unwrap_or(0);
    }
    out.push_str(&text[at..]);
}

/// Writes the character of `65;` or `x41;`; returns the bytes used.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let (prefix, radix) = if text.starts_with(['x', 'X']) { (1, 16) } else { (0, 10) };
    let digits = text[prefix..].bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let mut code = 0_u32;
    for byte in text[prefix..prefix + digits].bytes() {
        code = code.saturating_mul(radix).saturating_add(char::from(byte).to_digit(radix).unwrap_or(0));
    }
    let character = match code {
        0 => None,
        0x80..=0x9F => C1_REPLACEMENTS[(code - 0x80) as usize].or(char::from_u32(code)),
        _ => char::from_u32(code),
    };
    out.push(character.unwrap_or('\u{FFFD}'));
    let semicolon = text.as_bytes().get(prefix + digits) == Some(&b';');
    Some(prefix + digits + usize::from(semicolon))
}

/// Writes the characters of `amp;` or a legacy `amp`; returns the bytes used.
fn named(text: &str, in_attribute: bool, out: &mut String) -> Option<usize> {
    let run = text.bytes().take(NAME_BYTES).take_while(u8::is_ascii_alphanumeric).count();
    let find = |length: usize| NAMED_ENTITIES.get(text.get(..length)?).filter(|(first, _)| *first != 0);
    let closed =
        if text.as_bytes().get(run) == Some(&b';') { find(run + 1).map(|codes| (run + 1, codes)) } else { None };
    let legacy = || (2..=run.min(LEGACY_NAME_BYTES)).rev().find_map(|n| find(n).map(|codes| (n, codes)));
    let (length, (first, second)) = closed.or_else(legacy)?;
    let followed = text.as_bytes().get(length).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'=');
    if in_attribute && followed && closed.is_none() {
        return None;
    }
    out.extend([*first, *second].into_iter().filter(|code| *code != 0).filter_map(char::from_u32));
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str, in_attribute: bool) -> String {
        let mut out = String::new();
        decode_into(text, in_attribute, &mut out);
        out
    }

    #[test]
    fn character_references_follow_the_specification() {
        for (text, expected) in [
            ("", ""),
            ("a & b", "a & b"),
            ("&amp;&lt;&GT;&eacute;&ouml", "&<>éö"),
            ("&notit; &notin; &hellip;", "¬it; ∉ …"),
            ("&#65;&#x42;&#67 &#x1F98A;", "ABC 🦊"),
            ("&#150;&#0;&#xD800;&#99999999999;", "–\u{FFFD}\u{FFFD}\u{FFFD}"),
            ("&#; &#x; &; &unknown; &NotEqualTilde;", "&#; &#x; &; &unknown; ≂̸"),
            ("&日本;", "&日本;"),
        ] {
            assert_eq!(decode(text, false), expected, "{text}");
        }
        assert_eq!(decode("?a=1&copy=2&lt;&copyx&reg", true), "?a=1&copy=2<&copyx®");
    }

    #[test]
    fn scripts_end_where_browsers_end_them() {
        for (text, length) in [
            ("a</script>", 1),
            ("'</scripty>'</SCRIPT >", 12),
            ("<!-- </script>", 5),
            ("<!-- <script> </script> --></script>", 27),
            ("<!--> <script> </script>", 15),
            ("<script></script>", 8),
            ("never", 5),
        ] {
            assert_eq!(script_length(text.as_bytes()), length, "{text}");
        }
    }
}
