//! `retain = "verdicts"`: the documents of a stage go once every stage that reads them is committed.
//!
//! In: a finished stage's folder. Out: the same without its `part-*` files, and a mark that says so; verdicts, edits, counts, receipt and
//! digest stay, so nothing that was made of it is made again. Left to others: when to drop (`execute`), and running a stage again whose
//! documents are asked for after all. The mark comes first: a folder with it has no documents, whatever files a kill left.

use crate::error::{Error, Result};
use crate::manifest::kinds::{KindInfo, Output};
use crate::receipt::Receipt;
use crate::store::durable::{FileEntry, commit_json};
use serde_json::{Value, json};
use std::path::Path;

/// What a stage keeps once every stage that reads it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retain {
    /// All of its output.
    #[default]
    All,
    /// Its verdicts and edits; its documents go.
    Verdicts,
}

/// The key in a stage's table.
pub const RETAIN: &str = "retain";
/// Kinds whose tables of verdicts have a row for every row they read.
const JUDGING: [&str; 8] = ["ingest", "extract", "language", "filter", "edit", "dedup", "decontaminate", "mix"];
/// Name of the mark in a stage's folder.
pub const DROPPED: &str = "dropped.json";
/// Start of the names of files with documents.
const PARTS: &str = "part-";

impl Retain {
    /// Whether stages of a kind take the option.
    pub fn is_for(kind: &KindInfo) -> bool {
        kind.makes == Output::Table && JUDGING.contains(&kind.name)
    }

    /// Reads the option of a stage of some kind; what is wrong with it, and a way out.
    pub fn read(value: Option<&Value>, kind: &KindInfo) -> std::result::Result<Self, (String, String)> {
        match value.and_then(|v| v.as_str().map(str::to_string).or_else(|| Some(v.to_string()))).as_deref() {
            None | Some("all") => Ok(Self::All),
            Some("verdicts") if Self::is_for(kind) => Ok(Self::Verdicts),
            Some("verdicts") => Err((
                format!("a stage of kind {} makes no verdicts to retain", kind.name),
                format!("take it away; it is for {}", JUDGING.join(", ")),
            )),
            Some(other) => {
                Err((format!("expected \"all\" or \"verdicts\", got {other}"), "take it away to keep all".into()))
            }
        }
    }
}

/// Whether the documents of a stage were dropped.
pub fn is_dropped(folder: &Path) -> bool {
    folder.join(DROPPED).exists()
}

/// The files of a receipt that are to be there: all, or all but those with documents.
pub fn stored<'a>(folder: &Path, receipt: &'a Receipt) -> impl Iterator<Item = &'a FileEntry> {
    let dropped = is_dropped(folder);
    receipt.files.iter().filter(move |file| !dropped || !file.path.starts_with(PARTS))
}

/// Drops the documents of a finished stage; gives the bytes that were freed.
pub fn drop_documents(folder: &Path, receipt: &Receipt) -> Result<u64> {
    let documents = || receipt.files.iter().filter(|file| file.path.starts_with(PARTS));
    if !is_dropped(folder) {
        let bytes: u64 = documents().map(|file| file.bytes).sum();
        commit_json(folder, DROPPED, &json!({ "files": documents().count(), "bytes": bytes, "retain": "verdicts" }))?;
    }
    let mut freed = 0;
    for file in documents() {
        let path = folder.join(&file.path);
        match std::fs::remove_file(&path) {
            Ok(()) => freed += file.bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("remove", &path)(e)),
        }
    }
    Ok(freed)
}

/// Takes the mark away, before the stage runs again.
pub fn unmark(folder: &Path) -> Result<()> {
    let path = folder.join(DROPPED);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path)(e)),
        _ => Ok(()),
    }
}
