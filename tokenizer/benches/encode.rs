//! Speed of each step of encoding on one core: `cargo bench -p tokenizer --bench encode [-- TEXT [RANKS SPLIT]]`.
//!
//! TEXT holds documents separated by the byte 0x1e, RANKS is a rank file of tiktoken; without them, the texts and the small
//! vocabulary of the tests. MB of text per second of wall time, against a ceiling that nothing which reads a text and writes
//! one number for four of its bytes can pass: checking that it is UTF-8 and copying it.

use std::{hint::black_box, time::Instant};

use tokenizer::{END_OF_TEXT, Split, Splitter, Tokenizer};

const TEXTS: [&str; 3] = [
    include_str!("../fixtures/shakespeare.txt"),
    include_str!("../fixtures/multilingual.txt"),
    include_str!("../fixtures/peps.txt"),
];
const RANKS: &[u8] = include_bytes!("../fixtures/tiktoken.ranks");
/// Seconds per measurement, at least.
const LEAST_SECS: f64 = 0.5;

/// Best seconds of one run.
fn seconds(mut run: impl FnMut()) -> f64 {
    let (began, mut best) = (Instant::now(), f64::INFINITY);
    while began.elapsed().as_secs_f64() < LEAST_SECS {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs benches too.
        return Ok(());
    }
    let files: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let text = match files.first() {
        Some(path) => std::fs::read_to_string(path)?,
        None => TEXTS.join("\x1e"),
    };
    let (ranks, splitter) = match files[..] {
        [_, ranks, split] => {
            (std::fs::read(ranks)?, Splitter::tiktoken(split).or_else(|_| Splitter::new(&split.parse()?, false))?)
        }
        _ => (RANKS.to_vec(), Splitter::new(&Split::Cl100k, false)?),
    };
    let documents: Vec<&str> = text.split('\x1e').collect();
    let tokenizer = Tokenizer::from_ranks(&ranks, splitter, &[(END_OF_TEXT, 1 << 20)])?;
    let megabytes = text.len() as f64 / 1e6;
    println!("{} documents, {megabytes:.1} MB, {} ids", documents.len(), tokenizer.vocab_size());
    println!("| step | MB/s | of the ceiling |\n|---|---|---|");
    let mut copy = Vec::with_capacity(text.len());
    let ceiling = seconds(|| {
        copy.clear();
        for document in &documents {
            black_box(str::from_utf8(black_box(document.as_bytes()))).expect("a text is UTF-8");
            copy.extend_from_slice(document.as_bytes());
        }
        black_box(&copy);
    });
    let report =
        |name: &str, secs: f64| println!("| {name} | {:.0} | {:.1} % |", megabytes / secs, 100.0 * ceiling / secs);
    report("ceiling: check and copy", ceiling);
    for split in [Split::Gpt2, Split::Cl100k, Split::O200k] {
        let splitter = Splitter::new(&split, false)?;
        let mut pieces = 0_usize;
        let secs = seconds(|| documents.iter().for_each(|text| splitter.pieces(text, &mut |_| pieces += 1)));
        report(&format!("split {split}"), secs);
        black_box(pieces);
    }
    let mut ids: Vec<u32> = Vec::with_capacity(text.len());
    let cold = seconds(|| {
        ids.clear();
        let fresh = tokenizer.clone();
        let mut encoder = fresh.encoder();
        documents.iter().for_each(|text| encoder.encode_into(text, &mut ids));
    });
    report("encode, cold (with a copy of the tokenizer)", cold);
    let mut encoder = tokenizer.encoder();
    let warm = seconds(|| {
        ids.clear();
        documents.iter().for_each(|text| encoder.encode_into(text, &mut ids));
    });
    report("encode, warm", warm);
    let decode = seconds(|| _ = black_box(tokenizer.decode_bytes(&ids)));
    report("decode", decode);
    Ok(())
}
