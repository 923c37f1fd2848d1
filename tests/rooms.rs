//! What filters, edits and dedup do when a manifest asks for it: lists, languages, repairs, indexes, cuts.

use crate::support::{arg, fails_with, manifest, run, stdout, text};
use std::path::{Path, PathBuf};

/// Runs stages over `web.jsonl` with rows of (id, url, text) and gives the run's folder.
fn mill(folder: &Path, name: &str, documents: &[(&str, &str, &str)], stages: &str) -> PathBuf {
    let lines: Vec<String> = documents
        .iter()
        .map(|(id, url, text)| serde_json::json!({ "id": id, "url": url, "text": text }).to_string() + "\n")
        .collect();
    std::fs::write(folder.join(format!("{name}.jsonl")), lines.concat()).unwrap();
    let path = manifest(
        folder,
        &format!("name = \"{name}\"\n[stage]\nweb = {{ kind = \"ingest\", source = \"{name}.jsonl\" }}\n{stages}\n"),
    );
    let said = run(&["run", arg(&path), "--root", arg(folder)]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    folder.join(name)
}

fn ask(run: &Path, query: &str) -> Vec<String> {
    stdout(&["sql", arg(run), query, "--format", "csv"]).lines().skip(1).map(String::from).collect()
}

/// A text that nothing else resembles: its words differ in letters, since dedup takes all numbers for one.
fn story(of: &str) -> String {
    let word = |n: usize| format!("{of}{}{}", (b'a' + (n % 26) as u8) as char, (b'a' + (n / 26) as u8) as char);
    (0..40).map(|i| format!("{} went to {} and then", word(i), word(i * 7 % 40))).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_filter_reads_lists_and_has_thresholds_for_each_language() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("domains.txt"), "# bad ones\nspam.example\n").unwrap();
    std::fs::write(folder.path().join("words.txt"), "casino\n").unwrap();
    let run = mill(
        folder.path(),
        "lists",
        &[
            ("1", "https://good.example/a", "A long enough text about gardens and their many plants."),
            ("2", "https://www.spam.example/b", "A long enough text about gardens and their many plants."),
            ("3", "https://good.example/casino/c", "A long enough text about gardens and their many plants."),
            ("4", "https://good.example/d", "Ein Text in deutscher Sprache, kurz genug."),
        ],
        "tagged = { kind = \"sql\", input = \"web\", query = \"SELECT id, url, source_id, text, CASE WHEN source_id = '4' THEN 'de' ELSE 'en' END AS language FROM web\" }\n\
         fine = { kind = \"filter\", input = \"tagged\", rules = { \"gopher_quality.min_words\" = 9 }, lists = { domains = \"domains.txt\", banned_words = \"words.txt\" }, \
         languages = { de = { rules = { \"gopher_quality.min_words\" = 3 } } } }",
    );
    assert_eq!(ask(&run, "SELECT source_id FROM fine ORDER BY source_id"), ["1", "4"]);
    let why = ask(&run, "SELECT source_id, rule, value FROM fine_all WHERE status = 'dropped' ORDER BY source_id");
    assert_eq!(why, ["2,url.domains,1.0", "3,url.banned_words,1.0"]);
}

#[test]
fn an_edit_can_be_undone_from_its_table() {
    let folder = tempfile::tempdir().unwrap();
    let broken = "Write to jane@corp.example.com or call +1 212 555 0123.\nIt was a caf\u{c3}\u{a9} with a view.\u{0}";
    let run = mill(
        folder.path(),
        "edits",
        &[("1", "", broken), ("2", "", "Nothing to change here."), ("3", "", "\u{0}\u{feff}")],
        "clean = { kind = \"edit\", input = \"web\", steps = [\"unicode\", \"pii\"] }",
    );
    let texts = ask(&run, "SELECT text FROM clean ORDER BY source_id");
    assert!(texts.iter().any(|t| t.contains("caf\u{e9} with")), "{texts:?}");
    assert!(!texts.concat().contains("jane@"), "{texts:?}");
    assert_eq!(ask(&run, "SELECT rule FROM clean_all WHERE status = 'dropped'"), ["edit.no_text"]);
    // From the new text and the table of edits the old text can be put together again.
    let rows = stdout(&[
        "sql",
        arg(&run),
        "SELECT e.start, e.end, e.removed, c.text FROM clean_edits e JOIN clean c ON e.id = c.id ORDER BY e.start, e.end",
        "--format",
        "json",
    ]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows)
        .unwrap_or_else(|_| rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect());
    assert!(rows.len() >= 3, "{rows:?}");
    let new = rows[0]["text"].as_str().unwrap();
    let (mut old, mut from) = (String::new(), 0);
    for row in &rows {
        let place = |key: &str| row[key].as_u64().unwrap() as usize;
        old.push_str(&new[from..place("start")]);
        old.push_str(row["removed"].as_str().unwrap());
        from = place("end");
    }
    old.push_str(&new[from..]);
    assert_eq!(old, broken);
}

