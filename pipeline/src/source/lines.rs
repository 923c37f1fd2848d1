//! JSONL and CSV: one document a record, with `text` or `html` and optional `id`, `url`, `date`; plain, gzip, zstd or LZ4.
//!
//! A record belongs to the range its first byte is in. One that is no object, has no text or one that is no string, is not UTF-8 or is
//! too long is a verdict row, never a stop.

use super::Fields;
use super::records::{Broken, MAX_RECORD_BYTES, Record, Records, Shape};
use super::rows::{Document, Place, Rows};
use crate::error::{Error, Result};
use crate::verdict::Status;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A line format and how its fields are found.
#[derive(Clone, Debug)]
pub enum Lines {
    /// One JSON object a line.
    Json,
    /// Fields in the order of the names in the first record.
    Csv {
        /// Byte between fields.
        delimiter: u8,
        /// Names of the fields.
        names: Vec<String>,
    },
}

impl Lines {
    /// How records are told apart.
    pub fn shape(&self) -> Shape {
        match self {
            Lines::Json => Shape::Lines,
            Lines::Csv { delimiter, .. } => Shape::Csv { delimiter: *delimiter },
        }
    }

    /// CSV with the names in the first record of `reader`, and where the second record begins.
    pub fn csv(delimiter: u8, reader: impl BufRead) -> std::io::Result<(Self, u64)> {
        let mut records = Records::new(reader, Shape::Csv { delimiter }, 0);
        let header = records.next()?.and_then(|r| r.bytes.ok().map(|b| split(b, delimiter)));
        let names = header.unwrap_or_default().into_iter().map(|f| {
            let name = String::from_utf8_lossy(&f);
            name.trim_start_matches('\u{feff}').trim().to_string()
        });
        Ok((Self::Csv { delimiter, names: names.collect() }, records.offset()))
    }
}

/// A reader over the decoded bytes of a file, by its name.
pub fn decoded<'a>(name: &str, bytes: &'a [u8], path: &Path) -> Result<Box<dyn BufRead + 'a>> {
    if name.ends_with(".gz") {
        Ok(Box::new(BufReader::with_capacity(1 << 18, flate2::bufread::MultiGzDecoder::new(bytes))))
    } else if name.ends_with(".zst") {
        let decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(Error::io("decode", path))?;
        Ok(Box::new(BufReader::with_capacity(1 << 18, decoder)))
    } else if name.ends_with(".lz4") {
        Ok(Box::new(BufReader::with_capacity(1 << 18, super::lz4::Reader::new(bytes))))
    } else {
        Ok(Box::new(bytes))
    }
}

/// Reads the records that start in `start..end` of the decoded bytes and hands full batches to `flush`.
pub fn read(
    reader: &mut dyn BufRead,
    lines: &Lines,
    (start, end): (u64, u64),
    fields: &Fields,
    rows: &mut Rows,
    flush: &mut dyn FnMut(&mut Rows) -> Result<()>,
) -> Result<()> {
    let mut records = Records::new(reader, lines.shape(), start);
    while records.offset() < end {
        let offset = records.offset();
        match records.next() {
            Ok(None) => break,
            Ok(Some(found)) => record(&found, lines, fields, rows),
            Err(e) => {
                broken_stream(offset, &e.to_string(), rows);
                break;
            }
        }
        if rows.is_full() {
            flush(rows)?;
        }
    }
    Ok(())
}

/// Reports that the decoded bytes end at `offset` because the compressed ones are cut or damaged.
pub fn broken_stream(offset: u64, why: &str, rows: &mut Rows) {
    let place = Place { offset, offset_in_member: 0, length: 0 };
    let reason = format!("the compressed data ends or breaks here: {why}");
    rows.refuse(&place, Status::Failed, "truncated_member", None, reason);
}

fn record(record: &Record<'_>, lines: &Lines, fields: &Fields, rows: &mut Rows) {
    let place = Place { offset: record.offset, offset_in_member: 0, length: record.length };
    let length = record.length;
    match (record.bytes, lines) {
        (Ok(bytes), _) if bytes.trim_ascii().is_empty() => {}
        (Ok(bytes), Lines::Json) => {
            // A byte-order mark at the start of a file is no part of its first record.
            let mark = if record.offset == 0 { &b"\xef\xbb\xbf"[..] } else { b"" };
            json(bytes.strip_prefix(mark).unwrap_or(bytes), &place, fields, rows);
        }
        (Ok(bytes), Lines::Csv { delimiter, names }) => csv(bytes, *delimiter, names, &place, fields, rows),
        (Err(Broken::TooLong), _) => {
            let reason = format!("a line of {length} bytes, longer than {MAX_RECORD_BYTES}");
            rows.refuse(&place, Status::Failed, "line_too_long", Some(length as f64), reason);
        }
        (Err(Broken::UnclosedQuote), _) => {
            let reason = format!("a quoted field does not end within {MAX_RECORD_BYTES} bytes");
            rows.refuse(&place, Status::Failed, "unclosed_quote", None, reason);
        }
    }
}

