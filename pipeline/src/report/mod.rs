//! The report: one HTML file that shows a whole run and opens offline.

mod html;
mod svg;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::execute::{self, RevisionStage};
use crate::session::block_on;
use crate::tables;
use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type,
};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::prelude::SessionContext;
use serde_json::{Map, Value, json};
use std::path::Path;

/// One cell of a column as JSON: numbers, strings, lists and structs keep their shape.
pub fn value(array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(row).into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::List(_) => {
            let items = array.as_list::<i32>().value(row);
            Value::Array((0..items.len()).map(|i| value(&items, i)).collect())
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            Value::Object(fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), value(c, row))).collect())
        }
        _ => ArrayFormatter::try_new(array.as_ref(), &FormatOptions::default())
            .map_or(Value::Null, |f| f.value(row).to_string().into()),
    }
}

/// Rows of a query as JSON objects.
pub async fn rows(session: &SessionContext, query: &str) -> Result<Vec<Map<String, Value>>> {
    let batches = session.sql(query).await?.collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            rows.push(
                schema.fields().iter().zip(batch.columns()).map(|(f, c)| (f.name().clone(), value(c, row))).collect(),
            );
        }
    }
    Ok(rows)
}

/// Writes the report of a run; gives the HTML.
pub fn report(run: &Path) -> Result<String> {
    let stages = execute::datasets(run)?;
    let collected = block_on(async {
        let session = tables::open(run, None).await?;
        let mut collected = Vec::new();
        for (stage, dataset) in &stages {
            collected.push(collect(&session, stage, dataset).await?);
        }
        Ok::<_, crate::error::Error>(collected)
    })?;
    html::page(run, &collected)
}

/// What the page shows of one stage.
async fn collect(session: &SessionContext, stage: &RevisionStage, dataset: &Dataset) -> Result<Value> {
    let r = &dataset.receipt;
    let name = &stage.name;
    let mut shown = json!({
        "name": name, "kind": stage.kind, "inputs": stage.inputs, "references": stage.references, "rows": r.rows, "counts": r.counts,
        "bytes": r.files.iter().map(|f| f.bytes).sum::<u64>(), "secs": r.elapsed_secs, "digest": r.output_digest,
    });
    if !dataset.files("verdicts-").is_empty() {
        let table = format!("\"{name}_verdicts\"");
        let view = format!("{name}_all");
        let all = if session.table_exist(datafusion::common::TableReference::bare(view.as_str()))? {
            let frame = session.table(datafusion::common::TableReference::bare(view.as_str())).await?;
            let has = |name: &str| frame.schema().has_column_with_unqualified_name(name);
            (format!("\"{view}\""), has("url"), has("text"))
        } else {
            (table.clone(), false, false)
        };
        let (source, url) = (all.0, if all.1 { "url" } else { "NULL" });
        let bytes = if all.2 { "octet_length(text)" } else { "0" };
        // A row dropped without a list of rules (a damaged record) has one cause: the rule it names.
        shown["reasons"] = json!(
            rows(
                session,
                &format!(
                    "SELECT missed AS rule, status, count(*) AS n, count(*) FILTER (WHERE causes = 1) AS sole, \
                     count(*) FILTER (WHERE causes > 1) AS shared, count(*) FILTER (WHERE rule = missed) AS marginal, \
                     coalesce(sum(bytes) FILTER (WHERE causes = 1), 0) AS sole_bytes FROM (\
                     SELECT rule, status, {bytes} AS bytes, greatest(cardinality(failed_rules), 1) AS causes, \
                     unnest(CASE WHEN cardinality(failed_rules) > 0 THEN failed_rules ELSE make_array(rule) END) AS missed \
                     FROM {source} WHERE status <> 'kept') GROUP BY missed, status ORDER BY n DESC, missed LIMIT 40"
                )
            )
            .await?
        );
        shown["samples"] = json!(rows(session, &format!(
            "SELECT rule, id, value, threshold, reason, url FROM (SELECT rule, id, value, threshold, reason, {url} AS url, row_number() OVER (PARTITION BY rule ORDER BY id) AS place \
             FROM {source} WHERE status <> 'kept') WHERE place <= 3 ORDER BY rule, id LIMIT 60"
        )).await?);
    }
    let columns: Vec<String> =
        dataset.schema().map(|s| s.fields().iter().map(|f| f.name().clone()).collect()).unwrap_or_default();
    let has = |c: &str| columns.iter().any(|n| n == c);
    if stage.kind == "language" {
        shown["languages"] = json!(rows(session, &format!("SELECT language, count(*) AS n FROM \"{name}_verdicts\" GROUP BY language ORDER BY n DESC, language LIMIT 24")).await?);
    }
    if has("text") && has("text_hash") {
        let query = format!(
            "SELECT least(20, floor(log2(greatest(octet_length(text), 1)))) AS power, count(*) AS n FROM \"{name}\" GROUP BY 1 ORDER BY 1"
        );
        shown["lengths"] = json!(rows(session, &query).await?);
    }
    if !dataset.files("metrics-").is_empty() {
        shown["metrics"] = json!(rows(session, &format!("SELECT * FROM \"{name}_metrics\" ORDER BY step")).await?);
    }
    if stage.kind == "eval" {
        shown["scores"] = json!(
            rows(
                session,
                &format!(
                    "SELECT model, task, metric, value, standard_error, n FROM \"{name}\" ORDER BY task, metric, model"
                )
            )
            .await?
        );
    }
    if stage.kind == "rollout" && has("completion") {
        shown["rollouts"] = json!(
            rows(session, &format!("SELECT task, prompt, answer, completion FROM \"{name}\" ORDER BY id LIMIT 8"))
                .await?
        );
    }
    Ok(shown)
}
