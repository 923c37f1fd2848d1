//! `pii`: what points at a person, and what stands in its place.
//!
//! In: a text. Out: places of e-mail addresses, public IP addresses, international phone numbers and IBANs, and the changes that
//! replace them. E-mail addresses and IPv4 addresses as in datatrove 0.10.1 (`PIIFormatter`), except: replacements do not alternate,
//! so that a text's output does not depend on the texts before it; the last label of a mail domain has a letter; version numbers with
//! more than four parts are no addresses, nor are four numbers under 32 where a line begins or a word says that they are a section.
//! Public is what IANA's special-purpose registries (RFC 6890) leave over. Phone numbers: `+`, then 8 to 15 digits (ITU-T E.164) in
//! groups. IBAN: ISO 13616, length by country and check digits (ISO 7064 mod 97-10). Left to others: names, postal addresses, national
//! numbers.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Change;

/// Kinds of personal data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PiiKind {
    /// An e-mail address.
    Email,
    /// A public IPv4 or IPv6 address.
    Ip,
    /// A phone number with `+` and a country code.
    Phone,
    /// An International Bank Account Number with right check digits.
    Iban,
}

impl PiiKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Email, Self::Ip, Self::Phone, Self::Iban];
}

/// One find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pii {
    /// What it is.
    pub kind: PiiKind,
    /// Where it is, in bytes.
    pub range: Range<usize>,
}

/// Finds of these kinds, in order, none inside of another.
pub fn find_pii(text: &str, kinds: &[PiiKind]) -> Vec<Pii> {
    let mut found = Vec::new();
    for kind in kinds {
        let ranges = match kind {
            PiiKind::Email => emails(text),
            PiiKind::Ip => ips(text),
            PiiKind::Phone => phones(text),
            PiiKind::Iban => ibans(text),
        };
        found.extend(ranges.into_iter().map(|range| Pii { kind: *kind, range }));
    }
    // The longest of those that overlap: an address inside of a mail address is part of it.
    found.sort_by_key(|pii| (pii.range.start, usize::MAX - pii.range.end));
    let mut end = 0;
    found.retain(|pii| {
        let free = pii.range.start >= end;
        end = end.max(pii.range.end);
        free
    });
    found
}

pub(super) fn changes(text: &str, kinds: &[PiiKind]) -> Vec<Change> {
    let change = |pii: Pii| {
        let (rule, with) = match pii.kind {
            PiiKind::Email => ("pii.email", "email@example.com"),
            // Set aside for documentation: RFC 5737, RFC 3849.
            PiiKind::Ip if text[pii.range.clone()].contains(':') => ("pii.ip", "2001:db8::1"),
            PiiKind::Ip => ("pii.ip", "192.0.2.1"),
            PiiKind::Phone => ("pii.phone", "+1 202 555 0100"),
            PiiKind::Iban => ("pii.iban", "XX00 0000 0000 0000"),
        };
        (text[pii.range.clone()] != *with).then_some(Change { range: pii.range, rule, with: Cow::Borrowed(with) })
    };
    find_pii(text, kinds).into_iter().filter_map(change).collect()
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-.".contains(&byte)
}

fn emails(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    for at in memchr::memchr_iter(b'@', bytes) {
        let from = found.last().map_or(0, |range| range.end);
        let mut start = at - bytes[from..at].iter().rev().take_while(|&&byte| is_local(byte)).count();
        if let Some(dots) = text[start..at].rfind("..") {
            start += dots + 2;
        }
        // The first character stands at a boundary of a word: a letter or digit after none, or a mark after one.
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if text[..start].chars().next_back().is_some_and(char::is_alphanumeric) {
            continue;
        }
        let Some(skip) = bytes[start..at].iter().position(is_word) else { continue };
        start += skip;
        let host =
            bytes[at + 1..].iter().take_while(|&&byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)).count();
        let mut host = &text[at + 1..at + 1 + host];
        if let Some(dots) = host.find("..") {
            host = &host[..dots];
        }
        let host = host.trim_end_matches(['.', '-']);
        let mut labels = host.split('.');
        let right = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
        let top = host.rsplit('.').next().unwrap_or("");
        if bytes[at - 1] != b'.'
            && host.contains('.')
            && labels.all(right)
            && top.len() > 1
            && top.bytes().any(|byte| byte.is_ascii_alphabetic())
        {
            found.push(start..at + 1 + host.len());
        }
    }
    found
}

