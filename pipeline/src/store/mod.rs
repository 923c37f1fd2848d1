//! Where outputs live: `RUN/.store/<fingerprint>/`, with `RUN/STAGE` a link to the one the manifest asks for now.
//!
//! A finished fragment is its files plus `fragments/[PHASE/]NNNNN.json`; `receipt.json` comes last. What no record
//! names does not count, so a kill at any instant leaves either the old state or the new one.

pub mod durable;
pub mod fail;
pub mod lock;

use crate::error::{Error, Result};
use durable::FileEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names of the folder of side files, kept until the receipt is committed.
const SIDE: &str = "side";

/// Counts by name, in name order.
pub type Counts = BTreeMap<String, u64>;

/// One finished fragment: the unit of resume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FragmentRecord {
    /// Position in the stage's fragment list, fixed by the input.
    pub index: usize,
    /// The files that belong to it, in writing order.
    pub files: Vec<FileEntry>,
    /// What was counted while making it.
    pub counts: Counts,
}

impl FragmentRecord {
    /// Adds to a named count.
    pub fn add(&mut self, name: &str, n: u64) {
        *self.counts.entry(name.to_string()).or_default() += n;
    }
}

/// The folder one stage writes to; the name is its fingerprint.
#[derive(Clone, Debug)]
pub struct OutputDir {
    /// `RUN/.store/<fingerprint>`.
    pub path: PathBuf,
}

impl OutputDir {
    /// Opens the folder, removing what an interrupted writer left under temporary names.
    pub fn open(path: PathBuf) -> Result<Self> {
        durable::create_dir_all(&path)?;
        remove_temporaries(&path)?;
        Ok(Self { path })
    }

    /// A fragment that is already committed and whose files are all there at the committed length.
    pub fn fragment(&self, phase: &str, index: usize) -> Option<FragmentRecord> {
        let text = std::fs::read(self.path.join(record_name(phase, index))).ok()?;
        let record: FragmentRecord = serde_json::from_slice(&text).ok()?;
        let whole = |f: &FileEntry| std::fs::metadata(self.path.join(&f.path)).is_ok_and(|m| m.len() == f.bytes);
        record.files.iter().all(whole).then_some(record)
    }

    /// Commits a fragment: from here on a resume skips it.
    pub fn commit_fragment(&self, phase: &str, record: &FragmentRecord) -> Result<()> {
        durable::commit_json(&self.path, &record_name(phase, record.index), record)
    }

    /// Name for a side file of a phase; side files leave when the stage is done and are in no digest.
    pub fn side_name(phase: &str, file: &str) -> String {
        format!("{SIDE}/{phase}/{file}")
    }

    /// Removes side files and the records of side phases, once a receipt stands.
    pub fn remove_side_files(&self) -> Result<()> {
        for name in [SIDE, "checkpoints"] {
            remove_folder(&self.path.join(name))?;
        }
        let fragments = self.path.join("fragments");
        let Ok(entries) = std::fs::read_dir(&fragments) else { return Ok(()) };
        for entry in entries.flatten().filter(|e| e.path().is_dir()) {
            remove_folder(&entry.path())?;
        }
        Ok(())
    }
}

fn record_name(phase: &str, index: usize) -> String {
    if phase.is_empty() { format!("fragments/{index:05}.json") } else { format!("fragments/{phase}/{index:05}.json") }
}

/// Removes a folder if it is there.
pub fn remove_folder(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path)(e)),
    }
}

fn remove_temporaries(folder: &Path) -> Result<()> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io("read folder", &folder))? {
            let path = entry.map_err(Error::io("read folder", &folder))?.path();
            let temporary = path.file_name().is_some_and(|n| {
                let n = n.to_string_lossy();
                n.starts_with('.') && n.ends_with(".tmp")
            });
            if path.is_dir() && !path.is_symlink() {
                if temporary { remove_folder(&path)? } else { folders.push(path) }
            } else if temporary {
                std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
    }
    Ok(())
}
