//! AdamW with decoupled weight decay, clipping by global norm, and learning-rate schedules.
//!
//! In: parameters, gradients and moments in canonical order. Out: new parameters and moments (tensors are values: a
//! clone of the old model stays what it was). Loshchilov & Hutter 2019; PyTorch's `AdamW` is the reference for the order
//! of operations. Schedules: cosine (Loshchilov & Hutter 2017), warmup-stable-decay (Hu et al. 2024).

use crate::ops::simd::multiversion;
use crate::ops::view;
use crate::trainer::Moments;
use crate::{Error, Model, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
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

/// Shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine from the peak to the final rate.
    Cosine,
    /// Warmup, stable, then a linear decay over the last `decay_share`.
    Wsd,
    /// The peak rate throughout.
    Constant,
    /// A straight line from the peak to the final rate.
    Linear,
}

/// Learning rate as a function of the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// How the rate falls after the warmup.
    pub schedule: Schedule,
    /// Share of all steps in which the rate climbs linearly to its peak, 0 to 1.
    pub warmup_share: f64,
    /// Rate at the end as a share of the peak, 0 to 1.
    pub final_lr_share: f64,
    /// Share of all steps in which `wsd` decays, 0 to 1.
    pub decay_share: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            learning_rate: 3e-3,
            schedule: Schedule::Cosine,
            warmup_share: 0.05,
            final_lr_share: 0.1,
            decay_share: 0.2,
        }
    }
}

impl ScheduleConfig {
    /// Ok if every number is in its range.
    pub fn check(&self) -> Result<()> {
        let fault = |field, got: f64, expected: &str| {
            Err(Error::Config { field, got: got.to_string(), expected: expected.into() })
        };
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return fault("learning_rate", self.learning_rate, "expected above 0");
        }
        for (field, share) in [
            ("warmup_share", self.warmup_share),
            ("final_lr_share", self.final_lr_share),
            ("decay_share", self.decay_share),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return fault(field, share, "expected 0 to 1");
            }
        }
        Ok(())
    }

    /// Learning rate of step `step` (from 0) of `total`. The last step still has a rate above the final one.
    pub fn lr_at(&self, step: u64, total: u64) -> f64 {
        let total = total.max(1) as f64;
        let warmup = (self.warmup_share * total).round();
        let at = step as f64;
        if at < warmup {
            return self.learning_rate * (at + 1.0) / warmup;
        }
        let past = |start: f64| ((at - start) / (total - start).max(1.0)).clamp(0.0, 1.0);
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.mix(1.0 - past(warmup)),
            Schedule::Cosine => self.mix(0.5 * (1.0 + (std::f64::consts::PI * past(warmup)).cos())),
            Schedule::Wsd => self.mix(1.0 - past(warmup.max(total - (self.decay_share * total).round()))),
        };
        self.learning_rate * share
    }

    /// 1 -> 1, 0 -> `final_lr_share`.
    fn mix(&self, x: f64) -> f64 {
        self.final_lr_share + (1.0 - self.final_lr_share) * x
    }
}

