//! `gristmill verify`

use super::out;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::{execute, plan, receipt};
use std::path::PathBuf;

/// Re-read every byte of a run against its receipts; prints one line STAGE DIGEST per sound stage, in plan order.
#[derive(clap::Args)]
#[command(after_help = "Every stage is read to its end: all that is damaged or missing is named, with exit code 6.
Files that no receipt names are told on stderr and are no damage.

Example:
  gristmill verify runs/quickstart")]
pub struct Verify {
    /// Folder of the run.
    run: PathBuf,
}

impl Verify {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let stages = self.stages()?;
        let (mut sound, mut damaged, mut faults) = (Vec::new(), Vec::new(), Vec::new());
        let mut without_documents: Vec<&str> = Vec::new();
        for (name, path) in &stages {
            let (found, digest) = match Dataset::open(name, path.clone()) {
                Ok(dataset) => {
                    for stranger in receipt::strangers(&dataset.path, &dataset.receipt) {
                        note!("note: {} is in no receipt (stage `{name}`)", path.join(stranger).display());
                    }
                    if dataset.documents_dropped() {
                        note!(
                            "note: the documents of `{name}` were dropped (retain = \"verdicts\"); the digest is of all that was committed"
                        );
                        without_documents.push(name.as_str());
                    }
                    (receipt::damage(&dataset.path, &dataset.receipt), dataset.receipt.output_digest)
                }
                // The first line; the way out is the same for all.
                Err(e) => (vec![e.to_string().lines().next().unwrap_or_default().to_string()], String::new()),
            };
            if found.is_empty() {
                if !json {
                    say!("{name} {digest}");
                }
                sound.push(serde_json::json!({ "stage": name, "digest": digest }));
            } else {
                damaged.push(name.as_str());
                faults.extend(found.into_iter().map(|fault| (name, fault)));
            }
        }
        if json {
            let faults: Vec<_> = faults.iter().map(|(s, f)| serde_json::json!({ "stage": s, "fault": f })).collect();
            say!(
                "{}",
                serde_json::json!({ "run": self.run, "stages": sound, "damaged": faults, "documents_dropped": without_documents })
            );
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = faults.iter().map(|(stage, fault)| format!("  {stage}: {fault}")).collect();
        Err(Error::Integrity(format!(
            "{} of {} stages are damaged\n{}\nhint: remove them with  gristmill rm {} {}  and run the manifest again",
            damaged.len(),
            stages.len(),
            lines.join("\n"),
            out::quoted(&self.run),
            damaged.join(" ")
        )))
    }

    /// Names and folders of the run's stages in plan order, whether or not they hold what they should.
    fn stages(&self) -> Result<Vec<(String, PathBuf)>> {
        Ok(match execute::last_revision(&self.run)? {
            Some((revision, _)) => {
                revision.stages.into_iter().map(|s| (s.name, plan::store_path(&self.run, &s.fingerprint))).collect()
            }
            None => execute::datasets(&self.run)?.into_iter().map(|(s, d)| (s.name, d.path)).collect(),
        })
    }
}
