//! Policy-gradient losses over groups of rollouts: GRPO, Dr. GRPO, DAPO, CISPO, with token or sequence ratios (GSPO).
//!
//! In: the rollouts of a whole step with their advantages, the sampler's and the reference's log-probs. Out: loss,
//! gradients, TRL-named metrics. Left to others: sampling, rewards, advantages (`advantage.rs`).
//! Shao et al. 2024 (GRPO), Liu et al. 2025 (Dr. GRPO), Yu et al. 2025 (DAPO), Zheng et al. 2025 (GSPO), MiniMax 2025
//! (CISPO). Sums are over the whole step, where TRL's `bnpo` and `dapo` are one and the same.

use serde::{Deserialize, Serialize};

use super::{Grad, LossError, LossOutput, Metrics, Tokens, bad_config, finite, mean_entropy};
use crate::control::Rewards;

/// How token losses are made and added up. `B` = rollouts, `n_i` = loss tokens of rollout i.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrpoLoss {
    /// Mean over each rollout's tokens, then over rollouts (short answers weigh more per token).
    Grpo,
    /// Sum over all tokens divided by `B * max_completion_tokens`, a constant: no length bias.
    DrGrpo,
    /// Sum over all tokens divided by the loss tokens of the step (TRL `dapo`; over a whole step also `bnpo`).
    #[default]
    #[serde(alias = "bnpo")]
    Dapo,
    /// As `dapo`, but `-min(ratio, epsilon_high) * advantage * log-prob` with a detached ratio that is never masked out.
    Cispo,
}

/// What the centred rewards are divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The standard deviation of the group.
    #[default]
    Group,
    /// The standard deviation of all rewards of the step.
    Batch,
    /// Nothing (Dr. GRPO).
    None,
}

/// Whether a ratio belongs to a token or to a whole answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatioLevel {
    /// One ratio per token.
    #[default]
    Token,
    /// One per answer: exp of the mean log-ratio (GSPO).
    Sequence,
}

/// Options of the GRPO family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// `grpo`, `dr_grpo`, `dapo` (also `bnpo`) or `cispo`.
    pub loss: GrpoLoss,
    /// The ratio may fall to `1 - epsilon_low` before its gradient stops; at least 0. Unused by `cispo`, whose value must stay the default.
    pub epsilon_low: f64,
    /// The ratio may rise to `1 + epsilon_high` (`cispo`: to `epsilon_high` itself, about 5) before its gradient stops.
    pub epsilon_high: f64,
    /// `token` or `sequence` (GSPO).
    pub importance_sampling_level: RatioLevel,
    /// Weight of the k3 estimate of the KL to the reference, in the loss; 0 = no reference is needed.
    pub beta: f64,
    /// True: the KL term is multiplied by the ratio, which makes its gradient that of the reverse KL (DeepSeek-V3.2;
    /// TRL's default). False: plain k3, whose gradient is biased. Only with `beta` above 0.
    pub unbiased_kl: bool,
    /// Weight of a bonus on the mean entropy of the loss tokens, 0 or above.
    pub entropy_coef: f64,
    /// Centred rewards are divided by the std of the `group`, of the `batch`, or not at all (`none`).
    pub scale_rewards: ScaleRewards,
    /// Rollouts per prompt, at least 2.
    pub group_size: usize,
    /// 1 = Bessel's correction (TRL, verl), 0 = population (open-instruct).
    pub ddof: u32,
    /// Added to the std before dividing (TRL 1e-4, verl 1e-6).
    pub std_eps: f64,
    /// Tokens that a rollout may have; also the constant that `dr_grpo` divides by.
    pub max_completion_tokens: usize,
    /// True: a rollout that was cut off has no loss tokens (its reward still counts in its group).
    pub mask_truncated: bool,
    /// `verdict`, or `random`: a control with a fair coin keyed by seed, step, prompt and sample.
    pub rewards: Rewards,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            loss: GrpoLoss::Dapo,
            epsilon_low: 0.2,
            epsilon_high: 0.28,
            importance_sampling_level: RatioLevel::Token,
            beta: 0.0,
            unbiased_kl: true,
            entropy_coef: 0.0,
            scale_rewards: ScaleRewards::Group,
            group_size: 8,
            ddof: 1,
            std_eps: 1e-4,
            max_completion_tokens: 32,
            mask_truncated: false,
            rewards: Rewards::Verdict,
        }
    }
}

