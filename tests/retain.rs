//! `retain = "verdicts"`: documents go once all that read them are committed, nothing is made again because of it, and what needs them
//! again gets the same bytes.

use crate::support::{arg, fails_with, gristmill, manifest, run, stdout, text};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// Web pages of `n` words for n in 1 to 30.
fn stages(folder: &Path, least: u32, retain: &str) -> PathBuf {
    let lines: String = (1..=30)
        .map(|n| {
            serde_json::json!({ "text": format!("the words of a page that have to be {}", "enough ".repeat(n)) })
                .to_string()
                + "\n"
        })
        .collect();
    std::fs::write(folder.join("web.jsonl"), lines).unwrap();
    manifest(
        folder,
        &format!(
            "name = \"lean\"\n[stage]\nweb = {{ kind = \"ingest\", source = \"web.jsonl\"{retain} }}\n\
             clean = {{ kind = \"edit\", input = \"web\", steps = [\"unicode\"]{retain} }}\n\
             good = {{ kind = \"filter\", input = \"clean\", rules = {{ \"gopher_quality.min_words\" = {least} }} }}\n\
             counts = {{ kind = \"stats\", input = \"good\", by = [\"domain\"] }}\n"
        ),
    )
}

const VERDICTS: &str = ", retain = \"verdicts\"";

fn parts(run: &Path, stage: &str) -> usize {
    let files = std::fs::read_dir(run.join(stage)).unwrap().flatten();
    files.filter(|f| f.file_name().to_string_lossy().starts_with("part-")).count()
}

fn mill(path: &Path, root: &Path) -> String {
    let said = run(&["run", arg(path), "--root", arg(root), "--threads", "2"]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    text(&said.stderr)
}

#[test]
fn documents_go_when_their_readers_are_done_and_come_back_when_they_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (kept_root, lean_root) = (folder.path().join("kept"), folder.path().join("lean"));
    mill(&stages(folder.path(), 20, ""), &kept_root);
    let digests = stdout(&["verify", arg(&kept_root.join("lean"))]);
    let path = stages(folder.path(), 20, VERDICTS);
    mill(&path, &lean_root);
    let at = lean_root.join("lean");
    assert_eq!(["web", "clean", "good"].map(|stage| parts(&at, stage)), [0, 0, 1]);

    // Nothing is damaged, nothing runs again, and everybody says what is gone.
    let verified = run(&["verify", arg(&at)]);
    assert_eq!(text(&verified.stdout), digests);
    assert!(text(&verified.stderr).contains("the documents of `clean` were dropped"), "{}", text(&verified.stderr));
    assert!(mill(&path, &lean_root).contains("0 stages run, 4 cached"));
    let plan = stdout(&["plan", arg(&path), "--root", arg(&lean_root)]);
    assert_eq!(plan.matches("cached").count(), 4, "{plan}");
    assert_eq!(plan.matches("its documents were dropped (retain)").count(), 2, "{plan}");
    let said = fails_with(&["sql", arg(&at), "SELECT count(*) FROM clean"], 1);
    assert!(said.contains("the documents of `clean` were dropped") && said.contains("ask clean_verdicts"), "{said}");
    let ask = |query: &str| stdout(&["sql", arg(&at), query, "--format", "csv"]);
    assert_eq!(ask("SELECT count(*) FROM clean_verdicts"), "count(*)\n30\n");
    assert_eq!(
        ask("SELECT name, documents FROM stages WHERE documents = 'dropped' ORDER BY name"),
        "name,documents\nclean,dropped\nweb,dropped\n"
    );
    assert_eq!(
        ask("SELECT count(*) FROM good_all WHERE status = 'dropped'"),
        ask("SELECT count(*) FROM good_verdicts WHERE status = 'dropped'")
    );
    let id = ask("SELECT min(id) FROM good");
    let told = stdout(&["explain", arg(&at), id.lines().nth(1).unwrap()]);
    assert!(told.contains("clean (edit, documents dropped by retain)") && told.contains("good (filter)"), "{told}");
    let gc = run(&["gc", arg(&at)]);
    assert!(text(&gc.stderr).contains("2 of the outputs that stay have verdicts alone"), "{}", text(&gc.stderr));
    assert!(text(&gc.stdout).contains("removed 0 of 4"), "{}", text(&gc.stdout));
    assert!(stdout(&["status", arg(&at)]).contains("documents dropped (retain)"));
    let diff = run(&["diff", arg(&kept_root.join("lean")), arg(&at)]);
    assert!(diff.status.success(), "{}", text(&diff.stderr));
    let report = run(&["report", arg(&at)]);
    assert!(report.status.success(), "{}", text(&report.stderr));

    // Another threshold reads the documents again: they are made again, and go again.
    let path = stages(folder.path(), 25, VERDICTS);
    let plan = stdout(&["plan", arg(&path), "--root", arg(&lean_root)]);
    assert!(
        plan.contains("`good` reads its documents, which were dropped") && plan.contains("`clean` reads its documents"),
        "{plan}"
    );
    let said = mill(&path, &lean_root);
    assert!(said.contains("`clean` runs again: `good` reads its documents") && said.contains("4 stages run"), "{said}");
    assert_eq!(["web", "clean", "good"].map(|stage| parts(&at, stage)), [0, 0, 1]);
    mill(&stages(folder.path(), 25, ""), &kept_root);
    assert_eq!(stdout(&["verify", arg(&at)]), stdout(&["verify", arg(&kept_root.join("lean"))]));
    // And the old threshold is still a cache hit.
    assert!(mill(&stages(folder.path(), 20, VERDICTS), &lean_root).contains("0 stages run, 4 cached"));

    // Without `retain` the documents are wanted: they come back.
    let said = mill(&stages(folder.path(), 20, ""), &lean_root);
    assert!(said.contains("2 stages run, 2 cached"), "{said}");
    assert_eq!(["web", "clean", "good"].map(|stage| parts(&at, stage)), [1, 1, 1]);
    assert_eq!(stdout(&["verify", arg(&at)]), digests);
}

