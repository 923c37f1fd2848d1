//! `sql`: any SELECT over earlier stages, committed in an order that the query or the rows fix.

pub mod check;
mod ties;

use super::{Context, Output};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
#[cfg(feature = "ballista")]
use crate::session::block_on_io;
use crate::session::{block_on, register};
use crate::sink::TableSink;
use crate::store::FragmentRecord;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext, ident};
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of a `sql` stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SqlConfig {
    /// A SELECT. Inputs are tables under their stage names, their verdicts are `<stage>_verdicts`, their edits `<stage>_edits`. Rows are committed in
    /// ORDER BY order, else by `id`, else by all columns.
    pub query: String,
    /// Allows windows and cross joins, whose memory no limit bounds.
    pub unbounded: bool,
}

impl Options for SqlConfig {
    fn check(&self) -> Vec<OptionFault> {
        if self.query.trim().is_empty() { vec![OptionFault::new("query", "expected a SELECT")] } else { Vec::new() }
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &SqlConfig) -> Result<Output> {
    let fragments = select(context, &config.query, config.unbounded)?;
    let rows = fragments[0].files[0].rows.unwrap_or_default();
    Ok(Output { fragments, note: format!("{rows} rows"), ..Output::default() })
}

/// Runs a query over the inputs as the stage's one fragment.
pub fn select(context: &Context<'_>, query: &str, unbounded: bool) -> Result<Vec<FragmentRecord>> {
    context.fragments("", 1, |_| {
        let session = context.session_of(context.settings.cut.partitions)?;
        match &context.settings.engine {
            Engine::Local => block_on(write(context, &session, query, unbounded)),
            #[cfg(feature = "ballista")]
            Engine::Ballista(cluster) => {
                let session = cluster.session(&session.state())?;
                block_on_io(write(context, &session, query, unbounded))
            }
        }
    })
}

/// Plans the query over the inputs' files and writes its rows.
async fn write(
    context: &Context<'_>,
    session: &SessionContext,
    query: &str,
    unbounded: bool,
) -> Result<FragmentRecord> {
    for input in &context.inputs {
        register(session, &input.name, &input.parts()).await?;
        for kind in ["verdicts", "edits"] {
            let files = input.files(&format!("{kind}-"));
            if !files.is_empty() {
                register(session, &format!("{}_{kind}", input.name), &files).await?;
            }
        }
    }
    let (mut frame, schema) = planned(session, query, unbounded).await?;
    if context.settings.memory_limit_bytes.is_some() && joins(&frame.clone().into_optimized_plan()?)? {
        // In a plan of one partition the engine has only a hash join, which does not spill; in one of two the sorts below and above a
        // sort-merge join are six, which share what one has else.
        let partitions = context.settings.cut.partitions.max(2);
        {
            let state = session.state_ref();
            let mut state = state.write();
            let execution = &mut state.config_mut().options_mut().execution;
            execution.target_partitions = partitions;
            execution.sort_spill_reservation_bytes /= 4;
        }
        frame = planned(session, query, unbounded).await?.0;
    }
    let mut sink = TableSink::create(&context.out.path, "part-00000.parquet", schema.clone())?;
    let mut stream = frame.execute_stream().await?;
    while let Some(batch) = stream.next().await {
        sink.write(&plain(&batch?, &schema)?)?;
    }
    let entry = sink.finish()?;
    let mut record = FragmentRecord { files: vec![entry], ..FragmentRecord::default() };
    record.add("kept", record.files[0].rows.unwrap_or_default());
    Ok(record)
}

/// Whether an optimised plan, in which subqueries are joins, has one.
fn joins(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Join(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// The query as it will run, with the columns of its file.
pub(crate) async fn planned(session: &SessionContext, query: &str, unbounded: bool) -> Result<(DataFrame, SchemaRef)> {
    let frame = ordered(check::check(read_only(session, query).await?, unbounded)?)?;
    let schema = plain_schema(frame.schema().as_arrow());
    if let Some(field) = schema.fields().iter().find(|f| matches!(f.data_type(), DataType::Interval(_))) {
        return Err(Error::Manifest(format!(
            "error: column `{}` of the query is an interval, which Parquet cannot hold\nhint: take a number out of it, e.g. \
             date_part('epoch', …), or cast it to text",
            field.name()
        )));
    }
    let names: Vec<&String> = schema.fields().iter().map(|f| f.name()).collect();
    match names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
        None => Ok((frame, schema)),
        Some((_, twice)) => Err(two_columns(twice)),
    }
}

fn two_columns(name: &str) -> Error {
    Error::Manifest(format!(
        "error: the query gives two columns the name `{name}`\nhint: rename one with AS, or name the columns you want in place of *"
    ))
}

/// The column that the engine says an expression list has twice.
fn named_twice(said: &str) -> Option<&str> {
    let whole = match said.split_once("require unique expression names but the expression \"") {
        Some((_, rest)) => rest.split_once("\" at position").map_or(rest, |(name, _)| name),
        None => {
            let (_, rest) = said.split_once("Schema contains ")?;
            rest.rsplit_once("field name ")?.1.split_whitespace().next()?
        }
    };
    Some(whole.rsplit_once('.').map_or(whole, |(_, name)| name).trim_matches('"'))
}

/// The columns a query gives over inputs of these shapes, or why it may not run.
pub fn columns(
    session: &SessionContext,
    inputs: &[(&str, super::shape::Shape)],
    query: &str,
    unbounded: bool,
) -> Result<SchemaRef> {
    let table = |name: String, schema: &SchemaRef| -> Result<()> {
        let view = super::shape::empty(session, schema)?.into_view();
        session.register_table(datafusion::common::TableReference::bare(name), view)?;
        Ok(())
    };
    for (name, shape) in inputs {
        table((*name).to_string(), &shape.rows)?;
        for (kind, schema) in [("verdicts", &shape.verdicts), ("edits", &shape.edits)] {
            schema.as_ref().map_or(Ok(()), |schema| table(format!("{name}_{kind}"), schema))?;
        }
    }
    block_on(async {
        let (frame, schema) = planned(session, query, unbounded).await.map_err(|e| no_input(e, inputs))?;
        frame.create_physical_plan().await?;
        Ok(schema)
    })
}

/// The engine's words for a table it does not know, in the manifest's.
fn no_input(e: Error, inputs: &[(&str, super::shape::Shape)]) -> Error {
    let text = e.to_string();
    let Some((_, rest)) = text.split_once("table 'datafusion.public.") else { return e };
    let Some((name, _)) = rest.split_once("' not found") else { return e };
    let known: Vec<&str> = inputs.iter().map(|(n, _)| *n).collect();
    Error::Manifest(format!(
        "error: the query reads `{name}`, which is no input of the stage   (inputs: {})\nhint: add it:  inputs = [\"{}\", \"{name}\"]",
        known.join(", "),
        known.join("\", \"")
    ))
}

/// Plans a query that may only read registered tables.
pub async fn read_only(session: &SessionContext, query: &str) -> Result<DataFrame> {
    select_only(session, query).await.map_err(|e| {
        if let Some(twice) = named_twice(&e.strip_backtrace()) {
            return two_columns(twice);
        }
        Error::Manifest(format!(
            "error: {}\nhint: a query is one SELECT over the tables of the run; `\\d` in the shell of `gristmill sql` lists them",
            e.strip_backtrace()
        ))
    })
}

/// The same with the engine's own error.
pub async fn select_only(session: &SessionContext, query: &str) -> datafusion::common::Result<DataFrame> {
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    session.sql_with_options(query, options).await
}

/// The rows in ORDER BY order, else by `id` and the other columns, else by all columns.
fn ordered(frame: DataFrame) -> Result<DataFrame> {
    let root = match frame.logical_plan() {
        LogicalPlan::Limit(limit) => limit.input.as_ref(),
        other => other,
    };
    if check::sorted_below(root) {
        return Ok(frame);
    }
    let mut names: Vec<String> =
        frame.schema().fields().iter().filter(|f| !f.data_type().is_nested()).map(|f| f.name().clone()).collect();
    names.sort_by_key(|n| n != "id");
    let keys: Vec<_> = names.iter().map(|n| ident(n).sort(true, true)).collect();
    Ok(if keys.is_empty() { frame } else { frame.sort(keys)? })
}

/// View and large types as the plain ones that files hold.
fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| Field::new(f.name(), plain_type(f.data_type()), f.is_nullable()));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) => {
            DataType::List(Arc::new(Field::new("item", plain_type(f.data_type()), true)))
        }
        DataType::Null => DataType::Utf8,
        other => other.clone(),
    }
}

/// A batch with the columns cast to plain types.
pub fn plain(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(c, f)| cast(c, f.data_type()));
    Ok(RecordBatch::try_new(schema.clone(), columns.collect::<std::result::Result<_, _>>()?)?)
}
