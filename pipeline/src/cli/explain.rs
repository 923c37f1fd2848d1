//! `gristmill explain`

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Show a row's whole way, or what another threshold of a rule would keep and drop.
#[derive(clap::Args)]
#[command(
    after_help = "With an id: where it was crawled, every measured value, every verdict, where its tokens are. Any id works: of a
document, a prompt, a rollout or a pair; parents are followed. With --rule: answered from the stored measures, nothing
runs.

Examples:
  gristmill explain runs/quickstart 0123456789abcdef0123456789abcdef
  gristmill explain runs/quickstart 0123456789abcdef0123456789abcdef --forward
  gristmill explain runs/quickstart --rule gopher_quality.min_words --threshold 40"
)]
pub struct Explain {
    /// Folder of the run.
    run: PathBuf,
    /// The id, 32 hex digits.
    #[arg(required_unless_present = "rule")]
    id: Option<String>,
    /// Only what still holds the document: its token positions, the models trained on them, rows derived from it.
    #[arg(long, requires = "id")]
    forward: bool,
    /// A rule with a measure, such as gopher_quality.min_words.
    #[arg(long, conflicts_with = "id", requires = "threshold")]
    rule: Option<String>,
    /// The threshold to try.
    #[arg(long, requires = "rule", allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// The stage, where several have the rule.
    #[arg(long, requires = "rule")]
    stage: Option<String>,
}

impl Explain {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        if let (Some(rule), Some(threshold)) = (&self.rule, self.threshold) {
            if !threshold.is_finite() {
                return Err(Error::Manifest(format!("error: --threshold {threshold}: expected a number")));
            }
            let answer = crate::whatif::what_if(&self.run, self.stage.as_deref(), rule, threshold)?;
            return if json { super::line(&answer.to_string()) } else { what_if(&answer) };
        }
        let id = self.id.as_deref().expect("clap asks for an id unless a rule is given");
        if self.forward {
            let places = crate::explain::forward(&self.run, id)?;
            if json {
                return super::line(&Value::Array(places).to_string());
            }
            for place in places.iter().filter_map(Value::as_object) {
                show(place["stage"].as_str().unwrap_or(""), place);
            }
            return Ok(());
        }
        let steps = crate::explain::explain(&self.run, id)?;
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
            for edit in step["edits"].as_array().into_iter().flatten() {
                let text = |key: &str| edit[key].as_str().unwrap_or("").to_string();
                println!("  edited by {} at byte {}: {:?} was there", text("rule"), edit["start"], text("removed"));
            }
            if let Some(n) = step["derived"].as_u64().filter(|n| *n > 0) {
                println!("  {n} rows derived from it, first: {}", step["first_derived"]["id"].as_str().unwrap_or(""));
            }
        }
        Ok(())
    }
}

fn show(what: &str, row: &Map<String, Value>) {
    let cells = row.iter().filter(|(k, v)| !v.is_null() && *v != &Value::Array(Vec::new()) && *k != what).map(
        |(k, v)| match v {
            Value::String(s) => format!("{k}={s}"),
            other => format!("{k}={other}"),
        },
    );
    println!("  {what}: {}", cells.collect::<Vec<_>>().join("  "));
}

fn what_if(answer: &Value) -> Result<()> {
    let counts = &answer["counts"];
    let n = |name: &str| counts[name].as_u64().unwrap_or(0);
    let text = |name: &str| answer[name].as_str().unwrap_or("").to_string();
    println!(
        "{}: {} of {} {}, over {} documents",
        text("stage"),
        text("rule"),
        text("keeps"),
        answer["threshold"],
        n("documents")
    );
    println!(
        "  kept      {} documents, {} bytes   (now {}, {} bytes)",
        n("kept_then"),
        n("kept_then_bytes"),
        n("kept_now"),
        n("kept_now_bytes")
    );
    let tokens = |name: &str| match answer[name].as_f64() {
        Some(tokens) => format!(", about {tokens} tokens"),
        None => String::new(),
    };
    for what in ["gained", "lost"] {
        println!(
            "  {what:<9} {} documents, {} bytes{}",
            n(what),
            n(&format!("{what}_bytes")),
            tokens(&format!("{what}_tokens"))
        );
    }
    println!("  sole reason to drop    {} documents   (now {})", n("sole_then"), n("sole_now"));
    println!("  one of several         {} documents   (now {})", n("shared_then"), n("shared_now"));
    for (title, name) in [("nearest that meet it", "nearest_kept"), ("nearest that miss it", "nearest_dropped")] {
        println!("{title}:");
        for row in answer[name].as_array().into_iter().flatten() {
            let now = if row["kept"].as_bool().unwrap_or(false) { "kept" } else { "dropped" };
            println!(
                "  {:>12}  {}  now {now:<7}  {}",
                row["value"].to_string(),
                row["id"].as_str().unwrap_or(""),
                row["url"].as_str().unwrap_or("")
            );
        }
    }
    Ok(())
}
