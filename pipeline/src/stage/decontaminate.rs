//! `decontaminate`: drops documents that repeat a run of words of an evaluation set, and keeps the matching stretch.

use super::rowlocal::{self, Decided};
use super::{Context, Output};
use crate::dataset::string_column;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::stage::extract::table;
use crate::verdict::{Finding, Status, Verdicts};
use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringBuilder, UInt64Builder};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use dedup::EvaluationSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Options of a `decontaminate` stage; `against` names the stages with the evaluation sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecontaminateConfig {
    /// Words in a run that must not repeat, 1 or more; smaller is stricter. GPT-3 (2020) uses 13, datatrove 12.
    pub ngram: usize,
    /// An evaluation text with fewer than `ngram` words is looked for as a whole if it has at least this many; still
    /// shorter ones are counted as `too_short` in the receipt.
    pub min_words: usize,
    /// Least number of a document's runs found in the evaluation sets for it to be dropped, 1 or more.
    pub min_runs: u64,
    /// Columns of the evaluation sets that hold texts; those a set lacks are skipped.
    pub columns: Vec<String>,
}

impl Default for DecontaminateConfig {
    fn default() -> Self {
        let columns = ["text", "prompt", "question", "completion", "answer"].map(String::from).to_vec();
        Self { ngram: 13, min_words: 8, min_runs: 1, columns }
    }
}

impl Options for DecontaminateConfig {
    fn check(&self) -> Vec<OptionFault> {
        let least = [("ngram", self.ngram as u64), ("min_words", self.min_words as u64), ("min_runs", self.min_runs)];
        let mut faults: Vec<OptionFault> = least
            .iter()
            .filter(|(_, n)| *n == 0)
            .map(|(key, _)| OptionFault::new(key, "expected at least 1, got 0"))
            .collect();
        if self.min_words > self.ngram {
            let message = format!("expected at most ngram = {}, got {}", self.ngram, self.min_words);
            faults.push(OptionFault::new("min_words", message));
        }
        if self.columns.is_empty() {
            faults.push(OptionFault::new("columns", "expected at least one column"));
        }
        faults
    }
}

/// The texts of all evaluation sets, and for each the stage and row it is from.
struct Against {
    texts: Vec<String>,
    from: Vec<(String, String)>,
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &DecontaminateConfig) -> Result<Output> {
    let against = load(context, config)?;
    let set = EvaluationSet::new(against.texts.iter().map(String::as_str), config.ngram, config.min_words);
    let mut fragments = rowlocal::run(context, Ok, |batch| decide(batch, config, &set, &against.from))?;
    if let Some(first) = fragments.first_mut() {
        first.add("evaluation_texts", set.len() as u64);
        first.add("evaluation_texts:too_short", set.too_short);
    }
    let short = if set.too_short > 0 { format!(" ({} too short)", set.too_short) } else { String::new() };
    let note = format!("{} against {} evaluation texts{short}", rowlocal::summary(&fragments), set.len());
    Ok(Output { fragments, note, ..Output::default() })
}

fn load(context: &Context<'_>, config: &DecontaminateConfig) -> Result<Against> {
    let mut against = Against { texts: Vec::new(), from: Vec::new() };
    for stage in context.references.get("against").into_iter().flatten() {
        let known = known_columns(context.name(), &stage.name, &*stage.schema()?, config)?;
        let ids = stage.strings("id")?;
        for column in known {
            against.texts.extend(stage.strings(column)?);
            against.from.extend(ids.iter().map(|id| (stage.name.clone(), id.clone())));
        }
    }
    Ok(against)
}

/// The columns of `config` that an evaluation set has; an error if it has none.
pub fn known_columns<'a>(
    stage: &str,
    set: &str,
    schema: &Schema,
    config: &'a DecontaminateConfig,
) -> Result<Vec<&'a str>> {
    let known: Vec<&str> =
        config.columns.iter().map(String::as_str).filter(|c| schema.column_with_name(c).is_some()).collect();
    if !known.is_empty() {
        return Ok(known);
    }
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    Err(Error::Manifest(format!(
        "error: `{set}`, named by `against` of stage `{stage}`, has none of the columns {}   (known: {})\n\
         hint: name its text columns with  columns = [...]",
        config.columns.join(", "),
        names.join(", ")
    )))
}

/// What the stage makes of a table without rows.
pub fn dry(input: datafusion::prelude::DataFrame, config: &DecontaminateConfig) -> Result<Decided> {
    let set = EvaluationSet::new(std::iter::empty(), config.ngram, config.min_words);
    rowlocal::dry(input, Ok, |batch| decide(batch, config, &set, &[]))
}

fn decide(
    batch: RecordBatch,
    config: &DecontaminateConfig,
    set: &EvaluationSet,
    from: &[(String, String)],
) -> Result<Decided> {
    let (ids, texts) = (string_column(&batch, "id")?, string_column(&batch, "text")?);
    let mut verdicts = Verdicts::default();
    let mut keep = Vec::with_capacity(batch.num_rows());
    let [mut stage, mut row, mut span]: [StringBuilder; 3] = Default::default();
    let [mut start, mut end]: [UInt64Builder; 2] = Default::default();
    for i in 0..batch.num_rows() {
        let text = if texts.is_null(i) { "" } else { texts.value(i) };
        let overlap = set.find(text);
        let runs = overlap.as_ref().map_or(0, |o| o.runs);
        let clean = runs < config.min_runs;
        if clean {
            verdicts.keep(ids.value(i));
        } else {
            let at = overlap.as_ref().map_or(0, |o| o.text);
            let finding = Finding {
                rule: "decontaminate.runs".into(),
                value: Some(runs as f64),
                threshold: Some(config.min_runs as f64),
                reason: Some(format!("repeats {} of `{}`", from[at].1, from[at].0)),
            };
            verdicts.push(ids.value(i), Status::Dropped, &[finding]);
        }
        stage.append_option(overlap.as_ref().map(|o| &from[o.text].0));
        row.append_option(overlap.as_ref().map(|o| &from[o.text].1));
        span.append_option(overlap.as_ref().map(|o| &text[o.start..o.end]));
        start.append_option(overlap.as_ref().map(|o| o.start as u64));
        end.append_option(overlap.as_ref().map(|o| o.end as u64));
        keep.push(clean);
    }
    let more = vec![
        (Field::new("matched_stage", DataType::Utf8, true), Arc::new(stage.finish()) as ArrayRef),
        (Field::new("matched_id", DataType::Utf8, true), Arc::new(row.finish())),
        (Field::new("span_start", DataType::UInt64, true), Arc::new(start.finish())),
        (Field::new("span_end", DataType::UInt64, true), Arc::new(end.finish())),
        (Field::new("span", DataType::Utf8, true), Arc::new(span.finish())),
    ];
    let fields = batch.schema().fields().clone();
    let columns = fields.iter().map(|f| f.name().clone()).zip(batch.columns().iter().cloned()).collect();
    let counts = std::mem::take(&mut verdicts.counts);
    Ok(Decided { rows: table(columns)?, keep: keep.into(), verdicts: verdicts.finish(more)?, edits: None, counts })
}
