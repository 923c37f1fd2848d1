//! One step of a rank of a mesh: its blocks over its micro-batches in the pipeline's order, and the sums of its gradients.
//!
//! In: this rank's part of a trainer, the micro-batches of the step, a loss. Out: the gradient of each parameter that this rank keeps
//! state of, summed over all micro-batches, and the statistics of all tokens. Between stages travel the hidden stream and its
//! slope, each message named, so that their order on the wire does not matter. The head's share of a tied embedding's gradient goes to
//! the embedding's stage with each micro-batch, where one process adds it too: first the head's, then the rows of the ids.

use super::Buffer;
use super::division::{Division, numbers};
use super::grid::Grid;
use super::mail::{Kind, Mail};
use super::mesh::Coordinate;
use super::schedule::{self, Order, Step};
use super::sums::Sums;
use crate::blocks::Peers;
use crate::ops::Scalar;
use crate::ops::dropout::Noise;
use crate::tape::{self, Block, Carry, Ctx, Gradients, Saved, Slope};
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, Result, TokenGrad, TokenStats};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A loss of one micro-batch: its index in the step, its statistics.
type Each<'l, T> = &'l dyn Fn(usize, &TokenStats<T>) -> Result<TokenGrad<T>>;
/// A loss of all micro-batches.
type Whole<'l, T> = Box<dyn FnOnce(&[TokenStats<T>]) -> Result<Vec<TokenGrad<T>>> + 'l>;
/// Gradients and statistics of a step.
type Walked<T> = (Vec<Vec<T>>, Vec<TokenStats<T>>);

