//! `pretrain`: token shards to a base model.

use super::model::{self, LoopConfig, Metrics, Plan, TraceRow, model_error};
use super::tokenize::open;
use super::{Context, Output};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use crate::progress::Event;
use align::loss::sft::{SftConfig, sft};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use trainer::loader::Loader;
use trainer::optim::{OptimConfig, RuleConfig, ScheduleConfig};
use trainer::trainer::Trainer;
use trainer::{Family, Model, ModelConfig};

/// Options of a `pretrain` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PretrainConfig {
    /// One dial for the size: layers; width is 64 per layer, heads of 64, SwiGLU of 8/3 width. Sizes set beside it win.
    pub depth: usize,
    /// Transformer layers; default: `depth`.
    pub n_layer: Option<usize>,
    /// Width of the hidden stream; default: 64 x `depth`.
    pub n_embd: Option<usize>,
    /// Query heads; default: one per 64 of width.
    pub n_head: Option<usize>,
    /// Key and value heads; default: half of `n_head` if it is even, else all.
    pub n_kv_head: Option<usize>,
    /// Inner width of the feed-forward; default: 8/3 of the width, rounded up to a multiple of 32.
    pub n_ffn: Option<usize>,
    /// Tokens in a row.
    pub sequence_len: usize,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Added to the mean square inside RMSNorm.
    pub norm_eps: f64,
    /// Whether the output projection is the embedding matrix.
    pub tied: bool,
    /// Norms, positions, attention and feed-forward.
    #[serde(flatten, skip_serializing_if = "Family::is_plain")]
    pub family: Family,
    /// Tokens to train on; rounded down to whole steps. Shorter data is repeated, in a new order each time.
    pub budget_tokens: u64,
    /// Tokens of one optimizer step.
    pub batch_tokens: u64,
    /// Tokens of one micro-batch; gradients of micro-batches are summed by a binary tree.
    pub micro_batch_tokens: u64,
    /// Run forward again in backward instead of keeping activations: less memory, more time, the same bits.
    pub recompute: bool,
    /// Learning rates.
    #[serde(flatten)]
    pub schedule: ScheduleConfig,
    /// What all optimizers share.
    #[serde(flatten)]
    pub optim: OptimConfig,
    /// Which optimizer.
    #[serde(flatten)]
    pub rule: RuleConfig,
    /// Checkpoints.
    #[serde(flatten)]
    pub checkpoints: LoopConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            depth: 4,
            n_layer: None,
            n_embd: None,
            n_head: None,
            n_kv_head: None,
            n_ffn: None,
            sequence_len: 256,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            tied: true,
            family: Family::default(),
            budget_tokens: 1_000_000,
            batch_tokens: 4096,
            micro_batch_tokens: 4096,
            recompute: false,
            schedule: ScheduleConfig::default(),
            optim: OptimConfig::default(),
            rule: RuleConfig::default(),
            checkpoints: LoopConfig::default(),
        }
    }
}

impl PretrainConfig {
    /// The sizes of the model for a vocabulary.
    pub fn model(&self, vocab_size: usize) -> ModelConfig {
        let n_embd = self.n_embd.unwrap_or(64 * self.depth);
        let n_head = self.n_head.unwrap_or((n_embd / 64).max(1));
        ModelConfig {
            vocab_size,
            n_layer: self.n_layer.unwrap_or(self.depth),
            n_head,
            n_kv_head: self.n_kv_head.unwrap_or(if n_head.is_multiple_of(2) { n_head / 2 } else { n_head }),
            n_embd,
            n_ffn: self.n_ffn.unwrap_or((n_embd * 8 / 3).next_multiple_of(32)),
            sequence_len: self.sequence_len,
            rope_theta: self.rope_theta,
            norm_eps: self.norm_eps,
            tied: self.tied,
            family: self.family.clone(),
        }
    }

    fn steps(&self) -> u64 {
        self.budget_tokens / self.batch_tokens
    }
}

