//! The data half gives the same bytes at 1, 2 and 8 threads, for any batch size, in any number of partitions of a query, with and without
//! spilling, and in whatever order files are listed; the same rows in the same order for any cut of a file into ranges; and the same
//! rows but for where they were found, for another split of the input into files.

use crate::support::root;
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use pipeline::dataset::Dataset;
use pipeline::engine::Engine;
use pipeline::stage::{Cut, Settings};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::OnceLock;

/// A folder in memory where there is one: a run makes some thousand files durable.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a temporary folder")
}

/// Rows with a text, a mark that many share, and two floats of very different size in `source_id`.
fn rows() -> Vec<[String; 4]> {
    let mut state = 9_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let row = |i: usize| {
        let floats =
            format!("{:e} {}", next() as f64 / 7.0 * 10f64.powi((next() % 30) as i32 - 15), next() as f64 / 3.0);
        let text: Vec<String> = (0..1 + next() % 60).map(|_| format!("w{}", next() % 40)).collect();
        [floats, format!("https://h{}.example.org/{i}", next() % 9), format!("m{}", next() % 7), text.join(" ")]
    };
    (0..9000).map(row).collect()
}

/// The manifest with its input in a folder. `files` cuts the input into so many; `backwards` writes them last first.
fn input(folder: &Path, files: usize, backwards: bool) -> PathBuf {
    let fixtures = root().join("tests/fixtures/micro");
    let [a, b] = ["a", "b"].map(|name| std::fs::read(fixtures.join(format!("{name}.warc.gz"))).unwrap());
    let mut all: Vec<(String, Vec<u8>)> = match files {
        1 => vec![("crawl/all.warc.gz".into(), [a, b].concat())],
        _ => vec![("crawl/a.warc.gz".into(), a), ("crawl/b.warc.gz".into(), b)],
    };
    let rows = rows();
    let (json, rest) = rows.split_at(3000);
    let (csv, table) = rest.split_at(3000);
    for (i, part) in json.chunks(json.len() / files).enumerate() {
        let line = |[id, url, mark, text]: &[String; 4]| {
            serde_json::json!({ "id": id, "url": url, "mark": mark, "text": text }).to_string() + "\n"
        };
        all.push((format!("rows/{i}.jsonl"), part.iter().map(line).collect::<String>().into_bytes()));
    }
    for (i, part) in csv.chunks(csv.len() / files).enumerate() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writeln!(packed, "id,url,mark,text").unwrap();
        part.iter().for_each(|row| writeln!(packed, "{}", row.join(",")).unwrap());
        all.push((format!("rows/{i}.csv.gz"), packed.finish().unwrap()));
    }
    for sub in ["crawl", "rows"] {
        std::fs::create_dir_all(folder.join(sub)).unwrap();
    }
    for (i, part) in table.chunks(table.len() / files).enumerate() {
        let column =
            |c: usize| -> ArrayRef { Arc::new(part.iter().map(|r| Some(r[c].as_str())).collect::<StringArray>()) };
        let batch = RecordBatch::try_from_iter(
            ["id", "url", "mark", "text"].into_iter().enumerate().map(|(i, n)| (n, column(i))),
        );
        pipeline::sink::write_table(&folder.join("rows"), "made", &batch.unwrap()).unwrap();
        all.push((format!("rows/{i}.parquet"), std::fs::read(folder.join("rows/made")).unwrap()));
        std::fs::remove_file(folder.join("rows/made")).unwrap();
    }
    if backwards {
        all.reverse();
    }
    all.iter().for_each(|(name, bytes)| std::fs::write(folder.join(name), bytes).unwrap());
    let manifest = folder.join("determinism.toml");
    let own = std::fs::read_to_string(root().join("tests/determinism.toml")).unwrap();
    std::fs::write(&manifest, own + &shipped()).unwrap();
    manifest
}

