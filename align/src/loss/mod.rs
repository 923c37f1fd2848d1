//! Losses: from per-token log-probs of a whole step to their gradients.
//!
//! In: one [`Tokens`] per sequence (with what the loss needs beside it: reference sums, advantages). Out: the loss, one
//! [`Grad`] per sequence and TRL-named metrics. All sums are f64, token by token and sequence by sequence in the order
//! given, so the split into micro-batches cannot be seen. A masked token is never read, so nothing there (padding, -inf,
//! NaN) can reach a sum. Left to others: the forward pass and the step (`trainer`), files (`pipeline`).
//! Conventions are TRL's (1.16, read 2026-11); where we differ, the item says so.

pub mod grpo;
pub mod preference;
pub mod sft;
pub mod step;

use std::collections::BTreeMap;

use thiserror::Error;

/// Per-token values of one sequence; all three of equal length (entropy may be empty if nobody asks for it).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Log-prob of each target token, in nats, <= 0.
    pub logprob: Vec<f64>,
    /// Entropy of the distribution that each target was taken from, in nats, >= 0; empty = not measured.
    pub entropy: Vec<f64>,
    /// True where the token is a loss token (completion text and its end-of-turn token).
    pub mask: Vec<bool>,
}

impl Tokens {
    /// Number of loss tokens.
    pub fn n_loss(&self) -> usize {
        self.mask.iter().filter(|&&on| on).count()
    }

    /// Log-prob of the sequence: the sum over its loss tokens, in nats. This is the reference column of a pair.
    pub fn sum(&self) -> f64 {
        self.loss_tokens().map(|i| self.logprob[i]).sum()
    }

    /// Positions of the loss tokens, in order.
    pub fn loss_tokens(&self) -> impl Iterator<Item = usize> + '_ {
        self.mask.iter().enumerate().filter(|(_, on)| **on).map(|(i, _)| i)
    }

    fn check(&self, sequence: usize) -> Result<(), LossError> {
        let (tokens, mask, entropy) = (self.logprob.len(), self.mask.len(), self.entropy.len());
        if tokens != mask || (entropy != 0 && entropy != tokens) {
            return Err(LossError::Lengths { sequence, tokens, mask, entropy });
        }
        match self.loss_tokens().find(|&i| !self.logprob[i].is_finite()) {
            Some(token) => Err(LossError::NotFinite { sequence, token, value: self.logprob[token] }),
            None => Ok(()),
        }
    }

    /// The same value at every loss token, 0 elsewhere.
    fn spread(&self, value: f64) -> Vec<f64> {
        self.mask.iter().map(|&on| if on { value } else { 0.0 }).collect()
    }
}

/// Gradient of the loss with respect to one sequence's per-token values; 0 at masked tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grad {
    /// d loss / d log-prob, per token.
    pub d_logprob: Vec<f64>,
    /// d loss / d entropy, per token; `None` if the loss does not use the entropy.
    pub d_entropy: Option<Vec<f64>>,
}

/// Numbers to log, by TRL's names.
pub type Metrics = BTreeMap<String, f64>;

/// What a loss gives back for a whole step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossOutput {
    /// The loss, in nats (GRPO: in units of reward), to be minimised.
    pub loss: f64,
    /// One gradient per sequence, in the order given; for pairs: chosen, rejected, chosen, rejected, …
    pub grads: Vec<Grad>,
    /// Numbers to log.
    pub metrics: Metrics,
}

/// Why a loss has no value.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum LossError {
    /// The per-token vectors of a sequence differ in length.
    #[error("sequence {sequence}: {tokens} log-probs, {mask} mask values, {entropy} entropies; they must be as many")]
    Lengths {
        /// Index of the sequence in the step.
        sequence: usize,
        /// Number of log-probs.
        tokens: usize,
        /// Number of mask values.
        mask: usize,
        /// Number of entropies.
        entropy: usize,
    },
    /// A loss token's log-prob is infinite or not a number.
    #[error("sequence {sequence}, token {token}: log-prob {value} is not finite; the forward pass has diverged")]
    NotFinite {
        /// Index of the sequence in the step.
        sequence: usize,
        /// Index of the token in the sequence.
        token: usize,
        /// What was found.
        value: f64,
    },
    /// The mask is off everywhere: training on it would be a silent no-op.
    #[error("no loss token in the whole step; the chat format or the mask is wrong")]
    NoLossTokens,
    /// The step holds no sequence.
    #[error("the step holds no sequence")]
    Empty,
    /// The loss or a gradient overflowed.
    #[error("the loss is {loss}; the policy is too far from the one that sampled or from the reference")]
    Overflow {
        /// What was computed.
        loss: f64,
    },
    /// A config value is out of range, or set although the chosen loss does not use it.
    #[error("`{key}` = {value}: {reason}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and the way out.
        reason: String,
    },
    /// A loss needs an input that was not given.
    #[error("sequence {sequence}: {what} missing; {reason}")]
    Missing {
        /// Index of the sequence in the step.
        sequence: usize,
        /// The input.
        what: &'static str,
        /// Which key asks for it.
        reason: &'static str,
    },
    /// Segments and micro-batches do not fit together.
    #[error("segment {segment}: {reason}")]
    Segment {
        /// Index of the segment.
        segment: usize,
        /// What does not fit.
        reason: String,
    },
}

