//! One Transformer layer: attention and SwiGLU, each behind an RMSNorm and added to the hidden stream.
//!
//! In: the hidden stream `[b, t, c]`. Out: the same, one layer further. Row-local work runs in tasks of 48 rows that keep
//! their intermediates in cache; backward recomputes the norms' outputs and SwiGLU's product instead of keeping them.
//! [`Parts`] is shared with decoding, so that both give the same bits.

use super::{ROWS, add_to, composed, task_rows, tensor};
use crate::ops::attention::{self, Heads, Kept};
use crate::ops::linear::{Packed, WeightGrad, linear_rows, weight_grads};
use crate::ops::rope::Angles;
use crate::ops::{View, rms_norm, swiglu, view};
use crate::tape::{Block, Carry, Ctx, Gradients, Ops, Slope, heads};
use crate::{Model, Result};
use candle_core::Tensor;
use rayon::prelude::*;

/// The layer whose first parameter has canonical index `at`.
pub struct Layer {
    /// See `Model::layer_at`.
    pub at: usize,
}

impl Block for Layer {
    fn forward(&self, ctx: &Ctx, carry: Carry) -> Result<(Carry, Vec<Tensor>)> {
        let input = carry.hidden();
        if ctx.ops == Ops::Composed {
            let w = &ctx.model.tensors()[self.at..self.at + 9];
            return Ok((Carry::Hidden(composed::layer(ctx, &input, w)?), vec![input]));
        }
        let (b, t, n) = (ctx.batch.b, ctx.batch.t, ctx.batch.len());
        let parts = Parts::new(ctx.model, self.at);
        let (c, kv, f) = (parts.heads.q_dim(), parts.heads.kv_dim(), ctx.model.config().n_ffn);
        let x = view(&input)?;
        let p = parts.project(&x, &ctx.angles);
        let mut out = vec![0.0; n * c];
        let mut logsumexp = vec![0.0; n * parts.heads.n_head];
        attention::forward(parts.heads, t, &ctx.documents, &p.q, &p.k, &p.v, &mut out, &mut logsumexp);
        let done = parts.finish(&x, &out);
        drop(x);
        let kept = vec![
            input,
            tensor(p.inverse, [n])?,
            tensor(p.q, [n, c])?,
            tensor(p.k, [n, kv])?,
            tensor(p.v, [n, kv])?,
            tensor(out, [n, c])?,
            tensor(logsumexp, [b, parts.heads.n_head, t])?,
            tensor(done.middle, [n, c])?,
            tensor(done.inverse, [n])?,
            tensor(done.gate, [n, f])?,
            tensor(done.up, [n, f])?,
        ];
        Ok((Carry::Hidden(tensor(done.out, [b, t, c])?), kept))
    }