/// The `sql` stages of the manifests in the repository.
fn shipped() -> String {
    let mut queries: BTreeMap<String, String> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("manifests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml") {
            let manifest: toml::Table = toml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            for (name, stage) in manifest["stage"].as_table().unwrap() {
                if stage["kind"].as_str() == Some("sql") {
                    let input = stage.get("input").and_then(toml::Value::as_str);
                    assert_eq!(
                        input,
                        Some("tasks"),
                        "{name} of {} reads another table: give it one here",
                        path.display()
                    );
                    queries.insert(stage["query"].to_string(), name.clone());
                }
            }
        }
    }
    assert!(queries.len() >= 4, "{queries:?}");
    let stage = |(query, name): (&String, &String)| {
        format!("shipped_{name} = {{ kind = \"sql\", input = \"tasks\", query = {query} }}\n")
    };
    queries.iter().map(stage).collect()
}

fn run(manifest: &Path, root: &Path, threads: usize, memory_mb: Option<u64>, cut: Cut) -> PathBuf {
    let manifest = pipeline::manifest::Manifest::load(manifest, &[]).unwrap_or_else(|e| panic!("{e}"));
    let settings = Settings {
        threads,
        memory_limit_bytes: memory_mb.map(|mb| mb << 20),
        engine: Engine::Local,
        scratch: None,
        cut,
        ranks: None,
    };
    let run = root.join(format!("run-{threads}-{memory_mb:?}"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    pipeline::execute::run(&manifest, &run, None, &settings, &pipeline::progress::Silent, &stop)
        .unwrap_or_else(|e| panic!("{e}"));
    run
}

fn datasets(run: &Path) -> Vec<Dataset> {
    pipeline::execute::datasets(run).unwrap().into_iter().map(|(_, d)| d).collect()
}

fn digests(run: &Path) -> BTreeMap<String, String> {
    datasets(run).into_iter().map(|d| (d.name, d.receipt.output_digest)).collect()
}

/// The run that all others are compared with, and its folder.
fn reference() -> &'static (tempfile::TempDir, PathBuf, PathBuf) {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf, PathBuf)> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = folder();
        let manifest = input(folder.path(), 2, false);
        let run = run(&manifest, folder.path(), 1, None, Cut::default());
        (folder, manifest, run)
    })
}

#[test]
fn threads_batches_partitions_and_spilling_change_no_byte() {
    let (_, manifest, base) = reference();
    let wanted = digests(base);
    assert!(wanted.len() >= 29, "{wanted:?}");
    let other = folder();
    for (threads, memory_mb, batch_rows, partitions) in
        [(2, None, 1024, 7), (8, None, 7, 1), (1, Some(4), 333, 1), (2, Some(64), 4096, 7)]
    {
        let cut = Cut { batch_rows, partitions, ..Cut::default() };
        let found = digests(&run(manifest, other.path(), threads, memory_mb, cut));
        for (stage, digest) in &wanted {
            assert_eq!(
                Some(digest),
                found.get(stage),
                "{stage} at {threads} threads, {memory_mb:?} MB, {batch_rows} rows a batch, {partitions} partitions"
            );
        }
    }
}

#[test]
fn the_order_in_which_files_are_written_and_listed_changes_no_byte() {
    let other = folder();
    let found = run(&input(other.path(), 2, true), other.path(), 2, None, Cut::default());
    assert_eq!(digests(&reference().2), digests(&found));
}

/// Columns that say where a row was found, or name such rows.
const PLACE: &[&str] = &["id", "parent_id", "source", "kept_id", "cluster_id"];

/// All rows of the files of a stage whose names begin with `prefix`, as text, in order.
fn table(dataset: &Dataset, prefix: &str, without: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for file in dataset.files(prefix) {
        let all = pipeline::session::session(None, None).unwrap();
        let batches = pipeline::session::block_on(async {
            let frame = all.read_parquet(file.to_string_lossy().into_owned(), Default::default()).await.unwrap();
            frame.collect().await.unwrap()
        });
        for batch in batches {
            let schema = batch.schema();
            let options = FormatOptions::default();
            let columns =
                batch.columns().iter().zip(schema.fields()).filter(|(_, f)| !without.contains(&f.name().as_str()));
            let columns: Vec<_> = columns.map(|(c, _)| ArrayFormatter::try_new(c, &options).unwrap()).collect();
            for i in 0..batch.num_rows() {
                let mut line = String::new();
                columns.iter().for_each(|c| write!(line, "{}\u{1f}", c.value(i)).unwrap());
                lines.push(line);
            }
        }
    }
    lines
}

