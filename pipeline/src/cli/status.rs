//! `gristmill status`

use crate::error::Result;
use crate::execute;
use std::path::PathBuf;

/// Show the finished stages of a run: rows in and out, bytes, seconds.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill status runs/quickstart")]
pub struct Status {
    /// Folder of the run.
    run: PathBuf,
}

impl Status {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let stages = execute::datasets(&self.run)?;
        if json {
            let receipts: Vec<_> = stages.iter().map(|(_, d)| &d.receipt).collect();
            println!("{}", serde_json::json!({ "run": self.run, "stages": receipts }));
            return Ok(());
        }
        for (stage, dataset) in &stages {
            let r = &dataset.receipt;
            let count = |name: &str| r.counts.get(name).map(|n| format!(" {name} {n}")).unwrap_or_default();
            let bytes: u64 = r.files.iter().map(|f| f.bytes).sum();
            println!(
                "{:12} {:10} {:>8} rows {:>9.2} MB {:>7.1} s {}{}{}{}",
                stage.name,
                stage.kind,
                r.rows,
                bytes as f64 / 1e6,
                r.elapsed_secs,
                count("in"),
                count("kept"),
                count("dropped"),
                count("failed")
            );
        }
        Ok(())
    }
}