/// One AdamW step on every parameter: the next model and moments. `step` counts from 0; the gradient is scaled to
/// `clip_norm` if its norm `grad_norm` is larger.
pub fn adamw(
    config: &OptimConfig,
    model: &Model,
    moments: &Moments,
    gradients: &[Vec<f32>],
    grad_norm: f64,
    lr: f64,
    step: u64,
) -> Result<(Model, Moments)> {
    let t = (step + 1) as f64;
    let clip = if config.clip_norm > 0.0 { (config.clip_norm / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
    let rule = |decay: bool| Rule {
        clip: clip as f32,
        keep: if decay { (1.0 - lr * config.weight_decay) as f32 } else { 1.0 },
        beta1: config.beta1 as f32,
        beta2: config.beta2 as f32,
        rest1: (1.0 - config.beta1) as f32,
        rest2: (1.0 - config.beta2) as f32,
        root: (1.0 - config.beta2.powf(t)).sqrt() as f32,
        eps: config.eps as f32,
        rate: (lr / (1.0 - config.beta1.powf(t))) as f32,
    };
    let (mut weights, mut next) = (Vec::new(), Moments { m: Vec::new(), v: Vec::new() });
    for (i, tensor) in model.tensors().iter().enumerate() {
        let (m, v) = (view(&moments.m[i])?, view(&moments.v[i])?);
        let (mut w, mut m, mut v) = (model.slice(i).to_vec(), m.to_vec(), v.to_vec());
        let rule = rule(tensor.rank() > 1);
        let chunks = w.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
        chunks.zip(gradients[i].par_chunks(CHUNK)).for_each(|(((w, m), v), g)| update(rule, g, w, m, v));
        let wrap = |data: Vec<f32>| Tensor::from_vec(data, tensor.dims(), &Device::Cpu);
        weights.push(wrap(w)?);
        next.m.push(wrap(m)?);
        next.v.push(wrap(v)?);
    }
    Ok((model.with_tensors(weights)?, next))
}

const CHUNK: usize = 1 << 14;

/// The scalars of one AdamW step.
#[derive(Clone, Copy)]
struct Rule {
    clip: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    root: f32,
    eps: f32,
    rate: f32,
}

multiversion! {
    fn update(rule: Rule, g: &[f32], w: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        let n = g.len();
        let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * rule.clip;
            m[i] = m[i] * rule.beta1 + g * rule.rest1;
            v[i] = v[i] * rule.beta2 + g * g * rule.rest2;
            w[i] = w[i] * rule.keep - rule.rate * (m[i] / (v[i].sqrt() / rule.root + rule.eps));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

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
        let mut moments = Moments::zeros(&model).unwrap();
        let start: Vec<Vec<f32>> = (0..model.tensors().len()).map(|i| model.slice(i).to_vec()).collect();
        let gradient = |i: usize, j: usize, step: u64| ((i * 7 + j * 3) as f64 + step as f64).sin();
        for step in 0..3 {
            let gradients: Vec<Vec<f32>> = start
                .iter()
                .enumerate()
                .map(|(i, w)| (0..w.len()).map(|j| gradient(i, j, step) as f32).collect())
                .collect();
            (model, moments) = adamw(&config, &model, &moments, &gradients, 1.0, 1e-2, step).unwrap();
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
        let moments = Moments::zeros(&model).unwrap();
        let gradients: Vec<Vec<f32>> = model.tensors().iter().map(|t| vec![2.0; t.elem_count()]).collect();
        let (_, next) = adamw(&OptimConfig::default(), &model, &moments, &gradients, 10.0, 1e-2, 0).unwrap();
        assert!((view(&next.m[0]).unwrap()[0] - 0.02).abs() < 1e-6);
        let (_, next) = adamw(&OptimConfig::default(), &model, &moments, &gradients, 0.5, 1e-2, 0).unwrap();
        assert!((view(&next.m[0]).unwrap()[0] - 0.2).abs() < 1e-6);
    }

    #[test]
    fn schedules_climb_hold_and_fall() {
        let of = |schedule| ScheduleConfig {
            learning_rate: 1.0,
            schedule,
            warmup_share: 0.1,
            final_lr_share: 0.1,
            decay_share: 0.2,
        };
        for schedule in [Schedule::Cosine, Schedule::Wsd, Schedule::Linear, Schedule::Constant] {
            let s = of(schedule);
            assert!((s.lr_at(0, 100) - 0.1).abs() < 1e-12 && (s.lr_at(9, 100) - 1.0).abs() < 1e-12);
            assert!((s.lr_at(10, 100) - 1.0).abs() < 1e-12);
            assert!((1..90).all(|i| s.lr_at(9 + i, 100) >= s.lr_at(10 + i, 100)));
            let end = if schedule == Schedule::Constant { 1.0 } else { 0.1 };
            assert!((s.lr_at(100, 100) - end).abs() < 1e-12, "{schedule:?}");
        }
        assert_eq!(of(Schedule::Wsd).lr_at(80, 100), 1.0);
        assert!(of(Schedule::Wsd).lr_at(81, 100) < 1.0);
        assert!((of(Schedule::Cosine).lr_at(55, 100) - 0.55).abs() < 1e-12);
        assert!(of(Schedule::Cosine).lr_at(0, 0).is_finite());
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let bad = OptimConfig { beta2: 1.0, ..OptimConfig::default() };
        assert!(matches!(bad.check(), Err(Error::Config { field: "beta2", .. })));
        let bad = ScheduleConfig { warmup_share: 1.5, ..ScheduleConfig::default() };
        assert!(matches!(bad.check(), Err(Error::Config { field: "warmup_share", .. })));
        assert!(OptimConfig::default().check().is_ok() && ScheduleConfig::default().check().is_ok());
    }
}
