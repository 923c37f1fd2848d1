//! `gristmill trace`

use crate::error::Result;
use serde_json::Value;
use std::path::PathBuf;

/// Name the documents whose tokens made a training step.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  gristmill trace runs/quickstart --step 10
  gristmill trace runs/quickstart --stage sft --step 3")]
pub struct Trace {
    /// Folder of the run.
    run: PathBuf,
    /// The model stage; the first one unless given.
    #[arg(long)]
    stage: Option<String>,
    /// The step, from 1.
    #[arg(long)]
    step: u64,
}

impl Trace {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let (stage, rows) = crate::explain::trace(&self.run, self.stage.as_deref(), self.step)?;
        if json {
            println!("{}", serde_json::json!({ "stage": stage, "step": self.step, "documents": rows }));
            return Ok(());
        }
        println!("stage {stage}, step {}", self.step);
        for row in &rows {
            let text = |key: &str| match &row[key] {
                Value::Null => String::new(),
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            println!(
                "{}  {:12} window {:>4}  shard {:>3}  tokens {:>8} +{:<5} {}",
                text("id"),
                text("stage"),
                text("window"),
                text("shard"),
                text("token_start"),
                text("tokens"),
                text("url")
            );
        }
        Ok(())
    }
}
