//! Supervised fine-tuning: negative log-likelihood of the loss tokens.
//!
//! In: the sequences of a whole step. Out: loss, gradients, metrics. The sum is divided by the loss tokens of the
//! *whole step*, never by a mean of micro-batch means (the gradient-accumulation fault of TRL #2175).
//! DFT: Wu et al. 2025, arXiv 2508.05629.

use serde::{Deserialize, Serialize};

use super::{Grad, LossError, LossOutput, Metrics, Tokens, finite, mean_entropy};

/// Which supervised loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SftLoss {
    /// Negative log-likelihood.
    #[default]
    Nll,
    /// Dynamic fine-tuning: each token's term is weighted by its own probability, which carries no gradient.
    Dft,
}

/// Options of supervised fine-tuning.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// `nll` (negative log-likelihood) or `dft` (each term weighted by the token's probability).
    pub loss: SftLoss,
}

/// Loss and gradients of a whole step; metrics `loss`, `entropy`, `num_tokens` (loss tokens of the step).
pub fn sft(config: &SftConfig, sequences: &[Tokens]) -> Result<LossOutput, LossError> {
    for (index, tokens) in sequences.iter().enumerate() {
        tokens.check(index)?;
    }
    let n: usize = sequences.iter().map(Tokens::n_loss).sum();
    if n == 0 {
        return Err(LossError::NoLossTokens);
    }
    let scale = 1.0 / n as f64;
    let (mut sum, mut grads) = (0.0, Vec::with_capacity(sequences.len()));
    for tokens in sequences {
        let mut d_logprob = vec![0.0; tokens.mask.len()];
        for i in tokens.loss_tokens() {
            let weight = match config.loss {
                SftLoss::Nll => 1.0,
                SftLoss::Dft => tokens.logprob[i].exp(),
            };
            sum -= weight * tokens.logprob[i];
            d_logprob[i] = -weight * scale;
        }
        grads.push(Grad { d_logprob, d_entropy: None });
    }
    let loss = sum / n as f64;
    let mut metrics = Metrics::from([("loss".to_owned(), loss), ("num_tokens".to_owned(), n as f64)]);
    if let Some(entropy) = mean_entropy(sequences.iter()) {
        metrics.insert("entropy".to_owned(), entropy);
    }
    finite(LossOutput { loss, grads, metrics })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{finite_difference, ragged, tokens};
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn the_loss_is_divided_by_the_tokens_of_the_whole_step() {
        let out = sft(&SftConfig::default(), &[tokens(&[-1.0]), tokens(&[-2.0, -3.0, -6.0])]).unwrap();
        assert_eq!(out.loss, 3.0); // 12 / 4, not the mean of 1 and 11/3
        assert_eq!(out.grads[0].d_logprob, [-0.25]);
        assert_eq!(out.grads[1].d_logprob, [-0.25; 3]);
        assert_eq!((out.metrics["num_tokens"], out.metrics["entropy"]), (4.0, 0.5));
    }

    #[test]
    fn dft_weighs_each_token_by_its_own_detached_probability() {
        let half = 0.5_f64.ln();
        let out = sft(&SftConfig { loss: SftLoss::Dft }, &[tokens(&[half, 0.0])]).unwrap();
        assert!((out.loss - 0.25 * std::f64::consts::LN_2).abs() < 1e-15);
        assert!((out.grads[0].d_logprob[0] + 0.25).abs() < 1e-15 && out.grads[0].d_logprob[1] == -0.5);
    }

    #[test]
    fn gradients_match_finite_differences_and_padding_is_never_read() {
        let mut stream = Stream::new(&[3.into()]);
        let all: Vec<_> = (0..5).map(|i| ragged(&mut stream, 1 + i)).collect();
        let config = SftConfig::default();
        let out = sft(&config, &all).unwrap();
        for (s, grad) in out.grads.iter().enumerate() {
            let worst = finite_difference(&all[s], grad, |moved| {
                let mut all = all.clone();
                all[s] = moved.clone();
                sft(&config, &all).unwrap().loss
            });
            assert!(worst < 1e-8, "{worst}");
        }
    }

    #[test]
    fn an_empty_mask_is_an_error_and_an_unknown_key_too() {
        let mut masked = tokens(&[-1.0]);
        masked.mask[0] = false;
        assert_eq!(sft(&SftConfig::default(), &[masked]), Err(LossError::NoLossTokens));
        assert_eq!(sft(&SftConfig::default(), &[]), Err(LossError::NoLossTokens));
        assert!(serde_json::from_str::<SftConfig>(r#"{"los": "nll"}"#).is_err());
        assert_eq!(serde_json::from_str::<SftConfig>(r#"{"loss": "dft"}"#).unwrap().loss, SftLoss::Dft);
    }
}
