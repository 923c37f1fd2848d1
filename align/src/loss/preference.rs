//! Preference losses over pairs of answers to one prompt: the DPO family and SimPO.
//!
//! In: the pairs of a whole step with the reference's two sequence log-probs. Out: loss (mean over the pairs of the whole
//! step), gradients, TRL-named metrics. Left to others: deriving pairs (SQL), scoring the reference once.
//! Rafailov et al. 2023 (DPO), Mitchell 2023 (cDPO), Chowdhury et al. 2024 (robust), Azar et al. 2023 (IPO),
//! Zhao et al. 2023 (SLiC hinge), Meng et al. 2024 (SimPO), Lambert et al. 2024 (length-normalised DPO).

use serde::{Deserialize, Serialize};

use super::{Grad, LossError, LossOutput, Metrics, Tokens, bad_config, finite, mean_entropy, neg_log_sigmoid, sigmoid};
use crate::control::Labels;

/// Which preference loss. Below: `c`, `r` = log-ratio (policy minus reference) of chosen and rejected, summed over loss
/// tokens; `z = beta (c - r)`; `e` = `label_smoothing`; a bar means divided by the number of loss tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// `-ln sigmoid(z)` (TRL `sigmoid`).
    #[default]
    Dpo,
    /// `-ln sigmoid(beta (c̄ - r̄))` (TRL `sigmoid_norm`, open-instruct `dpo_norm`, beta about 5).
    DpoNorm,
    /// `-(1-e) ln sigmoid(z) - e ln sigmoid(-z)` (OpenRLHF; TRL's `sigmoid` has no smoothing).
    Cdpo,
    /// `[-(1-e) ln sigmoid(z) + e ln sigmoid(-z)] / (1-2e)` (TRL `robust`).
    Robust,
    /// `(c̄ - r̄ - 1/(2 beta))²`, per-token means (TRL `ipo`).
    Ipo,
    /// `(c - r - 1/(2 beta))²`, sums (OpenRLHF's IPO).
    IpoSum,
    /// `max(0, 1 - z)` (TRL `hinge`).
    Hinge,
    /// `-ln sigmoid(beta (mean logp chosen - mean logp rejected) - gamma)`, no reference (TRL CPO `simpo`).
    Simpo,
}

impl PreferenceLoss {
    /// False if the loss works without a reference model.
    pub fn needs_reference(self) -> bool {
        self != Self::Simpo
    }

    fn divides_by_length(self) -> bool {
        matches!(self, Self::DpoNorm | Self::Ipo | Self::Simpo)
    }

    fn smooths_labels(self) -> bool {
        matches!(self, Self::Cdpo | Self::Robust | Self::Simpo)
    }
}

/// SimPO's margin if `simpo_gamma` is not set (TRL's default; the paper uses 0.3 to 1.6).
pub const DEFAULT_SIMPO_GAMMA: f64 = 0.5;

/// Options of a preference loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceConfig {
    /// `dpo`, `dpo_norm`, `cdpo`, `robust`, `ipo` (per-token means, as in TRL), `ipo_sum`, `hinge` or `simpo`.
    pub loss: PreferenceLoss,
    /// Strength of the pull to the reference (IPO: the regularisation tau), above 0.
    pub beta: f64,
    /// Assumed share of wrong labels, 0 to below 0.5; for `cdpo`, `robust` and `simpo` only.
    pub label_smoothing: f64,
    /// SimPO's margin in nats times beta; 0.5 if not set; for `simpo` only.
    pub simpo_gamma: Option<f64>,
    /// Weight of an added negative log-likelihood of the chosen answers, 0 or above (RPO; TRL's `sft` part).
    pub sft_weight: f64,
    /// `given`, or `shuffled`: a control that swaps exactly half of the pairs, keyed by seed, prompt and pair id.
    pub labels: Labels,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            loss: PreferenceLoss::Dpo,
            beta: 0.1,
            label_smoothing: 0.0,
            simpo_gamma: None,
            sft_weight: 0.0,
            labels: Labels::Given,
        }
    }
}

