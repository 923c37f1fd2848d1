//! `gristmill report`

use crate::error::{Error, Result};
use std::path::PathBuf;

/// Write the report of a run: one HTML file that opens offline.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gristmill report runs/quickstart")]
pub struct Report {
    /// Folder of the run.
    run: PathBuf,
    /// The file to write; RUN/report.html unless given.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Report {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let path = self.output.clone().unwrap_or_else(|| self.run.join("report.html"));
        let html = crate::report::report(&self.run)?;
        std::fs::write(&path, html).map_err(Error::io("write", &path))?;
        note!("{}", path.display());
        if json {
            say!("{}", serde_json::json!({ "run": self.run, "report": path }));
        }
        Ok(())
    }
}
