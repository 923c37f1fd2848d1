//! Is training on several ranks exact? The same few steps on one rank and on a mesh, compared tensor by tensor, to the bit.
//!
//! In: the model, optimizer and seed of a `pretrain` stage, and a mesh. Out: for the loss of each step, every gradient of each step and
//! every parameter at the end, whether all bits are equal. Batches are made of keyed numbers (packed documents, masked
//! tokens), so nothing has to be run before. The ranks are threads of this process; what they exchange goes through the
//! collectives that processes use. Data parallelism is what manifests train with, so its own step is compared, with the optimizer's
//! state whole and spread; gradients and weights spread too (ZeRO-2, -3), tensor with sequence and pipeline parallelism go
//! through the mesh of `trainer::parallel::grid`, where tensor parallelism is judged in f64 and in f32.

use crate::error::{Error, Result};
use crate::ranks::trainer_error;
use crate::stage::pretrain::PretrainConfig;
use serde::Serialize;
use std::time::Duration;
use trainer::ops::Scalar;
use trainer::optim::OptimConfig;
use trainer::optim::Rates;
use trainer::parallel::verify::{self, Case};
use trainer::parallel::{Collective, GridOptions, Mesh, Team, threads};
use trainer::rng::Key;
use trainer::trainer::Trainer;
use trainer::{Batch, Model, ModelConfig, TokenGrad, TokenStats};

/// What is trained, and how long.
pub struct Setup<'a> {
    /// The stage's options.
    pub options: &'a PretrainConfig,
    /// Sizes and layers.
    pub sizes: ModelConfig,
    /// Weights, batches, dropout.
    pub seed: u64,
    /// Optimizer steps.
    pub steps: u64,
}

/// Micro-batches of a step: 2, 3 and 4 ranks get runs of unequal length of them.
const MICRO: u64 = 6;
/// Most positions of a row.
const POSITIONS: usize = 64;
/// Longest silence of a rank; a thread that is slower hangs.
const DEADLINE: Duration = Duration::from_secs(600);

/// The numbers of a run by name, as bits: losses and gradients of each step, then the parameters.
pub type Run = Vec<(String, Vec<u32>)>;

/// What a mesh did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The mesh.
    pub mesh: String,
    /// What was spread over data-parallel ranks: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too.
    pub zero: u8,
    /// Numbers of this type.
    pub precision: &'static str,
    /// Largest `‖a - b‖ / ‖b‖` that is no fault; 0: all bits must be equal.
    pub allowed: f64,
    /// Largest that was found; none where bits alone were compared.
    pub worst: Option<f64>,
    /// Losses, gradients and parameters compared, over all ranks.
    pub compared: usize,
    /// Those that differ: rank and name.
    pub differ: Vec<String>,
}

/// Ok if the mesh is one that can be compared.
pub fn check(mesh: &Mesh) -> Result<()> {
    mesh.check().map_err(|e| Error::Manifest(format!("error: {e}")))?;
    if mesh.size() < 2 || mesh.cp > 1 || mesh.ep > 1 {
        return Err(Error::Manifest(format!(
            "error: --mesh {mesh}: expected 2 ranks or more along dp, tp or pp, as in dp2 or \"dp2 tp2 pp2\"; other axes are not there yet"
        )));
    }
    Ok(())
}

