//! Bytes to text.
//!
//! Any bytes under any label: no longer than three times as much, nothing vanishes, replacements are counted. Text encoded here as
//! UTF-8, UTF-16 or windows-1252 comes back as it was.

use super::knobs;
use filters::charset::{Decoded, decode};

const LABELS: [&str; 16] = [
    "text/html",
    "utf-8",
    "iso-8859-1",
    "windows-1251",
    "shift_jis",
    "euc-jp",
    "iso-2022-jp",
    "gb18030",
    "big5",
    "euc-kr",
    "utf-16le",
    "utf-16be",
    "x-user-defined",
    "hz-gb-2312",
    "koi8-r",
    "no such label",
];

/// Knobs: what is done, label.
pub fn check(bytes: &[u8]) {
    let ([form, label], bytes) = knobs(bytes);
    let header = format!("text/html; charset={}", LABELS[usize::from(label) % LABELS.len()]);
    let header = (label < 128).then_some(&*header);
    any(bytes, header);
    let text = String::from_utf8_lossy(bytes);
    match form % 4 {
        0 => {}
        1 => utf8(&text, header),
        2 => utf16(&text, form & 4 == 0, header),
        _ => windows_1252(&text),
    }
}

fn any(bytes: &[u8], header: Option<&str>) {
    let Decoded { text, encoding, replaced } = decode(bytes, header);
    assert!(!encoding.is_empty());
    assert!(text.len() <= 3 * bytes.len(), "{} bytes from {}", text.len(), bytes.len());
    // The longest sequence for one character is an escape and a character of two bytes, or two surrogates.
    assert!(text.chars().count() * 6 + 6 >= bytes.len(), "{encoding}: {text:?} is all of {} bytes", bytes.len());
    assert!(replaced <= text.matches('\u{fffd}').count() && replaced <= bytes.len());
}

/// UTF-8 beyond ASCII is believed before any label; so is ASCII without escapes.
fn utf8(text: &str, header: Option<&str>) {
    let bytes = text.as_bytes();
    let utf16 = matches!(bytes, [b'<', 0, _, 0, ..] | [0, b'<', 0, ..]);
    let escaped = text.is_ascii() && bytes.contains(&0x1b);
    if !utf16 && !escaped {
        let decoded = decode(bytes, header);
        assert_eq!(decoded.text, text.strip_prefix('\u{feff}').unwrap_or(text), "{header:?}");
        assert_eq!((decoded.encoding, decoded.replaced), ("UTF-8", 0));
    }
}

fn utf16(text: &str, little: bool, header: Option<&str>) {
    let units = std::iter::once(0xfeff).chain(text.encode_utf16());
    let bytes: Vec<u8> = units.flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() }).collect();
    let decoded = decode(&bytes, header);
    assert_eq!((&*decoded.text, decoded.replaced), (text, 0));
}

fn windows_1252(text: &str) {
    let text: String = text.chars().filter(|c| c.is_ascii() || ('\u{a0}'..='\u{ff}').contains(c)).collect();
    let bytes: Vec<u8> = text.chars().map(|c| c as u32 as u8).collect();
    let is_other = std::str::from_utf8(&bytes).is_ok()
        || [&[0xff, 0xfe][..], &[0xfe, 0xff], &[0xef, 0xbb, 0xbf]].iter().any(|mark| bytes.starts_with(mark))
        || matches!(bytes[..], [b'<', 0, _, 0, ..] | [0, b'<', 0, ..]);
    if !is_other {
        let decoded = decode(&bytes, Some("text/html; charset='windows-1252'"));
        assert_eq!((decoded.text, decoded.encoding), (text, "windows-1252"));
    }
}
