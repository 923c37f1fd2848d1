//! WARC 1.0/1.1 and ARC v1 files, plain, gzip, zstd or LZ4: one pass over the bytes of a file, one item per record.
//!
//! In: the whole file as one slice (mapped or read) and a range of compressed offsets. Out: [`Item::Record`] with the
//! undecoded block, or [`Item::Damaged`] for bytes that are not a record, with a rule. Never panics, always moves on.
//! Left to others: what is inside the block (`http.rs`), the text, the identity of a document, opening files.
//! Specs: ISO 28500:2017 (WARC 1.1), the Internet Archive's ARC v1 page, RFC 1952 (gzip), LZ4 frames (`lz4.rs`), RFC 8878 and
//! <https://iipc.github.io/warc-specifications/specifications/warc-zstd/> (zstd).
//!
//! **Units.** A *member* is a gzip member, a zstd frame or an LZ4 frame. A member that decodes to the start of a record is an
//! *anchor*; an anchor and all bytes up to the next anchor of the chain are a *unit*: normally one record, but also a
//! file that is one big member, or members cut without regard to records. A plain record is its own unit. Damage
//! belongs to the unit before it (or to the start of the file).
//!
//! **Ranges.** A range owns every unit that starts in it. The chain of units is defined from offset 0. Zstd and LZ4 frames can
//! be skipped without decoding, so a range finds its first unit by walking the chain: exact. The end of a gzip member
//! is only known by inflating it, and walking a plain file would map all of it in for every range, so there a range
//! speculates: it takes the first anchor at or after `start - lookback_bytes` and walks from there. That is wrong only
//! where a WARC stored inside a page is longer than the look-back. [`RecordIter::entry`] and [`RecordIter::exit`] make it exact: if the exit of every range is
//! the entry of the next, all ranges together are the whole-file scan, by induction from offset 0; where it is not,
//! run that range again with [`records_from`] at the exit of the one before.

mod frame;
mod head;
mod member;
mod packed;
mod plain;

use super::lz4;
use std::borrow::Cow;

pub(super) use head::next_field;

/// Limits that keep a hostile file from costing more memory or time than its size allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest header block (WARC) or header line (ARC), bytes.
    pub max_header_bytes: usize,
    /// Longest record block, bytes; a longer one is damage `too_large` and is skipped without being held.
    pub max_block_bytes: u64,
    /// Most decoded bytes per compressed byte of one record, once `ratio_free_bytes` have been decoded.
    pub max_ratio: u64,
    /// Decoded bytes of one record before `max_ratio` is looked at.
    pub ratio_free_bytes: u64,
    /// How far before a range's start a gzip reader begins to look for member boundaries, bytes.
    pub lookback_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 64 << 10,
            max_block_bytes: 64 << 20,
            max_ratio: 200,
            ratio_free_bytes: 1 << 20,
            lookback_bytes: 1 << 20,
        }
    }
}

/// How the records of a file are stored, decided by its first bytes, never by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Records follow each other uncompressed.
    Plain,
    /// Gzip members, normally one per record.
    Gzip,
    /// Zstandard frames, normally one per record, optionally after a dictionary frame.
    Zstd,
    /// LZ4 frames, normally one per record.
    Lz4,
}

impl Compression {
    /// The form of `file`: by its first bytes; if these are nothing known, by the first record found in its first MiB.
    pub fn sniff(file: &[u8]) -> Self {
        if !file.is_empty() && file.starts_with(&[0x1f, 0x8b][..file.len().min(2)]) {
            return Self::Gzip;
        }
        let mut behind = file;
        while let Some(skipped) = lz4::skippable(behind) {
            behind = &behind[skipped.len() + 8..];
        }
        if behind.starts_with(&lz4::MAGIC) {
            return Self::Lz4;
        }
        if frame::zstd_frame(file) {
            return Self::Zstd;
        }
        if head::starts_record(file).is_some() {
            return Self::Plain;
        }
        let front = &file[..file.len().min(1 << 20)];
        let packed = |compression, magic: &[u8]| {
            let mut decoder = member::Decoder::new(file, compression);
            memchr::memmem::find_iter(front, magic).find(|&at| decoder.open(at).is_anchor())
        };
        let firsts = [
            (head::find_record(front, 0, head::Kind::Warc), Self::Plain),
            (packed(Self::Gzip, &member::GZIP_MAGIC), Self::Gzip),
            (packed(Self::Zstd, &frame::ZSTD_MAGIC), Self::Zstd),
            (packed(Self::Lz4, &lz4::MAGIC), Self::Lz4),
        ];
        let found = firsts.into_iter().filter_map(|(at, form)| at.map(|at| (at, form)));
        found.min_by_key(|&(at, _)| at).map_or(Self::Plain, |(_, form)| form)
    }
}

