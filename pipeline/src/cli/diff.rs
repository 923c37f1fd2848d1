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
                say!("{name:12} only in {run}");
            } else if stage["same"] == true {
                match stage["rows"].as_u64() {
                    // A model or a tokenizer: it has no rows to count.
                    Some(0) | None => say!("{name:12} same"),
                    Some(rows) => say!("{name:12} same ({rows} rows)"),
                }
            } else {
                match (stage["rows"][0].as_u64(), stage["rows"][1].as_u64()) {
                    (Some(0), Some(0)) => say!("{name:12} differs"),
                    _ => say!("{name:12} {} rows -> {} rows", stage["rows"][0], stage["rows"][1]),
                }
                for field in stage["fields"].as_array().into_iter().flatten() {
                    match field["field"].as_str() {
                        Some("input") => say!("  input `{}` differs", field["b"].as_str().unwrap_or("")),
                        path => say!("  {}: {} -> {}", path.unwrap_or(""), field["a"], field["b"]),
                    }
                }
                side("first", "second", &stage["only_a"])?;
                side("second", "first", &stage["only_b"])?;
                if stage["other_text"].as_u64().is_some_and(|n| n > 0) {
                    say!("  {} rows of both have another text", stage["other_text"]);
                }
            }
        }
        Ok(())
    }
}

/// Rows that one run has and the other has not, by what became of them there.
fn side(here: &str, there: &str, side: &Value) -> Result<()> {
    let n = |name: &str| side[name].as_u64().unwrap_or(0);
    if n("rows") == 0 {
        return Ok(());
    }
    say!("  only in the {here}: {} rows", n("rows"));
    for reason in side["reasons"].as_array().into_iter().flatten() {
        let text = |name: &str| reason[name].as_str().unwrap_or("").to_string();
        say!(
            "    {:>8}  dropped by `{}`: {}   e.g. {}",
            reason["n"].to_string(),
            text("stage"),
            text("rule"),
            text("example")
        );
    }
    if n("not_read") > 0 {
        say!("    {:>8}  in files or records that only the {here} run read", n("not_read"));
    }
    let rest = n("not_in_its_input").saturating_sub(n("not_read"));
    if rest > 0 {
        say!("    {rest:>8}  never made in the {there} run");
    }
    Ok(())
}
