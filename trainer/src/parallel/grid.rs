//! A mesh of ranks that train one model: data, tensor with sequence, and pipeline parallel at once, with ZeRO 0 to 3 along data.
//!
//! In: the world's ranks, a mesh, a whole [`Trainer`] on each rank. [`Grid::spread`] leaves a rank what is its own; then
//! [`Trainer::prepare_on`] and [`Trainer::apply_on`] take steps, with all micro-batches of a step given to every rank; and
//! [`Grid::whole`] puts the trainer together again, on every rank, for a checkpoint that any mesh can load. Data and pipeline
//! parallelism and ZeRO give the bits of one process; tensor parallelism adds in another order (to 1e-12 in f64).
//!
//! How a step sums: micro-batches by the tree over their index (data-parallel ranks own aligned runs of them), then the partial
//! gradients of parameters that tensor-parallel ranks hold whole by the tree over those ranks. The norm is the tree over
//! chunks of all parameters in canonical order, parts of one parameter in rank order.
//!
//! ZeRO (Rajbhandari et al. 2020): 1 spreads optimizer state; 2 also gradients, reduced and dropped block by block as backward makes
//! them; 3 also weights, gathered for one block at a time.

use super::division::{Cut, Division, numbers};
use super::mesh::{Axis, Coordinate, Mesh};
use super::walk::{Loss, Walk};
use super::{Buffer, Collective};
use crate::ops::Scalar;
use crate::ops::tree_sum::{squares, tree_of_squares};
use crate::optim::{self, Ema, Rates, Rule, Slot};
use crate::trainer::{Prepared, StepReport, Trainer};
use crate::{Batch, Error, Model, ModelConfig, Result, TokenGrad, TokenStats};
use candle_core::{Device, Tensor};
use std::time::Duration;

/// How a mesh works together.
#[derive(Clone, Debug)]
pub struct GridOptions {
    /// Longest silence of a peer.
    pub deadline: Duration,
    /// What data-parallel ranks share: 0 nothing, 1 optimizer state, 2 and gradients, 3 and weights.
    pub zero: u8,
    /// Runs of layers per pipeline stage; more than one interleaves stages.
    pub chunks: usize,
}

impl Default for GridOptions {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(600), zero: 1, chunks: 1 }
    }
}

/// One rank's end of a mesh.
pub struct Grid<'a> {
    pub(super) world: &'a dyn Collective,
    pub(super) mesh: Mesh,
    pub(super) at: Coordinate,
    pub(super) options: GridOptions,
    pub(super) dp: Box<dyn Collective>,
    pub(super) tp: Box<dyn Collective>,
    /// A replicated parameter whose gradient is not added over tensor-parallel ranks, to see that `verify` finds it.
    #[cfg(test)]
    pub(super) forgotten: Option<usize>,
}

impl<'a> Grid<'a> {
    /// A call that all ranks of `world` make.
    pub fn new(world: &'a dyn Collective, mesh: Mesh, options: GridOptions) -> Result<Self> {
        mesh.check()?;
        if (mesh.cp, mesh.ep) != (1, 1) {
            let expected = "expected axes dp, tp and pp only".to_owned();
            return Err(Error::Config { field: "mesh", got: mesh.to_string(), expected });
        }
        let (dp, tp) = (world.split(&mesh, Axis::Dp)?, world.split(&mesh, Axis::Tp)?);
        let at = mesh.coordinate(world.rank());
        Ok(Self {
            world,
            mesh,
            at,
            options,
            dp,
            tp,
            #[cfg(test)]
            forgotten: None,
        })
    }

    /// Where this rank is.
    pub fn at(&self) -> Coordinate {
        self.at
    }

    pub(super) fn division(&self, config: &ModelConfig) -> Result<Division> {
        Division::new(config, self.mesh, self.options.chunks, self.options.zero)
    }