impl GrpoConfig {
    /// The first value that is out of range, or set although another key makes it dead.
    pub fn check(&self) -> Result<(), LossError> {
        let positive = [("epsilon_low", self.epsilon_low), ("epsilon_high", self.epsilon_high), ("beta", self.beta)];
        for (key, value) in positive.into_iter().chain([("entropy_coef", self.entropy_coef), ("std_eps", self.std_eps)])
        {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(bad_config(key, value, "must be 0 or above"));
            }
        }
        if self.loss == GrpoLoss::Cispo && self.epsilon_low != Self::default().epsilon_low {
            return Err(bad_config("epsilon_low", self.epsilon_low, "`cispo` has no lower bound; remove the key"));
        }
        if !self.unbiased_kl && self.beta == 0.0 {
            return Err(bad_config("unbiased_kl", false, "`beta` is 0, so there is no KL term; remove the key"));
        }
        if self.group_size < 2 {
            return Err(bad_config("group_size", self.group_size, "an advantage needs at least 2 rollouts a prompt"));
        }
        if self.ddof > 1 {
            return Err(bad_config("ddof", self.ddof, "must be 0 or 1"));
        }
        if self.max_completion_tokens == 0 {
            return Err(bad_config("max_completion_tokens", 0, "must be at least 1"));
        }
        Ok(())
    }
}

/// One sampled answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollout {
    /// The answer under the policy now; the mask is on for its tokens (its end-of-turn token too).
    pub tokens: Tokens,
    /// Log-prob of each token when it was sampled; `None` = the policy has not moved since (one update per rollout).
    pub old_logprob: Option<Vec<f64>>,
    /// Log-prob of each token under the reference; needed if `beta` is above 0.
    pub ref_logprob: Option<Vec<f64>>,
    /// From [`crate::advantage::advantages`].
    pub advantage: f64,
    /// True if the answer was cut off at `max_completion_tokens`.
    pub truncated: bool,
}

/// One token's policy term: its loss, its slope with respect to the log-ratio, and whether the clip is active.
#[derive(Clone, Copy, Default)]
struct Term {
    value: f64,
    slope: f64,
    low_clipped: bool,
    high_clipped: bool,
}

fn term(config: &GrpoConfig, log_ratio: f64, advantage: f64) -> Term {
    let ratio = log_ratio.exp();
    let low_clipped = ratio < 1.0 - config.epsilon_low && advantage < 0.0;
    let high_clipped = ratio > 1.0 + config.epsilon_high && advantage > 0.0;
    let clamped = ratio.clamp(1.0 - config.epsilon_low, 1.0 + config.epsilon_high);
    let value = -(ratio * advantage).min(clamped * advantage);
    let slope = if low_clipped || high_clipped { 0.0 } else { -ratio * advantage };
    Term { value, slope, low_clipped, high_clipped }
}

/// CISPO: the gradient is that of the log-prob, weighted by a detached, capped ratio.
fn cispo_term(config: &GrpoConfig, log_ratio: f64, logprob: f64, advantage: f64) -> Term {
    let ratio = log_ratio.exp();
    let weight = ratio.min(config.epsilon_high) * advantage;
    let high_clipped = ratio > config.epsilon_high && advantage > 0.0;
    Term { value: -weight * logprob, slope: -weight, low_clipped: false, high_clipped }
}

/// What a step logs besides its loss; every sum is over loss tokens, or over rollouts for sequence ratios.
#[derive(Default)]
struct Tally {
    kl: f64,
    n_tokens: f64,
    low: f64,
    high: f64,
    n_ratios: f64,
    low_min: Option<f64>,
    high_max: Option<f64>,
}