    fn backward(&self, ctx: &Ctx, kept: Vec<Tensor>, slope: Slope, gradients: &mut Gradients) -> Result<Slope> {
        let slope = slope.hidden();
        if ctx.ops == Ops::Composed {
            let at: Vec<usize> = (self.at..self.at + 9).collect();
            let scalar = |x: &Tensor, w: &[Tensor]| (composed::layer(ctx, x, w)? * &slope)?.sum_all();
            let dx = composed::backward(ctx, Some(&kept[0]), &at, gradients, scalar)?;
            return Ok(Slope::Hidden(dx.expect("a layer has an input")));
        }
        let views = kept.iter().map(view).collect::<Result<Vec<_>>>()?;
        let [x, inverse_x, q, k, v, out, logsumexp, middle, inverse_middle, gate, up] =
            views.as_slice().try_into().map(|v: &[View; 11]| v.each_ref().map(|v| &**v)).expect("forward keeps eleven");
        let parts = Parts::new(ctx.model, self.at);
        let d_out = view(&slope)?;
        let upper = parts.back_to_attention(&d_out, middle, inverse_middle, gate, up);
        let (n, c, kv) = (ctx.batch.len(), parts.heads.q_dim(), parts.heads.kv_dim());
        let (mut dq, mut dk, mut dv) = (vec![0.0; n * c], vec![0.0; n * kv], vec![0.0; n * kv]);
        let attended = Kept { q, k, v, out, logsumexp };
        let t = ctx.batch.t;
        attention::backward(parts.heads, t, &ctx.documents, attended, &upper.d_attended, &mut dq, &mut dk, &mut dv);
        let mut dx = upper.d_middle.clone();
        let lower = parts.back_to_input(x, inverse_x, &ctx.angles, &mut dq, &mut dk, &dv, &mut dx);

        let f = ctx.model.config().n_ffn;
        let mut slots = gradients.0[self.at..self.at + 9].iter_mut();
        let mut slot = || slots.next().expect("nine parameters");
        add_to(slot(), &lower.d_norm);
        let mut jobs = vec![
            WeightGrad { dy: &dq, x: &lower.normed, dw: slot(), out: c, inner: c },
            WeightGrad { dy: &dk, x: &lower.normed, dw: slot(), out: kv, inner: c },
            WeightGrad { dy: &dv, x: &lower.normed, dw: slot(), out: kv, inner: c },
            WeightGrad { dy: &upper.d_middle, x: out, dw: slot(), out: c, inner: c },
        ];
        add_to(slot(), &upper.d_norm);
        jobs.push(WeightGrad { dy: &upper.d_gate, x: &upper.normed, dw: slot(), out: f, inner: c });
        jobs.push(WeightGrad { dy: &upper.d_up, x: &upper.normed, dw: slot(), out: f, inner: c });
        jobs.push(WeightGrad { dy: &d_out, x: &upper.product, dw: slot(), out: c, inner: f });
        weight_grads(jobs);
        Ok(Slope::Hidden(tensor(dx, [ctx.batch.b, t, c])?))
    }

    fn worth_recomputing(&self) -> bool {
        true
    }
}

/// The row-local parts of a layer, for any number of rows.
pub(crate) struct Parts<'a> {
    model: &'a Model,
    at: usize,
    pub heads: Heads,
}

/// Rotated queries and keys, values, and the norm's inverse root mean squares.
pub(crate) struct Projected {
    pub q: Vec<f32>,       // [rows, n_head * d]
    pub k: Vec<f32>,       // [rows, n_kv_head * d]
    pub v: Vec<f32>,       // [rows, n_kv_head * d]
    pub inverse: Vec<f32>, // [rows]
}

/// The second half of a layer.
pub(crate) struct Finished {
    pub middle: Vec<f32>,  // [rows, c]: input + attention
    pub inverse: Vec<f32>, // [rows]
    pub gate: Vec<f32>,    // [rows, f]
    pub up: Vec<f32>,      // [rows, f]
    pub out: Vec<f32>,     // [rows, c]
}

/// Backward of the second half.
struct Upper {
    d_norm: Vec<f32>,     // [c]
    normed: Vec<f32>,     // [rows, c]
    product: Vec<f32>,    // [rows, f]
    d_gate: Vec<f32>,     // [rows, f]
    d_up: Vec<f32>,       // [rows, f]
    d_middle: Vec<f32>,   // [rows, c]
    d_attended: Vec<f32>, // [rows, c]
}

/// Backward of the first half.
struct Lower {
    d_norm: Vec<f32>, // [c]
    normed: Vec<f32>, // [rows, c]
}

impl<'a> Parts<'a> {
    pub fn new(model: &'a Model, at: usize) -> Self {
        Self { model, at, heads: heads(model) }
    }

    fn eps(&self) -> f64 {
        self.model.config().norm_eps
    }

    fn weights<const N: usize>(&self, parts: [usize; N]) -> [&'a Packed; N] {
        parts.map(|part| self.model.packed(self.at + part))
    }

    fn weights_backward<const N: usize>(&self, parts: [usize; N]) -> [&'a Packed; N] {
        parts.map(|part| self.model.packed_backward(self.at + part))
    }