impl PreferenceConfig {
    /// The first value that is out of range, or set although the loss ignores it.
    pub fn check(&self) -> Result<(), LossError> {
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return Err(bad_config("beta", self.beta, "must be above 0"));
        }
        if !(0.0..0.5).contains(&self.label_smoothing) {
            return Err(bad_config("label_smoothing", self.label_smoothing, "must be at least 0 and below 0.5"));
        }
        if self.label_smoothing != 0.0 && !self.loss.smooths_labels() {
            let reason = "only `cdpo`, `robust` and `simpo` smooth labels; take `loss = \"cdpo\"` or remove the key";
            return Err(bad_config("label_smoothing", self.label_smoothing, reason));
        }
        if !(self.sft_weight >= 0.0 && self.sft_weight.is_finite()) {
            return Err(bad_config("sft_weight", self.sft_weight, "must be 0 or above"));
        }
        match self.simpo_gamma {
            Some(gamma) if self.loss != PreferenceLoss::Simpo => {
                Err(bad_config("simpo_gamma", gamma, "only `simpo` has a margin; remove the key"))
            }
            Some(gamma) if !gamma.is_finite() => Err(bad_config("simpo_gamma", gamma, "must be finite")),
            _ => Ok(()),
        }
    }
}

/// Two answers to one prompt. For the control `labels = "shuffled"` the caller swaps them by [`crate::control::swapped`].
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The preferred answer under the policy.
    pub chosen: Tokens,
    /// The other answer under the policy.
    pub rejected: Tokens,
    /// The reference's sequence log-probs ([`Tokens::sum`]) of chosen and rejected, in nats; `None` for `simpo`.
    pub reference: Option<(f64, f64)>,
}

/// The implicit rewards `beta * c` and `beta * r` of a pair, as TRL logs them (SimPO: `beta *` mean log-prob).
pub fn rewards(config: &PreferenceConfig, pair: &Pair) -> (f64, f64) {
    let (c, r) = if config.loss == PreferenceLoss::Simpo {
        (pair.chosen.sum() / length(&pair.chosen), pair.rejected.sum() / length(&pair.rejected))
    } else {
        let (chosen, rejected) = pair.reference.unwrap_or((0.0, 0.0));
        (pair.chosen.sum() - chosen, pair.rejected.sum() - rejected)
    };
    (config.beta * c, config.beta * r)
}

fn length(tokens: &Tokens) -> f64 {
    tokens.n_loss().max(1) as f64
}

/// Loss of one pair and its derivative with respect to `difference`, the (mean) log-ratio of chosen minus rejected.
fn pair_loss(config: &PreferenceConfig, difference: f64) -> (f64, f64) {
    let (beta, e) = (config.beta, config.label_smoothing);
    let z = beta * difference;
    let smoothed = |z: f64| {
        let value = (1.0 - e) * neg_log_sigmoid(z) + e * neg_log_sigmoid(-z);
        (value, beta * (e * sigmoid(z) - (1.0 - e) * sigmoid(-z)))
    };
    match config.loss {
        PreferenceLoss::Dpo | PreferenceLoss::DpoNorm => (neg_log_sigmoid(z), -beta * sigmoid(-z)),
        PreferenceLoss::Cdpo => smoothed(z),
        PreferenceLoss::Simpo => smoothed(z - config.simpo_gamma.unwrap_or(DEFAULT_SIMPO_GAMMA)),
        PreferenceLoss::Robust => {
            let value = (1.0 - e) * neg_log_sigmoid(z) - e * neg_log_sigmoid(-z);
            let slope = -(1.0 - e) * sigmoid(-z) - e * sigmoid(z);
            (value / (1.0 - 2.0 * e), beta * slope / (1.0 - 2.0 * e))
        }
        PreferenceLoss::Ipo | PreferenceLoss::IpoSum => {
            let off = difference - 1.0 / (2.0 * beta);
            (off * off, 2.0 * off)
        }
        PreferenceLoss::Hinge => ((1.0 - z).max(0.0), if z < 1.0 { -beta } else { 0.0 }),
    }
}

