//! Record headers: where one starts, where it ends, what it says.
//!
//! In: decoded bytes. Out: [`Head`] or why not. Left to others: finding more bytes, the block, what to do with damage.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::Record;

/// Bytes that always suffice to tell whether a record starts here.
pub(super) const START_BYTES: usize = 4 << 10;
/// Line breaks before a record that are passed over.
const START_NEWLINES: usize = 8;
/// A version line or an ARC header line is shorter than this, its line break included, wherever it is looked for.
const START_LINE: usize = START_BYTES - START_NEWLINES;

/// Line-break bytes that end a WARC record (CR LF CR LF): where they follow a block, its length was right, whatever
/// comes next.
pub(super) const END_OF_RECORD: usize = 4;

/// Which of the two formats a header is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Warc,
    Arc,
}

/// A parsed header.
pub(super) struct Head {
    /// Bytes of the block that follows.
    pub content_length: u64,
    record: Record<'static>,
}

impl Head {
    /// The record, once its place and its block are known.
    pub fn into_record(self, offset: usize, offset_in_member: u64, length: usize, block: Cow<'_, [u8]>) -> Record<'_> {
        let mut record = self.record;
        // An ARC header line names the type of the page, not of the block.
        if record.content_type.is_none() && record.record_id.is_none() && block.starts_with(b"HTTP/") {
            record.content_type = Some("application/http; msgtype=response".to_owned());
        }
        Record { offset: offset as u64, offset_in_member, length: length as u64, block, ..record }
    }
}

/// The format of the record that starts `bytes`, after up to [`START_NEWLINES`] line breaks; looks at [`START_BYTES`] at most.
pub(super) fn starts_record(bytes: &[u8]) -> Option<Kind> {
    let bytes = &bytes[newlines(&bytes[..bytes.len().min(START_NEWLINES)])..];
    let bytes = &bytes[..bytes.len().min(START_LINE)];
    if warc_version_len(bytes).is_some() {
        return Some(Kind::Warc);
    }
    let line = &bytes[..memchr(b'\n', bytes)?];
    ArcLine::split(line).map(|_| Kind::Arc)
}

/// Do these last bytes of a file look like the first bytes of a record that is cut off?
pub(super) fn is_cut_start(bytes: &[u8], kind: Kind) -> bool {
    let start = b"WARC/1.0";
    match kind {
        Kind::Warc => bytes.len() < 12 && bytes.iter().zip(start).take(6).all(|(a, b)| a == b),
        Kind::Arc => bytes.len() < START_BYTES && memchr(b'\n', bytes).is_none(),
    }
}

/// How many CR and LF bytes `bytes` begins with.
pub(super) fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

/// Index of the first record of this kind at or after `from`: of a version line that begins a line or is followed by a
/// header (the end of garbage need not be the end of a line), or of an ARC header line.
pub(super) fn find_record(bytes: &[u8], from: usize, kind: Kind) -> Option<usize> {
    let at_line_start = |at: usize| at == 0 || at == from || bytes[at - 1] == b'\n';
    let is_version = |at: usize| {
        warc_version_len(&bytes[at..]).is_some_and(|length| at_line_start(at) || is_field(&bytes[at + length..]))
    };
    match kind {
        Kind::Warc => memmem::find_iter(&bytes[from..], b"WARC/").map(|at| from + at).find(|&at| is_version(at)),
        Kind::Arc => {
            let mut at = from;
            while let Some(line) = memchr(b'\n', &bytes[at..]) {
                if at_line_start(at) && line < START_LINE && ArcLine::split(&bytes[at..at + line]).is_some() {
                    return Some(at);
                }
                at += line + 1;
            }
            None
        }
    }
}

/// Does `bytes` begin with a header name and a colon?
fn is_field(bytes: &[u8]) -> bool {
    let name = bytes.iter().take(64).take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'-').count();
    name > 0 && bytes.get(name) == Some(&b':')
}

