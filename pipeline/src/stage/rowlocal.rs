//! What row-local stages share: one plan per fragment, streamed batch by batch into a part and a verdict file.

use super::Context;
use crate::error::Result;
use crate::session::block_on;
use crate::sink::TableSink;
use crate::store::FragmentRecord;
use crate::store::durable::FileEntry;
use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::prelude::{DataFrame, ParquetReadOptions};
use futures::StreamExt;
use std::path::Path;

/// What one batch became: the output rows before the decision, which of them stay, and the verdict rows.
pub struct Decided {
    /// Output columns of all input rows.
    pub rows: RecordBatch,
    /// Which rows stay.
    pub keep: BooleanArray,
    /// One verdict per input row.
    pub verdicts: RecordBatch,
    /// What stages that change a text changed, with the columns of `schema::edits`.
    pub edits: Option<RecordBatch>,
    /// What was counted.
    pub counts: FragmentRecord,
}

/// Runs `plan` over every input fragment and `decide` over every batch of its result.
pub fn run(
    context: &Context<'_>,
    plan: impl Fn(DataFrame) -> Result<DataFrame> + Sync,
    decide: impl Fn(RecordBatch) -> Result<Decided> + Sync,
) -> Result<Vec<FragmentRecord>> {
    let parts = context.input().parts();
    context.spread("", parts.len(), |index| fragment(context, &parts[index], index, &plan, &decide))
}

/// `decide` over every batch of one input fragment as it stands: for stages that decide without a plan.
pub fn rewrite(
    context: &Context<'_>,
    part: &Path,
    index: usize,
    mut decide: impl FnMut(RecordBatch) -> Result<Decided>,
) -> Result<FragmentRecord> {
    let schema = context.input().schema()?;
    let first = decide(RecordBatch::new_empty(schema.clone()))?;
    let mut files = Files::of(context, index, &first)?;
    let mut record = FragmentRecord::default();
    let all: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    context.input().each(part, &all, |batch| files.add(&decide(batch)?, &mut record))?;
    record.files = files.finish()?;
    Ok(record)
}

/// What `decide` makes of no rows: the columns of a stage's files.
pub fn dry(
    frame: DataFrame,
    plan: impl Fn(DataFrame) -> Result<DataFrame>,
    decide: impl Fn(RecordBatch) -> Result<Decided>,
) -> Result<Decided> {
    decide(no_rows(&plan(frame)?))
}

fn no_rows(frame: &DataFrame) -> RecordBatch {
    RecordBatch::new_empty(std::sync::Arc::new(frame.schema().as_arrow().clone()))
}

fn fragment(
    context: &Context<'_>,
    part: &Path,
    index: usize,
    plan: &impl Fn(DataFrame) -> Result<DataFrame>,
    decide: &impl Fn(RecordBatch) -> Result<Decided>,
) -> Result<FragmentRecord> {
    let session = context.session()?;
    block_on(async {
        let frame = session.read_parquet(part.to_string_lossy().into_owned(), ParquetReadOptions::default()).await?;
        let frame = plan(frame)?;
        let empty = no_rows(&frame);
        let mut stream = frame.execute_stream().await?;
        let first = decide(empty)?;
        let mut files = Files::of(context, index, &first)?;
        let mut record = FragmentRecord::default();
        while let Some(batch) = stream.next().await {
            files.add(&decide(batch?)?, &mut record)?;
        }
        record.files = files.finish()?;
        Ok(record)
    })
}

/// The files of one fragment: `part-NNNNN.parquet`, `verdicts-NNNNN.parquet` and, of stages that change texts,
/// `edits-NNNNN.parquet`.
pub struct Files {
    /// Rows that stay.
    pub kept: TableSink,
    /// One row per input row.
    pub verdicts: TableSink,
    /// What was changed.
    pub edits: Option<TableSink>,
}

impl Files {
    /// Starts the files of a fragment.
    pub fn create(
        context: &Context<'_>,
        index: usize,
        rows: SchemaRef,
        verdicts: SchemaRef,
        edits: Option<SchemaRef>,
    ) -> Result<Self> {
        let create = |name: &str, schema: SchemaRef| {
            TableSink::create(&context.out.path, &format!("{name}-{index:05}.parquet"), schema)
        };
        Ok(Self {
            kept: create("part", rows)?,
            verdicts: create("verdicts", verdicts)?,
            edits: edits.map(|schema| create("edits", schema)).transpose()?,
        })
    }

    /// Starts the files of a fragment; `first` gives their columns.
    pub fn of(context: &Context<'_>, index: usize, first: &Decided) -> Result<Self> {
        let edits = first.edits.as_ref().map(RecordBatch::schema);
        Self::create(context, index, first.rows.schema(), first.verdicts.schema(), edits)
    }

    /// Adds a batch, and what was counted in it to the fragment's counts.
    pub fn add(&mut self, decided: &Decided, record: &mut FragmentRecord) -> Result<()> {
        decided.counts.counts.iter().for_each(|(name, n)| record.add(name, *n));
        self.kept.write(&filter_record_batch(&decided.rows, &decided.keep)?)?;
        self.verdicts.write(&decided.verdicts)?;
        if let (Some(sink), Some(rows)) = (&mut self.edits, &decided.edits) {
            sink.write(rows)?;
        }
        Ok(())
    }

    /// Commits the files, in writing order.
    pub fn finish(self) -> Result<Vec<FileEntry>> {
        let mut entries = vec![self.kept.finish()?, self.verdicts.finish()?];
        entries.extend(self.edits.map(TableSink::finish).transpose()?);
        Ok(entries)
    }
}

/// The line that sums a deciding stage up.
pub fn summary(fragments: &[FragmentRecord]) -> String {
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let (input, kept, failed) = (sum("in"), sum("kept"), sum("failed"));
    let share = if input == 0 { 0.0 } else { 100.0 * kept as f64 / input as f64 };
    let damaged = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!("kept {kept} of {input} ({share:.1} %){damaged}")
}
