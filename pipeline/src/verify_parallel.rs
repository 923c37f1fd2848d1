//! Is training on several ranks exact? The same few steps on one rank and on a mesh, compared tensor by tensor, to the bit.
//!
//! In: the model, optimizer and seed of a `pretrain` stage, and a mesh. Out: for the loss of each step, every gradient of each step and
//! every parameter at the end, whether all bits are equal. Batches are made of keyed numbers (packed documents, masked
//! tokens), so nothing has to be run before. The ranks are threads of this process; what they exchange goes through the
//! collectives that processes use. Data parallelism is compared, with the optimizer's state whole and spread.

use crate::error::{Error, Result};
use crate::ranks::trainer_error;
use crate::stage::pretrain::PretrainConfig;
use serde::Serialize;
use std::time::Duration;
use trainer::optim::Rates;
use trainer::parallel::{Collective, Mesh, Team, threads};
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
type Run = Vec<(String, Vec<u32>)>;

/// What a mesh did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The mesh.
    pub mesh: String,
    /// Whether the optimizer's state was spread over the ranks.
    pub zero: u8,
    /// Losses, gradients and parameters compared, over all ranks.
    pub compared: usize,
    /// Those that differ: rank and name.
    pub differ: Vec<String>,
}

/// Ok if the mesh is one that can be compared.
pub fn check(mesh: &Mesh) -> Result<()> {
    mesh.check().map_err(|e| Error::Manifest(format!("error: {e}")))?;
    let alone = Mesh { dp: mesh.dp, ..Mesh::default() };
    if *mesh != alone || mesh.dp < 2 {
        return Err(Error::Manifest(format!(
            "error: --mesh {mesh}: expected data parallelism of 2 ranks or more, as in dp2; other axes are not there yet"
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

    /// The run on a mesh, compared with that on one rank.
    pub fn on(&self, mesh: &Mesh, zero: u8, alone: &Run) -> Result<Report> {
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
        Ok(Report { mesh: mesh.to_string(), zero, compared, differ })
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
