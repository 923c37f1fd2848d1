//! Data parallelism: which micro-batches a rank works on, and how statistics, gradients and weights come together.
//!
//! In: all micro-batches of a step on every rank (the loader is a pure function, so each rank can make them). A rank runs forward
//! and backward on an aligned run of them whose length is a power of two, so its sum is a subtree of the tree over all
//! micro-batches and any number of ranks gives the bits of one. The loss sees the statistics of all tokens, on every rank.
//! Out: the summed gradient, whole on every rank, or, with optimizer state spread over ranks (ZeRO-1, Rajbhandari et al.
//! 2020), the gradient of the parameters a rank owns. Parameters are owned whole, in canonical order.

use super::{Buffer, Collective};
use crate::checkpoint::{self, Tensors};
use crate::ops::{Scalar, view};
use crate::optim::{self, Slot};
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, Result, TokenStats};
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// The ranks that train one model together, and how long they wait for each other.
#[derive(Clone, Copy)]
pub struct Team<'a> {
    /// The ranks.
    pub group: &'a dyn Collective,
    /// Longest silence of a peer.
    pub deadline: Duration,
}

impl Team<'_> {
    /// This rank's micro-batches of `micro`: a run of a power of two; ranks at the end may have fewer, or none.
    pub fn run(&self, micro: usize) -> Range<usize> {
        let run = micro.div_ceil(self.group.size()).next_power_of_two();
        (self.group.rank() * run).min(micro)..((self.group.rank() + 1) * run).min(micro)
    }

    /// A sum of no leaves: adding it changes no bit, not even the sign of a zero.
    pub(crate) fn nothing<T: Scalar>(model: &Model<T>) -> Vec<Vec<T>> {
        model.tensors().iter().map(|t| vec![T::of(-0.0); t.elem_count()]).collect()
    }

    /// An error of this rank ends the others too, so that none waits for it.
    pub(crate) fn or_abort<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            self.group.abort(&error.to_string());
        }
        result
    }

    /// The gradient over all ranks, whole on each.
    pub(crate) fn sum<T: Scalar>(&self, gradients: Vec<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let lens: Vec<usize> = gradients.iter().map(Vec::len).collect();
        let sum = self.group.all_reduce(Buffer::of(gradients.concat())).wait(self.deadline)?;
        Ok(cut(&sum.into_numbers()?, lens))
    }

    /// The gradient over all ranks of the parameters that this one owns.
    pub(crate) fn own_sum<T: Scalar>(
        &self,
        gradients: Vec<Vec<T>>,
        model: &Model<T>,
        owned: &Range<usize>,
    ) -> Result<Vec<Vec<T>>> {
        let lens: Vec<usize> = gradients.iter().map(Vec::len).collect();
        let counts: Vec<usize> = shares(model, self.group.size()).into_iter().map(|r| lens[r].iter().sum()).collect();
        let sum = self.group.reduce_scatter(Buffer::of(gradients.concat()), &counts).wait(self.deadline)?;
        Ok(cut(&sum.into_numbers()?, lens[owned.clone()].iter().copied()))
    }

    /// The lists of all ranks, one after the other.
    pub(crate) fn joined(&self, list: Vec<f64>) -> Result<Vec<f64>> {
        let lists = self.group.all_gather(list.into()).wait(self.deadline)?;
        Buffer::joined(lists)?.into_f64()
    }

    /// Weights of all parameters from those that each rank owns.
    pub(crate) fn all_weights<T: Scalar>(&self, owned: &[Tensor], model: &Model<T>) -> Result<Vec<Tensor>> {
        let mut mine = Vec::new();
        for tensor in owned {
            mine.extend_from_slice(&view::<T>(tensor)?);
        }
        let all = Buffer::joined(self.group.all_gather(Buffer::of(mine)).wait(self.deadline)?)?.into_numbers::<T>()?;
        let lens = model.tensors().iter().map(Tensor::elem_count);
        let parts = cut(&all, lens).into_iter().zip(model.tensors());
        parts.map(|(data, like)| Ok(Tensor::from_vec(data, like.dims(), &Device::Cpu)?)).collect()
    }

    /// Statistics of all micro-batches from those of this rank's run.
    pub(crate) fn all_stats<T: Scalar>(&self, mine: &[TokenStats<T>], micro: &[Batch]) -> Result<Vec<TokenStats<T>>> {
        let columns = mine.iter().flat_map(|s| [&s.logprob, &s.entropy, &s.logsumexp]).flatten().copied();
        let all = self.group.all_gather(Buffer::of(columns.collect::<Vec<T>>())).wait(self.deadline)?;
        let all = Buffer::joined(all)?.into_numbers::<T>()?;
        let expected: usize = micro.iter().map(|batch| 3 * batch.len()).sum();
        if all.len() != expected {
            let what = format!("the ranks sent {} statistics, expected {expected}: they see other batches", all.len());
            return Err(Error::Loss(what));
        }
        let mut columns = cut(&all, micro.iter().flat_map(|batch| [batch.len(); 3])).into_iter();
        let mut next = || columns.next().expect("three columns per micro-batch because the cuts were made so");
        Ok(micro.iter().map(|_| TokenStats { logprob: next(), entropy: next(), logsumexp: next() }).collect())
    }

    /// The trainer with only this rank's share of the optimizer state (ZeRO-1); the state it had must be whole.
    pub fn spread<T: Scalar>(&self, mut trainer: Trainer<T>) -> Trainer<T> {
        let owned = shares(&trainer.model, self.group.size()).swap_remove(self.group.rank());
        for (i, slot) in trainer.state.iter_mut().enumerate() {
            if !owned.contains(&i) {
                *slot = Slot::Empty;
            }
        }
        trainer.owned = Some(owned);
        trainer
    }

    /// The trainer with all state, on every rank: for a checkpoint, which any number of ranks can load.
    pub fn whole(&self, trainer: &Trainer) -> Result<Trainer> {
        let Some(owned) = &trainer.owned else { return Ok(trainer.clone()) };
        let mine = checkpoint::slot_bytes(&trainer.model.names()[owned.clone()], &trainer.state[owned.clone()])?;
        let mut tensors = Tensors::new();
        for part in self.group.all_gather(mine.into()).wait(self.deadline)? {
            tensors.append(&mut checkpoint::tensors_of(Path::new("state of a peer"), &part.into_bytes()?)?);
        }
        let empty = optim::zeros(&trainer.rule, &trainer.model)?;
        let state = checkpoint::take_slots(&mut tensors, trainer.model.names(), &empty)?;
        Ok(Trainer { state, owned: None, ..trainer.clone() })
    }
}

