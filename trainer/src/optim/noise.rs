//! Gradient noise scale: the batch beyond which more tokens per step teach little more.
//!
//! In: squared norms of the gradient of each micro-batch and of the step. Out: estimates of |G|^2, the squared norm of the true
//! gradient, and of tr S, the variance of one token's, each averaged over steps on its own; their ratio is the critical
//! batch in tokens. McCandlish et al. 2018, appendix A.1, with micro-batches as the small batch.

use serde::{Deserialize, Serialize};

/// One step's unbiased estimates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseSample {
    /// Estimate of |G|^2; may be negative in one step.
    pub signal: f64,
    /// Estimate of tr S per token.
    pub noise: f64,
}

impl NoiseSample {
    /// From `(squared norm, tokens)` of each micro-batch's share of the step's gradient, which adds up to a gradient of
    /// squared norm `whole`, a mean over all tokens. None if fewer than two micro-batches have tokens.
    pub fn of(micro: &[(f64, usize)], whole: f64) -> Option<Self> {
        let counted: Vec<_> = micro.iter().filter(|(_, tokens)| *tokens > 0).collect();
        let total: usize = counted.iter().map(|(_, tokens)| tokens).sum();
        let (parts, total) = (counted.len() as f64, total as f64);
        if counted.len() < 2 {
            return None;
        }
        // A part's own mean gradient is total / tokens times its share. Averaged with weights tokens / total, the squared
        // norm is |G|^2 + tr S * parts / total; that of the whole is |G|^2 + tr S / total.
        let small: f64 = counted.iter().map(|(square, tokens)| square * total / *tokens as f64).sum();
        let noise = (small - whole) * total / (parts - 1.0);
        Some(Self { signal: whole - noise / total, noise })
    }
}

/// Running means of the two estimates. Numbers are kept as bits where stored, so that nothing is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseScale {
    signal_bits: u64,
    noise_bits: u64,
    steps: u64,
}

/// Decay of the running means per step.
const DECAY: f64 = 0.99;

impl NoiseScale {
    /// Takes one step's estimates in.
    pub fn add(&mut self, sample: NoiseSample) {
        let mixed = |bits: u64, x: f64| (f64::from_bits(bits) * DECAY + x * (1.0 - DECAY)).to_bits();
        self.signal_bits = mixed(self.signal_bits, sample.signal);
        self.noise_bits = mixed(self.noise_bits, sample.noise);
        self.steps += 1;
    }

    /// Critical batch in tokens; None before the first step and while the gradient is lost in noise.
    pub fn tokens(&self) -> Option<f64> {
        let (signal, noise) = (f64::from_bits(self.signal_bits), f64::from_bits(self.noise_bits));
        (self.steps > 0 && signal > 0.0 && noise > 0.0).then(|| noise / signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    #[test]
    fn a_gradient_of_known_signal_and_noise_is_measured() {
        // 40 numbers of mean 0.5 and a standard deviation of 2 per token: |G|^2 = 10, tr S = 160, ratio 16.
        let (width, sizes) = (40, [3_usize, 5, 8, 0, 16]);
        let total: usize = sizes.iter().sum();
        let mut scale = NoiseScale::default();
        assert_eq!(scale.tokens(), None);
        for step in 0..2000 {
            let key = Key::new(1).fold(step);
            let mut whole = vec![0.0; width];
            let micro: Vec<(f64, usize)> = sizes
                .iter()
                .enumerate()
                .map(|(part, tokens)| {
                    let mean = |i: usize| {
                        let spread = 2.0 / (*tokens as f64).max(1.0).sqrt();
                        0.5 + spread * key.fold(part as u64).normal(i as u64)
                    };
                    let share: Vec<f64> = (0..width).map(|i| mean(i) * *tokens as f64 / total as f64).collect();
                    whole.iter_mut().zip(&share).for_each(|(w, s)| *w += s);
                    (share.iter().map(|x| x * x).sum(), *tokens)
                })
                .collect();
            scale.add(NoiseSample::of(&micro, whole.iter().map(|x| x * x).sum()).unwrap());
        }
        let tokens = scale.tokens().unwrap();
        assert!((tokens - 16.0).abs() < 1.5, "{tokens}");
    }

    #[test]
    fn one_micro_batch_tells_nothing() {
        assert_eq!(NoiseSample::of(&[(1.0, 8)], 1.0), None);
        assert_eq!(NoiseSample::of(&[(1.0, 8), (0.0, 0)], 1.0), None);
        assert_eq!(NoiseSample::of(&[], 0.0), None);
    }

    #[test]
    fn stored_numbers_come_back_to_the_bit() {
        let mut scale = NoiseScale::default();
        scale.add(NoiseSample { signal: 1.0 / 3.0, noise: 0.1 });
        let text = serde_json::to_string(&scale).unwrap();
        assert_eq!(serde_json::from_str::<NoiseScale>(&text).unwrap(), scale);
    }
}
