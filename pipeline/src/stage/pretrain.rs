//! `pretrain`: token shards to a base model.

use super::model::model_error;
use super::tokenize::open;
use super::training::{self, LoopConfig, Plan, TraceRow};
use super::{Context, Output, imported};
use crate::dataset::{Dataset, string_column};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options, is_default};
use crate::progress::Event;
use crate::source::files::Asset;
use align::loss::sft::{SftConfig, sft};
use datafusion::arrow::array::Array;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokenizer::shard::ShardSet;
use trainer::loader::Loader;
use trainer::optim::{Ema, NoiseScale, OptimConfig, RuleConfig, ScheduleConfig, StepPlan, Timeline, TimelineConfig};
use trainer::trainer::Trainer;
use trainer::{Family, Model, ModelConfig, TokenStats};

/// Options of a `pretrain` stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PretrainConfig {
    /// Go on from this Hugging Face folder (`config.json`, safetensors, `tokenizer.json`), relative to the manifest, in place of new
    /// weights; it decides sizes and layers (dropout and z-loss stay options), and the shards must be made with its tokenizer.
    #[serde(skip_serializing_if = "is_default")]
    pub from: Option<PathBuf>,
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
    /// What else changes over the run: warm-up, weight decay, batch and length of rows.
    #[serde(flatten, skip_serializing_if = "is_default")]
    pub timeline: TimelineConfig,
    /// Which optimizer.
    #[serde(flatten)]
    pub rule: RuleConfig,
    /// Log the gradient noise scale, in tokens, as the metric `noise_scale`: a batch beyond it teaches little more (McCandlish et al.
    /// 2018). Needs two micro-batches a step or more.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(extend("default" = false))]
    pub noise_scale: bool,
    /// Keep a running mean of the weights beside them, with this share of the old mean staying in each step, 0 to below 1; `eval` and
    /// `export` read it with `weights = "ema"`.
    #[serde(skip_serializing_if = "is_default")]
    pub ema_decay: Option<f64>,
    /// Checkpoints.
    #[serde(flatten)]
    pub checkpoints: LoopConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            from: None,
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
            timeline: TimelineConfig::default(),
            rule: RuleConfig::default(),
            noise_scale: false,
            ema_decay: None,
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

    /// Options of the model that are set, by name; dropout and z-loss are options of training.
    fn set_sizes(&self) -> Vec<String> {
        let plain = Self::default();
        let mut set = vec![
            ("depth", self.depth != plain.depth),
            ("n_layer", self.n_layer.is_some()),
            ("n_embd", self.n_embd.is_some()),
            ("n_head", self.n_head.is_some()),
            ("n_kv_head", self.n_kv_head.is_some()),
            ("n_ffn", self.n_ffn.is_some()),
            ("rope_theta", self.rope_theta != plain.rope_theta),
            ("norm_eps", self.norm_eps != plain.norm_eps),
            ("tied", self.tied != plain.tied),
        ];
        set.retain(|(_, given)| *given);
        let fields = |family: &Family| serde_json::to_value(family).expect("plain data because it derives Serialize");
        let (own, other) = (
            fields(&self.family),
            fields(&Family { dropout: self.family.dropout, z_loss: self.family.z_loss, ..Family::default() }),
        );
        let own = own.as_object().into_iter().flatten().filter(|(name, value)| other[name.as_str()] != **value);
        set.into_iter().map(|(name, _)| name.to_string()).chain(own.map(|(name, _)| name.clone())).collect()
    }

    /// The sizes of the model that is trained, for a manifest in `folder`.
    pub fn sizes(&self, folder: &Path, vocab_size: usize) -> Result<ModelConfig> {
        match &self.from {
            None => Ok(self.model(vocab_size)),
            Some(from) => {
                let read = imported::config(&folder.join(from))?;
                let family = Family { dropout: self.family.dropout, z_loss: self.family.z_loss, ..read.family };
                Ok(ModelConfig { vocab_size, family, ..read })
            }
        }
    }

    /// Rows of a step, once the batch has its full size.
    fn rows(&self) -> usize {
        (self.batch_tokens / self.sequence_len as u64) as usize
    }

    /// Rows of a micro-batch.
    fn micro_rows(&self) -> usize {
        (self.micro_batch_tokens / self.sequence_len as u64) as usize
    }

    /// All steps of the run.
    pub fn timeline(&self) -> trainer::Result<Timeline> {
        Timeline::new(&self.schedule, &self.timeline, self.budget_tokens, self.rows(), self.sequence_len)
    }
}

