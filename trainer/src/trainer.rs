//! The trainer: micro-batches and a loss in, a better model out.
//!
//! In: the micro-batches of one step, a learning rate and a loss over all token statistics of the step. Out: the next
//! model and state, and a [`StepReport`]. Each micro-batch's gradient is computed on its own and summed by a binary
//! tree over the micro-batch index. Where batches come from and where checkpoints go is the caller's business.
//! [`Trainer::step`] is [`Trainer::prepare`] and [`Trainer::apply`]; between them a caller may look and walk away. With a
//! [`Team`] every rank gives all micro-batches of the step and works on its own run of them: same bits, same loss.

use crate::ops::Scalar;
use crate::ops::dropout::Noise;
use crate::ops::tree_sum::{self, TreeSum, sum_of_squares, tree_of_squares};
use crate::optim::{self, Ema, NoiseSample, NoiseScale, OptimConfig, Rates, RuleConfig, Slot};
use crate::parallel::Team;
use crate::rng::Key;
use crate::tape::{self, Ctx};
use crate::{Batch, Error, Model, Result, TokenGrad, TokenStats};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;

/// A model with its optimizer state: everything that a checkpoint holds.
#[derive(Clone, Debug)]
pub struct Trainer<T = f32> {
    /// Current weights.
    pub model: Model<T>,
    /// Settings that all rules share.
    pub optim: OptimConfig,
    /// Which rule, and its own settings.
    pub rule: RuleConfig,
    /// Optimizer state, one slot per parameter in canonical order.
    pub state: Vec<Slot>,
    /// Optimizer steps taken so far.
    pub step: u64,
    /// Run layers forward again in backward instead of keeping activations: less memory, same bits.
    pub recompute: bool,
    /// What dropout draws its numbers from, beside the step and the row; without dropout it changes nothing.
    pub dropout: Key,
    /// Running estimate of the gradient noise scale; None leaves it unmeasured.
    pub noise: Option<NoiseScale>,
    /// Running mean of the weights; None keeps none.
    pub ema: Option<Ema<T>>,
    /// Parameters whose state is here if state is spread over ranks (ZeRO-1); None: all.
    pub owned: Option<Range<usize>>,
}

/// The summed gradient of one step, not yet applied.
pub struct Prepared<T = f32> {
    /// Of the parameters whose state is here.
    pub(crate) gradients: Vec<Vec<T>>,
    pub(crate) noise: Option<NoiseSample>,
    /// Global L2 norm of the gradient before clipping; may be infinite or NaN.
    pub grad_norm: f64,
    /// Positions with a non-zero loss mask.
    pub tokens: usize,
}

impl Prepared {
    /// The gradient of each parameter whose state is here, in canonical order, before clipping.
    pub fn gradients(&self) -> &[Vec<f32>] {
        &self.gradients
    }
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

impl<T: Scalar> Trainer<T> {
    /// AdamW at step 0 with zero moments.
    pub fn new(model: Model<T>, optim: &OptimConfig) -> Result<Self> {
        Self::with_rule(model, optim, &RuleConfig::default())
    }

    /// Any rule at step 0 with empty state.
    pub fn with_rule(model: Model<T>, optim: &OptimConfig, rule: &RuleConfig) -> Result<Self> {
        optim.check()?;
        rule.check()?;
        let state = optim::zeros(rule, &model)?;
        let (optim, rule) = (optim.clone(), rule.clone());
        Ok(Self {
            model,
            optim,
            rule,
            state,
            step: 0,
            recompute: false,
            dropout: Key::new(0),
            noise: None,
            ema: None,
            owned: None,
        })
    }