    /// Norm, projections, rotation. `x: [rows, c]`.
    pub fn project(&self, x: &[f32], angles: &Angles) -> Projected {
        let (c, kv) = (self.heads.q_dim(), self.heads.kv_dim());
        let (rows, eps) = (x.len() / c, self.eps());
        let gain = self.model.slice(self.at);
        let gain: &[f32] = &gain;
        let [wq, wk, wv] = self.weights([1, 2, 3]);
        let mut p = Projected {
            q: vec![0.0; rows * c],
            k: vec![0.0; rows * kv],
            v: vec![0.0; rows * kv],
            inverse: vec![0.0; rows],
        };
        let n = task_rows(rows);
        let outputs = p.q.par_chunks_mut(n * c).zip(p.k.par_chunks_mut(n * kv)).zip(p.v.par_chunks_mut(n * kv));
        let tasks = x.par_chunks(n * c).zip(outputs).zip(p.inverse.par_chunks_mut(n)).enumerate();
        tasks.for_each_init(
            || vec![0.0; n * c],
            |normed, (i, ((x, ((q, k), v)), inverse))| {
                let normed = &mut normed[..x.len()];
                rms_norm::forward(x, gain, eps, normed, inverse);
                linear_rows(normed, wq, q, false);
                linear_rows(normed, wk, k, false);
                linear_rows(normed, wv, v, false);
                angles.rotate(q, c, i * n);
                angles.rotate(k, kv, i * n);
            },
        );
        p
    }

    /// Output projection, norm, SwiGLU. `x, attended: [rows, c]`.
    pub fn finish(&self, x: &[f32], attended: &[f32]) -> Finished {
        let (c, f) = (self.heads.q_dim(), self.model.config().n_ffn);
        let (rows, eps) = (x.len() / c, self.eps());
        let gain = self.model.slice(self.at + 5);
        let gain: &[f32] = &gain;
        let [wo, w_gate, w_up, w_down] = self.weights([4, 6, 7, 8]);
        let wide = || vec![0.0; rows * f];
        let mut done = Finished {
            middle: x.to_vec(),
            inverse: vec![0.0; rows],
            gate: wide(),
            up: wide(),
            out: vec![0.0; rows * c],
        };
        let n = task_rows(rows);
        let inputs = attended.par_chunks(n * c).zip(done.middle.par_chunks_mut(n * c));
        let outputs =
            done.gate.par_chunks_mut(n * f).zip(done.up.par_chunks_mut(n * f)).zip(done.out.par_chunks_mut(n * c));
        inputs.zip(outputs).zip(done.inverse.par_chunks_mut(n)).for_each_init(
            || (vec![0.0; n * c], vec![0.0; n * f]),
            |(normed, product), (((attended, middle), ((gate, up), out)), inverse)| {
                let (normed, product) = (&mut normed[..middle.len()], &mut product[..gate.len()]);
                linear_rows(attended, wo, middle, true);
                rms_norm::forward(middle, gain, eps, normed, inverse);
                linear_rows(normed, w_gate, gate, false);
                linear_rows(normed, w_up, up, false);
                swiglu::forward(gate, up, product);
                out.copy_from_slice(middle);
                linear_rows(product, w_down, out, true);
            },
        );
        done
    }

