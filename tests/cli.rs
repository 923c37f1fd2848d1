//! Manifests and arguments: every fault at once, with its line and a way out; help that shows examples.

use crate::support::{arg, fails_with, gristmill, manifest, root, run, stdout, text};

#[test]
fn every_fault_of_a_manifest_is_told_at_once_with_line_and_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = manifest(
        folder.path(),
        r#"name = "faulty"
sead = 1
[stage.crawl]
kind = "ingest"
source = "nowhere/*.warc.gz"
[stage.text]
kind = "extract"
input = "crowl"
[stage.unique]
kind = "dedup"
input = "text"
bandz = 14
ngram = "five"
[stage.lang]
kind = "langage"
input = "text"
[stage.bpe]
kind = "tokenizer"
input = "text"
[stage.shards]
kind = "tokenize"
input = "bpe"
"#,
    );
    let said = fails_with(&["check", arg(&path)], 2);
    for part in [
        "test.toml:2",
        "did you mean `seed`?",
        "test.toml:5",
        "no file matches \"nowhere/*.warc.gz\"",
        "test.toml:8",
        "did you mean `crawl`?",
        "test.toml:12",
        "unknown field `bandz` in stage `unique`",
        "did you mean `bands`?",
        "test.toml:13",
        "`ngram` in stage `unique`",
        "test.toml:15",
        "did you mean `language`?",
        "test.toml:22",
        "stage `shards` needs a table from `bpe`, which (kind tokenizer) makes a tokenizer",
        "needs `tokenizer`",
        "nothing was started",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn a_circle_of_stages_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = manifest(
        folder.path(),
        "name = \"circle\"\n[stage]\na = { kind = \"sql\", input = \"b\", query = \"SELECT 1\" }\nb = { kind = \"sql\", input = \"a\", query = \"SELECT 1\" }\n",
    );
    let said = fails_with(&["check", arg(&path)], 2);
    assert!(said.contains("the stages go in a circle: a reads b reads a"), "{said}");
}

#[test]
fn a_manifest_that_is_no_toml_points_at_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = manifest(folder.path(), "name = \"x\"\n[stage\n");
    assert!(fails_with(&["check", arg(&path)], 2).contains("test.toml:2"));
    assert!(fails_with(&["check", "no/such.toml"], 2).contains("hint:"));
    let path = manifest(folder.path(), "");
    assert!(fails_with(&["check", arg(&path)], 2).contains("has no `name`"));
}

#[test]
fn overrides_reach_the_stage_and_wrong_ones_are_told() {
    assert!(
        fails_with(&["check", "tests/micro.toml", "--set", "lng.keep=[\"de\"]"], 2)
            .contains("did you mean stage `lang`?")
    );
    assert!(fails_with(&["check", "tests/micro.toml", "--set", "lang.min_score=7"], 2).contains("expected 0 to 1"));
    stdout(&["check", "tests/micro.toml", "--set", "lang.keep=[\"de\"]"]);
}

#[test]
fn every_manifest_in_the_repository_has_no_faults() {
    let names = std::fs::read_dir(root().join("manifests")).unwrap().flatten().map(|e| e.path());
    let mut checked = 0;
    for path in names.filter(|p| p.extension().is_some_and(|e| e == "toml")) {
        // Some read data that a person must fetch first: those say so in their first lines.
        if std::fs::read_to_string(&path).unwrap().contains("# Needs:") {
            continue;
        }
        stdout(&["check", arg(&path)]);
        checked += 1;
    }
    assert!(checked >= 1);
}

#[test]
fn the_reference_beside_the_manifests_is_the_one_the_program_prints() {
    let kept = std::fs::read_to_string(root().join("manifests/REFERENCE.md")).unwrap();
    assert!(
        stdout(&["schema", "--markdown"]) == kept,
        "the reference is out of date: run  gristmill schema --markdown > manifests/REFERENCE.md"
    );
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["schema"])).unwrap();
    assert_eq!(schema["$defs"]["stage_dedup"]["properties"]["kind"]["const"], "dedup");
}

#[test]
fn every_command_explains_itself_with_an_example() {
    let help = stdout(&["--help"]);
    for command in [
        "init",
        "run",
        "check",
        "plan",
        "status",
        "sql",
        "explain",
        "trace",
        "verify",
        "report",
        "chat",
        "gc",
        "rm",
        "schema",
        "completions",
    ] {
        assert!(help.contains(command), "no {command} in the help");
        assert!(stdout(&[command, "--help"]).contains("Example"), "no example for {command}");
    }
    assert!(stdout(&["completions", "bash"]).contains("gristmill"));
    fails_with(&["rum"], 2);
}

