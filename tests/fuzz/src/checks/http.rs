//! HTTP responses: status lines, headers, and what makes a body a page.
//!
//! Any bytes: a body within the limits, an unencoded one a slice of the block's end, headers no longer than the head. Headers
//! written here come back as they were. Bytes behind those looked at do not change whether a body is a page.

use super::super::source::http::{BodyLimits, is_html, parse_http};
use super::knobs;

/// Knobs: what is done, the limit on a body.
pub fn check(bytes: &[u8]) {
    let ([form, limit], bytes) = knobs(bytes);
    let limits = BodyLimits { max_body_bytes: usize::from(limit) << 8, ..BodyLimits::default() };
    if form % 2 == 0 { any(bytes, &limits) } else { written(bytes) }
}

fn any(block: &[u8], limits: &BodyLimits) {
    let response = parse_http(block, limits);
    assert_eq!(response, parse_http(block, limits));
    assert!(response.body.len() <= limits.max_body_bytes);
    let names: usize = response.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    // A byte that is not UTF-8 becomes three.
    assert!(names <= 3 * block.len().min(64 << 10), "{names} bytes of headers");
    let encoded = ["content-encoding", "transfer-encoding"].iter().any(|name| response.header(name).is_some());
    if !encoded {
        let damage = response.damage;
        assert!(!damage.bad_chunking && !damage.undecodable);
        let whole = parse_http(block, &BodyLimits { max_body_bytes: usize::MAX, ..limits.clone() });
        assert!(block.ends_with(&whole.body), "a body that is not the end of its block");
        assert!(whole.body.starts_with(&response.body));
        assert_eq!(damage.body_truncated, response.body.len() < whole.body.len());
    }
    let content_type = response.content_type();
    let page = is_html(content_type, None, &response.body);
    assert_eq!(page, is_html(content_type, None, &response.body[..response.body.len().min(4 << 10)]));
    assert!(is_html(Some("text/html; charset=x"), None, &response.body));
    assert!(!is_html(Some("image/png"), Some("text/html"), &response.body));
}

/// Each line of the input is a header: letters of its first half are the name, the rest is the value.
fn written(bytes: &[u8]) {
    let mut wanted = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(line.len() / 2));
        let name: String =
            name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|&byte| char::from(byte)).collect();
        let value: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        wanted.push((format!("x-{name}"), value.trim_ascii().to_vec()));
    }
    let mut block = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in &wanted {
        block.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    block.extend_from_slice(b"\r\n");
    if block.len() > 64 << 10 {
        return;
    }
    block.extend_from_slice(bytes);
    let response = parse_http(&block, &BodyLimits::default());
    assert_eq!(response.status, 200);
    assert_eq!(response.headers.len(), wanted.len());
    for ((name, value), (wanted_name, wanted_value)) in response.headers.iter().zip(&wanted) {
        assert_eq!((&**name, &**value), (&**wanted_name, &*String::from_utf8_lossy(wanted_value)));
    }
    assert!(*response.body == *bytes && !response.damage.any());
}
