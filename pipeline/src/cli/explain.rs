//! `gristmill explain`

use super::out;
use crate::error::{Error, Result};
use crate::{execute, report, session};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Show a row's whole way, or what another threshold of a rule would keep and drop.
#[derive(clap::Args)]
#[command(
    after_help = "With an id: where it was crawled, every measured value, every verdict, where its tokens are. Any id works: of a
document, a prompt, a rollout or a pair; parents are followed. The first line tells the outcome; each stage then shows
the columns that are new or changed there (all of them with --json). With --rule: answered from the stored measures, nothing
runs.

Examples:
  gristmill explain runs/quickstart 0123456789abcdef0123456789abcdef
  gristmill explain runs/quickstart 0123456789abcdef0123456789abcdef --forward
  gristmill explain runs/quickstart --rule gopher_quality.min_words --threshold 40"
)]
pub struct Explain {
    /// Folder of the run.
    run: PathBuf,
    /// The id, 32 hex digits, or its first six or more.
    #[arg(required_unless_present = "rule")]
    id: Option<String>,
    /// Only what still holds the document: its token positions, the models trained on them, rows derived from it.
    #[arg(long, requires = "id")]
    forward: bool,
    /// A rule with a measure, such as gopher_quality.min_words.
    #[arg(long, conflicts_with = "id", requires = "threshold")]
    rule: Option<String>,
    /// The threshold to try.
    #[arg(long, requires = "rule", allow_negative_numbers = true)]
    threshold: Option<f64>,
    /// The stage, where several have the rule.
    #[arg(long, requires = "rule")]
    stage: Option<String>,
}

impl Explain {
    pub(super) fn run(&self, json: bool) -> Result<()> {
        super::existing_run(&self.run)?;
        if let (Some(rule), Some(threshold)) = (&self.rule, self.threshold) {
            if !threshold.is_finite() {
                return Err(Error::Manifest(format!("error: --threshold {threshold}: expected a number")));
            }
            let answer = crate::whatif::what_if(&self.run, self.stage.as_deref(), rule, threshold)?;
            return if json { super::line(&answer.to_string()) } else { what_if(&answer) };
        }
        let id = self.id.as_deref().expect("clap asks for an id unless a rule is given");
        let id = &resolve(&self.run, id)?;
        if self.forward {
            let places = crate::explain::forward(&self.run, id)?;
            if json {
                return super::line(&Value::Array(places).to_string());
            }
            for place in places.iter().filter_map(Value::as_object) {
                say!("{}", cells(place["stage"].as_str().unwrap_or(""), place));
            }
            return Ok(());
        }
        let steps = crate::explain::explain(&self.run, id)?;
        if json {
            return super::line(&Value::Array(steps).to_string());
        }
        say!("{id} {}", outcome(&steps, id));
        let mut seen = Seen::default();
        for step in &steps {
            let dropped = if step["documents"] == "dropped" { ", documents dropped by retain" } else { "" };
            say!("{} ({}{dropped})", step["stage"].as_str().unwrap_or(""), step["kind"].as_str().unwrap_or(""));
            let rows = |of: &str| step[of].as_array().into_iter().flatten().filter_map(Value::as_object);
            for row in rows("verdicts") {
                say!("{}", cells("verdict", &seen.news(row, id)));
            }
            for row in rows("rows") {
                let news = seen.news(row, id);
                if !news.is_empty() {
                    say!("{}", cells("row", &news));
                }
            }
            for edit in step["edits"].as_array().into_iter().flatten() {
                let text = |key: &str| edit[key].as_str().unwrap_or("").to_string();
                say!("  edited by {} at byte {}: {:?} was there", text("rule"), edit["start"], text("removed"));
            }
            if let Some(n) = step["derived"].as_u64().filter(|n| *n > 0) {
                say!("  {n} rows derived from it, first: {}", step["first_derived"]["id"].as_str().unwrap_or(""));
            }
        }
        Ok(())
    }
}

/// Fewest digits of an id that stand for all of them.
const LEAST_DIGITS: usize = 6;
/// Digits of an id.
const DIGITS: usize = 32;
/// Ids told of when a beginning fits several.
const SHOWN: usize = 10;

