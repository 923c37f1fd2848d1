//! The steps of curation beyond the quickstart's, on the micro crawl and on rows made for them.

use crate::support::{arg, fails_with, manifest, stdout};
use std::path::Path;

fn rows(folder: &Path, name: &str, rows: &[(&str, &str, &str)]) {
    let lines =
        rows.iter().map(|(id, url, text)| serde_json::json!({ "id": id, "url": url, "text": text }).to_string());
    std::fs::write(folder.join(name), lines.collect::<Vec<_>>().join("\n")).unwrap();
}

fn run(folder: &Path, stages: &str) -> std::path::PathBuf {
    let path = manifest(folder, &format!("name = \"cure\"\n[stage]\n{stages}\n"));
    stdout(&["run", arg(&path), "--root", arg(folder)]);
    folder.join("cure")
}

fn csv(run: &Path, query: &str) -> String {
    stdout(&["sql", arg(run), query, "--format", "csv"])
}

const QUESTION: &str = "Which metal is liquid at room temperature and was used in old thermometers everywhere?";

#[test]
fn a_page_that_quotes_a_test_question_is_dropped_with_the_stretch() {
    let folder = tempfile::tempdir().unwrap();
    let quoting = format!("Quiz of the week. {} Answer on page two.", QUESTION.to_uppercase());
    rows(folder.path(), "web.jsonl", &[("w1", "", &quoting), ("w2", "", "Nothing about metals here at all.")]);
    rows(folder.path(), "exam.jsonl", &[("e1", "", QUESTION), ("e2", "", "Too short")]);
    let run = run(
        folder.path(),
        "web = { kind = \"ingest\", source = \"web.jsonl\" }\nexam = { kind = \"ingest\", source = \"exam.jsonl\" }\n\
         clean = { kind = \"decontaminate\", input = \"web\", against = \"exam\" }",
    );
    assert_eq!(csv(&run, "SELECT source_id FROM clean"), "source_id\nw2\n");
    let found = csv(
        &run,
        "SELECT v.rule, v.value, v.span, v.span_end - v.span_start AS bytes, e.source_id FROM clean_verdicts v \
         JOIN exam e ON e.id = v.matched_id WHERE v.status = 'dropped'",
    );
    let wanted = format!("decontaminate.runs,2.0,{},{},e1", QUESTION.to_uppercase(), QUESTION.len());
    assert_eq!(found.lines().nth(1), Some(wanted.as_str()));
}

#[test]
fn a_mixture_has_the_shares_it_was_asked_for_and_says_what_it_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let texts = |n: usize, host: &str| -> Vec<(String, String, String)> {
        (0..n)
            .map(|i| (format!("{host}{i}"), format!("https://{host}.example.com/{i}"), format!("{host} text {i:05}")))
            .collect()
    };
    for (name, n) in [("aa", 200), ("bb", 50)] {
        let made = texts(n, name);
        let made: Vec<(&str, &str, &str)> = made.iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
        rows(folder.path(), &format!("{name}.jsonl"), &made);
    }
    let stages = "aa = { kind = \"ingest\", source = \"aa.jsonl\" }\nbb = { kind = \"ingest\", source = \"bb.jsonl\" }\n\
         mix = { kind = \"mix\", inputs = [\"aa\", \"bb\"], weights = { bb = 8.0 }, budget_bytes = 2600, max_epochs = 3.0 }";
    let run = run(folder.path(), stages);
    let shares = csv(
        &run,
        "SELECT mix_source, count(*), count(DISTINCT coalesce(parent_id, id)), max(epoch) FROM mix GROUP BY 1 ORDER BY 1",
    );
    assert_eq!(shares.lines().skip(1).collect::<Vec<_>>(), ["aa,66,66,0", "bb,133,50,2"]);
    assert_eq!(csv(&run, "SELECT count(DISTINCT id) = count(*) FROM mix").lines().nth(1), Some("true"));
    let left = csv(&run, "SELECT rule, count(*) FROM mix_verdicts WHERE status = 'dropped' GROUP BY rule");
    assert_eq!(left.lines().nth(1), Some("mix.not_sampled,134"));
    let wrong = stages.replace("bb = 8.0", "cc = 1.0");
    let path = manifest(folder.path(), &format!("name = \"cure\"\n[stage]\n{wrong}\n"));
    let said = fails_with(&["run", arg(&path), "--root", arg(folder.path())], 2);
    assert!(said.contains("names `cc`, which is no source   (known: aa, bb)"), "{said}");
}

#[test]
fn statistics_count_every_document_once_per_grouping() {
    let folder = tempfile::tempdir().unwrap();
    rows(
        folder.path(),
        "web.jsonl",
        &[
            ("1", "https://docs.example.co.uk/a", "one two"),
            ("2", "https://www.example.co.uk/b", "three"),
            ("3", "https://other.org/", "four five six"),
            ("4", "https://rare.net/", "seven"),
        ],
    );
    let run = run(
        folder.path(),
        "web = { kind = \"ingest\", source = \"web.jsonl\" }\n\
         stats = { kind = \"stats\", input = \"web\", by = [\"domain\", \"suffix\"], min_documents = 2 }",
    );
    let found = csv(&run, "SELECT \"by\", value, documents, bytes, words FROM stats");
    let wanted =
        ["domain,(other),2,18,4", "domain,example.co.uk,2,12,3", "suffix,(other),2,18,4", "suffix,co.uk,2,12,3"];
    assert_eq!(found.lines().skip(1).collect::<Vec<_>>(), wanted);
}

