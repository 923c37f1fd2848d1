//! Speed of shards: `cargo run --release -p tokenizer --example shard_speed -- TEXT [VOCAB] [FOLDER]`.
//!
//! TEXT is cut into documents at empty lines, at least 4 KiB each. Prints CPU seconds of bare encoding and of text to a finished
//! shard with all its files, alternating; then, on a shard of 512 MiB in FOLDER (the system's temporary folder), random windows
//! of 2,049 tokens against memcpy of the same bytes; then look-ups over the documents of 10^9 tokens.

use std::{error::Error, fs::File, hint::black_box, io::Write, path::Path, time::Instant};

use tokenizer::shard::{Checks, Index, Shard, ShardEntry, ShardSet, ShardWriter, Width, index};
use tokenizer::{TokenizerConfig, WordCounts, count, train};

const WINDOW: usize = 2049;

/// User and system time of this process, seconds.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed(work: impl FnOnce()) -> f64 {
    let before = cpu_secs();
    work();
    cpu_secs() - before
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 20
}

/// Documents of a shard with checksums, in files.
fn store(folder: &Path, name: &str, vocab_size: usize, documents: &[Vec<u32>]) -> Result<ShardEntry, Box<dyn Error>> {
    let file = File::create(folder.join(format!("{name}.bin")))?;
    let mut writer = ShardWriter::new(file, vocab_size, 0);
    for (key, ids) in documents.iter().enumerate() {
        writer.push(key as u128, ids)?;
    }
    let written = writer.finish()?;
    std::fs::write(folder.join(format!("{name}.idx")), &written.idx)?;
    std::fs::write(folder.join(format!("{name}.keys")), &written.keys)?;
    Ok(ShardEntry { name: name.into(), split: "train".into(), blake3: String::new(), checks: written.checks })
}

fn writing(text: &str, vocab_size: usize, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut documents: Vec<&str> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let from = rest.len().min(4096);
        let cut = rest.as_bytes()[from..].windows(2).position(|w| w == b"\n\n").map_or(rest.len(), |at| from + at + 2);
        documents.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    let config = TokenizerConfig { vocab_size, split: tokenizer::Split::Cl100k, ..TokenizerConfig::default() };
    let mut counts = WordCounts::new();
    documents.iter().for_each(|d| count(d, &config.splitter().expect("a known split"), &mut counts));
    let tokenizer = train(&counts, &config)?;
    let mut encoder = tokenizer.encoder();
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let mut ids = Vec::with_capacity(text.len());
        bare.push(timed(|| documents.iter().for_each(|d| encoder.encode_into(d, &mut ids))));
        black_box(ids.len());
        whole.push(timed(|| {
            let file = File::create(folder.join("speed.bin")).expect("the folder can be written");
            let mut writer = ShardWriter::new(
                Hashing { file, hasher: blake3::Hasher::new() },
                tokenizer.vocab_size(),
                tokenizer.eot_id(),
            );
            let mut ids = Vec::new();
            for (key, document) in documents.iter().enumerate() {
                ids.clear();
                encoder.encode_into(document, &mut ids);
                writer.push(key as u128, &ids).expect("ids of the tokenizer");
            }
            let written = writer.finish().expect("the disk has room");
            black_box(written.out.hasher.finalize());
            std::fs::write(folder.join("speed.idx"), &written.idx).expect("the disk has room");
            std::fs::write(folder.join("speed.keys"), &written.keys).expect("the disk has room");
        }));
    }
    let (bare, whole) = (median(bare), median(whole));
    let rate = text.len() as f64 / 1e6;
    println!("{} documents, {rate:.1} MB, vocabulary {vocab_size}, warm, one thread, medians of 9", documents.len());
    println!("bare encoding      {:8.3} CPU s  {:8.1} MB/s", bare, rate / bare);
    println!("text to a shard    {:8.3} CPU s  {:8.1} MB/s  {:.3} of bare encoding", whole, rate / whole, bare / whole);
    Ok(())
}

