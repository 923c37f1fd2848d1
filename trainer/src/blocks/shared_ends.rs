//! Embedding and head whose vocabulary is shared by tensor-parallel ranks.
//!
//! In and out: as the blocks `embedding` and `head`, with this rank's rows of the stream only (`shared`). Each rank holds a run of
//! the vocabulary. Embedding: a rank looks up the ids of its run, and the sum over ranks (one is not zero) leaves it the whole
//! vectors of its rows. Head: a rank makes logits of its run for all rows; log-prob, entropy and log-sum-exp come from four
//! numbers per row and rank, so no logits travel, and every rank has the statistics of all rows.

use super::embedding::{self, placed};
use super::head::{cap, final_norm, gather, logit_slopes};
use super::shared::{Peers, multiply, normed, normed_again};
use super::{add_to, tensor};
use crate::Result;
use crate::family::Position;
use crate::ops::cross_entropy_parts::{joined_stats, part_stats};
use crate::ops::linear::{WeightGrad, weight_grads};
use crate::ops::{Scalar, embedding as op, view};
use crate::tape::{Carry, Ctx, Gradients, Slope, TokenGrad, TokenStats};
use candle_core::Tensor;
use std::ops::Range;

/// The ids whose rows are here.
fn run<T: Scalar>(ctx: &Ctx<T>, peers: Peers) -> Range<usize> {
    peers.own_rows(ctx.model.config().vocab_size)
}

/// `id` counted from the first id of this rank's run, if it is in it.
fn own(run: &Range<usize>, id: u32) -> Option<u32> {
    run.contains(&(id as usize)).then(|| id - run.start as u32)
}

pub(super) fn embed<T: Scalar>(ctx: &Ctx<T>, peers: Peers) -> Result<Carry<T>> {
    let (model, batch, c, run) = (ctx.model, ctx.batch, ctx.model.config().n_embd, run(ctx, peers));
    let mut partial = vec![T::ZERO; batch.len() * c];
    let table = model.slice(0);
    for (row, id) in partial.chunks_exact_mut(c).zip(&batch.ids) {
        if let Some(id) = own(&run, *id) {
            op::forward(&table, &[id], c, row);
        }
    }
    let rows = peers.own_rows(batch.len());
    let mut x = placed(model, peers.add(partial, c)?, &batch.positions[rows.clone()]);
    if let Some(dropout) = embedding::dropout(ctx) {
        dropout.apply(&mut x, rows.start);
    }
    Ok(Carry::Hidden(tensor(x, [rows.len(), c])?))
}

pub(super) fn embed_backward<T: Scalar>(
    ctx: &Ctx<T>,
    peers: Peers,
    slope: &Tensor,
    gradients: &mut Gradients<T>,
) -> Result<()> {
    let (batch, config, run) = (ctx.batch, ctx.model.config(), run(ctx, peers));
    let (c, rows) = (config.n_embd, peers.own_rows(batch.len()));
    let mut dy = view::<T>(slope)?.to_vec();
    if let Some(dropout) = embedding::dropout(ctx) {
        dropout.apply(&mut dy, rows.start);
    }
    if config.family.position == Position::Learned {
        op::backward(&dy, &batch.positions[rows], c, &mut gradients.0[1]);
    }
    let scale = T::of(config.family.embedding_scale);
    dy.iter_mut().for_each(|x| *x *= scale);
    let all = peers.gather(dy)?;
    for (dy, id) in all.chunks_exact(c).zip(&batch.ids) {
        if let Some(id) = own(&run, *id) {
            add_to(&mut gradients.0[0][id as usize * c..(id as usize + 1) * c], dy);
        }
    }
    Ok(())
}

/// Rows of logits that are held at once.
fn group(width: usize) -> usize {
    ((1 << 20) / width).clamp(24, 1536)
}

/// Logits of this rank's run for some rows, `[rows.len(), width]`.
fn logits<T: Scalar>(ctx: &Ctx<T>, normed: &[T], rows: &[usize], width: usize) -> (Vec<T>, Vec<T>) {
    let c = ctx.model.config().n_embd;
    let (mut hidden, mut logits) = (vec![T::ZERO; rows.len() * c], vec![T::ZERO; rows.len() * width]);
    gather(normed, rows, c, &mut hidden);
    multiply(&hidden, ctx.model.packed(ctx.model.output_at()), &mut logits, false);
    cap(ctx.model.config(), &mut logits);
    (hidden, logits)
}

