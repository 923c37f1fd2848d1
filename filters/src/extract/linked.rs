//! What a page's linked data says: JSON-LD with schema.org names.
//!
//! In: the text of a script of type `application/ld+json`. Out: the date of publication, authors,
//! and publisher. Reads what it can: real scripts hold raw line breaks, comments and
//! stray commas, on which a strict parser would give up. One pass, no recursion; objects that speak of comments, reviews
//! and recommendations are passed over.
//! Spec: JSON (RFC 8259), JSON-LD 1.1, schema.org `Article`.

/// Objects and lists nested deeper than this are not looked into.
const MAX_DEPTH: usize = 64;

/// More authors than this are a directory.
const MAX_AUTHORS: usize = 16;

/// What was found; the first value of each counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    /// `datePublished`, else `dateCreated` or `uploadDate`.
    pub(super) date: Option<String>,
    pub(super) created: Option<String>,
    pub(super) authors: Vec<String>,
    pub(super) publisher: Option<String>,
}

/// An open object or list.
struct Level {
    /// Key under which it stands; that of the list for objects in a list.
    key: Key,
    is_object: bool,
    /// Lies in a part that speaks of something else.
    aside: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Date,
    Created,
    Author,
    Publisher,
    Name,
    Aside,
    Other,
}

fn key_of(name: &str) -> Key {
    match name {
        "datePublished" => Key::Date,
        "dateCreated" | "uploadDate" => Key::Created,
        "author" | "creator" => Key::Author,
        "publisher" => Key::Publisher,
        "name" => Key::Name,
        "comment" | "comments" | "review" | "reviews" | "isPartOf" | "mentions" | "hasPart" | "itemListElement"
        | "suggestedAnswer" | "relatedLink" | "about" | "associatedMedia" | "video" => Key::Aside,
        _ => Key::Other,
    }
}

/// Adds what one script says.
pub(super) fn read(json: &str, found: &mut Linked) {
    let mut levels: Vec<Level> = Vec::new();
    let mut too_deep = 0_usize;
    let mut key = Key::Other; // of the value that comes next
    let mut at = 0;
    while let Some(next) =
        json.as_bytes()[at..].iter().position(|b| matches!(b, b'"' | b'{' | b'}' | b'[' | b']' | b','))
    {
        at += next + 1;
        match json.as_bytes()[at - 1] {
            b'"' => {
                let length = string_length(&json.as_bytes()[at..]);
                let raw = &json[at..at + length];
                at = (at + length + 1).min(json.len());
                let names_value = json[at..].trim_start().starts_with(':');
                let in_object = levels.last().is_some_and(|level| level.is_object);
                if names_value && in_object {
                    key = key_of(raw);
                } else {
                    let value_key = if in_object { key } else { levels.last().map_or(Key::Other, |level| level.key) };
                    if too_deep == 0 {
                        take(found, &levels, value_key, raw);
                    }
                    key = Key::Other;
                }
            }
            open @ (b'{' | b'[') => {
                if levels.len() >= MAX_DEPTH {
                    too_deep += 1;
                    continue;
                }
                let above = levels.last();
                let key = if above.is_some_and(|level| !level.is_object) {
                    above.map_or(key, |level| level.key)
                } else {
                    key
                };
                let aside = key == Key::Aside || above.is_some_and(|level| level.aside);
                levels.push(Level { key, is_object: open == b'{', aside });
            }
            b',' => key = if levels.last().is_some_and(|level| level.is_object) { Key::Other } else { key },
            _ if too_deep > 0 => too_deep -= 1,
            _ => {
                levels.pop();
                key = Key::Other;
            }
        }
    }
}

