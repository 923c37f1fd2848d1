//! `gristmill diff`

use crate::error::Result;
use serde_json::Value;
use std::path::PathBuf;

/// Show what differs between two runs: changed fields, and rows in one and not the other, with the reason.
#[derive(clap::Args)]
#[command(after_help = "Example:
  gristmill run manifests/quickstart.toml --root other --set lang.min_score=0.8 --only quality
  gristmill diff runs/quickstart other/quickstart")]
pub struct Diff {
    /// Folder of one run.
    run_a: PathBuf,
    /// Folder of the other.
    run_b: PathBuf,
}

impl Diff {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run_a)?;
        super::existing_run(&self.run_b)?;
        let found = crate::diff::diff(&self.run_a, &self.run_b)?;
        if json {
            return super::line(&Value::Array(found).to_string());
        }
        for stage in &found {
            let name = stage["stage"].as_str().unwrap_or("");
            if let Some(run) = stage["only_in"].as_str() {
                println!("{name:12} only in {run}");
            } else if stage["same"] == true {
                println!("{name:12} same ({} rows)", stage["rows"]);
            } else {
                println!("{name:12} {} rows -> {} rows", stage["rows"][0], stage["rows"][1]);
                for field in stage["fields"].as_array().into_iter().flatten() {
                    match field["field"].as_str() {
                        Some("input") => println!("  input `{}` differs", field["b"].as_str().unwrap_or("")),
                        path => println!("  {}: {} -> {}", path.unwrap_or(""), field["a"], field["b"]),
                    }
                }
                self.side("only in the first", &stage["only_a"]);
                self.side("only in the second", &stage["only_b"]);
                if stage["other_text"].as_u64().is_some_and(|n| n > 0) {
                    println!("  {} rows of both have another text", stage["other_text"]);
                }
            }
        }
        Ok(())
    }

    fn side(&self, title: &str, side: &Value) {
        if side["rows"].as_u64().unwrap_or(0) == 0 {
            return;
        }
        println!("  {title}: {} rows", side["rows"]);
        for reason in side["reasons"].as_array().into_iter().flatten() {
            let text = |name: &str| reason[name].as_str().unwrap_or("").to_string();
            println!(
                "    {:>8}  dropped by `{}`: {}   e.g. {}",
                reason["n"].to_string(),
                text("stage"),
                text("rule"),
                text("example")
            );
        }
        if side["not_in_its_input"].as_u64().is_some_and(|n| n > 0) {
            println!("    {:>8}  never reached it", side["not_in_its_input"].to_string());
        }
    }
}
