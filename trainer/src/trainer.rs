//! The trainer: micro-batches and a loss in, a better model out.
//!
//! In: the micro-batches of one step, a learning rate and a loss over all token statistics of the step. Out: the next
//! model and moments, and a [`StepReport`]. Each micro-batch's gradient is computed on its own and summed by a binary
//! tree over the micro-batch index. Where batches come from and where checkpoints go is the caller's business.

use crate::ops::tree_sum::{TreeSum, sum_of_squares};
use crate::optim::{self, OptimConfig};
use crate::tape::{self, Ctx};
use crate::{Batch, Error, Model, Result, TokenGrad, TokenStats};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// First and second moments, in canonical parameter order, shaped like the parameters.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Running mean of gradients.
    pub m: Vec<Tensor>,
    /// Running mean of squared gradients.
    pub v: Vec<Tensor>,
}

impl Moments {
    /// All zero.
    pub fn zeros(model: &Model) -> Result<Self> {
        let zeros = || model.tensors().iter().map(Tensor::zeros_like).collect::<candle_core::Result<Vec<_>>>();
        Ok(Self { m: zeros()?, v: zeros()? })
    }
}

/// A model with its optimizer state: everything that a checkpoint holds.
#[derive(Clone, Debug)]
pub struct Trainer {
    /// Current weights.
    pub model: Model,
    /// Optimizer settings.
    pub optim: OptimConfig,
    /// Optimizer state.
    pub moments: Moments,
    /// Optimizer steps taken so far.
    pub step: u64,
    /// Run layers forward again in backward instead of keeping activations: less memory, same bits.
    pub recompute: bool,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate used.
    pub lr: f64,
    /// Positions with a non-zero loss mask.
    pub tokens: usize,
}

impl Trainer {
    /// Step 0 with zero moments.
    pub fn new(model: Model, optim: &OptimConfig) -> Result<Self> {
        optim.check()?;
        let moments = Moments::zeros(&model)?;
        Ok(Self { model, optim: optim.clone(), moments, step: 0, recompute: false })
    }

    /// One optimizer step over micro-batches. `loss` sees the statistics of all of them once. On an error, also on a
    /// gradient that is not finite, nothing has changed.
    pub fn step(
        &mut self,
        micro: &[Batch],
        lr: f64,
        loss: impl FnOnce(&[TokenStats]) -> Result<Vec<TokenGrad>>,
    ) -> Result<StepReport> {
        let gradients = self.summed(micro, loss)?;
        let grad_norm = sum_of_squares(&gradients).sqrt();
        if !grad_norm.is_finite() {
            return Err(Error::NotFinite { what: "gradient norm".into(), step: self.step });
        }
        let (model, moments) =
            optim::adamw(&self.optim, &self.model, &self.moments, &gradients, grad_norm, lr, self.step)?;
        self.model = model;
        self.moments = moments;
        self.step += 1;
        let tokens = micro.iter().flat_map(|b| &b.loss_mask).filter(|&&mask| mask != 0.0).count();
        Ok(StepReport { grad_norm, lr, tokens })
    }