fn ips(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let is_part = |byte: u8| byte.is_ascii_hexdigit() || byte == b'.' || byte == b':';
    let mut at = 0;
    while at < bytes.len() {
        if !is_part(bytes[at]) {
            at += 1;
            continue;
        }
        let length = bytes[at..].iter().take_while(|&&byte| is_part(byte)).count();
        let run = &text[at..at + length];
        let end = at + length;
        let touches = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let alone = !touches(text[..at].chars().next_back()) && !touches(text[end..].chars().next());
        if alone && run.len() >= 7 {
            let (candidate, skipped) = address_in(run);
            let public = match candidate.parse::<Ipv4Addr>() {
                Ok(address) => is_public_v4(address) && !is_section(address, &text[..at + skipped]),
                Err(_) => candidate.parse::<Ipv6Addr>().is_ok_and(is_public_v6),
            };
            if public {
                found.push(at + skipped..at + skipped + candidate.len());
            }
        }
        at = end;
    }
    found
}

/// A run of hexadecimal digits, dots and colons without the punctuation around an address and without a port; and how many bytes
/// stand before it.
fn address_in(run: &str) -> (&str, usize) {
    let dots = run.matches('.').count();
    let colons = run.matches(':').count();
    let skipped = run.len() - run.trim_start_matches('.').len();
    let mut candidate = run.trim_matches('.');
    if dots >= 3 && colons == 1 {
        candidate = candidate.split(':').find(|part| part.contains('.')).unwrap_or(candidate);
        let before = candidate.as_ptr() as usize - run.as_ptr() as usize;
        return (candidate.trim_end_matches('.'), before);
    }
    if candidate.ends_with(':') && !candidate.ends_with("::") {
        candidate = &candidate[..candidate.len() - 1];
    }
    (candidate, skipped)
}

/// Numbers of sections and versions look like addresses: four small numbers at the beginning of a line, or after a word that says so.
fn is_section(address: Ipv4Addr, before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or("").trim_end();
    let word = line.rsplit(|c: char| !c.is_alphabetic()).next().unwrap_or("");
    let said = ["section", "chapter", "version", "release", "table", "figure"]
        .iter()
        .any(|said| said.eq_ignore_ascii_case(word));
    address.octets().iter().all(|&part| part < 32) && (said || line.is_empty() || line.ends_with('§'))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xC0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xFE == 18))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    segments[0] & 0xE000 == 0x2000 // global unicast, 2000::/3
        && !(segments[0] == 0x2001 && (segments[1] == 0xDB8 || segments[1] < 0x200)) // documentation, protocol assignments
        && segments[0] != 0x2002 // 6to4
        && !(segments[0] == 0x3FFF && segments[1] < 0x1000) // documentation, RFC 9637
}

fn phones(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    for plus in memchr::memchr_iter(b'+', bytes) {
        if text[..plus].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '+') {
            continue;
        }
        let (mut digits, mut end, mut at, mut separators) = (0, plus, plus + 1, 0);
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'0'..=b'9' => {
                    digits += 1;
                    separators = 0;
                    end = at + 1;
                }
                b' ' | b'-' | b'.' | b'(' | b')' | b'/' if digits > 0 && separators < 2 => separators += 1,
                _ => break,
            }
            at += 1;
        }
        let after = text[end..].chars().next();
        if (8..=15).contains(&digits) && bytes[plus + 1] != b'0' && !after.is_some_and(char::is_alphanumeric) {
            found.push(plus..end);
        }
    }
    found
}

/// Length of an IBAN by country (SWIFT's registry, release 99).
const IBAN_LENGTHS: &str = "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 \
    ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 \
    LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24 \
    SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30";

fn ibans(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut found: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while at + 15 <= bytes.len() {
        let starts = bytes[at].is_ascii_uppercase()
            && bytes[at + 1].is_ascii_uppercase()
            && bytes[at + 2].is_ascii_digit()
            && bytes[at + 3].is_ascii_digit()
            && !text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        match starts.then(|| iban(text, at)).flatten() {
            Some(end) => {
                found.push(at..end);
                at = end;
            }
            None => at += 1,
        }
    }
    found
}

/// Where the IBAN ends that begins here.
fn iban(text: &str, start: usize) -> Option<usize> {
    let country = &text[start..start + 2];
    let length =
        IBAN_LENGTHS.split_whitespace().find_map(|entry| entry.strip_prefix(country)?.parse::<usize>().ok())?;
    let (mut compact, mut end) = (Vec::with_capacity(length), start);
    for (at, &byte) in text.as_bytes()[start..].iter().enumerate() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' => {
                compact.push(byte);
                end = start + at + 1;
            }
            b' ' if compact.len() % 4 == 0 => {}
            _ => break,
        }
        if compact.len() == length {
            break;
        }
    }
    let ends = !text[end..].chars().next().is_some_and(char::is_alphanumeric);
    (compact.len() == length && ends && remainder_97(&compact) == 1).then_some(end)
}

