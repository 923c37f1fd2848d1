//! Speed of each step of training on one core: `cargo bench -p tokenizer --bench training [-- TEXT…]`; documents in TEXT are
//! separated by the byte 0x1e, without TEXT the fixtures are used.
//!
//! MB of text per second of CPU time, and the share of a ceiling: adding up the bytes of the same text once, eight at a time,
//! which is what memory can deliver. Counting must look at every byte and at one table slot a piece; the merge phase touches
//! unique pieces only, so that on much text it can pass the ceiling.

use std::{hint::black_box, path::Path};

use tokenizer::{
    Scratch, SortedWords, Split, Ties, TokenizerConfig, WordCounter, WordCounts, count, train, train_sorted,
};

/// CPU seconds per measurement, at least.
const LEAST_SECS: f64 = 1.0;

/// User and system time of this process, seconds (Linux; clock ticks of 10 ms).
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// CPU seconds of one run, from as many as it takes.
fn secs(run: &mut dyn FnMut()) -> f64 {
    let (began, mut runs) = (cpu_secs(), 0.0);
    loop {
        run();
        runs += 1.0;
        let passed = cpu_secs() - began;
        if passed >= LEAST_SECS {
            return passed / runs;
        }
    }
}

fn read_all(texts: &[String]) -> u64 {
    let mut sum = 0_u64;
    for text in texts {
        let chunks = text.as_bytes().chunks_exact(8);
        sum = chunks
            .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks have 8 bytes")))
            .fold(sum, u64::wrapping_add);
    }
    sum
}

fn counted(texts: &[String], config: &TokenizerConfig) -> WordCounts {
    let (splitter, mut counts) = (config.splitter().expect("named splits compile"), WordCounts::new());
    texts.iter().for_each(|text| count(text, &splitter, &mut counts));
    counts
}

fn spilled(texts: &[String], config: &TokenizerConfig, folder: &Path, limit: usize) -> SortedWords {
    let (splitter, mut counter) = (config.splitter().expect("named splits compile"), WordCounter::new(folder, limit));
    texts.iter().for_each(|text| counter.count(text, &splitter).expect("the scratch folder takes runs"));
    counter.finish(&folder.join("counts")).expect("the runs are as they were written")
}

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs benches too.
        return Ok(());
    }
    let mut texts: Vec<String> = Vec::new();
    for path in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        texts.extend(std::fs::read_to_string(path)?.split('\x1e').map(str::to_owned));
    }
    if texts.is_empty() {
        texts.push(include_str!("../fixtures/shakespeare.txt").to_owned());
        texts.push(include_str!("../fixtures/multilingual.txt").to_owned());
        texts.push(include_str!("../fixtures/peps.txt").to_owned());
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    let megabytes = bytes as f64 / 1e6;
    println!("{} documents, {megabytes:.1} MB", texts.len());
    println!("| step | MB per CPU s | of the ceiling |\n|---|---|---|");
    let ceiling = megabytes / secs(&mut || _ = black_box(read_all(&texts)));
    let report = |name: &str, run: &mut dyn FnMut()| {
        let speed = megabytes / secs(run);
        println!("| {name} | {speed:.1} | {:.4} |", speed / ceiling);
    };
    println!("| read the text once (the ceiling) | {ceiling:.1} | 1 |");
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread can be started");
    for split in [Split::Gpt2, Split::Cl100k, Split::O200k] {
        let config = TokenizerConfig { split, ..TokenizerConfig::default() };
        let name = config.split.to_string();
        let splitter = config.splitter().expect("named splits compile");
        report(&format!("{name}: split"), &mut || {
            let mut pieces = 0_usize;
            texts.iter().for_each(|text| splitter.pieces(text, &mut |piece| pieces += black_box(piece).len()));
            black_box(pieces);
        });
        report(&format!("{name}: split and count"), &mut || _ = black_box(counted(&texts, &config)));
        let counts = counted(&texts, &config);
        for ties in [Ties::Hf, Ties::Raw, Ties::Greatest] {
            let config = TokenizerConfig { ties, ..config.clone() };
            report(&format!("{name}: merge to 32,768, ties {ties:?}"), &mut || {
                one.install(|| black_box(train(&counts, &config)).expect("the request is sound"));
            });
        }
    }
    let config = TokenizerConfig::default();
    let folder = tempfile::tempdir()?;
    let limit = (bytes / 10).max(1 << 20);
    report("cl100k: count within a tenth of the text", &mut || _ = spilled(&texts, &config, folder.path(), limit));
    let words = spilled(&texts, &config, folder.path(), limit);
    let scratch = Scratch { folder: folder.path().to_owned(), memory_limit_bytes: limit };
    report("cl100k: merge within a tenth of the text", &mut || {
        one.install(|| black_box(train_sorted(&words, &config, &scratch)).expect("the request is sound"));
    });
    Ok(())
}
