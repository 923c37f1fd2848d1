//! Speed of training and encoding on a text file: `cargo run --release -p tokenizer --example bpe_speed -- TEXT [VOCAB] [SPLIT]`.
//!
//! The file is cut into documents at empty lines, at least 4 KiB each. Prints seconds of this process's CPU time, which is
//! what to compare on a shared machine, and writes the tokenizer's files into the folder `TEXT.tokenizer`.

use std::{hint::black_box, path::PathBuf, time::Instant};

use tokenizer::{TokenizerConfig, WordCounts, count, train};

/// User and system time of this process, seconds (Linux; clock ticks of 10 ms).
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn measure<T>(name: &str, bytes: usize, work: impl FnOnce() -> T) -> T {
    let (cpu, wall) = (cpu_secs(), Instant::now());
    let result = work();
    let (cpu, wall) = (cpu_secs() - cpu, wall.elapsed().as_secs_f64());
    let mb = bytes as f64 / 1e6;
    println!("{name:28} {cpu:8.2} CPU s {wall:8.2} s  {:8.1} MB per CPU s", mb / cpu.max(0.01));
    result
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: bpe_speed TEXT [VOCAB] [SPLIT]")?;
    let vocab_size = args.next().map_or(Ok(32_768), |arg| arg.parse())?;
    let split = args.next().map_or(Ok(tokenizer::Split::Cl100k), |arg| arg.parse())?;
    let text = std::fs::read_to_string(&path)?;
    let mut docs: Vec<&str> = Vec::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let from = rest.len().min(4096);
        let cut = rest.as_bytes()[from..].windows(2).position(|w| w == b"\n\n").map_or(rest.len(), |at| from + at + 2);
        docs.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    let config = TokenizerConfig { vocab_size, split, ..TokenizerConfig::default() };
    let splitter = config.splitter()?;
    println!(
        "{} documents, {:.1} MB, split {}, vocabulary {vocab_size}",
        docs.len(),
        text.len() as f64 / 1e6,
        config.split
    );
    measure("split only", text.len(), || {
        let mut n = 0_usize;
        docs.iter().for_each(|doc| splitter.pieces(doc, &mut |piece| n += black_box(piece).len()));
        black_box(n)
    });
    let mut counts = WordCounts::new();
    measure("count", text.len(), || docs.iter().for_each(|doc| count(doc, &splitter, &mut counts)));
    println!("{} pieces, {} unique", counts.total(), counts.len());
    let tokenizer = measure("train (merges)", text.len(), || train(&counts, &config))?;
    let folder = PathBuf::from(format!("{path}.tokenizer"));
    std::fs::create_dir_all(&folder)?;
    for (name, bytes) in
        [("tokenizer.json".to_owned(), tokenizer.to_json())].into_iter().chain(tokenizer.hf_config_files())
    {
        std::fs::write(folder.join(name), bytes)?;
    }
    let mut encoder = tokenizer.encoder();
    let mut ids = Vec::with_capacity(text.len() / 3);
    for name in ["encode, cold", "encode, warm", "encode, warm"] {
        ids.clear();
        measure(name, text.len(), || docs.iter().for_each(|doc| encoder.encode_into(doc, &mut ids)));
    }
    println!("{} ids, {:.2} bytes per id", ids.len(), text.len() as f64 / ids.len() as f64);
    measure("encode_batch, all threads", text.len(), || black_box(tokenizer.encode_batch(&docs)));
    Ok(())
}