fn bad_config(key: &'static str, value: impl ToString, reason: impl Into<String>) -> LossError {
    LossError::Config { key, value: value.to_string(), reason: reason.into() }
}

/// `-ln sigmoid(x)` = softplus(-x), safe for large |x|.
pub(crate) fn neg_log_sigmoid(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The logistic function, safe for large |x|.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Mean entropy over all loss tokens, in nats; `None` if it was not measured or there is no loss token.
fn mean_entropy<'a>(sequences: impl Iterator<Item = &'a Tokens>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_usize);
    for tokens in sequences {
        if tokens.entropy.len() != tokens.mask.len() {
            return None;
        }
        for i in tokens.loss_tokens() {
            sum += tokens.entropy[i];
            count += 1;
        }
    }
    (count > 0).then(|| sum / count as f64)
}

fn finite(output: LossOutput) -> Result<LossOutput, LossError> {
    let fine = |g: &Grad| g.d_logprob.iter().all(|d| d.is_finite());
    if output.loss.is_finite() && output.grads.iter().all(fine) {
        Ok(output)
    } else {
        Err(LossError::Overflow { loss: output.loss })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::rng::Stream;

    /// Tokens with these log-probs, all of them loss tokens.
    pub fn tokens(logprob: &[f64]) -> Tokens {
        Tokens { logprob: logprob.to_vec(), entropy: vec![0.5; logprob.len()], mask: vec![true; logprob.len()] }
    }

    /// Random tokens with a masked prompt (whose values are poison) and a masked tail.
    pub fn ragged(stream: &mut Stream, n_loss: usize) -> Tokens {
        let mut out = Tokens::default();
        let (head, tail) = (1 + stream.below(3), stream.below(3));
        for i in 0..head + n_loss + tail {
            let on = i >= head && i < head + n_loss;
            out.mask.push(on);
            out.logprob.push(if on { -4.0 * stream.share() - 0.01 } else { [f64::NEG_INFINITY, f64::NAN][i % 2] });
            out.entropy.push(if on { 2.0 * stream.share() } else { f64::NAN });
        }
        out
    }

    /// Largest difference between `grad` and the central difference of `loss` over every loss token.
    pub fn finite_difference(at: &Tokens, grad: &Grad, mut loss: impl FnMut(&Tokens) -> f64) -> f64 {
        let h = 1e-6;
        let mut worst = 0.0_f64;
        for i in at.loss_tokens() {
            let mut moved = at.clone();
            moved.logprob[i] = at.logprob[i] + h;
            let up = loss(&moved);
            moved.logprob[i] = at.logprob[i] - h;
            let down = loss(&moved);
            worst = worst.max(((up - down) / (2.0 * h) - grad.d_logprob[i]).abs());
        }
        for (i, &on) in at.mask.iter().enumerate() {
            assert!(on || grad.d_logprob[i] == 0.0, "a masked token has a gradient");
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logistic_functions_are_safe_far_out() {
        assert_eq!(neg_log_sigmoid(0.0), std::f64::consts::LN_2);
        assert_eq!(neg_log_sigmoid(-1000.0), 1000.0);
        assert_eq!(neg_log_sigmoid(1000.0), 0.0);
        assert_eq!((sigmoid(-1000.0), sigmoid(0.0), sigmoid(1000.0)), (0.0, 0.5, 1.0));
    }

    #[test]
    fn vectors_of_different_length_and_infinite_loss_tokens_are_refused() {
        let mut tokens = testing::tokens(&[-1.0, -2.0]);
        tokens.mask.pop();
        assert!(matches!(tokens.check(3), Err(LossError::Lengths { sequence: 3, .. })));
        let tokens = testing::tokens(&[-1.0, f64::NEG_INFINITY]);
        assert!(matches!(tokens.check(0), Err(LossError::NotFinite { token: 1, .. })));
    }
}