/// A file and the blake3 of what goes into it, as the pipeline writes shards.
struct Hashing {
    file: File,
    hasher: blake3::Hasher,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn reading(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut state = 7;
    let documents: Vec<Vec<u32>> =
        (0..1 << 18).map(|i| (0..1023).map(|j| 1 + (i * 31 + j * 7) % 50_000).collect()).collect();
    let entry = store(folder, "windows", 50_257, &documents)?;
    drop(documents);
    let set = ShardSet::new(vec![Shard::open(folder, &entry, Width::U16)?]);
    let windows = (set.n_tokens() - 1) / (WINDOW as u64 - 1);
    let mut order: Vec<u64> = (0..windows).map(|w| w * (WINDOW as u64 - 1)).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, random(&mut state) as usize % (i + 1));
    }
    let mut raw = vec![0_u8; WINDOW * 2];
    let mut ids: Vec<u32> = Vec::with_capacity(WINDOW);
    let plain = std::fs::read(folder.join("windows.bin"))?;
    drop(plain); // in the page cache now
    // SAFETY: nobody writes the file while this runs.
    let map = unsafe { memmap2::Mmap::map(&File::open(folder.join("windows.bin"))?)? };
    let mut copy = || {
        timed(|| {
            for &start in &order {
                let from = start as usize * 2;
                raw.copy_from_slice(&map[from..from + WINDOW * 2]);
                black_box(&mut raw);
            }
        })
    };
    let faults = copy();
    let mut read = |set: &ShardSet| {
        timed(|| {
            for &start in &order {
                ids.clear();
                set.tokens_into(start..start + WINDOW as u64, &mut ids).expect("the shard is whole");
                black_box(&mut ids);
            }
        })
    };
    let first = read(&set);
    let mut raw_ids = vec![0_u8; WINDOW * 2];
    let mut verified = |set: &ShardSet| {
        timed(|| {
            for &start in &order {
                let bytes = set.shards()[0].bytes(start..start + WINDOW as u64).expect("the shard is whole");
                raw_ids.copy_from_slice(bytes);
                black_box(&mut raw_ids);
            }
        })
    };
    let (mut copies, mut reads, mut narrow) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..9 {
        copies.push(copy());
        reads.push(read(&set));
        narrow.push(verified(&set));
    }
    let (copied, wide, narrow) = (median(copies), median(reads), median(narrow));
    let each = |secs: f64| secs / windows as f64 * 1e9;
    println!(
        "{windows} windows of {WINDOW} tokens in random order, {:.0} MiB in the page cache",
        map.len() as f64 / 1048576.0
    );
    println!(
        "first pass: memcpy {:6.0} ns, tokens verified {:6.0} ns: {:.3}",
        each(faults),
        each(first),
        faults / first
    );
    for (name, secs) in [("as they are", narrow), ("as ids of u32", wide)] {
        let (memcpy, ours) = (each(copied), each(secs));
        println!("later:      memcpy {memcpy:6.0} ns, {name:15} {ours:6.0} ns: {:.3}", copied / secs);
    }
    Ok(())
}

fn looking_up(folder: &Path) -> Result<(), Box<dyn Error>> {
    const DOCUMENTS: usize = 1_000_000;
    let lengths: Vec<i32> = (0..DOCUMENTS).map(|i| 1 + (i * 7919 % 1999) as i32).collect();
    let idx = index::to_bytes(Width::U16, &lengths);
    let began = Instant::now();
    let index = Index::parse(idx, "synthetic")?;
    println!(
        "{} tokens of {DOCUMENTS} documents; index checked in {:.1} ms",
        index.n_tokens(),
        began.elapsed().as_secs_f64() * 1e3
    );
    let mut state = 11;
    each_of_many("window to documents", || {
        let token = random(&mut state) % (index.n_tokens() - WINDOW as u64);
        let (first, last) = (index.doc_of_token(token), index.doc_of_token(token + WINDOW as u64 - 1));
        black_box((first..=last).map(|d| index.doc_range(d).start).sum::<u64>());
    });
    // Keys: the same million documents, each of one token so that the shard fits the folder.
    let file = File::create(folder.join("keys.bin"))?;
    let mut writer = ShardWriter::new(file, 300, 0);
    let key = |i: usize| (i as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    for i in 0..DOCUMENTS {
        writer.push(key(i), &[])?;
    }
    let written = writer.finish()?;
    std::fs::write(folder.join("keys.idx"), &written.idx)?;
    std::fs::write(folder.join("keys.keys"), &written.keys)?;
    let checks: Checks = written.checks;
    let entry = ShardEntry { name: "keys".into(), split: "train".into(), blake3: String::new(), checks };
    let set = ShardSet::new(vec![Shard::open(folder, &entry, Width::U16)?]);
    let began = Instant::now();
    black_box(set.find(key(1))?);
    println!("document to tokens: the first look-up verifies the keys, {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    each_of_many("document to tokens", || {
        let found = set.find(key(random(&mut state) as usize % DOCUMENTS)).expect("the keys are whole");
        assert_eq!(found.len(), 1);
    });
    Ok(())
}

/// Times 100,000 calls one by one; the longest of them are the system's interruptions.
fn each_of_many(name: &str, mut work: impl FnMut()) {
    let mut micros: Vec<f64> = (0..100_000)
        .map(|_| {
            let began = Instant::now();
            work();
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| micros[(micros.len() as f64 * share) as usize];
    println!("{name}: median {:.2} us, 99 % below {:.2} us, 99.9 % below {:.2} us", at(0.5), at(0.99), at(0.999));
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: shard_speed TEXT [VOCAB] [FOLDER]")?;
    let vocab_size = args.next().map_or(Ok(32_768), |arg| arg.parse())?;
    let folder = args.next().map_or_else(std::env::temp_dir, Into::into).join("shard_speed");
    std::fs::create_dir_all(&folder)?;
    writing(&std::fs::read_to_string(&path)?, vocab_size, &folder)?;
    reading(&folder)?;
    looking_up(&folder)?;
    Ok(std::fs::remove_dir_all(&folder)?)
}