/// Length of the header including the empty line that ends it (WARC) or its line break (ARC).
pub(super) fn head_end(bytes: &[u8], kind: Kind) -> Option<usize> {
    let mut at = memchr(b'\n', bytes)? + 1;
    if kind == Kind::Arc {
        return Some(at);
    }
    loop {
        let line = memchr(b'\n', &bytes[at..])?;
        // Some writers end lines with CR CR LF.
        if bytes[at..at + line].iter().all(|&byte| byte == b'\r') {
            return Some(at + line + 1);
        }
        at += line + 1;
    }
}

/// Reads a header as delimited by [`head_end`]; the error says what is wrong with it.
pub(super) fn parse(bytes: &[u8], kind: Kind) -> Result<Head, String> {
    match kind {
        Kind::Warc => parse_warc(bytes),
        Kind::Arc => parse_arc(bytes),
    }
}

/// Length of "WARC/1.0" and its line break at the start of `bytes`.
fn warc_version_len(bytes: &[u8]) -> Option<usize> {
    let version = bytes.strip_prefix(b"WARC/")?;
    let end = memchr(b'\n', &version[..version.len().min(12)])?;
    let (major, minor) = version[..end].trim_ascii_end().split_once_byte(b'.')?;
    let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
    (digits(major) && digits(minor)).then_some(b"WARC/".len() + end + 1)
}

trait SplitOnce {
    fn split_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnce for [u8] {
    fn split_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])> {
        memchr(byte, self).map(|at| (&self[..at], &self[at + 1..]))
    }
}

fn empty_record() -> Record<'static> {
    Record {
        offset: 0,
        offset_in_member: 0,
        length: 0,
        warc_type: String::new(),
        record_id: None,
        target_uri: None,
        date: None,
        content_type: None,
        identified_payload_type: None,
        ip: None,
        payload_digest: None,
        refers_to: None,
        truncated: None,
        block: Cow::Borrowed(&[]),
    }
}

fn parse_warc(bytes: &[u8]) -> Result<Head, String> {
    let mut record = empty_record();
    let mut content_length: Option<u64> = None;
    let mut rest = &bytes[warc_version_len(bytes).ok_or("no version line")?..];
    while let Some((name, value, after)) = next_field(rest) {
        rest = after;
        if name.eq_ignore_ascii_case(b"Content-Length") {
            let text = String::from_utf8_lossy(&value);
            let length = text.parse().map_err(|_| format!("Content-Length is `{}`", shorten(&text)))?;
            content_length = content_length.or(Some(length));
        } else if name.eq_ignore_ascii_case(b"WARC-Type") {
            record.warc_type = String::from_utf8_lossy(&value).to_ascii_lowercase();
        } else if let Some(field) = field_of(&mut record, name)
            && field.is_none()
            && !value.is_empty()
        {
            *field = Some(String::from_utf8_lossy(without_brackets(&value)).into_owned());
        }
    }
    let content_length = content_length.ok_or("no Content-Length")?;
    Ok(Head { content_length, record })
}

/// The place for the value of a header, if it is one we keep.
fn field_of<'r>(record: &'r mut Record<'static>, name: &[u8]) -> Option<&'r mut Option<String>> {
    let known: [(&[u8], &'r mut Option<String>); 9] = [
        (b"WARC-Target-URI", &mut record.target_uri),
        (b"WARC-Date", &mut record.date),
        (b"WARC-Record-ID", &mut record.record_id),
        (b"Content-Type", &mut record.content_type),
        (b"WARC-Identified-Payload-Type", &mut record.identified_payload_type),
        (b"WARC-IP-Address", &mut record.ip),
        (b"WARC-Payload-Digest", &mut record.payload_digest),
        (b"WARC-Refers-To", &mut record.refers_to),
        (b"WARC-Truncated", &mut record.truncated),
    ];
    known.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, field)| field)
}

/// Name, value, and the bytes that follow.
pub(in super::super) type Field<'a> = (&'a [u8], Cow<'a, [u8]>, &'a [u8]);

