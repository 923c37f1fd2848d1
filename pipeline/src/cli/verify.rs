//! `gristmill verify`

use crate::error::Result;
use crate::{execute, receipt};
use std::path::PathBuf;

/// Re-read every byte of a run against its receipts; prints one line STAGE DIGEST per stage, in plan order.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill verify runs/quickstart")]
pub struct Verify {
    /// Folder of the run.
    run: PathBuf,
}

impl Verify {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let mut digests = Vec::new();
        for (stage, dataset) in execute::datasets(&self.run)? {
            receipt::verify_files(&dataset.path, &dataset.receipt)?;
            if !json {
                println!("{} {}", stage.name, dataset.receipt.output_digest);
            }
            digests.push(serde_json::json!({ "stage": stage.name, "digest": dataset.receipt.output_digest }));
        }
        if json {
            println!("{}", serde_json::json!({ "run": self.run, "stages": digests }));
        }
        Ok(())
    }
}
