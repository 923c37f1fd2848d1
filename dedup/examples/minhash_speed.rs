//! Speed of MinHash signatures on one core, shingling included:
//! `cargo run --release -p dedup --example minhash_speed [--peers] [FILE…]`.
//!
//! Each file holds documents separated by NUL; without files, a seeded text of 2,000 documents is made up. Prints MB of text
//! per second of CPU time for each step and mode; with `--peers` only `NAME MB/s` for tests/peers/minhash.py.

use dedup::{DedupConfig, FinewebHash, FinewebHasher, FinewebShingler, Hasher, Shingler};
use std::hint::black_box;

/// CPU seconds per measurement, at least.
const LEAST_SECS: f64 = 1.0;

fn main() -> std::io::Result<()> {
    let (mut documents, mut peers) = (Vec::new(), false);
    for argument in std::env::args().skip(1) {
        if argument == "--peers" {
            peers = true;
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(argument)?).into_owned();
            documents.extend(text.split('\0').filter(|text| !text.is_empty()).map(str::to_owned));
        }
    }
    if documents.is_empty() {
        documents = made_up(2_000);
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
            let speed = megabytes / seconds(|| documents.iter().for_each(|text| run(text)));
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

/// CPU seconds of one run, the mean of as many as [`LEAST_SECS`] take.
fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut runs) = (cpu_secs(), 0);
    loop {
        run();
        runs += 1;
        let spent = cpu_secs() - start;
        if spent >= LEAST_SECS {
            return spent / f64::from(runs);
        }
    }
}

/// Seconds that this thread has had a CPU (Linux); elsewhere of the clock.
fn cpu_secs() -> f64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = spent.as_deref().and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |n| n / 1e9)
}

fn made_up(count: usize) -> Vec<String> {
    let mut state = 1_u64;
    let mut random = move |most: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % most
    };
    let word = |random: &mut dyn FnMut(u64) -> u64| {
        let letters = 2 + random(9);
        (0..letters).map(|_| char::from(b'a' + random(26) as u8)).collect::<String>()
    };
    let vocabulary: Vec<String> = (0..5_000).map(|_| word(&mut random)).collect();
    let mut pick = || vocabulary[random(5_000) as usize].as_str();
    (0..count).map(|_| (0..800).map(|_| pick()).collect::<Vec<_>>().join(" ")).collect()
}