impl Options for PretrainConfig {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = training::check(&self.schedule, &self.optim, &self.checkpoints);
        let names = crate::manifest::kinds::option_names("pretrain");
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        if self.from.is_some() {
            let what = "is decided by the folder of `from`; leave it out";
            faults.extend(self.set_sizes().iter().map(|key| OptionFault::new(key, what)));
        } else if let Err(e) = self.model(256).check() {
            faults.push(OptionFault::about(&names, "depth", e.to_string()));
        }
        if let Err(e) = self.rule.check() {
            faults.push(OptionFault::about(&names, "optimizer", e.to_string()));
        }
        if self.ema_decay.is_some_and(|decay| !(0.0..1.0).contains(&decay)) {
            faults.push(OptionFault::new("ema_decay", "expected 0 to below 1"));
        }
        let sequence = self.sequence_len as u64;
        if self.batch_tokens == 0 || !self.batch_tokens.is_multiple_of(sequence.max(1)) {
            faults.push(OptionFault::new(
                "batch_tokens",
                format!("expected a multiple of sequence_len = {sequence}, got {}", self.batch_tokens),
            ));
        } else if self.budget_tokens < self.batch_tokens {
            faults.push(OptionFault::new(
                "budget_tokens",
                format!("{} tokens are not one step of batch_tokens = {}", self.budget_tokens, self.batch_tokens),
            ));
        } else if let (true, Err(e)) = (faults.is_empty(), self.timeline()) {
            faults.push(OptionFault::about(&names, "learning_rate", e.to_string()));
        } else if self.noise_scale && self.batch_tokens <= self.micro_batch_tokens {
            let message = format!(
                "needs two micro-batches a step: micro_batch_tokens = {} below batch_tokens = {}",
                self.micro_batch_tokens, self.batch_tokens
            );
            faults.push(OptionFault::new("noise_scale", message));
        }
        if self.micro_batch_tokens < sequence {
            faults.push(OptionFault::new("micro_batch_tokens", format!("expected at least sequence_len = {sequence}")));
        }
        faults
    }
}

/// Files that a stage reads beside its shards: those of `from`.
pub fn files(config: &PretrainConfig, folder: &Path) -> std::result::Result<Vec<(String, Asset)>, OptionFault> {
    let Some(from) = &config.from else { return Ok(Vec::new()) };
    let files = imported::files(&folder.join(from))?;
    imported::check_length(&folder.join(from), config.sequence_len)?;
    Ok(files)
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
    let timeline = config.timeline().map_err(model_error)?;
    let rates = |step| timeline.at(step).rates;
    let plan = Plan { steps: timeline.steps(), rates: &rates, options: &config.checkpoints, tokenizer: folder };
    let start = || -> Result<Trainer> {
        let sizes = config.sizes(context.folder, tokenizer.vocab_size())?;
        let model = match &config.from {
            None => Model::init(sizes, context.stage.seed).map_err(model_error)?,
            Some(from) => imported::model(&context.folder.join(from), &tokenizer, sizes)?,
        };
        let mut trainer = Trainer::with_rule(model, &config.optim, &config.rule).map_err(model_error)?;
        trainer.noise = config.noise_scale.then(NoiseScale::default);
        trainer.ema = config.ema_decay.map(|decay| Ema::new(&trainer.model, decay)).transpose().map_err(model_error)?;
        Ok(trainer)
    };
    training::train(context, &plan, start, |turn| {
        turn.trainer.recompute = config.recompute;
        let step = timeline.at(turn.step);
        let batches = micro_batches(&loader, &step, config.micro_rows()).map_err(|e| open::loader_error(folder, e))?;
        let segments: Vec<_> =
            batches.iter().enumerate().flat_map(|(m, b)| align::loss::step::rows(m, b.b, b.t)).collect();
        let surprise = RefCell::new(Vec::new());
        let look = |stats: &[TokenStats]| *surprise.borrow_mut() = mean_losses(stats, config.sequence_len);
        let documents = || named_documents(context.input(), &shards, &loader, &step, &surprise.borrow());
        let loss = |tokens: Vec<align::loss::Tokens>| sft(&SftConfig::default(), &tokens);
        let (output, mut found) = turn.take(&batches, &segments, loss, look, documents)?;
        found.insert("entropy".into(), output.metrics.get("entropy").copied().unwrap_or(0.0));
        let windows = samples(&step).flat_map(|sample| loader.windows_of_sample(sample));
        let trace = windows.enumerate().map(|(i, w)| TraceRow {
            window: Some(i as u64),
            shard: Some(w.shard as u64),
            token_start: Some(w.start),
            token_count: Some(w.len as u64),
            ..TraceRow::default()
        });
        Ok((found, trace.collect()))
    })
}