    /// Gradients of all parameters by name, before clipping.
    pub fn gradients(
        &self,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats]) -> Result<Vec<TokenGrad>>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let gradients = self.summed(micro, loss)?;
        let named = self.model.params().zip(gradients);
        named.map(|((name, w), g)| Ok((name.to_owned(), Tensor::from_vec(g, w.dims(), &Device::Cpu)?))).collect()
    }

    fn summed(
        &self,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats]) -> Result<Vec<TokenGrad>>,
    ) -> Result<Vec<Vec<f32>>> {
        let (mut walks, mut stats) = (Vec::new(), Vec::new());
        for batch in micro {
            let ctx = Ctx { recompute: self.recompute, ..Ctx::new(&self.model, batch)? };
            let (s, saved) = tape::forward(&ctx)?;
            walks.push((ctx, saved));
            stats.push(s);
        }
        let grads = loss(&stats)?;
        if grads.len() != micro.len() {
            return Err(Error::Loss(format!("gradients of {} micro-batches, expected {}", grads.len(), micro.len())));
        }
        let mut sum = TreeSum::default();
        for ((ctx, saved), grad) in walks.into_iter().zip(grads) {
            sum.push(tape::backward(&ctx, saved, grad)?.0);
        }
        sum.finish().ok_or_else(|| Error::Loss("a step without micro-batches".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use crate::rng::Key;

    fn small() -> ModelConfig {
        ModelConfig { vocab_size: 40, n_layer: 1, n_embd: 32, n_ffn: 48, sequence_len: 24, ..ModelConfig::default() }
    }

    fn batch(seed: u64) -> Batch {
        let key = Key::new(seed);
        let ids = (0..2 * 24).map(|i| key.below(i, 40) as u32).collect();
        let targets = (1..2 * 24 + 1).map(|i| key.below(i, 40) as u32).collect();
        Batch::from_rows(2, 24, ids, targets).unwrap()
    }

    /// Mean negative log-prob over all micro-batches.
    fn mean_nll(stats: &[TokenStats], out: &mut f64) -> Result<Vec<TokenGrad>> {
        let n: usize = stats.iter().map(|s| s.logprob.len()).sum();
        *out = -stats.iter().flat_map(|s| &s.logprob).map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let grad = |s: &TokenStats| TokenGrad { d_logprob: vec![-1.0 / n as f32; s.logprob.len()], d_entropy: None };
        Ok(stats.iter().map(grad).collect())
    }

    #[test]
    fn one_batch_is_learned_by_heart() {
        let mut trainer = Trainer::new(
            Model::init(small(), 1).unwrap(),
            &OptimConfig { weight_decay: 0.0, ..OptimConfig::default() },
        )
        .unwrap();
        let (mut first, mut loss) = (None, 0.0);
        for _ in 0..150 {
            let report = trainer.step(&[batch(3)], 1e-2, |s| mean_nll(s, &mut loss)).unwrap();
            assert_eq!(report.tokens, 48);
            first.get_or_insert(loss);
        }
        assert!((first.unwrap() - 40.0_f64.ln()).abs() < 0.3, "{first:?}");
        assert!(loss < 0.05, "{loss}");
    }

    #[test]
    fn threads_and_recomputing_change_no_bit_of_three_steps_over_three_micro_batches() {
        let run = |threads: usize, recompute: bool| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut trainer = Trainer::new(Model::init(small(), 1).unwrap(), &OptimConfig::default()).unwrap();
                trainer.recompute = recompute;
                for step in 0..3 {
                    trainer
                        .step(&[batch(step), batch(step + 9), batch(step + 5)], 1e-2, |s| mean_nll(s, &mut 0.0))
                        .unwrap();
                }
                (0..trainer.model.tensors().len()).map(|i| trainer.model.slice(i).to_vec()).collect::<Vec<_>>()
            })
        };
        let reference = run(1, false);
        assert!(run(2, false) == reference && run(2, true) == reference);
    }

    #[test]
    fn an_earlier_clone_of_the_model_stays_what_it_was() {
        let model = Model::init(small(), 1).unwrap();
        let before = model.slice(0).to_vec();
        let mut trainer = Trainer::new(model.clone(), &OptimConfig::default()).unwrap();
        trainer.step(&[batch(1)], 1e-2, |s| mean_nll(s, &mut 0.0)).unwrap();
        assert_eq!(model.slice(0).to_vec(), before);
        assert_ne!(trainer.model.slice(0).to_vec(), before);
    }

    #[test]
    fn a_loss_that_is_not_finite_or_does_not_fit_changes_nothing() {
        let mut trainer = Trainer::new(Model::init(small(), 1).unwrap(), &OptimConfig::default()).unwrap();
        let before = trainer.model.slice(0).to_vec();
        let nan =
            |s: &[TokenStats]| Ok(vec![TokenGrad { d_logprob: vec![f32::NAN; s[0].logprob.len()], d_entropy: None }]);
        assert!(matches!(trainer.step(&[batch(1)], 1e-2, nan), Err(Error::NotFinite { step: 0, .. })));
        assert!(matches!(trainer.step(&[batch(1)], 1e-2, |_| Ok(Vec::new())), Err(Error::Loss(_))));
        let short = |_: &[TokenStats]| Ok(vec![TokenGrad { d_logprob: vec![0.0], d_entropy: None }]);
        assert!(matches!(trainer.step(&[batch(1)], 1e-2, short), Err(Error::Loss(_))));
        assert!(trainer.step(&[], 1e-2, |_| Ok(Vec::new())).is_err());
        assert_eq!((trainer.step, trainer.model.slice(0).to_vec()), (0, before));
    }

    #[test]
    fn a_zero_loss_mask_hides_a_position_from_statistics_and_gradient() {
        let trainer = Trainer::new(Model::init(small(), 1).unwrap(), &OptimConfig::default()).unwrap();
        let mut masked = batch(1);
        masked.loss_mask[5] = 0.0;
        let mut other = masked.clone();
        other.targets[5] = (masked.targets[5] + 1) % 40;
        let ones = |s: &[TokenStats]| Ok(vec![TokenGrad { d_logprob: vec![1.0; s[0].logprob.len()], d_entropy: None }]);
        let norm = |b: &Batch| {
            trainer.gradients(std::slice::from_ref(b), ones).unwrap()["model.norm.weight"].to_vec1::<f32>().unwrap()
        };
        assert_eq!(norm(&masked), norm(&other));
        assert_ne!(norm(&masked), norm(&batch(1)));
        assert_eq!(tape::score(&trainer.model, &masked).unwrap().logprob[5], 0.0);
    }
}
