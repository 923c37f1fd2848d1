//! How weights change: rules, their state, and everything that is scheduled or watched over a run.
//!
//! In: parameters, gradients and state in canonical order. Out: new parameters and state (tensors are values: a clone of
//! the old model stays what it was). `rules` and `muon` are the formulas, `apply` runs them over all parameters at once,
//! `quantise` keeps state in 8 bits; `schedule` and `timeline` say what a step's numbers are; `noise`, `guard` and
//! `average` look at steps. Decoupled weight decay as in Loshchilov & Hutter 2019, of matrices only.

mod apply;
mod average;
mod guard;
pub(crate) mod muon;
mod noise;
pub mod quantise;
pub(crate) mod rules;
mod schedule;
mod timeline;
#[cfg(test)]
mod trajectory_tests;

pub(crate) use apply::apply_to;
pub use apply::{Blocks, Rates, Slot, apply, zeros};
pub use average::{Ema, average};
pub use guard::{Guard, GuardConfig};
pub use muon::{MuonScale, QUINTIC};
pub use noise::{NoiseSample, NoiseScale};
pub use schedule::{DecayShape, Schedule, ScheduleConfig};
pub use timeline::{StepPlan, Timeline, TimelineConfig};

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// AdamW and clipping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimConfig {
    /// Decoupled weight decay of matrices, per unit of learning rate; norms never decay.
    pub weight_decay: f64,
    /// Decay of the running mean of gradients, 0 to below 1.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients, 0 to below 1.
    pub beta2: f64,
    /// Added to the root of the second moment, above 0.
    pub eps: f64,
    /// Gradients are scaled down to this global L2 norm; 0 switches clipping off.
    pub clip_norm: f64,
}

impl Default for OptimConfig {
    fn default() -> Self {
        Self { weight_decay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, clip_norm: 1.0 }
    }
}

impl OptimConfig {
    /// Ok if every number is in its range.
    pub fn check(&self) -> Result<()> {
        let unit = |x: f64| (0.0..1.0).contains(&x);
        let rows = [
            (
                "weight_decay",
                self.weight_decay,
                self.weight_decay.is_finite() && self.weight_decay >= 0.0,
                "expected 0 or more",
            ),
            ("beta1", self.beta1, unit(self.beta1), "expected 0 to below 1"),
            ("beta2", self.beta2, unit(self.beta2), "expected 0 to below 1"),
            ("eps", self.eps, self.eps.is_finite() && self.eps > 0.0, "expected above 0"),
            ("clip_norm", self.clip_norm, self.clip_norm.is_finite() && self.clip_norm >= 0.0, "expected 0 or more"),
        ];
        match rows.into_iter().find(|row| !row.2) {
            Some((field, got, _, expected)) => {
                Err(Error::Config { field, got: got.to_string(), expected: expected.into() })
            }
            None => Ok(()),
        }
    }
}

/// Which rule turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Adam with decoupled weight decay (Loshchilov & Hutter 2019).
    #[default]
    Adamw,
    /// Orthogonalised momentum for hidden matrices, AdamW for embeddings, output and norms (Jordan et al. 2024).
    Muon,
    /// Sign of a mix of momentum and gradient (Chen et al. 2023); wants a tenth of AdamW's learning rate.
    Lion,
    /// Gradient descent with momentum.
    Sgd,
}

/// The rule and what only some rules read; an option that the chosen rule does not read is a fault.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleConfig {
    /// Which rule turns gradients into steps.
    pub optimizer: Rule,
    /// Decay of the momentum of `muon` (0.95 unless given) and `sgd` (0.9 unless given), 0 to below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// Whether `muon` (yes unless given) and `sgd` (no unless given) look ahead along the momentum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
    /// Newton-Schulz iterations of `muon`, 1 to 20; 5 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newton_schulz_steps: Option<u32>,
    /// How `muon` scales the step of a matrix; `adamw` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_scale: Option<MuonScale>,
    /// Learning rate of the matrices of `muon` as a multiple of the others'; 1 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub muon_lr_share: Option<f64>,
    /// Bits of AdamW's state, 32 or 8: matrices of at least 4096 numbers (embeddings and output stay in 32); 32 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_bits: Option<u8>,
}

