//! Tokenizers as stages: options, bounded memory, tokenizers of others, and how well each fits.

use crate::support::{arg, fails_with, manifest, root, stdout};
use std::path::{Path, PathBuf};

/// A run of tokenizer stages over the fixtures' texts.
fn mill(folder: &Path, stages: &str, arguments: &[&str]) -> PathBuf {
    let path = manifest(folder, &text(stages));
    let mut call = vec!["run", arg(&path), "--root", arg(folder)];
    call.extend(arguments);
    stdout(&call);
    folder.join("tokens")
}

fn text(stages: &str) -> String {
    format!(
        "name = \"tokens\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{}/tests/fixtures/micro/*.warc.gz\" }}\n\
         page = {{ kind = \"extract\", input = \"crawl\" }}\nlang = {{ kind = \"language\", input = \"page\" }}\n\
         again = {{ kind = \"sql\", input = \"lang\", query = \"SELECT text_hash(id) AS id, text FROM lang\" }}\n{stages}\n",
        root().display()
    )
}

fn json(run: &Path, query: &str) -> Vec<serde_json::Value> {
    let rows = stdout(&["sql", arg(run), query, "--format", "jsonl"]);
    rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn file(run: &Path, stage: &str) -> Vec<u8> {
    std::fs::read(run.join(stage).join("tokenizer.json")).unwrap()
}

#[test]
fn candidates_are_compared_by_one_query() {
    let folder = tempfile::tempdir().unwrap();
    let run = mill(
        folder.path(),
        "a = { kind = \"tokenizer\", input = \"lang\", vocab_size = 600 }\n\
         b = { kind = \"tokenizer\", input = \"lang\", vocab_size = 600, superword_vocab_size = 700, prune_below = 3 }",
        &[],
    );
    let rows = json(
        &run,
        "SELECT 'a' AS name, bytes, documents, tokens, bytes_per_token FROM a_report WHERE \"column\" = 'all'
         UNION ALL SELECT 'b', bytes, documents, tokens, bytes_per_token FROM b_report WHERE \"column\" = 'all' ORDER BY name",
    );
    let whole = json(&run, "SELECT count(*) AS n, sum(octet_length(text)) AS bytes FROM lang");
    for row in &rows {
        assert_eq!((&row["documents"], &row["bytes"]), (&whole[0]["n"], &whole[0]["bytes"]));
        let ratio = row["bytes"].as_f64().unwrap() / row["tokens"].as_f64().unwrap();
        assert!((row["bytes_per_token"].as_f64().unwrap() - ratio).abs() < 1e-12);
    }
    assert!(rows[1]["tokens"].as_u64() < rows[0]["tokens"].as_u64(), "superwords shorten texts: {rows:?}");
    // Every text has one language and one domain.
    for column in ["language", "domain"] {
        let query = format!("SELECT sum(tokens) AS tokens, count(*) AS n FROM a_report WHERE \"column\" = '{column}'");
        let sums = json(&run, &query);
        assert_eq!(sums[0]["tokens"], rows[0]["tokens"], "{column}");
    }
    let languages = json(&run, "SELECT count(DISTINCT coalesce(language, '')) AS n FROM lang");
    let found = json(&run, "SELECT count(*) AS n FROM a_report WHERE \"column\" = 'language'");
    assert_eq!(found, languages);
}

#[test]
fn a_memory_limit_and_threads_change_no_byte_and_a_weight_is_a_text_read_again() {
    let stages = "a = { kind = \"tokenizer\", inputs = [\"lang\", \"again\"], vocab_size = 600, report_by = [] }\n\
                  b = { kind = \"tokenizer\", input = \"lang\", weights = { lang = 2 }, vocab_size = 600, report_by = [] }";
    let folder = tempfile::tempdir().unwrap();
    let free = mill(folder.path(), stages, &["--threads", "1"]);
    let other = tempfile::tempdir().unwrap();
    let tight = mill(other.path(), stages, &["--threads", "2", "--memory-limit", "4MB"]);
    assert_eq!(stdout(&["verify", arg(&free)]), stdout(&["verify", arg(&tight)]));
    assert!(file(&free, "a") == file(&free, "b"), "twice the text is the text with weight two");
}

#[test]
fn a_tokenizer_of_others_is_read_measured_and_used() {
    let folder = tempfile::tempdir().unwrap();
    let run = mill(folder.path(), "a = { kind = \"tokenizer\", input = \"lang\", vocab_size = 600 }", &[]);
    std::fs::copy(run.join("a/tokenizer.json"), folder.path().join("theirs.json")).unwrap();
    let stages = "a = { kind = \"tokenizer\", input = \"lang\", vocab_size = 600 }\n\
                  b = { kind = \"tokenizer\", input = \"lang\", file = \"theirs.json\" }\n\
                  c = { kind = \"tokenizer\", file = \"theirs.json\" }\n\
                  s = { kind = \"tokenize\", input = \"lang\", tokenizer = \"c\" }";
    let run = mill(folder.path(), stages, &[]);
    assert!(file(&run, "a") == file(&run, "b") && file(&run, "a") == file(&run, "c"));
    assert_eq!(json(&run, "SELECT * FROM a_report"), json(&run, "SELECT * FROM b_report"));
    assert!(json(&run, "SELECT * FROM c_report").is_empty());
    std::fs::write(folder.path().join("theirs.json"), "{}").unwrap();
    let path = folder.path().join("test.toml");
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 3);
    assert!(said.contains("theirs.json") && said.contains("hint: byte-level BPE"), "{said}");
}

