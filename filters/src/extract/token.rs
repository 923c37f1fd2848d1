//! HTML text to tokens.
//!
//! In: a page. Out: calls to a `TokenSink` (the tree builder of `html5ever`, behind the depth cap of `dom`) with tags, text and
//! the end. Follows the WHATWG tokeniser where readers can tell the difference, and leaves out what extraction never
//! reads: comments, scripts, styles, doctype identifiers, and attributes other than those in [`Attr`].
//! `html5ever` has a tokeniser too; it compares each attribute of a tag with all before it, so one tag of a megabyte
//! takes minutes, and it moves characters one by one. This one is linear in the input for every input.
//! Spec: WHATWG HTML "tokenization".

use std::borrow::Cow;

use html5ever::data::{C1_REPLACEMENTS, NAMED_ENTITIES};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::{RawKind, ScriptData};
use html5ever::tokenizer::{Doctype, Tag, TagKind, Token, TokenSink, TokenSinkResult};
use html5ever::{Attribute, LocalName, QualName, ns};

use super::dom::Attr;

/// Longest legacy entity name that works without a semicolon, as in `&frac12`.
const LEGACY_NAME_BYTES: usize = 6;

/// Longest entity name of all, `CounterClockwiseContourIntegral;`.
const NAME_BYTES: usize = 32;

/// Feeds `html` to `sink`; stops early once `proceed` says no, which it is asked after each tag.
pub(super) fn tokenize<S: TokenSink>(html: &str, sink: &S, proceed: impl Fn() -> bool) {
    let html = preprocess(html);
    let mut tokens = Tokens { html: &html, at: 0, sink };
    while tokens.at < html.len() && tokens.step() && proceed() {}
    let _ = tokens.emit(Token::EOFToken);
    sink.end();
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

struct Tokens<'a, S> {
    html: &'a str,
    at: usize,
    sink: &'a S,
}

impl<'a, S: TokenSink> Tokens<'a, S> {
    fn emit(&self, token: Token) -> TokenSinkResult<S::Handle> {
        self.sink.process_token(token, 1)
    }

    fn text(&self, text: &str) {
        if !text.is_empty() {
            let _ = self.emit(Token::CharacterTokens(StrTendril::from_slice(text)));
        }
    }

    fn rest(&self) -> &'a [u8] {
        &self.html.as_bytes()[self.at..]
    }

    /// Goes past the next `needle`, or to the end.
    fn skip_past(&mut self, from: usize, needle: &[u8]) {
        let found = self.html.as_bytes().get(from..).and_then(|rest| memchr::memmem::find(rest, needle));
        self.at = found.map_or(self.html.len(), |i| from + i + needle.len());
    }

    /// Text up to the next `<`, and what begins there; false at the end of the input.
    fn step(&mut self) -> bool {
        let Some(open) = memchr::memchr(b'<', self.rest()) else {
            self.text(&decode(&self.html[self.at..], false));
            self.at = self.html.len();
            return false;
        };
        self.text(&decode(&self.html[self.at..self.at + open], false));
        self.at += open;
        match self.rest() {
            [_, first, ..] if first.is_ascii_alphabetic() => return self.tag(1, TagKind::StartTag),
            [_, b'/', first, ..] if first.is_ascii_alphabetic() => return self.tag(2, TagKind::EndTag),
            [_, b'/' | b'?', ..] => self.skip_past(self.at + 1, b">"),
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
                body => {
                    let end = memchr::memmem::find(body, b"-->").map_or(body.len(), |i| i + 3);
                    let odd_end = memchr::memmem::find(&body[..end], b"--!>").map_or(end, |i| i + 4);
                    self.at += 4 + odd_end.min(end);
                }
            }
        } else if rest.len() >= 9 && rest[2..9].eq_ignore_ascii_case(b"doctype") {
            let _ = self.emit(Token::DoctypeToken(Doctype { name: Some("html".into()), ..Default::default() }));
            self.skip_past(self.at, b">");
        } else if rest.starts_with(b"<![CDATA[") && self.sink.adjusted_current_node_present_but_not_in_html_namespace()
        {
            let start = self.at + 9;
            self.skip_past(start, b"]]>");
            let section = &self.html[start..self.at];
            self.text(section.strip_suffix("]]>").unwrap_or(section));
        } else {
            self.skip_past(self.at, b">");
        }
    }

    /// A tag whose name begins `prefix` bytes from here; false if the input ends inside it.
    fn tag(&mut self, prefix: usize, kind: TagKind) -> bool {
        self.at += prefix;
        let name = self.take_while(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\x0c' | b'/' | b'>'));
        let name = LocalName::from(lower(name));
        let mut tag = Tag { kind, name, self_closing: false, attrs: Vec::new(), had_duplicate_attributes: false };
        loop {
            self.take_while(is_space);
            match self.rest() {
                [] => return false,
                [b'>', ..] => break self.at += 1,
                [b'/', b'>', ..] => {
                    tag.self_closing = true;
                    break self.at += 2;
                }
                [b'/', ..] => self.at += 1,
                _ => self.attribute(&mut tag),
            }
        }
        let name = tag.name.clone();
        match self.emit(Token::TagToken(tag)) {
            TokenSinkResult::RawData(raw) => self.raw_text(&name, raw),
            TokenSinkResult::Plaintext => {
                self.text(&self.html[self.at..]);
                self.at = self.html.len();
            }
            _ => {}
        }
        true
    }

    fn attribute(&mut self, tag: &mut Tag) {
        let start = self.at;
        self.at += usize::from(self.rest()[0] == b'='); // a name may begin with `=`
        self.take_while(|b| !is_space(b) && !matches!(b, b'/' | b'>' | b'='));
        let name = &self.html[start..self.at];
        self.take_while(is_space);
        let mut value = "";
        if self.rest().first() == Some(&b'=') {
            self.at += 1;
            self.take_while(is_space);
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
        if tag.kind == TagKind::EndTag || Attr::of(&lower(name)).is_none() {
            return;
        }
        let name = QualName::new(None, ns!(), LocalName::from(lower(name)));
        // At most one of each known name, so this search is short.
        if tag.attrs.iter().all(|attr| attr.name != name) {
            tag.attrs.push(Attribute { name, value: StrTendril::from_slice(&decode(value, true)) });
        }
    }

    /// Text of an element without markup inside, up to its end tag.
    fn raw_text(&mut self, name: &str, raw: RawKind) {
        let start = self.at;
        let text = &self.html[start..];
        let length = if raw == ScriptData { script_length(text.as_bytes()) } else { raw_length(text.as_bytes(), name) };
        self.at += length;
        match raw {
            RawKind::Rcdata => self.text(&decode(&text[..length], false)),
            RawKind::Rawtext if name != "style" => self.text(&text[..length]),
            _ => {}
        }
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        self.at += length;
        &self.html[self.at - length..self.at]
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\x0c')
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
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

/// Replaces character references.
fn decode(text: &str, in_attribute: bool) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'&', text.as_bytes()) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let mut next = Some(first);
    while let Some(i) = next {
        out.push_str(&text[at..i]);
        let reference = &text[i + 1..];
        let length = match reference.strip_prefix('#') {
            Some(number) => numeric(number, &mut out).map(|n| n + 1),
            None => named(reference, in_attribute, &mut out),
        };
        at = i + 1 + length.unwrap_or(0);
        if length.is_none() {
            out.push('&');
        }
        next = memchr::memchr(b'&', &text.as_bytes()[at..]).map(|n| at + n);
    }
    out.push_str(&text[at..]);
    Cow::Owned(out)
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