impl Setup<'_> {
    fn trainer(&self) -> trainer::Result<Trainer> {
        let model = Model::init(self.sizes.clone(), self.seed)?;
        let mut trainer = Trainer::with_rule(model, &self.options.optim, &self.options.rule)?;
        trainer.recompute = self.options.recompute;
        trainer.dropout = Key::new(self.seed).fold_str("dropout");
        Ok(trainer)
    }

    /// A micro-batch of two rows of two documents each, every fifth token masked.
    fn batch(&self, step: u64, micro: u64) -> trainer::Result<Batch> {
        let (b, t) = (2, POSITIONS.min(self.sizes.sequence_len));
        let key = Key::new(self.seed).fold_str("verify-parallel").fold(step).fold(micro);
        let id = |at: usize| key.below(at as u64, self.sizes.vocab_size as u64) as u32;
        let mut batch = Batch::from_rows(b, t, (0..b * t).map(id).collect(), (1..=b * t).map(id).collect())?;
        let cut = t / 3 + micro as usize % 5;
        for at in (0..b * t).filter(|at| at % t >= cut) {
            batch.doc_starts[at] = cut as u32;
            batch.positions[at] = (at % t - cut) as u32;
        }
        batch.loss_mask.iter_mut().skip(micro as usize % 5).step_by(5).for_each(|mask| *mask = 0.0);
        Ok(batch)
    }

    fn run(&self, team: Option<&Team<'_>>, zero: u8) -> trainer::Result<Run> {
        let mut trainer = self.trainer()?;
        if let (Some(team), 1) = (team, zero) {
            trainer = team.spread(trainer);
        }
        let mut found = Run::new();
        for step in 0..self.steps {
            let micro = (0..MICRO).map(|i| self.batch(step, i)).collect::<trainer::Result<Vec<_>>>()?;
            let mut loss = 0.0;
            let of = |stats: &[TokenStats]| Ok(nll(&micro, stats, &mut loss));
            let prepared = match team {
                Some(team) => trainer.prepare_in(team, &micro, of),
                None => trainer.prepare(&micro, of),
            }?;
            found.push((format!("loss of step {step}"), vec![(loss.to_bits() >> 32) as u32, loss.to_bits() as u32]));
            let first = trainer.owned.as_ref().map_or(0, |owned| owned.start);
            for (name, gradient) in trainer.model.names()[first..].iter().zip(prepared.gradients()) {
                found.push((format!("gradient of {name} in step {step}"), bits(gradient)));
            }
            let rates = Rates::of(self.options.schedule.learning_rate);
            match team {
                Some(team) => trainer.apply_in(team, prepared, rates),
                None => trainer.apply(prepared, rates),
            }?;
        }
        let weights = trainer.model.names().iter().enumerate();
        found.extend(weights.map(|(i, name)| (name.clone(), bits(&trainer.model.slice(i)))));
        Ok(found)
    }

    /// The run on one rank, to compare others with.
    pub fn alone(&self) -> Result<Run> {
        self.run(None, 0).map_err(trainer_error)
    }

    /// The same on the mesh of all axes, in numbers of type `T`. Tensor parallelism adds in another order; a second step of f32 would
    /// divide by gradients that are rounding alone, so it is compared over one.
    pub fn on_grid<T: Scalar>(&self, mesh: &Mesh, zero: u8) -> Result<Report> {
        let chunked = mesh.pp > 1 && self.sizes.n_layer.is_multiple_of(2 * mesh.pp);
        let options = GridOptions { zero, chunks: 1 + usize::from(chunked), deadline: DEADLINE };
        let case = Case { mesh: *mesh, options, each: mesh.pp > 1 };
        let allowed = case.allowed::<T>();
        let one_step = allowed > 0.0 && T::DTYPE.as_str() == "f32";
        let optim = OptimConfig { eps: self.options.optim.eps.max(1e-3), ..self.options.optim.clone() };
        let setup = verify::Setup {
            optim,
            rule: self.options.rule.clone(),
            steps: if one_step { 1 } else { self.steps },
            recompute: self.options.recompute,
            ..verify::Setup::new(self.sizes.clone(), self.seed)
        };
        let mut reports = verify::verify::<T>(&setup, &[case]).map_err(trainer_error)?;
        let report = reports.pop().expect("a report for the one case");
        Ok(Report {
            mesh: mesh.to_string(),
            zero,
            precision: T::DTYPE.as_str(),
            allowed,
            worst: Some(report.worst()),
            compared: report.differences.len(),
            differ: report.faults().into_iter().map(|d| d.what.clone()).collect(),
        })
    }

    /// Every comparison of a mesh.
    pub fn all_on(&self, mesh: &Mesh, alone: &Run) -> Result<Vec<Report>> {
        if mesh.tp > 1 {
            return Ok(vec![self.on_grid::<f64>(mesh, 0)?, self.on_grid::<f32>(mesh, 0)?]);
        }
        if mesh.pp > 1 {
            let zero = if mesh.dp > 1 { 3 } else { 0 };
            return Ok(vec![self.on_grid::<f32>(mesh, zero)?]);
        }
        Ok(vec![
            self.on(mesh, 0, alone)?,
            self.on(mesh, 1, alone)?,
            self.on_grid::<f32>(mesh, 2)?,
            self.on_grid::<f32>(mesh, 3)?,
        ])
    }

    /// The run on a mesh of data-parallel ranks, compared with that on one rank.
    fn on(&self, mesh: &Mesh, zero: u8, alone: &Run) -> Result<Report> {
        check(mesh)?;
        let rank = |group: Box<dyn Collective>| self.run(Some(&Team { group: &*group, deadline: DEADLINE }), zero);
        let runs: Vec<trainer::Result<Run>> = std::thread::scope(|scope| {
            let start = |group| scope.spawn(move || rank(group));
            let ranks: Vec<_> = threads::world(mesh.dp).into_iter().map(start).collect();
            ranks.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        let (mut compared, mut differ) = (0, Vec::new());
        for (rank, run) in runs.into_iter().enumerate() {
            for (name, bits) in run.map_err(trainer_error)? {
                compared += 1;
                let same = alone.iter().any(|(other, expected)| *other == name && *expected == bits);
                differ.extend((!same).then(|| format!("rank {rank}: {name}")));
            }
        }
        Ok(Report { mesh: mesh.to_string(), zero, precision: "f32", allowed: 0.0, worst: None, compared, differ })
    }
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Mean negative log-prob over the counted tokens of a step, and its gradients.
fn nll(micro: &[Batch], stats: &[TokenStats], loss: &mut f64) -> Vec<TokenGrad> {
    let masks = || micro.iter().flat_map(|b| &b.loss_mask);
    let counted: f32 = masks().sum();
    let logprobs = stats.iter().flat_map(|s| &s.logprob);
    *loss = -logprobs.zip(masks()).map(|(l, m)| f64::from(l * m)).sum::<f64>() / f64::from(counted);
    let grad = |b: &Batch| TokenGrad { d_logprob: b.loss_mask.iter().map(|m| -m / counted).collect(), d_entropy: None };
    micro.iter().map(grad).collect()
}
