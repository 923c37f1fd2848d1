//! What model stages share beside the loop: a model with its tokenizer, conversations as tokens, losses over packed sequences.

use super::training::TraceRow;
use crate::dataset::Dataset;
use crate::error::{Error, Result};
use crate::manifest::Stage;
use crate::manifest::kinds::{OptionFault, StageOptions};
use align::loss::LossOutput;
use align::loss::step::{Segment, through};
use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{Field, Schema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use tokenizer::Tokenizer;
use tokenizer::chat::{self, Message};
use trainer::packing::{Masked, Packing};
use trainer::rng::Key;
use trainer::{Batch, Model, TokenGrad, TokenStats};

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

/// Which weights of a model stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Those after the last step.
    #[default]
    Last,
    /// Their running mean, of a stage with `ema_decay`.
    Ema,
}

/// The last weights and the tokenizer of a model stage.
pub fn load(model: &Dataset) -> Result<(Model, Tokenizer)> {
    load_weights(model, Weights::Last)
}

/// The weights and the tokenizer of a model stage.
pub fn load_weights(model: &Dataset, weights: Weights) -> Result<(Model, Tokenizer)> {
    let folder = step_folder(model)?;
    let loaded = match weights {
        Weights::Last => trainer::checkpoint::decode_model(&folder).map_err(model_error)?,
        Weights::Ema => trainer::checkpoint::decode_ema(&folder).map_err(model_error)?.ok_or_else(|| {
            let hint = "hint: give it  ema_decay = 0.999  or take  weights = \"ema\"  away";
            Error::Manifest(format!("error: stage `{}` keeps no running mean of its weights\n{hint}", model.name))
        })?,
    };
    Ok((loaded, super::tokenize::load_tokenizer(&model.path)?))
}

/// Stages named by `key` that keep no running mean although `weights` asks for it.
pub fn check_weights(weights: Weights, key: &str, stage: &Stage, stages: &[Stage]) -> Vec<OptionFault> {
    let keeps = |name: &String| match stages.iter().find(|s| s.name == *name).map(|s| &s.options) {
        Some(StageOptions::Pretrain(o)) => o.ema_decay.is_some(),
        Some(_) => false,
        None => true, // an unknown stage is another fault
    };
    let named = stage.references.get(key).into_iter().flatten();
    let lacking = named.filter(|name| weights == Weights::Ema && !keeps(name));
    let fault = |name: &String| OptionFault {
        key: "weights".into(),
        message: format!("`weights` in stage `{}`: `{name}` keeps no running mean of its weights", stage.name),
        hint: Some("only a `pretrain` stage with  ema_decay = 0.999  does".into()),
    };
    lacking.map(fault).collect()
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
