//! Reads WARC files and does nothing else: `cargo run --release -p pipeline --example warc_speed -- FILE…`.
//!
//! In: WARC files as `ingest` takes them. Out: one line with records, bytes of their blocks, damaged places, and CPU
//! seconds of this thread, opening included. `tests/peers/warc.py` runs it in turn with FastWARC.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use pipeline::source::Mapped;
use pipeline::source::warc::{self, Item, Limits};

fn main() -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let start = cpu_seconds();
    let (mut records, mut bytes, mut damaged) = (0_u64, 0_u64, 0_u64);
    for path in std::env::args().skip(1) {
        let file = Mapped::open(Path::new(&path))?;
        for item in warc::records(file.bytes(), 0, file.bytes().len() as u64, &Limits::default()) {
            match item {
                Item::Record(record) => {
                    records += 1;
                    bytes += record.block.len() as u64;
                }
                Item::Damaged(_) => damaged += 1,
            }
        }
    }
    let seconds = match (start, cpu_seconds()) {
        (Some(start), Some(end)) => end - start,
        _ => begin.elapsed().as_secs_f64(),
    };
    println!("{records} records, {bytes} bytes, {damaged} damaged, {seconds:.4} s");
    Ok(())
}

/// Time that this thread has spent on a processor (Linux), so that a busy machine does not spoil the figure.
fn cpu_seconds() -> Option<f64> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(statistics.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}
