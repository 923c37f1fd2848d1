//! Speed of MinHash signatures on one core, shingling included:
//! `cargo run --release -p dedup --example minhash_speed [--peers] [FILE…]`.
//!
//! Each file holds documents separated by NUL; without files, a seeded text of 2,000 documents is made up. Prints MB of text
//! per second of CPU time for each step and mode; with `--peers` only `NAME MB/s` for tests/peers/minhash.py.

use dedup::{DedupConfig, FinewebHash, FinewebHasher, FinewebShingler, Hasher, Shingler};
use std::hint::black_box;

#[path = "../../tests/bench/measure.rs"]
#[allow(dead_code, reason = "shared with benches, each of which uses a part")]
mod measure;

fn main() -> std::io::Result<()> {
    let peers = std::env::args().any(|argument| argument == "--peers");
    let mut documents = measure::documents_of_arguments()?;
    if documents.is_empty() {
        documents = measure::made_up(2_000, 1);
    }
    let megabytes = documents.iter().map(String::len).sum::<usize>() as f64 / 1e6;
    if !peers {
        println!("{} documents, {megabytes:.1} MB", documents.len());
    }
    let config = DedupConfig::default();
    let (ngram, bands, rows) = (config.ngram, config.bands, config.rows);
    let (mut shingler, hasher) = (Shingler::new(ngram), Hasher::new(bands, rows, config.seed));
    let family = FinewebHasher::new(bands, rows, 1);
    let report = |name: &str, in_peers: bool, run: &mut dyn FnMut(&str)| {
        if in_peers || !peers {
            let speed = megabytes / measure::seconds(|| documents.iter().for_each(|text| run(text)));
            println!("{name} {speed:.1}");
        }
    };
    report("verified:shingles", false, &mut |text| {
        black_box(shingler.shingles(text));
    });
    report("verified", true, &mut |text| {
        black_box(hasher.band_keys(&hasher.signature(&shingler.shingles(text))));
    });
    for (name, hash) in [("xxhash", FinewebHash::Xxhash), ("sha1", FinewebHash::Sha1)] {
        let mut shingler = FinewebShingler::new(ngram, hash);
        report(&format!("fineweb-{name}:shingles"), false, &mut |text| {
            black_box(shingler.shingles(text));
        });
        report(&format!("fineweb-{name}"), true, &mut |text| {
            black_box(family.band_keys(&family.signature(&shingler.shingles(text))));
        });
    }
    report("fineweb:simplify", false, &mut |text| {
        black_box(dedup::simplify(text));
    });
    report("verified:normalise", false, &mut |text| {
        black_box(dedup::normalise(text));
    });
    Ok(())
}
