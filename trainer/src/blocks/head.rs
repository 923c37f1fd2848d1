//! The head: final norm, output projection, and per-token statistics of the targets.
//!
//! In: the hidden stream `[b, t, c]`. Out: log-prob, entropy and log-sum-exp per position; logits exist for a few rows
//! at a time only, and backward computes them again from the hidden stream. Positions with a zero loss mask are skipped
//! forward, positions with a zero gradient backward. It is not a loss; the one part of a loss that it knows is the z-loss,
//! whose gradient enters here: `z * logsumexp^2` per token, weighted as the token is in the loss, by `|d loss / d logprob|`
//! (Chowdhery et al. 2022, section 5).

use super::parts::NormWeights;
use super::{add_to, composed, shared_ends, tensor};
use crate::family::Norm;
use crate::ops::linear::{WeightGrad, linear, linear_rows, weight_grads};
use crate::ops::{Scalar, cross_entropy, cross_entropy_parts, view};
use crate::tape::{Block, Carry, Ctx, Gradients, Ops, Slope, TokenGrad, TokenStats};
use crate::{Model, ModelConfig, Result};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

/// Rows of logits that one task holds; part of the order of sums of the norm's gain.
const ROWS: usize = 24;

/// Final norm and output projection.
pub struct Head;

impl<T: Scalar> Block<T> for Head {
    fn forward(&self, ctx: &Ctx<T>, carry: Carry<T>) -> Result<(Carry<T>, Vec<Tensor>)> {
        let input = carry.hidden();
        if ctx.ops == Ops::Composed {
            return composed_forward(ctx, input);
        }
        if let Some(peers) = ctx.peers {
            return shared_ends::head(ctx, peers, input);
        }
        let active: Vec<usize> = (0..ctx.batch.len()).filter(|&at| ctx.batch.loss_mask[at] != 0.0).collect();
        let rows = row_stats(ctx, &view(&input)?, &active);
        let n = ctx.batch.len();
        let width = final_norm(ctx.model).norm().kept();
        let mut columns = [vec![T::ZERO; n], vec![T::ZERO; n], vec![T::ZERO; n]];
        let mut norms = vec![T::ZERO; n * width];
        for (&at, row) in active.iter().zip(&rows) {
            for (column, x) in columns.iter_mut().zip(row) {
                column[at] = *x;
            }
            norms[at * width..(at + 1) * width].copy_from_slice(&row[3..3 + width]);
        }
        let [logprob, entropy, logsumexp] = columns;
        let kept =
            vec![input, tensor(entropy.clone(), [n])?, tensor(logsumexp.clone(), [n])?, tensor(norms, [n * width])?];
        Ok((Carry::Stats(TokenStats { logprob, entropy, logsumexp }), kept))
    }

    fn backward(
        &self,
        ctx: &Ctx<T>,
        kept: Vec<Tensor>,
        slope: Slope<T>,
        gradients: &mut Gradients<T>,
    ) -> Result<Slope<T>> {
        let Slope::Stats(mut grad) = slope else { unreachable!("the tape starts backward at the head") };
        for (at, mask) in ctx.batch.loss_mask.iter().enumerate() {
            if *mask == 0.0 {
                grad.d_logprob[at] = T::ZERO;
                grad.d_entropy.iter_mut().for_each(|d| d[at] = T::ZERO);
            }
        }
        let config = ctx.model.config();
        let shape = [ctx.batch.b, ctx.batch.t, config.n_embd];
        if ctx.ops == Ops::Composed {
            return composed_backward(ctx, &kept[0], &grad, gradients);
        }
        if let Some(peers) = ctx.peers {
            return shared_ends::head_backward(ctx, peers, &kept, &grad, gradients);
        }
        let mut dx = vec![T::ZERO; ctx.batch.len() * config.n_embd];
        let active: Vec<usize> = (0..ctx.batch.len())
            .filter(|&at| grad.d_logprob[at] != T::ZERO || grad.d_entropy.as_ref().is_some_and(|d| d[at] != T::ZERO))
            .collect();
        let views = kept.iter().map(view::<T>).collect::<Result<Vec<_>>>()?;
        // Logits held at once: 2^20, so that the output's gradient is added to once per many rows.
        let group = ((1 << 20) / config.vocab_size / ROWS).clamp(1, 64) * ROWS;
        let mut logits = vec![T::ZERO; group.min(active.len()) * config.vocab_size];
        for rows in active.chunks(group) {
            let kept = [&*views[0], &*views[1], &*views[2], &*views[3]];
            back(ctx, kept, rows, &grad, &mut logits, &mut dx, gradients);
        }
        Ok(Slope::Hidden(tensor(dx, shape)?))
    }

    fn worth_recomputing(&self) -> bool {
        false
    }
}

