//! How large and how slow a stage will be: from its last run in this place, scaled by its input, else from rates of the quickstart.
//!
//! In: the stages of a manifest in order, with what stands of them. Out: rows, bytes on disk, seconds and memory, marked as known or
//! guessed. Filters are guessed to keep everything: a first estimate is an upper bound for them.

use crate::error::{Error, Result};
use crate::manifest::kinds::StageOptions;
use crate::manifest::{Manifest, Stage};
use crate::receipt::Receipt;
use serde::Serialize;
use std::collections::BTreeMap;
use trainer::ModelConfig;

/// What a stage's output takes, and what making it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Rows of its output.
    pub rows: u64,
    /// Bytes of its output on disk.
    pub bytes: u64,
    /// Seconds it will take; 0 for what is cached.
    pub secs: f64,
    /// Memory of a training stage's weights, gradients and optimizer in bytes; 0 for other kinds.
    pub memory_bytes: u64,
    /// Whether rows and bytes are those of a finished output.
    pub known: bool,
}

/// Bytes out per byte in, rows out per row in, and seconds per megabyte in, by kind. Measured on the quickstart, two cores of an
/// AMD EPYC (Milan), 2026-11-24; what drops rows counts as dropping none.
const RATES: &[(&str, f64, f64, f64)] = &[
    ("ingest", 0.55, 1.0, 0.1),
    ("extract", 0.66, 1.0, 0.45),
    ("language", 1.0, 1.0, 0.35),
    ("filter", 1.0, 1.0, 0.3),
    ("dedup", 1.0, 1.0, 0.6),
    ("decontaminate", 1.0, 1.0, 0.3),
    ("sql", 1.0, 1.0, 0.2),
    ("mix", 1.0, 1.0, 0.2),
    ("tokenizer", 0.1, 0.0, 0.2),
    ("tokenize", 2.5, 1.0, 0.3),
];
/// Bytes of a crawl's gzip per record, in the quickstart.
const BYTES_PER_RECORD: u64 = 5_600;
/// Floating-point operations a second of training, counted as 6 per parameter and token, on the same two cores.
const TRAIN_FLOPS: f64 = 5e10;
/// Weight, gradient and two moments of AdamW in f32.
const BYTES_PER_PARAMETER: u64 = 16;

/// Bytes below which no optimizer trains a parameter here: its weight, its gradient, and the new weight beside the old.
const LEAST_BYTES_PER_PARAMETER: u64 = 12;

/// An error if a stage trains a model that this machine's memory cannot hold, whatever else is in it.
pub fn fits(stage: &Stage, manifest: &Manifest) -> Result<()> {
    let Some(parameters) = parameters(stage, manifest) else { return Ok(()) };
    let needed = LEAST_BYTES_PER_PARAMETER.saturating_mul(parameters);
    match memory_bytes() {
        Some(held) if needed > held => Err(Error::Resources(format!(
            "stage `{}` trains {parameters} parameters, which takes more than {} GB of memory; this machine has {}\nhint: choose a smaller \
             `depth`; `gristmill plan` shows what a stage needs",
            stage.name,
            needed >> 30,
            held >> 30
        ))),
        _ => Ok(()),
    }
}

/// Memory of this machine, or of the control group of this process if that is smaller (Linux).
fn memory_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let machine = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|t| t.trim().parse().ok());
    Some(group.map_or(machine, |group: u64| group.min(machine)))
}

/// The size of a finished output.
pub fn finished(receipt: &Receipt) -> Estimate {
    let bytes = receipt.files.iter().map(|f| f.bytes).sum();
    Estimate { rows: receipt.rows, bytes, known: true, ..Estimate::default() }
}