#[test]
fn the_two_files_of_gpt2_are_read_as_one_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let one = "a = { kind = \"tokenizer\", input = \"lang\", vocab_size = 600, split = \"gpt2\" }";
    let run = mill(folder.path(), one, &[]);
    let theirs: serde_json::Value = serde_json::from_slice(&file(&run, "a")).unwrap();
    let mut merges = String::from("#version: 0.2\n");
    for merge in theirs["model"]["merges"].as_array().unwrap() {
        let side = |i: usize| merge[i].as_str().unwrap();
        merges += &format!("{} {}\n", side(0), side(1));
    }
    std::fs::write(folder.path().join("merges.txt"), merges).unwrap();
    std::fs::write(folder.path().join("encoder.json"), theirs["model"]["vocab"].to_string()).unwrap();
    let stages =
        format!("{one}\nb = {{ kind = \"tokenizer\", input = \"lang\", file = \"merges.txt\", split = \"gpt2\" }}");
    let run = mill(folder.path(), &stages, &[]);
    assert_eq!(json(&run, "SELECT * FROM a_report"), json(&run, "SELECT * FROM b_report"));
    std::fs::remove_file(folder.path().join("encoder.json")).unwrap();
    let path = folder.path().join("test.toml");
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
    assert!(said.contains("encoder.json"), "{said}");
}

#[test]
fn what_a_tokenizer_cannot_be_is_told_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    for (stage, wanted) in [
        ("kind = \"tokenizer\"", "at least one input, or read from `file`"),
        ("kind = \"tokenizer\", input = \"lang\", weights = { web = 2 }", "`web`, which is no input"),
        ("kind = \"tokenizer\", input = \"lang\", superword_vocab_size = 500", "expected more than vocab_size = 32768"),
        ("kind = \"tokenizer\", input = \"lang\", superword_max_words = 3", "means nothing without"),
        ("kind = \"tokenizer\", input = \"lang\", file = \"none.json\"", "there is no file"),
        ("kind = \"tokenizer\", file = \"none.json\", split = \"gpt2\"", "the tokenizer in `file` has it already"),
        ("kind = \"tokenizer\", input = \"lang\", split = \"(\"", "split"),
    ] {
        let path = manifest(folder.path(), &text(&format!("t = {{ {stage} }}")));
        let said = fails_with(&["check", arg(&path)], 2);
        assert!(said.contains(wanted), "{stage}: {said}");
    }
}
