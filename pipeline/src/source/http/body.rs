//! Bodies: chunks and content encodings undone, with limits.
//!
//! In: the stored body and what the headers say about it. Out: the decoded body and [`BodyDamage`]. What cannot be
//! decoded is kept as it is: a crawler may have stored the decoded body under the old headers.

use std::borrow::Cow;
use std::io::Read;

use memchr::memchr;

use super::BodyLimits;

/// What was wrong with a body; all false for a sound one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyDamage {
    /// The body is cut: by the crawler, by a limit on size or ratio, or its last chunk is missing.
    pub body_truncated: bool,
    /// The header says chunked, the body is not, or stops being so; the rest was kept as it is.
    pub bad_chunking: bool,
    /// A content encoding is unknown, too deep, or the data are broken; what was decoded before is kept.
    pub undecodable: bool,
}

impl BodyDamage {
    /// Is any of the flags set?
    pub fn any(self) -> bool {
        self.body_truncated || self.bad_chunking || self.undecodable
    }
}

/// Undoes the transfer encoding, then the content encodings, last applied first.
pub(super) fn decode<'a>(
    stored: &'a [u8],
    chunked: bool,
    encodings: &[String],
    limits: &BodyLimits,
) -> (Cow<'a, [u8]>, BodyDamage) {
    let mut damage = BodyDamage::default();
    let mut body = if chunked { dechunk(stored, &mut damage) } else { Cow::Borrowed(stored) };
    if encodings.len() > limits.max_encodings {
        damage.undecodable = true;
    } else {
        for encoding in encodings.iter().rev() {
            match decompress(&body, encoding, limits, &mut damage) {
                Some(decoded) => body = Cow::Owned(decoded),
                None => break,
            }
        }
    }
    if body.len() > limits.max_body_bytes {
        damage.body_truncated = true;
        match &mut body {
            Cow::Borrowed(bytes) => *bytes = &bytes[..limits.max_body_bytes],
            Cow::Owned(bytes) => bytes.truncate(limits.max_body_bytes),
        }
    }
    (body, damage)
}

/// The payload of a chunked body (RFC 9112 §7.1). A body that does not begin with a chunk is returned as it is; where
/// a later chunk is broken, the rest is appended as it is.
fn dechunk<'a>(stored: &'a [u8], damage: &mut BodyDamage) -> Cow<'a, [u8]> {
    let Some(first) = chunk_header(stored) else {
        damage.bad_chunking = !stored.is_empty();
        return Cow::Borrowed(stored);
    };
    let (mut size, mut rest) = (first.0, &stored[first.1..]);
    let mut body = Vec::with_capacity(stored.len());
    while size > 0 {
        if size > rest.len() {
            damage.body_truncated = true;
            body.extend_from_slice(rest);
            return Cow::Owned(body);
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size..];
        // The line break after a chunk; some servers leave it out.
        rest = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")).unwrap_or(rest);
        if rest.is_empty() {
            damage.body_truncated = true;
            break;
        }
        let Some((next, header)) = chunk_header(rest) else {
            damage.bad_chunking = true;
            body.extend_from_slice(rest);
            break;
        };
        (size, rest) = (next, &rest[header..]);
    }
    Cow::Owned(body)
}

/// Size of the chunk whose header line starts `bytes`, and the line's length. Extensions and blanks are allowed.
fn chunk_header(bytes: &[u8]) -> Option<(usize, usize)> {
    let line = memchr(b'\n', &bytes[..bytes.len().min(1 << 10)])?;
    let size = bytes[..line].split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    let is_hex = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
    let size = is_hex.then(|| std::str::from_utf8(size).ok()).flatten()?;
    Some((usize::from_str_radix(size, 16).ok()?, line + 1))
}

/// One content encoding undone; `None` if the body must stay as it is.
fn decompress(body: &[u8], encoding: &str, limits: &BodyLimits, damage: &mut BodyDamage) -> Option<Vec<u8>> {
    if body.is_empty() {
        return None;
    }
    let is_zlib = body.len() > 1 && body[0] & 15 == 8 && (usize::from(body[0]) * 256 + usize::from(body[1])) % 31 == 0;
    let decoder: Box<dyn Read + '_> = match encoding {
        // A body without the magic was decoded by the crawler, which kept the header.
        "gzip" | "x-gzip" if !body.starts_with(&[0x1f, 0x8b]) => return None,
        "gzip" | "x-gzip" => Box::new(flate2::read::MultiGzDecoder::new(body)),
        "deflate" if is_zlib => Box::new(flate2::read::ZlibDecoder::new(body)),
        "deflate" => Box::new(flate2::read::DeflateDecoder::new(body)),
        "br" => Box::new(brotli::Decompressor::new(body, 16 << 10)),
        "zstd" if !body.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => return None,
        "zstd" => Box::new(zstd::Decoder::new(body).ok()?),
        _ => {
            damage.undecodable = true;
            return None;
        }
    };
    let decoded = read_limited(decoder, body.len(), limits, damage);
    let nothing = decoded.is_empty() && (damage.undecodable || damage.body_truncated);
    (!nothing).then_some(decoded)
}

/// Reads to the end, to a limit, or to an error; keeps what was read.
fn read_limited(mut decoder: impl Read, stored: usize, limits: &BodyLimits, damage: &mut BodyDamage) -> Vec<u8> {
    let by_ratio = stored.saturating_mul(limits.max_ratio).max(limits.ratio_free_bytes);
    let most = limits.max_body_bytes.min(by_ratio);
    let mut decoded = Vec::with_capacity(stored.saturating_mul(4).min(most).min(1 << 20));
    let mut piece = [0_u8; 16 << 10];
    loop {
        match decoder.read(&mut piece) {
            Ok(0) => break,
            Ok(count) if count > most - decoded.len() => {
                decoded.extend_from_slice(&piece[..most - decoded.len()]);
                damage.body_truncated = true;
                break;
            }
            Ok(count) => decoded.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                damage.body_truncated = true;
                break;
            }
            // Bytes after a complete gzip member are no harm.
            Err(error) if !decoded.is_empty() && error.to_string() == "invalid gzip header" => {
                break;
            }
            Err(_) => {
                damage.undecodable = true;
                break;
            }
        }
    }
    decoded
}
