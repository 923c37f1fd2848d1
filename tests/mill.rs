//! The whole mill on twenty documents: the same bytes at any number of threads, cached when nothing changed, and every
//! command over the result.

use crate::support::{arg, fails_with, run, stdout, text};
use std::path::Path;

const MICRO: &str = "tests/micro.toml";

fn digests(root: &Path, threads: &str) -> String {
    let said = run(&["run", MICRO, "--root", arg(root), "--threads", threads]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    stdout(&["verify", arg(&root.join("micro"))])
}

#[test]
fn one_and_two_threads_give_the_same_digest_for_every_stage_and_every_command_reads_the_result() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = digests(one.path(), "1");
    assert_eq!(first, digests(two.path(), "2"));
    assert_eq!(first.lines().count(), 29, "{first}");
    the_data_half_has_the_bytes_of_its_versions(&first);

    let run_folder = one.path().join("micro");
    let root = arg(one.path());
    let again = run(&["run", MICRO, "--root", root]);
    assert!(text(&again.stderr).contains("0 stages run, 29 cached"), "{}", text(&again.stderr));

    nothing_is_lost(&run_folder);
    plans_name_the_changed_field(root);
    lineage_goes_both_ways(&run_folder);
    the_report_is_one_file(&run_folder);
    the_export_is_a_hugging_face_folder(&run_folder);
    a_run_that_never_came_to_its_end_is_read_in_plan_order(&run_folder, &first);
    damage_is_found(&run_folder);
}

/// Every stage of the data half gives the bytes committed for the VERSION of its kind, on any machine.
fn the_data_half_has_the_bytes_of_its_versions(digests: &str) {
    let path = crate::support::root().join("tests/fixtures/micro/digests.txt");
    let micro: toml::Table =
        toml::from_str(&std::fs::read_to_string(crate::support::root().join(MICRO)).unwrap()).unwrap();
    let mut found = String::new();
    for line in digests.lines() {
        let (stage, digest) = line.split_once(' ').unwrap();
        let kind = pipeline::manifest::kinds::info(micro["stage"][stage]["kind"].as_str().unwrap()).unwrap();
        let model_half = ["pretrain", "sft", "rollout", "verdict", "pairs", "preference", "grpo", "eval", "export"];
        if !model_half.contains(&kind.name) {
            found += &format!("{stage} {} version {} {digest}\n", kind.name, kind.version);
        }
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        found,
        "a stage's bytes changed: raise the version of its kind in manifest/kinds.rs and write these lines to digests.txt"
    );
}

fn sql(run_folder: &Path, query: &str) -> String {
    stdout(&["sql", arg(run_folder), query, "--format", "csv"])
}

/// Every record has a verdict, in every stage that can lose one.
fn nothing_is_lost(run_folder: &Path) {
    let counts = sql(
        run_folder,
        "SELECT status, rule, count(*) FROM crawl_verdicts GROUP BY status, rule ORDER BY status, rule",
    );
    assert!(counts.contains("kept,,19") && counts.contains("dropped,ingest.http_status,1"), "{counts}");
    for (stage, input) in [("text", "crawl"), ("lang", "text"), ("quality", "lang"), ("unique", "quality")] {
        let query = format!(
            "SELECT (SELECT count(*) FROM {input}) = (SELECT count(*) FROM {stage}_verdicts) AS a, \
             (SELECT count(*) FROM {stage}) = (SELECT count(*) FROM {stage}_verdicts WHERE status = 'kept') AS b"
        );
        assert!(sql(run_folder, &query).ends_with("true,true\n"), "{stage}");
    }
    let german = sql(run_folder, "SELECT count(*) FROM lang_all WHERE status = 'dropped' AND language = 'de'");
    assert!(german.ends_with("\n3\n"), "{german}");
    let twice =
        sql(run_folder, "SELECT count(*) FROM unique_verdicts WHERE status = 'dropped' AND kept_id IS NOT NULL");
    assert!(twice.trim_end().lines().last().unwrap().parse::<u64>().unwrap() >= 1, "{twice}");
    for refused in
        ["CREATE TABLE t AS SELECT 1", "COPY unique TO '/tmp/x.parquet'", "SET datafusion.execution.batch_size = 1"]
    {
        let said = run(&["sql", arg(run_folder), refused]);
        assert!(!said.status.success(), "{refused} was allowed");
    }
}

