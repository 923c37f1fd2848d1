//! The commands that look at a run or talk to it: what they print, where it goes, and how they end.

use crate::support::{arg, fails_with, gristmill, manifest, root, run, stdout, text};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

/// A whole run of the micro mill.
fn micro(folder: &Path) -> PathBuf {
    let said = run(&["run", "tests/micro.toml", "--root", arg(folder)]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    folder.join("micro")
}

/// What a call says when it reads `input`.
fn fed(arguments: &[&str], input: &[u8]) -> Output {
    let mut child =
        gristmill(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn first_id(run_folder: &Path, query: &str) -> String {
    stdout(&["sql", arg(run_folder), query, "--format", "csv"]).lines().last().unwrap().to_string()
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"))
}

#[test]
fn a_full_device_ends_every_command_with_code_four_and_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let mill = micro(folder.path());
    let mill = arg(&mill);
    let id = first_id(Path::new(mill), "SELECT id FROM unique ORDER BY id LIMIT 1");
    let place = ["tests/micro.toml", "--root", arg(folder.path())];
    for arguments in [
        &["status", mill][..],
        &["explain", mill, &id],
        &["verify", mill],
        &["diff", mill, mill],
        &["plan", place[0], place[1], place[2]],
        &["check", place[0], place[1], place[2]],
        &["trace", mill, "--step", "1"],
        &["schema"],
        &["schema", "--markdown"],
        &["completions", "bash"],
        &["sql", mill, "SELECT 1"],
        &["gc", mill, "--dry-run"],
        &["status", mill, "--json"],
        &["--help"],
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let said = gristmill(arguments).stdout(full).output().unwrap();
        let stderr = text(&said.stderr);
        assert_eq!(said.status.code(), Some(4), "{arguments:?}: {stderr}");
        assert!(stderr.contains("hint:") && !stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    chat_answers_line_by_line(mill);
    status_tells_parameters_and_small_sizes(folder.path(), mill);
    explain_begins_with_the_outcome(mill);
}

fn chat_answers_line_by_line(mill: &str) {
    let mut lines = b"which?\n\n\xff\xfe\n".to_vec();
    lines.extend("word ".repeat(300).bytes());
    lines.extend(b"\nlast without a break");
    let said = fed(&["chat", mill, "--single", "--max-tokens", "4"], &lines);
    let (answers, told) = (said.stdout, text(&said.stderr));
    assert_eq!(said.status.code(), Some(3), "{told}");
    assert_eq!(answers.iter().filter(|b| **b == b'\n').count(), 5, "{}", text(&answers));
    assert!(told.contains("line 3: invalid UTF-8") && told.contains("line 4: it is"), "{told}");
    assert!(told.contains("2 of 5 lines got no answer") && told.contains("hint:"), "{told}");
    let said = fails_with(&["chat", mill, "--temperature", "-1"], 2);
    assert!(said.contains("temperature") && !said.contains("unexpected argument"), "{said}");
    assert!(fails_with(&["chat", mill, "--stage", "bas"], 2).contains("--stage base"));
}

fn status_tells_parameters_and_small_sizes(folder: &Path, mill: &str) {
    let status = stdout(&["status", mill]);
    let line = |name: &str| status.lines().find(|l| l.starts_with(name)).unwrap().to_string();
    assert!(line("base").contains("parameters") && !line("bpe").contains("rows"), "{status}");
    assert!(line("unique").contains("rows") && line("unique").contains("KB"), "{status}");
    let again = run(&["run", "tests/micro.toml", "--root", arg(folder), "--memory-limit", "512MB"]);
    let told = text(&again.stderr);
    assert!(told.contains("base         cached\n") && told.contains("unique       cached ("), "{told}");
    let said = fails_with(&["run", "tests/micro.toml", "--root", arg(folder), "--memory-limit", "0"], 2);
    assert!(said.contains("more than 0 bytes"), "{said}");
    let traced = stdout(&["trace", mill, "--stage", "dpo", "--step", "1"]);
    assert!(!traced.contains("window") && !traced.contains('+') && traced.lines().count() > 1, "{traced}");
}

fn explain_begins_with_the_outcome(mill: &str) {
    let id = first_id(Path::new(mill), "SELECT id FROM quality_verdicts WHERE status = 'dropped' ORDER BY id LIMIT 1");
    let told = stdout(&["explain", mill, &id[..8].to_uppercase()]);
    let first = told.lines().next().unwrap();
    assert!(first.starts_with(&id) && first.contains("dropped in `quality`: gopher_quality."), "{told}");
    assert_eq!(told.matches("url=").count(), 1, "a column that did not change is shown again in\n{told}");
    let id = first_id(Path::new(mill), "SELECT id FROM shards WHERE stage = 'unique' ORDER BY id LIMIT 1");
    assert!(stdout(&["explain", mill, &id]).lines().next().unwrap().contains("kept to `shards`: "));
    assert!(fails_with(&["explain", mill, &id[..5]], 2).contains("first 6 or more"));
    assert!(fails_with(&["explain", mill, "ffffffff"], 2).contains("no id"));
}

#[test]
fn verify_reads_every_stage_and_names_all_that_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(&["run", "tests/micro.toml", "--root", arg(folder.path()), "--only", "unique"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let mill = folder.path().join("micro");
    std::fs::write(mill.join("lang").join("notes.txt"), "mine").unwrap();
    let said = run(&["verify", arg(&mill)]);
    let told = text(&said.stderr);
    assert!(said.status.success() && told.contains("notes.txt is in no receipt"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");

    let flipped = mill.join("text").join("part-00000.parquet");
    let mut bytes = std::fs::read(&flipped).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    std::fs::remove_file(mill.join("quality").join("part-00000.parquet")).unwrap();
    let said = run(&["verify", arg(&mill)]);
    let (sound, told) = (text(&said.stdout), text(&said.stderr));
    assert_eq!(said.status.code(), Some(6), "{told}");
    let names: Vec<&str> = sound.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["crawl", "lang", "unique"]);
    for part in ["  text: ", "  quality: ", "part-00000.parquet is missing", "2 of 5 stages", "hint:", "rm "] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    let said = text(&run(&["verify", arg(&mill), "--json"]).stdout);
    let mut objects = said.lines().map(object);
    assert_eq!(objects.next().unwrap()["damaged"].as_array().unwrap().len(), 2);
    let fault = objects.next().unwrap();
    assert_eq!(fault["exit_code"], 6);
    assert!(fault["hint"].as_str().unwrap().contains("gristmill rm"), "{fault}");

    std::fs::write(mill.join(".store").join("stray"), "x").unwrap();
    let said = run(&["gc", arg(&mill)]);
    assert!(said.status.success() && text(&said.stderr).contains("stray"), "{}", text(&said.stderr));
    assert!(fails_with(&["chat", arg(&mill)], 2).contains("`pretrain`"));
}

#[test]
fn ablate_says_what_cannot_be_compared_before_it_trains() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..4).map(|i| format!("{{\"text\": \"some words number {i}\"}}\n")).collect();
    std::fs::write(folder.path().join("web.jsonl"), lines).unwrap();
    let path = manifest(
        folder.path(),
        "name = \"ab\"\n[stage]\nweb = { kind = \"ingest\", source = \"web.jsonl\" }\n\
         good = { kind = \"filter\", input = \"web\", rules = { \"gopher_quality.min_words\" = 1 } }\n",
    );
    let call = |more: &[&str], code| {
        let mut all = vec!["ablate", arg(&path), "--root", arg(folder.path())];
        all.extend(more);
        fails_with(&all, code)
    };
    assert!(call(&["--branches", "good"], 2).contains("single branch"));
    assert!(call(&["--branches", "good,good"], 2).contains("twice"));
    assert!(call(&["--branches", "good,web", "--holdout-share", "-1"], 2).contains("expected above 0"));
    let said = call(&["--branches", "good,web", "--holdout-share", "0.0001", "--seeds", "1", "--vocab-size", "270"], 2);
    assert!(said.contains("0 held-out tokens") && said.contains("hint:") && said.contains("--holdout-share"), "{said}");
    assert!(said.contains("no noise floor") && !said.contains("pretrain"), "{said}");
}

#[test]
fn sql_writes_files_by_their_extension_and_takes_scripts() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.jsonl"), "{\"text\": \"a, b\"}\n{\"text\": \"c\"}\n").unwrap();
    let path = manifest(folder.path(), "name = \"s\"\n[stage]\nweb = { kind = \"ingest\", source = \"web.jsonl\" }\n");
    assert!(run(&["run", arg(&path), "--root", arg(folder.path())]).status.success());
    let mill = folder.path().join("s");
    let mill = arg(&mill);
    let query = "SELECT text, make_array(1, 2) AS list FROM web ORDER BY text";
    let write = |name: &str, more: &[&str]| {
        let file = folder.path().join(name);
        let mut all = vec!["sql", mill, query, "--output", arg(&file)];
        all.extend(more);
        let said = run(&all);
        assert!(said.status.success(), "{}", text(&said.stderr));
        assert!(text(&said.stderr).contains("2 rows to "), "{}", text(&said.stderr));
        (std::fs::read(&file).unwrap(), text(&said.stdout))
    };
    assert_eq!(text(&write("o.csv", &[]).0), "text,list\n\"a, b\",\"[1,2]\"\nc,\"[1,2]\"\n");
    assert_eq!(object(&text(&write("o.json", &[]).0)).as_array().unwrap().len(), 2);
    assert_eq!(text(&write("o.jsonl", &[]).0).lines().map(object).count(), 2);
    assert!(write("o.parquet", &[]).0.starts_with(b"PAR1"));
    assert!(text(&write("o.txt", &["--format", "csv"]).0).starts_with("text,list\n"));
    let told = object(&write("o.csv", &["--json"]).1);
    assert_eq!((told["rows"].as_u64(), told["format"].as_str()), (Some(2), Some("csv")));
    let nowhere = folder.path().join("no/such/o.csv");
    let said = fails_with(&["sql", mill, query, "--output", arg(&nowhere)], 2);
    assert!(said.contains("mkdir -p") && !folder.path().join("no").exists(), "{said}");
    let said = fails_with(&["sql", mill, query, "--output", arg(&folder.path().join("o.xyz"))], 2);
    assert!(said.contains("--format csv"), "{said}");
    assert!(fails_with(&["sql", mill, "SELECT 1; SELECT 2", "--output", "o.csv"], 2).contains("one query"));

    let script =
        b"\\d\nSELECT 1 AS a; SELECT 2 AS b; -- both\n\\d web\nSELECT ';' AS c;\n\\x\nSELECT 3 AS d;\nexit\nSELECT 4";
    let said = fed(&["sql", mill], script);
    let told = text(&said.stdout);
    assert!(said.status.success(), "{}", text(&said.stderr));
    for part in ["web\n", "| 1 |", "| 2 |", "text  ", "| ; |", "-[ row 1 ]-\nd | 3\n"] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
    assert!(!told.contains("Int64(4)"), "{told}");
}

#[test]
fn init_makes_names_that_check_takes_and_says_what_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("tests/fixtures/micro/a.warc.gz"), folder.path().join("a.warc.gz")).unwrap();
    let path = folder.path().join("Ünï code 1.toml");
    let said = run(&["init", arg(&path), "--source", "*.warc.gz", "--json"]);
    assert!(said.status.success() && text(&said.stderr).contains("check '/"), "{}", text(&said.stderr));
    assert_eq!(object(&text(&said.stdout))["name"], "n_code_1");
    stdout(&["check", arg(&path)]);
    assert!(std::fs::read_to_string(&path).unwrap().contains("gristmill report"));
    let said = fails_with(&["init", arg(&path)], 2);
    assert!(said.contains("is there already") && said.contains("hint:"), "{said}");
    assert!(fails_with(&["init", arg(&folder.path().join("no/x.toml"))], 2).contains("mkdir -p"));
}

#[test]
fn with_json_every_error_is_an_object_with_its_way_out() {
    for arguments in [&["check", "no/such.toml", "--json"][..], &["--json", "status", "no-run"], &["rum", "--json"]] {
        let said = run(arguments);
        assert_eq!(said.status.code(), Some(2), "{arguments:?}");
        let shown = object(&text(&said.stdout));
        assert_eq!(shown["exit_code"], 2, "{shown}");
        assert!(!shown["error"].as_str().unwrap().starts_with("error"), "{shown}");
        assert!(shown["hint"].is_string(), "{shown}");
    }
}

#[test]
fn diff_tells_rows_that_only_one_run_read_from_rows_that_were_dropped() {
    let runs = ["{\"text\": \"one\"}\n{\"text\": \"two\"}\n", "{\"text\": \"one\"}\n"].map(|lines| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web.jsonl"), lines).unwrap();
        let path =
            manifest(folder.path(), "name = \"d\"\n[stage]\nweb = { kind = \"ingest\", source = \"web.jsonl\" }\n");
        assert!(run(&["run", arg(&path), "--root", arg(folder.path())]).status.success());
        folder
    });
    let [a, b] = [runs[0].path().join("d"), runs[1].path().join("d")];
    let told = stdout(&["diff", arg(&a), arg(&b)]);
    assert!(told.contains("1  in files or records that only the first run read"), "{told}");
    let told = stdout(&["diff", arg(&b), arg(&a)]);
    assert!(told.contains("1  in files or records that only the second run read"), "{told}");
}
