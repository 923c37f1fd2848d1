//! Bytes of a web page to Unicode text.
//!
//! In: the payload as it was served and, where there was one, its `Content-Type` header. Out: the text, the encoding
//! that was used (its WHATWG name) and how many malformed sequences became U+FFFD. Never fails: every byte string decodes.
//! The order of trust is byte-order mark, HTTP charset, a declaration inside the first 4 KiB (`<meta charset>`,
//! `<meta http-equiv>`, the XML declaration), then a guess by `chardetng`. A label the bytes contradict is not believed:
//! text that is valid UTF-8 beyond ASCII is UTF-8 whatever the label says, and a UTF-8 label on bytes that are not UTF-8
//! falls through to the guess. Removing markup is left to `extract`.
//! Spec: WHATWG Encoding, and HTML "determining the character encoding" (which sniffs 1 KiB; real pages put it later).

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};

/// Bytes at the start of a page in which a declared encoding is looked for.
const SNIFF_BYTES: usize = 4096;

/// Bytes the guess looks at; the verdict of `chardetng` is settled long before on any text that is not ASCII.
const GUESS_BYTES: usize = 256 * 1024;

/// A label is given up when more than one byte in this many becomes U+FFFD under it.
const MALFORMED_SHARE: usize = 200;

/// Text and how it was obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The text, without a byte-order mark.
    pub text: String,
    /// WHATWG name of the encoding, such as `UTF-8` or `windows-1251`.
    pub encoding: &'static str,
    /// Malformed sequences replaced by U+FFFD; 0 for a clean decode.
    pub replaced: usize,
}

/// Decodes `bytes`; `content_type` is the HTTP header, such as `text/html; charset=utf-8`.
pub fn decode(bytes: &[u8], content_type: Option<&str>) -> Decoded {
    if let Some((encoding, bom)) = Encoding::for_bom(bytes) {
        return decode_as(&bytes[bom..], encoding);
    }
    if let Some(encoding) = bare_utf16(bytes) {
        return decode_as(bytes, encoding);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && (!text.is_ascii() || !has_escape_sequences(bytes))
    {
        return Decoded { text: text.to_owned(), encoding: UTF_8.name(), replaced: 0 };
    }
    let declared = content_type.and_then(charset_of_header).or_else(|| declared_in_markup(bytes));
    if let Some(encoding) = declared {
        let decoded = decode_as(bytes, encoding);
        if decoded.replaced * MALFORMED_SHARE <= bytes.len() {
            return decoded;
        }
        let guessed = decode_as(bytes, guess(bytes));
        return if guessed.replaced < decoded.replaced { guessed } else { decoded };
    }
    decode_as(bytes, guess(bytes))
}

fn decode_as(bytes: &[u8], encoding: &'static Encoding) -> Decoded {
    let (text, malformed) = encoding.decode_without_bom_handling(bytes);
    let text = text.into_owned();
    let replaced = if malformed { text.matches('\u{FFFD}').count() } else { 0 };
    Decoded { text, encoding: encoding.name(), replaced }
}

fn guess(bytes: &[u8]) -> &'static Encoding {
    let head = &bytes[..bytes.len().min(GUESS_BYTES)];
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(head, head.len() == bytes.len());
    detector.guess(None, Utf8Detection::Allow)
}

/// ISO-2022-JP is ASCII bytes with escapes; only then may pure ASCII be something other than UTF-8.
fn has_escape_sequences(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"\x1b$").is_some()
}

/// UTF-16 without a mark, seen by `<` and its neighbour; markup starts with ASCII characters.
fn bare_utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    match bytes {
        [b'<', 0, b, 0, ..] if *b != 0 => Some(UTF_16LE),
        [0, b'<', 0, b, ..] if *b != 0 => Some(UTF_16BE),
        _ => None,
    }
}

/// The `charset` parameter of a `Content-Type` value.
fn charset_of_header(value: &str) -> Option<&'static Encoding> {
    let at = value.to_ascii_lowercase().find("charset")?;
    label_after_equals(&value.as_bytes()[at + "charset".len()..])
}

/// Encoding declared by `<meta …>` or `<?xml … encoding="…"?>` within the first bytes.
fn declared_in_markup(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes[..bytes.len().min(SNIFF_BYTES)].to_ascii_lowercase();
    let mut at = 0;
    while let Some(open) = memchr::memchr(b'<', &head[at..]) {
        let rest = &head[at + open..];
        let tag = &rest[..memchr::memchr(b'>', rest).unwrap_or(rest.len())];
        at += open + 1;
        let (prefix, key): (&[u8], &[u8]) = match tag {
            _ if rest.starts_with(b"<!--") => {
                at += memchr::memmem::find(rest, b"-->").unwrap_or(rest.len() - 1);
                continue;
            }
            [b'<', b'm', b'e', b't', b'a', ..] => (b"<meta", b"charset"),
            [b'<', b'?', b'x', b'm', b'l', ..] => (b"<?xml", b"encoding"),
            _ => continue,
        };
        let found = memchr::memmem::find_iter(&tag[prefix.len()..], key)
            .find_map(|i| label_after_equals(&tag[prefix.len() + i + key.len()..]));
        if let Some(encoding) = found {
            // HTML: a page that can be read as ASCII this far is not UTF-16, and x-user-defined means windows-1252.
            return Some(match encoding.name() {
                "UTF-16LE" | "UTF-16BE" => UTF_8,
                "x-user-defined" => WINDOWS_1252,
                _ => encoding,
            });
        }
    }
    None
}

