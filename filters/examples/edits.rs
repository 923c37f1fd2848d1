//! Edits texts: `cargo run --release -p filters --example edits -- STEP[,STEP...] TEXTS.jsonl`.
//!
//! In: JSON lines with `text`; steps as in `edit::EditConfig`. Out: for each a line with the new text and the edits that lead back,
//! which is checked.

use std::error::Error;
use std::io::Write;

use filters::edit::{EditConfig, edit, rebuild};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(steps), Some(input)) = (arguments.next(), arguments.next()) else {
        return Err("usage: edits STEP[,STEP...] TEXTS.jsonl".into());
    };
    let steps: Vec<&str> = steps.split(',').collect();
    let config: EditConfig = serde_json::from_value(json!({ "steps": steps }))?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in std::fs::read_to_string(input)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let text = row["text"].as_str().ok_or("a row without `text`")?;
        let edited = edit(text, &config);
        assert_eq!(rebuild(&edited.text, &edited.edits), text, "the edits lead back");
        let edits: Vec<Value> =
            edited.edits.iter().map(|edit| json!([edit.rule, edit.start, edit.end, edit.removed])).collect();
        writeln!(out, "{}", json!({"text": edited.text, "edits": edits}))?;
    }
    Ok(())
}
