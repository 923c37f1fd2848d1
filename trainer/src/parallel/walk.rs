//! One step of a rank of a mesh: its blocks over its micro-batches in the pipeline's order, and the sums of its gradients.
//!
//! In: this rank's part of a trainer, the micro-batches of the step, a loss. Out: the gradient of each parameter that this rank keeps
//! state of, summed over all micro-batches, and the statistics of all tokens. Between stages travel the hidden stream and its
//! slope, each message named, so that their order on the wire does not matter. The head's share of a tied embedding's gradient goes to
//! the embedding's stage with each micro-batch, where one process adds it too: first the head's, then the rows of the ids.

use super::Buffer;
use super::collective::Pending;
use super::division::{Division, numbers};
use super::grid::Grid;
use super::mesh::Coordinate;
use super::schedule::{self, Order, Step};
use crate::blocks::Peers;
use crate::ops::Scalar;
use crate::ops::dropout::Noise;
use crate::ops::tree_sum::TreeSum;
use crate::tape::{self, Block, Carry, Ctx, Gradients, Saved, Slope};
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, Result, TokenGrad, TokenStats};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::ops::Range;

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

/// Name of a message: kind, place that it goes to, slot.
type Tag = (u8, usize, usize);
const FORWARD: u8 = 0;
const BACKWARD: u8 = 1;
const TIED: u8 = 2;

/// The gradients of one block, summed.
struct Sum<T> {
    /// Of this rank's micro-batches (of a round).
    inner: TreeSum<T>,
    /// Of the rounds under way.
    rounds: Vec<Pending<Buffer>>,
}

/// See the module.
pub(super) struct Walk<'w, 'g, T> {
    grid: &'w Grid<'g>,
    division: Division,
    model: &'w Model<T>,
    blocks: Vec<Box<dyn Block<T>>>,
    /// Index in the step and context of each slot's micro-batch.
    slots: Vec<Option<(usize, Ctx<'w, T>)>>,
    saved: HashMap<(usize, usize), Vec<Saved<T>>>,
    stats: HashMap<usize, TokenStats<T>>,
    grads: HashMap<usize, TokenGrad<T>>,
    sums: HashMap<usize, Sum<T>>,
    /// The head's share of the tied embedding's gradient, by slot.
    tied: HashMap<usize, Vec<T>>,
    early: HashMap<(usize, Tag), Buffer>,
    per_round: usize,
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
        Ok((walk.finish()?, stats))
    }