#[test]
fn a_file_cut_into_other_ranges_gives_the_same_rows_in_the_same_order() {
    let (_, manifest, base) = reference();
    let other = folder();
    let cut = Cut { fragment_bytes: 5000, ..Cut::default() };
    let found = datasets(&run(manifest, other.path(), 2, None, cut));
    let (before, now) = (datasets(base), found);
    let mut divided = 0;
    for (a, b) in before.iter().zip(&now) {
        divided += usize::from(b.parts().len() > a.parts().len());
        if ["bpe", "marks", "grams"].contains(&a.name.as_str()) {
            assert_eq!(a.receipt.output_digest, b.receipt.output_digest, "{}", a.name);
        }
        for prefix in ["part-", "verdicts-", "edits-"] {
            if a.name == "shards" {
                // Where tokens lie follows the fragments, of which each has a shard of either split: the same documents.
                let documents = |d| {
                    let mut rows = table(d, prefix, &["shard", "document", "token_start"]);
                    rows.sort_unstable();
                    rows
                };
                assert_eq!(documents(a), documents(b));
                continue;
            }
            assert_eq!(table(a, prefix, &[]), table(b, prefix, &[]), "{} of {}", prefix, a.name);
        }
    }
    assert!(divided >= 12, "{divided} stages have more files than before");
}

#[test]
fn another_split_into_files_gives_the_same_rows_but_for_where_they_were_found() {
    let other = folder();
    let found = datasets(&run(&input(other.path(), 1, false), other.path(), 2, None, Cut::default()));
    let mut compared = 0;
    // Stages behind these draw by id, which says where a row was found.
    let stages = [
        "crawl", "rows", "text", "lang", "quality", "unique", "compat", "once", "tidy", "counts", "groups", "apart",
        "sorted",
    ];
    for (a, b) in datasets(&reference().2).iter().zip(&found).filter(|(a, _)| stages.contains(&a.name.as_str())) {
        let (mut a_rows, mut b_rows) = (table(a, "part-", PLACE), table(b, "part-", PLACE));
        a_rows.sort_unstable();
        b_rows.sort_unstable();
        assert!(!a_rows.is_empty());
        assert_eq!(a_rows, b_rows, "{}", a.name);
        compared += 1;
    }
    assert_eq!(compared, stages.len());
}

#[test]
fn the_sort_of_the_matrix_spills_at_its_memory_limit() {
    let files = datasets(&reference().2).into_iter().find(|d| d.name == "rows").unwrap().parts();
    let spill = folder();
    let session = pipeline::session::session(Some(4 << 20), Some(spill.path())).unwrap();
    let spilled = pipeline::session::block_on(async {
        pipeline::session::register(&session, "rows", &files).await.unwrap();
        let frame = session.sql("SELECT text, mark, id, payload_hash FROM rows ORDER BY mark, id").await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        datafusion::physical_plan::collect(plan.clone(), session.task_ctx()).await.unwrap();
        spills(&plan)
    });
    assert!(spilled > 0);
}

fn spills(plan: &Arc<dyn datafusion::physical_plan::ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|m| m.spill_count()).unwrap_or_default();
    own + plan.children().into_iter().map(spills).sum::<usize>()
}

#[test]
fn a_join_that_exceeds_its_memory_limit_spills_and_gives_the_same_rows() {
    let folder = folder();
    let rows: String = (0..40_000)
        .map(|i| {
            let text = format!("{:060}", i * 7919 % 40_000);
            serde_json::json!({ "id": i.to_string(), "text": text, "url": format!("https://example.org/{i}") })
                .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let manifest = folder.path().join("join.toml");
    let text = "name = \"join\"\n[stage]\nrows = { kind = \"ingest\", source = \"rows.jsonl\" }\n\
         both = { kind = \"sql\", input = \"rows\", query = \"SELECT a.id, b.url, a.text, b.text AS other FROM rows a JOIN rows b ON a.source_id = b.source_id\" }\n";
    std::fs::write(&manifest, text).unwrap();
    let free = digests(&run(&manifest, folder.path(), 1, None, Cut::default()));
    assert_eq!(free, digests(&run(&manifest, folder.path(), 1, Some(12), Cut::default())));
}
