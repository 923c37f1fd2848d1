//! What exact sums of floats cost: `cargo run --release -p pipeline --example exact_speed [-- ROUNDS]`.
//!
//! The same queries over the same table in memory (four million rows of two floats and two keys) with the engine's own aggregates
//! and with ours, in turn, on one thread. Out: a Markdown table with medians of CPU seconds and their ratio.

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use datafusion::datasource::MemTable;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::prelude::SessionContext;
use pipeline::session::{block_on, session};
use std::error::Error;
use std::sync::Arc;

const QUERIES: &[(&str, &str)] = &[
    ("sum", "SELECT sum(x) FROM t"),
    ("sum and mean, 1,000 groups", "SELECT few, sum(x), avg(y) FROM t GROUP BY few"),
    ("sum and mean, 1,000,000 groups", "SELECT many, sum(x), avg(y) FROM t GROUP BY many"),
    ("deviation, 1,000 groups", "SELECT few, stddev(x) FROM t GROUP BY few"),
    ("correlation, 1,000 groups", "SELECT few, corr(x, y) FROM t GROUP BY few"),
    ("correlation", "SELECT corr(x, y) FROM t"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(5), |a| a.parse())?;
    let batches: Vec<RecordBatch> = (0..4000_i64).map(|b| batch(b * 1000)).collect();
    let sides: [SessionContext; 2] = [session(None, None)?, session(None, None)?];
    all_default_aggregate_functions().into_iter().for_each(|f| sides[0].register_udaf(f.as_ref().clone()));
    for side in &sides {
        let table = MemTable::try_new(batches[0].schema(), vec![batches.clone()])?;
        side.register_table("t", Arc::new(table))?;
    }
    println!("| 4,000,000 rows, {rounds} rounds | engine, CPU s | exact, CPU s | ratio |\n|---|---|---|---|");
    for (name, query) in QUERIES {
        let mut seconds = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (side, seconds) in sides.iter().zip(&mut seconds) {
                let began = cpu_seconds();
                block_on(async { side.sql(query).await?.collect().await })?;
                seconds.push(cpu_seconds() - began);
            }
        }
        let [engine, exact] = seconds.map(|mut s| {
            s.sort_by(f64::total_cmp);
            s[s.len() / 2]
        });
        println!("| {name} | {engine:.3} | {exact:.3} | {:.1} |", exact / engine);
    }
    Ok(())
}

fn batch(start: i64) -> RecordBatch {
    let rows: Vec<i64> = (start..start + 1000).map(|i| (i * 0x9e37_79b1) & 0xffff_ffff).collect();
    let floats =
        |by: f64| -> ArrayRef { Arc::new(rows.iter().map(|i| Some(*i as f64 / by)).collect::<Float64Array>()) };
    let keys = |n: i64| -> ArrayRef { Arc::new(rows.iter().map(|i| Some(i % n)).collect::<Int64Array>()) };
    RecordBatch::try_from_iter([
        ("x", floats(7.0)),
        ("y", floats(-3e5)),
        ("few", keys(1000)),
        ("many", keys(1_000_003)),
    ])
    .expect("the columns are of one length because each has one value a row")
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is a place for one `rusage`, which the call fills.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
