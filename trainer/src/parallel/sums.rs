//! Sums of a rank's gradients over micro-batches and data-parallel ranks, block by block.
//!
//! In: the gradient of one block of one micro-batch at a time, in the order of slots. Out: the sum over all micro-batches of the step, of the
//! parameters that this rank keeps state of. ZeRO-0 and -1 add up a rank's micro-batches and reduce once; from ZeRO-2 on a block's
//! gradient leaves at the end of each round, as soon as backward has made it, and what comes back is added round by round.

use super::Buffer;
use super::collective::Pending;
use super::division::Division;
use super::grid::Grid;
use crate::Result;
use crate::ops::Scalar;
use crate::ops::tree_sum::TreeSum;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The gradients of one block.
struct Sum<T> {
    /// Of this rank's micro-batches, or of those of a round.
    inner: TreeSum<T>,
    /// Of the rounds under way.
    rounds: Vec<Pending<Buffer>>,
}

impl<T> Default for Sum<T> {
    fn default() -> Self {
        Self { inner: TreeSum::default(), rounds: Vec::new() }
    }
}

/// See the module.
pub(super) struct Sums<'w, 'g, T> {
    grid: &'w Grid<'g>,
    division: Arc<Division>,
    blocks: HashMap<usize, Sum<T>>,
    /// Micro-batches of this rank in a round.
    run: usize,
}

impl<'w, 'g, T: Scalar> Sums<'w, 'g, T> {
    /// Of a step of `micro` micro-batches.
    pub fn new(grid: &'w Grid<'g>, division: Arc<Division>, micro: usize) -> Self {
        Self { grid, run: division.run(micro), division, blocks: HashMap::new() }
    }

    /// The gradient of one block's own parameters; None if the slot has no micro-batch.
    pub fn push(&mut self, block: usize, slot: usize, leaf: Option<Vec<Vec<T>>>) {
        let sum = self.blocks.entry(block).or_default();
        leaf.into_iter().for_each(|leaf| sum.inner.push(leaf));
        if self.division.zero < 2 || !(slot + 1).is_multiple_of(self.run) {
            return;
        }
        let inner = std::mem::take(&mut sum.inner);
        let own = self.division.own_of(block);
        let lens = self.lens(own.clone());
        let sum = inner.finish().map_or_else(|| vec![T::of(-0.0); lens.iter().sum()], |leaf| leaf.concat());
        let of =
            |share: &Range<usize>| own.clone().zip(&lens).filter(|(at, _)| share.contains(at)).map(|(_, n)| n).sum();
        let counts: Vec<usize> = self.division.shares(self.grid.at.pp).iter().map(of).collect();
        let pending = self.grid.dp.reduce_scatter(Buffer::of(sum), &counts);
        self.blocks.entry(block).or_default().rounds.push(pending);
    }

    /// Numbers of each parameter here.
    fn lens(&self, at: Range<usize>) -> Vec<usize> {
        at.map(|at| self.division.dims(at, self.grid.at.tp).iter().product()).collect()
    }

    /// In canonical order, empty where this rank has none.
    pub fn finish(mut self) -> Result<Vec<Vec<T>>> {
        let mut all = vec![Vec::new(); self.division.len()];
        let chunks = 0..self.grid.options.chunks;
        let blocks: Vec<usize> = chunks.flat_map(|chunk| self.division.blocks(self.grid.at.pp, chunk)).collect();
        for block in blocks {
            let own = self.division.own_of(block);
            let Sum { inner, rounds } = self.blocks.remove(&block).unwrap_or_default();
            if self.division.zero < 2 {
                // A sum of no leaves: adding it changes no bit, not even the sign of a zero.
                let nothing = || self.lens(own.clone()).into_iter().map(|n| vec![T::of(-0.0); n]).collect();
                let sum: Vec<Vec<T>> = inner.finish().unwrap_or_else(nothing);
                all[own].clone_from_slice(&sum);
                continue;
            }
            let mut sum = TreeSum::default();
            for round in rounds {
                sum.push(vec![round.wait(self.grid.options.deadline)?.into_numbers::<T>()?]);
            }
            let mine = sum.finish().expect("a step has a round because it has a micro-batch").concat();
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
