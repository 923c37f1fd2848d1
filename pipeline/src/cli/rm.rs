//! `gristmill rm`

use super::out;
use crate::error::{Error, Result};
use crate::execute::{self, RevisionStage};
use crate::plan::store_path;
use crate::store::{durable, lock, remove_folder};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Remove a run, or the outputs of some of its stages and of all that was made from them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill rm runs/quickstart                  the whole run, its history too
  gristmill rm runs/quickstart sft --dry-run    what hangs on the stage `sft`
  gristmill rm runs/quickstart sft              those outputs; `gristmill run` makes them again")]
pub struct Rm {
    /// Folder of the run.
    run: PathBuf,
    /// Stages to remove; none: the whole run.
    stages: Vec<String>,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

impl Rm {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let _lock = lock::acquire(&self.run)?;
        let (what, bytes) = if self.stages.is_empty() { self.all()? } else { self.some()? };
        if json {
            let removed = serde_json::json!({ "removed": what, "bytes": bytes, "dry_run": self.dry_run });
            say!("{removed}");
        } else {
            let verb = if self.dry_run { "would remove" } else { "removed" };
            say!("{verb} {}: {}", what.join(" "), out::size(bytes));
        }
        Ok(())
    }

    fn all(&self) -> Result<(Vec<String>, u64)> {
        let bytes = size(&self.run)?;
        if !self.dry_run {
            remove_folder(&self.run)?;
        }
        Ok((vec![self.run.display().to_string()], bytes))
    }

    /// Links go first and outputs last: a kill in between leaves outputs that `gc` removes, never a link to nothing.
    fn some(&self) -> Result<(Vec<String>, u64)> {
        let Some((mut revision, number)) = execute::last_revision(&self.run)? else {
            return Err(Error::Manifest(format!(
                "error: the run in {} never came to its end\nhint: remove all of it, or run it to its end first",
                self.run.display()
            )));
        };
        let doomed = closure(&revision.stages, &self.stages)?;
        let (gone, kept): (Vec<_>, Vec<_>) = revision.stages.into_iter().partition(|s| doomed.contains(&s.name));
        let mut bytes = 0;
        for stage in &gone {
            bytes += size(&store_path(&self.run, &stage.fingerprint))?;
        }
        if !self.dry_run {
            revision.stages = kept;
            durable::commit_json(&self.run.join("history"), &format!("{:05}.json", number + 1), &revision)?;
            for stage in &gone {
                let link = self.run.join(&stage.name);
                if link.is_symlink() {
                    std::fs::remove_file(&link).map_err(Error::io("remove", &link))?;
                }
            }
            for stage in &gone {
                // Two stages may share an output: it stays while one of them does.
                if revision.stages.iter().all(|s| s.fingerprint != stage.fingerprint) {
                    remove_folder(&store_path(&self.run, &stage.fingerprint))?;
                }
            }
        }
        Ok((gone.into_iter().map(|s| s.name).collect(), bytes))
    }
}

/// The named stages and all that read them, directly or not.
fn closure(stages: &[RevisionStage], named: &[String]) -> Result<BTreeSet<String>> {
    let known: Vec<String> = stages.iter().map(|s| s.name.clone()).collect();
    for name in named {
        if !known.contains(name) {
            let near = crate::manifest::nearest(name, &known);
            let hint = near.map(|n| format!("\nhint: did you mean `{n}`?")).unwrap_or_default();
            let known = known.join(", ");
            return Err(Error::Manifest(format!("error: the run has no stage `{name}`   (known: {known}){hint}")));
        }
    }
    let mut doomed: BTreeSet<String> = named.iter().cloned().collect();
    for stage in stages {
        let mut needs = stage.inputs.iter().chain(stage.references.values().flatten());
        if needs.any(|n| doomed.contains(n)) {
            doomed.insert(stage.name.clone());
        }
    }
    Ok(doomed)
}

/// Bytes of all files under a folder; links are not followed.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(0) };
    for entry in entries {
        let path = entry.map_err(Error::io("read folder", folder))?.path();
        let metadata = std::fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
        bytes += if metadata.is_dir() { size(&path)? } else { metadata.len() };
    }
    Ok(bytes)
}
