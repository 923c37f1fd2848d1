//! Files from outside: WARC and ARC, JSONL and CSV, Parquet. Each becomes document rows and, for what is damaged, verdicts.

pub mod files;
pub mod http;
pub mod lines;
pub mod lz4;
pub mod parquet;
pub mod records;
pub mod remote;
pub mod rows;
pub mod spool;
pub mod takedown;
pub mod warc;

use crate::error::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;

/// The formats `ingest` reads, told by the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// WARC or ARC, plain, gzip, zstd or LZ4.
    Warc,
    /// One JSON object a line, plain, gzip, zstd or LZ4.
    Jsonl,
    /// Comma-separated values with names in the first record, plain, gzip, zstd or LZ4.
    Csv,
    /// The same, separated by tabs.
    Tsv,
    /// Parquet.
    Parquet,
}

impl Format {
    /// What a file name may end in, for people.
    pub const KNOWN: &str = ".warc .arc .wet .jsonl .ndjson .csv .tsv (plain, .gz, .zst, .lz4) and .parquet";

    /// The format of a file name; None for what `ingest` does not read.
    pub fn of(name: &str) -> Option<Self> {
        let stem = PACKED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
        let extension = stem.rsplit('.').next()?;
        match extension {
            "warc" | "arc" | "wet" => Some(Format::Warc),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "csv" => Some(Format::Csv),
            "tsv" => Some(Format::Tsv),
            "parquet" if stem == name => Some(Format::Parquet),
            _ => None,
        }
    }

    /// The byte between fields, for formats that have one.
    pub fn delimiter(self) -> Option<u8> {
        match self {
            Format::Csv => Some(b','),
            Format::Tsv => Some(b'\t'),
            _ => None,
        }
    }
}

/// Endings of compressed files.
const PACKED: [&str; 3] = [".gz", ".zst", ".lz4"];

/// Whether a file is one compressed stream, to be decoded from its beginning.
pub fn is_packed(name: &str) -> bool {
    PACKED.iter().any(|ending| name.ends_with(ending))
}

/// Names under which JSONL, CSV and Parquet files keep a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    /// Field with the text.
    pub text: String,
    /// Field with HTML; where it is set, `text` is left to `extract`.
    pub html: String,
    /// Field with the owner's id, kept as `source_id`.
    pub id: String,
    /// Field with the URL.
    pub url: String,
    /// Field with the date.
    pub date: String,
    /// Further fields carried along as text columns of the same name.
    #[serde(skip)]
    pub columns: Vec<String>,
}

impl Default for Fields {
    fn default() -> Self {
        let [text, html, id, url, date] = ["text", "html", "id", "url", "date"].map(String::from);
        Self { text, html, id, url, date, columns: Vec::new() }
    }
}

/// A file's bytes, mapped; empty files map to nothing.
pub enum Mapped {
    /// An empty file.
    Empty,
    /// A mapped one.
    Map(memmap2::Mmap),
}

impl Mapped {
    /// Maps a file for reading.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().map_err(Error::io("look at", path))?.len() == 0 {
            return Ok(Mapped::Empty);
        }
        // SAFETY: the map is read-only and source files are not written during a run; a file cut short by another
        // process meanwhile ends this process by SIGBUS, after which running again resumes.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Mapped::Map(map))
    }

    /// Gives the pages of a range back to the system: they count as this process's memory while they are mapped in, and
    /// are read anew if they are looked at again.
    pub fn release(&self, range: std::ops::Range<usize>) {
        if let Mapped::Map(map) = self {
            // SAFETY: the map is shared and read-only, so dropped pages come back with the same bytes.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Mapped::Empty => &[],
            Mapped::Map(map) => map,
        }
    }
}
