//! A layer whose matrices are shared by tensor-parallel ranks, and whose stream is shared along the tokens (sequence parallel).
//!
//! In: this rank's rows of the stream, `[rows / tp, c]` (rows of the micro-batch in one line, cut evenly). Out: the same rows one
//! layer further. Each rank holds whole heads of queries, keys and values and columns of gate and up (rows of their matrices),
//! and the matching columns of the two matrices back into the stream:
//!
//! ```text
//! norm own rows -> gather rows -> q k v, attention of own heads -> partial sums of all rows -> add over ranks, own rows
//!               -> norm -> gather -> gate, up of own columns    -> partial sums of all rows -> add over ranks, own rows
//! ```
//!
//! Backward is the transpose: gather where forward adds, add where forward gathers; normed rows are gathered again instead of
//! kept. Sums over ranks are the tree over the rank index. Gains, and biases of the stream, are whole on every rank and see own
//! rows only, norms of queries and keys own heads only: their gradients are partial, and `parallel` adds them over ranks.
//! Shoeybi et al. 2019 (Megatron-LM), section 3; Korthikanti et al. 2022, section 4.2.2.

use super::attention::{Entry, Slopes};
use super::layer::{keep, recall};
use super::mlp::Finished;
use super::parts::{NormWeights, Parts, Small};
use super::{ROWS, add_to, tensor};
use crate::Result;
use crate::family::Mlp;
use crate::layout::Part;
use crate::ops::linear::{Packed, WeightGrad, linear_rows, weight_grads};
use crate::ops::{Scalar, View, activation, attention, bias, view};
use crate::parallel::{Buffer, Collective};
use crate::tape::{Carry, Ctx, Gradients, Slope};
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;
use std::time::Duration;

/// The tensor-parallel ranks of a micro-batch.
#[derive(Clone, Copy)]
pub(crate) struct Peers<'a> {
    pub group: &'a dyn Collective,
    pub deadline: Duration,
}

impl Peers<'_> {
    /// The rows of rank `rank` among `n`.
    fn rows_of(&self, n: usize, rank: usize) -> Range<usize> {
        let cut = |i: usize| n / self.group.size() * i + (n % self.group.size()).min(i);
        cut(rank)..cut(rank + 1)
    }

    /// This rank's rows among `n`.
    pub fn own_rows(&self, n: usize) -> Range<usize> {
        self.rows_of(n, self.group.rank())
    }

    /// All rows from each rank's own.
    pub fn gather<T: Scalar>(&self, own: Vec<T>) -> Result<Vec<T>> {
        Buffer::joined(self.group.all_gather(Buffer::of(own)).wait(self.deadline)?)?.into_numbers()
    }

    /// Own rows of the sum of all ranks' `partial: [n, width]`.
    pub fn add<T: Scalar>(&self, partial: Vec<T>, width: usize) -> Result<Vec<T>> {
        let n = partial.len() / width;
        let counts: Vec<usize> = (0..self.group.size()).map(|rank| self.rows_of(n, rank).len() * width).collect();
        self.group.reduce_scatter(Buffer::of(partial), &counts).wait(self.deadline)?.into_numbers()
    }

    /// Every rank's list, in rank order.
    pub fn lists(&self, own: Vec<f64>) -> Result<Vec<Vec<f64>>> {
        let lists = self.group.all_gather(Buffer::of(own)).wait(self.deadline)?;
        lists.into_iter().map(Buffer::into_f64).collect()
    }
}

/// `y = x w` or `y += x w` on all threads; `x: [rows, k]`.
pub(super) fn multiply<T: Scalar>(x: &[T], w: &Packed<T>, y: &mut [T], add: bool) {
    let tasks = y.par_chunks_mut(ROWS * w.n()).zip(x.par_chunks(ROWS * w.k()));
    tasks.for_each(|(y, x)| linear_rows(x, w, y, add));
}

/// `x w`, a new buffer.
fn product<T: Scalar>(x: &[T], w: &Packed<T>) -> Vec<T> {
    let mut y = vec![T::ZERO; x.len() / w.k() * w.n()];
    multiply(x, w, &mut y, false);
    y
}

/// Normed rows and what backward needs; the rows themselves if there is no norm.
pub(super) fn normed<T: Scalar>(norm: Option<&NormWeights<T>>, x: &[T]) -> (Vec<T>, Vec<T>) {
    let Some(norm) = norm else { return (x.to_vec(), Vec::new()) };
    let (c, kept) = (norm.gain.len(), norm.norm().kept());
    let (mut y, mut stats) = (vec![T::ZERO; x.len()], vec![T::ZERO; x.len() / c * kept]);
    let rows = y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats.par_chunks_mut(ROWS * kept));
    rows.for_each(|((y, x), stats)| norm.norm().forward(x, y, stats));
    (y, stats)
}