/// The size of a stage that will run. `last` is its receipt from an earlier run here; `sizes` holds all stages before it.
pub fn stage(
    stage: &Stage,
    manifest: &Manifest,
    source_bytes: u64,
    last: Option<&Receipt>,
    sizes: &BTreeMap<String, Estimate>,
) -> Estimate {
    let inputs = stage.inputs.iter().filter_map(|n| sizes.get(n));
    let (mut rows, mut bytes) = inputs.fold((0, 0), |(rows, bytes), e| (rows + e.rows, bytes + e.bytes));
    if stage.inputs.is_empty() {
        (rows, bytes) = (source_bytes / BYTES_PER_RECORD, source_bytes);
    }
    let mut estimate = match (last, RATES.iter().find(|r| r.0 == stage.kind)) {
        (Some(last), _) => {
            let before = last.counts.get("in").copied().filter(|n| *n > 0);
            let scale = before.map_or(1.0, |n| rows as f64 / n as f64);
            let held: u64 = last.files.iter().map(|f| f.bytes).sum();
            Estimate {
                rows: (last.rows as f64 * scale) as u64,
                bytes: (held as f64 * scale) as u64,
                secs: last.elapsed_secs * scale,
                ..Estimate::default()
            }
        }
        (None, Some((_, out, kept, secs))) => Estimate {
            rows: (rows as f64 * kept) as u64,
            bytes: (bytes as f64 * out) as u64,
            secs: bytes as f64 / 1e6 * secs,
            ..Estimate::default()
        },
        (None, None) => Estimate { rows, bytes, ..Estimate::default() },
    };
    if let Some(parameters) = parameters(stage, manifest) {
        estimate.memory_bytes = BYTES_PER_PARAMETER * parameters;
        if last.is_none() {
            // A checkpoint holds weights and both moments.
            estimate = Estimate { rows: 0, bytes: 12 * parameters, ..estimate };
        }
        if let (StageOptions::Pretrain(o), None) = (&stage.options, last) {
            estimate.secs = 6.0 * parameters as f64 * o.budget_tokens as f64 / TRAIN_FLOPS;
        }
    }
    estimate
}

/// Parameters of the model that a training stage trains.
fn parameters(stage: &Stage, manifest: &Manifest) -> Option<u64> {
    sizes(stage, manifest).map(|sizes| sizes.n_params() as u64)
}

/// Sizes of the model that a training stage trains, by the chain of models down to its pretraining.
pub fn sizes(stage: &Stage, manifest: &Manifest) -> Option<ModelConfig> {
    match &stage.options {
        StageOptions::Pretrain(o) => {
            let shards = manifest.stage(stage.inputs.first()?)?;
            let tokenizer = manifest.stage(shards.references.get("tokenizer")?.first()?)?;
            let StageOptions::Tokenizer(t) = &tokenizer.options else { return None };
            let vocab_size = t.superword_vocab_size.unwrap_or(t.tokenizer.vocab_size);
            o.sizes(&manifest.folder, vocab_size).ok()
        }
        StageOptions::Sft(_) | StageOptions::Preference(_) | StageOptions::Grpo(_) => {
            sizes(manifest.stage(stage.references.get("model")?.first()?)?, manifest)
        }
        _ => None,
    }
}

/// What the options of a `pretrain` stage come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Derived {
    /// Layers.
    pub n_layer: usize,
    /// Width of the hidden stream.
    pub n_embd: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_kv_head: usize,
    /// Inner width of the feed-forward.
    pub n_ffn: usize,
    /// Ids.
    pub vocab_size: usize,
    /// Weights in all, embeddings among them.
    pub parameters: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Tokens per weight; some 20 are best for their cost in floating-point operations (Hoffmann et al. 2022).
    pub tokens_per_parameter: f64,
    /// Floating-point operations of all steps: per token 6 for each weight and 12 x layers x width of all heads x length of a row
    /// (Chowdhery et al. 2022, appendix B).
    pub flops: f64,
}

/// The numbers of a `pretrain` stage; None for other kinds, and where its vocabulary or its folder is not known.
pub fn derived(stage: &Stage, manifest: &Manifest) -> Option<Derived> {
    let StageOptions::Pretrain(options) = &stage.options else { return None };
    let sizes = sizes(stage, manifest)?;
    let timeline = options.timeline().ok()?;
    let (parameters, steps) = (sizes.n_params() as u64, timeline.steps());
    let (mut tokens, mut flops) = (0, 0.0);
    for step in (0..steps).map(|step| timeline.at(step)) {
        let here = (step.rows * options.sequence_len) as u64;
        let attention = 12 * sizes.n_layer * sizes.n_head * sizes.head_dim() * step.sequence_len;
        tokens += here;
        flops += here as f64 * (6 * parameters + attention as u64) as f64;
    }
    let tokens_per_parameter = tokens as f64 / parameters.max(1) as f64;
    let ModelConfig { n_layer, n_embd, n_head, n_kv_head, n_ffn, vocab_size, .. } = sizes;
    Some(Derived {
        n_layer,
        n_embd,
        n_head,
        n_kv_head,
        n_ffn,
        vocab_size,
        parameters,
        steps,
        tokens,
        tokens_per_parameter,
        flops,
    })
}