/// What makes gradients of statistics.
pub(super) enum Loss<'l, T> {
    /// All statistics of the step at once.
    Whole(Whole<'l, T>),
    /// One micro-batch at a time.
    Each(Each<'l, T>),
}

/// See the module.
pub(super) struct Walk<'w, 'g, T> {
    grid: &'w Grid<'g>,
    division: Arc<Division>,
    model: &'w Model<T>,
    blocks: Vec<Box<dyn Block<T>>>,
    /// Index in the step and context of each slot's micro-batch.
    slots: Vec<Option<(usize, Ctx<'w, T>)>>,
    saved: HashMap<(usize, usize), Vec<Saved<T>>>,
    stats: HashMap<usize, TokenStats<T>>,
    grads: HashMap<usize, TokenGrad<T>>,
    sums: Sums<'w, 'g, T>,
    /// The head's share of the tied embedding's gradient, by slot.
    tied: HashMap<usize, Vec<T>>,
    mail: Mail<'g>,
}

impl<'w, 'g, T: Scalar> Walk<'w, 'g, T> {
    /// Gradients in canonical order, empty where this rank has none, and statistics in the order of `micro`.
    pub(super) fn run(
        grid: &'w Grid<'g>,
        trainer: &'w Trainer<T>,
        micro: &'w [Batch],
        loss: Loss<T>,
    ) -> Result<Walked<T>> {
        if micro.is_empty() {
            return Err(Error::Loss("a step without micro-batches".into()));
        }
        let mut walk = Self::new(grid, trainer, micro)?;
        let (stages, chunks, stage) = (grid.mesh.pp, grid.options.chunks, grid.at.pp);
        let order = if matches!(loss, Loss::Whole(_)) { Order::ForwardFirst } else { Order::OneForwardOneBackward };
        let steps = schedule::steps(order, stages, chunks, walk.slots.len(), stage);
        let (ahead, rest) = match order {
            Order::ForwardFirst => steps.split_at(steps.len() / 2),
            Order::OneForwardOneBackward => (&[][..], &steps[..]),
        };
        ahead.iter().try_for_each(|step| walk.forward(step))?;
        let stats = match loss {
            Loss::Whole(loss) => {
                let stats = walk.all_stats(micro)?;
                walk.take_grads(loss(&stats)?, micro.len())?;
                rest.iter().try_for_each(|step| walk.backward(step))?;
                stats
            }
            Loss::Each(loss) => {
                for step in rest {
                    if !step.forward {
                        walk.backward(step)?;
                        continue;
                    }
                    walk.forward(step)?;
                    if let (Some(stats), Some((at, _))) = (walk.stats.get(&step.micro), &walk.slots[step.micro]) {
                        walk.grads.entry(step.micro).or_insert(loss(*at, stats)?);
                    }
                }
                walk.all_stats(micro)?
            }
        };
        Ok((walk.sums.finish()?, stats))
    }

    fn new(grid: &'w Grid<'g>, trainer: &'w Trainer<T>, micro: &'w [Batch]) -> Result<Self> {
        let division = Arc::new(grid.division(trainer.model.config())?);
        let before: Vec<u64> =
            micro.iter().scan(0, |sum, batch| Some(std::mem::replace(sum, *sum + batch.b as u64))).collect();
        let peers = Peers { group: &*grid.tp, deadline: grid.options.deadline };
        let peers = (grid.mesh.tp > 1).then_some(peers);
        let context = |at: usize| -> Result<(usize, Ctx<'w, T>)> {
            let noise = Some(Noise { key: trainer.dropout.fold(trainer.step), first_sample: before[at] });
            let ctx = Ctx::new(&trainer.model, &micro[at])?;
            Ok((at, Ctx { recompute: trainer.recompute, noise, peers, ..ctx }))
        };
        let slots = division.slots(grid.at.dp, micro.len()).into_iter();
        let slots = slots.map(|slot| slot.map(context).transpose()).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            grid,
            model: &trainer.model,
            blocks: tape::blocks(&trainer.model),
            slots,
            saved: HashMap::new(),
            stats: HashMap::new(),
            grads: HashMap::new(),
            sums: Sums::new(grid, division.clone(), micro.len()),
            tied: HashMap::new(),
            mail: Mail::new(grid.world, grid.options.deadline),
            division,
        })
    }

    /// The place of a chunk of this stage among all.
    fn place(&self, chunk: usize) -> usize {
        chunk * self.grid.mesh.pp + self.grid.at.pp
    }

    fn last_place(&self) -> usize {
        self.grid.mesh.pp * self.grid.options.chunks - 1
    }

    /// World rank of a place in this replica.
    fn rank_of(&self, place: usize) -> usize {
        let pp = place % self.grid.mesh.pp;
        self.grid.mesh.rank(Coordinate { pp, ..self.grid.at })
    }

    /// The model with the weights that block `block` reads: gathered with ZeRO-3, else the one that is here.
    fn weights(&self, block: usize) -> Result<Option<Model<T>>> {
        if self.division.zero < 3 {
            return Ok(None);
        }
        let (grid, read) = (self.grid, self.division.read_by(block));
        let mine = read.iter().filter(|&&at| self.division.owns(grid.at, at)).map(|&at| &self.model.tensors()[at]);
        let lists = grid.dp.all_gather(Buffer::of(numbers::<T>(mine)?)).wait(grid.options.deadline)?;
        let mut tensors = Vec::new();
        for (share, list) in self.division.shares(grid.at.pp).iter().zip(lists) {
            let (list, mut start) = (list.into_numbers::<T>()?, 0);
            for &at in read.iter().filter(|at| share.contains(at)) {
                let dims = self.division.dims(at, grid.at.tp);
                let n: usize = dims.iter().product();
                tensors.push((at, Tensor::from_slice(&list[start..start + n], dims, &Device::Cpu)?));
                start += n;
            }
        }
        Ok(Some(self.model.filled(tensors)))
    }

    fn forward(&mut self, step: &Step) -> Result<()> {
        let place = self.place(step.chunk);
        let range = self.division.blocks(self.grid.at.pp, step.chunk);
        if self.slots[step.micro].is_none() {
            return range.map(|block| self.weights(block)).try_for_each(|weights| weights.map(|_| ()));
        }
        let mut carry = match place {
            0 => Carry::Start,
            _ => {
                let data = self.mail.receive(self.rank_of(place - 1), (Kind::Stream, place, step.micro))?;
                Carry::Hidden(self.stream(data, step.micro)?)
            }
        };
        let mut saved = Vec::new();
        for block in range {
            let gathered = self.weights(block)?;
            let (_, base) = self.slots[step.micro].as_ref().expect("seen above");
            let ctx = base.with(gathered.as_ref().unwrap_or(self.model));
            let again = ctx.recompute && self.blocks[block].worth_recomputing();
            let input = again.then(|| Saved::Input(carry.clone()));
            let (next, kept) = self.blocks[block].forward(&ctx, carry)?;
            saved.push(input.unwrap_or(Saved::Kept(kept)));
            carry = next;
        }
        self.saved.insert((step.chunk, step.micro), saved);
        match carry {
            Carry::Stats(stats) => {
                self.stats.insert(step.micro, stats);
                Ok(())
            }
            carry => {
                let name = (Kind::Stream, place + 1, step.micro);
                self.mail.send(self.rank_of(place + 1), name, numbers::<T>([&carry.hidden()])?)
            }
        }
    }

    /// The hidden stream, or its slope, in the shape that blocks expect.
    fn stream(&self, data: Vec<T>, slot: usize) -> Result<Tensor> {
        let (c, batch) =
            (self.model.config().n_embd, self.slots[slot].as_ref().expect("only of micro-batches").1.batch);
        match self.grid.mesh.tp {
            1 => Ok(Tensor::from_vec(data, (batch.b, batch.t, c), &Device::Cpu)?),
            _ => {
                let rows = data.len() / c;
                Ok(Tensor::from_vec(data, (rows, c), &Device::Cpu)?)
            }
        }
    }

    fn backward(&mut self, step: &Step) -> Result<()> {
        let (place, last) = (self.place(step.chunk), self.last_place());
        let range = self.division.blocks(self.grid.at.pp, step.chunk);
        if self.slots[step.micro].is_none() {
            for block in range.rev() {
                self.weights(block)?;
                self.sums.push(block, step.micro, None);
            }
            return Ok(());
        }
        let mut slope = if place == last {
            let grad =
                self.grads.remove(&step.micro).ok_or_else(|| Error::Loss("no gradient of a micro-batch".into()))?;
            Slope::Stats(grad)
        } else {
            let data = self.mail.receive(self.rank_of(place + 1), (Kind::Slope, place, step.micro))?;
            Slope::Hidden(self.stream(data, step.micro)?)
        };
        let mut saved = self.saved.remove(&(step.chunk, step.micro)).expect("forward comes first in any schedule");
        for block in range.rev() {
            let mut gradients = self.zeros(block);
            if block == 0 && self.model.config().tied {
                gradients.0[0] = self.head_share(step.micro)?;
            }
            let gathered = self.weights(block)?;
            let (_, base) = self.slots[step.micro].as_ref().expect("seen above");
            let ctx = base.with(gathered.as_ref().unwrap_or(self.model));
            let kept = match saved.pop().expect("forward saves one entry per block") {
                Saved::Kept(kept) => kept,
                Saved::Input(carry) => self.blocks[block].forward(&ctx, carry)?.1,
            };
            slope = self.blocks[block].backward(&ctx, kept, slope, &mut gradients)?;
            self.add(block, step.micro, gradients)?;
        }
        match slope {
            Slope::Hidden(slope) => {
                let name = (Kind::Slope, place - 1, step.micro);
                self.mail.send(self.rank_of(place - 1), name, numbers::<T>([&slope])?)
            }
            _ => Ok(()),
        }
    }

    /// Room for the gradients of one block; the others are empty.
    fn zeros(&self, block: usize) -> Gradients<T> {
        let mut gradients = Gradients(vec![Vec::new(); self.division.len()]);
        for at in self.division.read_by(block) {
            let n: usize = self.division.dims(at, self.grid.at.tp).iter().product();
            gradients.0[at] = vec![T::ZERO; n];
        }
        gradients
    }

    /// What the head has added to the gradient of the tied embedding for the micro-batch of `slot`.
    fn head_share(&mut self, slot: usize) -> Result<Vec<T>> {
        match self.tied.remove(&slot) {
            Some(share) => Ok(share),
            None => self.mail.receive(self.rank_of(self.last_place()), (Kind::Tied, 0, slot)),
        }
    }

    fn add(&mut self, block: usize, slot: usize, mut gradients: Gradients<T>) -> Result<()> {
        if self.division.is_tied(block) {
            let share = std::mem::take(&mut gradients.0[0]);
            match self.grid.mesh.pp {
                1 => drop(self.tied.insert(slot, share)),
                _ => self.mail.send(self.rank_of(0), (Kind::Tied, 0, slot), share)?,
            }
        }
        let leaf = gradients.0[self.division.own_of(block)].iter_mut().map(std::mem::take).collect();
        self.sums.push(block, slot, Some(leaf));
        Ok(())
    }

    /// Statistics of all micro-batches, on every rank.
    fn all_stats(&self, micro: &[Batch]) -> Result<Vec<TokenStats<T>>> {
        let grid = self.grid;
        let mut mine: Vec<T> = Vec::new();
        if grid.at.tp == 0 {
            let mut slots: Vec<_> = self.stats.iter().collect();
            slots.sort_unstable_by_key(|(slot, _)| **slot);
            for (_, stats) in slots {
                [&stats.logprob, &stats.entropy, &stats.logsumexp].into_iter().for_each(|column| mine.extend(column));
            }
        }
        let lists = grid.world.all_gather(Buffer::of(mine)).wait(grid.options.deadline)?;
        let mut all: Vec<Option<TokenStats<T>>> = micro.iter().map(|_| None).collect();
        for (rank, list) in lists.into_iter().enumerate() {
            let (at, mut list) = (grid.mesh.coordinate(rank), list.into_numbers::<T>()?.into_iter());
            if at.tp > 0 || at.pp + 1 < grid.mesh.pp {
                continue;
            }
            for i in self.division.slots(at.dp, micro.len()).into_iter().flatten() {
                let mut column = || list.by_ref().take(micro[i].len()).collect::<Vec<T>>();
                let stats = TokenStats { logprob: column(), entropy: column(), logsumexp: column() };
                if stats.logsumexp.len() != micro[i].len() {
                    let what = format!("rank {rank} sent too few statistics of micro-batch {i}: it sees other batches");
                    return Err(Error::Loss(what));
                }
                all[i] = Some(stats);
            }
        }
        Ok(all.into_iter().map(|stats| stats.expect("each micro-batch has one slot")).collect())
    }

    fn take_grads(&mut self, grads: Vec<TokenGrad<T>>, micro: usize) -> Result<()> {
        if grads.len() != micro {
            return Err(Error::Loss(format!("gradients of {} micro-batches, expected {micro}", grads.len())));
        }
        let mut grads: Vec<Option<TokenGrad<T>>> = grads.into_iter().map(Some).collect();
        for (slot, entry) in self.slots.iter().enumerate() {
            if let Some((at, ctx)) = entry {
                let grad = grads[*at].take().expect("each micro-batch has one slot");
                tape::check_grad(ctx, &grad)?;
                self.grads.insert(slot, grad);
            }
        }
        Ok(())
    }
}