#[test]
fn a_model_of_good_text_finds_text_unlike_it() {
    let folder = tempfile::tempdir().unwrap();
    let good: Vec<String> = (0..30).map(|i| format!("{} The end of chapter {i}.", story("friend"))).collect();
    let mut documents: Vec<(&str, &str, &str)> = good.iter().map(|text| ("g", "", text.as_str())).collect();
    documents.push(("bad", "", "zq%%k #### 0x8fe2 qqqq\u{fffd}\u{fffd} kzzx vvv 0x1 0x2 &&& ~~~ zq%%k qx"));
    let run = mill(
        folder.path(),
        "lm",
        &documents,
        "good = { kind = \"sql\", input = \"web\", query = \"SELECT id, text FROM web WHERE source_id = 'g'\" }\n\
         lm = { kind = \"classifier\", input = \"good\", method = \"ngram\", order = 4, holdout = 3 }\n\
         fine = { kind = \"filter\", input = \"web\", perplexity = \"lm\", rules = { \"perplexity.bits_per_byte\" = 3.0 } }",
    );
    assert_eq!(ask(&run, "SELECT source_id FROM fine_all WHERE status = 'dropped'"), ["bad"]);
    assert!(ask(&run, "SELECT bits_per_byte < 3 FROM lm").iter().all(|v| v == "true"));
}

#[test]
fn a_later_crawl_is_compared_with_the_index_of_an_earlier_one() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (story("apple"), story("bear"), story("cloud"));
    let near = a.replacen(" went to ", " walked to ", 1);
    let first = mill(
        folder.path(),
        "first",
        &[("a", "", &a), ("b", "", &b)],
        "unique = { kind = \"dedup\", input = \"web\", write_index = true }",
    );
    assert!(first.join("unique/index-00000.bin").is_file());
    let later = mill(
        folder.path(),
        "later",
        &[("a2", "", &near), ("b2", "", &b), ("c", "", &c), ("c2", "", &c)],
        "unique = { kind = \"dedup\", input = \"web\", against = [\"first/unique\"], rehydrate = true }",
    );
    assert_eq!(ask(&later, "SELECT rehydration_weight FROM unique"), ["2"]);
    assert_eq!(ask(&later, "SELECT left(source_id, 1) FROM unique"), ["c"]);
    let known = |name: &str| ask(&first, &format!("SELECT id FROM web WHERE source_id = '{name}'"))[0].clone();
    let why = ask(
        &later,
        "SELECT source_id, method, kept_id FROM unique_all WHERE reason LIKE '%earlier run' ORDER BY source_id",
    );
    assert_eq!(why, [format!("a2,minhash,{}", known("a")), format!("b2,exact,{}", known("b"))]);
    let other = manifest(
        folder.path(),
        "name = \"later\"\n[stage]\nweb = { kind = \"ingest\", source = \"later.jsonl\" }\n\
         unique = { kind = \"dedup\", input = \"web\", bands = 20, against = [\"first/unique\"] }\n",
    );
    let said = fails_with(&["run", arg(&other), "--root", arg(folder.path())], 2);
    assert!(said.contains("bands is 14 in the index and 20 in this run"), "{said}");
}

#[test]
fn methods_differ_in_what_they_call_a_duplicate() {
    let folder = tempfile::tempdir().unwrap();
    let a = story("apple");
    let near = a.replacen(" went to ", " walked to ", 1);
    let shouted = a.to_uppercase();
    let documents = [
        ("a", "https://x.example/?utm_source=1", a.as_str()),
        ("near", "https://y.example/", &near),
        ("shouted", "https://z.example/", &shouted),
        ("moved", "https://X.example:443/#top", "Another text at the same address."),
        ("short", "", "two words"),
        ("short2", "", "Two words!"),
    ];
    let removed = |name: &str, options: &str| {
        let stage = format!("unique = {{ kind = \"dedup\", input = \"web\", survivor = \"source_id\"{options} }}");
        let run = mill(folder.path(), name, &documents, &stage);
        ask(&run, "SELECT source_id, method FROM unique_all WHERE status = 'dropped' ORDER BY source_id")
    };
    assert_eq!(removed("exact", ", method = \"exact\""), [""; 0]);
    let normalised = removed("normalised", ", method = \"exact\", exact_by = [\"normalised\", \"url\"]");
    assert_eq!(normalised, ["moved,url", "short2,normalised", "shouted,normalised"]);
    let near = ["near,minhash", "short2,short", "shouted,minhash"];
    let mut found = removed("near", "");
    found.sort();
    assert_eq!(found, near);
    let mut found = removed("compat", ", signatures = \"fineweb-compat\"");
    found.sort();
    assert_eq!(found, near);
    assert_eq!(removed("loose", ", verify = false").len(), 3);
}