/// The next `name: value` with folded lines joined by one space, and what follows it. Lines without a colon are skipped.
pub(in super::super) fn next_field(mut bytes: &[u8]) -> Option<Field<'_>> {
    loop {
        if bytes.is_empty() {
            return None;
        }
        let (line, mut rest) = split_line(bytes);
        let Some((name, value)) = line.split_once_byte(b':') else {
            bytes = rest;
            continue;
        };
        let mut value = Cow::Borrowed(value.trim_ascii());
        while matches!(rest.first(), Some(b' ' | b'\t')) {
            let (folded, after) = split_line(rest);
            if !folded.trim_ascii().is_empty() {
                let joined = value.to_mut();
                joined.push(b' ');
                joined.extend_from_slice(folded.trim_ascii());
            }
            rest = after;
        }
        return Some((name.trim_ascii(), value, rest));
    }
}

fn split_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_once_byte(b'\n').unwrap_or((bytes, &[]))
}

fn without_brackets(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"<").and_then(|value| value.strip_suffix(b">")).unwrap_or(value).trim_ascii()
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The parts of an ARC v1 header line: `URL IP date content-type length`, where URL and type may hold spaces.
struct ArcLine<'a> {
    url: &'a [u8],
    ip: &'a [u8],
    date: &'a [u8],
    content_type: &'a [u8],
    length: &'a [u8],
}

impl<'a> ArcLine<'a> {
    fn split(line: &'a [u8]) -> Option<Self> {
        let line = line.trim_ascii_end();
        let scheme = &line[..memchr(b':', &line[..line.len().min(16)])?];
        if scheme.is_empty() || !scheme.iter().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        let (mut front, length) = rsplit(line)?;
        let type_end = front.len();
        // From the right, because URL and type may hold spaces: the first date that follows an IP address.
        loop {
            let (before, word) = rsplit(front)?;
            if is_date(word) {
                let (url, ip) = rsplit(before)?;
                if ip.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')) {
                    let content_type = &line[(front.len() + 1).min(type_end)..type_end];
                    return Some(Self { url, ip, date: word, content_type, length });
                }
            }
            front = before;
        }
    }
}

fn is_date(word: &[u8]) -> bool {
    (8..=20).contains(&word.len()) && word.iter().all(u8::is_ascii_digit)
}

fn rsplit(line: &[u8]) -> Option<(&[u8], &[u8])> {
    memchr::memrchr(b' ', line).map(|at| (&line[..at], &line[at + 1..]))
}

fn parse_arc(bytes: &[u8]) -> Result<Head, String> {
    let line = ArcLine::split(bytes).ok_or("not an ARC header line")?;
    let text = |part: &[u8]| Some(String::from_utf8_lossy(part.trim_ascii()).into_owned()).filter(|s| !s.is_empty());
    let length = String::from_utf8_lossy(line.length);
    let content_length = length.parse().map_err(|_| format!("length is `{}`", shorten(&length)))?;
    let url = text(line.url).unwrap_or_default();
    let warc_type = match url.split(':').next() {
        Some("filedesc") => "warcinfo",
        Some("http" | "https") => "response",
        _ => "resource",
    };
    let record = Record {
        warc_type: warc_type.to_owned(),
        target_uri: Some(url),
        date: arc_date(line.date),
        identified_payload_type: text(line.content_type).filter(|name| name.contains('/')),
        ip: text(line.ip),
        ..empty_record()
    };
    Ok(Head { content_length, record })
}

/// `20140216050221` -> `2014-02-16T05:02:21Z`; missing parts are zero.
fn arc_date(digits: &[u8]) -> Option<String> {
    let digits = format!("{:0<14}", std::str::from_utf8(&digits[..digits.len().min(14)]).ok()?);
    let part = |from: usize, to: usize| &digits[from..to];
    let (day, time) = ([part(0, 4), part(4, 6), part(6, 8)], [part(8, 10), part(10, 12), part(12, 14)]);
    Some(format!("{}T{}Z", day.join("-"), time.join(":")))
}
