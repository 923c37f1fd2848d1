//! `gristmill gc`

use crate::error::{Error, Result};
use crate::execute::Revision;
use crate::plan::store_path;
use crate::retain;
use crate::store::{lock, remove_folder};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Remove stored outputs that neither the newest revisions of a run nor its links point to.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill gc runs/quickstart --keep 1")]
pub struct Gc {
    /// Folder of the run.
    run: PathBuf,
    /// Revisions to keep, newest first.
    #[arg(long, default_value_t = 1)]
    keep: usize,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let _lock = lock::acquire(&self.run)?;
        let wanted = self.wanted()?;
        let store = self.run.join(".store");
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&store).map_err(Error::io("read folder", &store))? {
            let name = entry.map_err(Error::io("read folder", &store))?.file_name().to_string_lossy().into_owned();
            let path = store_path(&self.run, &name);
            if !path.is_dir() || path.is_symlink() {
                note!("note: {} is no stage's output; left as it is", path.display());
                continue;
            }
            if !wanted.contains(&name) {
                if !self.dry_run {
                    remove_folder(&path)?;
                }
                removed.push(name);
            }
        }
        removed.sort();
        let bare = wanted.iter().filter(|name| retain::is_dropped(&store_path(&self.run, name))).count();
        if json {
            let found = serde_json::json!({ "removed": removed, "dry_run": self.dry_run, "documents_dropped": bare });
            say!("{found}");
        } else {
            if bare > 0 {
                note!("note: {bare} of the outputs that stay have verdicts alone (retain)");
            }
            let verb = if self.dry_run { "would remove" } else { "removed" };
            say!("{verb} {} of {} outputs", removed.len(), removed.len() + wanted.len());
        }
        Ok(())
    }

    fn wanted(&self) -> Result<BTreeSet<String>> {
        let mut wanted = BTreeSet::new();
        let history = self.run.join("history");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&history).into_iter().flatten().flatten().map(|e| e.path()).collect();
        files.sort();
        for path in files.iter().rev().take(self.keep.max(1)) {
            let text = std::fs::read(path).map_err(Error::io("read", path))?;
            let revision: Revision = serde_json::from_slice(&text)
                .map_err(|e| Error::Integrity(format!("{} is no revision: {e}", path.display())))?;
            wanted.extend(revision.stages.into_iter().map(|s| s.fingerprint));
        }
        for entry in std::fs::read_dir(&self.run).map_err(Error::io("read folder", &self.run))?.flatten() {
            if let Ok(target) = std::fs::read_link(entry.path())
                && let Some(name) = target.file_name()
            {
                wanted.insert(name.to_string_lossy().into_owned());
            }
        }
        Ok(wanted)
    }
}