    fn new(grid: &'w Grid<'g>, trainer: &'w Trainer<T>, micro: &'w [Batch]) -> Result<Self> {
        let division = grid.division(trainer.model.config())?;
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
            sums: HashMap::new(),
            tied: HashMap::new(),
            early: HashMap::new(),
            per_round: division.run(micro.len()),
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

    fn send(&self, tag: Tag, data: Vec<T>) -> Result<()> {
        let (to, world, deadline) = (self.rank_of(tag.1), self.grid.world, self.grid.options.deadline);
        let name = [usize::from(tag.0), tag.1, tag.2].iter().flat_map(|x| (*x as u64).to_le_bytes()).collect();
        world.send(Buffer::Bytes(name), to).wait(deadline)?;
        world.send(Buffer::of(data), to).wait(deadline)
    }

    fn receive(&mut self, tag: Tag, from_place: usize) -> Result<Vec<T>> {
        let (from, world, deadline) = (self.rank_of(from_place), self.grid.world, self.grid.options.deadline);
        loop {
            if let Some(data) = self.early.remove(&(from, tag)) {
                return data.into_numbers();
            }
            let name = world.recv(from).wait(deadline)?.into_bytes()?;
            let words: Vec<usize> =
                name.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word) as usize).collect();
            let &[kind, place, slot] = words.as_slice() else {
                return Err(Error::Format(format!("rank {from} sent a message with a name of {} bytes", name.len())));
            };
            let data = world.recv(from).wait(deadline)?;
            self.early.insert((from, (kind as u8, place, slot)), data);
        }
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
                let data = self.receive((FORWARD, place, step.micro), place - 1)?;
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
            carry => self.send((FORWARD, place + 1, step.micro), numbers([&carry.hidden()])?),
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
                self.end_of_round(block, step.micro)?;
            }
            return Ok(());
        }
        let mut slope = if place == last {
            let grad =
                self.grads.remove(&step.micro).ok_or_else(|| Error::Loss("no gradient of a micro-batch".into()))?;
            Slope::Stats(grad)
        } else {
            let data = self.receive((BACKWARD, place, step.micro), place + 1)?;
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
            Slope::Hidden(slope) => self.send((BACKWARD, place - 1, step.micro), numbers([&slope])?),
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
            None => self.receive((TIED, 0, slot), self.last_place()),
        }
    }

    fn add(&mut self, block: usize, slot: usize, mut gradients: Gradients<T>) -> Result<()> {
        if self.division.is_tied(block) {
            let share = std::mem::take(&mut gradients.0[0]);
            match self.grid.mesh.pp {
                1 => drop(self.tied.insert(slot, share)),
                _ => self.send((TIED, 0, slot), share)?,
            }
        }
        let leaf = gradients.0[self.division.own_of(block)].iter_mut().map(std::mem::take).collect();
        self.sum(block).inner.push(leaf);
        self.end_of_round(block, slot)
    }

    fn sum(&mut self, block: usize) -> &mut Sum<T> {
        self.sums.entry(block).or_insert_with(|| Sum { inner: TreeSum::default(), rounds: Vec::new() })
    }

    /// With ZeRO-2 and -3: the block's gradient of a round leaves for the ranks that own its parameters.
    fn end_of_round(&mut self, block: usize, slot: usize) -> Result<()> {
        if self.division.zero < 2 || !(slot + 1).is_multiple_of(self.per_round) {
            return Ok(());
        }
        let own = self.division.own_of(block);
        let lens = self.lens(own.clone());
        let inner = std::mem::take(&mut self.sum(block).inner);
        let leaf = inner.finish().map_or_else(|| vec![T::of(-0.0); lens.iter().sum()], |leaf| leaf.concat());
        let of =
            |share: &Range<usize>| own.clone().zip(&lens).filter(|(at, _)| share.contains(at)).map(|(_, n)| n).sum();
        let counts: Vec<usize> = self.division.shares(self.grid.at.pp).iter().map(of).collect();
        let pending = self.grid.dp.reduce_scatter(Buffer::of(leaf), &counts);
        self.sum(block).rounds.push(pending);
        Ok(())
    }

    /// Numbers of parameters here.
    fn lens(&self, at: Range<usize>) -> Vec<usize> {
        at.map(|at| self.division.dims(at, self.grid.at.tp).iter().product()).collect()
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

    /// The sums of all blocks here over data-parallel ranks.
    fn finish(mut self) -> Result<Vec<Vec<T>>> {
        let mut all = vec![Vec::new(); self.division.len()];
        let blocks: Vec<usize> =
            (0..self.grid.options.chunks).flat_map(|chunk| self.division.blocks(self.grid.at.pp, chunk)).collect();
        for block in blocks {
            let own = self.division.own_of(block);
            let Sum { inner, rounds } =
                self.sums.remove(&block).unwrap_or(Sum { inner: TreeSum::default(), rounds: Vec::new() });
            if self.division.zero < 2 {
                let nothing = || self.lens(own.clone()).into_iter().map(|n| vec![T::of(-0.0); n]).collect();
                let sum: Vec<Vec<T>> = inner.finish().unwrap_or_else(nothing);
                all[own].clone_from_slice(&sum);
                continue;
            }
            let mut sum = TreeSum::default();
            for round in rounds {
                sum.push(vec![round.wait(self.grid.options.deadline)?.into_numbers::<T>()?]);
            }
            let mine = sum.finish().expect("at least one round").concat();
            self.deal(&mine, own.filter(|&at| self.division.owns(self.grid.at, at)), &mut all);
        }
        if self.division.zero < 2 && self.grid.mesh.dp > 1 {
            self.reduce(&mut all)?;
        }
        Ok(all)
    }

    /// Puts consecutive numbers into the places of parameters.
    fn deal(&self, numbers: &[T], at: impl Iterator<Item = usize>, all: &mut [Vec<T>]) {
        let mut start = 0;
        for at in at {
            let n: usize = self.division.dims(at, self.grid.at.tp).iter().product();
            all[at] = numbers[start..start + n].to_vec();
            start += n;
        }
    }

    /// The sum over data-parallel ranks at the end of a step (ZeRO-0 and -1).
    fn reduce(&self, all: &mut [Vec<T>]) -> Result<()> {
        let (grid, data) = (self.grid, Buffer::of(all.concat()));
        let here: Vec<usize> = (0..all.len()).filter(|&at| !all[at].is_empty()).collect();
        if self.division.zero == 0 {
            let sum = grid.dp.all_reduce(data).wait(grid.options.deadline)?.into_numbers::<T>()?;
            self.deal(&sum, here.into_iter(), all);
            return Ok(());
        }
        let shares = self.division.shares(grid.at.pp);
        let count = |share: &Range<usize>| all[share.clone()].iter().map(Vec::len).sum();
        let counts: Vec<usize> = shares.iter().map(count).collect();
        let sum = grid.dp.reduce_scatter(data, &counts).wait(grid.options.deadline)?.into_numbers::<T>()?;
        all.iter_mut().for_each(Vec::clear);
        self.deal(&sum, here.into_iter().filter(|at| shares[grid.at.dp].contains(at)), all);
        Ok(())
    }
}
