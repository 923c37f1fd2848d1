//! What model stages share: one resumable training loop, with checkpoints, metrics and a trace of every step.
//!
//! A checkpoint holds the whole state: weights, optimizer, step, and the metrics and trace of all steps so far. A kill
//! repeats at most `checkpoint_every` steps and ends in the same bytes, because a step is a function of that state.

use super::tokenizer::TOKENIZER;
use super::{Context, Output};
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::progress::Event;
use crate::sink::write_table;
use crate::store::durable::{FileEntry, rename, write_file};
use crate::store::{FragmentRecord, remove_folder};
use crate::tensorboard::EventFile;
use align::loss::LossOutput;
use align::loss::step::{Segment, through};
use datafusion::arrow::array::{ArrayRef, Float64Builder, RecordBatch, StringBuilder, UInt64Builder};
use datafusion::arrow::datatypes::{Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokenizer::Tokenizer;
use tokenizer::chat::{self, Message};
use trainer::optim::ScheduleConfig;
use trainer::packing::{Masked, Packing};
use trainer::rng::Key;
use trainer::trainer::Trainer;
use trainer::{Batch, Model, TokenGrad, TokenStats};

/// Numbers of one step, by name.
pub type Metrics = BTreeMap<String, f64>;

/// One line of a trace: which row or which window made a step. Unused parts stay empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TraceRow {
    /// Id of the row, for stages that train on tables.
    pub id: Option<String>,
    /// Its parent.
    pub parent_id: Option<String>,
    /// Number of the window in its step, for pretraining.
    pub window: Option<u64>,
    /// Shard of the window.
    pub shard: Option<u64>,
    /// First token of the window in its shard.
    pub token_start: Option<u64>,
    /// Tokens of the window in that shard.
    pub token_count: Option<u64>,
}

/// Options every model stage has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LoopConfig {
    /// Steps between checkpoints; a kill repeats at most so many. Changes no byte: a run may go on with another value.
    pub checkpoint_every: u64,
}

impl Default for LoopConfig {
    fn default() -> Self {
        Self { checkpoint_every: 100 }
    }
}

/// A training run as the loop sees it.
pub struct Plan<'a> {
    /// Optimizer steps in all.
    pub steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Learning rates.
    pub schedule: &'a ScheduleConfig,
    /// Folder that holds the tokenizer to hand on.
    pub tokenizer: &'a Path,
}

/// Everything a checkpoint adds to the trainer's own files. Values are kept as bits, so nothing is rounded.
#[derive(Default, Serialize, Deserialize)]
struct History {
    metrics: Vec<(u64, BTreeMap<String, u64>)>,
    trace: Vec<(u64, TraceRow)>,
}

const PHASE: &str = "checkpoints";
const HISTORY: &str = "history.json";

/// Runs the loop: `start` gives the state at step 0, `step` makes one step (from 0) at a learning rate.
pub fn train(
    context: &Context<'_>,
    plan: &Plan<'_>,
    start: impl FnOnce() -> Result<Trainer>,
    mut step: impl FnMut(&mut Trainer, u64, f64) -> Result<(Metrics, Vec<TraceRow>)>,
) -> Result<Output> {
    let (mut trainer, mut history) = match last_checkpoint(context)? {
        Some(state) => state,
        None => (start()?, History::default()),
    };
    trainer.dropout = Key::new(context.stage.seed).fold_str("dropout");
    context.progress.event(Event::Started { stage: context.name(), kind: context.stage.kind, units: plan.steps });
    let mut events = EventFile::create(&context.out.path.join("events"), trainer.step)?;
    let (began, first) = (Instant::now(), trainer.step);
    let mut tokens = 0.0;
    while trainer.step < plan.steps {
        let at = trainer.step;
        let lr = plan.schedule.lr_at(at, plan.steps);
        let (mut metrics, trace) = step(&mut trainer, at, lr)?;
        metrics.insert("learning_rate".into(), lr);
        if let Some((name, value)) = metrics.iter().find(|(_, v)| !v.is_finite()) {
            return Err(Error::Model(format!(
                "step {} of stage `{}` has {name} = {value}; the last checkpoint before it is kept\nhint: lower learning_rate or raise warmup_share",
                at + 1,
                context.name()
            )));
        }
        tokens += metrics.get("tokens").copied().unwrap_or(0.0);
        let rate = tokens / began.elapsed().as_secs_f64().max(1e-9);
        events.add(at + 1, &metrics, rate)?;
        let shown =
            ["reward", "loss"].iter().find_map(|n| metrics.get(*n).map(|v| format!("{n} {v:.4}"))).unwrap_or_default();
        context.progress.event(Event::Advanced {
            stage: context.name(),
            done: at + 1,
            units: plan.steps,
            note: &format!("{shown}  {rate:.0} tokens/s"),
        });
        history.metrics.push((at + 1, metrics.into_iter().map(|(k, v)| (k, v.to_bits())).collect()));
        history.trace.extend(trace.into_iter().map(|t| (at + 1, t)));
        let stop = context.check_stop();
        let due = trainer.step % plan.checkpoint_every == 0 && trainer.step < plan.steps;
        if due || (stop.is_err() && trainer.step < plan.steps) {
            checkpoint(context, &trainer, &history)?;
        }
        stop?;
    }
    let rate = tokens / began.elapsed().as_secs_f64().max(1e-9);
    let note = note(&history, &trainer, rate);
    let files = finish(context, plan, &trainer, &history)?;
    let mut record = FragmentRecord { files, ..FragmentRecord::default() };
    record.add("steps", plan.steps);
    record.add("parameters", trainer.model.n_params() as u64);
    let metrics = serde_json::json!({ "tokens_per_sec": rate, "steps_in_this_process": plan.steps - first });
    Ok(Output { fragments: vec![record], metrics, note })
}

