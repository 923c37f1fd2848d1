//! Is a mesh exact? The same few steps on one process and on a mesh, compared tensor by tensor.
//!
//! In: a model's configuration, a rule, a seed, and the ranks of a mesh (threads, or processes that each call [`Setup::on`]).
//! Out: for the loss of each step, every gradient of each step and every parameter at the end: `‖a - b‖ / ‖b‖`, and whether
//! all bits are equal. Data and pipeline parallelism and ZeRO must give equal bits; tensor parallelism adds in another order and may differ by
//! 1e-12 in f64, 1e-5 in f32. Weights are random around their defaults, batches are packed documents with masked tokens, the loss
//! uses log-probs and entropies, so that nothing is compared at zero.

use super::grid::{Grid, GridOptions};
use super::mesh::Mesh;
use super::{Collective, threads};
use crate::ops::{Scalar, view};
use crate::optim::{OptimConfig, Rates, RuleConfig};
use crate::rng::Key;
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, ModelConfig, Result, TokenGrad, TokenStats};
use candle_core::{DType, Tensor};

/// What is trained, and how long.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Sizes and architecture.
    pub config: ModelConfig,
    /// Settings of the optimizer. Where steps are divided by the gradient's size, `eps` must be well above rounding, else a step
    /// makes noise as large as the rest.
    pub optim: OptimConfig,
    /// Which optimizer.
    pub rule: RuleConfig,
    /// Weights, batches, dropout.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
    /// Micro-batches per step, of one or two rows.
    pub micro: usize,
    /// Positions per row.
    pub t: usize,
    /// Run layers again in backward.
    pub recompute: bool,
}

/// A mesh and how it works.
#[derive(Clone, Debug)]
pub struct Case {
    /// Ranks.
    pub mesh: Mesh,
    /// ZeRO, chunks.
    pub options: GridOptions,
    /// Tell the loss micro-batch by micro-batch (one forward, one backward), not of all at once.
    pub each: bool,
}

/// What one run leaves.
pub struct Run {
    named: Vec<(String, Tensor)>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Name: loss, gradient or parameter, and the step.
    pub what: String,
    /// `‖a - b‖ / ‖b‖`; of a gradient below 1e-3 (f32: 1e-2) of the largest, relative to that: some are 0 but for
    /// rounding, as that of a key bias where nothing is rotated.
    pub distance: f64,
    /// All bits equal.
    pub equal: bool,
}

/// All comparisons of one case.
#[derive(Clone, Debug)]
pub struct Report {
    /// Largest distance allowed; 0: all bits must be equal.
    pub allowed: f64,
    /// In the order loss, gradients of each step; then parameters.
    pub differences: Vec<Difference>,
}

impl Report {
    /// What differs more than is allowed.
    pub fn faults(&self) -> Vec<&Difference> {
        let bad = |d: &&Difference| {
            if self.allowed == 0.0 { !d.equal } else { d.distance.is_nan() || d.distance > self.allowed }
        };
        self.differences.iter().filter(bad).collect()
    }

    /// The largest distance.
    pub fn worst(&self) -> f64 {
        self.differences.iter().map(|d| d.distance).fold(0.0, f64::max)
    }
}

impl Case {
    /// Data-parallel state spread, one chunk, all statistics at once.
    pub fn new(mesh: &str, zero: u8) -> Result<Self> {
        Ok(Self { mesh: mesh.parse()?, options: GridOptions { zero, ..GridOptions::default() }, each: false })
    }

    /// Largest distance that is not an error: 0 stands for equal bits.
    pub fn allowed<T: Scalar>(&self) -> f64 {
        match (self.mesh.tp, T::DTYPE) {
            (1, _) => 0.0,
            (_, DType::F64) => 1e-12,
            _ => 1e-5,
        }
    }
}

impl Setup {
    /// Two steps of AdamW over six micro-batches.
    pub fn new(config: ModelConfig, seed: u64) -> Self {
        let optim = OptimConfig { weight_decay: 0.1, eps: 1e-3, ..OptimConfig::default() };
        let t = 19.min(config.sequence_len);
        Self { config, optim, rule: RuleConfig::default(), seed, steps: 2, micro: 6, t, recompute: false }
    }

