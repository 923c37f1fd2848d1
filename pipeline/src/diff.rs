//! What differs between two runs: fields of their stages, and rows that one has and the other has not, with the reason.

use crate::dataset::Dataset;
use crate::error::Result;
use crate::execute::{self, RevisionStage};
use crate::plan::{self, Key};
use crate::report::rows;
use crate::session::{block_on, register, session};
use datafusion::prelude::SessionContext;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Rows named on each side of a difference.
const SAMPLES: usize = 5;

type Stages = Vec<(RevisionStage, Dataset)>;

/// One object per stage of either run, in plan order: `same`, or its changed fields and its rows in one run only, counted by
/// the reason for which the other run has not got them.
pub fn diff(a: &Path, b: &Path) -> Result<Vec<Value>> {
    let (ours, theirs) = (execute::datasets(a)?, execute::datasets(b)?);
    let session = session(None, None)?;
    block_on(async {
        for (side, stages) in [("a", &ours), ("b", &theirs)] {
            for (stage, dataset) in stages {
                for (prefix, suffix) in [("part-", ""), ("verdicts-", "_verdicts")] {
                    let files = dataset.files(prefix);
                    if !files.is_empty() {
                        register(&session, &format!("{side}_{}{suffix}", stage.name), &files).await?;
                    }
                }
            }
        }
        let mut found = Vec::new();
        for (stage, dataset) in &ours {
            match theirs.iter().find(|(s, _)| s.name == stage.name) {
                None => found.push(json!({ "stage": stage.name, "only_in": a })),
                Some((_, other)) => found.push(one(&session, (stage, dataset), other, &ours, &theirs).await?),
            }
        }
        for (stage, _) in theirs.iter().filter(|(s, _)| !ours.iter().any(|(o, _)| o.name == s.name)) {
            found.push(json!({ "stage": stage.name, "only_in": b }));
        }
        Ok(found)
    })
}

async fn one(
    session: &SessionContext,
    (stage, ours): (&RevisionStage, &Dataset),
    theirs: &Dataset,
    all_ours: &Stages,
    all_theirs: &Stages,
) -> Result<Value> {
    if ours.receipt.output_digest == theirs.receipt.output_digest {
        return Ok(json!({ "stage": stage.name, "same": true, "rows": ours.receipt.rows }));
    }
    let mut shown = json!({
        "stage": stage.name, "same": false, "rows": [ours.receipt.rows, theirs.receipt.rows],
        "fields": fields(ours, theirs),
    });
    let has_id = |d: &Dataset| d.schema().is_ok_and(|s| s.column_with_name("id").is_some());
    if has_id(ours) && has_id(theirs) {
        shown["only_a"] = missing(session, &stage.name, ("a", "b"), all_ours, all_theirs).await?;
        shown["only_b"] = missing(session, &stage.name, ("b", "a"), all_theirs, all_ours).await?;
        let same = ours.schema()?.column_with_name("text_hash").is_some()
            && theirs.schema()?.column_with_name("text_hash").is_some();
        if same {
            let query = format!(
                "SELECT count(*) AS n FROM \"a_{0}\" a JOIN \"b_{0}\" b ON a.id = b.id WHERE a.text_hash <> b.text_hash",
                stage.name
            );
            shown["other_text"] = rows(session, &query).await?[0]["n"].clone();
        }
    }
    Ok(shown)
}

/// Fields of the two keys that differ: path, value of one, value of the other.
fn fields(ours: &Dataset, theirs: &Dataset) -> Vec<Value> {
    let key =
        |d: &Dataset| -> Option<Key> { serde_json::from_slice(&std::fs::read(d.path.join(plan::KEY)).ok()?).ok() };
    let (Some(a), Some(b)) = (key(ours), key(theirs)) else { return Vec::new() };
    let mut found = Vec::new();
    differences("", &json!(a), &json!(b), &mut found);
    found
}