    /// An error of this rank ends the others too, so that none waits for it.
    fn or_abort<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.world.abort(&error.to_string());
        }
        result
    }

    /// This rank's part of a whole trainer.
    pub fn spread<T: Scalar>(&self, trainer: Trainer<T>) -> Result<Trainer<T>> {
        let division = self.division(trainer.model.config())?;
        let refuse = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        if trainer.rule.optimizer == Rule::Muon && self.mesh.tp > 1 {
            return refuse(
                "optimizer",
                "muon".into(),
                "matrices are cut by tensor parallelism; use another rule or no tp",
            );
        }
        if trainer.rule.state_bits == Some(8) {
            return refuse("state_bits", "8".into(), "expected 32 on a mesh; plain data parallelism takes 8");
        }
        if trainer.noise.is_some() {
            return refuse("noise", "measured".into(), "the noise scale is measured under plain data parallelism only");
        }
        let part = |slot: (usize, &Slot)| -> Result<Slot> {
            let (at, slot) = slot;
            let cut = |whole: &Tensor| match division.owns(self.at, at) {
                true => division.part_of(whole, at, self.at.tp),
                false => division.nothing::<T>(at),
            };
            map_slot(slot, cut)
        };
        let state = trainer.state.iter().enumerate().map(part).collect::<Result<Vec<_>>>()?;
        let model = division.part_model(&trainer.model, self.at)?;
        let ema = |ema: &Ema<T>| -> Result<Ema<T>> {
            Ok(Ema { decay: ema.decay, model: division.part_model(&ema.model, self.at)? })
        };
        let ema = trainer.ema.as_ref().map(ema).transpose()?;
        let owned = (self.options.zero > 0).then(|| division.shares(self.at.pp)[self.at.dp].clone());
        Ok(Trainer { model, state, ema, owned, ..trainer })
    }

    /// The trainer with all weights and state, on every rank.
    pub fn whole<T: Scalar>(&self, trainer: &Trainer<T>) -> Result<Trainer<T>> {
        self.or_abort(self.put_together(trainer))
    }

    fn put_together<T: Scalar>(&self, trainer: &Trainer<T>) -> Result<Trainer<T>> {
        let division = self.division(trainer.model.config())?;
        let model = |tensors: Vec<Tensor>| {
            Model::of_tensors(
                trainer.model.config().clone(),
                trainer.model.names().iter().cloned().zip(tensors).collect(),
            )
        };
        let weights = |model: &Model<T>| self.joined::<T>(&division, |at| &model.tensors()[at]);
        let whole: Model<T> = model(weights(&trainer.model)?)?;
        let ema = match &trainer.ema {
            Some(ema) => Some(Ema { decay: ema.decay, model: model(weights(&ema.model)?)? }),
            None => None,
        };
        let mut state = optim::zeros(&trainer.rule, &whole)?;
        for lane in 0..2 {
            if state.iter().all(|slot| lanes(slot).len() <= lane) {
                continue;
            }
            // Where a slot has no such lane its weights travel instead, so that all ranks know all lengths.
            let of = |at: usize| *lanes(&trainer.state[at]).get(lane).unwrap_or(&&trainer.model.tensors()[at]);
            for (slot, tensor) in state.iter_mut().zip(self.joined::<T>(&division, of)?) {
                match slot {
                    Slot::Momentum(m) if lane == 0 => *m = tensor,
                    Slot::Moments { m, .. } if lane == 0 => *m = tensor,
                    Slot::Moments { v, .. } if lane == 1 => *v = tensor,
                    _ => {}
                }
            }
        }
        let (optim, rule) = (trainer.optim.clone(), trainer.rule.clone());
        Ok(Trainer { model: whole, state, ema, owned: None, optim, rule, ..trainer.clone() })
    }

    /// All parameters whole, from the tensors that each rank names.
    fn joined<'t, T: Scalar>(&self, division: &Division, of: impl Fn(usize) -> &'t Tensor) -> Result<Vec<Tensor>> {
        let mine = (0..division.len()).filter(|&at| division.names(self.at, at)).map(of);
        let lists = self.world.all_gather(Buffer::of(numbers::<T>(mine)?)).wait(self.options.deadline)?;
        let mut parts: Vec<Vec<Tensor>> = vec![Vec::new(); division.len()];
        for (rank, list) in lists.into_iter().enumerate() {
            let (at, list, mut start) = (self.mesh.coordinate(rank), list.into_numbers::<T>()?, 0);
            for i in (0..division.len()).filter(|&i| division.names(at, i)) {
                let dims = division.dims(i, at.tp);
                let n: usize = dims.iter().product();
                parts[i].push(Tensor::from_slice(&list[start..start + n], dims, &Device::Cpu)?);
                start += n;
            }
        }
        parts.iter().enumerate().map(|(at, parts)| division.join(parts, at)).collect()
    }

    /// Adds over tensor-parallel ranks what each has summed over its own rows or heads only; then the copy of a tied embedding
    /// on the last stage gets the first stage's sum.
    fn complete<T: Scalar>(&self, division: &Division, gradients: &mut [Vec<T>]) -> Result<()> {
        let deadline = self.options.deadline;
        if self.mesh.tp > 1 {
            let partial = |at: usize| {
                #[cfg(test)]
                if self.forgotten == Some(at) {
                    return false;
                }
                division.owns(self.at, at) && division.cut(at) == Cut::Whole
            };
            let at: Vec<usize> = (0..division.len()).filter(|&at| partial(at)).collect();
            let all = at.iter().flat_map(|&at| &gradients[at]).copied().collect();
            let mut sum = self.tp.all_reduce(Buffer::of::<T>(all)).wait(deadline)?.into_numbers::<T>()?.into_iter();
            for at in at {
                gradients[at].iter_mut().for_each(|x| *x = sum.next().expect("as many as were sent"));
            }
        }
        let last = self.mesh.pp - 1;
        if division.is_copy(last, 0) {
            let owner = |pp: usize| match division.zero {
                0 => self.at.dp,
                _ => division.shares(pp).iter().position(|share| share.contains(&0)).expect("held, so owned"),
            };
            let rank = |pp: usize| self.mesh.rank(Coordinate { pp, dp: owner(pp), ..self.at });
            if self.world.rank() == rank(0) {
                self.world.send(Buffer::of(gradients[0].clone()), rank(last)).wait(deadline)?;
            }
            if self.world.rank() == rank(last) {
                gradients[0] = self.world.recv(rank(0)).wait(deadline)?.into_numbers()?;
            }
        }
        Ok(())
    }

    /// Squared norm of the gradient of all parameters: chunk sums of each, in canonical order, then the tree.
    fn square<T: Scalar>(&self, division: &Division, gradients: &[Vec<T>]) -> Result<f64> {
        let sums = |at: usize| squares(std::slice::from_ref(&gradients[at]));
        let mine: Vec<f64> = (0..division.len()).filter(|&at| division.names(self.at, at)).flat_map(sums).collect();
        let lists = self.world.all_gather(Buffer::of(mine)).wait(self.options.deadline)?;
        let mut parts: Vec<Vec<f64>> = vec![Vec::new(); division.len()];
        for (rank, list) in lists.into_iter().enumerate() {
            let (at, mut list) = (self.mesh.coordinate(rank), list.into_f64()?.into_iter());
            for i in (0..division.len()).filter(|&i| division.names(at, i)) {
                let chunks = squares(&[vec![0.0_f32; division.dims(i, at.tp).iter().product()]]).len();
                parts[i].extend(list.by_ref().take(chunks));
            }
        }
        Ok(tree_of_squares(parts.concat()))
    }

    /// Weights of this rank after a step, from those that the data-parallel ranks own.
    fn all_weights<T: Scalar>(&self, division: &Division, owned: &[Tensor]) -> Result<Vec<Tensor>> {
        let lists = self.dp.all_gather(Buffer::of(numbers::<T>(owned)?)).wait(self.options.deadline)?;
        let mut weights = (0..division.len()).map(|at| division.nothing::<T>(at)).collect::<Result<Vec<_>>>()?;
        for (share, list) in division.shares(self.at.pp).iter().cloned().zip(lists) {
            let (list, mut start) = (list.into_numbers::<T>()?, 0);
            for at in share.filter(|&at| division.holds(self.at.pp, at)) {
                let dims = division.dims(at, self.at.tp);
                let n: usize = dims.iter().product();
                weights[at] = Tensor::from_slice(&list[start..start + n], dims, &Device::Cpu)?;
                start += n;
            }
        }
        Ok(weights)
    }
}