fn json(line: &[u8], place: &Place, fields: &Fields, rows: &mut Rows) {
    let parsed: Map<String, Value> = match serde_json::from_slice(line) {
        Ok(parsed) => parsed,
        Err(e) => return rows.refuse(place, Status::Failed, "bad_json", None, format!("not a JSON object: {e}")),
    };
    let shown = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    let id = parsed.get(&fields.id).filter(|v| !v.is_null()).map(shown);
    let extra = fields.columns.iter().map(|name| parsed.get(name).filter(|v| !v.is_null()).map(shown)).collect();
    let text = |key: &str| parsed.get(key).and_then(Value::as_str);
    rows.found_columns(fields.columns.iter().map(|name| parsed.contains_key(name)), || parsed.keys());
    let no_string = |key: &String| parsed.get(key).filter(|v| !v.is_null() && !v.is_string()).map(kind_of);
    if text(&fields.text).or(text(&fields.html)).is_none()
        && let Some((key, kind)) = [&fields.text, &fields.html].into_iter().find_map(|k| Some((k, no_string(k)?)))
    {
        let reason = format!("`{key}` is {kind}, expected a string");
        return rows.refuse(place, Status::Failed, "bad_text", None, reason);
    }
    document(text, id.as_deref(), extra, parsed.keys(), place, fields, rows);
}

/// The kind of a JSON value, for people.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn csv(line: &[u8], delimiter: u8, names: &[String], place: &Place, fields: &Fields, rows: &mut Rows) {
    let values = split(line, delimiter);
    if values.len() != names.len() {
        let reason = format!("{} fields where the first record names {}", values.len(), names.len());
        return rows.refuse(place, Status::Failed, "bad_csv", Some(values.len() as f64), reason);
    }
    let Ok(values) = values.iter().map(|v| std::str::from_utf8(v)).collect::<std::result::Result<Vec<_>, _>>() else {
        return rows.refuse(place, Status::Failed, "bad_utf8", None, "a field is not UTF-8".into());
    };
    let field = |key: &str| names.iter().position(|n| n == key).map(|i| values[i]).filter(|v| !v.is_empty());
    let extra = fields.columns.iter().map(|name| field(name).map(String::from)).collect();
    rows.found_columns(fields.columns.iter().map(|name| names.contains(name)), || names.iter());
    document(field, field(&fields.id), extra, names.iter(), place, fields, rows);
}

fn document<'a>(
    field: impl Fn(&str) -> Option<&'a str>,
    id: Option<&str>,
    extra: Vec<Option<String>>,
    names: impl Iterator<Item = &'a String>,
    place: &Place,
    fields: &Fields,
    rows: &mut Rows,
) {
    let (html, text) = (field(&fields.html), field(&fields.text));
    if html.is_none() && text.is_none() {
        let names: Vec<&str> = names.map(String::as_str).take(8).collect();
        let reason = format!("neither `{}` nor `{}`, only {}", fields.text, fields.html, names.join(", "));
        return rows.refuse(place, Status::Failed, "no_text", None, reason);
    }
    rows.keep(
        place,
        &Document {
            url: field(&fields.url),
            source_id: id,
            date: field(&fields.date),
            content_type: html.map(|_| "text/html; charset=utf-8"),
            html: html.map(str::as_bytes),
            text: if html.is_some() { None } else { text },
            extra,
            ..Document::default()
        },
    );
}

/// The fields of one record, unquoted.
fn split(record: &[u8], delimiter: u8) -> Vec<Vec<u8>> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    let (mut values, mut value) = (Vec::new(), vec![0; record.len() + 1]);
    let mut at = 0;
    loop {
        let (result, read, written) = reader.read_field(&record[at..], &mut value);
        at += read;
        match result {
            csv_core::ReadFieldResult::Field { .. } => values.push(value[..written].to_vec()),
            // What is left belongs to a last field that ends with the record: an empty input says so.
            csv_core::ReadFieldResult::InputEmpty => {
                let (last, _, more) = reader.read_field(&[], &mut value[written..]);
                if matches!(last, csv_core::ReadFieldResult::Field { .. }) {
                    values.push(value[..written + more].to_vec());
                }
                return values;
            }
            csv_core::ReadFieldResult::OutputFull => {
                unreachable!("a field fits because the output is as long as its record")
            }
            csv_core::ReadFieldResult::End => return values,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unquoted() {
        let fields = |text: &str| -> Vec<String> {
            split(text.as_bytes(), b',').into_iter().map(|f| String::from_utf8(f).unwrap()).collect()
        };
        assert_eq!(fields("a,b\r\n"), ["a", "b"]);
        assert_eq!(fields("a,\n"), ["a", ""]);
        assert_eq!(fields("\"a \"\"b\"\"\nc, d\",5\" pipe\n"), ["a \"b\"\nc, d", "5\" pipe"]);
        assert_eq!(fields("x"), ["x"]);
    }

    #[test]
    fn the_first_record_names_the_fields() {
        let (lines, start) = Lines::csv(b'\t', &b"\xef\xbb\xbfid\ttext\n1\thello\n"[..]).unwrap();
        let Lines::Csv { names, .. } = lines else { panic!("csv gives csv") };
        assert_eq!((names, start), (vec!["id".to_string(), "text".into()], 11));
    }
}
