//! Speed of shingling and MinHash signatures on one core: `cargo run --release -p dedup --example minhash_speed [FILE…]`.
//!
//! Each file is cut into documents of 50 lines; without files, a seeded text of 2,000 documents is made up.

use std::time::Instant;

use dedup::{DedupConfig, Hasher, Shingler, jaccard};

fn main() -> std::io::Result<()> {
    let mut documents: Vec<String> = Vec::new();
    for path in std::env::args().skip(1) {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        documents.extend(lines.chunks(50).map(|lines| lines.join("\n")));
    }
    if documents.is_empty() {
        documents = made_up(2_000);
    }
    let bytes: usize = documents.iter().map(String::len).sum();
    let config = DedupConfig::default();
    println!("{} documents, {:.1} MB", documents.len(), bytes as f64 / 1e6);

    let mut shingler = Shingler::new(config.ngram);
    let start = Instant::now();
    let sets: Vec<Vec<u64>> = documents.iter().map(|text| shingler.shingles(text)).collect();
    let shingle_secs = start.elapsed().as_secs_f64();

    let hasher = Hasher::new(config.bands, config.rows, config.seed);
    let start = Instant::now();
    let keys: Vec<Vec<u64>> = sets.iter().map(|set| hasher.band_keys(&hasher.signature(set))).collect();
    let signature_secs = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let similar = sets.windows(2).filter(|pair| jaccard(&pair[0], &pair[1]) >= config.min_jaccard).count();
    let jaccard_secs = start.elapsed().as_secs_f64();

    let shingles: usize = sets.iter().map(Vec::len).sum();
    let rate =
        |secs: f64| format!("{:7.1} MB/s {:8.0} documents/s", bytes as f64 / 1e6 / secs, documents.len() as f64 / secs);
    println!("shingles   {} ({shingles} distinct in their documents)", rate(shingle_secs));
    println!("signatures {} ({} band keys)", rate(signature_secs), keys.iter().map(Vec::len).sum::<usize>());
    println!("both       {}", rate(shingle_secs + signature_secs));
    println!("jaccard    {} (neighbours; {similar} similar)", rate(jaccard_secs));
    Ok(())
}

fn made_up(count: usize) -> Vec<String> {
    let mut state = 1_u64;
    let mut random = move |most: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % most
    };
    let mut word = move || {
        let letters = 2 + random(9);
        (0..letters).map(|_| char::from(b'a' + random(26) as u8)).collect::<String>()
    };
    let vocabulary: Vec<String> = (0..5_000).map(|_| word()).collect();
    let mut state = 2_usize;
    let mut pick = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        vocabulary[(state >> 33) % vocabulary.len()].clone()
    };
    (0..count).map(|_| (0..800).map(|_| pick()).collect::<Vec<_>>().join(" ")).collect()
}
