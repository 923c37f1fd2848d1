//! Trains a language model and prints its accuracy per language on held-out rows.
//!
//! `cargo run --release -p filters --example train_language_model -- ROWS.jsonl MODEL.ftz [field=value]...`
//! In: JSON lines with `lang` and `text`; fields of `ClassifierConfig`. Out: the model, and a Markdown table on stdout. It calls the functions
//! that the pipeline's `classifier` stage calls; `manifests/language-id.toml` is the way to do this in a run.

use std::error::Error;
use std::fs;

use filters::language::{ClassifierConfig, LanguageModel, evaluate, is_held_out, train};
use serde_json::{Map, Value};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, settings @ ..] = arguments.as_slice() else {
        return Err("usage: train_language_model ROWS.jsonl MODEL.ftz [field=value]...".into());
    };
    let mut fields = Map::new();
    for setting in settings {
        let (field, value) = setting.split_once('=').ok_or_else(|| format!("`{setting}` is not field=value"))?;
        fields.insert(field.to_owned(), serde_json::from_str(value)?);
    }
    let config: ClassifierConfig = serde_json::from_value(Value::Object(fields))?;
    let rows = read(&fs::read_to_string(input)?)?;
    let bytes = train(&rows, &config)?;
    fs::write(output, &bytes)?;
    let held_out: Vec<_> = rows.into_iter().filter(|(_, text)| is_held_out(text, config.holdout)).collect();
    let labels = evaluate(&LanguageModel::from_bytes(bytes)?, &held_out);
    println!("| code | held-out sentences | correct | accuracy |\n|---|---|---|---|");
    let (mut n, mut correct, mut mean) = (0, 0, 0.0);
    for label in &labels {
        let accuracy = label.correct as f64 / label.n as f64;
        println!("| {} | {} | {} | {accuracy:.3} |", label.label, label.n, label.correct);
        (n, correct, mean) = (n + label.n, correct + label.correct, mean + accuracy / labels.len() as f64);
    }
    println!(
        "| all | {n} | {correct} | {:.4} |\n\nMean over {} languages: {mean:.4}",
        correct as f64 / n as f64,
        labels.len()
    );
    Ok(())
}

fn read(lines: &str) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for line in lines.lines() {
        let row: Value = serde_json::from_str(line)?;
        let (Some(label), Some(text)) = (row["lang"].as_str(), row["text"].as_str()) else {
            return Err(format!("a row without `lang` and `text`: {line}").into());
        };
        rows.push((label.to_owned(), text.to_owned()));
    }
    Ok(rows)
}
