//! Bytes wrapped up in the ways in which crawlers wrap them: members, frames, content encodings, chunks.

use std::io::Write;

/// A gzip member of stored blocks (RFC 1952, RFC 1951 §3.2.4): quick to make, and its content stays readable to a fuzzer.
pub fn gzip_stored(bytes: &[u8]) -> Vec<u8> {
    let mut member = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(0xffff).peekable();
    if bytes.is_empty() {
        member.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(block) = blocks.next() {
        let length = block.len() as u16;
        member.push(u8::from(blocks.peek().is_none()));
        member.extend(length.to_le_bytes());
        member.extend((!length).to_le_bytes());
        member.extend_from_slice(block);
    }
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    member.extend(crc.sum().to_le_bytes());
    member.extend((bytes.len() as u32).to_le_bytes());
    member
}

/// A gzip member with Huffman codes.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

/// A zstd frame.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::bulk::compress(bytes, 1).expect("a frame of a few kilobytes")
}

/// The bytes under one HTTP content encoding; `deflate` is zlib's format unless `raw`.
pub fn encoded(bytes: &[u8], encoding: &str, raw: bool) -> Vec<u8> {
    let level = flate2::Compression::new(1);
    let written = match encoding {
        "gzip" => return gzip(bytes),
        "zstd" => return zstd(bytes),
        "deflate" if raw => {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).and_then(|()| encoder.finish())
        }
        "br" => {
            let mut out = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 1, 16);
            encoder.write_all(bytes).expect("writing to memory does not fail");
            drop(encoder);
            return out;
        }
        _ => return bytes.to_vec(),
    };
    written.expect("writing to memory does not fail")
}

/// The bytes in chunks of `size` bytes (RFC 9112 §7.1). `style` chooses upper-case digits (1), an extension (2), leading zeros (4),
/// line feeds alone (8) and a trailer (16).
pub fn chunked(bytes: &[u8], size: usize, style: u8) -> Vec<u8> {
    let line_end = if style & 8 == 0 { "\r\n" } else { "\n" };
    let header = |length: usize| {
        let zeros = if style & 4 == 0 { 0 } else { 8 };
        let digits = if style & 1 == 0 { format!("{length:0zeros$x}") } else { format!("{length:0zeros$X}") };
        let extension = if style & 2 == 0 { "" } else { " ; name=\"value\"" };
        format!("{digits}{extension}{line_end}")
    };
    let mut out = Vec::new();
    for part in bytes.chunks(size) {
        out.extend_from_slice(header(part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(line_end.as_bytes());
    }
    out.extend_from_slice(header(0).as_bytes());
    if style & 16 != 0 {
        out.extend_from_slice(format!("Trailer: x{line_end}").as_bytes());
    }
    out.extend_from_slice(line_end.as_bytes());
    out
}
