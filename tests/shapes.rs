//! What a manifest makes wrong is told before any work: columns, queries, names and options, all at once.

use crate::support::{arg, fails_with, manifest, root, run, stdout, text};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::collections::BTreeSet;
use std::path::Path;

/// A crawl of the fixtures, its text, and further stages.
fn check(stages: &str, code: i32) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = manifest(
        folder.path(),
        &format!(
            "name = \"shapes\"\n[stage]\ncrawl = {{ kind = \"ingest\", source = \"{}/tests/fixtures/micro/*.warc.gz\" }}\n\
             text = {{ kind = \"extract\", input = \"crawl\" }}\n{stages}\n",
            root().display()
        ),
    );
    if code == 0 { stdout(&["check", arg(&path)]) } else { fails_with(&["check", arg(&path)], code) }
}

#[test]
fn queries_and_conditions_are_planned_before_any_work() {
    let said = check(
        r#"
drop = { kind = "sql", input = "text", query = "DROP TABLE text" }
two = { kind = "sql", input = "text", query = "SELECT id FROM text; SELECT id FROM text" }
copy = { kind = "sql", input = "text", query = "COPY text TO 'x.csv'" }
unknown = { kind = "sql", input = "text", query = "SELECT id, titel FROM text" }
twice = { kind = "sql", input = "text", query = "SELECT a.id, b.id FROM text a JOIN text b ON a.id = b.id" }
foreign = { kind = "sql", input = "text", query = "SELECT id FROM crawl" }
window = { kind = "sql", input = "text", query = "SELECT id, row_number() OVER (ORDER BY id) AS n FROM text" }
clock = { kind = "sql", input = "text", query = "SELECT id, now() AS at FROM text" }
half = { kind = "filter", input = "text", where = "lenght(text) > 3 AND" }
number = { kind = "filter", input = "text", where = "length(text)" }
order = { kind = "dedup", input = "text", survivor = "foo DESC" }
bpe = { kind = "tokenizer", input = "text", vocab_size = 400 }
shards = { kind = "tokenize", input = "text", tokenizer = "bpe" }
base = { kind = "pretrain", input = "shards" }
chat = { kind = "sft", input = "text", model = "base" }
"#,
        2,
    );
    for stage in
        ["drop", "two", "copy", "unknown", "twice", "foreign", "window", "clock", "half", "number", "order", "chat"]
    {
        assert!(said.contains(&format!("stage `{stage}`")), "nothing about {stage} in\n{said}");
    }
    for part in [
        "reads `crawl`, which is no input of the stage",
        "Ambiguous reference to unqualified field id",
        "unbounded = true",
        "needs the column `prompt`, which `text` has not",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
}

#[test]
fn one_fault_hides_no_other() {
    let said = check(
        r#"
q = { kind = "filter", input = "text", recipe = "finewb", rules = { "gopher_quality.min_wrds" = 1, "c4.x" = 2, "gopher_quality.max_words" = -3 } }
u = { kind = "dedup", input = "nowhere", method = "minhsh", bands = 0 }
empty = { kind = "filter", input = "text" }
both = { kind = "filter", input = "text", inputs = ["crawl"], recipe = "c4" }
big = { kind = "dedup", input = "text", ngram = 99999999999999999999 }
source = { kind = "ingest", source = 5 }
"#,
        2,
    );
    for part in [
        "did you mean `fineweb`?",
        "did you mean `gopher_quality.min_words`?",
        "did you mean `c4.",
        "never below 0, so it drops every document",
        "reads `nowhere`, which is no stage",
        "`method` in stage `u`",
        "`bands` in stage `u`",
        "from `input` and `inputs` together",
        "a whole number",
        "expected a string or a list of strings",
    ] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert_eq!(said.matches("stage `empty`").count(), 1, "{said}");
    assert!(!said.contains("untagged") && !said.contains("usize") && !said.contains("null"), "{said}");
}

#[test]
fn names_that_hide_other_tables_are_refused_and_words_of_sql_are_not() {
    let said = check(
        "x_verdicts = { kind = \"sql\", input = \"text\", query = \"SELECT id FROM text\" }\n\
         history = { kind = \"sql\", input = \"text\", query = \"SELECT id FROM text\" }\n\
         Text = { kind = \"sql\", input = \"text\", query = \"SELECT id FROM text\" }",
        2,
    );
    for name in ["`x_verdicts` ends in `_verdicts`", "`history` is a name", "differs from stage `text` only in case"] {
        assert!(said.contains(name), "no {name:?} in\n{said}");
    }
    check(
        "select = { kind = \"sql\", input = \"text\", query = 'SELECT id, text FROM text' }\n\
         more = { kind = \"sql\", input = \"select\", query = 'SELECT id FROM \"select\"' }",
        0,
    );
}

#[test]
fn overrides_reach_inside_of_options() {
    let micro = |set: &str| stdout(&["check", "tests/micro.toml", "--set", set]);
    micro("lang.keep=en");
    micro("quality.rules.\"gopher_quality.min_words\"=30");
    micro("quality.rules.gopher_quality.min_words=30");
    let said = fails_with(&["check", "tests/micro.toml", "--set", "quality.rules.gopher_quality.min_wrds=30"], 2);
    assert!(said.contains("did you mean `gopher_quality.min_words`?"), "{said}");
}

fn written(folder: &Path, prefix: &str) -> Option<SchemaRef> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.path()).collect();
    files.sort();
    let first = files.into_iter().find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(prefix))?;
    Some(ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(first).unwrap()).unwrap().schema().clone())
}

#[test]
fn the_columns_foreseen_are_those_that_a_run_writes() {
    let folder = tempfile::tempdir().unwrap();
    let said = run(&["run", "tests/micro.toml", "--root", arg(folder.path())]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let micro = pipeline::manifest::Manifest::load(&root().join("tests/micro.toml"), &[]).unwrap();
    let (shapes, faults) = pipeline::stage::shape::shapes(&micro.stages, &BTreeSet::new());
    assert!(faults.is_empty());
    let columns =
        |s: &SchemaRef| s.fields().iter().map(|f| (f.name().clone(), f.data_type().clone())).collect::<Vec<_>>();
    assert_eq!(shapes.len(), 22, "{:?}", shapes.keys());
    for (name, shape) in shapes {
        let at = folder.path().join("micro").join(&name);
        assert_eq!(written(&at, "part-").as_ref().map(columns), Some(columns(&shape.rows)), "{name}");
        let verdicts = written(&at, "verdicts-");
        assert_eq!(verdicts.as_ref().map(columns), shape.verdicts.as_ref().map(columns), "verdicts of {name}");
    }
}