/// Normed rows once more.
pub(super) fn normed_again<T: Scalar>(norm: Option<&NormWeights<T>>, x: &[T], stats: &[T]) -> Vec<T> {
    let mut y = x.to_vec();
    if let Some(norm) = norm {
        let (c, kept) = (norm.gain.len(), norm.norm().kept());
        let rows = y.par_chunks_mut(ROWS * c).zip(x.par_chunks(ROWS * c)).zip(stats.par_chunks(ROWS * kept));
        rows.for_each(|((y, x), stats)| norm.norm().again(x, stats, y));
    }
    y
}

/// Numbers per task of the feed-forward's inner function; not part of the result.
const CHUNK: usize = 1 << 14;

/// Pieces of a buffer, or as many empty ones if it is empty.
fn pieces<T>(data: &mut [T], count: usize) -> Vec<&mut [T]> {
    if data.is_empty() { (0..count).map(|_| &mut [][..]).collect() } else { data.chunks_mut(CHUNK).collect() }
}

/// The feed-forward's inner function.
fn activate<T: Scalar>(kind: Mlp, gate: &[T], up: &[T]) -> Vec<T> {
    let mut h = vec![T::ZERO; up.len()];
    h.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).enumerate().for_each(|(i, (h, up))| {
        let gate = gate.get(i * CHUNK..i * CHUNK + h.len()).unwrap_or_default();
        activation::forward(kind, gate, up, h);
    });
    h
}

/// Slopes of gate (empty if there is none) and up, and the inner function's value once more.
fn activate_backward<T: Scalar>(kind: Mlp, gate: &[T], up: &[T], dh: &[T]) -> [Vec<T>; 3] {
    let room = |n: usize| vec![T::ZERO; n];
    let [mut d_gate, mut d_up, mut h] = [room(gate.len()), room(up.len()), room(up.len())];
    let d_gates = pieces(&mut d_gate, up.len().div_ceil(CHUNK));
    let tasks = d_up.par_chunks_mut(CHUNK).zip(h.par_chunks_mut(CHUNK)).zip(d_gates).enumerate();
    tasks.for_each(|(i, ((d_up, h), d_gate))| {
        let range = i * CHUNK..i * CHUNK + h.len();
        let gate = gate.get(range.clone()).unwrap_or_default();
        activation::backward(kind, gate, &up[range.clone()], &dh[range], d_gate, d_up, h);
    });
    [d_gate, d_up, h]
}

/// Adds the slope of a norm's input to `dx`.
fn back_through<T: Scalar>(
    norm: Option<&NormWeights<T>>,
    (x, stats, dy): (&[T], &[T], &[T]),
    names: [Part; 2],
    dx: &mut [T],
    small: &mut Small<T>,
) {
    match norm {
        Some(norm) => small.push_norm(names[0], names[1], norm.norm().backward(x, stats, dy, dx)),
        None => add_to(dx, dy),
    }
}

pub(super) fn forward<T: Scalar>(
    ctx: &Ctx<T>,
    peers: Peers,
    l: usize,
    input: Tensor,
) -> Result<(Carry<T>, Vec<Tensor>)> {
    let (parts, n, t) = (Parts::shared(ctx, l), ctx.batch.len(), ctx.batch.t);
    let (c, first) = (parts.c(), peers.own_rows(n).start);
    let x = view::<T>(&input)?;
    let rows = x.len() / c;
    let (own, stats) = normed(parts.norm(Part::InputNorm, Part::InputNormBias).as_ref(), &x);
    let mut p = parts.project(&peers.gather(own)?, ctx.angles(l));
    p.stats = stats;
    let mut out = vec![T::ZERO; n * parts.heads.q_dim()];
    let mut logsumexp = vec![T::ZERO; n * parts.heads.n_head];
    attention::forward(parts.heads, t, &ctx.documents, &p.q, &p.k, &p.v, &mut out, &mut logsumexp);

    let exits = [parts.attention_exit(), parts.mlp_exit()];
    let room = |width: usize| vec![T::ZERO; rows * width];
    let mut ends = exits.each_ref().map(|exit| room(exit.kept(c).0));
    let mut end_stats = exits.each_ref().map(|exit| room(exit.kept(c).1));
    let (mut middle, mut next) = (room(c), room(c));
    let added = peers.add(product(&out, parts.packed(Part::Output)), c)?;
    exits[0].after(&x, &added, &mut middle, &mut ends[0], &mut end_stats[0], first);

    let (own, stats) = normed(parts.norm(Part::MlpNorm, Part::MlpNormBias).as_ref(), &middle);
    let all = peers.gather(own)?;
    let kind = parts.family().mlp;
    let project = |matrix: Part, of_bias: Part| {
        let mut y = product(&all, parts.packed(matrix));
        parts.vector(of_bias).iter().for_each(|b| bias::forward(b, &mut y));
        y
    };
    let gate = if kind.gated() { project(Part::Gate, Part::GateBias) } else { Vec::new() };
    let up = project(Part::Up, Part::UpBias);
    let h = activate(kind, &gate, &up);
    let added = peers.add(product(&h, parts.packed(Part::Down)), c)?;
    exits[1].after(&middle, &added, &mut next, &mut ends[1], &mut end_stats[1], first);
    drop(x);
    let done = Finished { middle, stats, gate, up, out: next, ends, end_stats };
    let (next, kept) = keep(input, p, out, logsumexp, done)?;
    Ok((Carry::Hidden(tensor(next, [rows, c])?), kept))
}

