//! A run as SQL sees it: stage `x` is table `x`, its verdicts `x_verdicts`, both joined `x_all`, its edits `x_edits`, and `stages`. A
//! stage whose documents were dropped (`retain`) has no table `x`, and `x_all` of what read it has the columns of its verdicts alone.

use crate::dataset::Dataset;
use crate::error::Result;
use crate::execute::{self, RevisionStage};
use crate::session::{register, session};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use std::path::Path;
use std::sync::Arc;

/// Opens a read-only session over the finished stages of a run.
pub async fn open(run: &Path, memory_limit_bytes: Option<u64>) -> Result<SessionContext> {
    let context = session(memory_limit_bytes, None)?;
    let stages = execute::datasets(run)?;
    for (stage, dataset) in &stages {
        register_stage(&context, &stages, stage, dataset).await?;
    }
    context.register_table("stages", Arc::new(summary(&stages)?))?;
    Ok(context)
}

async fn register_stage(
    context: &SessionContext,
    stages: &[(RevisionStage, Dataset)],
    stage: &RevisionStage,
    dataset: &Dataset,
) -> Result<()> {
    let parts = dataset.parts();
    if !parts.is_empty() {
        register(context, &stage.name, &parts).await?;
    }
    for (prefix, suffix) in [
        ("verdicts-", "verdicts"),
        ("edits-", "edits"),
        ("metrics-", "metrics"),
        ("report-", "report"),
        ("trace-", "trace"),
    ] {
        let files = dataset.files(prefix);
        if !files.is_empty() {
            register(context, &format!("{}_{suffix}", stage.name), &files).await?;
        }
    }
    let input = stage.inputs.first().and_then(|name| stages.iter().find(|(s, _)| s.name == *name));
    let verdicts = format!("{}_verdicts", stage.name);
    if !dataset.files("verdicts-").is_empty()
        && let Some((_, input)) = input
    {
        // The input's columns beside the verdict: everything that was looked at, kept or not.
        let own =
            context.table(&verdicts).await?.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        // Of an input whose documents were dropped, nothing is left to be shown beside the verdict.
        let theirs = if input.documents_dropped() { Arc::new(Schema::empty()) } else { input.schema()? };
        let columns =
            theirs.fields().iter().map(|f| f.name()).filter(|n| !own.contains(n)).map(|n| format!(", i.\"{n}\""));
        let columns: String = columns.collect();
        let join = match input.documents_dropped() {
            true => String::new(),
            false => format!(" LEFT JOIN \"{}\" i ON v.id = i.id", input.name),
        };
        let query = format!("SELECT v.*{columns} FROM \"{verdicts}\" v{join}");
        let view = context.sql(&query).await?.into_view();
        context.register_table(datafusion::common::TableReference::bare(format!("{}_all", stage.name)), view)?;
    }
    Ok(())
}

fn summary(stages: &[(RevisionStage, Dataset)]) -> Result<MemTable> {
    let text = |f: &dyn Fn(&(RevisionStage, Dataset)) -> String| {
        Arc::new(stages.iter().map(|s| Some(f(s))).collect::<StringArray>()) as ArrayRef
    };
    let count = |name: &'static str| {
        Arc::new(stages.iter().map(|(_, d)| d.receipt.counts.get(name).copied()).collect::<UInt64Array>()) as ArrayRef
    };
    let number = |f: &dyn Fn(&Dataset) -> u64| {
        Arc::new(stages.iter().map(|(_, d)| Some(f(d))).collect::<UInt64Array>()) as ArrayRef
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("name", text(&|s| s.0.name.clone())),
        ("kind", text(&|s| s.0.kind.clone())),
        ("inputs", text(&|s| s.0.inputs.join(" "))),
        ("rows_in", count("in")),
        ("kept", count("kept")),
        ("dropped", count("dropped")),
        ("failed", count("failed")),
        ("rows", number(&|d| d.receipt.rows)),
        ("bytes", number(&|d| d.receipt.files.iter().map(|f| f.bytes).sum())),
        ("digest", text(&|s| s.0.digest.clone())),
        ("documents", text(&|s| if s.1.documents_dropped() { "dropped" } else { "stored" }.to_string())),
    ];
    let fields: Vec<Field> = columns.iter().map(|(n, a)| Field::new(*n, a.data_type().clone(), true)).collect();
    debug_assert!(fields.iter().all(|f| *f.data_type() == DataType::Utf8 || *f.data_type() == DataType::UInt64));
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|(_, a)| a).collect())?;
    Ok(MemTable::try_new(schema, vec![vec![batch]])?)
}