fn note(history: &History, trainer: &Trainer, rate: f64) -> String {
    let ends = ["reward", "loss"].iter().find_map(|name| {
        let value = |row: &(u64, BTreeMap<String, u64>)| row.1.get(*name).map(|b| f64::from_bits(*b));
        Some(format!(
            "{name} {:.3} -> {:.3}",
            history.metrics.first().and_then(value)?,
            history.metrics.last().and_then(value)?
        ))
    });
    format!(
        "{} steps, {}, {} parameters, {rate:.0} tokens/s",
        trainer.step,
        ends.unwrap_or_default(),
        trainer.model.n_params()
    )
}

fn folder_name(step: u64) -> String {
    format!("step-{step:06}")
}

/// Commits a checkpoint as a folder under `checkpoints/`, then drops all but the two newest.
fn checkpoint(context: &Context<'_>, trainer: &Trainer, history: &History) -> Result<()> {
    let folder = context.out.path.join(PHASE);
    let name = folder_name(trainer.step);
    let (temporary, target) = (folder.join(format!(".{name}.tmp")), folder.join(&name));
    remove_folder(&temporary)?;
    remove_folder(&target)?;
    let mut files = Vec::new();
    let mut all = trainer::checkpoint::encode(trainer).map_err(model_error)?;
    all.push((HISTORY.into(), serde_json::to_vec(history).expect("plain data because it derives Serialize")));
    for (file, bytes) in all {
        let mut entry = write_file(&temporary, &file, &bytes)?;
        entry.path = format!("{PHASE}/{name}/{file}");
        files.push(entry);
    }
    rename(&temporary, &target)?;
    context
        .out
        .commit_fragment(PHASE, &FragmentRecord { index: trainer.step as usize, files, ..FragmentRecord::default() })?;
    let mut steps = committed_steps(context);
    steps.sort_unstable();
    for old in steps.iter().rev().skip(2) {
        remove_folder(&folder.join(folder_name(*old)))?;
    }
    Ok(())
}

fn committed_steps(context: &Context<'_>) -> Vec<u64> {
    let entries = std::fs::read_dir(context.out.path.join("fragments").join(PHASE));
    let names = entries.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter_map(|n| n.strip_suffix(".json").and_then(|s| s.parse().ok())).collect()
}

fn last_checkpoint(context: &Context<'_>) -> Result<Option<(Trainer, History)>> {
    let mut steps = committed_steps(context);
    steps.sort_unstable();
    for step in steps.into_iter().rev() {
        if context.out.fragment(PHASE, step as usize).is_none() {
            continue;
        }
        let folder = context.out.path.join(PHASE).join(folder_name(step));
        let trainer = trainer::checkpoint::decode(&folder).map_err(model_error)?;
        let path = folder.join(HISTORY);
        let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let history = serde_json::from_slice(&text)
            .map_err(|e| Error::Integrity(format!("{} is damaged: {e}", path.display())))?;
        return Ok(Some((trainer, history)));
    }
    Ok(None)
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
    files.push(write_table(&context.out.path, "metrics-00000.parquet", &metrics_table(history)?)?);
    files.push(write_table(&context.out.path, "trace-00000.parquet", &trace_table(history)?)?);
    Ok(files)
}

fn metrics_table(history: &History) -> Result<RecordBatch> {
    let mut names: Vec<&String> = history.metrics.iter().flat_map(|(_, m)| m.keys()).collect();
    names.sort();
    names.dedup();
    let mut steps = UInt64Builder::new();
    history.metrics.iter().for_each(|(s, _)| steps.append_value(*s));
    let mut columns: Vec<(String, ArrayRef)> = vec![("step".into(), Arc::new(steps.finish()))];
    for name in names {
        let mut values = Float64Builder::new();
        history.metrics.iter().for_each(|(_, m)| values.append_option(m.get(name).map(|b| f64::from_bits(*b))));
        columns.push((name.clone(), Arc::new(values.finish())));
    }
    named(columns)
}

