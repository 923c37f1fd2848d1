//! Line formats: where one record ends and the next begins, in bounded memory, whatever a file holds.
//!
//! JSONL: a record is a line. CSV and TSV (RFC 4180): a record ends at the first line break outside a quoted field; if
//! there is none within [`MAX_RECORD_BYTES`], the quote is taken for a stray one and the record is its first line. Both
//! rules depend on the bytes from the record's start alone, so a file is cut into the same records from any of them.

use std::io::BufRead;

/// Longest record that is held, in bytes; longer ones are skipped and reported.
pub const MAX_RECORD_BYTES: usize = 32 << 20;

/// How records are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One a line.
    Lines,
    /// Fields between `delimiter`s; quoted ones may hold line breaks.
    Csv {
        /// Byte between fields.
        delimiter: u8,
    },
}

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Offset of its first byte.
    pub offset: u64,
    /// Length with its line break.
    pub length: u64,
    /// Its bytes with the line break, or why they are not held.
    pub bytes: Result<&'a [u8], Broken>,
}

/// Why a record is not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its line is longer than [`MAX_RECORD_BYTES`].
    TooLong,
    /// A quoted field that does not end within [`MAX_RECORD_BYTES`].
    UnclosedQuote,
}

/// The records of a stream, in order.
pub struct Records<R> {
    reader: R,
    shape: Shape,
    held: Vec<u8>,
    at: usize,
    offset: u64,
    ended: bool,
    failed: Option<std::io::Error>,
}

/// Bytes asked for at a time.
const CHUNK: usize = 1 << 18;

impl<R: BufRead> Records<R> {
    /// Records of `reader`, whose first byte is at `offset` and begins a record.
    pub fn new(reader: R, shape: Shape, offset: u64) -> Self {
        Self { reader, shape, held: Vec::new(), at: 0, offset, ended: false, failed: None }
    }

    /// Offset of the next record.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next record; None at the end. An error of the reader (cut or damaged compression) comes after the last
    /// record before it.
    #[allow(clippy::should_implement_trait, reason = "a record borrows from the reader")]
    pub fn next(&mut self) -> std::io::Result<Option<Record<'_>>> {
        self.next_copied(&mut |_| Ok(()))
    }

    /// Like [`Records::next`], and hands every byte of the record to `copy`, held or not.
    pub fn next_copied(
        &mut self,
        copy: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<Option<Record<'_>>> {
        let mut end = End::new(self.shape);
        let length = loop {
            let held = self.held.len() - self.at;
            match end.find(&self.held[self.at..]) {
                Some(length) if length <= MAX_RECORD_BYTES => break length,
                Some(_) => return self.skip(copy).map(Some),
                None if held > MAX_RECORD_BYTES => return self.skip(copy).map(Some),
                None if !self.ended => self.fill(),
                None => match self.failed.take() {
                    Some(e) => return Err(e),
                    None if held == 0 => return Ok(None),
                    None if end.is_quoted() => return self.skip(copy).map(Some),
                    None => break held,
                },
            }
        };
        let (from, offset) = (self.at, self.offset);
        self.at += length;
        self.offset += length as u64;
        let bytes = &self.held[from..from + length];
        copy(bytes)?;
        Ok(Some(Record { offset, length: length as u64, bytes: Ok(bytes) }))
    }

    /// Leaves the first line of what is held behind, without holding more of it.
    fn skip(&mut self, copy: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<Record<'_>> {
        let offset = self.offset;
        loop {
            let line = memchr::memchr(b'\n', &self.held[self.at..]);
            let skipped = line.map_or(self.held.len() - self.at, |n| n + 1);
            copy(&self.held[self.at..self.at + skipped])?;
            self.at += skipped;
            self.offset += skipped as u64;
            if line.is_some() || self.ended {
                break;
            }
            self.fill();
        }
        let length = self.offset - offset;
        let fits = length <= MAX_RECORD_BYTES as u64;
        Ok(Record { offset, length, bytes: Err(if fits { Broken::UnclosedQuote } else { Broken::TooLong }) })
    }

    fn fill(&mut self) {
        self.held.drain(..self.at);
        self.at = 0;
        let mut wanted = CHUNK;
        while wanted > 0 {
            let buffer = match self.reader.fill_buf() {
                Ok(buffer) => buffer,
                Err(e) => {
                    (self.failed, self.ended) = (Some(e), true);
                    return;
                }
            };
            if buffer.is_empty() {
                self.ended = true;
                return;
            }
            let n = buffer.len().min(wanted);
            self.held.extend_from_slice(&buffer[..n]);
            self.reader.consume(n);
            wanted -= n;
        }
    }
}

