//! Responses as crawlers store them: sound, half-decoded, cut and hostile.

use std::io::Write;

use super::*;

fn parse(block: &[u8]) -> HttpResponse<'_> {
    parse_http(block, &BodyLimits::default())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    brotli::CompressorWriter::new(&mut packed, 4096, 5, 20).write_all(bytes).unwrap();
    packed
}

fn with_headers(headers: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes(), body].concat()
}

fn chunk(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for part in body.chunks(size) {
        out.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[test]
fn status_lines_are_read_leniently() {
    let rows: [(&[u8], u16, usize); 8] = [
        (b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", 200, 1),
        (b"HTTP/1.0 302 \r\nLocation: x\r\nServer: y\r\n\r\n", 302, 2),
        (b"HTTP/2 404\nA: b\n\nbody", 404, 1),
        (b"http/1.1 200\r\nbad name : v\r\nno colon\r\n folded\r\n\r\n", 200, 1),
        (b"HTTP/1.1 abc\r\n\r\n", 0, 0),
        (b"HTTP/1.1 200 OK", 200, 0),
        (b"<html>no status line</html>", 0, 0),
        (b"", 0, 0),
    ];
    for (block, status, headers) in rows {
        let response = parse(block);
        let text = String::from_utf8_lossy(block);
        assert_eq!((response.status, response.headers.len()), (status, headers), "{text}");
    }
    assert_eq!(&*parse(rows_body()).body, b"<html>");
}

fn rows_body() -> &'static [u8] {
    b"<html>"
}

#[test]
fn headers_are_found_in_any_case_and_with_foreign_bytes() {
    let block = b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: text/html;\r\n charset=x\r\nX-N: caf\xe9\r\n\r\n";
    let response = parse(block);
    assert_eq!(response.content_type(), Some("text/html; charset=x"));
    assert_eq!(response.header("x-n"), Some("caf\u{fffd}"));
}

#[test]
fn every_encoding_is_undone_alone_and_in_chunks() {
    let page = "<html>gr\u{fc}\u{df}e \u{4f60}\u{597d}</html>".repeat(50).into_bytes();
    let encodings = [
        ("gzip", gzip(&page)),
        ("x-gzip", gzip(&page)),
        ("deflate", zlib(&page)),
        ("Deflate", deflate(&page)),
        ("br", brotli(&page)),
        ("zstd", zstd::bulk::compress(&page, 3).unwrap()),
        ("deflate, gzip", gzip(&zlib(&page))),
        ("identity", page.clone()),
    ];
    for (name, stored) in encodings {
        for size in [0, 1, 7, 100_000] {
            let (header, stored) = match size {
                0 => ("", stored.clone()),
                _ => ("Transfer-Encoding: chunked\r\n", chunk(&stored, size)),
            };
            let block = with_headers(&format!("{header}Content-Encoding: {name}\r\n"), &stored);
            let response = parse(&block);
            assert!(response.body == page && !response.damage.any(), "{name} {size} {:?}", response.damage);
        }
    }
}

#[test]
fn a_body_that_was_already_decoded_is_kept() {
    for encoding in ["gzip", "zstd", "br", "deflate", "unknown", "gzip, gzip, gzip"] {
        let block = with_headers(&format!("Content-Encoding: {encoding}\r\n"), b"<html>plain</html>");
        assert_eq!(&*parse(&block).body, b"<html>plain</html>", "{encoding}");
    }
    let block = with_headers("Transfer-Encoding: chunked\r\n", b"<html>plain</html>");
    let response = parse(&block);
    assert_eq!((&*response.body, response.damage.bad_chunking), (&b"<html>plain</html>"[..], true));
}

#[test]
fn cut_and_broken_bodies_keep_what_could_be_read() {
    let page = (0..20_000).map(|n| format!("{} ", n * 7919 % 10_007)).collect::<String>().into_bytes();
    let zstd = zstd::bulk::compress(&page, 3).unwrap();
    for (name, stored) in [("gzip", gzip(&page)), ("deflate", zlib(&page)), ("br", brotli(&page)), ("zstd", zstd)] {
        for cut in [stored.len() / 2, stored.len() - 1, stored.len() / 10] {
            let block = with_headers(&format!("Content-Encoding: {name}\r\n"), &stored[..cut]);
            let response = parse(&block);
            assert!(response.damage.any(), "{name} {cut}");
            assert!(page.starts_with(&response.body) || *response.body == stored[..cut], "{name} {cut}");
        }
    }
    let mut broken = gzip(&page);
    let middle = broken.len() / 2;
    broken[middle..middle + 40].fill(0xff);
    let block = with_headers("Content-Encoding: gzip\r\n", &broken);
    assert!(parse(&block).damage.undecodable);
}

#[test]
fn chunks_are_read_leniently() {
    let rows: [(&[u8], &[u8], bool, bool); 9] = [
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", false, false),
        (b"00000005;name=value\r\nhello\r\n0\r\nTrailer: x\r\n\r\n", b"hello", false, false),
        (b"5 \nhello\n0\n\n", b"hello", false, false),
        (b"3\r\nhel2\r\nlo0\r\n", b"hello", false, false),
        (b"5\r\nhel", b"hel", true, false),
        (b"5\r\nhello\r\n", b"hello", true, false),
        (b"3\r\nhel\r\nzz\r\nlo", b"helzz\r\nlo", false, true),
        (b"FFFFFFFFFFFFFFFF\r\nhello", b"hello", true, false),
        (b"FFFFFFFFFFFFFFFFF\r\nhello", b"FFFFFFFFFFFFFFFFF\r\nhello", false, true),
    ];
    for (stored, body, truncated, bad) in rows {
        let block = with_headers("Transfer-Encoding: chunked\r\n", stored);
        let response = parse(&block);
        let text = String::from_utf8_lossy(stored);
        assert_eq!(&*response.body, body, "{text}");
        assert_eq!((response.damage.body_truncated, response.damage.bad_chunking), (truncated, bad), "{text}");
    }
}

#[test]
fn any_body_survives_any_chunking_and_any_noise_is_read_without_panic() {
    let mut state = 7_u64;
    let mut random = |most: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % most
    };
    for _ in 0..500 {
        let body: Vec<u8> = (0..random(300)).map(|_| b"0123\r\n;aF <"[random(11)]).collect();
        let stored = chunk(&body, 1 + random(40));
        let block = with_headers("Transfer-Encoding: chunked\r\n", &stored);
        let response = parse(&block);
        assert!(response.body == body && !response.damage.any());
        // Cut or garbled: never more than what was stored.
        let cut = &block[..block.len() - random(stored.len())];
        assert!(parse(cut).body.len() <= stored.len());
        let headers = "Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n";
        let noise = with_headers(headers, &body);
        assert!(parse(&noise).body.len() <= noise.len());
    }
}

#[test]
fn bombs_are_cut() {
    let bomb = gzip(&vec![b'a'; 40 << 20]);
    let block = with_headers("Content-Encoding: gzip\r\n", &bomb);
    let response = parse(&block);
    assert_eq!(response.body.len(), (bomb.len() * 200).clamp(1 << 20, 16 << 20));
    assert!(response.damage.body_truncated);
    let small = BodyLimits { max_body_bytes: 10, ..BodyLimits::default() };
    let block = with_headers("", b"0123456789abc");
    let response = parse_http(&block, &small);
    assert_eq!((&*response.body, response.damage.body_truncated), (&b"0123456789"[..], true));
}

#[test]
fn pages_are_told_from_other_files() {
    let page = b"<!DOCTYPE html><html></html>".as_slice();
    let xhtml = b"\xef\xbb\xbf<?xml version=\"1.0\"?>\n<!-- made by x -->\n<!DOCTYPE html PUBLIC ''><html>".as_slice();
    let script = b"  <script src=x></script><p>".as_slice();
    type Row<'a> = (Option<&'a str>, Option<&'a str>, &'a [u8], bool);
    let rows: [Row<'_>; 14] = [
        (Some("text/html; charset=utf-8"), None, b"", true),
        (Some("TEXT/HTML"), Some("application/pdf"), b"%PDF", true),
        (Some("application/xhtml+xml"), None, b"", true),
        (Some("image/png"), Some("text/html"), page, false),
        (Some("text/plain"), None, page, false),
        (Some("text/xml"), None, xhtml, true),
        (Some("text/xml"), None, b"<?xml version='1.0'?><rss>", false),
        (Some("application/octet-stream"), Some("application/xhtml+xml"), b"", true),
        (None, Some("application/pdf"), page, false),
        (None, None, script, true),
        (Some(""), None, b"\xff\xfe<\0h\0t\0m\0l\0>\0", true),
        (Some("nonsense"), None, b"<article", false),
        (None, None, b"<!-- only a comment", false),
        (None, None, "\u{4f60}\u{597d} <html>".as_bytes(), false),
    ];
    for (content_type, identified, body, wanted) in rows {
        let text = String::from_utf8_lossy(body);
        assert_eq!(is_html(content_type, identified, body), wanted, "{content_type:?} {identified:?} {text}");
    }
}
