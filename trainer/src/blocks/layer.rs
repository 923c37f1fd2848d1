//! One Transformer layer: attention and feed-forward, with norms where the family puts them.
//!
//! In: the hidden stream `[b, t, c]`. Out: the same, one layer further. The row-local halves are `attention` and `mlp`, shared
//! with decoding so that both give the same bits; between them is the attention over each document.

use super::attention::{Entry, Projected, Slopes};
use super::mlp::{Finished, Middle};
use super::parts::{Parts, Small};
use super::{composed, shared, tensor};
use crate::Result;
use crate::layout::Part;
use crate::ops::attention::{self, Kept};
use crate::ops::linear::{WeightGrad, weight_grads};
use crate::ops::{Scalar, View, view};
use crate::tape::{Block, Carry, Ctx, Gradients, Ops, Slope};
use candle_core::Tensor;

/// Layer `l`.
pub struct Layer {
    /// From 0.
    pub l: usize,
}

impl Layer {
    fn range<T: Scalar>(&self, ctx: &Ctx<T>) -> std::ops::Range<usize> {
        ctx.model.layer_at(self.l)..ctx.model.layer_at(self.l + 1)
    }
}

impl<T: Scalar> Block<T> for Layer {
    fn forward(&self, ctx: &Ctx<T>, carry: Carry<T>) -> Result<(Carry<T>, Vec<Tensor>)> {
        let input = carry.hidden();
        if ctx.ops == Ops::Composed {
            let w = &ctx.model.tensors()[self.range(ctx)];
            return Ok((Carry::Hidden(composed::layer(ctx, self.l, &input, w)?), vec![input]));
        }
        if let Some(peers) = ctx.peers {
            return shared::forward(ctx, peers, self.l, input);
        }
        let (b, t, n) = (ctx.batch.b, ctx.batch.t, ctx.batch.len());
        let parts = Parts::in_batch(ctx, self.l);
        let x = view::<T>(&input)?;
        let p = parts.project(&x, ctx.angles(self.l));
        let mut out = vec![T::ZERO; n * parts.heads.q_dim()];
        let mut logsumexp = vec![T::ZERO; n * parts.heads.n_head];
        attention::forward(parts.heads, t, &ctx.documents, &p.q, &p.k, &p.v, &mut out, &mut logsumexp);
        let done = parts.finish(&x, &out);
        drop(x);
        let (next, kept) = keep(input, p, out, logsumexp, done)?;
        Ok((Carry::Hidden(tensor(next, [b, t, parts.c()])?), kept))
    }

