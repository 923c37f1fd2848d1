//! Dedup by a Bloom filter: what it removes, how often it errs, and that neither threads nor kills change a byte; and stretches counted in
//! words.

use crate::support::{arg, fails_with, gristmill, manifest, stdout, text};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

/// Numbered texts, the same on every machine.
fn sentence(n: u64) -> String {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7);
    format!("Sack {n} of rye weighs {} pounds.", mixed >> 40)
}

/// Writes documents into files of `file_rows` each.
fn crawl(folder: &Path, texts: impl Iterator<Item = String>, file_rows: usize) {
    let lines: Vec<String> = texts.map(|text| serde_json::json!({ "text": text }).to_string() + "\n").collect();
    for (n, rows) in lines.chunks(file_rows).enumerate() {
        std::fs::write(folder.join(format!("rows-{n}.jsonl")), rows.concat()).unwrap();
    }
}

fn stages(options: &str) -> String {
    format!(
        "name = \"bloom\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"rows-*.jsonl\" }}\n\
         seen = {{ kind = \"dedup\", input = \"crawl\", method = \"bloom\"{options} }}\n"
    )
}

fn mill(folder: &Path, options: &str, threads: &str) -> PathBuf {
    let path = manifest(folder, &stages(options));
    stdout(&["run", arg(&path), "--root", arg(folder), "--threads", threads]);
    folder.join("bloom")
}

fn csv(run: &Path, query: &str) -> String {
    stdout(&["sql", arg(run), query, "--format", "csv"])
}

fn number(run: &Path, query: &str) -> f64 {
    csv(run, query).lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn every_repeat_goes_and_new_documents_go_as_often_as_the_stated_rate_says() {
    let folder = tempfile::tempdir().unwrap();
    const NEW: u64 = 20_000;
    const REPEATS: u64 = 500;
    crawl(folder.path(), (0..NEW).chain(0..REPEATS).map(sentence), 7_000);
    let (rate, expected) = (0.02_f64, NEW as f64);
    let run = mill(folder.path(), &format!(", false_positive_rate = {rate}, expected_items = {NEW}"), "2");
    let numbered = "(SELECT v.status, v.rule, v.method, v.false_positive_rate, v.reason, \
                    row_number() OVER (PARTITION BY c.text ORDER BY c.source['file'], c.source['offset']) AS nth \
                    FROM seen_verdicts v JOIN crawl c ON c.id = v.id)";
    let count = |what: &str| number(&run, &format!("SELECT count(*) FROM {numbered} WHERE {what}"));
    assert_eq!(count("nth > 1 AND status = 'dropped'"), REPEATS as f64);
    // Over all new ones, the rate grows from nothing to the stated one: its sum, and the stated bound, within four deviations.
    let bits = (-expected * rate.ln() / std::f64::consts::LN_2.powi(2) / 64.0).ceil() * 64.0;
    let hashes = (bits / expected * std::f64::consts::LN_2).round();
    let at = |n: u64| (1.0 - (-hashes * n as f64 / bits).exp()).powf(hashes);
    let wanted: f64 = (0..NEW).map(at).sum();
    let found = count("nth = 1 AND status = 'dropped'");
    assert!((found - wanted).abs() < 4.0 * wanted.sqrt(), "{found} against {wanted}");
    assert!(found <= expected * rate + 4.0 * (expected * rate * (1.0 - rate)).sqrt() && found > 0.0, "{found}");
    // Of the last tenth, when the filter is all but full, nearly as many as stated.
    let row = csv(
        &run,
        &format!("SELECT DISTINCT rule, method, false_positive_rate, reason FROM {numbered} WHERE status = 'dropped'"),
    );
    let wanted = "dedup.bloom,bloom,0.02,seems to repeat an earlier document; so do 2e-2 of new ones at most";
    assert_eq!(row.lines().skip(1).collect::<Vec<_>>(), [wanted]);
    let kept = csv(&run, "SELECT DISTINCT method, false_positive_rate FROM seen_verdicts WHERE status = 'kept'");
    assert_eq!(kept.lines().nth(1), Some(",0.02"));
}

#[test]
fn without_a_number_of_items_the_filter_is_made_for_all_there_are_and_too_small_a_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    crawl(folder.path(), (0..3_000).map(|n| sentence(n % 2_000)), 1_000);
    let run = mill(folder.path(), "", "1");
    assert_eq!(number(&run, "SELECT count(*) FROM seen"), 2_000.0);
    let path = manifest(folder.path(), &stages(", expected_items = 100, false_positive_rate = 0.01"));
    let said = gristmill(&["run", arg(&path), "--root", arg(folder.path())]).output().unwrap();
    let said = text(&said.stderr);
    assert!(said.contains("warning: the filter of `seen` holds") && said.contains("raise expected_items"), "{said}");
    let path = manifest(folder.path(), &stages(", expected_items = 1000000000000, false_positive_rate = 0.001"));
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path()), "--memory-limit", "64MB"], 4);
    assert!(
        said.contains("1797.2 GB") && said.contains("more than --memory-limit") && said.contains("hint:"),
        "{said}"
    );
}

