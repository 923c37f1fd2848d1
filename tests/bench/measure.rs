//! What benches and speed examples share: CPU time, documents to run over, and speeds as shares of a ceiling.
//!
//! Included by `#[path]`, since there is no crate that all rooms know. Times are CPU seconds of this thread, so that a busy machine
//! does not spoil a figure. The ceiling is measured in the same run: copying 64 MiB, more than caches hold, from one place in memory
//! to another. No step that reads every byte and writes as many can pass it.

use std::hint::black_box;

/// CPU seconds per measurement, at least.
const LEAST_SECS: f64 = 1.0;
/// Bytes copied for the ceiling.
const COPIED: usize = 64 << 20;

/// Prints one row for each step: MB/s, documents/s and the share of the ceiling.
pub struct Table {
    /// MB/s of copying memory, in this run.
    ceiling: f64,
    bytes: usize,
    documents: usize,
}

impl Table {
    /// Measures the ceiling and prints it.
    pub fn new() -> Self {
        let (from, mut to) = (vec![1_u8; COPIED], vec![0_u8; COPIED]);
        let secs = seconds(|| black_box(&mut to).copy_from_slice(black_box(&from)));
        let ceiling = COPIED as f64 / 1e6 / secs;
        println!("ceiling: memory is copied at {ceiling:.0} MB/s; one thread, CPU time");
        Self { ceiling, bytes: 0, documents: 0 }
    }

    /// Begins a group of steps that all go over the same `documents`.
    pub fn group<'a>(&mut self, name: &str, documents: impl Iterator<Item = &'a [u8]>) {
        (self.bytes, self.documents) = documents.fold((0, 0), |(bytes, n), document| (bytes + document.len(), n + 1));
        println!("\n{name}: {} documents, {:.1} MB", self.documents, self.bytes as f64 / 1e6);
        println!("| step | MB/s | documents/s | of the ceiling |\n|---|---|---|---|");
    }

    /// Measures a step over all documents of the group; returns its MB/s.
    pub fn row(&self, name: &str, run: impl FnMut()) -> f64 {
        let secs = seconds(run);
        let (speed, rate) = (self.bytes as f64 / 1e6 / secs, self.documents as f64 / secs);
        println!("| {name} | {speed:.1} | {rate:.0} | {:.2} % |", 100.0 * speed / self.ceiling);
        speed
    }
}

/// Is this `cargo bench`? `cargo test --all-targets` runs benches too.
pub fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// The documents of the files named on the command line, separated by NUL; none where no file is named.
pub fn documents_of_arguments() -> std::io::Result<Vec<String>> {
    let mut documents = Vec::new();
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with('-')) {
        let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
        documents.extend(text.split('\0').filter(|text| !text.is_empty()).map(str::to_owned));
    }
    Ok(documents)
}

/// Documents made up of 800 words each, of a vocabulary of 5,000 with letters at random; `paragraphs` of them separated by empty lines.
pub fn made_up(count: usize, paragraphs: usize) -> Vec<String> {
    let mut state = 1_u64;
    let mut random = move |most: u64| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) % most
    };
    let mut word = || (0..2 + random(9)).map(|_| char::from(b'a' + random(26) as u8)).collect::<String>();
    let vocabulary: Vec<String> = (0..5_000).map(|_| word()).collect();
    let mut words = |n: usize| (0..n).map(|_| &*vocabulary[random(5_000) as usize]).collect::<Vec<_>>().join(" ");
    (0..count).map(|_| (0..paragraphs).map(|_| words(800 / paragraphs)).collect::<Vec<_>>().join("\n\n")).collect()
}

/// CPU seconds of one run, the mean of as many as take [`LEAST_SECS`], after one that does not count.
pub fn seconds(mut run: impl FnMut()) -> f64 {
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
pub fn cpu_secs() -> f64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = spent.as_deref().and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |n| n / 1e9)
}
