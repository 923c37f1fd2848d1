//! What may change between two runs without a byte of the output changing, and what may not: how often to checkpoint, and functions whose
//! values change from call to call.

use crate::support::{arg, fails_with, gristmill, manifest, run, stdout, text};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const MICRO: &str = "tests/micro.toml";

/// The line of one stage in what `verify` says.
fn digest(root: &Path, stage: &str) -> String {
    let all = stdout(&["verify", arg(&root.join("micro"))]);
    all.lines().find(|line| line.starts_with(&format!("{stage} "))).expect("it was run").to_string()
}

#[test]
fn another_checkpoint_interval_is_a_cache_hit_and_a_killed_run_goes_on_with_it() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    stdout(&["run", MICRO, "--root", arg(whole.path()), "--only", "base"]);
    let expected = digest(whole.path(), "base");
    let other = ["run", MICRO, "--root", arg(whole.path()), "--only", "base", "--set", "base.checkpoint_every=2"];
    let said = run(&other);
    assert!(text(&said.stderr).contains("0 stages run"), "{}", text(&said.stderr));

    stdout(&["run", MICRO, "--root", arg(killed.path()), "--only", "shards"]);
    // Killed behind a checkpoint, and again behind another one of the other interval.
    let mut behind_a_checkpoint = 0;
    for (ordinal, every) in [(3, "1"), (4, "2"), (3, "3")] {
        let set = format!("base.checkpoint_every={every}");
        let arguments = ["run", MICRO, "--root", arg(killed.path()), "--only", "base", "--set", &set];
        let said = gristmill(&arguments).env("GRISTMILL_FAIL", format!("commit:{ordinal}")).output().unwrap();
        if said.status.signal() == Some(9) {
            let store = std::fs::read_dir(killed.path().join("micro/.store")).unwrap().flatten();
            behind_a_checkpoint += store.filter(|entry| entry.path().join("fragments/checkpoints").is_dir()).count();
        }
    }
    assert!(behind_a_checkpoint > 0);
    stdout(&["run", MICRO, "--root", arg(killed.path()), "--only", "base", "--set", "base.checkpoint_every=5"]);
    assert_eq!(digest(killed.path(), "base"), expected);
}

#[test]
fn functions_whose_values_change_are_refused_wherever_sql_is_written() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.jsonl"), "{\"text\": \"a text\"}\n").unwrap();
    for (stage, wanted) in [
        (
            "{ kind = \"filter\", input = \"web\", where = \"text_bytes > 1 AND random() < 0.5\" }",
            "`where` in stage `s`: it uses `random`, whose value changes from call to call",
        ),
        ("{ kind = \"filter\", input = \"web\", where = \"now() > TIMESTAMP '2020-01-01'\" }", "it uses `now`"),
        ("{ kind = \"filter\", input = \"web\", where = \"length(uuid()) = 36\" }", "it uses `uuid`"),
        ("{ kind = \"dedup\", input = \"web\", survivor = \"random()\" }", "`survivor` in stage `s`: it uses `random`"),
        ("{ kind = \"dedup\", input = \"web\", survivor = \"length(concat(text, uuid()))\" }", "it uses `uuid`"),
        ("{ kind = \"sql\", input = \"web\", query = \"SELECT id, random() AS r FROM web\" }", "it uses `random`"),
        ("{ kind = \"sql\", input = \"web\", query = \"SELECT id, id FROM web\" }", "gives two columns the name `id`"),
        (
            "{ kind = \"sql\", input = \"web\", query = \"SELECT id, text AS id FROM web\" }",
            "gives two columns the name `id`",
        ),
    ] {
        let stage = stage.replace("text_bytes", "octet_length(text)");
        let path = manifest(
            folder.path(),
            &format!(
                "name = \"volatile\"\n[stage]\nweb = {{ kind = \"ingest\", source = \"web.jsonl\" }}\ns = {stage}\n"
            ),
        );
        let said = fails_with(&["check", arg(&path)], 2);
        let wanted = if stage.contains("SELECT id, random") { "the query uses `random`" } else { wanted };
        assert!(said.contains(wanted) && said.contains("hint:"), "{stage}: {said}");
    }
}
