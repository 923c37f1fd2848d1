//! `gristmill explain`

use crate::error::Result;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Show a row's whole way: where it was crawled, every measured value, every verdict, where its tokens are.
#[derive(clap::Args)]
#[command(after_help = "Any id works: of a document, a prompt, a rollout or a pair; parents are followed.

Example:
  gristmill explain runs/quickstart 0123456789abcdef0123456789abcdef")]
pub struct Explain {
    /// Folder of the run.
    run: PathBuf,
    /// The id, 32 hex digits.
    id: String,
}

impl Explain {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        let steps = crate::explain::explain(&self.run, &self.id)?;
        if json {
            println!("{}", Value::Array(steps));
            return Ok(());
        }
        for step in &steps {
            println!("{} ({})", step["stage"].as_str().unwrap_or(""), step["kind"].as_str().unwrap_or(""));
            let empty = Vec::new();
            for row in step["verdicts"].as_array().unwrap_or(&empty).iter().filter_map(Value::as_object) {
                show("verdict", row);
            }
            for row in step["rows"].as_array().unwrap_or(&empty).iter().filter_map(Value::as_object) {
                show("row", row);
            }
            if let Some(n) = step["derived"].as_u64().filter(|n| *n > 0) {
                println!("  {n} rows derived from it, first: {}", step["first_derived"]["id"].as_str().unwrap_or(""));
            }
        }
        Ok(())
    }
}

fn show(what: &str, row: &Map<String, Value>) {
    let cells = row.iter().filter(|(_, v)| !v.is_null() && *v != &Value::Array(Vec::new())).map(|(k, v)| match v {
        Value::String(s) => format!("{k}={s}"),
        other => format!("{k}={other}"),
    });
    println!("  {what}: {}", cells.collect::<Vec<_>>().join("  "));
}
