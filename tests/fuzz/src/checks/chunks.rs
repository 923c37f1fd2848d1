//! Bodies in chunks and under content encodings.
//!
//! A payload encoded here and cut into chunks of any size and style comes back whole. Cut anywhere, what comes back is the beginning
//! of the payload or of what was to be decoded. Any bytes called chunked or encoded give no more than the limits allow, and a smaller
//! limit gives the beginning of the same.

use super::super::source::http::{BodyLimits, HttpResponse, parse_http};
use super::{damaged, knobs, pack};

const ENCODINGS: [&[&str]; 10] = [
    &[],
    &["gzip"],
    &["deflate"],
    &["br"],
    &["zstd"],
    &["identity"],
    &["gzip", "br"],
    &["deflate", "gzip"],
    &["zstd", "deflate"],
    &["br", "zstd"],
];

/// Knobs: what is done, encodings, size and style of chunks, damage, place of the damage.
pub fn check(bytes: &[u8]) {
    let ([form, encodings, size, style, damage, at], bytes) = knobs(bytes);
    let encodings = ENCODINGS[usize::from(encodings) % ENCODINGS.len()];
    if form % 2 == 0 {
        any(bytes, encodings, style & 1 == 0, usize::from(size));
    } else {
        round(bytes, encodings, usize::from(size), style, (damage, at));
    }
}

fn block(encodings: &[&str], chunked: bool, body: &[u8]) -> Vec<u8> {
    let mut head = "HTTP/1.1 200 OK\r\n".to_owned();
    if !encodings.is_empty() {
        head += &format!("Content-Encoding: {}\r\n", encodings.join(", "));
    }
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

fn any(body: &[u8], encodings: &[&str], chunked: bool, most: usize) {
    let block = block(encodings, chunked, body);
    let limits = BodyLimits::default();
    let response = parse_http(&block, &limits);
    assert_eq!(response, parse_http(&block, &limits));
    let limit = limits.max_body_bytes.min((body.len() * limits.max_ratio).max(limits.ratio_free_bytes));
    let plain = encodings.iter().all(|name| *name == "identity");
    let bound = if plain { body.len() } else { limit * limits.max_ratio.pow(encodings.len() as u32 - 1) };
    assert!(response.body.len() <= bound, "{} bytes from {}", response.body.len(), body.len());
    let small = parse_http(&block, &BodyLimits { max_body_bytes: most, ..limits });
    assert!(small.body.len() <= most);
    // Of two encodings the inner one may be cut before the outer one gives anything.
    if encodings.len() < 2 {
        assert!(response.body.starts_with(&small.body), "a smaller limit changes the body");
    }
}

fn round(payload: &[u8], encodings: &[&str], size: usize, style: u8, (damage, at): (u8, u8)) {
    let mut stages = vec![payload.to_vec()];
    for encoding in encodings {
        stages.push(pack::encoded(&stages[stages.len() - 1], encoding, style & 32 != 0));
    }
    let stored = &stages[stages.len() - 1];
    let body = if size == 0 { stored.clone() } else { pack::chunked(stored, size.max(stored.len() / 256), style) };
    let whole = block(encodings, size > 0, &body);
    let response = parse_http(&whole, &BodyLimits::default());
    // Raw deflate may look like zlib's format, and an empty body is not decoded.
    let ambiguous = style & 32 != 0 && encodings.contains(&"deflate");
    assert!(ambiguous || (*response.body == *payload && !response.damage.any()), "{response:?} is not {payload:?}");
    if damage > 0 {
        let body = damaged(body, damage, at);
        let part = block(encodings, size > 0, &body);
        let response = parse_http(&part, &BodyLimits::default());
        let cut = damage % 2 == 0 && !ambiguous;
        assert!(!cut || is_beginning(&response, &stages), "{response:?} of {payload:?}");
        assert!(response.body.len() <= BodyLimits::default().max_body_bytes);
    }
}

/// Is the body of a cut response the beginning of what it was made from, at any stage? Behind a cut chunk header, anything goes.
fn is_beginning(response: &HttpResponse<'_>, stages: &[Vec<u8>]) -> bool {
    response.damage.bad_chunking || stages.iter().any(|stage| stage.starts_with(&response.body))
}