#[test]
fn another_threshold_is_answered_from_stored_measures_and_the_run_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let words = |n: usize| vec!["the of and to word have with be that"; n].join(" ");
    let made: Vec<(String, String)> = [2, 4, 6, 8, 12].iter().map(|n| (format!("d{n}"), words(*n))).collect();
    let made: Vec<(&str, &str, &str)> = made.iter().map(|(id, text)| (id.as_str(), "", text.as_str())).collect();
    rows(folder.path(), "web.jsonl", &made);
    let stages = |least: u32| {
        format!(
            "web = {{ kind = \"ingest\", source = \"web.jsonl\" }}\n\
             good = {{ kind = \"filter\", input = \"web\", rules = {{ \"gopher_quality.min_words\" = {least}, \"gopher_quality.max_words\" = 100 }} }}"
        )
    };
    let now = run(folder.path(), &stages(50));
    let said = stdout(&["explain", arg(&now), "--rule", "gopher_quality.min_words", "--threshold", "30", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    let counts = &answer["counts"];
    let number = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!((number("kept_now"), number("kept_then"), number("gained"), number("lost")), (2, 3, 1, 0), "{said}");
    assert_eq!((number("sole_now"), number("sole_then"), number("shared_now")), (2, 1, 0), "{said}");
    let then = run(folder.path(), &stages(30));
    assert_eq!(csv(&then, "SELECT count(*) FROM good").lines().nth(1), Some("3"));
    let said = fails_with(&["explain", arg(&now), "--rule", "gopher_quality.min_word", "--threshold", "30"], 2);
    assert!(said.contains("did you mean `gopher_quality.min_words`?"), "{said}");
}

#[test]
fn two_runs_are_compared_by_fields_and_by_rows_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    rows(folder.path(), "web.jsonl", &[("1", "", "one"), ("2", "", "two two"), ("3", "", "three three three")]);
    let runs: Vec<_> = [1, 2]
        .map(|least| {
            let stages = format!(
                "web = {{ kind = \"ingest\", source = \"web.jsonl\" }}\n\
                 good = {{ kind = \"filter\", input = \"web\", rules = {{ \"gopher_quality.min_words\" = {least} }} }}"
            );
            let path = manifest(folder.path(), &format!("name = \"cure\"\n[stage]\n{stages}\n"));
            let at = folder.path().join(least.to_string());
            stdout(&["run", arg(&path), "--root", arg(&at)]);
            at.join("cure")
        })
        .into();
    let said = stdout(&["diff", arg(&runs[0]), arg(&runs[1])]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "web          same (3 rows)");
    assert_eq!(lines[1], "good         3 rows -> 2 rows");
    assert_eq!(lines[2], "  config.rules.gopher_quality.min_words: 1.0 -> 2.0");
    assert_eq!(lines[3], "  only in the first: 1 rows");
    assert!(lines[4].contains("1  dropped by `good`: gopher_quality.min_words"), "{said}");
    assert_eq!(lines.len(), 5, "{said}");
}

#[test]
fn a_document_can_be_followed_to_everything_that_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    rows(folder.path(), "web.jsonl", &[("1", "", "one two three four"), ("2", "", "five six seven eight")]);
    let run = run(
        folder.path(),
        "web = { kind = \"ingest\", source = \"web.jsonl\" }\n\
         bpe = { kind = \"tokenizer\", input = \"web\", vocab_size = 300 }\n\
         shards = { kind = \"tokenize\", input = \"web\", tokenizer = \"bpe\" }",
    );
    let id = csv(&run, "SELECT id FROM web WHERE source_id = '2'").lines().nth(1).unwrap().to_string();
    let said = stdout(&["explain", arg(&run), &id, "--forward"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("web:") && lines[1].contains("bpe:") && lines[1].contains("through"), "{said}");
    assert!(lines[2].contains("shards:") && lines[2].contains("token_start="), "{said}");
}

#[test]
fn what_a_takedown_lists_is_refused_and_said() {
    let folder = tempfile::tempdir().unwrap();
    rows(
        folder.path(),
        "web.jsonl",
        &[("1", "https://a.example.org/x", "one"), ("2", "https://b.org/y", "two"), ("3", "https://b.org/z", "three")],
    );
    std::fs::write(folder.path().join("gone.txt"), "example.org\nhttps://b.org/z\n").unwrap();
    let run = run(folder.path(), "web = { kind = \"ingest\", source = \"web.jsonl\", takedown = [\"gone.txt\"] }");
    assert_eq!(csv(&run, "SELECT source_id FROM web"), "source_id\n2\n");
    let said = csv(&run, "SELECT reason FROM web_verdicts WHERE rule = 'ingest.takedown' ORDER BY reason");
    assert_eq!(said, "reason\nlisted as example.org\nlisted as https://b.org/z\n");
}
