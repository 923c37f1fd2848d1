//! The files a pattern names, here or in an object store, and the names their documents' identities are made from.

use super::Format;
use super::remote::{self, Remote};
use crate::error::{Error, Result};
use crate::manifest::kinds::OptionFault;
use crate::store::durable::hash_file;
use std::path::{Path, PathBuf};

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asset {
    /// On this machine.
    Local(PathBuf),
    /// In an object store.
    Remote(Remote),
}

impl Asset {
    /// Length in bytes.
    pub fn bytes(&self) -> Result<u64> {
        match self {
            Asset::Local(path) => Ok(std::fs::metadata(path).map_err(Error::io("look at", path))?.len()),
            Asset::Remote(remote) => Ok(remote.bytes),
        }
    }

    /// What a fingerprint says of the bytes: their blake3, or for an object its length and version.
    pub fn digest(&self) -> Result<String> {
        match self {
            Asset::Local(path) => Ok(hash_file(path)?.0),
            Asset::Remote(remote) => Ok(format!("{} bytes, version {}", remote.bytes, remote.version)),
        }
    }

    /// Path or URL, for people.
    pub fn shown(&self) -> String {
        match self {
            Asset::Local(path) => path.display().to_string(),
            Asset::Remote(remote) => remote.url.clone(),
        }
    }
}

/// The files of `patterns` less those of `exclude`, by name relative to each pattern's fixed prefix, sorted; a fault if a pattern
/// finds none, finds what `ingest` cannot read, or finds two files of one name.
pub fn find(
    patterns: &[String],
    exclude: &[String],
    folder: &Path,
) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    let excluded: Vec<glob::Pattern> = exclude.iter().filter_map(|p| glob::Pattern::new(p).ok()).collect();
    let mut found: Vec<(String, Asset)> = Vec::new();
    for pattern in patterns {
        let prefix = fixed_prefix(pattern);
        let matches = if remote::is_remote(pattern) { in_store(pattern)? } else { on_disk(pattern, folder)? };
        let before = found.len();
        for (path, asset) in matches {
            if excluded.iter().any(|p| p.matches(&path)) {
                continue;
            }
            let below = path.strip_prefix(&prefix).unwrap_or(&path).trim_start_matches('/').to_string();
            if Format::of(&below).is_none() {
                return Err(OptionFault {
                    key: "source".into(),
                    message: format!("{} is of no kind that ingest reads", asset.shown()),
                    hint: Some(format!("it reads {}; leave others out with `exclude`", Format::KNOWN)),
                });
            }
            found.push((below, asset));
        }
        if found.len() == before {
            let at = std::path::absolute(folder).or_else(|_| std::env::current_dir()).unwrap_or_default();
            return Err(OptionFault {
                key: "source".into(),
                message: format!("no file matches \"{pattern}\""),
                hint: (!remote::is_remote(pattern)).then(|| match at.join(pattern).is_dir() {
                    true => format!("that is a folder; its files are \"{}/*\"", pattern.trim_end_matches('/')),
                    false => format!("paths are relative to the manifest, in {}", at.display()),
                }),
            });
        }
    }
    found.sort();
    found.dedup();
    if let Some(pair) = found.windows(2).find(|w| w[0].0 == w[1].0) {
        let message = format!(
            "{} and {} have the same name \"{}\" below their patterns, so their documents could not be told apart",
            pair[0].1.shown(),
            pair[1].1.shown(),
            pair[0].0
        );
        let hint = "one pattern with a wildcard in the folder's name, such as \"d*/x.jsonl\", keeps it in their names";
        return Err(OptionFault { hint: Some(hint.into()), ..OptionFault::new("source", message) });
    }
    Ok(found)
}

/// Files by path relative to the manifest's folder.
fn on_disk(pattern: &str, folder: &Path) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    let below = !folder.as_os_str().is_empty() && !Path::new(pattern).is_absolute();
    let whole = match below {
        true => format!("{}/{pattern}", glob::Pattern::escape(&folder.to_string_lossy())),
        false => pattern.to_string(),
    };
    let matches = glob::glob(&whole).map_err(|e| OptionFault::new("source", e.to_string()))?;
    let files = matches.flatten().filter(|p| p.is_file());
    let named = files.map(|p| (p.strip_prefix(folder).unwrap_or(&p).to_string_lossy().into_owned(), Asset::Local(p)));
    Ok(named.collect())
}

/// Objects by URL.
fn in_store(pattern: &str) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    let listed = remote::list(pattern).map_err(|e| OptionFault::new("source", e.to_string()))?;
    Ok(listed.into_iter().map(|r| (r.url.clone(), Asset::Remote(r))).collect())
}

/// The folders of a pattern before its first wildcard; identities do not depend on them.
fn fixed_prefix(pattern: &str) -> String {
    let parts: Vec<&str> = pattern.split('/').collect();
    let wild = parts.iter().position(|p| p.contains(['*', '?', '['])).unwrap_or(parts.len() - 1);
    parts[..wild].join("/")
}
