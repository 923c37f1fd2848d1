//! JSONL: one object a line with `text` or `html`, optional `id`, `url`, `date`; plain, gzip or zstd.
//!
//! A line belongs to the range its first byte is in; compressed files are one range. A line that is no object, has no
//! text or is longer than [`MAX_LINE_BYTES`] is a verdict row, never a stop.

use super::rows::{Document, Place, Rows};
use crate::error::{Error, Result};
use crate::verdict::Status;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that is read as one document, in bytes; longer ones are refused and skipped.
pub const MAX_LINE_BYTES: usize = 32 << 20;

/// A reader over the decoded bytes of a file, by its name.
pub fn decoded<'a>(path: &Path, bytes: &'a [u8]) -> Result<Box<dyn BufRead + 'a>> {
    let name = path.to_string_lossy();
    if name.ends_with(".gz") {
        Ok(Box::new(BufReader::with_capacity(1 << 16, flate2::bufread::MultiGzDecoder::new(bytes))))
    } else if name.ends_with(".zst") {
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(Error::io("decode", path))?;
        Ok(Box::new(BufReader::with_capacity(1 << 16, decoder)))
    } else {
        Ok(Box::new(bytes))
    }
}

/// Reads the lines that start in `start..end` of the decoded bytes and hands full batches to `flush`.
pub fn read(
    reader: &mut dyn BufRead,
    start: u64,
    end: u64,
    extra: &[String],
    rows: &mut Rows,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    let mut offset = start;
    while offset < end {
        let place = |length: u64| Place { offset, offset_in_member: 0, length };
        let (taken, whole) = match take_line(reader, &mut line) {
            Ok((0, _)) => break,
            Ok(read) => read,
            Err(e) => {
                rows.refuse(
                    &place(0),
                    Status::Failed,
                    "truncated_member",
                    None,
                    format!("the compressed data ends or breaks here: {e}"),
                );
                break;
            }
        };
        let place = place(taken);
        if !whole {
            let reason = format!("a line of {taken} bytes, longer than {MAX_LINE_BYTES}");
            rows.refuse(&place, Status::Failed, "line_too_long", Some(taken as f64), reason);
        } else if !line.trim_ascii().is_empty() {
            object(&line, &place, extra, rows);
        }
        offset += taken;
        if rows.is_full() {
            flush(rows)?;
        }
    }
    Ok(())
}

/// The next line without holding more than the limit; its length with the line break, and whether it was held whole.
fn take_line(mut reader: &mut dyn BufRead, line: &mut Vec<u8>) -> std::io::Result<(u64, bool)> {
    line.clear();
    let held = Read::take(&mut reader, MAX_LINE_BYTES as u64 + 1).read_until(b'\n', line)? as u64;
    if held <= MAX_LINE_BYTES as u64 || line.last() == Some(&b'\n') {
        return Ok((held, true));
    }
    let mut taken = held;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok((taken, false));
        }
        match memchr::memchr(b'\n', buffer) {
            Some(at) => {
                reader.consume(at + 1);
                return Ok((taken + at as u64 + 1, false));
            }
            None => {
                let n = buffer.len();
                reader.consume(n);
                taken += n as u64;
            }
        }
    }
}

fn object(line: &[u8], place: &Place, extra: &[String], rows: &mut Rows) {
    let parsed: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(parsed) => parsed,
        Err(e) => return rows.refuse(place, Status::Failed, "bad_json", None, format!("not a JSON object: {e}")),
    };
    let text = |key: &str| parsed.get(key).and_then(Value::as_str);
    let (html, plain) = (text("html"), text("text"));
    if html.is_none() && plain.is_none() {
        let keys: Vec<&str> = parsed.keys().map(String::as_str).take(8).collect();
        return rows.refuse(
            place,
            Status::Failed,
            "no_text",
            None,
            format!("neither `text` nor `html`, only {}", keys.join(", ")),
        );
    }
    let id = parsed.get("id").map(|v| v.as_str().map_or_else(|| v.to_string(), String::from));
    let shown = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let document = Document {
        url: text("url"),
        source_id: id.as_deref(),
        date: text("date"),
        content_type: html.map(|_| "text/html; charset=utf-8"),
        html: html.map(str::as_bytes),
        text: if html.is_some() { None } else { plain },
        extra: extra.iter().map(|name| parsed.get(name).filter(|v| !v.is_null()).map(shown)).collect(),
        ..Document::default()
    };
    rows.keep(place, &document);
}