/// Looks for the end of one record, going on where it stopped when more bytes have come.
enum End {
    Line { seen: usize },
    Csv { seen: usize, delimiter: u8, state: Csv },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Csv {
    FieldStart,
    Plain,
    Quoted,
    QuoteInQuoted,
}

impl End {
    fn new(shape: Shape) -> Self {
        match shape {
            Shape::Lines => Self::Line { seen: 0 },
            Shape::Csv { delimiter } => Self::Csv { seen: 0, delimiter, state: Csv::FieldStart },
        }
    }

    fn is_quoted(&self) -> bool {
        matches!(self, Self::Csv { state: Csv::Quoted, .. })
    }

    /// Length of the record at the start of `bytes` with its line break, if it ends there.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Line { seen } => {
                let found = memchr::memchr(b'\n', &bytes[*seen..]).map(|n| *seen + n + 1);
                *seen = bytes.len();
                found
            }
            Self::Csv { seen, delimiter, state } => loop {
                let rest = &bytes[*seen..];
                let at = match state {
                    Csv::Quoted => memchr::memchr(b'"', rest),
                    Csv::Plain => memchr::memchr2(*delimiter, b'\n', rest),
                    Csv::FieldStart | Csv::QuoteInQuoted => (!rest.is_empty()).then_some(0),
                };
                let Some(at) = at else {
                    *seen = bytes.len();
                    return None;
                };
                *seen += at + 1;
                *state = match (*state, rest[at]) {
                    (Csv::Quoted, _) => Csv::QuoteInQuoted,
                    (Csv::FieldStart | Csv::QuoteInQuoted, b'"') => Csv::Quoted,
                    (_, b'\n') => return Some(*seen),
                    (_, byte) if byte == *delimiter => Csv::FieldStart,
                    _ => Csv::Plain,
                };
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8], shape: Shape, piece: usize) -> Vec<(u64, u64, Result<Vec<u8>, Broken>)> {
        let mut records = Records::new(std::io::BufReader::with_capacity(piece, bytes), shape, 0);
        let mut found = Vec::new();
        while let Some(r) = records.next().unwrap() {
            found.push((r.offset, r.length, r.bytes.map(<[u8]>::to_vec)));
        }
        found
    }

    const CSV: Shape = Shape::Csv { delimiter: b',' };

    #[test]
    fn csv_records_end_where_csv_core_ends_them() {
        let text = b"id,text\n1,\"a \"\"b\"\"\nc, d\"\n2,5\" pipe\n\"3\"x,\"\"\n\n4,\"last\nline\"";
        let ours: Vec<u64> = all(text, CSV, 3).iter().map(|r| r.0 + r.1).collect();
        let mut reader = csv_core::Reader::new();
        let (mut output, mut ends, mut at, mut theirs) = ([0u8; 256], [0usize; 16], 0, Vec::new());
        while at < text.len() {
            let (result, read, _, _) = reader.read_record(&text[at..], &mut output, &mut ends);
            at += read;
            if result == csv_core::ReadRecordResult::InputEmpty {
                break;
            }
            theirs.push(at as u64);
        }
        // csv-core joins an empty line to the record behind it; here it is a record without fields.
        let joined: Vec<u64> =
            ours.iter().copied().filter(|end| text.get(*end as usize - 2..*end as usize) != Some(b"\n\n")).collect();
        assert_eq!(joined[..joined.len() - 1], theirs[..]);
        assert_eq!(*ours.last().unwrap(), text.len() as u64);
    }

    #[test]
    fn every_byte_belongs_to_one_record() {
        let texts: [&[u8]; 5] = [b"", b"\n", b"a\nb", b"a,\"b\n", b"\"a\",b\r\n\"\r\n\"\r\nc"];
        for text in texts {
            for shape in [Shape::Lines, CSV] {
                for piece in [1, 2, 1000] {
                    let mut at = 0;
                    for (offset, length, _) in all(text, shape, piece) {
                        assert_eq!(offset, at, "{text:?}");
                        at += length;
                    }
                    assert_eq!(at, text.len() as u64, "{text:?}");
                }
            }
        }
    }

    #[test]
    fn a_stray_quote_costs_its_line_and_a_long_line_itself() {
        let mut text = b"1,\"never closed\n2,fine\n".to_vec();
        text.resize(MAX_RECORD_BYTES + 100, b'x');
        text.extend(b"\n3,fine\n");
        let found = all(&text, CSV, 1 << 16);
        assert_eq!(found[0], (0, 16, Err(Broken::UnclosedQuote)));
        assert_eq!(found[1].2.as_deref(), Ok(&b"2,fine\n"[..]));
        assert_eq!(found[2].2, Err(Broken::TooLong));
        assert_eq!(found[3].2.as_deref(), Ok(&b"3,fine\n"[..]));
    }
}
