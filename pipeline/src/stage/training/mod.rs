//! The loop of all model stages: resumable, with checkpoints, metrics and a trace of every step.
//!
//! A checkpoint holds the whole state: weights, optimizer, step, and the metrics and trace of all steps so far. A kill
//! repeats at most `checkpoint_every` steps and ends in the same bytes, because a step is a function of that state. A step
//! whose loss or gradient is not finite, or whose loss jumps, is not taken: the state before it is saved, and the run ends.
//!
//! With several processes each runs this loop on its share of the micro-batches; rank 0 alone writes. What decides whether a
//! checkpoint is due or the run ends is the same on all.

mod history;
mod saving;

pub use history::{History, Metrics, TraceRow};

use super::model::model_error;
use super::tokenizer::TOKENIZER;
use super::{Context, Output, model};
use crate::error::{Error, Result};
use crate::manifest::kinds::OptionFault;
use crate::progress::Event;
use crate::ranks::{Ranks, trainer_error};
use crate::sink::write_table;
use crate::store::FragmentRecord;
use crate::store::durable::{FileEntry, write_file};
use crate::tensorboard::EventFile;
use align::loss::step::Segment;
use align::loss::{LossError, LossOutput, Tokens};
use saving::{Saver, folder_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Instant;
use trainer::optim::{Guard, GuardConfig, OptimConfig, Rates, ScheduleConfig};
use trainer::parallel::Team;
use trainer::rng::Key;
use trainer::trainer::Trainer;
use trainer::{Batch, TokenGrad, TokenStats};

/// Options every model stage has. None changes a byte: a run may go on with other values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoopConfig {
    /// Steps between checkpoints; a kill repeats at most so many. Changes no byte: a run may go on with another value.
    pub checkpoint_every: u64,
    /// With several processes: 0 keeps the optimizer's state whole in each, 1 spreads it over them (ZeRO-1, Rajbhandari et al. 2020). The
    /// same bits either way; one process alone keeps it whole.
    pub zero: u8,
    /// When a loss counts as a jump, before which the run stops.
    #[serde(flatten)]
    pub guard: GuardConfig,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self { checkpoint_every: 100, zero: 0, guard: GuardConfig::default() }
    }
}

/// Faults of the options that all training stages share.
pub fn check(schedule: &ScheduleConfig, optim: &OptimConfig, options: &LoopConfig) -> Vec<OptionFault> {
    let mut faults = Vec::new();
    if let Err(e) = schedule.check() {
        faults.push(OptionFault::new("learning_rate", e.to_string()));
    }
    if let Err(e) = optim.check() {
        faults.push(OptionFault::new("weight_decay", e.to_string()));
    }
    if let Err(e) = options.guard.check() {
        faults.push(OptionFault::about(&["spike_sigmas", "spike_window"], "spike_sigmas", e.to_string()));
    }
    if options.zero > 1 {
        faults.push(OptionFault::new("zero", format!("expected 0 or 1, got {}", options.zero)));
    }
    if options.checkpoint_every == 0 {
        faults.push(OptionFault::new("checkpoint_every", "expected at least 1"));
    }
    faults
}

/// A training run as the loop sees it.
pub struct Plan<'a> {
    /// Optimizer steps in all.
    pub steps: u64,
    /// Learning rate and weight decay of a step, from 0.
    pub rates: &'a dyn Fn(u64) -> Rates,
    /// Checkpoints and guard.
    pub options: &'a LoopConfig,
    /// Folder that holds the tokenizer to hand on.
    pub tokenizer: &'a Path,
}

/// One step under way.
pub struct Turn<'a> {
    /// The state; only [`Turn::take`] changes what a checkpoint holds.
    pub trainer: &'a mut Trainer,
    /// The step, from 0.
    pub step: u64,
    rates: Rates,
    guard: &'a mut Guard,
    team: Option<Team<'a>>,
    refused: bool,
}

/// Gradients of a step without a loss. A log-prob or a loss that is not finite is the guard's business, all else is an error.
fn without_loss(e: LossError, stats: &[TokenStats]) -> trainer::Result<Vec<TokenGrad>> {
    match e {
        LossError::NotFinite { .. } | LossError::Overflow { .. } => {
            let zeros = |s: &TokenStats| TokenGrad { d_logprob: vec![0.0; s.logprob.len()], d_entropy: None };
            Ok(stats.iter().map(zeros).collect())
        }
        other => Err(other.into()),
    }
}

