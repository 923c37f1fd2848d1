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
    #[arg(long, allow_negative_numbers = true)]
    step: u64,
}

impl Trace {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let (stage, rows) = crate::explain::trace(&self.run, self.stage.as_deref(), self.step)?;
        if json {
            say!("{}", serde_json::json!({ "stage": stage, "step": self.step, "documents": rows }));
            return Ok(());
        }
        say!("stage {stage}, step {}", self.step);
        for row in &rows {
            let text = |key: &str| match &row[key] {
                Value::Null => String::new(),
                Value::String(s) => s.clone(),
                other => other.to_string(),
            };
            // Each kind of training knows other things of a row: only those are shown.
            let has = |key: &str| row.get(key).is_some_and(|v| !v.is_null());
            let mut shown = text("id");
            if has("stage") {
                shown += &format!("  {:12}", text("stage"));
            }
            if has("window") {
                shown += &format!("  window {:>4}", text("window"));
            }
            if has("shard") {
                let tokens = if has("tokens") { text("tokens") } else { text("token_count") };
                shown += &format!("  shard {:>3}  tokens {:>8} +{tokens:<5}", text("shard"), text("token_start"));
            }
            if has("parent_id") {
                shown += &format!("  from {}", text("parent_id"));
            }
            if has("url") {
                shown += &format!(" {}", text("url"));
            }
            say!("{}", shown.trim_end());
        }
        Ok(())
    }
}