    /// Fresh weights, vectors moved off their defaults.
    fn trainer<T: Scalar>(&self) -> Result<Trainer<T>> {
        let model: Model<T> = Model::init(self.config.clone(), self.seed)?.cast()?;
        let key = Key::new(self.seed).fold_str("verify");
        let mut tensors = Vec::new();
        for (at, tensor) in model.tensors().iter().enumerate() {
            let moved = |(i, x): (usize, &T)| *x + T::of(0.1 * key.fold(at as u64).normal(i as u64));
            let data: Vec<T> = view::<T>(tensor)?.iter().enumerate().map(moved).collect();
            tensors.push(Tensor::from_vec(data, tensor.dims(), tensor.device())?);
        }
        let mut trainer = Trainer::with_rule(model.with_tensors(tensors)?, &self.optim, &self.rule)?;
        trainer.recompute = self.recompute;
        trainer.dropout = Key::new(self.seed).fold_str("dropout");
        Ok(trainer)
    }

    /// Micro-batches of a step: rows of up to three documents, every fifth token masked.
    fn batches(&self, step: u64) -> Result<Vec<Batch>> {
        let one = |i: usize| -> Result<Batch> {
            let (key, b, t) = (Key::new(self.seed).fold_str("batch").fold(step).fold(i as u64), 1 + i % 2, self.t);
            let id = |at: usize| key.below(at as u64, self.config.vocab_size as u64) as u32;
            let mut batch = Batch::from_rows(b, t, (0..b * t).map(id).collect(), (1..=b * t).map(id).collect())?;
            let cuts = [t / 4 + i % 3, t / 2 + i % 5];
            for at in 0..b * t {
                let start = cuts.into_iter().filter(|cut| *cut <= at % t).max().unwrap_or(0);
                batch.doc_starts[at] = start as u32;
                batch.positions[at] = (at % t - start) as u32;
                batch.loss_mask[at] = f32::from(u8::from(!(at + i).is_multiple_of(5)));
            }
            Ok(batch)
        };
        (0..self.micro).map(one).collect()
    }

    /// The steps on one process.
    pub fn alone<T: Scalar>(&self) -> Result<Run> {
        let (mut trainer, mut run) = (self.trainer::<T>()?, Run { named: Vec::new() });
        for step in 0..self.steps {
            let (micro, mut value) = (self.batches(step)?, 0.0);
            let prepared = trainer.prepare(&micro, |stats| whole_loss(&micro, stats, &mut value))?;
            let dims = trainer.model.tensors().iter().map(Tensor::dims);
            let gradients = prepared
                .gradients
                .iter()
                .zip(dims)
                .map(|(g, dims)| Tensor::from_slice(g, dims, trainer.model.tensors()[0].device()));
            let gradients = gradients.collect::<candle_core::Result<Vec<_>>>()?;
            run.record(step, value, trainer.model.names(), gradients)?;
            trainer.apply(prepared, Rates::of(LR))?;
        }
        run.finish(&trainer);
        Ok(run)
    }

    /// The same steps on this rank of a mesh, compared; a call that all ranks of `world` make. Every rank returns the same.
    pub fn on<T: Scalar>(&self, world: &dyn Collective, case: &Case, alone: &Run) -> Result<Report> {
        let grid = Grid::new(world, case.mesh, case.options.clone())?;
        self.on_grid::<T>(&grid, case, alone)
    }

    pub(super) fn on_grid<T: Scalar>(&self, grid: &Grid, case: &Case, alone: &Run) -> Result<Report> {
        let mut trainer = grid.spread(self.trainer::<T>()?)?;
        let mut run = Run { named: Vec::new() };
        for step in 0..self.steps {
            let (micro, mut value) = (self.batches(step)?, 0.0);
            let prepared = if case.each {
                let n = counted(&micro);
                let (prepared, stats) =
                    trainer.prepare_each_on(grid, &micro, |i, stats| Ok(loss(&micro[i], stats, n).1))?;
                whole_loss(&micro, &stats, &mut value)?;
                prepared
            } else {
                trainer.prepare_on(grid, &micro, |stats| whole_loss(&micro, stats, &mut value))?
            };
            let gradients = trainer.whole_gradient(grid, &prepared)?;
            run.record(step, value, trainer.model.names(), gradients)?;
            trainer.apply_on(grid, prepared, Rates::of(LR))?;
        }
        run.finish(&grid.whole(&trainer)?);
        compare::<T>(&run, alone, case.allowed::<T>())
    }

