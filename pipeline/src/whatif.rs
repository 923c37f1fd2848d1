//! What another threshold would do, answered from stored measures alone: nothing runs.
//!
//! A document's verdict row has every measure and every rule it missed, so the decision under another threshold of one
//! rule is known: it is kept if it misses no other rule and meets the new threshold.

use crate::error::{Error, Result};
use crate::execute;
use crate::report::rows;
use crate::session::block_on;
use crate::tables;
use filters::rules::{Direction, known_rules};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Documents shown on each side of the threshold.
const SAMPLES: usize = 8;

/// Which measure of which stage a rule is about.
struct Asked {
    stage: String,
    input: String,
    column: String,
    direction: Direction,
}

/// Documents, bytes and (by the run's bytes per token) tokens gained or lost if `rule` had `threshold`; sole and shared
/// causes before and after; the documents nearest to the threshold. `stage` is needed if several stages have the rule.
pub fn what_if(run: &Path, stage: Option<&str>, rule: &str, threshold: f64) -> Result<Value> {
    let stages = execute::datasets(run)?;
    block_on(async {
        let session = tables::open(run, None).await?;
        let asked = find(&session, &stages, stage, rule).await?;
        let (table, column) = (format!("\"{}_all\"", asked.stage), format!("\"{}\"", asked.column));
        let (meets, order) = match asked.direction {
            Direction::AtLeast => (">=", "DESC"),
            Direction::AtMost => ("<=", "ASC"),
        };
        let quoted = rule.replace('\'', "''");
        let has_text = session.table(table.trim_matches('"')).await?.schema().has_column_with_unqualified_name("text");
        let bytes = if has_text { "octet_length(text)" } else { "0" };
        // A null measure is not computable and never a reason.
        let base = format!(
            "SELECT id, {bytes} AS bytes, {column} AS value, status = 'kept' AS kept, \
             array_has(failed_rules, '{quoted}') AS missed, \
             cardinality(array_remove_all(failed_rules, '{quoted}')) AS others, \
             NOT coalesce({column} {meets} {threshold:?}, true) AS misses \
             FROM {table} WHERE status <> 'failed'"
        );
        let count = |name: &str, condition: &str| {
            format!(
                "count(*) FILTER (WHERE {condition}) AS {name}, coalesce(sum(bytes) FILTER (WHERE {condition}), 0) AS {name}_bytes"
            )
        };
        let counts = [
            count("documents", "true"),
            count("kept_now", "kept"),
            count("kept_then", "coalesce(others, 0) = 0 AND NOT misses"),
            count("gained", "NOT kept AND coalesce(others, 0) = 0 AND NOT misses"),
            count("lost", "kept AND misses"),
            count("sole_now", "missed AND coalesce(others, 0) = 0"),
            count("shared_now", "missed AND others > 0"),
            count("sole_then", "misses AND coalesce(others, 0) = 0"),
            count("shared_then", "misses AND others > 0"),
        ];
        let found = rows(&session, &format!("SELECT {} FROM ({base})", counts.join(", "))).await?;
        let found = found.into_iter().next().expect("an aggregate has one row");
        let url = session.table(table.trim_matches('"')).await?.schema().has_column_with_unqualified_name("url");
        let url = if url { "url" } else { "NULL" };
        let near = |side: &str| {
            format!(
                "SELECT id, value, kept, misses, url FROM (SELECT b.*, a.url FROM ({base}) b JOIN (SELECT id AS key, {url} AS url FROM {table}) a \
                 ON b.id = a.key) WHERE value IS NOT NULL AND {side} ORDER BY abs(value - {threshold:?}), value {order}, id LIMIT {SAMPLES}"
            )
        };
        let bytes_per_token = bytes_per_token(&session, &stages).await?;
        let tokens = |name: &str| {
            let bytes = found[&format!("{name}_bytes")].as_f64().unwrap_or(0.0);
            bytes_per_token.map(|ratio| (bytes / ratio).round())
        };
        Ok(json!({
            "stage": asked.stage, "input": asked.input, "rule": rule, "threshold": threshold,
            "keeps": if asked.direction == Direction::AtLeast { "at least" } else { "at most" },
            "counts": found,
            "gained_tokens": tokens("gained"), "lost_tokens": tokens("lost"),
            "nearest_kept": rows(&session, &near("NOT misses")).await?,
            "nearest_dropped": rows(&session, &near("misses")).await?,
        }))
    })
}

async fn find(
    session: &datafusion::prelude::SessionContext,
    stages: &[(execute::RevisionStage, crate::dataset::Dataset)],
    stage: Option<&str>,
    rule: &str,
) -> Result<Asked> {
    let mut found = Vec::new();
    let mut known = Vec::new();
    for (s, dataset) in stages.iter().filter(|(s, d)| !d.files("verdicts-").is_empty() && !s.inputs.is_empty()) {
        let table = session.table(format!("\"{}_verdicts\"", s.name)).await?;
        let columns: Vec<String> = table.schema().fields().iter().map(|f| f.name().clone()).collect();
        let measures = known_rules().iter().map(|k| (k.name, k.name, k.direction));
        let own = measures.chain([("language.min_score", "language_score", Direction::AtLeast)]);
        for (name, column, direction) in own.filter(|(_, c, _)| columns.iter().any(|n| n == c)) {
            known.push(name.to_string());
            if name == rule && stage.is_none_or(|wanted| wanted == s.name) {
                let input = s.inputs[0].clone();
                found.push(Asked { stage: dataset.name.clone(), input, column: column.into(), direction });
            }
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            let hint = crate::manifest::nearest(rule, &known).map(|n| format!("\nhint: did you mean `{n}`?"));
            let at = stage.map(|s| format!(" of stage `{s}`")).unwrap_or_default();
            known.dedup();
            Err(Error::Manifest(format!(
                "error: no verdicts{at} have measures of the rule `{rule}`   (known: {}){}",
                known.join(", "),
                hint.unwrap_or_default()
            )))
        }
        _ => {
            let names: Vec<String> = found.into_iter().map(|a| a.stage).collect();
            Err(Error::Manifest(format!(
                "error: stages {} have the rule `{rule}`\nhint: choose one with --stage NAME",
                names.join(" and ")
            )))
        }
    }
}

/// Bytes of text per token, by the run's first `tokenize` stage.
async fn bytes_per_token(
    session: &datafusion::prelude::SessionContext,
    stages: &[(execute::RevisionStage, crate::dataset::Dataset)],
) -> Result<Option<f64>> {
    let Some((tokenize, _)) = stages.iter().find(|(s, _)| s.kind == "tokenize") else { return Ok(None) };
    let query = format!("SELECT sum(token_count) AS tokens, sum(byte_count) AS bytes FROM \"{}\"", tokenize.name);
    let found = rows(session, &query).await?;
    let sum = |name: &str| found.first().and_then(|r: &Map<String, Value>| r[name].as_f64()).unwrap_or(0.0);
    let (tokens, bytes) = (sum("tokens"), sum("bytes"));
    Ok((tokens > 0.0 && bytes > 0.0).then(|| bytes / tokens))
}
