//! Files from outside: WARC and ARC, JSONL, Parquet. Each becomes document rows and, for what is damaged, verdicts.

pub mod http;
pub mod jsonl;
pub mod parquet;
pub mod rows;
pub mod warc;

use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;

/// The formats `ingest` reads, told by the file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// WARC or ARC, plain, gzip or zstd.
    Warc,
    /// One JSON object a line, plain, gzip or zstd.
    Jsonl,
    /// Parquet.
    Parquet,
}

impl Format {
    /// The format of a file name; None for what `ingest` does not read.
    pub fn of(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
        let extension = stem.rsplit('.').next()?;
        match extension {
            "warc" | "arc" | "wet" => Some(Format::Warc),
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "parquet" if stem == name => Some(Format::Parquet),
            _ => None,
        }
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

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Mapped::Empty => &[],
            Mapped::Map(map) => map,
        }
    }
}