fn trace_table(history: &History) -> Result<RecordBatch> {
    let mut steps = UInt64Builder::new();
    let mut ids = [StringBuilder::new(), StringBuilder::new()];
    let mut numbers: [UInt64Builder; 4] = Default::default();
    for (step, row) in &history.trace {
        steps.append_value(*step);
        for (builder, value) in ids.iter_mut().zip([&row.id, &row.parent_id]) {
            builder.append_option(value.as_deref());
        }
        for (builder, value) in numbers.iter_mut().zip([row.window, row.shard, row.token_start, row.token_count]) {
            builder.append_option(value);
        }
    }
    let mut columns: Vec<(String, ArrayRef)> = vec![("step".into(), Arc::new(steps.finish()))];
    columns.extend(
        ["id", "parent_id"].iter().zip(&mut ids).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)),
    );
    let names = ["window", "shard", "token_start", "token_count"];
    columns.extend(names.iter().zip(&mut numbers).map(|(n, b)| (n.to_string(), Arc::new(b.finish()) as ArrayRef)));
    named(columns)
}

/// A table of named columns that may hold nulls.
pub fn named(columns: Vec<(String, ArrayRef)>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().map(|(n, a)| Field::new(n, a.data_type().clone(), n != "step" && n != "id")).collect();
    let nullable = Schema::new(fields.into_iter().map(|f| f.with_nullable(true)).collect::<Vec<_>>());
    Ok(RecordBatch::try_new(Arc::new(nullable), columns.into_iter().map(|(_, a)| a).collect())?)
}

/// Turns a trainer's error into the pipeline's.
pub fn model_error(e: impl std::fmt::Display) -> Error {
    Error::Model(e.to_string())
}

/// The newest step folder of a model stage.
pub fn step_folder(model: &Dataset) -> Result<PathBuf> {
    let file = model.receipt.files.iter().filter(|f| f.path.starts_with("step-")).map(|f| &f.path).max();
    let name = file.and_then(|f| f.split('/').next());
    name.map(|n| model.path.join(n))
        .ok_or_else(|| Error::Integrity(format!("stage `{}` holds no checkpoint", model.name)))
}

/// The weights and the tokenizer of a model stage.
pub fn load(model: &Dataset) -> Result<(Model, Tokenizer)> {
    let weights = trainer::checkpoint::decode_model(&step_folder(model)?).map_err(model_error)?;
    Ok((weights, super::tokenize::load_tokenizer(&model.path)?))
}

/// One training sequence: ids, which of them are targets, and where it came from.
pub struct Example {
    /// Token ids and loss mask.
    pub masked: Masked,
    /// Id of its row.
    pub id: String,
    /// Parent of its row.
    pub parent_id: Option<String>,
}

impl Example {
    /// Its line in the trace.
    pub fn trace(&self) -> TraceRow {
        TraceRow { id: Some(self.id.clone()), parent_id: self.parent_id.clone(), ..TraceRow::default() }
    }
}

/// Prompt and completion in the chat format; only the completion and its end-of-turn token are targets.
pub fn render(tokenizer: &Tokenizer, prompt: &str, completion: &str) -> Result<Masked> {
    let turns = [Message::new("user", prompt), Message::new("assistant", completion)];
    let rendered = chat::render(tokenizer, &turns, false).map_err(model_error)?;
    Ok((rendered.ids, rendered.loss_mask))
}

/// A prompt in the chat format, ready to be continued.
pub fn render_prompt(tokenizer: &Tokenizer, prompt: &str) -> Result<Vec<u32>> {
    chat::render(tokenizer, &[Message::new("user", prompt)], true).map(|r| r.ids).map_err(model_error)
}

/// Segments of packed sequences, for losses over whole steps.
pub fn segments(packing: &Packing) -> Vec<Segment> {
    packing.places.iter().map(|p| Segment { micro: p.batch, start: p.first, end: p.first + p.len }).collect()
}

/// Applies a loss over sequences to the statistics of a step's micro-batches.
pub fn apply(
    stats: &[TokenStats],
    batches: &[Batch],
    segments: &[Segment],
    loss: impl FnOnce(Vec<align::loss::Tokens>) -> std::result::Result<LossOutput, align::loss::LossError>,
) -> std::result::Result<(LossOutput, Vec<TokenGrad>), align::loss::LossError> {
    let masks: Vec<&[f32]> = batches.iter().map(|b| b.loss_mask.as_slice()).collect();
    through(stats, &masks, segments, loss)
}

/// Rows `step*size ..` of an endless sequence of epochs, each a keyed permutation of `n` rows.
pub fn shuffled(seed: u64, purpose: &str, step: u64, size: usize, n: usize) -> Vec<usize> {
    let first = step * size as u64;
    (first..first + size as u64)
        .map(|i| {
            let (epoch, at) = (i / n as u64, i % n as u64);
            let key = Key::new(seed).fold_str(purpose).fold(epoch);
            trainer::loader::permute(key, at, n as u64) as usize
        })
        .collect()
}
