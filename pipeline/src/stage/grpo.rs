//! `grpo`: trains on rewards of the model's own rollouts, sampled and judged inside every step.

use super::model::{self, model_error, render_prompt};
use super::rollout::{Prompt, check_sampling, prompts, sample, text_of};
use super::training::{self, LoopConfig, Metrics, Plan, TraceRow};
use super::{Context, Output};
use crate::error::{Error, Result};
use crate::manifest::kinds::{OptionFault, Options};
use align::advantage::advantages;
use align::control::reward;
use align::loss::grpo::{GrpoConfig, Rollout, grpo};
use align::verify::verify;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokenizer::Tokenizer;
use trainer::generate::{Completion, Finish};
use trainer::optim::{OptimConfig, Rates, ScheduleConfig};
use trainer::packing::{Masked, Packing, pack};
use trainer::sample::SampleConfig;
use trainer::trainer::Trainer;
use trainer::{Model, tape};

/// Options of a `grpo` stage. Its input has `prompt`, `answer`, `task` and `verifier` columns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrpoStage {
    /// Loss, clips, advantages and rewards.
    #[serde(flatten)]
    pub grpo: GrpoConfig,
    /// Optimizer steps; each samples anew, so every update is on-policy.
    pub steps: u64,
    /// Prompts of one step.
    pub prompts_per_step: usize,
    /// Sampling temperature of the rollouts, above 0. At 1 the policy's own distribution is sampled.
    pub temperature: f64,
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

impl Default for GrpoStage {
    fn default() -> Self {
        Self {
            grpo: GrpoConfig::default(),
            steps: 100,
            prompts_per_step: 16,
            temperature: 1.0,
            schedule: ScheduleConfig { learning_rate: 1e-4, ..ScheduleConfig::default() },
            optim: OptimConfig { weight_decay: 0.0, ..OptimConfig::default() },
            checkpoints: LoopConfig::default(),
        }
    }
}

impl Options for GrpoStage {
    fn check(&self) -> Vec<OptionFault> {
        let mut faults = training::check(&self.schedule, &self.optim, &self.checkpoints);
        faults.extend(check_sampling(&self.sampling()));
        if let Err(e) = self.grpo.check() {
            faults.push(OptionFault::new("loss", e.to_string()));
        }
        for (key, value) in [("steps", self.steps), ("prompts_per_step", self.prompts_per_step as u64)] {
            if value == 0 {
                faults.push(OptionFault::new(key, "expected at least 1"));
            }
        }
        faults
    }
}

impl GrpoStage {
    fn sampling(&self) -> SampleConfig {
        SampleConfig {
            temperature: self.temperature,
            max_tokens: self.grpo.max_completion_tokens,
            ..SampleConfig::default()
        }
    }
}

/// The rollouts of one step, packed, with what the loss needs beside the model's statistics.
struct Step {
    packing: Packing,
    completions: Vec<Completion>,
    advantages: Vec<f64>,
    metrics: Metrics,
}