/// Mean loss over the pairs of a whole step; gradients interleaved chosen, rejected; metrics `loss`, `rewards/chosen`,
/// `rewards/rejected`, `rewards/accuracies`, `rewards/margins`, `logps/chosen`, `logps/rejected` (SimPO: per-token
/// means), `entropy`, and `nll_loss` if `sft_weight` is set.
pub fn preference(config: &PreferenceConfig, pairs: &[Pair]) -> Result<LossOutput, LossError> {
    config.check()?;
    if pairs.is_empty() {
        return Err(LossError::Empty);
    }
    for (index, pair) in pairs.iter().enumerate() {
        check_pair(config, index, pair)?;
    }
    let n = pairs.len() as f64;
    let chosen_tokens: usize = pairs.iter().map(|p| p.chosen.n_loss()).sum();
    let (mut sum, mut grads) = (0.0, Vec::with_capacity(2 * pairs.len()));
    for pair in pairs {
        let (chosen_ref, rejected_ref) = pair.reference.filter(|_| config.loss.needs_reference()).unwrap_or((0.0, 0.0));
        let (chosen_len, rejected_len) =
            if config.loss.divides_by_length() { (length(&pair.chosen), length(&pair.rejected)) } else { (1.0, 1.0) };
        let chosen = (pair.chosen.sum() - chosen_ref) / chosen_len;
        let rejected = (pair.rejected.sum() - rejected_ref) / rejected_len;
        let (value, slope) = pair_loss(config, chosen - rejected);
        sum += value;
        let sft = config.sft_weight / chosen_tokens as f64;
        let grad = |d_logprob| Grad { d_logprob, d_entropy: None };
        grads.push(grad(pair.chosen.spread(slope / (n * chosen_len) - sft)));
        grads.push(grad(pair.rejected.spread(-slope / (n * rejected_len))));
    }
    let mut metrics = metrics(config, pairs);
    let mut loss = sum / n;
    if config.sft_weight != 0.0 {
        let nll = -pairs.iter().map(|p| p.chosen.sum()).sum::<f64>() / chosen_tokens as f64;
        loss += config.sft_weight * nll;
        metrics.insert("nll_loss".to_owned(), nll);
    }
    metrics.insert("loss".to_owned(), loss);
    finite(LossOutput { loss, grads, metrics })
}

fn check_pair(config: &PreferenceConfig, index: usize, pair: &Pair) -> Result<(), LossError> {
    pair.chosen.check(2 * index)?;
    pair.rejected.check(2 * index + 1)?;
    if pair.chosen.n_loss() == 0 || pair.rejected.n_loss() == 0 {
        return Err(LossError::NoLossTokens);
    }
    match pair.reference {
        None if config.loss.needs_reference() => Err(LossError::Missing {
            sequence: 2 * index,
            what: "the reference's log-probs are",
            reason: "every loss but `simpo` compares with a reference model",
        }),
        Some((chosen, rejected)) if !(chosen.is_finite() && rejected.is_finite()) => {
            let value = if chosen.is_finite() { rejected } else { chosen };
            Err(LossError::NotFinite { sequence: 2 * index, token: 0, value })
        }
        _ => Ok(()),
    }
}

