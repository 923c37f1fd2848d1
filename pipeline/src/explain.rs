//! Lineage: a document's way from its record to its tokens, and the documents behind a training step.

use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::execute::{self, RevisionStage};
use crate::report::value;
use crate::session::{block_on, register, session};
use crate::stage::tokenize::open;
use datafusion::prelude::{SessionContext, col, ident, lit};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Columns too long or too plain to show.
const HIDDEN: [&str; 5] = ["html", "text", "links", "token_ids", "logprobs"];

/// Every row about a document (or any other row id), stage by stage in plan order: verdicts with all measures, output
/// rows without their text, token positions, and what was derived from it.
pub fn explain(run: &Path, id: &str) -> Result<Vec<Value>> {
    let stages = execute::datasets(run)?;
    let session = session(None, None)?;
    block_on(async {
        let mut steps = Vec::new();
        let mut ids = BTreeSet::from([id.to_string()]);
        add_parents(&session, &stages, &mut ids).await?;
        for (stage, dataset) in &stages {
            let verdicts = find(&session, dataset, "verdicts-", "id", &ids).await?;
            let rows = find(&session, dataset, "part-", "id", &ids).await?;
            let edits = find(&session, dataset, "edits-", "id", &ids).await?;
            let children = find(&session, dataset, "part-", "parent_id", &ids).await?;
            if !verdicts.is_empty() || !rows.is_empty() || !children.is_empty() {
                steps.push(json!({ "stage": stage.name, "kind": stage.kind, "verdicts": verdicts, "rows": rows, "edits": edits, "derived": children.len(), "first_derived": children.first() }));
                if dataset.documents_dropped() {
                    steps.last_mut().expect("it was pushed one line up")["documents"] = "dropped".into();
                }
            }
        }
        if steps.is_empty() {
            return Err(Error::Manifest(format!(
                "error: no stage of {} knows the id {id}\nhint: find ids with  gristmill sql {} \"SELECT id, url FROM <stage> ORDER BY id LIMIT 5\"",
                run.display(),
                run.display()
            )));
        }
        Ok(steps)
    })
}

/// Where a document still is: its tokens in shards, the models whose training reached those shards or its rows, what was
/// derived from it. For take-downs: what must be made again once it is gone.
pub fn forward(run: &Path, id: &str) -> Result<Vec<Value>> {
    let stages = execute::datasets(run)?;
    let session = session(None, None)?;
    block_on(async {
        let mut places = Vec::new();
        let mut ids = BTreeSet::from([id.to_string()]);
        // Stages that hold it, by any way: models and exports hold what their inputs and base models hold.
        let mut holding: BTreeSet<String> = BTreeSet::new();
        for (stage, dataset) in &stages {
            let rows = find(&session, dataset, "part-", "id", &ids).await?;
            let derived = find(&session, dataset, "part-", "parent_id", &ids).await?;
            ids.extend(derived.iter().filter_map(|r| r.get("id").and_then(Value::as_str)).map(String::from));
            for row in &rows {
                let mut place = json!({ "stage": stage.name, "kind": stage.kind });
                for name in ["id", "split", "shard", "token_start", "token_count"] {
                    if let Some(value) = row.get(name) {
                        place[name] = value.clone();
                    }
                }
                places.push(place);
            }
            if !derived.is_empty() {
                places.push(json!({ "stage": stage.name, "kind": stage.kind, "derived_rows": derived.len() }));
            }
            let needs = stage.inputs.iter().chain(stage.references.values().flatten());
            let from: Vec<&String> = needs.filter(|n| holding.contains(*n)).collect();
            let is_table = dataset.receipt.files.iter().any(|f| f.path.starts_with("part-"));
            if !rows.is_empty() || !derived.is_empty() {
                // Models are trained on the split `train` alone: held-out tokens reach none.
                if rows.is_empty() || rows.iter().any(|r| r.get("split").and_then(Value::as_str) != Some("holdout")) {
                    holding.insert(stage.name.clone());
                }
            } else if !is_table && !from.is_empty() {
                holding.insert(stage.name.clone());
                places.push(json!({ "stage": stage.name, "kind": stage.kind, "through": from }));
            }
        }
        if places.is_empty() {
            return Err(Error::Manifest(format!("error: no stage of {} holds the id {id}", run.display())));
        }
        Ok(places)
    })
}

/// Follows `parent_id` upwards, so that explaining a rollout or a pair shows its prompt and its document too.
async fn add_parents(
    session: &SessionContext,
    stages: &[(RevisionStage, Dataset)],
    ids: &mut BTreeSet<String>,
) -> Result<()> {
    let mut frontier = ids.clone();
    while !frontier.is_empty() {
        let mut parents = BTreeSet::new();
        for (_, dataset) in stages {
            for row in find(session, dataset, "part-", "id", &frontier).await? {
                if let Some(parent) = row.get("parent_id").and_then(Value::as_str) {
                    parents.insert(parent.to_string());
                }
            }
        }
        frontier = parents.difference(ids).cloned().collect();
        ids.extend(frontier.iter().cloned());
    }
    Ok(())
}