#[test]
fn repeated_lines_paragraphs_and_stretches_are_cut_and_kept_in_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let footer = "Copyright of the site, all rights reserved, do not copy anything from here.";
    let body = |of: &str| format!("{}\n\n{footer}\nMore about {of}.", story(of));
    let (a, b) = (body("apple"), body("bear"));
    let documents = [("a", "", a.as_str()), ("b", "", &b), ("c", "", footer)];
    for (method, rule) in [("lines", "dedup.line"), ("spans", "dedup.span")] {
        let stage = format!(
            "short = {{ kind = \"dedup\", input = \"web\", method = \"{method}\", min_bytes = 60, survivor = \"source_id\" }}"
        );
        let run = mill(folder.path(), method, &documents, &stage);
        assert_eq!(ask(&run, "SELECT source_id, rule FROM short_all WHERE status = 'dropped'"), [format!("c,{rule}")]);
        let kept = ask(&run, "SELECT source_id, text LIKE '%Copyright%' AS has FROM short ORDER BY source_id");
        assert_eq!(kept, ["a,true", "b,false"], "{method}");
        let cut = ask(&run, "SELECT DISTINCT rule FROM short_edits");
        assert_eq!(cut, [rule]);
        let whole = ask(
            &run,
            "SELECT octet_length(s.text) + sum(octet_length(e.removed)) = min(octet_length(w.text)) FROM short s \
             JOIN short_edits e ON e.id = s.id JOIN web w ON w.id = s.id GROUP BY s.id, s.text",
        );
        assert_eq!(whole, ["true"], "{method}");
    }
    let paragraphs = mill(
        folder.path(),
        "paragraphs",
        &[
            ("a", "", "One paragraph that is long enough to count here.\n\nAnother."),
            ("b", "", "New.\n\nOne paragraph that is long enough to count here.\n\nLast."),
        ],
        "short = { kind = \"dedup\", input = \"web\", method = \"paragraphs\", survivor = \"source_id\" }",
    );
    assert_eq!(ask(&paragraphs, "SELECT replace(text, chr(10), '/') FROM short ORDER BY source_id")[1], "New.//Last.");
}

#[test]
fn a_run_says_when_little_is_left_to_work_with() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String =
        (0..30).map(|i| serde_json::json!({ "text": story(&format!("w{i}")) }).to_string() + "\n").collect();
    std::fs::write(folder.path().join("few.jsonl"), lines).unwrap();
    let path = manifest(
        folder.path(),
        "name = \"few\"\n[stage]\nweb = { kind = \"ingest\", source = \"few.jsonl\" }\n\
         fine = { kind = \"filter\", input = \"web\", rules = { \"gopher_quality.min_words\" = 5000 } }\n\
         bpe = { kind = \"tokenizer\", input = \"web\", vocab_size = 300 }\n\
         shards = { kind = \"tokenize\", input = \"web\", tokenizer = \"bpe\", holdout_share = 0.0001 }\n\
         base = { kind = \"pretrain\", input = \"shards\", n_layer = 1, n_embd = 16, n_head = 1, sequence_len = 32, batch_tokens = 65536, micro_batch_tokens = 65536, budget_tokens = 131072 }\n",
    );
    let said = run(&["run", arg(&path), "--root", arg(folder.path())]);
    let said = text(&said.stderr);
    for part in [
        "`fine` kept 0 of 30: 30 fell to gopher_quality.min_words",
        "`shards` held no document out of 30",
        "`base` goes over its",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn options_of_dedup_that_its_method_does_not_read_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("web.jsonl"), "{\"text\": \"a\"}\n").unwrap();
    for (options, part) in [
        ("method = \"exact\", write_index = true", "an index holds shingles"),
        ("method = \"exact\", exact_by = []", "expected at least one of"),
        ("method = \"spans\", normalise = true", "as they stand"),
        ("method = \"lines\", exact_by = [\"url\"]", "`exact_by`"),
        ("method = \"lines\", signatures = \"fineweb-compat\"", "`signatures`"),
        ("method = \"lines\", rehydrate = true", "`rehydrate`"),
        ("min_bytes = 9", "`min_bytes`"),
    ] {
        let stages = format!(
            "name = \"d\"\n[stage]\nweb = {{ kind = \"ingest\", source = \"web.jsonl\" }}\nd = {{ kind = \"dedup\", input = \"web\", {options} }}\n"
        );
        let said = fails_with(&["check", arg(&manifest(folder.path(), &stages))], 2);
        assert!(said.contains(part) && said.contains("1 fault"), "{options}: {said}");
    }
}