/// Loss and gradients of a whole step. Metrics: `loss`, `entropy`, `kl` (if `beta` > 0), `clip_ratio/low_mean`,
/// `high_mean`, `region_mean`, `low_min`, `high_max` (`cispo_clip_ratio` for CISPO), `completions/mean_length`,
/// `min_length`, `max_length`, `clipped_ratio`, `mean_terminated_length`, `num_tokens` (loss tokens).
pub fn grpo(config: &GrpoConfig, rollouts: &[Rollout]) -> Result<LossOutput, LossError> {
    config.check()?;
    if rollouts.is_empty() {
        return Err(LossError::Empty);
    }
    for (index, rollout) in rollouts.iter().enumerate() {
        check_rollout(config, index, rollout)?;
    }
    let active = |r: &Rollout| !(config.mask_truncated && r.truncated);
    let n_tokens: usize = rollouts.iter().filter(|r| active(r)).map(|r| r.tokens.n_loss()).sum();
    let (mut loss, mut tally) = (0.0, Tally::default());
    let mut grads = Vec::with_capacity(rollouts.len());
    for rollout in rollouts {
        let mut grad = Grad { d_logprob: vec![0.0; rollout.tokens.mask.len()], d_entropy: None };
        if active(rollout) && rollout.tokens.n_loss() > 0 {
            let weight = token_weight(config, rollouts.len(), rollout.tokens.n_loss(), n_tokens);
            loss += one_rollout(config, rollout, weight, &mut grad.d_logprob, &mut tally);
        }
        if config.entropy_coef != 0.0 {
            let on = if active(rollout) { -config.entropy_coef / n_tokens as f64 } else { 0.0 };
            grad.d_entropy = Some(rollout.tokens.spread(on));
        }
        grads.push(grad);
    }
    let entropy = mean_entropy(rollouts.iter().filter(|r| active(r)).map(|r| &r.tokens));
    loss -= config.entropy_coef * entropy.unwrap_or(0.0);
    let mut metrics = metrics(config, rollouts, &tally);
    metrics.extend(entropy.map(|e| ("entropy".to_owned(), e)));
    metrics.insert("loss".to_owned(), loss);
    finite(LossOutput { loss, grads, metrics })
}

fn check_rollout(config: &GrpoConfig, index: usize, rollout: &Rollout) -> Result<(), LossError> {
    let tokens = &rollout.tokens;
    tokens.check(index)?;
    for other in [&rollout.old_logprob, &rollout.ref_logprob].into_iter().flatten() {
        Tokens { logprob: other.clone(), entropy: Vec::new(), mask: tokens.mask.clone() }.check(index)?;
    }
    if !rollout.advantage.is_finite() {
        return Err(LossError::NotFinite { sequence: index, token: 0, value: rollout.advantage });
    }
    let missing = |what, reason| Err(LossError::Missing { sequence: index, what, reason });
    if config.beta != 0.0 && rollout.ref_logprob.is_none() {
        return missing("the reference's log-probs are", "`beta` above 0 adds a KL to a reference model");
    }
    if config.entropy_coef != 0.0 && tokens.entropy.len() != tokens.mask.len() {
        return missing("the entropies are", "`entropy_coef` above 0 needs them");
    }
    Ok(())
}

/// What one token of a rollout with `own` loss tokens weighs in the loss of `b` rollouts with `all` loss tokens.
fn token_weight(config: &GrpoConfig, b: usize, own: usize, all: usize) -> f64 {
    match config.loss {
        GrpoLoss::Grpo => 1.0 / (b as f64 * own as f64),
        GrpoLoss::DrGrpo => 1.0 / (b as f64 * config.max_completion_tokens as f64),
        GrpoLoss::Dapo | GrpoLoss::Cispo => 1.0 / all as f64,
    }
}