#[test]
fn a_kill_at_any_commit_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let path = stages(folder.path(), 20, "");
    mill(&path, &whole);
    let first = stdout(&["verify", arg(&whole.join("lean"))]);
    mill(&stages(folder.path(), 22, ""), &whole);
    let second = stdout(&["verify", arg(&whole.join("lean"))]);
    let mut killed = 0;
    for ordinal in (3..24).step_by(2) {
        let root = folder.path().join(format!("killed-{ordinal}"));
        for (least, wanted) in [(20, &first), (22, &second)] {
            let path = stages(folder.path(), least, VERDICTS);
            let run = ["run", arg(&path), "--root", arg(&root)];
            let said = gristmill(&run).env("GRISTMILL_FAIL", format!("commit:{ordinal}")).output().unwrap();
            killed += usize::from(said.status.signal() == Some(9));
            mill(&path, &root);
            assert_eq!(&stdout(&["verify", arg(&root.join("lean"))]), wanted, "killed before commit {ordinal}");
            assert_eq!(parts(&root.join("lean"), "clean"), 0);
        }
    }
    assert!(killed > 10, "{killed}");
}

#[test]
fn retaining_verdicts_needs_verdicts_and_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = stages(folder.path(), 20, VERDICTS);
    let whole = std::fs::read_to_string(&path).unwrap();
    for (from, to, wanted) in [
        (
            "by = [\"domain\"]",
            "by = [\"domain\"], retain = \"verdicts\"",
            "`retain` in stage `counts`: a stage of kind stats makes no verdicts",
        ),
        (
            "= 20 }",
            "= 20 }, retain = \"verdict\"",
            "`retain` in stage `good`: expected \"all\" or \"verdicts\", got verdict",
        ),
        ("counts = {", "# counts = {", ""),
    ] {
        let mut changed = whole.replacen(from, to, 1);
        if wanted.is_empty() {
            changed = changed.replace("= 20 }", "= 20 }, retain = \"verdicts\"");
        }
        std::fs::write(&path, changed).unwrap();
        let said = fails_with(&["check", arg(&path)], 2);
        let wanted = if wanted.is_empty() { "no stage reads `good`" } else { wanted };
        assert!(said.contains(wanted) && said.contains("hint:"), "{said}");
    }
}
