//! Which operators of the engine keep to a memory limit: `cargo run --release -p pipeline --example engine_memory [-- ROWS [MB]]`.
//!
//! Makes a table of ROWS rows (default 2,000,000, about 300 MB as columns) in a temporary folder and runs each query in a process of its own
//! with a pool of MB (default 128), one partition and the settings that stages have. Out: a Markdown table with rows or the error, MB
//! spilled, peak resident memory and CPU seconds. The first line runs over one row and says what a process has anyway.

use datafusion::arrow::array::{ArrayRef, Int64Array, Int64Builder, ListBuilder, RecordBatch, StringArray};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::StreamExt;
use pipeline::session::{block_on, register, session};
use pipeline::sink::TableSink;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// Name, settings changed first, query over `t (id, k, g, text, numbers)`, in which `k` is a permutation and `g` is four rows.
const OPERATORS: &[(&str, &str, &str)] = &[
    ("nothing", "", "SELECT 1"),
    ("scan", "", "SELECT * FROM t WHERE k < 0"),
    ("sort, one key", "", "SELECT id, text FROM t ORDER BY text"),
    ("sort, two keys", "", "SELECT id, k, text FROM t ORDER BY text, k"),
    (
        "sort, two keys, the engine's own reservation",
        "SET datafusion.execution.sort_spill_reservation_bytes = 10485760",
        "SELECT id, k, text FROM t ORDER BY text, k",
    ),
    ("top 100", "", "SELECT id, text FROM t ORDER BY text LIMIT 100"),
    ("group by integer", "", "SELECT k, count(*), min(g) FROM t GROUP BY k"),
    ("group by text", "", "SELECT text, count(*), min(k) FROM t GROUP BY text"),
    ("exact float sum by integer", "", "SELECT g, sum(k * 0.1), stddev(k * 0.1) FROM t GROUP BY g"),
    ("array_agg by integer", "", "SELECT g, array_agg(text ORDER BY id) FROM t GROUP BY g"),
    ("distinct", "", "SELECT DISTINCT text FROM t"),
    (
        "join of two partitions",
        "SET datafusion.execution.target_partitions = 2; SET datafusion.execution.sort_spill_reservation_bytes = 8388608",
        "SELECT a.text, b.text FROM t a JOIN t b ON a.k = b.k",
    ),
    ("join", "", "SELECT a.text, b.text FROM t a JOIN t b ON a.k = b.k"),
    ("window by integer", "", "SELECT id, row_number() OVER (PARTITION BY g ORDER BY k) FROM t"),
    ("window over all rows", "", "SELECT id, text, count(*) OVER () FROM t"),
    ("unnest", "", "SELECT id, text, unnest(numbers) FROM t"),
    ("join without an equality", "", "SELECT count(*) FROM t a JOIN (SELECT * FROM t WHERE k < 3) b ON a.k < b.k"),
    ("union", "", "SELECT text FROM t UNION ALL SELECT text FROM t"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, folder, operator, mb] = &arguments[..]
        && flag == "--one"
    {
        return one(Path::new(folder), operator.parse()?, mb.parse()?);
    }
    let rows = arguments.first().map_or(Ok(2_000_000), |a| a.parse())?;
    let mb = arguments.get(1).map_or("128", String::as_str);
    let folder = std::env::temp_dir().join(format!("engine-memory-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    make(&folder, rows)?;
    println!(
        "| operator ({rows} rows, pool {mb} MB) | outcome | spilled, MB | peak, MB | CPU, s |\n|---|---|---|---|---|"
    );
    for (i, (name, ..)) in OPERATORS.iter().enumerate() {
        let child =
            Command::new(std::env::current_exe()?).arg("--one").arg(&folder).args([&i.to_string(), mb]).output()?;
        let said = String::from_utf8_lossy(&child.stdout);
        let fallback = format!("ended by {}", child.status);
        println!("| {name} | {} |", if said.trim().is_empty() { &fallback } else { said.trim() });
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Writes the table.
fn make(folder: &Path, rows: i64) -> Result<(), Box<dyn Error>> {
    let mut sink: Option<TableSink> = None;
    for start in (0..rows).step_by(8192) {
        let range = start..(start + 8192).min(rows);
        // An odd factor permutes the numbers below a power of two.
        let k: Vec<i64> = range.clone().map(|i| (i * 0x9e37_79b1) & 0xffff_ffff).collect();
        let mut numbers = ListBuilder::new(Int64Builder::new());
        k.iter().for_each(|k| numbers.append_value((0..20).map(|n| Some(k + n))));
        let text = k.iter().map(|k| Some(format!("{:032x}{:048x}", i128::from(*k) * 0x1234_5678_9abc_def1, k)));
        let columns: [(&str, ArrayRef); 5] = [
            ("id", Arc::new(range.clone().map(|i| Some(format!("{i:032x}"))).collect::<StringArray>())),
            ("k", Arc::new(Int64Array::from(k.clone()))),
            ("g", Arc::new(range.map(|i| Some(i / 4)).collect::<Int64Array>())),
            ("text", Arc::new(text.collect::<StringArray>())),
            ("numbers", Arc::new(numbers.finish())),
        ];
        let batch = RecordBatch::try_from_iter(columns)?;
        if sink.is_none() {
            sink = Some(TableSink::create(folder, "t.parquet", batch.schema())?);
        }
        sink.as_mut().expect("it was made two lines up").write(&batch)?;
    }
    sink.ok_or("expected at least one row")?.finish()?;
    Ok(())
}

/// Runs one query to its end and prints the cells of its line.
fn one(folder: &Path, operator: usize, mb: u64) -> Result<(), Box<dyn Error>> {
    let (_, setting, query) = OPERATORS[operator];
    let spill = folder.join("spill");
    std::fs::create_dir_all(&spill)?;
    let session = session(Some(mb << 20), Some(&spill))?;
    let file: PathBuf = folder.join("t.parquet");
    let (outcome, spilled) = block_on(async {
        register(&session, "t", &[file]).await?;
        for setting in setting.split(';').filter(|s| !s.is_empty()) {
            session.sql(setting).await?;
        }
        let plan = session.sql(query).await?.create_physical_plan().await?;
        let mut stream = execute_stream(plan.clone(), session.task_ctx())?;
        let mut rows = 0;
        let outcome = loop {
            match stream.next().await {
                Some(Ok(batch)) => rows += batch.num_rows(),
                Some(Err(e)) => {
                    let line = e.strip_backtrace().lines().next().unwrap_or_default().to_string();
                    break format!("fails: {}", line.chars().take(60).collect::<String>());
                }
                None => break format!("{rows} rows"),
            }
        };
        Ok::<_, pipeline::Error>((outcome, spilled(&plan)))
    })?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<u64>().ok());
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks: Vec<f64> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
    let seconds = ticks.iter().sum::<f64>() / 100.0; // USER_HZ
    println!("{outcome} | {} | {} | {seconds:.1}", spilled >> 20, peak.unwrap_or_default() >> 10);
    Ok(())
}

/// Bytes a plan's operators spilled.
fn spilled(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|m| m.spilled_bytes()).unwrap_or_default();
    own + plan.children().into_iter().map(spilled).sum::<usize>()
}