    /// From the layer's output back to attention's.
    fn back_to_attention(&self, d_out: &[f32], middle: &[f32], inverse: &[f32], gate: &[f32], up: &[f32]) -> Upper {
        let (c, f) = (self.heads.q_dim(), self.model.config().n_ffn);
        let rows = middle.len() / c;
        let gain = self.model.slice(self.at + 5);
        let gain: &[f32] = &gain;
        let [wo, w_gate, w_up, w_down] = self.weights_backward([4, 6, 7, 8]);
        let (narrow, wide) = (|| vec![0.0; rows * c], || vec![0.0; rows * f]);
        let (mut normed, mut d_attended, mut d_middle) = (narrow(), narrow(), d_out.to_vec());
        let (mut product, mut d_gate, mut d_up) = (wide(), wide(), wide());
        let narrow = normed
            .par_chunks_mut(ROWS * c)
            .zip(d_attended.par_chunks_mut(ROWS * c))
            .zip(d_middle.par_chunks_mut(ROWS * c));
        let wide =
            product.par_chunks_mut(ROWS * f).zip(d_gate.par_chunks_mut(ROWS * f)).zip(d_up.par_chunks_mut(ROWS * f));
        let inputs = middle
            .par_chunks(ROWS * c)
            .zip(inverse.par_chunks(ROWS))
            .zip(gate.par_chunks(ROWS * f))
            .zip(up.par_chunks(ROWS * f));
        let gains: Vec<Vec<f32>> = inputs
            .zip(narrow)
            .zip(wide)
            .map_init(
                || (vec![0.0; ROWS * c], vec![0.0; ROWS * f]),
                |(d_normed, d_product), item| {
                    let (
                        ((((middle, inverse), gate), up), ((normed, d_attended), d_middle)),
                        ((product, d_gate), d_up),
                    ) = item;
                    let (d_normed, d_product) = (&mut d_normed[..middle.len()], &mut d_product[..gate.len()]);
                    linear_rows(d_middle, w_down, d_product, false);
                    swiglu::backward(gate, up, d_product, d_gate, d_up, product);
                    linear_rows(d_gate, w_gate, d_normed, false);
                    linear_rows(d_up, w_up, d_normed, true);
                    rms_norm::again(middle, gain, inverse, normed);
                    let mut d_gain = vec![0.0; c];
                    rms_norm::backward(middle, gain, inverse, d_normed, d_middle, &mut d_gain);
                    linear_rows(d_middle, wo, d_attended, false);
                    d_gain
                },
            )
            .collect();
        Upper { d_norm: sum(&gains, c), normed, product, d_gate, d_up, d_middle, d_attended }
    }

    /// From queries, keys and values back to the layer's input: `dq` and `dk` are turned back in place, `dx` is added to.
    #[allow(clippy::too_many_arguments)]
    fn back_to_input(
        &self,
        x: &[f32],
        inverse: &[f32],
        angles: &Angles,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &[f32],
        dx: &mut [f32],
    ) -> Lower {
        let (c, kv) = (self.heads.q_dim(), self.heads.kv_dim());
        let gain = self.model.slice(self.at);
        let gain: &[f32] = &gain;
        let [wq, wk, wv] = self.weights_backward([1, 2, 3]);
        let mut normed = vec![0.0; x.len()];
        let inputs = x.par_chunks(ROWS * c).zip(inverse.par_chunks(ROWS)).zip(dv.par_chunks(ROWS * kv));
        let slopes = dq.par_chunks_mut(ROWS * c).zip(dk.par_chunks_mut(ROWS * kv)).zip(dx.par_chunks_mut(ROWS * c));
        let gains: Vec<Vec<f32>> = inputs
            .zip(slopes)
            .zip(normed.par_chunks_mut(ROWS * c))
            .enumerate()
            .map_init(
                || vec![0.0; ROWS * c],
                |d_normed, (i, ((((x, inverse), dv), ((dq, dk), dx)), normed))| {
                    let d_normed = &mut d_normed[..x.len()];
                    angles.rotate_back(dq, c, i * ROWS);
                    angles.rotate_back(dk, kv, i * ROWS);
                    linear_rows(dq, wq, d_normed, false);
                    linear_rows(dk, wk, d_normed, true);
                    linear_rows(dv, wv, d_normed, true);
                    rms_norm::again(x, gain, inverse, normed);
                    let mut d_gain = vec![0.0; c];
                    rms_norm::backward(x, gain, inverse, d_normed, dx, &mut d_gain);
                    d_gain
                },
            )
            .collect();
        Lower { d_norm: sum(&gains, c), normed }
    }
}

/// Sum of the tasks' gradients of a gain, in order.
fn sum(parts: &[Vec<f32>], c: usize) -> Vec<f32> {
    let mut total = vec![0.0; c];
    parts.iter().for_each(|part| add_to(&mut total, part));
    total
}