/// Reads `= "label"`, quoted or not, and looks the label up. Labels such as `hz-gb-2312`, which WHATWG gives an encoding in which any page
/// is one U+FFFD, say nothing: there a browser refuses a page, here it is guessed.
fn label_after_equals(bytes: &[u8]) -> Option<&'static Encoding> {
    let rest = bytes.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").or_else(|| rest.strip_prefix(b"'")).unwrap_or(rest);
    let end = rest.iter().position(|b| matches!(b, b'"' | b'\'' | b';' | b'>' | b' ' | b'\t' | b'\n' | b'\r' | b'?'));
    Encoding::for_label_no_replacement(&rest[..end.unwrap_or(rest.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str, label: &str) -> Vec<u8> {
        Encoding::for_label(label.as_bytes()).expect("a known label").encode(text).0.into_owned()
    }

    const RUSSIAN: &str =
        "<p>Съешь ещё этих мягких французских булок, да выпей чаю. Широкая электрификация южных губерний.</p>";
    const JAPANESE: &str =
        "<html><p>吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。</p><p>カタカナも混ぜる。</p>";

    #[test]
    fn empty_and_one_word_inputs_are_utf8() {
        assert_eq!(decode(b"", None), Decoded { text: String::new(), encoding: "UTF-8", replaced: 0 });
        assert_eq!(decode(b"word", Some("text/html")).text, "word");
    }

    #[test]
    fn a_byte_order_mark_beats_every_label() {
        let mut bytes = vec![0xFF, 0xFE];
        bytes.extend("<p>Füße</p>".encode_utf16().flat_map(u16::to_le_bytes));
        let decoded = decode(&bytes, Some("text/html; charset=iso-8859-1"));
        assert_eq!((decoded.text.as_str(), decoded.encoding), ("<p>Füße</p>", "UTF-16LE"));
        let decoded = decode(b"\xEF\xBB\xBFh\xC3\xA9", Some("text/html; charset=latin1"));
        assert_eq!((decoded.text.as_str(), decoded.encoding), ("hé", "UTF-8"));
    }

    #[test]
    fn utf16_without_a_mark_is_recognised_by_its_markup() {
        let bytes: Vec<u8> = "<p>Füße</p>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(decode(&bytes, None).text, "<p>Füße</p>");
    }

    #[test]
    fn the_header_is_believed_before_the_page() {
        let bytes = encoded(&format!("<meta charset=koi8-r>{RUSSIAN}"), "windows-1251");
        let decoded = decode(&bytes, Some("text/html; Charset=\"windows-1251\""));
        assert!(decoded.text.contains("булок"));
        assert_eq!(decoded.encoding, "windows-1251");
    }

    #[test]
    fn declarations_in_the_page_are_found() {
        for head in [
            "<meta charset=windows-1251>",
            "<!-- <meta charset=koi8-r> --><META HTTP-EQUIV='Content-Type' CONTENT='text/html; charset=windows-1251'>",
            "<?xml version='1.0' encoding='windows-1251'?>",
        ] {
            let decoded = decode(&encoded(&format!("{head}{RUSSIAN}"), "windows-1251"), None);
            assert_eq!(decoded.encoding, "windows-1251", "{head}");
            assert!(decoded.text.contains("булок"));
        }
    }

    #[test]
    fn unlabelled_legacy_pages_are_guessed() {
        for (text, label, word) in
            [(RUSSIAN, "windows-1251", "мягких"), (JAPANESE, "shift_jis", "吾輩"), (JAPANESE, "euc-jp", "名前")]
        {
            let decoded = decode(&encoded(text, label), None);
            assert!(decoded.text.contains(word), "{label} was read as {}", decoded.encoding);
            assert_eq!(decoded.replaced, 0);
        }
    }

    #[test]
    fn a_wrong_utf8_label_falls_through_to_the_guess() {
        let decoded = decode(&encoded(RUSSIAN, "windows-1251"), Some("text/html; charset=utf-8"));
        assert!(decoded.text.contains("мягких"), "{decoded:?}");
    }

    #[test]
    fn utf8_under_a_latin_label_stays_utf8() {
        assert_eq!(decode("naïve café".as_bytes(), Some("text/html; charset=iso-8859-1")).text, "naïve café");
    }

    #[test]
    fn labels_that_browsers_refuse_do_not_cost_the_page() {
        for label in ["hz-gb-2312", "iso-2022-kr", "replacement"] {
            let page = format!("<meta charset={label}>{}", RUSSIAN.repeat(4));
            for header in [None, Some(format!("text/html; charset={label}"))] {
                let decoded = decode(&encoded(&page, "windows-1251"), header.as_deref());
                assert!(decoded.text.contains("булок") && decoded.replaced == 0, "{decoded:?}");
            }
        }
    }

    #[test]
    fn a_few_broken_bytes_are_counted_not_fatal() {
        let mut bytes = "<meta charset=utf-8>".as_bytes().to_vec();
        bytes.extend("Füße und Köpfe ".repeat(60).as_bytes());
        bytes.extend([0xFF, 0xFE]);
        let decoded = decode(&bytes, None);
        assert_eq!((decoded.encoding, decoded.replaced), ("UTF-8", 2));
    }

    #[test]
    fn null_bytes_and_noise_decode_to_something() {
        let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
        assert!(!decode(&noise, None).text.is_empty());
        assert_eq!(decode(&[0, 0, 0], None).text, "\0\0\0");
    }
}