impl Options for PretrainConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = check_training(&self.schedule, &self.optim, &self.checkpoints);
        let names = crate::manifest::kinds::option_names("pretrain");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Err(e) = self.model(256).check() {
            faults.push(OptionFault::about(&names, "depth", e.to_string()));
        }
        if let Err(e) = self.rule.check() {
            faults.push(OptionFault::about(&names, "optimizer", e.to_string()));
        }
        let sequence = self.sequence_len as u64;
        if self.batch_tokens == 0 || !self.batch_tokens.is_multiple_of(sequence.max(1)) {
            faults.push(OptionFault::new(
                "batch_tokens",
                format!("expected a multiple of sequence_len = {sequence}, got {}", self.batch_tokens),
            ));
        } else if self.steps() == 0 {
            faults.push(OptionFault::new(
                "budget_tokens",
                format!("{} tokens are not one step of batch_tokens = {}", self.budget_tokens, self.batch_tokens),
            ));
        }
        if self.micro_batch_tokens < sequence {
            faults.push(OptionFault::new("micro_batch_tokens", format!("expected at least sequence_len = {sequence}")));
        }
        faults
    }
}

/// Faults of the options that all training stages share.
pub fn check_training(schedule: &ScheduleConfig, optim: &OptimConfig, checkpoints: &LoopConfig) -> Vec<OptionFault> {
    let mut faults = Vec::new();
    if let Err(e) = schedule.check() {
        faults.push(OptionFault::new("learning_rate", e.to_string()));
    }
    if let Err(e) = optim.check() {
        faults.push(OptionFault::new("weight_decay", e.to_string()));
    }
    if checkpoints.checkpoint_every == 0 {
        faults.push(OptionFault::new("checkpoint_every", "expected at least 1"));
    }
    faults
}

/// Passes over the same text after which another one teaches little (Muennighoff et al. 2023).
const MANY_EPOCHS: f64 = 4.0;

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &PretrainConfig) -> Result<Output> {
    let folder = &context.input().path;
    let shards = open::shards(context.input(), "train")?;
    let tokenizer = super::tokenize::load_tokenizer(folder)?;
    let loader = Loader::new(&shards, config.sequence_len, context.stage.seed)
        .map_err(|e| Error::InputData(format!("stage `{}`: {e}", context.name())))?;
    let epochs = config.budget_tokens as f64 / loader.tokens().max(1) as f64;
    if epochs > MANY_EPOCHS {
        context.progress.event(Event::Warning(&format!(
            "`{}` goes over its {} tokens {epochs:.0} times; more text or a smaller budget_tokens would serve better",
            context.name(),
            loader.tokens()
        )));
    }
    let rows = (config.batch_tokens / config.sequence_len as u64) as usize;
    let micro_rows = (config.micro_batch_tokens / config.sequence_len as u64) as usize;
    let plan = Plan {
        steps: config.steps(),
        checkpoint_every: config.checkpoints.checkpoint_every,
        schedule: &config.schedule,
        tokenizer: folder,
    };
    let start = || -> Result<Trainer> {
        let model = Model::init(config.model(tokenizer.vocab_size()), context.stage.seed).map_err(model_error)?;
        Trainer::with_rule(model, &config.optim, &config.rule).map_err(model_error)
    };
    model::train(context, &plan, start, |trainer, step, lr| {
        trainer.recompute = config.recompute;
        let batches = loader.micro_batches(step, rows, micro_rows).map_err(|e| open::loader_error(folder, e))?;
        let segments: Vec<_> =
            batches.iter().enumerate().flat_map(|(m, b)| align::loss::step::rows(m, b.b, b.t)).collect();
        let mut found = Metrics::new();
        let report = trainer
            .step(&batches, lr, |stats| {
                let (output, grads) =
                    model::apply(stats, &batches, &segments, |tokens| sft(&SftConfig::default(), &tokens))
                        .map_err(|e| trainer::Error::Loss(e.to_string()))?;
                found.insert("loss".into(), output.loss);
                found.insert("entropy".into(), output.metrics.get("entropy").copied().unwrap_or(0.0));
                Ok(grads)
            })
            .map_err(model_error)?;
        found.insert("grad_norm".into(), report.grad_norm);
        found.insert("tokens".into(), report.tokens as f64);
        let trace = loader.windows_of_step(step, rows).into_iter().enumerate().map(|(i, w)| TraceRow {
            window: Some(i as u64),
            shard: Some(w.shard as u64),
            token_start: Some(w.start),
            token_count: Some(w.len as u64),
            ..TraceRow::default()
        });
        Ok((found, trace.collect()))
    })
}