fn plans_name_the_changed_field(root: &str) {
    let plan = stdout(&["plan", MICRO, "--root", root]);
    assert!(!plan.contains(" run "), "{plan}");
    let plan = stdout(&["plan", MICRO, "--root", root, "--set", "lang.min_score=0.6"]);
    assert!(plan.contains("config.min_score: 0.5 -> 0.6"), "{plan}");
    assert!(plan.contains("`lang` runs first"), "{plan}");
    assert!(plan.lines().filter(|l| l.contains(" cached ")).count() == 2, "{plan}");
}

fn lineage_goes_both_ways(run_folder: &Path) {
    let traced = stdout(&["--json", "trace", arg(run_folder), "--step", "2"]);
    let traced: serde_json::Value = serde_json::from_str(&traced).unwrap();
    let documents = traced["documents"].as_array().unwrap();
    assert!(!documents.is_empty());
    let page = documents.iter().find(|d| d["url"].is_string());
    let id = match page {
        Some(page) => page["id"].as_str().unwrap().to_string(),
        None => sql(run_folder, "SELECT id FROM unique ORDER BY id LIMIT 1").lines().last().unwrap().to_string(),
    };
    let told = stdout(&["explain", arg(run_folder), &id]);
    for part in
        ["crawl (ingest)", "\"offset\":", "quality (filter)", "gopher_quality", "shards (tokenize)", "token_start="]
    {
        assert!(told.contains(part), "no {part} in\n{told}");
    }
    fails_with(&["explain", arg(run_folder), "no such id"], 2);
    fails_with(&["trace", arg(run_folder), "--step", "99"], 2);
    let sft = stdout(&["trace", arg(run_folder), "--stage", "sft", "--step", "1"]);
    assert!(sft.lines().count() == 17, "{sft}");
}

fn the_report_is_one_file(run_folder: &Path) {
    let said = run(&["report", arg(run_folder)]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let html = std::fs::read_to_string(run_folder.join("report.html")).unwrap();
    for part in ["ingest.http_status", "bits_per_byte", "<svg", "lang: documents by language"] {
        assert!(html.contains(part), "no {part} in the report");
    }
    for outside in ["http-equiv", "<script src", "<link", "src=\"http", "@import"] {
        assert!(!html.contains(outside), "the report asks for {outside}");
    }
}

fn the_export_is_a_hugging_face_folder(run_folder: &Path) {
    for file in
        ["config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(run_folder.join("model").join(file).is_file(), "no {file}");
    }
}

/// Revisions are written at the end: without one, links and the plan's order serve.
fn a_run_that_never_came_to_its_end_is_read_in_plan_order(run_folder: &Path, digests: &str) {
    std::fs::remove_dir_all(run_folder.join("history")).unwrap();
    assert_eq!(stdout(&["verify", arg(run_folder)]), digests);
    assert!(sql(run_folder, "SELECT count(*) FROM lang_all").ends_with("\n19\n"));
    let id = sql(run_folder, "SELECT min(id) FROM shards WHERE split = 'train' AND stage = 'unique'");
    let said = stdout(&["explain", arg(run_folder), id.lines().nth(1).unwrap(), "--forward"]);
    assert!(said.contains("base") && said.contains("grpo"), "{said}");
    let id = sql(run_folder, "SELECT min(id) FROM shards WHERE split = 'holdout' AND stage = 'unique'");
    let said = stdout(&["explain", arg(run_folder), id.lines().nth(1).unwrap(), "--forward"]);
    assert!(said.contains("bpe") && !said.contains("base"), "{said}");
}

fn damage_is_found(run_folder: &Path) {
    let part = run_folder.join("unique").join("part-00000.parquet");
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let said = fails_with(&["verify", arg(run_folder)], 6);
    assert!(said.contains("part-00000.parquet") && said.contains("hint:"), "{said}");
}