/// The id that a person meant: in lower case, and whole where its first digits were given. What is no beginning of an id stays as it is.
fn resolve(run: &Path, given: &str) -> Result<String> {
    let start = given.trim().to_ascii_lowercase();
    if start.is_empty() || start.len() >= DIGITS || !start.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(if start.chars().all(|c| c.is_ascii_hexdigit()) { start } else { given.to_string() });
    }
    if start.len() < LEAST_DIGITS {
        return Err(Error::Manifest(format!(
            "error: `{given}` is too short: expected the {DIGITS} digits of an id, or its first {LEAST_DIGITS} or more"
        )));
    }
    let stages = execute::datasets(run)?;
    let session = session::session(None, None)?;
    let found: BTreeSet<String> = session::block_on(async {
        let mut found = BTreeSet::new();
        for (n, (_, dataset)) in stages.iter().enumerate() {
            for prefix in ["part-", "verdicts-"] {
                let (files, table) = (dataset.files(prefix), format!("ids_{n}_{prefix}"));
                if files.is_empty() {
                    continue;
                }
                session::register(&session, &table, &files).await?;
                let bare = datafusion::common::TableReference::bare(table.as_str());
                if session.table(bare).await?.schema().fields().iter().all(|f| f.name() != "id") {
                    continue;
                }
                let query = format!(
                    "SELECT DISTINCT id FROM \"{table}\" WHERE id LIKE '{start}%' ORDER BY id LIMIT {}",
                    SHOWN + 1
                );
                let rows = report::rows(&session, &query).await?;
                found.extend(rows.iter().filter_map(|r| r["id"].as_str()).map(String::from));
            }
        }
        Result::Ok(found)
    })?;
    let mut ids = found.iter();
    match (ids.next(), ids.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(Error::Manifest(format!(
            "error: no id in {} begins with {start}\nhint: find ids with  gristmill sql {} \"SELECT id, url FROM <stage> ORDER BY id LIMIT 5\"",
            run.display(),
            out::quoted(run)
        ))),
        _ => {
            let mut lines: Vec<String> = found.iter().take(SHOWN).map(|id| format!("  {id}")).collect();
            if found.len() > SHOWN {
                lines.push("  ...".into());
            }
            Err(Error::Manifest(format!(
                "error: several ids begin with {start}\n{}\nhint: give more digits",
                lines.join("\n")
            )))
        }
    }
}

/// What became of a document in a few words: where it was dropped and for what, where its tokens are, else how far it came.
fn outcome(steps: &[Value], id: &str) -> String {
    let mut told = Vec::new();
    let mut last = None;
    for step in steps {
        let stage = step["stage"].as_str().unwrap_or("");
        let own = |of: &str| {
            step[of].as_array().into_iter().flatten().filter(|r| r["id"].as_str() == Some(id)).collect::<Vec<_>>()
        };
        for row in own("rows") {
            last = Some(stage);
            if let (Some(start), Some(n)) = (row["token_start"].as_u64(), row["token_count"].as_u64()) {
                let split = row["split"].as_str().unwrap_or("");
                told.push(format!("kept to `{stage}`: {split} shard {}, tokens {start}..{}", row["shard"], start + n));
            }
        }
        for row in own("verdicts") {
            if let Some(status) = row["status"].as_str().filter(|s| *s != "kept") {
                told.push(format!("{status} in `{stage}`: {}", why(row)));
            }
        }
    }
    match (told.is_empty(), last) {
        (false, _) => told.join("; "),
        (true, Some(stage)) => format!("kept to `{stage}`"),
        (true, None) => "is in no stage's rows, only in what was made from it".into(),
    }
}

/// The rule of a verdict with what it measured and what it asks for.
fn why(verdict: &Value) -> String {
    let rule = verdict["rule"].as_str().unwrap_or("no rule");
    match (verdict["value"].as_f64(), verdict["threshold"].as_f64(), verdict["reason"].as_str()) {
        (Some(value), Some(threshold), _) => {
            let sign = if value < threshold {
                "<"
            } else if value > threshold {
                ">"
            } else {
                "against"
            };
            format!("{rule} {} {sign} {threshold}", short(value))
        }
        (_, _, Some(reason)) => format!("{rule}, {reason}"),
        (Some(value), None, None) => format!("{rule} {}", short(value)),
        _ => rule.to_string(),
    }
}

/// A measure with three decimals, a whole number with none.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { value.to_string() } else { format!("{value:.3}") }
}

/// The columns already shown, by id.
#[derive(Default)]
struct Seen(BTreeMap<String, Map<String, Value>>);

