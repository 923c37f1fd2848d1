//! `eval`: measures models on held-out prompts (pass@k), held-out pairs (accuracy) and held-out text (bits per byte).

use super::model::{self, Weights, model_error};
use super::rollout::{Prompt, check_sampling, prompts, sample, text_of};
use super::tokenize::open;
use super::{Context, Output, preference};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options, is_default};
use crate::sink::write_table;
use crate::source::rows::derived_id;
use crate::store::FragmentRecord;
use align::verify::verify;
use datafusion::arrow::array::{ArrayRef, Float64Builder, StringBuilder, UInt64Builder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokenizer::Tokenizer;
use trainer::Model;
use trainer::eval::{bigram_baseline, bits_per_byte, documents, pass_at_k};
use trainer::sample::SampleConfig;

/// Options of an `eval` stage. Its input, if it has one, has `prompt`, `answer`, `task` and `verifier` columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvalConfig {
    /// Completions per prompt; at least the largest of `k`.
    pub samples: u32,
    /// The k of pass@k to report.
    pub k: Vec<usize>,
    /// How tokens are drawn.
    #[serde(flatten)]
    pub sampling: SampleConfig,
    /// Which weights of the models.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = "last"))]
    pub weights: Weights,
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self {
            samples: 8,
            k: vec![1, 8],
            sampling: SampleConfig { max_tokens: 32, ..SampleConfig::default() },
            weights: Weights::default(),
        }
    }
}

impl Options for EvalConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = check_sampling(&self.sampling);
        if self.k.iter().any(|k| *k == 0 || *k > self.samples as usize) || self.k.is_empty() {
            faults.push(OptionFault::new("k", format!("expected numbers from 1 to samples = {}", self.samples)));
        }
        faults
    }
}

/// One line of the result.
pub struct Score {
    model: String,
    task: String,
    metric: String,
    value: f64,
    standard_error: Option<f64>,
    n: u64,
}

/// Runs the stage: one fragment per model, and one for the baseline.
pub fn run(context: &Context<'_>, config: &EvalConfig) -> Result<Output> {
    let models = &context.references["models"];
    let prompts = context.inputs.first().map(prompts).transpose()?.unwrap_or_default();
    if prompts.is_empty() && !context.inputs.is_empty() {
        return Err(Error::InputData(format!("stage `{}` got no prompt", context.name())));
    }
    let shards = context.reference("shards");
    if context.inputs.is_empty() && shards.is_none() && context.reference("pairs").is_none() {
        return Err(Error::Manifest(format!(
            "error: stage `{}` has nothing to measure on\nhint: give an `input` of prompts, `shards` or `pairs`",
            context.name()
        )));
    }
    let count = models.len() + usize::from(shards.is_some());
    let fragments = context.fragments("", count, |index| {
        let scores = match models.get(index) {
            Some(dataset) => measure(context, config, dataset, &models[0], &prompts)?,
            None => baseline(shards.expect("counted one line up"))?,
        };
        let mut record = FragmentRecord::default();
        record.add("scores", scores.len() as u64);
        record.files =
            vec![write_table(&context.out.path, &format!("part-{index:05}.parquet"), &table(context.name(), scores)?)?];
        Ok(record)
    })?;
    Ok(Output { fragments, note: format!("{} models on {} prompts", models.len(), prompts.len()), ..Output::default() })
}

fn measure(
    context: &Context<'_>,
    config: &EvalConfig,
    dataset: &Dataset,
    reference: &Dataset,
    prompts: &[Prompt],
) -> Result<Vec<Score>> {
    let (model, tokenizer) = model::load_weights(dataset, config.weights)?;
    let mut scores = pass_rates(context, config, &dataset.name, &model, &tokenizer, prompts)?;
    if let Some(pairs) = context.reference("pairs") {
        let (reference, _) = model::load_weights(reference, config.weights)?;
        scores.push(pair_accuracy(&dataset.name, &model, &reference, pairs, &tokenizer)?);
    }
    if let Some(shards) = context.reference("shards") {
        open::check_tokenizer(shards, &open::receipt(shards)?, dataset)?;
        let held_out = open::shards(shards, "holdout")?;
        let report = bits_per_byte(&model, documents(&held_out), &|id| text_bytes(&tokenizer, id))
            .map_err(|e| open::loader_error(&shards.path, e))?;
        scores.push(bpb(&dataset.name, report));
    }
    Ok(scores)
}

/// Bytes of text a token stands for; special tokens stand for none.
fn text_bytes(tokenizer: &Tokenizer, id: u32) -> usize {
    if tokenizer.is_special(id) { 0 } else { tokenizer.token_bytes(id).len() }
}