/// One record. Header values are trimmed, unfolded and freed of `<…>`; bytes that are not UTF-8 become U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Offset in the file of the record's unit: of its member, or of the record itself in a plain file.
    pub offset: u64,
    /// Decoded offset of the record inside its unit; 0 unless a member holds several records.
    pub offset_in_member: u64,
    /// Bytes from `offset` that are enough to decode this record; the whole unit if this is its last record.
    pub length: u64,
    /// `WARC-Type` in lower case ("response", "warcinfo", …); ARC: "warcinfo", "response" or "resource".
    pub warc_type: String,
    /// `WARC-Record-ID`; ARC has none.
    pub record_id: Option<String>,
    /// `WARC-Target-URI`, the first if there are several, spaces kept.
    pub target_uri: Option<String>,
    /// `WARC-Date`; an ARC date is rewritten in the same form.
    pub date: Option<String>,
    /// `Content-Type` of the block; for an ARC page that begins with an HTTP status line: `application/http`.
    pub content_type: Option<String>,
    /// `WARC-Identified-Payload-Type`; ARC: the type in the header line.
    pub identified_payload_type: Option<String>,
    /// `WARC-IP-Address`.
    pub ip: Option<String>,
    /// `WARC-Payload-Digest`.
    pub payload_digest: Option<String>,
    /// `WARC-Refers-To`.
    pub refers_to: Option<String>,
    /// `WARC-Truncated`: why the crawler cut the block.
    pub truncated: Option<String>,
    /// The block, exactly `Content-Length` bytes: borrowed from a plain file, else decoded.
    pub block: Cow<'a, [u8]>,
}

/// Bytes of a file that gave no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the file of the unit (or of the garbage between units).
    pub offset: u64,
    /// Decoded offset inside the unit where the damaged record starts.
    pub offset_in_member: u64,
    /// Bytes of the file from `offset` to where reading goes on (or was when the damage was seen).
    pub length: u64,
    /// `truncated_member`, `corrupt_member`, `crc_mismatch`, `decompression_bomb`, `truncated_record`,
    /// `length_mismatch`, `bad_header`, `too_large` or `garbage`.
    pub rule: &'static str,
    /// Expected and got, for people.
    pub detail: String,
}

/// What a file holds, in file order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "each item is moved once and most are records")]
pub enum Item<'a> {
    /// An intact record.
    Record(Record<'a>),
    /// Something else.
    Damaged(Damage),
}

/// Iterator over the items of one range; see the module's page for what a range owns.
pub struct RecordIter<'a> {
    reader: Reader<'a>,
    entry: u64,
}

enum Reader<'a> {
    Plain(plain::Plain<'a>),
    Packed(Box<packed::Packed<'a>>),
}

/// The records of every unit of `file` that starts in `start..end` (offsets in the stored, compressed bytes).
pub fn records<'a>(file: &'a [u8], start: u64, end: u64, limits: &Limits) -> RecordIter<'a> {
    let compression = Compression::sniff(file);
    let from = match compression {
        _ if start == 0 => 0,
        Compression::Plain => {
            let from = start.saturating_sub(limits.lookback_bytes);
            let kind = head::starts_record(file).filter(|_| from > 0);
            let anchor = kind.and_then(|kind| head::find_record(file, from as usize, kind)).unwrap_or(0);
            chained_entry(file, compression, anchor as u64, start, limits)
        }
        Compression::Zstd | Compression::Lz4 => {
            member::Decoder::new(file, compression).chained_anchor(start as usize) as u64
        }
        Compression::Gzip => {
            let from = start.saturating_sub(limits.lookback_bytes);
            let anchor = match from {
                0 => 0,
                _ => member::Decoder::new(file, compression).find_anchor(from as usize) as u64,
            };
            chained_entry(file, compression, anchor, start, limits)
        }
    };
    reader(file, compression, from, end, limits)
}

/// Like [`records`], for a range whose first unit is known to start at `entry`.
pub fn records_from<'a>(file: &'a [u8], entry: u64, end: u64, limits: &Limits) -> RecordIter<'a> {
    reader(file, Compression::sniff(file), entry, end, limits)
}

fn reader<'a>(file: &'a [u8], compression: Compression, entry: u64, end: u64, limits: &Limits) -> RecordIter<'a> {
    let (from, to) = (entry.min(file.len() as u64) as usize, end.min(file.len() as u64) as usize);
    let reader = match compression {
        Compression::Plain => Reader::Plain(plain::Plain::new(file, from, to, limits)),
        _ => Reader::Packed(Box::new(packed::Packed::new(file, compression, from, to, limits))),
    };
    RecordIter { reader, entry }
}

/// The first unit at or after `goal` on the chain that starts at `from`.
fn chained_entry(file: &[u8], compression: Compression, from: u64, goal: u64, limits: &Limits) -> u64 {
    if from >= goal {
        return from;
    }
    let mut chain = reader(file, compression, from, goal, limits);
    chain.by_ref().for_each(drop);
    chain.exit().unwrap_or(file.len() as u64)
}

impl RecordIter<'_> {
    /// Offset of the first unit this range owns or would own: the first of the chain at or after its start.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Offset of the first unit of the chain at or after the range's end (the file's length if there is none); `None`
    /// until the iterator is used up.
    pub fn exit(&self) -> Option<u64> {
        match &self.reader {
            Reader::Plain(plain) => plain.exit(),
            Reader::Packed(packed) => packed.exit(),
        }
        .map(|at| at as u64)
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        match &mut self.reader {
            Reader::Plain(plain) => plain.next_item(),
            Reader::Packed(packed) => packed.next_item(),
        }
    }
}

#[cfg(test)]
mod tests;