impl Seen {
    /// The columns of a row that were not shown before with the same value; its id too, where it is another than the asked one.
    fn news(&mut self, row: &Map<String, Value>, asked: &str) -> Map<String, Value> {
        // A verdict's own columns belong to its stage.
        const OF_A_STAGE: [&str; 6] = ["status", "rule", "value", "threshold", "reason", "failed_rules"];
        let id = row.get("id").and_then(Value::as_str).unwrap_or("").to_string();
        let seen = self.0.entry(id.clone()).or_default();
        let mut news = Map::new();
        for (name, value) in row.iter().filter(|(_, v)| !v.is_null() && **v != Value::Array(Vec::new())) {
            if OF_A_STAGE.contains(&name.as_str()) {
                news.insert(name.clone(), value.clone());
            } else if seen.get(name) != Some(value) {
                seen.insert(name.clone(), value.clone());
                news.insert(name.clone(), value.clone());
            }
        }
        if id == asked {
            news.remove("id");
        } else if !news.is_empty() {
            news.insert("id".into(), id.into());
        }
        news
    }
}

/// `  row: key=value  key=value`, without what is empty.
fn cells(what: &str, row: &Map<String, Value>) -> String {
    let cells = row.iter().filter(|(k, v)| !v.is_null() && *v != &Value::Array(Vec::new()) && *k != what).map(
        |(k, v)| match v {
            Value::String(s) => format!("{k}={s}"),
            other => format!("{k}={other}"),
        },
    );
    format!("  {what}: {}", cells.collect::<Vec<_>>().join("  "))
}

fn what_if(answer: &Value) -> Result<()> {
    let counts = &answer["counts"];
    let n = |name: &str| counts[name].as_u64().unwrap_or(0);
    let text = |name: &str| answer[name].as_str().unwrap_or("").to_string();
    say!(
        "{}: {} of {} {}, over {} documents",
        text("stage"),
        text("rule"),
        text("keeps"),
        answer["threshold"],
        n("documents")
    );
    say!(
        "  kept      {} documents, {} bytes   (now {}, {} bytes)",
        n("kept_then"),
        n("kept_then_bytes"),
        n("kept_now"),
        n("kept_now_bytes")
    );
    let tokens = |name: &str| match answer[name].as_f64() {
        Some(tokens) => format!(", about {tokens} tokens"),
        None => String::new(),
    };
    for what in ["gained", "lost"] {
        say!(
            "  {what:<9} {} documents, {} bytes{}",
            n(what),
            n(&format!("{what}_bytes")),
            tokens(&format!("{what}_tokens"))
        );
    }
    say!("  sole reason to drop    {} documents   (now {})", n("sole_then"), n("sole_now"));
    say!("  one of several         {} documents   (now {})", n("shared_then"), n("shared_now"));
    for (title, name) in [("nearest that meet it", "nearest_kept"), ("nearest that miss it", "nearest_dropped")] {
        say!("{title}:");
        for row in answer[name].as_array().into_iter().flatten() {
            let now = if row["kept"].as_bool().unwrap_or(false) { "kept" } else { "dropped" };
            say!(
                "  {:>12}  {}  now {now:<7}  {}",
                row["value"].to_string(),
                row["id"].as_str().unwrap_or(""),
                row["url"].as_str().unwrap_or("")
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_outcome_names_the_stage_the_rule_the_value_and_the_threshold() {
        let row = |stage: &str, of: &str, row: Value| json!({ "stage": stage, of: [row] });
        let dropped = row(
            "quality",
            "verdicts",
            json!({ "id": "a", "status": "dropped", "rule": "words", "value": 0.6104, "threshold": 0.7 }),
        );
        assert_eq!(outcome(std::slice::from_ref(&dropped), "a"), "dropped in `quality`: words 0.610 < 0.7");
        let kept = row(
            "shards",
            "rows",
            json!({ "id": "a", "split": "train", "shard": 0, "token_start": 123, "token_count": 10 }),
        );
        assert_eq!(outcome(&[kept], "a"), "kept to `shards`: train shard 0, tokens 123..133");
        let named = row(
            "lang",
            "verdicts",
            json!({ "id": "a", "status": "dropped", "rule": "keep", "value": 0.9, "reason": "de" }),
        );
        assert_eq!(outcome(&[named], "a"), "dropped in `lang`: keep, de");
        assert_eq!(outcome(&[row("demos", "rows", json!({ "id": "a" }))], "a"), "kept to `demos`");
        assert!(outcome(&[dropped], "b").contains("only in what was made from it"));
    }
}