/// Log-prob, entropy, log-sum-exp and the norm's statistics (a second one of LayerNorm alone) of the rows `active` of `x`.
fn row_stats<T: Scalar>(ctx: &Ctx<T>, x: &[T], active: &[usize]) -> Vec<[T; 5]> {
    let (config, weight) = (ctx.model.config(), ctx.model.packed(ctx.model.output_at()));
    let (c, v) = (config.n_embd, config.vocab_size);
    let weights = final_norm(ctx.model);
    let norm = weights.norm();
    let mut stats = vec![[T::ZERO; 5]; active.len()];
    stats.par_chunks_mut(ROWS).zip(active.par_chunks(ROWS)).for_each_init(
        || (vec![T::ZERO; ROWS * c], vec![T::ZERO; ROWS * c], vec![T::ZERO; ROWS * v]),
        |(hidden, normed, logits), (stats, rows)| {
            let (hidden, normed) = (&mut hidden[..rows.len() * c], &mut normed[..rows.len() * c]);
            gather(x, rows, c, hidden);
            let (mut norms, kept) = ([T::ZERO; 2 * ROWS], norm.kept());
            norm.forward(hidden, normed, &mut norms[..rows.len() * kept]);
            linear_rows(normed, weight, &mut logits[..rows.len() * v], false);
            cap(config, &mut logits[..rows.len() * v]);
            for (i, (logits, stats)) in logits.chunks_exact(v).zip(stats).enumerate() {
                let [logprob, entropy, logsumexp] = cross_entropy::row_stats(logits, ctx.batch.targets[rows[i]]);
                *stats = [logprob, entropy, logsumexp, norms[i * kept], norms[i * kept + kept - 1]];
            }
        },
    );
    stats
}

/// The final norm.
pub(super) fn final_norm<T: Scalar>(model: &Model<T>) -> NormWeights<'_, T> {
    let (config, at) = (model.config(), model.norm_at());
    let bias = (config.family.norm == Norm::Layer).then(|| model.slice(at + 1));
    NormWeights { gain: model.slice(at), bias, eps: config.norm_eps }
}

/// Caps logits, if the family does.
pub(super) fn cap<T: Scalar>(config: &ModelConfig, logits: &mut [T]) {
    if let Some(cap) = config.family.logit_softcap {
        cross_entropy::soft_cap(logits, T::of(cap));
    }
}

/// The gradient of one row's logits (or of those of them that are here), in their place; `stats` is the row's entropy and log-sum-exp.
pub(super) fn logit_slopes<T: Scalar>(
    config: &ModelConfig,
    logits: &mut [T],
    target: Option<u32>,
    stats: [T; 2],
    d_logprob: T,
    d_entropy: T,
) {
    let (z, [entropy, logsumexp]) = (T::of(config.family.z_loss), stats);
    let kept = if z > T::ZERO || config.family.logit_softcap.is_some() { logits.to_vec() } else { Vec::new() };
    cross_entropy_parts::row_backward(logits, target, [T::ZERO, entropy, logsumexp], d_logprob, d_entropy);
    if z > T::ZERO {
        cross_entropy::logsumexp_backward(&kept, logsumexp, T::of(2.0) * z * logsumexp * d_logprob.abs(), logits);
    }
    if let Some(cap) = config.family.logit_softcap {
        cross_entropy::soft_cap_backward(&kept, T::of(cap), logits);
    }
}

/// Gradients through the rows `rows`; `kept` is the hidden stream, entropy, log-sum-exp, the norm's statistics; `logits` is room for `rows.len() * vocab_size` numbers.
fn back<T: Scalar>(
    ctx: &Ctx<T>,
    kept: [&[T]; 4],
    rows: &[usize],
    grad: &TokenGrad<T>,
    logits: &mut [T],
    dx: &mut [T],
    gradients: &mut Gradients<T>,
) {
    let (config, model) = (ctx.model.config(), ctx.model);
    let (c, v) = (config.n_embd, config.vocab_size);
    let [x, entropy, logsumexp, norms] = kept;
    let weights = final_norm(model);
    let (norm, width) = (weights.norm(), weights.norm().kept());
    let (weight, weight_back) = (model.packed(model.output_at()), model.packed_backward(model.output_at()));
    let logits = &mut logits[..rows.len() * v];
    let (mut normed, mut slopes) = (vec![T::ZERO; rows.len() * c], vec![T::ZERO; rows.len() * c]);
    let tasks =
        logits.par_chunks_mut(ROWS * v).zip(normed.par_chunks_mut(ROWS * c)).zip(slopes.par_chunks_mut(ROWS * c));
    let gains: Vec<(Vec<T>, Option<Vec<T>>)> = tasks
        .zip(rows.par_chunks(ROWS))
        .map_init(
            || (vec![T::ZERO; ROWS * c], vec![T::ZERO; ROWS * c]),
            |(hidden, d_normed), (((logits, normed), slopes), rows)| {
                let (hidden, d_normed) = (&mut hidden[..normed.len()], &mut d_normed[..normed.len()]);
                gather(x, rows, c, hidden);
                let norms: Vec<T> = rows.iter().flat_map(|&at| &norms[at * width..(at + 1) * width]).copied().collect();
                norm.again(hidden, &norms, normed);
                linear_rows(normed, weight, logits, false);
                cap(config, logits);
                for (logits, &at) in logits.chunks_exact_mut(v).zip(rows) {
                    let d_entropy = grad.d_entropy.as_ref().map_or(T::ZERO, |d| d[at]);
                    let stats = [entropy[at], logsumexp[at]];
                    logit_slopes(config, logits, Some(ctx.batch.targets[at]), stats, grad.d_logprob[at], d_entropy);
                }
                linear_rows(logits, weight_back, d_normed, false);
                norm.backward(hidden, &norms, d_normed, slopes)
            },
        )
        .collect();
    for (d_gain, d_bias) in &gains {
        add_to(&mut gradients.0[model.norm_at()], d_gain);
        d_bias.iter().for_each(|d_bias| add_to(&mut gradients.0[model.norm_at() + 1], d_bias));
    }
    for (slope, &at) in slopes.chunks_exact(c).zip(rows) {
        dx[at * c..(at + 1) * c].copy_from_slice(slope);
    }
    let dw = &mut gradients.0[model.output_at()];
    weight_grads(vec![WeightGrad { dy: logits, x: &normed, dw, out: v, inner: c }]);
}

