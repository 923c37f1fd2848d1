//! `preference`: trains on pairs. Reference log-probs are computed once, before the first step.

use super::model::{self, model_error, render};
use super::sft::{parent_of, text_rows};
use super::training::{self, LoopConfig, Plan, TraceRow};
use super::{Context, Output};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use align::control::swapped;
use align::loss::preference::{Pair, PreferenceConfig, preference};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokenizer::Tokenizer;
use trainer::optim::{OptimConfig, Rates, ScheduleConfig};
use trainer::packing::{Masked, pack};
use trainer::trainer::Trainer;
use trainer::{Model, tape};

/// Options of a `preference` stage. Its input has `prompt`, `chosen` and `rejected` columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceStage {
    /// The loss.
    #[serde(flatten)]
    pub preference: PreferenceConfig,
    /// Passes over the pairs.
    pub epochs: f64,
    /// Pairs of one optimizer step.
    pub batch_size: usize,
    /// Learning rates.
    #[serde(flatten)]
    pub schedule: ScheduleConfig,
    /// AdamW.
    #[serde(flatten)]
    pub optim: OptimConfig,
    /// Checkpoints.
    #[serde(flatten)]
    pub checkpoints: LoopConfig,
}

impl Default for PreferenceStage {
    fn default() -> Self {
        Self {
            preference: PreferenceConfig::default(),
            epochs: 1.0,
            batch_size: 32,
            schedule: ScheduleConfig { learning_rate: 1e-4, ..ScheduleConfig::default() },
            optim: OptimConfig { weight_decay: 0.0, ..OptimConfig::default() },
            checkpoints: LoopConfig::default(),
        }
    }
}

impl Options for PreferenceStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = training::check(&self.schedule, &self.optim, &self.checkpoints);
        if let Err(e) = self.preference.check() {
            faults.push(OptionFault::new("loss", e.to_string()));
        }
        if !(self.epochs > 0.0 && self.epochs.is_finite()) {
            faults.push(OptionFault::new("epochs", format!("expected above 0, got {}", self.epochs)));
        }
        if self.batch_size == 0 {
            faults.push(OptionFault::new("batch_size", "expected at least 1"));
        }
        faults
    }
}

/// A pair as token sequences.
pub struct PairRow {
    /// Id of the pair.
    pub id: String,
    /// The prompt's id.
    pub parent_id: Option<String>,
    /// The preferred answer.
    pub chosen: Masked,
    /// The other one.
    pub rejected: Masked,
}

/// The pairs of a table in the chat format.
pub fn pairs(input: &Dataset, tokenizer: &Tokenizer) -> Result<Vec<PairRow>> {
    let (rows, _) = text_rows(input, &["prompt", "chosen", "rejected"])?;
    let row = |r: Vec<String>| -> Result<PairRow> {
        let (chosen, rejected) = (render(tokenizer, &r[1], &r[2])?, render(tokenizer, &r[1], &r[3])?);
        Ok(PairRow { chosen, rejected, parent_id: parent_of(&r, 3), id: r[0].clone() })
    };
    rows.into_iter().map(row).collect()
}

/// Sequence log-probs of chosen and rejected under a model, pair by pair.
pub fn log_probs(model: &Model, pairs: &[PairRow]) -> Result<Vec<(f64, f64)>> {
    let mut sums = Vec::with_capacity(pairs.len());
    for chunk in pairs.chunks(64) {
        let sequences: Vec<Masked> = chunk.iter().flat_map(|p| [p.chosen.clone(), p.rejected.clone()]).collect();
        let packing = pack(&sequences, model.config().sequence_len, 16).map_err(model_error)?;
        let stats = packing
            .batches
            .iter()
            .map(|b| tape::score(model, b))
            .collect::<trainer::Result<Vec<_>>>()
            .map_err(model_error)?;
        let columns: Vec<Vec<f32>> = stats.into_iter().map(|s| s.logprob).collect();
        let sum = |i: usize| -> f64 {
            let masked = packing.of(&columns, i).iter().zip(&sequences[i].1[1..]);
            masked.filter(|(_, m)| **m).map(|(l, _)| f64::from(*l)).sum()
        };
        sums.extend((0..chunk.len()).map(|i| (sum(2 * i), sum(2 * i + 1))));
    }
    Ok(sums)
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &PreferenceStage) -> Result<Output> {
    let source = context.reference("model").expect("the manifest check asks for it");
    let (base, tokenizer) = model::load(source)?;
    let mut rows = pairs(context.input(), &tokenizer)?;
    if rows.is_empty() {
        return Err(Error::InputData(format!(
            "stage `{}` got no pair\nhint: every prompt passed or every prompt failed; look at  SELECT status, count(*) FROM <verdicts> GROUP BY status",
            context.name()
        )));
    }
    let names: Vec<(&str, &str)> =
        rows.iter().map(|row| (row.parent_id.as_deref().unwrap_or_default(), row.id.as_str())).collect();
    let swaps = swapped(config.preference.labels, context.stage.seed, &names);
    for (row, _) in rows.iter_mut().zip(swaps).filter(|(_, swap)| *swap) {
        std::mem::swap(&mut row.chosen, &mut row.rejected);
    }
    let reference = if config.preference.loss.needs_reference() { Some(log_probs(&base, &rows)?) } else { None };
    let steps = ((rows.len() as f64 * config.epochs) / config.batch_size as f64).ceil().max(1.0) as u64;
    let rates = |step| Rates::of(config.schedule.lr_at(step, steps));
    let plan = Plan { steps, rates: &rates, options: &config.checkpoints, tokenizer: &source.path };
    let start = || Trainer::new(base.clone(), &config.optim).map_err(model_error);
    training::train(context, &plan, start, |turn| {
        let chosen = model::shuffled(context.stage.seed, "preference", turn.step, config.batch_size, rows.len());
        let sequences: Vec<Masked> =
            chosen.iter().flat_map(|i| [rows[*i].chosen.clone(), rows[*i].rejected.clone()]).collect();
        let packing = pack(&sequences, base.config().sequence_len, 16).map_err(model_error)?;
        let segments = model::segments(&packing);
        let loss = |mut tokens: Vec<align::loss::Tokens>| {
            let mut step_pairs = Vec::with_capacity(chosen.len());
            for (pair, row) in tokens.chunks_exact_mut(2).zip(&chosen) {
                let (c, r) = (std::mem::take(&mut pair[0]), std::mem::take(&mut pair[1]));
                step_pairs.push(Pair { chosen: c, rejected: r, reference: reference.as_ref().map(|s| s[*row]) });
            }
            preference(&config.preference, &step_pairs)
        };
        let documents = || chosen.iter().map(|i| rows[*i].id.clone()).collect();
        let (output, taken) = turn.take(&packing.batches, &segments, loss, |_| (), documents)?;
        let mut found = output.metrics;
        found.extend(taken);
        let trace = chosen.iter().map(|i| TraceRow {
            id: Some(rows[*i].id.clone()),
            parent_id: rows[*i].parent_id.clone(),
            ..TraceRow::default()
        });
        Ok((found, trace.collect()))
    })
}
