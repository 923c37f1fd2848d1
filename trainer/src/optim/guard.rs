//! A look at every step before it counts: losses and gradients that are not finite, and losses that jump.
//!
//! In: the losses of the steps so far, then each new step's loss and gradient norm. Out: nothing, or an error that names the
//! step, the numbers and the documents of its batch; the caller has not applied the step yet, so the last good state is
//! what stays. What it knows is the last losses, which a run keeps anyway, so nothing of it needs saving.

use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// When a loss counts as a jump.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GuardConfig {
    /// A loss this many standard deviations above the mean of the last `spike_window` stops the run; 0 switches this off.
    pub spike_sigmas: f64,
    /// Steps that mean and deviation are taken over, 8 to 10000; earlier steps are never jumps.
    pub spike_window: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { spike_sigmas: 0.0, spike_window: 64 }
    }
}

impl GuardConfig {
    /// Ok if both numbers are in range.
    pub fn check(&self) -> Result<()> {
        let fault = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        if !(self.spike_sigmas.is_finite() && self.spike_sigmas >= 0.0) {
            return fault("spike_sigmas", self.spike_sigmas.to_string(), "expected 0 or more");
        }
        if !(8..=10_000).contains(&self.spike_window) {
            return fault("spike_window", self.spike_window.to_string(), "expected 8 to 10000");
        }
        Ok(())
    }
}

/// Deviations below this share of the mean count as this much, so that a flat stretch is not a trap.
const LEAST_DEVIATION: f64 = 1e-3;

/// Watches one run.
#[derive(Clone, Debug)]
pub struct Guard {
    config: GuardConfig,
    losses: VecDeque<f64>,
}

impl Guard {
    /// A guard that has seen these losses, oldest first; only the last `spike_window` matter.
    pub fn new(config: &GuardConfig, losses: impl IntoIterator<Item = f64>) -> Result<Self> {
        config.check()?;
        let mut guard = Self { config: config.clone(), losses: VecDeque::new() };
        losses.into_iter().for_each(|loss| guard.push(loss));
        Ok(guard)
    }

    fn push(&mut self, loss: f64) {
        if self.losses.len() == self.config.spike_window {
            self.losses.pop_front();
        }
        self.losses.push_back(loss);
    }

    /// Ok, and the loss is remembered, if step `step` (from 0) may be applied. `documents` names what the batch was made of.
    pub fn look(
        &mut self,
        step: u64,
        loss: f64,
        grad_norm: f64,
        documents: impl FnOnce() -> Vec<String>,
    ) -> Result<()> {
        let limit = self.limit();
        let fault = if !loss.is_finite() {
            Some(("loss", loss, "a finite number".to_owned()))
        } else if !grad_norm.is_finite() {
            Some(("gradient norm", grad_norm, "a finite number".to_owned()))
        } else if loss > limit {
            let (sigmas, window) = (self.config.spike_sigmas, self.config.spike_window);
            Some(("loss", loss, format!("at most {limit:.4}, {sigmas} deviations above the mean of {window} steps")))
        } else {
            None
        };
        match fault {
            Some((what, got, expected)) => Err(Error::Diverged { what, step, got, expected, documents: documents() }),
            None => {
                self.push(loss);
                Ok(())
            }
        }
    }

    /// Largest loss that is no jump.
    fn limit(&self) -> f64 {
        if self.config.spike_sigmas == 0.0 || self.losses.len() < self.config.spike_window {
            return f64::INFINITY;
        }
        let n = self.losses.len() as f64;
        let mean = self.losses.iter().sum::<f64>() / n;
        let deviation = (self.losses.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        mean + self.config.spike_sigmas * deviation.max(LEAST_DEVIATION * mean.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GuardConfig {
        GuardConfig { spike_sigmas: 6.0, spike_window: 16 }
    }

    fn loss(step: u64) -> f64 {
        3.0 - 0.01 * step as f64 + 0.02 * (step as f64 * 1.7).sin()
    }

    #[test]
    fn a_jump_is_refused_with_its_documents_and_the_guard_goes_on_as_if_it_had_not_been() {
        let mut guard = Guard::new(&config(), []).unwrap();
        (0..40).for_each(|step| guard.look(step, loss(step), 1.0, Vec::new).unwrap());
        let documents = || vec!["doc-7".to_owned(), "doc-9".to_owned()];
        let text = guard.look(40, 4.5, 1.0, documents).unwrap_err().to_string();
        assert!(text.contains("step 40") && text.contains("4.5") && text.contains("doc-7, doc-9"), "{text}");
        guard.look(40, loss(40), 1.0, Vec::new).unwrap();
    }

    #[test]
    fn what_is_not_finite_is_refused_at_any_step_and_setting() {
        let mut guard = Guard::new(&GuardConfig::default(), []).unwrap();
        for (loss, norm) in [(f64::NAN, 1.0), (f64::INFINITY, 1.0), (2.0, f64::NAN)] {
            assert!(matches!(guard.look(0, loss, norm, Vec::new), Err(Error::Diverged { step: 0, .. })));
        }
        guard.look(0, 1e9, 1.0, Vec::new).unwrap();
    }

    #[test]
    fn a_guard_made_from_past_losses_decides_as_the_one_that_saw_them() {
        let mut seen = Guard::new(&config(), []).unwrap();
        (0..30).for_each(|step| seen.look(step, loss(step), 1.0, Vec::new).unwrap());
        let made = Guard::new(&config(), (0..30).map(loss)).unwrap();
        assert_eq!(made.limit().to_bits(), seen.limit().to_bits());
        assert!(Guard::new(&config(), (0..15).map(loss)).unwrap().limit().is_infinite());
        assert!(Guard::new(&GuardConfig { spike_window: 2, ..config() }, []).is_err());
    }
}
