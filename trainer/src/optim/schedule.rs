//! Learning rates over a run.
//!
//! In: the step and the number of steps. Out: a rate. Cosine: Loshchilov & Hutter 2017; warm-up, stable, decay: Hu et al.
//! 2024, with a linear decay also known as the trapezoid (Zhai et al. 2022). What else changes over a run (weight decay,
//! batch, length of rows) is in `timeline`.

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine from the peak to the final rate.
    Cosine,
    /// Warmup, stable, then a linear decay over the last `decay_share`.
    #[serde(alias = "trapezoid")]
    Wsd,
    /// The peak rate throughout.
    Constant,
    /// A straight line from the peak to the final rate.
    Linear,
}

/// How `wsd` comes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecayShape {
    /// A straight line: the trapezoid.
    #[default]
    Linear,
    /// One minus the root of the way (Haegele et al. 2024).
    Root,
    /// A constant factor per step (Hu et al. 2024); ends at 1e-3 of the peak if `final_lr_share` is below that.
    Exponential,
}

/// An exponential never reaches 0, so it ends here at the least.
const MIN_SHARE: f64 = 1e-3;

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
        let warmup = (self.warmup_share * total.max(1) as f64).round();
        self.lr_after(step, total, warmup, DecayShape::Linear)
    }

    /// The same with a warm-up of `warmup` whole steps and a decay of this shape.
    pub(super) fn lr_after(&self, step: u64, total: u64, warmup: f64, shape: DecayShape) -> f64 {
        let total = total.max(1) as f64;
        let at = step as f64;
        if at < warmup {
            return self.learning_rate * (at + 1.0) / warmup;
        }
        let past = |start: f64| ((at - start) / (total - start).max(1.0)).clamp(0.0, 1.0);
        let share = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.mix(1.0 - past(warmup)),
            Schedule::Cosine => self.mix(0.5 * (1.0 + (std::f64::consts::PI * past(warmup)).cos())),
            Schedule::Wsd => self.decayed(past(warmup.max(total - (self.decay_share * total).round())), shape),
        };
        self.learning_rate * share
    }

    /// Share of the peak after this share of the decay.
    fn decayed(&self, past: f64, shape: DecayShape) -> f64 {
        match shape {
            DecayShape::Linear => self.mix(1.0 - past),
            DecayShape::Root => self.mix(1.0 - past.sqrt()),
            DecayShape::Exponential => self.final_lr_share.max(MIN_SHARE).powf(past),
        }
    }

    /// 1 -> 1, 0 -> `final_lr_share`.
    fn mix(&self, x: f64) -> f64 {
        self.final_lr_share + (1.0 - self.final_lr_share) * x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn each_shape_of_the_decay_starts_at_the_peak_and_ends_at_the_final_share() {
        let s = ScheduleConfig { learning_rate: 1.0, schedule: Schedule::Wsd, ..ScheduleConfig::default() };
        for shape in [DecayShape::Linear, DecayShape::Root, DecayShape::Exponential] {
            let at = |step| s.lr_after(step, 100, 0.0, shape);
            assert_eq!(at(80), 1.0);
            assert!((at(100) - 0.1).abs() < 1e-12, "{shape:?}");
            assert!((80..100).all(|i| at(i + 1) < at(i)));
        }
        assert!((s.lr_after(85, 100, 0.0, DecayShape::Root) - 0.55).abs() < 1e-12);
        assert!((s.lr_after(90, 100, 0.0, DecayShape::Exponential) - 0.1_f64.sqrt()).abs() < 1e-12);
        let trapezoid: Schedule = serde_json::from_str("\"trapezoid\"").unwrap();
        assert_eq!(trapezoid, Schedule::Wsd);
    }

    #[test]
    fn numbers_out_of_range_are_refused_by_name() {
        let bad = ScheduleConfig { warmup_share: 1.5, ..ScheduleConfig::default() };
        assert!(matches!(bad.check(), Err(Error::Config { field: "warmup_share", .. })));
        assert!(ScheduleConfig::default().check().is_ok());
    }
}