fn bpb(name: &str, report: trainer::eval::BpbReport) -> Score {
    Score {
        model: name.into(),
        task: "held-out text".into(),
        metric: "bits_per_byte".into(),
        value: report.bpb,
        standard_error: None,
        n: report.bytes,
    }
}

/// What a table of token pairs, counted on the training shards, achieves on the same text.
fn baseline(shards: &Dataset) -> Result<Vec<Score>> {
    let tokenizer = super::tokenize::load_tokenizer(&shards.path)?;
    let (train, held_out) = (open::shards(shards, "train")?, open::shards(shards, "holdout")?);
    let report = bigram_baseline(&train, &held_out, tokenizer.vocab_size(), &|id| text_bytes(&tokenizer, id))
        .map_err(|e| open::loader_error(&shards.path, e))?;
    Ok(vec![bpb("bigram baseline", report)])
}

fn pass_rates(
    context: &Context<'_>,
    config: &EvalConfig,
    name: &str,
    model: &Model,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
) -> Result<Vec<Score>> {
    let mut counts: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    for chunk in prompts.chunks(256) {
        context.check_stop()?;
        let group: Vec<&Prompt> = chunk.iter().collect();
        let completions = sample(model, tokenizer, &group, config.samples, &config.sampling, context.stage.seed)?;
        for (prompt, own) in chunk.iter().zip(completions.chunks(config.samples as usize)) {
            let mut right = 0;
            for completion in own {
                let verdict = verify(&prompt.verifier, &text_of(tokenizer, completion), &prompt.answer)
                    .map_err(|e| Error::InputData(e.to_string()))?;
                right += usize::from(verdict.status.passed() == Some(true));
            }
            for task in ["all", prompt.task.as_str()] {
                counts.entry(task).or_default().push((own.len(), right));
            }
        }
    }
    let mut scores = Vec::new();
    for (task, counts) in &counts {
        for k in &config.k {
            let pass = pass_at_k(counts, *k).map_err(model_error)?;
            scores.push(Score {
                model: name.into(),
                task: task.to_string(),
                metric: format!("pass@{k}"),
                value: pass.mean,
                standard_error: Some(pass.standard_error),
                n: pass.prompts as u64,
            });
        }
    }
    Ok(scores)
}

/// Share of held-out pairs whose chosen answer gained more over the first model than the rejected one; ties count half.
fn pair_accuracy(
    name: &str,
    model: &Model,
    reference: &Model,
    pairs: &Dataset,
    tokenizer: &Tokenizer,
) -> Result<Score> {
    let rows = preference::pairs(pairs, tokenizer)?;
    let (own, base) = (preference::log_probs(model, &rows)?, preference::log_probs(reference, &rows)?);
    let points = own.iter().zip(&base).map(|((c, r), (bc, br))| {
        let margin = (c - bc) - (r - br);
        if margin > 0.0 {
            1.0
        } else if margin == 0.0 {
            0.5
        } else {
            0.0
        }
    });
    let n = rows.len().max(1) as f64;
    let mean = points.sum::<f64>() / n;
    let standard_error = (mean * (1.0 - mean) / n).sqrt();
    Ok(Score {
        model: name.into(),
        task: "held-out pairs".into(),
        metric: "pair_accuracy".into(),
        value: mean,
        standard_error: Some(standard_error),
        n: rows.len() as u64,
    })
}

/// Columns id, model, task, metric, value, standard_error, n.
pub fn table(stage: &str, scores: Vec<Score>) -> Result<datafusion::arrow::array::RecordBatch> {
    let mut strings: [StringBuilder; 4] = Default::default(); // id, model, task, metric
    let (mut values, mut errors, mut n) = (Float64Builder::new(), Float64Builder::new(), UInt64Builder::new());
    for (i, score) in scores.iter().enumerate() {
        let id = derived_id(&score.model, stage, i as u64);
        for (builder, value) in strings.iter_mut().zip([&id, &score.model, &score.task, &score.metric]) {
            builder.append_value(value);
        }
        values.append_value(score.value);
        errors.append_option(score.standard_error);
        n.append_value(score.n);
    }
    let names = ["id", "model", "task", "metric"];
    let mut columns: Vec<(String, ArrayRef)> =
        names.iter().zip(&mut strings).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)).collect();
    columns.push(("value".into(), Arc::new(values.finish())));
    columns.push(("standard_error".into(), Arc::new(errors.finish())));
    columns.push(("n".into(), Arc::new(n.finish())));
    model::named(columns)
}
