//! `classifier`: trains a fastText model on labelled rows, or an n-gram model on texts, and measures it on rows it never saw.

use super::{Context, Output, model};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::sink::write_table;
use crate::store::FragmentRecord;
use crate::store::durable::write_file;
use datafusion::arrow::array::{ArrayRef, Float64Builder, StringBuilder, UInt64Builder};
use filters::language::{ClassifierConfig, LanguageModel, evaluate, is_held_out, train};
use filters::perplexity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// File name of the model.
pub const MODEL: &str = "model.ftz";
/// File name of an n-gram model.
pub const NGRAM_MODEL: &str = "model.ngram";

/// What is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClassifierMethod {
    /// A fastText classifier of labels, for `language` stages.
    #[default]
    Fasttext,
    /// An n-gram model of bytes, for the rule `perplexity.bits_per_byte` of `filter` stages; labels are not read.
    Ngram,
}

/// Options of a `classifier` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ClassifierStage {
    /// `fasttext` or `ngram`.
    pub method: ClassifierMethod,
    /// Bytes of an n-gram with its context, 1 to 7; longer predicts better and takes more memory. For `ngram`.
    pub order: usize,
    /// N-grams of at least three bytes that occur at most so often are left out. For `ngram`.
    pub prune: u32,
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
        let ngram = perplexity::Options::default();
        Self {
            method: ClassifierMethod::default(),
            order: ngram.order,
            prune: ngram.prune,
            label: "label".into(),
            text: "text".into(),
            classifier: ClassifierConfig::default(),
        }
    }
}

impl Options for ClassifierStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        if self.classifier.holdout < 2 {
            faults.push(OptionFault::new("holdout", "expected at least 2"));
        }
        if !(1..=7).contains(&self.order) {
            faults.push(OptionFault::new("order", format!("expected 1 to 7, got {}", self.order)));
        }
        faults
    }
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &ClassifierStage) -> Result<Output> {
    match config.method {
        ClassifierMethod::Fasttext => fasttext(context, config),
        ClassifierMethod::Ngram => ngram(context, config),
    }
}

fn ngram(context: &Context<'_>, config: &ClassifierStage) -> Result<Output> {
    let texts = context.input().strings(&config.text)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|t| !t.is_empty()).collect();
    let (held_out, learnt): (Vec<&str>, Vec<&str>) =
        texts.into_iter().partition(|t| is_held_out(t, config.classifier.holdout));
    if learnt.is_empty() {
        return Err(Error::InputData(format!("stage `{}` has no text to learn from", context.name())));
    }
    let fragments = context.fragments("", 1, |_| {
        let options = perplexity::Options { order: config.order, prune: config.prune };
        let model =
            perplexity::Model::train(learnt.iter().copied(), options).map_err(|e| Error::Model(e.to_string()))?;
        let file = write_file(&context.out.path, NGRAM_MODEL, &model.save())?;
        let mut record = FragmentRecord { files: vec![file], ..FragmentRecord::default() };
        let (mut bits, mut bytes) = (0.0, 0_u64);
        for text in &held_out {
            bits += model.bits_per_byte(text).unwrap_or(0.0) * text.len() as f64;
            bytes += text.len() as u64;
        }
        record.add("trained_on", learnt.len() as u64);
        record.add("held_out", held_out.len() as u64);
        let (mut name, mut n, mut size, mut value) =
            (StringBuilder::new(), UInt64Builder::new(), UInt64Builder::new(), Float64Builder::new());
        name.append_value("held-out text");
        n.append_value(held_out.len() as u64);
        size.append_value(bytes);
        value.append_option((bytes > 0).then(|| bits / bytes as f64));
        let columns: Vec<(String, ArrayRef)> = vec![
            ("id".into(), Arc::new(name.finish())),
            ("held_out".into(), Arc::new(n.finish())),
            ("bytes".into(), Arc::new(size.finish())),
            ("bits_per_byte".into(), Arc::new(value.finish())),
        ];
        record.files.push(write_table(&context.out.path, "part-00000.parquet", &model::named(columns)?)?);
        Ok(record)
    })?;
    let count = |name: &str| fragments[0].counts.get(name).copied().unwrap_or(0);
    let note = format!("{}-grams of {} texts, {} held out", config.order, count("trained_on"), count("held_out"));
    Ok(Output { note, fragments, ..Output::default() })
}

fn fasttext(context: &Context<'_>, config: &ClassifierStage) -> Result<Output> {
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