impl Turn<'_> {
    /// Takes the step, with a loss over the sequences `segments` of the micro-batches. `look` sees the statistics of all tokens.
    /// Returns what the loss says and what was measured. If the step must not be taken, nothing has changed, and the error
    /// names the `documents` of the batch.
    pub fn take(
        &mut self,
        batches: &[Batch],
        segments: &[Segment],
        loss: impl FnOnce(Vec<Tokens>) -> std::result::Result<LossOutput, LossError>,
        look: impl FnOnce(&[TokenStats]),
        documents: impl FnOnce() -> Vec<String>,
    ) -> Result<(LossOutput, Metrics)> {
        let mut output = LossOutput { loss: f64::NAN, grads: Vec::new(), metrics: Default::default() };
        let loss = |stats: &[TokenStats]| {
            look(stats);
            match model::apply(stats, batches, segments, loss) {
                Ok((found, grads)) => {
                    output = found;
                    Ok(grads)
                }
                Err(e) => without_loss(e, stats),
            }
        };
        let prepared = match &self.team {
            None => self.trainer.prepare(batches, loss),
            Some(team) => self.trainer.prepare_in(team, batches, loss),
        };
        let prepared = prepared.map_err(trainer_error)?;
        let looked = self.guard.look(self.step + 1, output.loss, prepared.grad_norm, documents);
        self.refused = looked.is_err();
        looked.map_err(model_error)?;
        let report = match &self.team {
            None => self.trainer.apply(prepared, self.rates),
            Some(team) => self.trainer.apply_in(team, prepared, self.rates),
        };
        let report = report.map_err(trainer_error)?;
        let mut found = Metrics::from([
            ("loss".into(), output.loss),
            ("grad_norm".into(), report.grad_norm),
            ("tokens".into(), report.tokens as f64),
            ("learning_rate".into(), report.lr),
        ]);
        found.extend(self.trainer.noise.and_then(|noise| noise.tokens()).map(|n| ("noise_scale".to_string(), n)));
        Ok((output, found))
    }
}