#[test]
fn paragraphs_and_lines_are_cut_in_the_order_of_the_input_and_put_back_from_the_edits() {
    let folder = tempfile::tempdir().unwrap();
    let (head, foot) =
        ("A head line that every page of this site has.", "A foot line that every page of this site has.");
    let page = |n: u64| format!("{head}\n{}\n\n{foot}\n", sentence(n));
    let texts = [page(1), page(2), format!("{head}\n\n{foot}"), page(3)];
    crawl(folder.path(), texts.clone().into_iter(), 2);
    let run = mill(folder.path(), ", unit = \"line\"", "2");
    let texts_of = |run: &Path| -> Vec<String> {
        let rows = stdout(&[
            "sql",
            arg(run),
            "SELECT text FROM seen ORDER BY source['file'], source['offset']",
            "--format",
            "json",
        ]);
        rows.lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["text"].as_str().unwrap().into())
            .collect()
    };
    assert_eq!(texts_of(&run), [texts[0].clone(), sentence(2) + "\n", sentence(3) + "\n"]);
    let verdict = csv(&run, "SELECT status, rule, method FROM seen_verdicts WHERE status = 'dropped'");
    assert_eq!(verdict.lines().nth(1), Some("dropped,dedup.bloom,bloom"));
    assert_eq!(number(&run, "SELECT count(*) FROM seen_verdicts WHERE method = 'bloom' AND status = 'kept'"), 2.0);
    let edits = csv(&run, "SELECT rule, count(*), sum(octet_length(removed)) FROM seen_edits GROUP BY rule");
    assert!(edits.lines().nth(1).unwrap().starts_with("dedup.bloom,"), "{edits}");
    let run = mill(folder.path(), ", unit = \"paragraph\"", "2");
    assert_eq!(texts_of(&run)[0], texts[0]);
    assert_eq!(texts_of(&run)[1], format!("{head}\n{}", sentence(2)));
}

#[test]
fn the_bytes_are_the_same_at_any_number_of_threads_and_after_any_kill() {
    let folder = tempfile::tempdir().unwrap();
    crawl(folder.path(), (0..600).map(|n| sentence(n % 450)), 100);
    let options = ", false_positive_rate = 0.05, expected_items = 450, exact_by = [\"text\", \"url\"]";
    let digests = |root: &Path| stdout(&["verify", arg(&root.join("bloom"))]);
    let path = manifest(folder.path(), &stages(options));
    let whole = folder.path().join("whole");
    stdout(&["run", arg(&path), "--root", arg(&whole), "--threads", "1"]);
    let expected = digests(&whole);
    let several = folder.path().join("several");
    stdout(&["run", arg(&path), "--root", arg(&several), "--threads", "4"]);
    assert_eq!(digests(&several), expected);
    // The ordinals of commits at which the filter is at work, and those around.
    let mut killed = 0;
    for ordinal in (8..32).step_by(3) {
        let root = folder.path().join(format!("killed-{ordinal}"));
        let run = ["run", arg(&path), "--root", arg(&root), "--threads", "1"];
        let said = gristmill(&run).env("GRISTMILL_FAIL", format!("commit:{ordinal}")).output().unwrap();
        killed += usize::from(said.status.signal() == Some(9));
        stdout(&run);
        assert_eq!(digests(&root), expected, "killed before commit {ordinal}");
    }
    assert!(killed > 5, "{killed}");
}

#[test]
fn options_that_the_method_does_not_read_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    crawl(folder.path(), (0..2).map(sentence), 2);
    for (options, wanted) in [
        (", survivor = \"text_bytes ASC\"", "`survivor` in stage `seen`: is not for the method `bloom`"),
        (", min_bytes = 20", "`min_bytes` in stage `seen`: is for the methods `lines`"),
        (", unit = \"line\", exact_by = [\"url\"]", "`exact_by` in stage `seen`: is for methods that compare whole"),
        (", rehydrate = true", "`rehydrate` in stage `seen`: is for the methods `minhash` and `exact`"),
        (
            ", false_positive_rate = 0.7",
            "`false_positive_rate` in stage `seen`: expected above 0, at most 0.5, got 0.7",
        ),
        (", expected_items = 0", "`expected_items` in stage `seen`: expected 1 or more, got 0"),
        (", min_words = 50", "`min_words` in stage `seen`: is for the method `spans`"),
        (", unit = \"page\"", "`unit` in stage `seen`"),
    ] {
        let path = manifest(folder.path(), &stages(options));
        let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
        assert!(said.contains(wanted), "{options}: {said}");
    }
    let other = stages(", unit = \"line\"").replace("\"bloom\", unit", "\"exact\", unit");
    let path = manifest(folder.path(), &other);
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
    assert!(said.contains("`unit` in stage `seen`: is for the method `bloom`"), "{said}");
}

#[test]
fn stretches_counted_in_words_see_through_white_space() {
    let folder = tempfile::tempdir().unwrap();
    let phrase = "the miller ground rye and barley for the whole long valley";
    let wrapped = phrase.replace("and ", "and\n  ");
    let texts = [format!("{phrase} In spring."), format!("In autumn {wrapped} again."), "Nothing of it.".to_string()];
    crawl(folder.path(), texts.clone().into_iter(), 2);
    let made = |least: &str| {
        stages("").replace("\"bloom\" }", &format!("\"spans\", survivor = \"text_bytes DESC\", {least} }}"))
    };
    let path = manifest(folder.path(), &made("min_words = 10"));
    stdout(&["run", arg(&path), "--root", arg(folder.path())]);
    let run = folder.path().join("bloom");
    let edits = csv(&run, "SELECT rule, removed FROM seen_edits");
    // The longer text comes first in survivor order, so the plain one is cut.
    assert_eq!(edits.lines().skip(1).collect::<Vec<_>>(), [format!("dedup.span,{phrase}").as_str()]);
    assert_eq!(number(&run, "SELECT count(*) FROM seen WHERE text = ' In spring.'"), 1.0);
    for (least, wanted) in [
        ("min_words = 7", "`min_words` in stage `seen`: expected 8 to 1048575, got 7"),
        ("min_words = 10, min_bytes = 50", "`min_words` in stage `seen`: stands in place of `min_bytes`"),
    ] {
        let path = manifest(folder.path(), &made(least));
        let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
        assert!(said.contains(wanted), "{said}");
    }
}