fn take(found: &mut Linked, levels: &[Level], key: Key, raw: &str) {
    if levels.last().is_some_and(|level| level.aside) || raw.is_empty() {
        return;
    }
    let owner = levels.iter().rev().find(|level| level.is_object).map_or(Key::Other, |level| level.key);
    let first = |place: &mut Option<String>| {
        if place.is_none() {
            *place = Some(unescape(raw));
        }
    };
    match key {
        Key::Date => first(&mut found.date),
        Key::Created => first(&mut found.created),
        Key::Publisher => first(&mut found.publisher),
        Key::Name if owner == Key::Publisher => first(&mut found.publisher),
        Key::Name | Key::Author if key == Key::Author || owner == Key::Author => {
            let name = unescape(raw);
            if found.authors.len() < MAX_AUTHORS && !found.authors.contains(&name) {
                found.authors.push(name);
            }
        }
        _ => {}
    }
}

/// Bytes before the quote that ends a string.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(i) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        if bytes[at + i] == b'"' {
            return at + i;
        }
        at = (at + i + 2).min(bytes.len());
    }
    bytes.len()
}

/// Replaces escapes; those of no meaning stay as they are.
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(i) = rest.find('\\') {
        out.push_str(&rest[..i]);
        let mut chars = rest[i + 1..].chars();
        let escaped = chars.next();
        rest = chars.as_str();
        match escaped {
            Some('n' | 'r') => out.push('\n'),
            Some('t' | 'b' | 'f') => out.push(' '),
            Some('u') => rest = unicode(rest, &mut out),
            Some(other) => out.push(other),
            None => {}
        }
    }
    out.push_str(rest);
    out
}

/// Writes the character of `00e9` or of a pair `d83e\udd8a`; returns what follows.
fn unicode<'a>(rest: &'a str, out: &mut String) -> &'a str {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let Some(first) = unit(rest) else { return rest };
    let second = rest[4..].strip_prefix("\\u").and_then(unit);
    let both = [first, second.unwrap_or(0)];
    match char::decode_utf16(both).next() {
        Some(Ok(c)) => {
            out.push(c);
            &rest[if c.len_utf16() == 2 { 10 } else { 4 }..]
        }
        _ => {
            out.push('\u{FFFD}');
            &rest[4..]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked(json: &str) -> Linked {
        let mut found = Linked::default();
        read(json, &mut found);
        found
    }

    #[test]
    fn articles_name_date_authors_and_publisher() {
        let found = linked(
            r#"{"@context":"https://schema.org","@graph":[{"@type":"WebPage","name":"x"},{"@type":"NewsArticle",
            "headline":"h","author":[{"@type":"Person","name":"Zo\u00eb Q"},{"name":"B"}],"datePublished":"2020-01-02T03:04",
            "publisher":{"logo":{"url":"u"},"name":"The Paper"},"comment":[{"author":{"name":"troll"},
            "datePublished":"1999-01-01"}]}]}"#,
        );
        assert_eq!(found.authors, ["Zoë Q", "B"]);
        assert_eq!(found.date.as_deref(), Some("2020-01-02T03:04"));
        assert_eq!(found.publisher.as_deref(), Some("The Paper"));
        assert_eq!(linked(r#"{"author":"A","creator":["B","A"]}"#).authors, ["A", "B"]);
    }

    #[test]
    fn broken_scripts_give_what_can_be_read() {
        assert_eq!(linked(""), Linked::default());
        assert_eq!(linked("\"").authors, [""; 0]);
        assert_eq!(
            linked("{\"author\":\n{\"name\": \"A\nB\",}, // c\n \"datePublished\": \"2020-01-02\"").date.as_deref(),
            Some("2020-01-02")
        );
        assert_eq!(
            linked(r#"{"publisher":"a\"b\\\ud83e\udd8a\ud83e\n"}"#).publisher.as_deref(),
            Some("a\"b\\🦊\u{FFFD}\n")
        );
        assert_eq!(linked(&"[{\"a\":".repeat(100_000)), Linked::default());
        assert_eq!(linked(&format!("{}{}", "]}".repeat(1000), r#"{"author":"作家"}"#)).authors, ["作家"]);
    }
}
