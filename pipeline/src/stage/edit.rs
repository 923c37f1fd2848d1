//! `edit`: changes texts step by step and writes every change, so that the text before can be made again.

use super::extract::table;
use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::Result;
use crate::manifest::kinds::{OptionFault, Options};
use crate::schema as tables;
use crate::udf::hash_text;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt64Builder};
use datafusion::arrow::datatypes::{DataType, Field};
use filters::edit::{EditConfig, Step, edit};
use std::sync::Arc;

impl Options for EditConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if self.steps.is_empty() {
            faults.push(OptionFault::new("steps", "an edit stage needs at least one step"));
        }
        if self.pii.is_some() && !self.steps.contains(&Step::Pii) {
            faults.push(OptionFault::new("pii", "means nothing without the step `pii`"));
        }
        faults
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &EditConfig) -> Result<Output> {
    let fragments = rowlocal::run(context, Ok, |batch| decide(batch, config))?;
    let sum = |name: &str| fragments.iter().filter_map(|f| f.counts.get(name)).sum::<u64>();
    let note = format!("{}, {} changed in {} places", rowlocal::summary(&fragments), sum("changed"), sum("edits"));
    Ok(Output { fragments, note, ..Output::default() })
}

/// What the stage makes of a table without rows.
pub fn dry(input: datafusion::prelude::DataFrame, config: &EditConfig) -> Result<Decided> {
    rowlocal::dry(input, Ok, |batch| decide(batch, config))
}

/// The rows with their new texts (and `text_hash`, where there is one); rows of which nothing is left are dropped.
fn decide(batch: RecordBatch, config: &EditConfig) -> Result<Decided> {
    let (ids, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
    let mut verdicts = Verdicts::default();
    let (mut text, mut hash) = (StringBuilder::new(), StringBuilder::new());
    let mut removed_share = Float64Builder::new();
    let mut edits = Edits::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        let old = if texts.is_null(i) { "" } else { texts.value(i) };
        let edited = edit(old, config);
        let stays = !edited.text.trim().is_empty();
        if stays {
            verdicts.keep(ids.value(i));
        } else {
            let finding = Finding {
                rule: "edit.no_text".into(),
                value: Some(0.0),
                threshold: Some(1.0),
                reason: Some("the edits left nothing".into()),
            };
            verdicts.push(ids.value(i), Status::Dropped, &[finding]);
        }
        verdicts.counts.add("changed", u64::from(!edited.edits.is_empty()));
        verdicts.counts.add("edits", edited.edits.len() as u64);
        let removed: usize = edited.edits.iter().map(|e| e.removed.len()).sum();
        removed_share.append_option((!old.is_empty()).then(|| removed as f64 / old.len() as f64));
        for edit in &edited.edits {
            verdicts.counts.add(&format!("edit:{}", edit.rule), 1);
            edits.push(ids.value(i), &edit.rule, edit.start..edit.end, &edit.removed);
        }
        hash.append_value(hash_text(&edited.text));
        text.append_value(edited.text);
        keep.push(stays);
    }
    let rows = with_texts(&batch, Arc::new(text.finish()), Arc::new(hash.finish()))?;
    let more = vec![(Field::new("edit.removed_share", DataType::Float64, true), Arc::new(removed_share.finish()) as _)];
    let counts = std::mem::take(&mut verdicts.counts);
    let verdicts = verdicts.finish(more)?;
    Ok(Decided { rows, keep: keep.into(), verdicts, edits: Some(edits.finish()?), counts })
}

/// A batch with other texts, and their hashes where it has a column for them.
pub fn with_texts(batch: &RecordBatch, text: ArrayRef, hash: ArrayRef) -> Result<RecordBatch> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        let column = match field.name().as_str() {
            "text" => &text,
            "text_hash" => &hash,
            _ => column,
        };
        (field.name().clone(), column.clone())
    });
    table(columns.collect())
}

/// Collects rows of a table of edits, in order.
#[derive(Default)]
pub struct Edits {
    id: StringBuilder,
    rule: StringBuilder,
    start: UInt64Builder,
    end: UInt64Builder,
    removed: StringBuilder,
}

impl Edits {
    /// Adds an edit of a document: bytes of the new text, and what stood there before.
    pub fn push(&mut self, id: &str, rule: &str, place: std::ops::Range<usize>, removed: &str) {
        self.id.append_value(id);
        self.rule.append_value(rule);
        self.start.append_value(place.start as u64);
        self.end.append_value(place.end as u64);
        self.removed.append_value(removed);
    }

    /// The rows.
    pub fn finish(mut self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.id.finish()),
            Arc::new(self.rule.finish()),
            Arc::new(self.start.finish()),
            Arc::new(self.end.finish()),
            Arc::new(self.removed.finish()),
        ];
        Ok(RecordBatch::try_new(tables::edits(), columns)?)
    }
}