/// `data` in pieces of these lengths.
fn cut<T: Copy>(data: &[T], lens: impl IntoIterator<Item = usize>) -> Vec<Vec<T>> {
    let mut start = 0;
    let piece = |len: usize| {
        start += len;
        data[start - len..start].to_vec()
    };
    lens.into_iter().map(piece).collect()
}

/// Parameters of each rank, as [`even_shares`] cuts them.
fn shares<T: Scalar>(model: &Model<T>, ranks: usize) -> Vec<Range<usize>> {
    even_shares(&model.tensors().iter().map(Tensor::elem_count).collect::<Vec<_>>(), ranks)
}

/// Parameters of each rank, in canonical order: parameter `i` belongs to the rank in whose equal part of all numbers its
/// middle lies. A parameter is never cut, so shares are as even as the largest parameter allows.
pub(super) fn even_shares(sizes: &[usize], ranks: usize) -> Vec<Range<usize>> {
    let total: usize = sizes.iter().sum();
    let (mut before, mut start) = (0, 0);
    let mut ends = vec![0; ranks];
    for (i, size) in sizes.iter().enumerate() {
        let middle = before + size / 2;
        ends[(middle * ranks / total.max(1)).min(ranks - 1)] = i + 1;
        before += size;
    }
    let share = |end: usize| {
        let end = end.max(start);
        std::mem::replace(&mut start, end)..end
    };
    ends.into_iter().map(share).collect()
}
