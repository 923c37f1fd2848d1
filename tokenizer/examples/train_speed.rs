//! Training as one process, for `tests/peers/tokenizer.py`:
//! `train_speed TEXT [VOCAB] [SPLIT] [TIES] [TOKENIZER_JSON]`.
//!
//! TEXT holds documents separated by the byte 0x1e. VOCAB counts the 256 bytes and the merges; the one special token comes on
//! top. Threads are those of rayon (`RAYON_NUM_THREADS`). Prints one line of JSON: wall seconds of each phase, and the peak
//! resident size in bytes above the file. CPU time is for the caller to measure.

use std::time::Instant;

use tokenizer::{END_OF_TEXT, TokenizerConfig, count_all, train};

/// A line of `/proc/self/status`, bytes (Linux).
fn status_bytes(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|field| field.parse::<usize>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: train_speed TEXT [VOCAB] [SPLIT] [TIES] [TOKENIZER_JSON]")?;
    let vocab: usize = args.next().map_or(Ok(32_768), |arg| arg.parse())?;
    let split = args.next().map_or(Ok(tokenizer::Split::Cl100k), |arg| arg.parse())?;
    let ties = serde_json::from_value(args.next().unwrap_or_else(|| "hf".to_owned()).into())?;
    let special_tokens = vec![END_OF_TEXT.to_owned()];
    let config = TokenizerConfig { vocab_size: vocab + 1, split, ties, special_tokens, ..TokenizerConfig::default() };
    let before = status_bytes("VmRSS");

    let began = Instant::now();
    let text = std::fs::read_to_string(&path)?;
    let documents: Vec<&str> = text.split('\x1e').collect();
    let read_secs = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let counts = count_all(&documents, &config.splitter()?);
    let count_secs = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let tokenizer = train(&counts, &config)?;
    let merge_secs = began.elapsed().as_secs_f64();
    let peak_bytes = status_bytes("VmHWM").saturating_sub(before + text.len());
    if let Some(path) = args.next() {
        std::fs::write(path, tokenizer.to_json())?;
    }
    println!(
        "{}",
        serde_json::json!({
            "pieces": counts.total(), "unique": counts.len(), "vocab": tokenizer.vocab_size(), "read_secs": read_secs,
            "count_secs": count_secs, "merge_secs": merge_secs, "peak_bytes": peak_bytes,
        })
    );
    Ok(())
}