#[test]
fn init_writes_a_manifest_that_check_understands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    stdout(&["init", arg(&path), "--source", "*.warc.gz"]);
    assert!(fails_with(&["check", arg(&path)], 2).contains("no file matches \"*.warc.gz\""));
    std::fs::copy(root().join("tests/fixtures/micro/a.warc.gz"), folder.path().join("a.warc.gz")).unwrap();
    stdout(&["check", arg(&path)]);
    fails_with(&["init", arg(&path)], 2);
}

#[test]
fn a_second_run_on_the_same_root_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let run_folder = folder.path().join("micro");
    std::fs::create_dir_all(&run_folder).unwrap();
    let lock = pipeline::store::lock::acquire(&run_folder).unwrap();
    let said = fails_with(&["run", "tests/micro.toml", "--root", arg(folder.path())], 5);
    assert!(said.contains("in use by process") && said.contains(&std::process::id().to_string()), "{said}");
    drop(lock);
    let said = run(&["run", "tests/micro.toml", "--root", arg(folder.path()), "--only", "crawl"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
}

#[test]
fn asked_to_stop_it_stops_with_code_five_and_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["run", "tests/micro.toml", "--root", arg(folder.path()), "--set", "base.budget_tokens=51200000"];
    let mut child = gristmill(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    let base = folder.path().join("micro/shards");
    while !base.exists() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    std::thread::sleep(std::time::Duration::from_millis(500));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    let said = run(&["run", "tests/micro.toml", "--root", arg(folder.path()), "--only", "shards"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
}

/// What a `sql` stage with this query says when it runs over three documents.
fn ask(folder: &std::path::Path, query: &str) -> std::process::Output {
    let lines = "{\"text\": \"b\"}\n{\"text\": \"a\"}\n{\"text\": \"a\"}\n";
    std::fs::write(folder.join("three.jsonl"), lines).unwrap();
    let text = format!(
        "name = \"ask\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"three.jsonl\" }}\n\
         answer = {{ kind = \"sql\", input = \"crawl\", query = \"{query}\" }}\n"
    );
    run(&["run", arg(&manifest(folder, &text)), "--root", arg(folder)])
}

#[test]
fn what_a_stopped_run_made_anew_is_told_where_it_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ask(folder.path(), "SELECT id FROM crawl").status.success());
    let status = |part: bool| {
        let said = run(&["status", arg(&folder.path().join("ask"))]);
        assert!(said.status.success() && text(&said.stderr).contains("made anew (crawl)") == part, "{said:?}");
    };
    status(false);
    // The crawl grows, and the query on it fails as it runs.
    let lines = "{\"text\":\"a\"}\n{\"text\":\"\u{e9}\"}\n";
    std::fs::write(folder.path().join("three.jsonl"), lines).unwrap();
    let failing = "name = \"ask\"\n[stage]\ncrawl = { kind = \"ingest\", source = \"three.jsonl\" }\n\
                   answer = { kind = \"sql\", input = \"crawl\", query = \"SELECT id, CAST(text AS INT) AS n FROM crawl\" }\n";
    let said = run(&["run", arg(&manifest(folder.path(), failing)), "--root", arg(folder.path())]);
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    status(true);
    // A run of a part that ends records that part; what it left out stays in the folder and is not newer.
    let path = folder.path().join("test.toml");
    let again = ["run", arg(&path), "--root", arg(folder.path()), "--only", "crawl"];
    assert!(run(&again).status.success());
    status(false);
}

#[test]
fn a_model_that_no_memory_holds_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = root().join("manifests/quickstart.toml");
    let (folder, set) = (arg(folder.path()), "base.depth=3000");
    let set = ["--set", set, "--set", "base.n_embd=65536", "--set", "base.n_head=512", "--set", "base.n_ffn=65536"];
    let said = run(&[&["run", arg(&manifest), "--root", folder][..], &set].concat());
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    assert!(text(&said.stderr).contains("stage `base` trains"), "{said:?}");
}

