//! Training as one process, for `tests/peers/tokenizer.py`:
//! `training_speed TEXT [VOCAB] [SPLIT] [TIES] [TOKENIZER_JSON] [MEMORY_LIMIT_MB]`.
//!
//! TEXT holds documents separated by the byte 0x1e. VOCAB counts the 256 bytes and the merges; the one special token comes on
//! top. Threads are those of rayon (`RAYON_NUM_THREADS`). With a limit the text is streamed, counts spill into files beside
//! TOKENIZER_JSON, and so does the merge phase. Prints one line of JSON: wall seconds of each phase, and the peak resident
//! size in bytes, above the text where that is held in memory. CPU time is for the caller to measure.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};
use tokenizer::{END_OF_TEXT, Scratch, Tokenizer, TokenizerConfig, WordCounter, count_all, train, train_sorted};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A line of `/proc/self/status`, bytes (Linux).
fn status_bytes(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or("");
    line.split_whitespace().nth(1).and_then(|field| field.parse::<usize>().ok()).unwrap_or(0) * 1024
}

fn in_memory(path: &str, config: &TokenizerConfig) -> Result<(Tokenizer, Value)> {
    let (before, began) = (status_bytes("VmRSS"), Instant::now());
    let text = std::fs::read_to_string(path)?;
    let documents: Vec<&str> = text.split('\x1e').collect();
    let read_secs = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let counts = count_all(&documents, &config.splitter()?);
    let count_secs = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let tokenizer = train(&counts, config)?;
    let row = json!({
        "pieces": counts.total(), "unique": counts.len(), "read_secs": read_secs, "count_secs": count_secs,
        "merge_secs": began.elapsed().as_secs_f64(),
        "peak_bytes": status_bytes("VmHWM").saturating_sub(before + text.len()),
    });
    Ok((tokenizer, row))
}

fn within(
    memory_limit_bytes: usize,
    folder: &Path,
    path: &str,
    config: &TokenizerConfig,
) -> Result<(Tokenizer, Value)> {
    let (splitter, began) = (config.splitter()?, Instant::now());
    let mut counter = WordCounter::new(folder, memory_limit_bytes);
    let mut input = BufReader::new(File::open(path)?);
    let mut document = Vec::new();
    while input.read_until(0x1e, &mut document)? > 0 {
        let end = document.len() - usize::from(document.last() == Some(&0x1e));
        counter.count(std::str::from_utf8(&document[..end])?, &splitter)?;
        document.clear();
    }
    drop(document);
    let runs = counter.runs();
    let words = counter.finish(&folder.join("counts"))?;
    let count_secs = began.elapsed().as_secs_f64();
    let (count_peak, began) = (status_bytes("VmHWM"), Instant::now());
    std::fs::write("/proc/self/clear_refs", "5")?; // forget the peak
    let tokenizer = train_sorted(&words, config, &Scratch { folder: folder.to_owned(), memory_limit_bytes })?;
    std::fs::remove_file(&words.path)?;
    let row = json!({
        "pieces": words.total, "unique": words.rows, "runs": runs, "count_secs": count_secs, "count_peak_bytes": count_peak,
        "merge_secs": began.elapsed().as_secs_f64(), "merge_peak_bytes": status_bytes("VmHWM"),
        "peak_bytes": count_peak.max(status_bytes("VmHWM")),
    });
    Ok((tokenizer, row))
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path =
        args.next().ok_or("usage: training_speed TEXT [VOCAB] [SPLIT] [TIES] [TOKENIZER_JSON] [MEMORY_LIMIT_MB]")?;
    let vocab: usize = args.next().map_or(Ok(32_768), |arg| arg.parse())?;
    let split = args.next().map_or(Ok(tokenizer::Split::Cl100k), |arg| arg.parse())?;
    let ties = serde_json::from_value(args.next().unwrap_or_else(|| "hf".to_owned()).into())?;
    let special_tokens = vec![END_OF_TEXT.to_owned()];
    let config = TokenizerConfig { vocab_size: vocab + 1, split, ties, special_tokens, ..TokenizerConfig::default() };
    let file = args.next();
    let folder = file.as_deref().and_then(|file| Path::new(file).parent()).unwrap_or(Path::new("."));
    let (tokenizer, row) = match args.next() {
        Some(limit) => within(limit.parse::<usize>()? * 1_000_000, folder, &path, &config)?,
        None => in_memory(&path, &config)?,
    };
    if let Some(file) = &file {
        std::fs::write(file, tokenizer.to_json())?;
    }
    println!("{row}");
    Ok(())
}