/// Adds one rollout's gradient to `d_logprob` and gives back its part of the loss.
fn one_rollout(config: &GrpoConfig, rollout: &Rollout, weight: f64, d_logprob: &mut [f64], tally: &mut Tally) -> f64 {
    let tokens = &rollout.tokens;
    let n = tokens.n_loss() as f64;
    let log_ratio = |i: usize| rollout.old_logprob.as_ref().map_or(0.0, |old| tokens.logprob[i] - old[i]);
    let policy = |log_ratio: f64, logprob: f64| match config.loss {
        GrpoLoss::Cispo => cispo_term(config, log_ratio, logprob, rollout.advantage),
        _ => term(config, log_ratio, rollout.advantage),
    };
    let mean_log_ratio = tokens.loss_tokens().map(log_ratio).sum::<f64>() / n;
    let (mut loss, mut low, mut high) = (0.0, 0.0, 0.0);
    for i in tokens.loss_tokens() {
        let at = match config.importance_sampling_level {
            RatioLevel::Token => log_ratio(i),
            RatioLevel::Sequence => mean_log_ratio,
        };
        // A sequence ratio is shared by n equal terms, each with 1/n of its slope on every token: in sum, the slope.
        let term = policy(at, tokens.logprob[i]);
        loss += weight * term.value;
        d_logprob[i] += weight * term.slope;
        low += f64::from(u8::from(term.low_clipped));
        high += f64::from(u8::from(term.high_clipped));
    }
    if let Some(reference) = rollout.ref_logprob.as_ref().filter(|_| config.beta != 0.0) {
        let kl = kl_term(config, tokens, reference, &log_ratio, mean_log_ratio, weight * config.beta, d_logprob);
        loss += weight * config.beta * kl;
        tally.kl += kl;
    }
    tally.n_tokens += n;
    let per_ratio = if config.importance_sampling_level == RatioLevel::Sequence { n } else { 1.0 };
    tally.n_ratios += n / per_ratio;
    tally.low += low / per_ratio;
    tally.high += high / per_ratio;
    tally.low_min = Some(tally.low_min.map_or(low / n, |m| m.min(low / n)));
    tally.high_max = Some(tally.high_max.map_or(high / n, |m| m.max(high / n)));
    loss
}

/// Adds `weight` times the gradient of the KL to the reference and gives back its sum over the rollout's tokens: k3
/// (Schulman 2020), times the ratio if `unbiased_kl`.
fn kl_term(
    config: &GrpoConfig,
    tokens: &Tokens,
    reference: &[f64],
    log_ratio: &dyn Fn(usize) -> f64,
    mean_log_ratio: f64,
    weight: f64,
    d_logprob: &mut [f64],
) -> f64 {
    let n = tokens.n_loss() as f64;
    let k3 = |i: usize| {
        let x = reference[i] - tokens.logprob[i];
        (x.exp_m1() - x, -x.exp_m1()) // value, slope
    };
    let all: f64 = tokens.loss_tokens().map(|i| k3(i).0).sum();
    let mut sum = 0.0;
    for i in tokens.loss_tokens() {
        let (value, slope) = k3(i);
        let (ratio, of_ratio) = match (config.unbiased_kl, config.importance_sampling_level) {
            (false, _) => (1.0, 0.0),
            (true, RatioLevel::Token) => (log_ratio(i).exp(), value),
            (true, RatioLevel::Sequence) => (mean_log_ratio.exp(), all / n),
        };
        sum += ratio * value;
        d_logprob[i] += weight * ratio * (slope + of_ratio);
    }
    sum
}

fn metrics(config: &GrpoConfig, rollouts: &[Rollout], tally: &Tally) -> Metrics {
    let mut out = Metrics::new();
    let mut log = |name: &str, value: f64| out.insert(name.to_owned(), value);
    if config.beta != 0.0 {
        log("kl", tally.kl / tally.n_tokens.max(1.0));
    }
    let ratios = tally.n_ratios.max(1.0);
    if config.loss == GrpoLoss::Cispo {
        log("cispo_clip_ratio", tally.high / ratios);
    } else {
        log("clip_ratio/low_mean", tally.low / ratios);
        log("clip_ratio/high_mean", tally.high / ratios);
        log("clip_ratio/region_mean", (tally.low + tally.high) / ratios);
        log("clip_ratio/low_min", tally.low_min.unwrap_or(0.0));
        log("clip_ratio/high_max", tally.high_max.unwrap_or(0.0));
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let length = |r: &Rollout| r.tokens.n_loss() as f64;
    let all: Vec<f64> = rollouts.iter().map(length).collect();
    let ended: Vec<f64> = rollouts.iter().filter(|r| !r.truncated).map(length).collect();
    log("completions/mean_length", mean(&all));
    log("completions/min_length", all.iter().copied().fold(f64::INFINITY, f64::min));
    log("completions/max_length", all.iter().copied().fold(0.0, f64::max));
    log("completions/clipped_ratio", 1.0 - ended.len() as f64 / all.len() as f64);
    log("completions/mean_terminated_length", mean(&ended));
    log("num_tokens", tally.n_tokens);
    out
}

#[cfg(test)]
#[path = "grpo_tests.rs"]
mod tests;
