//! The HTTP response inside a record's block: status, headers and the body as a browser would see it.
//!
//! In: the bytes of a block. Out: [`HttpResponse`] with the body de-chunked and decompressed, and [`BodyDamage`] that
//! says what was wrong with it; there is always a response. Also [`is_html`]. Left to others: charsets, the text.
//! RFC 9110 and 9112, read leniently: crawlers store half-decoded bodies, cut bodies and broken chunks.

mod body;

use std::borrow::Cow;

pub use body::BodyDamage;

/// Limits for one body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Longest decoded body, bytes; a longer one is cut.
    pub max_body_bytes: usize,
    /// Most decoded bytes per stored byte, once `ratio_free_bytes` have been decoded.
    pub max_ratio: usize,
    /// Decoded bytes before `max_ratio` is looked at.
    pub ratio_free_bytes: usize,
    /// Most content encodings on top of each other.
    pub max_encodings: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { max_body_bytes: 16 << 20, max_ratio: 200, ratio_free_bytes: 1 << 20, max_encodings: 2 }
    }
}

/// A response, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse<'a> {
    /// The status code; 0 if the block does not begin with a status line, and then `body` is the whole block.
    pub status: u16,
    /// Header names and values in order, values trimmed and unfolded.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The body without transfer and content encodings.
    pub body: Cow<'a, [u8]>,
    /// What was wrong with the body.
    pub damage: BodyDamage,
}

impl HttpResponse<'_> {
    /// The value of the first header with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// `Content-Type` as sent, with its parameters.
    pub fn content_type(&self) -> Option<&str> {
        self.header("content-type").filter(|value| !value.is_empty())
    }

    /// All encodings of these headers in the order in which they were applied, in lower case.
    fn encodings(&self, name: &str) -> Vec<String> {
        let values = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values
            .flat_map(|(_, value)| value.split(','))
            .map(|value| value.trim().to_ascii_lowercase())
            .filter(|value| !matches!(&**value, "" | "identity" | "none"))
            .collect()
    }
}

/// Longest header block that is looked for, bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Reads a response from the block of a record; never fails, see [`HttpResponse::status`] and [`BodyDamage`].
pub fn parse_http<'a>(block: &'a [u8], limits: &BodyLimits) -> HttpResponse<'a> {
    let (status, headers, body) = match header_end(block) {
        Some(end) if status_of(block).is_some() => {
            let (status, headers) = parse_head(&block[..end]);
            (status, headers, &block[end..])
        }
        _ => (0, Vec::new(), block),
    };
    let mut response = HttpResponse { status, headers, body: Cow::Borrowed(body), damage: BodyDamage::default() };
    let chunked = response.encodings("transfer-encoding").iter().any(|name| name == "chunked");
    let encodings = response.encodings("content-encoding");
    (response.body, response.damage) = body::decode(body, chunked, &encodings, limits);
    response
}

/// End of the headers: behind the first empty line, or of the whole block if it is only headers.
fn header_end(block: &[u8]) -> Option<usize> {
    let front = &block[..block.len().min(MAX_HEADER_BYTES)];
    let mut at = 0;
    loop {
        match memchr::memchr(b'\n', &front[at..]) {
            Some(line) if front[at..at + line].iter().all(|&byte| byte == b'\r') => {
                return Some(at + line + 1);
            }
            Some(line) => at += line + 1,
            None => return (front.len() == block.len()).then_some(block.len()),
        }
    }
}

/// The code of a status line like `HTTP/1.1 200 OK`, `HTTP/2 200` or `HTTP/1.0 302 `; 0 if it has none.
fn status_of(block: &[u8]) -> Option<u16> {
    let line = &block[..memchr::memchr(b'\n', block).unwrap_or(block.len()).min(1 << 10)];
    let is_http = line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"));
    let code = line.split(|&byte| byte == b' ').skip(1).find(|word| !word.is_empty()).unwrap_or_default();
    let code = std::str::from_utf8(code.trim_ascii()).ok().and_then(|code| code.parse().ok()).unwrap_or(0);
    is_http.then_some(code)
}

