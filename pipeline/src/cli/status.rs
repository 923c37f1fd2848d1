//! `gristmill status`

use super::out;
use crate::error::Result;
use crate::execute;
use crate::manifest::kinds::{Output, info};
use crate::receipt::Receipt;
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
        super::tell_unfinished(&self.run)?;
        let stages = execute::datasets(&self.run)?;
        if json {
            let receipts: Vec<_> = stages.iter().map(|(_, d)| &d.receipt).collect();
            say!("{}", serde_json::json!({ "run": self.run, "stages": receipts }));
            return Ok(());
        }
        for (stage, dataset) in &stages {
            let r = &dataset.receipt;
            let count = |name: &str| r.counts.get(name).map(|n| format!(" {name} {n}")).unwrap_or_default();
            let bytes: u64 = crate::retain::stored(&dataset.path, r).map(|f| f.bytes).sum();
            let shown = format!(
                "{:12} {:13} {:>15} {:>9} {:>7.1} s {}{}{}{}{}",
                stage.name,
                stage.kind,
                extent(&stage.kind, r),
                out::size(bytes),
                r.elapsed_secs,
                count("in"),
                count("kept"),
                count("dropped"),
                count("failed"),
                if dataset.documents_dropped() { " documents dropped (retain)" } else { "" }
            );
            say!("{}", shown.trim_end());
        }
        Ok(())
    }
}

/// Rows of a table, parameters of a model, nothing for the rest.
fn extent(kind: &str, receipt: &Receipt) -> String {
    match info(kind).map(|k| k.makes) {
        Some(Output::Model) => receipt.counts.get("parameters").map_or(String::new(), |n| format!("{n} parameters")),
        _ if receipt.files.iter().all(|f| f.rows.is_none() || f.path.starts_with("report-")) => String::new(),
        _ => format!("{} rows", receipt.rows),
    }
}
