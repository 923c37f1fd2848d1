//! Trains an n-gram model, or measures texts with it: `cargo run --release -p filters --example perplexity -- train|measure MODEL TEXTS.jsonl`.
//!
//! In: JSON lines with `text`; for `train` also the order (default 6) and the count up to which n-grams are left out (default 0). Out:
//! the model, or bits per byte of all texts together and megabytes per second of wall time.

use std::error::Error;
use std::time::Instant;

use filters::perplexity::{Model, Options};
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, path, texts, options @ ..] = arguments.as_slice() else {
        return Err("usage: perplexity train|measure MODEL TEXTS.jsonl [order] [prune]".into());
    };
    let mut rows = Vec::new();
    for line in std::fs::read_to_string(texts)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        rows.push(row["text"].as_str().ok_or("a row without `text`")?.to_owned());
    }
    let megabytes = rows.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    let start = Instant::now();
    if verb == "train" {
        let number = |at: usize, or: &str| options.get(at).map_or(or, String::as_str).to_owned();
        let options = Options { order: number(0, "6").parse()?, prune: number(1, "0").parse()? };
        let bytes = Model::train(rows.iter().map(String::as_str), options)?.save();
        std::fs::write(path, &bytes)?;
        println!(
            "{megabytes:.1} MB of text, model of {:.1} MB, {:.1} s",
            bytes.len() as f64 / 1e6,
            start.elapsed().as_secs_f64()
        );
        return Ok(());
    }
    let model = Model::load(&std::fs::read(path)?)?;
    let loaded = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let bits: f64 = rows.iter().filter_map(|text| Some(model.bits_per_byte(text)? * text.len() as f64)).sum();
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.4} bits per byte, {:.1} MB/s, loaded in {loaded:.1} s", bits / 1e6 / megabytes, megabytes / seconds);
    Ok(())
}