type Headers<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// Status and headers: `httparse` for what is in order, a line-by-line reading for the rest.
fn parse_head(head: &[u8]) -> (u16, Headers<'_>) {
    let mut space = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut space);
    if let (Ok(httparse::Status::Complete(_)), Some(status)) = (response.parse(head), response.code) {
        let headers = response.headers.iter();
        let headers = headers.map(|field| (Cow::Borrowed(field.name), text(Cow::Borrowed(field.value.trim_ascii()))));
        return (status, headers.collect());
    }
    let mut headers = Vec::new();
    let mut rest = &head[memchr::memchr(b'\n', head).map_or(head.len(), |at| at + 1)..];
    while let Some((name, value, after)) = super::warc::next_field(rest) {
        headers.push((String::from_utf8_lossy(name), text(value)));
        rest = after;
    }
    (status_of(head).unwrap_or(0), headers)
}

fn text(value: Cow<'_, [u8]>) -> Cow<'_, str> {
    match value {
        Cow::Borrowed(value) => String::from_utf8_lossy(value),
        Cow::Owned(value) => Cow::Owned(String::from_utf8_lossy(&value).into_owned()),
    }
}

/// Is this body a web page?
///
/// Decided by the HTTP header, then by `WARC-Identified-Payload-Type`, then by looking for markup; a type that says
/// nothing (missing, malformed, `application/octet-stream`, `text/xml`, …) passes the question on. Looking finds XHTML
/// behind an XML declaration and pages that begin with a script or a comment.
pub fn is_html(content_type: Option<&str>, identified_payload_type: Option<&str>, body: &[u8]) -> bool {
    let said = [content_type, identified_payload_type].into_iter().flatten().find_map(type_says_html);
    said.unwrap_or_else(|| looks_like_html(body))
}

fn type_says_html(content_type: &str) -> Option<bool> {
    let essence = content_type.split([';', ',']).next().unwrap_or_default().trim().to_ascii_lowercase();
    match &*essence {
        "text/html" | "application/xhtml+xml" | "application/vnd.wap.xhtml+xml" => Some(true),
        "text/xml" | "application/xml" | "application/octet-stream" | "application/x-unknown-content-type" => None,
        "unknown/unknown" | "application/unknown" | "*/*" | "content/unknown" => None,
        other => other.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty()).map(|_| false),
    }
}

/// Elements that only a page begins with (WHATWG MIME Sniffing §7.1, and a few that real pages begin with).
const PAGE_STARTS: [&str; 22] = [
    "!doctype html",
    "html",
    "head",
    "body",
    "script",
    "title",
    "meta",
    "link",
    "style",
    "iframe",
    "table",
    "div",
    "h1",
    "font",
    "a",
    "b",
    "br",
    "p",
    "center",
    "noscript",
    "base",
    "header",
];

/// Bytes of a body that are looked at.
const SNIFF_BYTES: usize = 4 << 10;

fn looks_like_html(body: &[u8]) -> bool {
    let front = &body[..body.len().min(SNIFF_BYTES)];
    let utf16 = front.starts_with(&[0xff, 0xfe]) || front.starts_with(&[0xfe, 0xff]);
    let front: Vec<u8> = front.iter().copied().filter(|&byte| !(utf16 && byte == 0)).collect();
    let front = String::from_utf8_lossy(&front).to_ascii_lowercase();
    let mut rest = front.trim_start_matches(['\u{feff}', '\u{fffd}']).trim_start();
    loop {
        // Comments, processing instructions and (after those) the doctype of XHTML say nothing yet.
        let skipped = [("<!--", "-->"), ("<?", ">")].into_iter().find_map(|(open, close)| {
            rest.strip_prefix(open).map(|inside| inside.split_once(close).map_or("", |(_, after)| after))
        });
        match skipped {
            Some(after) => rest = after.trim_start(),
            None => break,
        }
    }
    let Some(tag) = rest.strip_prefix('<') else {
        return false;
    };
    let starts = |name: &str| {
        let after = tag.strip_prefix(name);
        after.is_some_and(|after| after.starts_with(|c: char| c.is_whitespace() || c == '>' || c == '/'))
    };
    PAGE_STARTS.iter().any(|name| starts(name))
}

#[cfg(test)]
mod tests;
