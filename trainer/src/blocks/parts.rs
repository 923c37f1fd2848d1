//! What the two halves of a layer share: their weights, how a half ends, and how rows are dealt to tasks.
//!
//! In: a model, a layer's number and, in training, the randomness of dropout. Out: weights by [`Part`], and an [`Exit`]: the
//! matrix back into the hidden stream with what may stand between it and the sum (bias, dropout, a norm of what is added,
//! a norm of the sum).

use super::add_to;
use crate::family::Placement;
use crate::layout::Part;
use crate::ops::attention::Heads;
use crate::ops::dropout::{Dropout, Noise, Place};
use crate::ops::linear::{Packed, linear_rows};
use crate::ops::norm::Norm;
use crate::ops::{Scalar, View, bias};
use crate::tape::{Ctx, Gradients};
use crate::{Family, Model};
use std::ops::Range;

/// One layer of a model, for any number of rows.
pub(crate) struct Parts<'a, T = f32> {
    pub model: &'a Model<T>,
    pub l: usize,
    pub heads: Heads,
    noise: Option<Noise>,
    rows: (usize, usize), // b, t
    /// The norm before attention is done elsewhere.
    normed: bool,
}

impl<'a, T: Scalar> Parts<'a, T> {
    /// Layer `l` without dropout.
    pub fn new(model: &'a Model<T>, l: usize) -> Self {
        Self { model, l, heads: model.local().heads(l), noise: None, rows: (0, 0), normed: false }
    }

    /// Layer `l` in a micro-batch.
    pub fn in_batch(ctx: &Ctx<'a, T>, l: usize) -> Self {
        Self { noise: ctx.noise, rows: (ctx.batch.b, ctx.batch.t), ..Self::new(ctx.model, l) }
    }

    /// Layer `l` of matrices shared with peers, whose input comes normed.
    pub fn shared(ctx: &Ctx<'a, T>, l: usize) -> Self {
        Self { normed: true, ..Self::in_batch(ctx, l) }
    }

    /// The norm before attention, unless it is done elsewhere.
    pub fn entry_norm(&self) -> Option<NormWeights<'a, T>> {
        self.norm(Part::InputNorm, Part::InputNormBias).filter(|_| !self.normed)
    }

    pub fn family(&self) -> &'a Family {
        &self.model.config().family
    }

    /// Width of the hidden stream.
    pub fn c(&self) -> usize {
        self.model.config().n_embd
    }

    pub fn at(&self, part: Part) -> Option<usize> {
        self.model.part_at(self.l, part)
    }

    fn need(&self, part: Part) -> usize {
        self.at(part).expect("callers ask for matrices that the family has")
    }

    /// For `y = x W^T`.
    pub fn packed(&self, part: Part) -> &'a Packed<T> {
        self.model.packed(self.need(part))
    }

    /// For `dx = dy W`.
    pub fn packed_backward(&self, part: Part) -> &'a Packed<T> {
        self.model.packed_backward(self.need(part))
    }

    /// A gain or a bias, if the family has it.
    pub fn vector(&self, part: Part) -> Option<View<'a, T>> {
        self.at(part).map(|at| self.model.slice(at))
    }

    /// A norm, if the family has it here.
    pub fn norm(&self, gain: Part, bias: Part) -> Option<NormWeights<'a, T>> {
        let (gain, bias) = (self.vector(gain)?, self.vector(bias));
        Some(NormWeights { gain, bias, eps: self.model.config().norm_eps })
    }

    fn dropout(&self, place: Place) -> Option<Dropout> {
        Dropout::new(self.family().dropout, self.noise, place, self.rows.0, self.rows.1, self.c())
    }

    /// The end of attention.
    pub fn attention_exit(&self) -> Exit<'a, T> {
        Exit {
            matrix: self.packed(Part::Output),
            bias: self.vector(Part::OutputBias),
            norm: self.norm(Part::AttentionNorm, Part::AttentionNormBias),
            of_sum: self.family().placement == Placement::Post,
            dropout: self.dropout(Place::Attention(self.l)),
            names: [Part::OutputBias, Part::AttentionNorm, Part::AttentionNormBias],
        }
    }

    /// The end of the feed-forward.
    pub fn mlp_exit(&self) -> Exit<'a, T> {
        Exit {
            matrix: self.packed(Part::Down),
            bias: self.vector(Part::DownBias),
            norm: self.norm(Part::FinishNorm, Part::FinishNormBias),
            of_sum: self.family().placement == Placement::Post,
            dropout: self.dropout(Place::Mlp(self.l)),
            names: [Part::DownBias, Part::FinishNorm, Part::FinishNormBias],
        }
    }
}

/// Gain and bias of one norm.
pub(crate) struct NormWeights<'a, T> {
    pub gain: View<'a, T>,
    pub bias: Option<View<'a, T>>,
    pub eps: f64,
}

impl<T: Scalar> NormWeights<'_, T> {
    pub fn norm(&self) -> Norm<'_, T> {
        Norm { gain: &self.gain, bias: self.bias.as_deref(), eps: self.eps }
    }
}

/// Gradients of gains and biases that one task has summed over its rows.
pub(crate) struct Small<T>(Vec<(Part, Vec<T>)>);

impl<T> Default for Small<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Scalar> Small<T> {
    pub fn push(&mut self, part: Part, grad: Vec<T>) {
        self.0.push((part, grad));
    }

    pub fn push_norm(&mut self, gain: Part, bias: Part, (d_gain, d_bias): (Vec<T>, Option<Vec<T>>)) {
        self.push(gain, d_gain);
        if let Some(d_bias) = d_bias {
            self.push(bias, d_bias);
        }
    }