impl RuleConfig {
    /// Ok if every option is in its range and read by the rule.
    pub fn check(&self) -> Result<()> {
        use Rule::{Adamw, Muon, Sgd};
        let read_by: [(&'static str, bool, &[Rule], &str); 6] = [
            ("momentum", self.momentum.is_some(), &[Muon, Sgd], "`muon` and `sgd`"),
            ("nesterov", self.nesterov.is_some(), &[Muon, Sgd], "`muon` and `sgd`"),
            ("newton_schulz_steps", self.newton_schulz_steps.is_some(), &[Muon], "`muon`"),
            ("muon_scale", self.muon_scale.is_some(), &[Muon], "`muon`"),
            ("muon_lr_share", self.muon_lr_share.is_some(), &[Muon], "`muon`"),
            ("state_bits", self.state_bits.is_some(), &[Adamw, Muon], "`adamw` and `muon`"),
        ];
        if let Some((field, _, _, rules)) = read_by.iter().find(|row| row.1 && !row.2.contains(&self.optimizer)) {
            let got = format!("given with optimizer `{}`", format!("{:?}", self.optimizer).to_lowercase());
            return Err(Error::Config { field, got, expected: format!("only {rules} read it; leave it out") });
        }
        let fault =
            |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.to_owned() });
        match self {
            Self { momentum: Some(x), .. } if !(0.0..1.0).contains(x) => {
                fault("momentum", x.to_string(), "expected 0 to below 1")
            }
            Self { newton_schulz_steps: Some(n), .. } if !(1..=20).contains(n) => {
                fault("newton_schulz_steps", n.to_string(), "expected 1 to 20")
            }
            Self { muon_lr_share: Some(x), .. } if !(x.is_finite() && *x > 0.0) => {
                fault("muon_lr_share", x.to_string(), "expected above 0")
            }
            Self { state_bits: Some(n), .. } if ![8, 32].contains(n) => {
                fault("state_bits", n.to_string(), "expected 8 or 32")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::view;
    use crate::{Model, ModelConfig};

    fn adamw(
        config: &OptimConfig,
        model: &Model,
        state: &[Slot],
        gradients: &[Vec<f32>],
        grad_norm: f64,
        step: u64,
    ) -> (Model, Vec<Slot>) {
        apply(config, &RuleConfig::default(), model, state, gradients, grad_norm, Rates::of(1e-2), step).unwrap()
    }

    fn first_mean(state: &[Slot]) -> f32 {
        match &state[0] {
            Slot::Moments { m, .. } => view(m).unwrap()[0],
            other => panic!("AdamW keeps two moments, not {other:?}"),
        }
    }

    #[test]
    fn three_steps_equal_the_formula_in_f64_and_norms_do_not_decay() {
        let config = OptimConfig { weight_decay: 0.3, clip_norm: 0.0, ..OptimConfig::default() };
        let sizes = ModelConfig {
            vocab_size: 8,
            n_layer: 1,
            n_head: 1,
            n_kv_head: 1,
            n_embd: 4,
            n_ffn: 4,
            ..ModelConfig::default()
        };
        let mut model = Model::init(sizes, 3).unwrap();
        let mut state = zeros(&RuleConfig::default(), &model).unwrap();
        let start: Vec<Vec<f32>> = (0..model.tensors().len()).map(|i| model.slice(i).to_vec()).collect();
        let gradient = |i: usize, j: usize, step: u64| ((i * 7 + j * 3) as f64 + step as f64).sin();
        for step in 0..3 {
            let gradients: Vec<Vec<f32>> = start
                .iter()
                .enumerate()
                .map(|(i, w)| (0..w.len()).map(|j| gradient(i, j, step) as f32).collect())
                .collect();
            (model, state) = adamw(&config, &model, &state, &gradients, 1.0, step);
        }
        for (i, start) in start.iter().enumerate() {
            let decay = if model.tensors()[i].rank() > 1 { 0.3 } else { 0.0 };
            for (j, w) in start.iter().enumerate() {
                let (mut w, mut m, mut v) = (f64::from(*w), 0.0, 0.0);
                for step in 0..3 {
                    let g = gradient(i, j, step);
                    w *= 1.0 - 1e-2 * decay;
                    m = 0.9 * m + 0.1 * g;
                    v = 0.95 * v + 0.05 * g * g;
                    let t = step as i32 + 1;
                    w -= 1e-2 * (m / (1.0 - 0.9_f64.powi(t))) / ((v / (1.0 - 0.95_f64.powi(t))).sqrt() + 1e-8);
                }
                assert!((f64::from(model.slice(i)[j]) - w).abs() < 2e-6, "{i} {j}");
            }
        }
    }

    #[test]
    fn clipping_scales_the_gradient_to_the_norm() {
        let sizes = ModelConfig {
            vocab_size: 4,
            n_layer: 1,
            n_head: 1,
            n_kv_head: 1,
            n_embd: 2,
            n_ffn: 2,
            ..ModelConfig::default()
        };
        let model = Model::init(sizes, 3).unwrap();
        let state = zeros(&RuleConfig::default(), &model).unwrap();
        let gradients: Vec<Vec<f32>> = model.tensors().iter().map(|t| vec![2.0; t.elem_count()]).collect();
        let (_, next) = adamw(&OptimConfig::default(), &model, &state, &gradients, 10.0, 0);
        assert!((first_mean(&next) - 0.02).abs() < 1e-6);
        let (_, next) = adamw(&OptimConfig::default(), &model, &state, &gradients, 0.5, 0);
        assert!((first_mean(&next) - 0.2).abs() < 1e-6);
    }

    #[test]
    fn numbers_out_of_range_and_options_that_nobody_reads_are_refused_by_name() {
        let bad = OptimConfig { beta2: 1.0, ..OptimConfig::default() };
        assert!(matches!(bad.check(), Err(Error::Config { field: "beta2", .. })));
        assert!(OptimConfig::default().check().is_ok() && RuleConfig::default().check().is_ok());
        let of = |text: &str| serde_json::from_str::<RuleConfig>(text).unwrap().check();
        for (text, wrong) in [
            (r#"{"momentum": 0.9}"#, "momentum"),
            (r#"{"optimizer": "lion", "state_bits": 8}"#, "state_bits"),
            (r#"{"optimizer": "sgd", "newton_schulz_steps": 5}"#, "newton_schulz_steps"),
            (r#"{"optimizer": "sgd", "momentum": 1.0}"#, "momentum"),
            (r#"{"optimizer": "muon", "newton_schulz_steps": 0}"#, "newton_schulz_steps"),
            (r#"{"optimizer": "muon", "muon_lr_share": 0.0}"#, "muon_lr_share"),
            (r#"{"state_bits": 16}"#, "state_bits"),
        ] {
            assert!(matches!(of(text), Err(Error::Config { field, .. }) if field == wrong), "{text}");
        }
        assert!(of(r#"{"optimizer": "muon", "momentum": 0.9, "nesterov": false, "state_bits": 8}"#).is_ok());
        assert!(of(r#"{"optimizer": "muon", "muon_scale": "spectral"}"#).is_ok());
    }
}