/// ISO 7064 mod 97-10: the first four characters go to the end, letters count from 10.
fn remainder_97(iban: &[u8]) -> u32 {
    iban[4..].iter().chain(&iban[..4]).fold(0, |rest, &byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: PiiKind, text: &str) -> Vec<&str> {
        find_pii(text, &[kind]).into_iter().map(|pii| &text[pii.range]).collect()
    }

    #[test]
    fn mail_addresses_are_found_without_what_stands_around_them() {
        for (text, found) in [
            ("", vec![]),
            ("word", vec![]),
            ("mail <jane.doe+x@uni.edu>, or bob@a-b.co.uk.", vec!["jane.doe+x@uni.edu", "bob@a-b.co.uk"]),
            ("'me@x.org' @handle a@b root@localhost", vec!["me@x.org"]),
            ("a..b@x.org .c@x.org d.@x.org", vec!["b@x.org", "c@x.org"]),
            ("пишите на ivan@почта.рф или ivan@mail.ru", vec!["ivan@mail.ru"]),
            ("x@1.2.3.4 y@-a.org z@a..org", vec![]),
        ] {
            assert_eq!(of(PiiKind::Email, text), found, "{text}");
        }
    }

    #[test]
    fn only_public_addresses_are_found() {
        for (text, found) in [
            ("", vec![]),
            ("ask 8.8.8.8", vec!["8.8.8.8"]),
            ("1.2.3.4 Heading\n84.2.3.4 - GET /\nsee Section 4.3.2.1", vec!["84.2.3.4"]),
            ("at 8.8.4.4. Or 1.1.1.1:53, not 10.0.0.1, 192.168.1.1, 127.0.0.1", vec!["8.8.4.4", "1.1.1.1"]),
            ("version 1.2.3.4.5 or 300.1.1.1 or v8.8.8.8", vec![]),
            ("100.64.0.1 198.18.0.1 203.0.113.9 224.0.0.1", vec![]),
            ("[2001:4860:4860::8888] 2001:db8::1 ::1 fe80::1", vec!["2001:4860:4860::8888"]),
            ("12:30:45 and a::b", vec![]),
            ("адрес 8.8.8.8 здесь", vec!["8.8.8.8"]),
        ] {
            assert_eq!(of(PiiKind::Ip, text), found, "{text}");
        }
    }

    #[test]
    fn phone_numbers_begin_with_plus_and_have_eight_to_fifteen_digits() {
        for (text, found) in [
            ("", vec![]),
            ("call +49 (30) 1234-5678.", vec!["+49 (30) 1234-5678"]),
            ("+12025550123", vec!["+12025550123"]),
            ("1+12025550123 ++12025550123 +123 +0123456789 +1234567890123456", vec![]),
            ("тел. +7 495 123-45-67", vec!["+7 495 123-45-67"]),
        ] {
            assert_eq!(of(PiiKind::Phone, text), found, "{text}");
        }
    }

    #[test]
    fn ibans_have_the_length_of_their_country_and_right_check_digits() {
        for (text, found) in [
            ("", vec![]),
            ("IBAN: DE89 3704 0044 0532 0130 00.", vec!["DE89 3704 0044 0532 0130 00"]),
            ("GB82WEST12345698765432", vec!["GB82WEST12345698765432"]),
            ("DE88 3704 0044 0532 0130 00", vec![]),
            ("DE89 3704 0044 0532 0130 003 ZZ89370400440532013000", vec![]),
            ("счёт NO9386011117947", vec!["NO9386011117947"]),
        ] {
            assert_eq!(of(PiiKind::Iban, text), found, "{text}");
        }
    }

    #[test]
    fn replacements_are_not_replaced_again() {
        let text = "jane@uni.edu 8.8.8.8 2001:4860:4860::8888 +49 30 12345678 DE89370400440532013000";
        let apply = |text: &str| crate::edit::apply(text, &changes(text, &PiiKind::ALL)).text;
        let once = apply(text);
        assert_eq!(once, "email@example.com 192.0.2.1 2001:db8::1 +1 202 555 0100 XX00 0000 0000 0000");
        assert_eq!(apply(&once), once);
    }
}