/// The tensors of a slot.
fn lanes(slot: &Slot) -> Vec<&Tensor> {
    match slot {
        Slot::Empty | Slot::Moments8 { .. } => Vec::new(),
        Slot::Momentum(m) => vec![m],
        Slot::Moments { m, v } => vec![m, v],
    }
}

fn map_slot(slot: &Slot, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Slot> {
    Ok(match slot {
        Slot::Empty | Slot::Moments8 { .. } => Slot::Empty,
        Slot::Momentum(m) => Slot::Momentum(f(m)?),
        Slot::Moments { m, v } => Slot::Moments { m: f(m)?, v: f(v)? },
    })
}

impl<T: Scalar> Trainer<T> {
    /// The gradient of a step on a mesh, with all micro-batches of the step given to every rank; `loss` sees the statistics of all
    /// of them, on every rank. Stages of a pipeline run all micro-batches forward before any backward.
    pub fn prepare_on(
        &self,
        grid: &Grid,
        micro: &[Batch],
        loss: impl FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>>,
    ) -> Result<Prepared<T>> {
        let walked = Walk::run(grid, self, micro, Loss::Whole(Box::new(loss)));
        grid.or_abort(walked.and_then(|(sums, _)| self.prepared_on(grid, micro, sums)))
    }

    /// The same for a loss that can be told micro-batch by micro-batch (its index in the step, its statistics): stages of a
    /// pipeline run one forward, one backward, and hold few micro-batches. Also returns the statistics of all.
    pub fn prepare_each_on(
        &self,
        grid: &Grid,
        micro: &[Batch],
        loss: impl Fn(usize, &TokenStats<T>) -> Result<TokenGrad<T>>,
    ) -> Result<(Prepared<T>, Vec<TokenStats<T>>)> {
        let walked = Walk::run(grid, self, micro, Loss::Each(&loss));
        grid.or_abort(walked.and_then(|(sums, stats)| Ok((self.prepared_on(grid, micro, sums)?, stats))))
    }

    fn prepared_on(&self, grid: &Grid, micro: &[Batch], mut gradients: Vec<Vec<T>>) -> Result<Prepared<T>> {
        let division = grid.division(self.model.config())?;
        grid.complete(&division, &mut gradients)?;
        let square = grid.square(&division, &gradients)?;
        let tokens = micro.iter().map(crate::trainer::counted).sum();
        Ok(Prepared { gradients, noise: None, grad_norm: square.sqrt(), tokens })
    }

    /// Takes a prepared step on a mesh. On an error, also on a gradient that is not finite, nothing has changed.
    pub fn apply_on(&mut self, grid: &Grid, prepared: Prepared<T>, rates: Rates) -> Result<StepReport> {
        let applied = self.applied_on(grid, prepared, rates);
        grid.or_abort(applied)
    }

    fn applied_on(&mut self, grid: &Grid, prepared: Prepared<T>, rates: Rates) -> Result<StepReport> {
        let Prepared { gradients, grad_norm, tokens, .. } = prepared;
        if !grad_norm.is_finite() {
            return Err(Error::NotFinite { what: "gradient norm".into(), step: self.step });
        }
        let division = grid.division(self.model.config())?;
        let owned = self.owned.clone().unwrap_or(0..self.state.len());
        let own = &gradients[owned.clone()];
        let (optim, rule, model) = (&self.optim, &self.rule, &self.model);
        let (mut weights, state) =
            optim::apply_to(owned.clone(), optim, rule, model, &self.state, own, grad_norm, rates, self.step)?;
        if division.zero == 1 || division.zero == 2 {
            let here: Vec<Tensor> = owned
                .zip(weights)
                .filter(|(at, _)| division.holds(grid.at.pp, *at))
                .map(|(_, weight)| weight)
                .collect();
            weights = grid.all_weights::<T>(&division, &here)?;
        } else if division.zero == 3 {
            let mut all = self.model.tensors().to_vec();
            owned.zip(weights).for_each(|(at, weight)| all[at] = weight);
            weights = all;
        }
        let model = self.model.with_tensors(weights)?;
        let ema = self.ema.as_ref().map(|ema| ema.add(&model)).transpose()?;
        (self.model, self.state, self.ema) = (model, state, ema);
        self.step += 1;
        Ok(StepReport { grad_norm, lr: rates.lr, tokens })
    }

    /// The summed gradient of a prepared step, whole parameters on every rank, in canonical order.
    pub(crate) fn whole_gradient(&self, grid: &Grid, prepared: &Prepared<T>) -> Result<Vec<Tensor>> {
        let division = grid.division(self.model.config())?;
        let like = |at: usize| match prepared.gradients[at].len() {
            0 => division.nothing::<T>(at),
            _ => Ok(Tensor::from_slice(&prepared.gradients[at], division.dims(at, grid.at.tp), &Device::Cpu)?),
        };
        let tensors = (0..division.len()).map(like).collect::<Result<Vec<_>>>()?;
        grid.or_abort(grid.joined::<T>(&division, |at| &tensors[at]))
    }
}