    /// One optimizer step over micro-batches. `loss` sees the statistics of all of them once. On an error, also on a
    /// gradient that is not finite, nothing has changed.
    pub fn step(
        &mut self,
        micro: &[Batch],
        lr: f64,
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<StepReport> {
        let prepared = self.prepare(micro, loss)?;
        self.apply(prepared, Rates::of(lr))
    }

    /// The same on every rank of a team, with all micro-batches of the step on each: equal bits on all, and equal to one rank's.
    pub fn step_in(
        &mut self,
        team: &Team,
        micro: &[Batch],
        lr: f64,
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<StepReport> {
        let prepared = self.prepare_in(team, micro, loss)?;
        self.apply_in(team, prepared, Rates::of(lr))
    }

    /// The gradient of a step, without taking the step.
    pub fn prepare(
        &self,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<Prepared<T>> {
        assert!(self.owned.is_none(), "state is spread over ranks: use the calls that take a team");
        self.prepare_with(None, micro, loss)
    }

    /// [`Trainer::prepare`] on every rank of a team.
    pub fn prepare_in(
        &self,
        team: &Team,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<Prepared<T>> {
        team.or_abort(self.prepare_with(Some(team), micro, loss))
    }

    fn prepare_with(
        &self,
        team: Option<&Team>,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<Prepared<T>> {
        let mut squares = Vec::new();
        let measure = |leaf: &[Vec<T>]| self.noise.is_some().then(|| squares.push(sum_of_squares(leaf)));
        let mut gradients = self.summed(team, micro, loss, measure)?;
        let square = match (team, &self.owned) {
            (Some(team), Some(owned)) => {
                gradients = team.own_sum(gradients, &self.model, owned)?;
                tree_of_squares(team.joined(tree_sum::squares(&gradients))?)
            }
            (Some(team), None) => {
                gradients = team.sum(gradients)?;
                sum_of_squares(&gradients)
            }
            (None, _) => sum_of_squares(&gradients),
        };
        if let (Some(team), true) = (team, self.noise.is_some()) {
            squares = team.joined(squares)?;
        }
        let counts: Vec<usize> = micro.iter().map(counted).collect();
        let parts: Vec<(f64, usize)> = squares.into_iter().zip(counts.iter().copied()).collect();
        let noise = NoiseSample::of(&parts, square);
        Ok(Prepared { gradients, noise, grad_norm: square.sqrt(), tokens: counts.iter().sum() })
    }

    /// Takes a step. On an error, also on a gradient that is not finite, nothing has changed.
    pub fn apply(&mut self, prepared: Prepared<T>, rates: Rates) -> Result<StepReport> {
        assert!(self.owned.is_none(), "state is spread over ranks: use the calls that take a team");
        self.apply_with(None, prepared, rates)
    }

    /// [`Trainer::apply`] on every rank of a team.
    pub fn apply_in(&mut self, team: &Team, prepared: Prepared<T>, rates: Rates) -> Result<StepReport> {
        let applied = self.apply_with(Some(team), prepared, rates);
        team.or_abort(applied)
    }

    fn apply_with(&mut self, team: Option<&Team>, prepared: Prepared<T>, rates: Rates) -> Result<StepReport> {
        let Prepared { gradients, noise, grad_norm, tokens } = prepared;
        if !grad_norm.is_finite() {
            return Err(Error::NotFinite { what: "gradient norm".into(), step: self.step });
        }
        let owned = self.owned.clone().unwrap_or(0..self.state.len());
        let (mut weights, state) = optim::apply_to(
            owned,
            &self.optim,
            &self.rule,
            &self.model,
            &self.state,
            &gradients,
            grad_norm,
            rates,
            self.step,
        )?;
        if let (Some(team), Some(_)) = (team, &self.owned) {
            weights = team.all_weights(&weights, &self.model)?;
        }
        let model = self.model.with_tensors(weights)?;
        let ema = self.ema.as_ref().map(|ema| ema.add(&model)).transpose()?;
        if let (Some(scale), Some(sample)) = (&mut self.noise, noise) {
            scale.add(sample);
        }
        (self.model, self.state, self.ema) = (model, state, ema);
        self.step += 1;
        Ok(StepReport { grad_norm, lr: rates.lr, tokens })
    }

    /// Gradients of all parameters by name, before clipping.
    pub fn gradients(
        &self,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let gradients = self.summed(None, micro, loss, |_| ())?;
        let named = self.model.params().zip(gradients);
        named.map(|((name, w), g)| Ok((name.to_owned(), Tensor::from_vec(g, w.dims(), &Device::Cpu)?))).collect()
    }

    /// The sum over this rank's micro-batches; `look` sees the gradient of each.
    fn summed<R>(
        &self,
        team: Option<&Team>,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
        mut look: impl FnMut(&[Vec<T>]) -> R,
    ) -> Result<Vec<Vec<T>>> {
        let mine = team.map_or(0..micro.len(), |team| team.run(micro.len()));
        let (mut walks, mut stats) = (Vec::new(), Vec::new());
        let mut first_sample = micro[..mine.start].iter().map(|batch| batch.b as u64).sum();
        for batch in &micro[mine.clone()] {
            let noise = Some(Noise { key: self.dropout.fold(self.step), first_sample });
            let ctx = Ctx { recompute: self.recompute, noise, ..Ctx::new(&self.model, batch)? };
            first_sample += batch.b as u64;
            let (s, saved) = tape::forward(&ctx)?;
            walks.push((ctx, saved));
            stats.push(s);
        }
        if let Some(team) = team {
            stats = team.all_stats(&stats, micro)?;
        }
        let grads = loss(&stats)?;
        if grads.len() != micro.len() {
            return Err(Error::Loss(format!("gradients of {} micro-batches, expected {}", grads.len(), micro.len())));
        }
        let mut sum = TreeSum::default();
        for ((ctx, saved), grad) in walks.into_iter().zip(grads.into_iter().skip(mine.start)) {
            let leaf = tape::backward(&ctx, saved, grad)?.0;
            look(&leaf);
            sum.push(leaf);
        }
        match sum.finish() {
            Some(sum) => Ok(sum),
            None if micro.is_empty() => Err(Error::Loss("a step without micro-batches".into())),
            None => Ok(Team::nothing(&self.model)),
        }
    }
}

/// Positions with a non-zero loss mask.
pub(crate) fn counted(batch: &Batch) -> usize {
    batch.loss_mask.iter().filter(|mask| **mask != 0.0).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;

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
    fn every_rule_learns_one_batch() {
        use crate::optim::Rule::{Adamw, Lion, Muon, Sgd};
        for (optimizer, state_bits, lr) in
            [(Adamw, Some(8), 1e-2), (Muon, None, 1e-2), (Lion, None, 2e-3), (Sgd, None, 1.0)]
        {
            let rule = RuleConfig { optimizer, state_bits, ..RuleConfig::default() };
            let optim = OptimConfig { weight_decay: 0.0, ..OptimConfig::default() };
            let mut trainer = Trainer::with_rule(Model::init(small(), 1).unwrap(), &optim, &rule).unwrap();
            let mut loss = 0.0;
            for _ in 0..60 {
                trainer.step(&[batch(3)], lr, |s| mean_nll(s, &mut loss)).unwrap();
            }
            assert!(loss < 1.5, "{optimizer:?}: {loss}");
        }
    }

    #[test]
    fn noise_and_running_mean_are_measured_beside_the_step_and_change_no_weight() {
        let mut plain = Trainer::new(Model::init(small(), 1).unwrap(), &OptimConfig::default()).unwrap();
        let mut measured = plain.clone();
        measured.noise = Some(NoiseScale::default());
        measured.ema = Some(Ema::new(&measured.model, 0.5).unwrap());
        let start = plain.model.slice(0)[3];
        for trainer in [&mut plain, &mut measured] {
            trainer.step(&[batch(1), batch(2)], 1e-2, |s| mean_nll(s, &mut 0.0)).unwrap();
        }
        assert_eq!(plain.model.slice(0).to_vec(), measured.model.slice(0).to_vec());
        let mean = measured.ema.unwrap().model.slice(0)[3];
        assert!((mean - 0.5 * (start + plain.model.slice(0)[3])).abs() < 1e-7);
        assert!(measured.noise.unwrap() != NoiseScale::default());
    }

    #[test]
    fn a_prepared_step_can_be_left_and_taken_later() {
        let mut trainer = Trainer::new(Model::init(small(), 1).unwrap(), &OptimConfig::default()).unwrap();
        let mut straight = trainer.clone();
        let left = trainer.prepare(&[batch(8)], |s| mean_nll(s, &mut 0.0)).unwrap();
        assert!(left.grad_norm > 0.0 && left.tokens == 48);
        drop(left);
        straight.step(&[batch(1)], 1e-2, |s| mean_nll(s, &mut 0.0)).unwrap();
        let taken = trainer.prepare(&[batch(1)], |s| mean_nll(s, &mut 0.0)).unwrap();
        trainer.apply(taken, Rates::of(1e-2)).unwrap();
        assert_eq!(trainer.model.slice(0).to_vec(), straight.model.slice(0).to_vec());
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