fn metrics(config: &PreferenceConfig, pairs: &[Pair]) -> Metrics {
    let n = pairs.len() as f64;
    let mean = |of: &dyn Fn(&Pair) -> f64| pairs.iter().map(of).sum::<f64>() / n;
    let logp = |tokens: &Tokens| tokens.sum() / if config.loss == PreferenceLoss::Simpo { length(tokens) } else { 1.0 };
    let mut out = Metrics::new();
    let mut log = |name: &str, value: f64| out.insert(name.to_owned(), value);
    log("rewards/chosen", mean(&|p| rewards(config, p).0));
    log("rewards/rejected", mean(&|p| rewards(config, p).1));
    log("rewards/margins", mean(&|p| rewards(config, p).0 - rewards(config, p).1));
    log("rewards/accuracies", mean(&|p| f64::from(u8::from(rewards(config, p).0 > rewards(config, p).1))));
    log("logps/chosen", mean(&|p| logp(&p.chosen)));
    log("logps/rejected", mean(&|p| logp(&p.rejected)));
    if let Some(entropy) = mean_entropy(pairs.iter().flat_map(|p| [&p.chosen, &p.rejected])) {
        log("entropy", entropy);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{finite_difference, ragged, tokens};
    use super::*;
    use crate::rng::Stream;
    use std::f64::consts::LN_2;

    const ALL: [PreferenceLoss; 8] = [
        PreferenceLoss::Dpo,
        PreferenceLoss::DpoNorm,
        PreferenceLoss::Cdpo,
        PreferenceLoss::Robust,
        PreferenceLoss::Ipo,
        PreferenceLoss::IpoSum,
        PreferenceLoss::Hinge,
        PreferenceLoss::Simpo,
    ];

    fn config(loss: PreferenceLoss) -> PreferenceConfig {
        PreferenceConfig { loss, ..PreferenceConfig::default() }
    }

    /// Chosen -3 (two tokens), rejected -6 (three); the reference has both at -5: c = 2, r = -1.
    fn by_hand() -> Vec<Pair> {
        let (chosen, rejected) = (tokens(&[-1.0, -2.0]), tokens(&[-1.0, -2.0, -3.0]));
        vec![Pair { chosen, rejected, reference: Some((-5.0, -5.0)) }]
    }

    #[test]
    fn every_loss_has_its_hand_computed_value() {
        let value = |config: PreferenceConfig| preference(&config, &by_hand()).unwrap().loss;
        let nls = |z: f64| (1.0 + (-z).exp()).ln();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let smooth = |loss| PreferenceConfig { label_smoothing: 0.1, ..config(loss) };
        close(value(config(PreferenceLoss::Dpo)), nls(0.3));
        close(value(config(PreferenceLoss::DpoNorm)), nls(0.1 * (1.0 + 1.0 / 3.0)));
        close(value(smooth(PreferenceLoss::Cdpo)), 0.9 * nls(0.3) + 0.1 * nls(-0.3));
        close(value(smooth(PreferenceLoss::Robust)), (0.9 * nls(0.3) - 0.1 * nls(-0.3)) / 0.8);
        close(value(config(PreferenceLoss::Ipo)), (4.0_f64 / 3.0 - 5.0).powi(2));
        close(value(config(PreferenceLoss::IpoSum)), 4.0);
        close(value(config(PreferenceLoss::Hinge)), 0.7);
        close(value(config(PreferenceLoss::Simpo)), nls(0.1 * (-1.5 + 2.0) - 0.5));
        close(value(PreferenceConfig { simpo_gamma: Some(0.0), ..config(PreferenceLoss::Simpo) }), nls(0.05));
        close(value(PreferenceConfig { sft_weight: 2.0, ..config(PreferenceLoss::Dpo) }), nls(0.3) + 2.0 * 1.5);
    }

    #[test]
    fn metrics_carry_trl_names_and_values() {
        let metrics = preference(&config(PreferenceLoss::Dpo), &by_hand()).unwrap().metrics;
        for (name, value) in [
            ("rewards/chosen", 0.2),
            ("rewards/rejected", -0.1),
            ("rewards/margins", 0.3),
            ("rewards/accuracies", 1.0),
            ("logps/chosen", -3.0),
            ("logps/rejected", -6.0),
            ("entropy", 0.5),
        ] {
            assert!((metrics[name] - value).abs() < 1e-12, "{name}: {}", metrics[name]);
        }
        let simpo = preference(&config(PreferenceLoss::Simpo), &by_hand()).unwrap().metrics;
        assert!((simpo["logps/chosen"] + 1.5).abs() < 1e-12 && (simpo["rewards/rejected"] + 0.2).abs() < 1e-12);
    }

    #[test]
    fn dpo_at_the_reference_is_exactly_ln_2_with_accuracy_0() {
        let mut stream = Stream::new(&[4.into()]);
        let pairs: Vec<_> = (0..7)
            .map(|i| {
                let (chosen, rejected) = (ragged(&mut stream, 1 + i), ragged(&mut stream, 9 - i));
                let reference = Some((chosen.sum(), rejected.sum()));
                Pair { chosen, rejected, reference }
            })
            .collect();
        let out = preference(&config(PreferenceLoss::Dpo), &pairs).unwrap();
        assert!((out.loss - LN_2).abs() < 1e-15, "{}", out.loss);
        assert_eq!((out.metrics["rewards/margins"], out.metrics["rewards/accuracies"]), (0.0, 0.0));
    }

    #[test]
    fn gradients_of_every_loss_match_finite_differences() {
        let mut stream = Stream::new(&[5.into()]);
        let pairs: Vec<_> = (0..3)
            .map(|i| Pair {
                chosen: ragged(&mut stream, 2 + i),
                rejected: ragged(&mut stream, 4 - i),
                reference: Some((-4.0 - stream.share(), -5.0 + stream.share())),
            })
            .collect();
        for loss in ALL {
            let smoothing = if loss.smooths_labels() { 0.15 } else { 0.0 };
            let config = PreferenceConfig { label_smoothing: smoothing, sft_weight: 0.3, beta: 0.4, ..config(loss) };
            let out = preference(&config, &pairs).unwrap();
            for (s, grad) in out.grads.iter().enumerate() {
                let at = if s % 2 == 0 { &pairs[s / 2].chosen } else { &pairs[s / 2].rejected };
                let worst = finite_difference(at, grad, |moved| {
                    let mut pairs = pairs.clone();
                    *(if s % 2 == 0 { &mut pairs[s / 2].chosen } else { &mut pairs[s / 2].rejected }) = moved.clone();
                    preference(&config, &pairs).unwrap().loss
                });
                assert!(worst < 1e-7, "{loss:?}: {worst}");
            }
        }
    }

    #[test]
    fn a_key_that_the_loss_ignores_is_refused() {
        let refused = |config: PreferenceConfig| matches!(config.check(), Err(LossError::Config { .. }));
        assert!(ALL.iter().all(|&loss| config(loss).check().is_ok()));
        assert!(refused(PreferenceConfig { label_smoothing: 0.1, ..config(PreferenceLoss::Dpo) }));
        assert!(refused(PreferenceConfig { simpo_gamma: Some(0.5), ..config(PreferenceLoss::Dpo) }));
        assert!(refused(PreferenceConfig { label_smoothing: 0.5, ..config(PreferenceLoss::Robust) }));
        assert!(refused(PreferenceConfig { beta: 0.0, ..config(PreferenceLoss::Dpo) }));
        assert!(refused(PreferenceConfig { sft_weight: -1.0, ..config(PreferenceLoss::Dpo) }));
    }

    #[test]
    fn a_missing_reference_an_empty_answer_and_an_empty_step_are_errors() {
        let mut pairs = by_hand();
        pairs[0].reference = None;
        assert!(matches!(preference(&config(PreferenceLoss::Dpo), &pairs), Err(LossError::Missing { .. })));
        assert!(preference(&config(PreferenceLoss::Simpo), &pairs).is_ok());
        pairs[0].rejected.mask = vec![false; 3];
        assert_eq!(preference(&config(PreferenceLoss::Simpo), &pairs), Err(LossError::NoLossTokens));
        assert_eq!(preference(&config(PreferenceLoss::Dpo), &[]), Err(LossError::Empty));
    }
}