    /// The steps on ranks that are threads of this process; the report of the first rank.
    pub fn on_threads<T: Scalar>(&self, case: &Case, alone: &Run) -> Result<Report> {
        let world = threads::world(case.mesh.size());
        std::thread::scope(|scope| {
            let ranks: Vec<_> =
                world.into_iter().map(|end| scope.spawn(move || self.on::<T>(&*end, case, alone))).collect();
            let reports: Result<Vec<Report>> =
                ranks.into_iter().map(|rank| rank.join().expect("a rank reports, it does not panic")).collect();
            reports?.into_iter().next().ok_or_else(|| Error::Format("a mesh of no ranks".into()))
        })
    }
}

/// The steps in type `T` on one process and on each mesh of threads.
pub fn verify<T: Scalar>(setup: &Setup, cases: &[Case]) -> Result<Vec<Report>> {
    let alone = setup.alone::<T>()?;
    cases.iter().map(|case| setup.on_threads::<T>(case, &alone)).collect()
}

/// Learning rate of the steps.
const LR: f64 = 1e-2;
/// Weight of the entropy in the loss.
const ENTROPY: f64 = 0.1;

fn counted(micro: &[Batch]) -> f64 {
    micro.iter().flat_map(|batch| &batch.loss_mask).map(|mask| f64::from(*mask)).sum()
}

/// A micro-batch's share of the mean over `n` tokens of `-logprob - 0.1 entropy`, and its gradient.
fn loss<T: Scalar>(batch: &Batch, stats: &TokenStats<T>, n: f64) -> (f64, TokenGrad<T>) {
    let weights = || batch.loss_mask.iter().map(|mask| f64::from(*mask) / n);
    let terms = weights().zip(stats.logprob.iter().zip(&stats.entropy));
    let value = terms.map(|(w, (p, h))| -w * (p.wide() + ENTROPY * h.wide())).sum();
    let d_logprob = weights().map(|w| T::of(-w)).collect();
    (value, TokenGrad { d_logprob, d_entropy: Some(weights().map(|w| T::of(-w * ENTROPY)).collect()) })
}

fn whole_loss<T: Scalar>(micro: &[Batch], stats: &[TokenStats<T>], value: &mut f64) -> Result<Vec<TokenGrad<T>>> {
    let n = counted(micro);
    let (values, grads): (Vec<f64>, Vec<_>) = micro.iter().zip(stats).map(|(b, s)| loss(b, s, n)).unzip();
    *value = values.into_iter().sum();
    Ok(grads)
}

impl Run {
    fn record(&mut self, step: u64, loss: f64, names: &[String], gradients: Vec<Tensor>) -> Result<()> {
        let loss = Tensor::new(&[loss], &candle_core::Device::Cpu)?;
        self.named.push((format!("loss, step {step}"), loss));
        let gradients = names.iter().zip(gradients);
        self.named.extend(gradients.map(|(name, gradient)| (format!("gradient of {name}, step {step}"), gradient)));
        Ok(())
    }

    fn finish<T: Scalar>(&mut self, trainer: &Trainer<T>) {
        self.named.extend(trainer.model.params().map(|(name, tensor)| (name.to_owned(), tensor.clone())));
    }
}

fn compare<T: Scalar>(run: &Run, alone: &Run, allowed: f64) -> Result<Report> {
    let wide = |tensor: &Tensor| tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let share = if T::DTYPE == DType::F64 { 1e-3 } else { 1e-2 };
    let mut largest = 0.0_f64;
    for (what, tensor) in &alone.named {
        if what.starts_with("gradient") {
            largest = largest.max(norm(&wide(tensor)?));
        }
    }
    let mut differences = Vec::new();
    for ((what, a), (_, b)) in run.named.iter().zip(&alone.named) {
        let (a, b) = (wide(a)?, wide(b)?);
        let apart: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let floor = if what.starts_with("gradient") { share * largest } else { f64::MIN_POSITIVE };
        let equal = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
        let distance = if a.len() == b.len() { norm(&apart) / norm(&b).max(floor) } else { f64::NAN };
        differences.push(Difference { what: what.clone(), distance, equal });
    }
    if run.named.len() != alone.named.len() {
        let (got, expected) = (run.named.len(), alone.named.len());
        return Err(Error::Format(format!("{got} tensors to compare with {expected}: the runs are of other setups")));
    }
    Ok(Report { allowed, differences })
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
