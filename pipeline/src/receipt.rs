//! The receipt: the last thing a stage writes, and the proof that it is whole.

use crate::error::{Error, Result};
use crate::retain;
use crate::store::durable::{self, FileEntry};
use crate::store::{Counts, FragmentRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// File name of the receipt inside a stage's folder.
pub const RECEIPT: &str = "receipt.json";

/// What a stage did. Everything but `elapsed_secs` and `metrics` follows from the inputs alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The stage's name when it was made.
    pub stage: String,
    /// The stage's kind.
    pub kind: String,
    /// VERSION of the code that made it.
    pub version: u32,
    /// blake3 of everything the bytes depend on, 32 hex digits.
    pub fingerprint: String,
    /// blake3 over the sorted (path, blake3) of the data files, 32 hex digits.
    pub output_digest: String,
    /// Rows of the output table, if the output is one.
    pub rows: u64,
    /// Counts by name: `in`, `kept`, `dropped`, `failed`, `dropped:<rule>`, and what the stage adds.
    pub counts: Counts,
    /// The data files; receipts, records, logs and event files are not among them.
    pub files: Vec<FileEntry>,
    /// Number of fragments.
    pub fragments: usize,
    /// Seconds spent in the process that finished it.
    pub elapsed_secs: f64,
    /// Measurements that may differ from run to run (rates, memory).
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub metrics: Value,
}

impl Receipt {
    /// Sums fragments into a receipt; `rows` counts those of its table.
    pub fn from_fragments(fragments: &[FragmentRecord]) -> (Vec<FileEntry>, Counts, u64) {
        let mut files: Vec<FileEntry> = fragments.iter().flat_map(|f| f.files.iter().cloned()).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let mut counts = Counts::new();
        for (name, n) in fragments.iter().flat_map(|f| &f.counts) {
            *counts.entry(name.clone()).or_default() += n;
        }
        let rows = files.iter().filter(|f| crate::dataset::is_part(&f.path)).filter_map(|f| f.rows).sum();
        (files, counts, rows)
    }

    /// Reads the receipt of a finished stage; `None` while there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(RECEIPT);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(Error::io("read", &path)(e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            Error::Integrity(format!("{} is not a receipt: {e}\nhint: remove its folder and run again", path.display()))
        })
    }

    /// Commits the receipt: the stage is done.
    pub fn commit(&self, folder: &Path) -> Result<()> {
        durable::commit_json(folder, RECEIPT, self)
    }
}

/// blake3 over the sorted (path, blake3) of data files, cut to 32 hex digits.
pub fn output_digest(files: &[FileEntry]) -> String {
    let mut lines: Vec<(&str, &str)> = files.iter().map(|f| (f.path.as_str(), f.blake3.as_str())).collect();
    lines.sort_unstable();
    let mut hasher = blake3::Hasher::new();
    for (path, digest) in lines {
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path.as_bytes());
        hasher.update(digest.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

/// Re-reads every data file of a stage against its receipt, but for documents that were dropped; one line for each that is missing or holds other bytes.
pub fn damage(folder: &Path, receipt: &Receipt) -> Vec<String> {
    let mut found = Vec::new();
    for file in retain::stored(folder, receipt) {
        let path = folder.join(&file.path);
        match durable::hash_file(&path) {
            Ok((digest, bytes)) if bytes == file.bytes && digest == file.blake3 => {}
            Ok((digest, bytes)) => found.push(format!(
                "{} does not hold the committed bytes: expected {} bytes blake3 {}, found {bytes} bytes blake3 {digest}",
                path.display(),
                file.bytes,
                file.blake3
            )),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                found.push(format!("{} is missing: expected {} bytes", path.display(), file.bytes));
            }
            Err(e) => found.push(e.to_string()),
        }
    }
    let digest = output_digest(&receipt.files);
    if digest != receipt.output_digest {
        found.push(format!("the receipt was altered: its files hash to {digest}, it says {}", receipt.output_digest));
    }
    found
}

/// Files in a stage's folder that neither its receipt nor the run itself vouches for, relative to the folder, in name order.
pub fn strangers(folder: &Path, receipt: &Receipt) -> Vec<String> {
    const OWN: [&str; 7] = [RECEIPT, retain::DROPPED, crate::plan::KEY, "events", "fragments", "side", "checkpoints"];
    let known: std::collections::BTreeSet<&str> = receipt.files.iter().map(|f| f.path.as_str()).collect();
    let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
    while let Some(inside) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&inside)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if inside.is_empty() && OWN.contains(&name.as_str()) {
                continue;
            }
            let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                folders.push(path);
            } else if !known.contains(path.as_str()) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