fn differences(path: &str, a: &Value, b: &Value, found: &mut Vec<Value>) {
    match (a, b) {
        (a, b) if a == b => {}
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                differences(&path, x.get(key).unwrap_or(&Value::Null), y.get(key).unwrap_or(&Value::Null), found);
            }
        }
        // A changed input shows in the stage that made it.
        (Value::Array(x), Value::Array(y)) if path == "inputs" => {
            for (x, y) in x.iter().zip(y).filter(|(x, y)| x != y) {
                let name = |v: &Value| v["stage"].as_str().unwrap_or("?").to_string();
                found.push(json!({ "field": "input", "a": name(x), "b": name(y) }));
            }
        }
        (a, b) => found.push(json!({ "field": path, "a": a, "b": b })),
    }
}

/// Rows of `stage` on side `here` that the side `there` lacks, by the stage and rule that dropped them there.
async fn missing(
    session: &SessionContext,
    stage: &str,
    (here, there): (&str, &str),
    own: &Stages,
    stages: &Stages,
) -> Result<Value> {
    let lost = format!("SELECT h.id FROM \"{here}_{stage}\" h LEFT ANTI JOIN \"{there}_{stage}\" t ON h.id = t.id");
    let total = rows(session, &format!("SELECT count(*) AS n FROM ({lost})")).await?[0]["n"].clone();
    let mut reasons: Vec<Map<String, Value>> = Vec::new();
    if total.as_u64().unwrap_or(0) > 0 {
        for (s, _) in stages.iter().filter(|(_, d)| !d.files("verdicts-").is_empty()) {
            let query = format!(
                "SELECT '{0}' AS stage, v.rule, count(*) AS n, min(v.id) AS example FROM \"{there}_{0}_verdicts\" v \
                 JOIN ({lost}) l ON l.id = v.id WHERE v.status <> 'kept' GROUP BY v.rule ORDER BY n DESC, v.rule",
                s.name
            );
            reasons.extend(rows(session, &query).await?);
            if s.name == stage {
                break;
            }
        }
    }
    let examples = rows(session, &format!("SELECT id FROM ({lost}) ORDER BY id LIMIT {SAMPLES}")).await?;
    let examples: Vec<&Value> = examples.iter().map(|r| &r["id"]).collect();
    let known: u64 = reasons.iter().filter_map(|r| r["n"].as_u64()).sum();
    Ok(json!({
        "rows": total, "reasons": reasons, "examples": examples,
        "not_read": not_read(session, &lost, (here, there), own, stages).await?,
        "not_in_its_input": total.as_u64().unwrap_or(0).saturating_sub(known),
    }))
}

/// How many of the rows of the query `lost` an `ingest` stage of side `here` read and none of side `there` did, damaged or not.
async fn not_read(
    session: &SessionContext,
    lost: &str,
    (here, there): (&str, &str),
    own: &Stages,
    stages: &Stages,
) -> Result<u64> {
    let ids = |side: &str, stages: &Stages| {
        let mut tables = Vec::new();
        for (stage, dataset) in stages.iter().filter(|(s, _)| s.kind == "ingest") {
            for (prefix, suffix) in [("part-", ""), ("verdicts-", "_verdicts")] {
                if !dataset.files(prefix).is_empty() {
                    tables.push(format!("SELECT id FROM \"{side}_{}{suffix}\"", stage.name));
                }
            }
        }
        tables.join(" UNION ALL ")
    };
    let (read_here, read_there) = (ids(here, own), ids(there, stages));
    if read_here.is_empty() {
        return Ok(0);
    }
    let mut query = format!("SELECT count(*) AS n FROM ({lost}) l LEFT SEMI JOIN ({read_here}) h ON l.id = h.id");
    if !read_there.is_empty() {
        query += &format!(" LEFT ANTI JOIN ({read_there}) t ON l.id = t.id");
    }
    Ok(rows(session, &query).await?[0]["n"].as_u64().unwrap_or(0))
}