/// Runs the stage.
pub fn run(context: &Context<'_>, config: &GrpoStage) -> Result<Output> {
    let source = context.reference("model").expect("the manifest check asks for it");
    let (base, tokenizer) = model::load(source)?;
    let prompts = prompts(context.input())?;
    if prompts.is_empty() {
        return Err(Error::InputData(format!("stage `{}` got no prompt", context.name())));
    }
    let rates = |step| Rates::of(config.schedule.lr_at(step, config.steps));
    let plan = Plan { steps: config.steps, rates: &rates, options: &config.checkpoints, tokenizer: &source.path };
    let start = || Trainer::new(base.clone(), &config.optim).map_err(model_error);
    training::train(context, &plan, start, |turn| {
        let chosen = model::shuffled(context.stage.seed, "grpo", turn.step, config.prompts_per_step, prompts.len());
        let group: Vec<&Prompt> = chosen.iter().map(|i| &prompts[*i]).collect();
        let rollouts = sample_step(&turn.trainer.model, &tokenizer, &group, config, context.stage.seed, turn.step)?;
        let reference = if config.grpo.beta > 0.0 { Some(reference_logprobs(&base, &rollouts.packing)?) } else { None };
        let segments = model::segments(&rollouts.packing);
        let loss = |tokens: Vec<align::loss::Tokens>| {
            let of = |(i, tokens): (usize, align::loss::Tokens)| Rollout {
                tokens,
                old_logprob: None, // one update per rollout: the policy has not moved since
                ref_logprob: reference
                    .as_ref()
                    .map(|r| rollouts.packing.of(r, i).iter().map(|l| f64::from(*l)).collect()),
                advantage: rollouts.advantages[i],
                truncated: rollouts.completions[i].finish == Finish::Length,
            };
            grpo(&config.grpo, &tokens.into_iter().enumerate().map(of).collect::<Vec<_>>())
        };
        let mut drift = 0.0;
        let look = |stats: &[trainer::TokenStats]| drift = logprob_drift(stats, &rollouts);
        let documents = || group.iter().map(|p| p.id.clone()).collect();
        let (output, taken) = turn.take(&rollouts.packing.batches, &segments, loss, look, documents)?;
        let mut found = rollouts.metrics.clone();
        found.extend(output.metrics);
        found.extend(taken);
        found.insert("sampling/sampling_logp_difference/max".into(), drift);
        let trace = group.iter().map(|p| TraceRow {
            id: Some(p.id.clone()),
            parent_id: p.parent_id.clone(),
            ..TraceRow::default()
        });
        Ok((found, trace.collect()))
    })
}

/// Samples, judges and packs the rollouts of one step.
fn sample_step(
    model: &Model,
    tokenizer: &Tokenizer,
    group: &[&Prompt],
    config: &GrpoStage,
    seed: u64,
    step: u64,
) -> Result<Step> {
    let size = config.grpo.group_size;
    let noise = trainer::rng::Key::new(seed).fold_str("grpo rollouts").bits(step);
    let completions = sample(model, tokenizer, group, size as u32, &config.sampling(), noise)?;
    let (mut rewards, mut sequences) = (Vec::with_capacity(completions.len()), Vec::with_capacity(completions.len()));
    for (i, completion) in completions.iter().enumerate() {
        let (prompt, number) = (group[i / size], (i % size) as u32);
        let verdict = verify(&prompt.verifier, &text_of(tokenizer, completion), &prompt.answer)
            .map_err(|e| Error::InputData(e.to_string()))?;
        rewards.push(reward(config.grpo.rewards, verdict.status.passed(), seed, step, &prompt.id, number));
        sequences.push(sequence(render_prompt(tokenizer, &prompt.prompt)?, completion));
    }
    let advantages = advantages(&config.grpo, &rewards);
    let packing = pack(&sequences, model.config().sequence_len, 16).map_err(model_error)?;
    Ok(Step { packing, completions, advantages: advantages.values, metrics: advantages.metrics })
}

/// Prompt and completion as one sequence: tokens in are tokens out, no text is encoded again.
fn sequence(prompt: Vec<u32>, completion: &Completion) -> Masked {
    let mut mask = vec![false; prompt.len()];
    mask.extend(completion.tokens.iter().map(|_| true));
    let mut ids = prompt;
    ids.extend(&completion.tokens);
    (ids, mask)
}

fn reference_logprobs(reference: &Model, packing: &Packing) -> Result<Vec<Vec<f32>>> {
    packing.batches.iter().map(|b| tape::score(reference, b).map(|s| s.logprob).map_err(model_error)).collect()
}

/// Largest difference between a token's log-prob when it was sampled and now: 0 on CPU, bit for bit.
fn logprob_drift(stats: &[trainer::TokenStats], step: &Step) -> f64 {
    let mut largest = 0.0f64;
    for (completion, place) in step.completions.iter().zip(&step.packing.places) {
        let own = &stats[place.batch].logprob[place.first..place.first + place.len];
        let tail = &own[own.len() - completion.tokens.len()..];
        for (a, b) in tail.iter().zip(&completion.logprobs) {
            largest = largest.max(f64::from((a - b).abs()));
        }
    }
    largest
}