pub(super) fn head<T: Scalar>(ctx: &Ctx<T>, peers: Peers, input: Tensor) -> Result<(Carry<T>, Vec<Tensor>)> {
    let (n, run) = (ctx.batch.len(), run(ctx, peers));
    let (own_rows, norms) = normed(Some(&final_norm(ctx.model)), &view::<T>(&input)?);
    let all = peers.gather(own_rows)?;
    let active: Vec<usize> = (0..n).filter(|&at| ctx.batch.loss_mask[at] != 0.0).collect();
    let mut mine = Vec::with_capacity(4 * active.len());
    for rows in active.chunks(group(run.len())) {
        let (_, logits) = logits(ctx, &all, rows, run.len());
        for (logits, &at) in logits.chunks_exact(run.len()).zip(rows) {
            mine.extend(part_stats(logits, own(&run, ctx.batch.targets[at])));
        }
    }
    let lists = peers.lists(mine)?;
    let mut columns = [vec![T::ZERO; n], vec![T::ZERO; n], vec![T::ZERO; n]];
    for (i, &at) in active.iter().enumerate() {
        let parts: Vec<[f64; 4]> = lists.iter().map(|list| std::array::from_fn(|j| list[4 * i + j])).collect();
        for (column, x) in columns.iter_mut().zip(joined_stats(&parts)) {
            column[at] = T::of(x);
        }
    }
    let [logprob, entropy, logsumexp] = columns;
    let width = norms.len();
    let kept = vec![input, tensor(entropy.clone(), [n])?, tensor(logsumexp.clone(), [n])?, tensor(norms, [width])?];
    Ok((Carry::Stats(TokenStats { logprob, entropy, logsumexp }), kept))
}

/// `grad` is 0 where the loss mask is.
pub(super) fn head_backward<T: Scalar>(
    ctx: &Ctx<T>,
    peers: Peers,
    kept: &[Tensor],
    grad: &TokenGrad<T>,
    gradients: &mut Gradients<T>,
) -> Result<Slope<T>> {
    let (model, config, run, n) = (ctx.model, ctx.model.config(), run(ctx, peers), ctx.batch.len());
    let (c, width, norm) = (config.n_embd, run.len(), final_norm(model));
    let views = kept.iter().map(view::<T>).collect::<Result<Vec<_>>>()?;
    let (x, entropy, logsumexp, norms) = (&*views[0], &views[1], &views[2], &*views[3]);
    let all = peers.gather(normed_again(Some(&norm), x, norms))?;
    let d_entropy = |at: usize| grad.d_entropy.as_ref().map_or(T::ZERO, |d| d[at]);
    let active: Vec<usize> = (0..n).filter(|&at| grad.d_logprob[at] != T::ZERO || d_entropy(at) != T::ZERO).collect();
    let mut partial = vec![T::ZERO; n * c];
    for rows in active.chunks(group(width)) {
        let (hidden, mut logits) = logits(ctx, &all, rows, width);
        for (logits, &at) in logits.chunks_exact_mut(width).zip(rows) {
            let stats = [entropy[at], logsumexp[at]];
            logit_slopes(config, logits, own(&run, ctx.batch.targets[at]), stats, grad.d_logprob[at], d_entropy(at));
        }
        let mut d_hidden = vec![T::ZERO; rows.len() * c];
        multiply(&logits, model.packed_backward(model.output_at()), &mut d_hidden, false);
        for (d, &at) in d_hidden.chunks_exact(c).zip(rows) {
            partial[at * c..(at + 1) * c].copy_from_slice(d);
        }
        let dw = &mut gradients.0[model.output_at()];
        weight_grads(vec![WeightGrad { dy: &logits, x: &hidden, dw, out: width, inner: c }]);
    }
    let d_normed = peers.add(partial, c)?;
    let mut dx = vec![T::ZERO; x.len()];
    let (d_gain, d_bias) = norm.norm().backward(x, norms, &d_normed, &mut dx);
    add_to(&mut gradients.0[model.norm_at()], &d_gain);
    d_bias.iter().for_each(|d_bias| add_to(&mut gradients.0[model.norm_at() + 1], d_bias));
    Ok(Slope::Hidden(tensor(dx, [x.len() / c, c])?))
}