/// The loader's samples of a step.
fn samples(step: &StepPlan) -> std::ops::Range<u64> {
    step.first_sample..step.first_sample + step.rows as u64
}

/// The batches of a step: at most `micro_rows` windows each, cut into rows of the step's length.
fn micro_batches(loader: &Loader<'_>, step: &StepPlan, micro_rows: usize) -> trainer::Result<Vec<trainer::Batch>> {
    let starts = (0..step.rows).step_by(micro_rows);
    let batch = |row: usize| loader.samples(step.first_sample + row as u64, micro_rows.min(step.rows - row));
    starts.map(|row| Ok(batch(row)?.in_rows_of(step.sequence_len))).collect()
}

/// Mean negative log-prob of each window of a step; NaN where a log-prob is.
fn mean_losses(stats: &[TokenStats], window: usize) -> Vec<f64> {
    let mean = |logprobs: &[f32]| -logprobs.iter().map(|l| f64::from(*l)).sum::<f64>() / window as f64;
    stats.iter().flat_map(|s| s.logprob.chunks(window).map(mean)).collect()
}

/// Documents that an error names.
const NAMED: usize = 12;

/// The documents of a step as `ID (URL)`, those of the windows with the greatest loss first; the last entry counts what is left out.
fn named_documents(
    shards: &Dataset,
    set: &ShardSet,
    loader: &Loader<'_>,
    step: &StepPlan,
    losses: &[f64],
) -> Vec<String> {
    let mut windows: Vec<(u64, f64)> = samples(step).zip(losses.iter().copied()).collect();
    let rank = |loss: f64| if loss.is_nan() { f64::INFINITY } else { loss };
    windows.sort_by(|a, b| rank(b.1).total_cmp(&rank(a.1)));
    let mut rows = Vec::new();
    for window in windows.iter().flat_map(|(sample, _)| loader.windows_of_sample(*sample)) {
        let found = set.documents_in(window.shard, window.range()).map(|piece| set.row(piece.shard, piece.document));
        found.for_each(|row| {
            if !rows.contains(&row) {
                rows.push(row)
            }
        });
    }
    let left_out = rows.len().saturating_sub(NAMED);
    rows.truncate(NAMED);
    match names(shards, &rows) {
        Ok(mut named) => {
            named.extend((left_out > 0).then(|| format!("and {left_out} more")));
            named
        }
        Err(e) => vec![format!("rows {rows:?} of {} ({e})", crate::dataset::DOCUMENTS)],
    }
}

/// `ID (URL)` of rows of the table of documents.
fn names(shards: &Dataset, rows: &[u64]) -> Result<Vec<String>> {
    let documents = open::Documents::open(shards)?;
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    let has_url = shards.schema()?.column_with_name("url").is_some();
    let table = documents.rows(&sorted, if has_url { &["id", "url"] } else { &["id"] })?;
    let ids = string_column(&table, "id")?;
    let urls = has_url.then(|| string_column(&table, "url")).transpose()?;
    let name = |at: usize| match urls.filter(|urls| !urls.is_null(at)) {
        Some(urls) => format!("{} ({})", ids.value(at), urls.value(at)),
        None => ids.value(at).to_string(),
    };
    let by_row: BTreeMap<u64, String> = sorted.iter().enumerate().map(|(at, row)| (*row, name(at))).collect();
    Ok(rows.iter().map(|row| by_row[row].clone()).collect())
}