/// Rows of a stage's files whose `column` is one of `ids`, without the long columns.
async fn find(
    session: &SessionContext,
    dataset: &Dataset,
    prefix: &str,
    column: &str,
    ids: &BTreeSet<String>,
) -> Result<Vec<Map<String, Value>>> {
    let files = dataset.files(prefix);
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let table = format!("explained_{}_{}", dataset.name, prefix.trim_end_matches('-'));
    if !session.table_exist(datafusion::common::TableReference::bare(table.as_str()))? {
        register(session, &table, &files).await?;
    }
    let frame = session.table(datafusion::common::TableReference::bare(table.as_str())).await?;
    let names: Vec<String> = frame.schema().fields().iter().map(|f| f.name().clone()).collect();
    if !names.iter().any(|n| n == column) {
        return Ok(Vec::new());
    }
    let wanted = ids.iter().map(|i| lit(i.clone())).collect();
    let shown: Vec<_> = names.iter().filter(|n| !HIDDEN.contains(&n.as_str())).map(ident).collect();
    let batches = frame.filter(col(column).in_list(wanted, false))?.select(shown)?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let schema = batch.schema();
            rows.push(
                schema.fields().iter().zip(batch.columns()).map(|(f, c)| (f.name().clone(), value(c, row))).collect(),
            );
        }
    }
    Ok(rows)
}

/// The documents whose tokens made one training step of a model stage.
pub fn trace(run: &Path, stage: Option<&str>, step: u64) -> Result<(String, Vec<Value>)> {
    let stages = execute::datasets(run)?;
    let is_model = |s: &&(RevisionStage, Dataset)| !s.1.files("trace-").is_empty();
    let models: Vec<&(RevisionStage, Dataset)> = stages.iter().filter(is_model).collect();
    let names: Vec<String> = models.iter().map(|(s, _)| s.name.clone()).collect();
    let (stage, dataset) = match stage {
        None => models.first().copied(),
        Some(name) => models.iter().find(|(s, _)| s.name == name).copied(),
    }
    .ok_or_else(|| {
        Error::Manifest(format!("error: no such model stage in {}   (known: {})", run.display(), names.join(", ")))
    })?;
    let session = session(None, None)?;
    block_on(async {
        register(&session, "trace", &dataset.files("trace-")).await?;
        let steps = session.sql("SELECT max(step) FROM trace").await?.collect().await?;
        let last = value(steps[0].column(0), 0).as_u64().unwrap_or(0);
        let batches = session.sql(&format!("SELECT * FROM trace WHERE step = {step}")).await?.collect().await?;
        let mut rows = Vec::new();
        for batch in &batches {
            let schema = batch.schema();
            for row in 0..batch.num_rows() {
                let columns = schema.fields().iter().zip(batch.columns());
                rows.push(Value::Object(columns.map(|(f, c)| (f.name().clone(), value(c, row))).collect()));
            }
        }
        let input =
            stage.inputs.first().and_then(|n| stages.iter().find(|(s, _)| s.name == *n && s.kind == "tokenize"));
        if let Some((_, shards)) = input {
            rows = documents_of(shards, &rows)?;
        }
        if rows.is_empty() {
            return Err(Error::Manifest(format!(
                "error: stage `{}` has no step {step}; its last is {last}",
                stage.name
            )));
        }
        add_urls(&session, &stages, &mut rows).await?;
        Ok((stage.name.clone(), rows))
    })
}

/// The documents in the windows of a step, in order of windows and tokens: by the shards' indexes, then their rows alone.
fn documents_of(shards: &Dataset, windows: &[Value]) -> Result<Vec<Value>> {
    let set = open::shards(shards, "train")?;
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or(0);
    let mut pieces = Vec::new();
    for row in windows {
        let (shard, start) = (number(row, "shard") as usize, number(row, "token_start"));
        let found = set.documents_in(shard, start..start + number(row, "token_count"));
        pieces.extend(found.map(|piece| (number(row, "step"), number(row, "window"), piece)));
    }
    pieces.sort_by_key(|(_, window, p)| (*window, p.shard, p.tokens.start));
    let wanted: BTreeSet<u64> = pieces.iter().map(|(_, _, p)| set.row(p.shard, p.document)).collect();
    let wanted: Vec<u64> = wanted.into_iter().collect();
    let table = open::Documents::open(shards)?.rows(&wanted, &["id", "stage"])?;
    let (ids, inputs) = (string_column(&table, "id")?, string_column(&table, "stage")?);
    let told = pieces.iter().map(|(step, window, p)| {
        let row = wanted.binary_search(&set.row(p.shard, p.document)).expect("the row was asked for");
        json!({
            "step": step, "window": window, "id": ids.value(row), "stage": inputs.value(row), "shard": p.shard,
            "token_start": p.tokens.start, "tokens": p.tokens.end - p.tokens.start,
        })
    });
    Ok(told.collect())
}

/// Adds `url` to rows whose document some stage knows it for.
async fn add_urls(session: &SessionContext, stages: &[(RevisionStage, Dataset)], rows: &mut [Value]) -> Result<()> {
    let key = |row: &Value| {
        row.get("parent_id").and_then(Value::as_str).or(row.get("id").and_then(Value::as_str)).map(String::from)
    };
    let ids: BTreeSet<String> = rows.iter().filter_map(key).collect();
    for (_, dataset) in stages.iter().filter(|(s, _)| s.kind == "ingest") {
        let found = find(session, dataset, "part-", "id", &ids).await?;
        for row in rows.iter_mut() {
            let id = key(row);
            let match_ = found.iter().find(|f| f.get("id").and_then(Value::as_str) == id.as_deref());
            if let (Some(found), Some(object)) = (match_, row.as_object_mut()) {
                object.insert("url".into(), found.get("url").cloned().unwrap_or(Value::Null));
            }
        }
    }
    Ok(())
}