pub(super) fn gather<T: Scalar>(x: &[T], rows: &[usize], c: usize, out: &mut [T]) {
    for (out, &at) in out.chunks_exact_mut(c).zip(rows) {
        out.copy_from_slice(&x[at * c..(at + 1) * c]);
    }
}

/// Logits `[rows, vocab_size]` of hidden rows `[rows, c]`: the bits that [`row_stats`] sees.
pub(crate) fn last_logits<T: Scalar>(model: &Model<T>, hidden: &[T]) -> Vec<T> {
    let config = model.config();
    let rows = hidden.len() / config.n_embd;
    let weights = final_norm(model);
    let (mut normed, mut norms) = (vec![T::ZERO; hidden.len()], vec![T::ZERO; rows * weights.norm().kept()]);
    weights.norm().forward(hidden, &mut normed, &mut norms);
    let mut logits = vec![T::ZERO; rows * config.vocab_size];
    linear(&normed, model.packed(model.output_at()), &mut logits);
    cap(config, &mut logits);
    logits
}

/// Output projection, gain and, of a LayerNorm, bias.
fn composed_weights<T: Scalar>(ctx: &Ctx<T>) -> Vec<usize> {
    let norm = ctx.model.norm_at();
    let bias = (ctx.model.config().family.norm == Norm::Layer).then_some(norm + 1);
    [ctx.model.output_at(), norm].into_iter().chain(bias).collect()
}

fn composed_forward<T: Scalar>(ctx: &Ctx<T>, input: Tensor) -> Result<(Carry<T>, Vec<Tensor>)> {
    let weights: Vec<Tensor> = composed_weights(ctx).into_iter().map(|at| ctx.model.tensors()[at].clone()).collect();
    let [logprob, entropy, logsumexp] = composed::head(ctx, &input, &weights)?;
    let masked = |x: Tensor| -> Result<Vec<T>> {
        let x = x.to_vec1::<T>()?;
        Ok(x.iter().zip(&ctx.batch.loss_mask).map(|(x, mask)| if *mask == 0.0 { T::ZERO } else { *x }).collect())
    };
    let stats = TokenStats { logprob: masked(logprob)?, entropy: masked(entropy)?, logsumexp: masked(logsumexp)? };
    Ok((Carry::Stats(stats), vec![input]))
}

fn composed_backward<T: Scalar>(
    ctx: &Ctx<T>,
    input: &Tensor,
    grad: &TokenGrad<T>,
    gradients: &mut Gradients<T>,
) -> Result<Slope<T>> {
    let column = |x: &Vec<T>| Tensor::from_slice(x, x.len(), &Device::Cpu);
    let scalar = |x: &Tensor, w: &[Tensor]| {
        let [logprob, entropy, logsumexp] = composed::head(ctx, x, w)?;
        let from_logprob = (logprob * column(&grad.d_logprob)?)?.sum_all()?;
        let z = (logsumexp.sqr()? * column(&grad.d_logprob)?.abs()?)?.sum_all()?;
        let from_logprob = (from_logprob + z * ctx.model.config().family.z_loss)?;
        match &grad.d_entropy {
            Some(d) => from_logprob + (entropy * column(d)?)?.sum_all()?,
            None => Ok(from_logprob),
        }
    };
    let dx = composed::backward(ctx, Some(input), &composed_weights(ctx), gradients, scalar)?;
    Ok(Slope::Hidden(dx.expect("the head has an input")))
}