    fn backward(
        &self,
        ctx: &Ctx<T>,
        kept: Vec<Tensor>,
        slope: Slope<T>,
        gradients: &mut Gradients<T>,
    ) -> Result<Slope<T>> {
        let slope = slope.hidden();
        if ctx.ops == Ops::Composed {
            let at: Vec<usize> = self.range(ctx).collect();
            let scalar = |x: &Tensor, w: &[Tensor]| (composed::layer(ctx, self.l, x, w)? * &slope)?.sum_all();
            let dx = composed::backward(ctx, Some(&kept[0]), &at, gradients, scalar)?;
            return Ok(Slope::Hidden(dx.expect("a layer has an input")));
        }
        let views = kept.iter().map(view::<T>).collect::<Result<Vec<_>>>()?;
        if let Some(peers) = ctx.peers {
            return shared::backward(ctx, peers, self.l, &views, &slope, gradients);
        }
        let parts = Parts::in_batch(ctx, self.l);
        let d_out = view::<T>(&slope)?;
        let (entry, attended, second) = recall(&views);
        let mut upper = parts.back_to_attention(&d_out, &second);
        let (n, t) = (ctx.batch.len(), ctx.batch.t);
        let (c, q_dim, kv) = (parts.c(), parts.heads.q_dim(), parts.heads.kv_dim());
        let (mut dq, mut dk, mut dv) = (vec![T::ZERO; n * q_dim], vec![T::ZERO; n * kv], vec![T::ZERO; n * kv]);
        attention::backward(parts.heads, t, &ctx.documents, attended, &upper.d_attended, &mut dq, &mut dk, &mut dv);
        let slopes = Slopes { dq: &mut dq, dk: &mut dk, dv: &dv };
        let (normed, smalls) = parts.back_to_input(&entry, ctx.angles(self.l), slopes, &mut upper.dx);
        Small::add_all(&smalls, &parts, gradients);
        Small::add_all(&upper.smalls, &parts, gradients);

        let f = ctx.model.config().n_ffn;
        let input: &[T] = if normed.is_empty() { entry.x } else { &normed };
        let mlp_input: &[T] = if upper.normed.is_empty() { second.middle } else { &upper.normed };
        let dz_o: &[T] = if upper.dz[0].is_empty() { &upper.d_middle } else { &upper.dz[0] };
        let dz_down: &[T] = if upper.dz[1].is_empty() { &d_out } else { &upper.dz[1] };
        let matrices = [
            (Part::Query, &*dq, input, q_dim, c),
            (Part::Key, &dk, input, kv, c),
            (Part::Value, &dv, input, kv, c),
            (Part::Output, dz_o, attended.out, c, q_dim),
            (Part::Gate, &upper.d_gate, mlp_input, f, c),
            (Part::Up, &upper.d_up, mlp_input, f, c),
            (Part::Down, dz_down, &upper.product, c, f),
        ];
        let mut slots: Vec<Option<&mut Vec<T>>> = gradients.0[self.range(ctx)].iter_mut().map(Some).collect();
        let first = ctx.model.layer_at(self.l);
        let jobs = matrices.into_iter().filter_map(|(part, dy, x, out, inner)| {
            let dw = slots[parts.at(part)? - first].take().expect("each matrix is named once");
            Some(WeightGrad { dy, x, dw, out, inner })
        });
        weight_grads(jobs.collect());
        Ok(Slope::Hidden(tensor(upper.dx, [ctx.batch.b, t, c])?))
    }

    fn worth_recomputing(&self) -> bool {
        true
    }
}

/// The stream one layer further, and all that backward needs, in the order that [`recall`] reads.
pub(super) fn keep<T: Scalar>(
    input: Tensor,
    p: Projected<T>,
    out: Vec<T>,
    logsumexp: Vec<T>,
    done: Finished<T>,
) -> Result<(Vec<T>, Vec<Tensor>)> {
    let ([raw_q, raw_k], [inverse_q, inverse_k]) = (p.raw, p.inverse);
    let ([end_0, end_1], [end_stats_0, end_stats_1]) = (done.ends, done.end_stats);
    let first = [p.stats, p.q, p.k, p.v, raw_q, raw_k, inverse_q, inverse_k, out, logsumexp];
    let second = [done.middle, done.stats, done.gate, done.up, end_0, end_1, end_stats_0, end_stats_1];
    let mut kept = vec![input];
    for data in first.into_iter().chain(second) {
        let len = data.len();
        kept.push(tensor(data, [len])?);
    }
    Ok((done.out, kept))
}

/// What [`keep`] has kept: for the way in, the attention itself and the second half.
pub(super) fn recall<'a, T: Scalar>(kept: &'a [View<'_, T>]) -> (Entry<'a, T>, Kept<'a, T>, Middle<'a, T>) {
    let slices: Vec<&[T]> = kept.iter().map(|view| &**view).collect();
    let [x, stats, q, k, v, raw_q, raw_k, inverse_q, inverse_k, out, logsumexp, ref second @ ..] = slices[..] else {
        unreachable!("forward keeps nineteen");
    };
    let [middle, mlp_stats, gate, up, end_0, end_1, end_stats_0, end_stats_1] = second[..] else {
        unreachable!("forward keeps nineteen");
    };
    let (ends, end_stats) = ([end_0, end_1], [end_stats_0, end_stats_1]);
    (
        Entry { x, stats, raw: [raw_q, raw_k], inverse: [inverse_q, inverse_k] },
        Kept { q, k, v, out, logsumexp },
        Middle { middle, stats: mlp_stats, gate, up, ends, end_stats },
    )
}