pub(super) fn backward<T: Scalar>(
    ctx: &Ctx<T>,
    peers: Peers,
    l: usize,
    kept: &[View<T>],
    slope: &Tensor,
    gradients: &mut Gradients<T>,
) -> Result<Slope<T>> {
    let (entry, attended, second) = recall(kept);
    let (parts, n, t) = (Parts::shared(ctx, l), ctx.batch.len(), ctx.batch.t);
    let (c, first, d_out) = (parts.c(), peers.own_rows(n).start, view::<T>(slope)?);
    let (rows, mut small) = (entry.x.len() / c, Small::default());
    let exits = [parts.attention_exit(), parts.mlp_exit()];
    let room = |width: usize| vec![T::ZERO; rows * width];

    // The second half, from its end.
    let (mut dz, mut d_middle) = (room(c), room(c));
    exits[1].backward(&d_out, second.ends[1], second.end_stats[1], &mut dz, &mut d_middle, first, &mut small);
    let dz_down = peers.gather(if exits[1].plain() { d_out.to_vec() } else { dz })?;
    let kind = parts.family().mlp;
    let d_h = product(&dz_down, parts.packed_backward(Part::Down));
    let [d_gate, d_up, h] = activate_backward(kind, second.gate, second.up, &d_h);
    small.push_bias(Part::GateBias, parts.vector(Part::GateBias).as_deref(), &d_gate);
    small.push_bias(Part::UpBias, parts.vector(Part::UpBias).as_deref(), &d_up);
    let mut partial = product(&d_up, parts.packed_backward(Part::Up));
    if kind.gated() {
        multiply(&d_gate, parts.packed_backward(Part::Gate), &mut partial, true);
    }
    let norm = parts.norm(Part::MlpNorm, Part::MlpNormBias);
    let mlp_input = peers.gather(normed_again(norm.as_ref(), second.middle, second.stats))?;
    let d_normed = peers.add(partial, c)?;
    let names = [Part::MlpNorm, Part::MlpNormBias];
    back_through(norm.as_ref(), (second.middle, second.stats, &d_normed), names, &mut d_middle, &mut small);

    // Attention.
    let (mut dz, mut dx) = (room(c), room(c));
    exits[0].backward(&d_middle, second.ends[0], second.end_stats[0], &mut dz, &mut dx, first, &mut small);
    let dz_o = peers.gather(if exits[0].plain() { d_middle } else { dz })?;
    let d_attended = product(&dz_o, parts.packed_backward(Part::Output));
    let (q_dim, kv) = (parts.heads.q_dim(), parts.heads.kv_dim());
    let room = |width: usize| vec![T::ZERO; n * width];
    let (mut dq, mut dk, mut dv) = (room(q_dim), room(kv), room(kv));
    attention::backward(parts.heads, t, &ctx.documents, attended, &d_attended, &mut dq, &mut dk, &mut dv);
    let norm = parts.norm(Part::InputNorm, Part::InputNormBias);
    let input = peers.gather(normed_again(norm.as_ref(), entry.x, entry.stats))?;
    let mut partial = room(c);
    let way_in = Entry { x: &input, stats: &[], ..entry };
    let slopes = Slopes { dq: &mut dq, dk: &mut dk, dv: &dv };
    let (_, smalls) = parts.back_to_input(&way_in, ctx.angles(l), slopes, &mut partial);
    let d_normed = peers.add(partial, c)?;
    let names = [Part::InputNorm, Part::InputNormBias];
    back_through(norm.as_ref(), (entry.x, entry.stats, &d_normed), names, &mut dx, &mut small);
    Small::add_all(&smalls, &parts, gradients);
    Small::add_all(&[small], &parts, gradients);

    let f = ctx.model.local().n_ffn;
    let matrices = [
        (Part::Query, &dq, &input[..], q_dim, c),
        (Part::Key, &dk, &input, kv, c),
        (Part::Value, &dv, &input, kv, c),
        (Part::Output, &dz_o, attended.out, c, q_dim),
        (Part::Gate, &d_gate, &mlp_input, f, c),
        (Part::Up, &d_up, &mlp_input, f, c),
        (Part::Down, &dz_down, &h, c, f),
    ];
    for (part, dy, x, out, inner) in matrices {
        if let Some(at) = parts.at(part) {
            weight_grads(vec![WeightGrad { dy, x, dw: &mut gradients.0[at], out, inner }]);
        }
    }
    Ok(Slope::Hidden(tensor(dx, [rows, c])?))
}
