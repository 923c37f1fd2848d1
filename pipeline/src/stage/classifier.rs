//! `classifier`: trains a fastText model on labelled rows and measures it on rows it never saw.

use super::{Context, Output, model};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::sink::write_table;
use crate::store::FragmentRecord;
use crate::store::durable::write_file;
use datafusion::arrow::array::{ArrayRef, Float64Builder, StringBuilder, UInt64Builder};
use filters::language::{ClassifierConfig, LanguageModel, evaluate, is_held_out, train};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// File name of the model.
pub const MODEL: &str = "model.ftz";

/// Options of a `classifier` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClassifierStage {
    /// Column with the label.
    pub label: String,
    /// Column with the text.
    pub text: String,
    /// How the model is trained.
    #[serde(flatten)]
    pub classifier: ClassifierConfig,
}

impl Default for ClassifierStage {
    fn default() -> Self {
        Self { label: "label".into(), text: "text".into(), classifier: ClassifierConfig::default() }
    }
}

impl Options for ClassifierStage {
    fn check(&self) -> Vec<OptionFault> {
        if self.classifier.holdout < 2 { vec![OptionFault::new("holdout", "expected at least 2")] } else { Vec::new() }
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &ClassifierStage) -> Result<Output> {
    let labels = context.input().strings(&config.label)?;
    let texts = context.input().strings(&config.text)?;
    let rows = labels.into_iter().zip(texts).filter(|(l, t)| !l.is_empty() && !t.is_empty());
    let (held_out, learnt): (Vec<_>, Vec<_>) = rows.partition(|(_, t)| is_held_out(t, config.classifier.holdout));
    if learnt.is_empty() {
        return Err(Error::InputData(format!("stage `{}` has no labelled row to learn from", context.name())));
    }
    let fragments = context.fragments("", 1, |_| {
        let bytes = train(&learnt, &config.classifier).map_err(|e| Error::Model(e.to_string()))?;
        let mut record =
            FragmentRecord { files: vec![write_file(&context.out.path, MODEL, &bytes)?], ..FragmentRecord::default() };
        let made = LanguageModel::from_bytes(bytes).map_err(|e| Error::Model(e.to_string()))?;
        let accuracy = evaluate(&made, &held_out);
        let (mut label, mut n, mut right, mut share) =
            (StringBuilder::new(), UInt64Builder::new(), UInt64Builder::new(), Float64Builder::new());
        for row in &accuracy {
            label.append_value(&row.label);
            n.append_value(row.n);
            right.append_value(row.correct);
            share.append_value(row.correct as f64 / row.n as f64);
            record.add("held_out", row.n);
            record.add("correct", row.correct);
        }
        record.add("trained_on", learnt.len() as u64);
        let columns: Vec<(String, ArrayRef)> = vec![
            ("id".into(), Arc::new(label.finish())),
            ("held_out".into(), Arc::new(n.finish())),
            ("correct".into(), Arc::new(right.finish())),
            ("accuracy".into(), Arc::new(share.finish())),
        ];
        record.files.push(write_table(&context.out.path, "part-00000.parquet", &model::named(columns)?)?);
        Ok(record)
    })?;
    let count = |name: &str| fragments[0].counts.get(name).copied().unwrap_or(0);
    let share = count("correct") as f64 / count("held_out").max(1) as f64;
    Ok(Output {
        note: format!("accuracy {share:.4} on {} held-out rows", count("held_out")),
        fragments,
        ..Output::default()
    })
}