    /// The gradient of a bias from the slopes `dy` of its map, if the family has it.
    pub fn push_bias(&mut self, part: Part, bias: Option<&[T]>, dy: &[T]) {
        if let Some(bias) = bias {
            let mut db = vec![T::ZERO; bias.len()];
            bias::backward(dy, &mut db);
            self.push(part, db);
        }
    }

    /// Adds the tasks' sums, in order.
    pub fn add_all(tasks: &[Self], parts: &Parts<T>, gradients: &mut Gradients<T>) {
        let Some(first) = tasks.first() else { return };
        for (i, (part, grad)) in first.0.iter().enumerate() {
            let mut total = vec![T::ZERO; grad.len()];
            tasks.iter().for_each(|task| add_to(&mut total, &task.0[i].1));
            add_to(&mut gradients.0[parts.need(*part)], &total);
        }
    }
}

/// How a half of a layer returns to the hidden stream.
pub(crate) struct Exit<'a, T> {
    matrix: &'a Packed<T>,
    bias: Option<View<'a, T>>,
    norm: Option<NormWeights<'a, T>>,
    of_sum: bool,
    dropout: Option<Dropout>,
    names: [Part; 3],
}

impl<T: Scalar> Exit<'_, T> {
    /// True if nothing stands between the matrix (with its bias) and the sum.
    pub fn plain(&self) -> bool {
        self.norm.is_none() && self.dropout.is_none()
    }

    /// Numbers per row that backward needs: the norm's input and its statistics.
    pub fn kept(&self, c: usize) -> (usize, usize) {
        self.norm.as_ref().map_or((0, 0), |norm| (c, norm.norm().kept()))
    }

    /// The next hidden stream `y` from the stream `x` and what the half has computed; rows `first..` of the batch.
    pub fn forward(&self, x: &[T], inner: &[T], y: &mut [T], z: &mut [T], stats: &mut [T], first: usize) {
        if self.plain() {
            y.copy_from_slice(x);
            linear_rows(inner, self.matrix, y, true);
            return self.add_bias(y);
        }
        linear_rows(inner, self.matrix, if self.norm.is_some() { z } else { y }, false);
        self.close(x, y, z, stats, first);
    }

    /// [`Exit::forward`] of the matrix's product `added`, which may have come from peers.
    pub fn after(&self, x: &[T], added: &[T], y: &mut [T], z: &mut [T], stats: &mut [T], first: usize) {
        if self.plain() {
            y.copy_from_slice(added);
            self.add_bias(y);
            return add_to(y, x);
        }
        if self.norm.is_some() { &mut *z } else { &mut *y }.copy_from_slice(added);
        self.close(x, y, z, stats, first);
    }

    /// Bias, dropout, norm and sum, from the matrix's product in `z` if there is a norm, else in `y`.
    fn close(&self, x: &[T], y: &mut [T], z: &mut [T], stats: &mut [T], first: usize) {
        self.add_bias(if self.norm.is_some() { z } else { y });
        match &self.norm {
            Some(norm) if self.of_sum => {
                self.drop(z, first);
                add_to(z, x);
                norm.norm().forward(z, y, stats);
            }
            Some(norm) => {
                norm.norm().forward(z, y, stats);
                self.drop(y, first);
                add_to(y, x);
            }
            None => {
                self.drop(y, first);
                add_to(y, x);
            }
        }
    }

    /// From `dy` to the slopes `dz` of the matrix's output and `dx` of the stream, both overwritten; `dz` is not touched if
    /// the exit is plain (it is `dy`).
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        dy: &[T],
        z: &[T],
        stats: &[T],
        dz: &mut [T],
        dx: &mut [T],
        first: usize,
        small: &mut Small<T>,
    ) {
        let [bias, gain, shift] = self.names;
        dx.copy_from_slice(dy);
        match &self.norm {
            Some(norm) if self.of_sum => {
                dx.fill(T::ZERO);
                small.push_norm(gain, shift, norm.norm().backward(z, stats, dy, dx));
                dz.copy_from_slice(dx);
                self.drop(dz, first);
            }
            Some(norm) => {
                let mut kept = dy.to_vec();
                self.drop(&mut kept, first);
                dz.fill(T::ZERO);
                small.push_norm(gain, shift, norm.norm().backward(z, stats, &kept, dz));
            }
            None if self.dropout.is_some() => {
                dz.copy_from_slice(dy);
                self.drop(dz, first);
            }
            None => {}
        }
        small.push_bias(bias, self.bias.as_deref(), if self.plain() { dy } else { dz });
    }

    fn add_bias(&self, y: &mut [T]) {
        if let Some(b) = &self.bias {
            bias::forward(b, y);
        }
    }

    fn drop(&self, x: &mut [T], first: usize) {
        if let Some(dropout) = &self.dropout {
            dropout.apply(x, first);
        }
    }
}

/// `0..rows` in ranges of `n`.
pub(crate) fn ranges(rows: usize, n: usize) -> impl Iterator<Item = Range<usize>> {
    (0..rows).step_by(n).map(move |start| start..(start + n).min(rows))
}

/// Rows `range` of `[rows, width]`.
pub(crate) fn rows_of<'a, T>(data: &'a [T], range: &Range<usize>, width: usize) -> &'a [T] {
    &data[range.start * width..range.end * width]
}

/// A buffer `[rows, width]` dealt out from the front; a width of 0 deals empty slices.
pub(crate) struct Deal<'a, T> {
    rest: &'a mut [T],
    width: usize,
}

impl<'a, T> Deal<'a, T> {
    pub fn new(data: &'a mut [T], width: usize) -> Self {
        Self { rest: data, width }
    }

    pub fn next(&mut self, rows: usize) -> &'a mut [T] {
        let (head, tail) = std::mem::take(&mut self.rest).split_at_mut(rows * self.width);
        self.rest = tail;
        head
    }
}