/// Runs the loop: `start` gives the state at step 0, `step` makes one step.
pub fn train(
    context: &Context<'_>,
    plan: &Plan<'_>,
    start: impl FnOnce() -> Result<Trainer>,
    mut step: impl FnMut(&mut Turn<'_>) -> Result<(Metrics, Vec<TraceRow>)>,
) -> Result<Output> {
    let ranks = context.settings.ranks.as_deref();
    let team = ranks.map(Ranks::team);
    let last = saving::last(&context.out);
    let last = ranks.map_or(Ok(last), |ranks| ranks.told(last))?;
    let (mut trainer, mut history) = match last {
        Some(step) => saving::load(&context.out, step)?,
        None => (start()?, History::default()),
    };
    if let Some(ranks) = ranks {
        ranks.same("weights at the start", weights_digest(&trainer).as_bytes())?;
    }
    if let (Some(team), 1) = (&team, plan.options.zero) {
        trainer = team.spread(trainer);
    }
    trainer.dropout = Key::new(context.stage.seed).fold_str("dropout");
    let mut guard = Guard::new(&plan.options.guard, history.values("loss")).map_err(model_error)?;
    context.progress.event(Event::Started { stage: context.name(), kind: context.stage.kind, units: plan.steps });
    let writes = ranks.is_none_or(Ranks::leads);
    let mut events = writes.then(|| EventFile::create(&context.out.path.join("events"), trainer.step)).transpose()?;
    // The whole state, on every rank; rank 0 writes it.
    let mut saver = Saver::new(&context.out);
    let save = |saver: &mut Saver, trainer: &Trainer, history: &History| -> Result<()> {
        let whole = team.map(|team| team.whole(trainer)).transpose().map_err(trainer_error)?;
        let whole = whole.unwrap_or_else(|| trainer.clone());
        if let Some(ranks) = ranks {
            ranks.same(&format!("weights after step {}", trainer.step), weights_digest(&whole).as_bytes())?;
        }
        if writes { saver.start(whole, history) } else { Ok(()) }
    };
    let (began, first) = (Instant::now(), trainer.step);
    let (mut tokens, mut saved) = (0.0, first);
    while trainer.step < plan.steps {
        let at = trainer.step;
        let rates = (plan.rates)(at);
        let mut turn = Turn { trainer: &mut trainer, step: at, rates, guard: &mut guard, team, refused: false };
        let made = step(&mut turn);
        if turn.refused {
            if at > saved {
                save(&mut saver, &trainer, &history)?;
                saver.wait()?;
            }
            // Every rank has seen the same numbers.
            ranks.into_iter().for_each(Ranks::agree);
        }
        let (metrics, trace) = made.map_err(|e| named_stage(context, e))?;
        if let Some((name, value)) = metrics.iter().find(|(_, v)| !v.is_finite()) {
            ranks.into_iter().for_each(Ranks::agree);
            return Err(Error::Model(format!(
                "step {} of stage `{}` has {name} = {value}; the last checkpoint before it is kept\nhint: lower learning_rate or raise warmup_share",
                at + 1,
                context.name()
            )));
        }
        tokens += metrics.get("tokens").copied().unwrap_or(0.0);
        let rate = tokens / began.elapsed().as_secs_f64().max(1e-9);
        if let Some(events) = &mut events {
            events.add(at + 1, &metrics, rate)?;
        }
        let shown =
            ["reward", "loss"].iter().find_map(|n| metrics.get(*n).map(|v| format!("{n} {v:.4}"))).unwrap_or_default();
        context.progress.event(Event::Advanced {
            stage: context.name(),
            done: at + 1,
            units: plan.steps,
            note: &format!("{shown}  {rate:.0} tokens/s"),
        });
        history.add(at + 1, metrics, trace);
        let stop = context.check_stop().is_err();
        let stop = ranks.map_or(Ok(stop), |ranks| ranks.any(stop))?;
        let due = trainer.step % plan.options.checkpoint_every == 0;
        if (due || stop) && trainer.step < plan.steps {
            save(&mut saver, &trainer, &history)?;
            saved = trainer.step;
        }
        saver.look()?;
        if stop {
            saver.wait()?;
            ranks.into_iter().for_each(Ranks::agree);
            return Err(context.stopped());
        }
    }
    let rate = tokens / began.elapsed().as_secs_f64().max(1e-9);
    if let Some(team) = &team {
        trainer = team.whole(&trainer).map_err(trainer_error)?;
    }
    if let Some(ranks) = ranks {
        ranks.same("weights at the end", weights_digest(&trainer).as_bytes())?;
        ranks.apart();
    }
    if !writes {
        return Ok(Output::default());
    }
    saver.wait()?;
    let stall_share = saver.stalled.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9);
    let note = note(&history, &trainer, rate);
    let files = finish(context, plan, &trainer, &history)?;
    let mut record = FragmentRecord { files, ..FragmentRecord::default() };
    record.add("steps", plan.steps);
    record.add("parameters", trainer.model.n_params() as u64);
    let metrics = serde_json::json!({
        "tokens_per_sec": rate, "steps_in_this_process": plan.steps - first, "checkpoint_stall_share": stall_share,
    });
    Ok(Output { fragments: vec![record], metrics, note })
}

/// blake3 of all weights.
fn weights_digest(trainer: &Trainer) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::new();
    for i in 0..trainer.model.tensors().len() {
        bytes.clear();
        bytes.extend(trainer.model.slice(i).iter().flat_map(|w| w.to_le_bytes()));
        hasher.update(&bytes);
    }
    hasher.finalize()
}

/// An error of the model, with the stage it happened in.
fn named_stage(context: &Context<'_>, e: Error) -> Error {
    match e {
        Error::Model(text) => Error::Model(format!("stage `{}`: {text}", context.name())),
        other => other,
    }
}

fn note(history: &History, trainer: &Trainer, rate: f64) -> String {
    let ends = ["reward", "loss"].iter().find_map(|name| {
        Some(format!("{name} {:.3} -> {:.3}", history.values(name).next()?, history.values(name).last()?))
    });
    format!(
        "{} steps, {}, {} parameters, {rate:.0} tokens/s",
        trainer.step,
        ends.unwrap_or_default(),
        trainer.model.n_params()
    )
}

fn finish(context: &Context<'_>, plan: &Plan<'_>, trainer: &Trainer, history: &History) -> Result<Vec<FileEntry>> {
    let mut files = Vec::new();
    let name = folder_name(trainer.step);
    for (file, bytes) in trainer::checkpoint::encode(trainer).map_err(model_error)? {
        files.push(write_file(&context.out.path, &format!("{name}/{file}"), &bytes)?);
    }
    let json = plan.tokenizer.join(TOKENIZER);
    let bytes = std::fs::read(&json).map_err(Error::io("read", &json))?;
    files.push(write_file(&context.out.path, TOKENIZER, &bytes)?);
    files.push(write_table(&context.out.path, "metrics-00000.parquet", &history.metrics_table()?)?);
    files.push(write_table(&context.out.path, "trace-00000.parquet", &history.trace_table()?)?);
    Ok(files)
}
