//! Speed of each step on one core: `cargo bench -p dedup [-- FILE…]`; files as for the example `minhash_speed`, else a seeded
//! made-up text.
//!
//! MB of text per second of CPU time and documents per second, against a ceiling: hashing the same bytes once with xxh3, which
//! is little more than reading them.

use dedup::{
    Bloom, BloomConfig, DedupConfig, ExactBy, Family, Signer, SpanVerifier, UnitConfig, anchors, canonical_url, key_by,
    merge_spans, nominate, surroundings, unit_entries,
};
use std::hint::black_box;
use xxhash_rust::xxh3::xxh3_128;

/// CPU seconds per measurement, at least.
const LEAST_SECS: f64 = 1.0;
/// Window of the exact substrings.
const MIN_BYTES: usize = 200;

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --all-targets` runs benches too.
        return Ok(());
    }
    let mut documents: Vec<String> = Vec::new();
    for path in arguments.iter().filter(|argument| !argument.starts_with('-')) {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        documents.extend(text.split('\0').filter(|text| !text.is_empty()).map(str::to_owned));
    }
    if documents.is_empty() {
        documents = made_up(2_000);
    }
    let texts: Vec<&str> = documents.iter().map(String::as_str).collect();
    let megabytes = texts.iter().map(|text| text.len()).sum::<usize>() as f64 / 1e6;
    println!("{} documents, {megabytes:.1} MB", texts.len());
    println!("| step | MB/s | documents/s | of the ceiling |\n|---|---|---|---|");
    let ceiling = megabytes / seconds(|| texts.iter().for_each(|text| _ = black_box(xxh3_128(text.as_bytes()))));
    let report = |name: &str, run: &mut dyn FnMut()| {
        let secs = seconds(run);
        let (speed, rows) = (megabytes / secs, texts.len() as f64 / secs);
        println!("| {name} | {speed:.0} | {rows:.0} | {:.1} % |", 100.0 * speed / ceiling);
    };
    report("ceiling: xxh3-128", &mut || texts.iter().for_each(|text| _ = black_box(xxh3_128(text.as_bytes()))));
    for by in [ExactBy::Text, ExactBy::Normalised] {
        report(&format!("exact key, {by:?}"), &mut || {
            texts.iter().for_each(|text| _ = black_box(key_by(by, text, None)))
        });
    }
    for family in [Family::Gristmill, Family::FinewebCompat, Family::FinewebCompatSha1] {
        let mut signer = Signer::new(&DedupConfig::default().signatures(family)).expect("the default seed is small");
        report(&format!("signed, {family:?}"), &mut || texts.iter().for_each(|text| _ = black_box(signer.sign(text))));
    }
    let config = UnitConfig::default();
    report("paragraph keys", &mut || texts.iter().for_each(|text| _ = black_box(unit_entries(text, 0, &config))));
    let mut bloom =
        Bloom::new(&BloomConfig { expected_items: 10_000_000, false_positive_rate: 1e-6 }).expect("36 MB are there");
    report("paragraphs into a Bloom filter", &mut || {
        for text in &texts {
            for entry in unit_entries(text, 0, &config) {
                black_box(bloom.insert(u128::from(entry.key[0]) << 64 | u128::from(entry.key[1])));
            }
        }
    });
    let mut found = Vec::new();
    report("anchors of exact substrings", &mut || {
        found.clear();
        (0..).zip(&texts).for_each(|(n, text)| anchors(text.as_bytes(), n, MIN_BYTES, &mut found));
    });
    report("exact substrings, all steps", &mut || _ = black_box(dedup::repeated_spans(&texts, MIN_BYTES)));
    let urls: Vec<String> =
        (0..10_000).map(|n| format!("HTTPS://www.Example.org:443/a/{n}?b={n}&utm_source=x#y")).collect();
    let secs = seconds(|| urls.iter().for_each(|url| _ = black_box(canonical_url(url, true))));
    println!("\n{:.0} URLs/s in canonical form", urls.len() as f64 / secs);
    nominate(&mut found);
    let (mut verifier, mut repeats) = (SpanVerifier::new(MIN_BYTES), Vec::new());
    for anchor in &found {
        let text = texts[anchor.document as usize].as_bytes();
        verifier.push(*anchor, &text[surroundings(anchor.position, text.len(), MIN_BYTES)], &mut repeats);
    }
    println!("{} anchors nominated, {} repeats", found.len(), repeats.len());
    let first = merge_spans(texts[0], &mut repeats.iter().copied().filter(|r| r.document == 0).collect::<Vec<_>>());
    println!("{} spans to remove from the first document", first.len());
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
    let mut words = |count: u64| -> String {
        let word = |n: u64| format!("w{:x}", n * n % 65_521);
        (0..count).map(|_| word(random(5_000))).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(|_| (0..8).map(|_| words(100)).collect::<Vec<_>>().join("\n\n")).collect()
}
