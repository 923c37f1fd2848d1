//! Encoding as one process, for `tests/peers/tokenizer.py`: `encode_speed TEXT RANKS SPLIT PASSES [TOKENIZER_JSON]`.
//!
//! TEXT holds documents separated by the byte 0x1e, RANKS is a rank file of tiktoken, and SPLIT a split's name or an
//! encoding's name in tiktoken. One thread encodes all documents PASSES times with one encoder: the first pass is cold, the
//! others warm. Prints one line of JSON: CPU seconds of each pass (Linux), the number of ids and their CRC-32.

use tokenizer::{END_OF_TEXT, Splitter, Tokenizer};

/// CPU seconds of this thread so far.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

/// CRC-32 as in zlib.
fn crc(ids: &[u32]) -> u32 {
    let table: Vec<u32> = (0..256)
        .map(|i| (0..8).fold(i, |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
        .collect();
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    !bytes.fold(!0, |crc: u32, byte| table[usize::from(crc as u8 ^ byte)] ^ crc >> 8)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [text, ranks, split, passes, json @ ..] = &args[..] else {
        return Err("usage: encode_speed TEXT RANKS SPLIT PASSES [TOKENIZER_JSON]".into());
    };
    let text = std::fs::read_to_string(text)?;
    let documents: Vec<&str> = text.split('\x1e').collect();
    let began = cpu_secs();
    let file = std::fs::read(ranks)?;
    let splitter = Splitter::tiktoken(split).or_else(|_| Splitter::new(&split.parse()?, false))?;
    let ranks = str::from_utf8(&file)?.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    let after = ranks.max().map_or(0, |last| last + 1);
    let tokenizer = Tokenizer::from_ranks(&file, splitter, &[(END_OF_TEXT, after)])?;
    let load_cpu = cpu_secs() - began;
    let mut ids: Vec<u32> = Vec::with_capacity(text.len() / 2);
    let mut pass_cpu = Vec::new();
    let mut encoder = tokenizer.encoder();
    for _ in 0..passes.parse::<usize>()? {
        ids.clear();
        let began = cpu_secs();
        documents.iter().for_each(|document| encoder.encode_into(document, &mut ids));
        pass_cpu.push(cpu_secs() - began);
    }
    if let [json] = json {
        std::fs::write(json, tokenizer.to_json())?;
    }
    println!(
        "{}",
        serde_json::json!({ "pass_cpu": pass_cpu, "load_cpu": load_cpu, "ids": ids.len(), "crc": crc(&ids) })
    );
    Ok(())
}