#[test]
fn a_sql_stage_refuses_what_depends_on_the_order_of_rows_or_on_the_moment() {
    let folder = tempfile::tempdir().unwrap();
    for (query, part) in [
        ("SELECT array_agg(text) AS t FROM crawl", "array_agg(… ORDER BY id)"),
        ("SELECT first_value(text) AS t FROM crawl", "first_value"),
        ("SELECT approx_median(length(text)) AS t FROM crawl", "use median(x)"),
        ("SELECT any_value(text) AS t FROM crawl", "first_value(x ORDER BY id)"),
        ("SELECT regr_slope(length(id), length(text)) AS t FROM crawl", "covar_pop(y, x) / var_pop(x)"),
        ("SELECT DISTINCT ON (text) text, id FROM crawl", "group by these columns"),
        ("SELECT id, row_number() OVER (PARTITION BY text) AS r FROM crawl", "in no order"),
        ("SELECT id, last_value(id) OVER (ORDER BY text) AS r FROM crawl", "ROWS BETWEEN"),
        ("SELECT id FROM crawl LIMIT 1", "ORDER BY"),
        ("SELECT id FROM (SELECT id FROM crawl LIMIT 2) ORDER BY id", "ORDER BY"),
        ("SELECT id, random() AS r FROM crawl", "random"),
        ("SELECT id, version() AS v FROM crawl", "changes with the program"),
        ("SELECT table_name FROM information_schema.tables", "the engine's own catalogue"),
        ("SELECT id, interval '1 day' AS d FROM crawl", "is an interval"),
        ("SELECT id, row_number() OVER (ORDER BY id) AS r FROM crawl", "unbounded = true"),
        ("SELECT a.id FROM crawl a, crawl b WHERE a.id < b.id", "unbounded = true"),
        ("DROP TABLE crawl", "error"),
    ] {
        let said = ask(folder.path(), query);
        assert_eq!(said.status.code(), Some(2), "{query}: {}", text(&said.stderr));
        assert!(text(&said.stderr).contains(part), "{query}: {}", text(&said.stderr));
    }
    for query in [
        "SELECT array_agg(text ORDER BY id) AS t FROM crawl",
        "SELECT a.id FROM crawl a, crawl b WHERE a.id = b.id",
        "SELECT id FROM crawl WHERE length(text) = (SELECT max(length(text)) FROM crawl)",
        "SELECT text, id FROM crawl ORDER BY text LIMIT 2",
    ] {
        let said = ask(folder.path(), query);
        assert!(said.status.success(), "{query}: {}", text(&said.stderr));
    }
    // Rows that ORDER BY calls equal come in order of id.
    let rows = "SELECT (SELECT count(*) FROM answer) = 2 AND (SELECT min(id) FROM crawl WHERE text = 'a') = \
                (SELECT id FROM answer LIMIT 1) AS ok";
    assert!(stdout(&["sql", arg(&folder.path().join("ask")), rows, "--format", "csv"]).ends_with("true\n"));
}

#[test]
fn rm_removes_a_stage_with_all_that_was_made_from_it_or_the_whole_run() {
    let folder = tempfile::tempdir().unwrap();
    assert!(ask(folder.path(), "SELECT id FROM crawl").status.success());
    let run_folder = folder.path().join("ask");
    assert!(stdout(&["rm", arg(&run_folder), "crawl", "--dry-run"]).contains("would remove crawl answer"));
    assert!(fails_with(&["rm", arg(&run_folder), "anser"], 2).contains("did you mean `answer`?"));
    assert!(stdout(&["rm", arg(&run_folder), "answer"]).contains("removed answer"));
    assert!(run_folder.join("crawl").exists() && !run_folder.join("answer").is_symlink());
    assert!(!stdout(&["verify", arg(&run_folder)]).contains("answer"));
    let again = ask(folder.path(), "SELECT id FROM crawl");
    assert!(text(&again.stderr).contains("1 stages run, 1 cached"), "{}", text(&again.stderr));
    stdout(&["rm", arg(&run_folder)]);
    assert!(!run_folder.exists());
}

#[test]
fn the_controls_share_every_stage_they_have_in_common_with_the_quickstart() {
    let read = |name: &str| -> toml::Table {
        toml::from_str(&std::fs::read_to_string(root().join("manifests").join(name)).unwrap()).unwrap()
    };
    let (quickstart, controls) = (read("quickstart.toml"), read("controls.toml"));
    let mut shared = 0;
    for (name, stage) in controls["stage"].as_table().unwrap() {
        if let Some(original) = quickstart["stage"].get(name) {
            assert_eq!(stage, original, "stage {name}");
            shared += 1;
        }
    }
    assert!(shared >= 18, "{shared}");
}
