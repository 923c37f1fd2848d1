//! The blocks in plain candle operations: the reference for the fused ones, and their stand-in (`Ops::Composed`).
//!
//! In: the block's input and weights as tensors of any float type. Out: tensors that candle's autograd can walk back.
//! Every operation used here has a backward; candle-nn's fused ones do not and are not used.

use crate::Result;
use crate::tape::{Ctx, Gradients};
use candle_core::{D, DType, Device, Tensor, Var};

type CandleResult<T> = candle_core::Result<T>;

/// `[b, t, c]` from the table.
pub(crate) fn embedding(ctx: &Ctx, table: &Tensor) -> CandleResult<Tensor> {
    let ids = Tensor::from_slice(&ctx.batch.ids, ctx.batch.len(), &Device::Cpu)?;
    table.index_select(&ids, 0)?.reshape((ctx.batch.b, ctx.batch.t, ()))
}

/// `x / sqrt(mean(x^2) + eps) * w`.
pub(crate) fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> CandleResult<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(w)
}

/// `x w^T` over the last axis.
fn linear(x: &Tensor, w: &Tensor) -> CandleResult<Tensor> {
    x.broadcast_matmul(&w.t()?)
}

/// One layer, `[b, t, c]`; weights in the order of `LAYER_PARTS`.
pub(crate) fn layer(ctx: &Ctx, x: &Tensor, w: &[Tensor]) -> CandleResult<Tensor> {
    let eps = ctx.model.config().norm_eps;
    let normed = rms_norm(x, &w[0], eps)?;
    let q = split_heads(ctx, &linear(&normed, &w[1])?, ctx.heads.n_head)?;
    let k = split_heads(ctx, &linear(&normed, &w[2])?, ctx.heads.n_kv_head)?;
    let v = split_heads(ctx, &linear(&normed, &w[3])?, ctx.heads.n_kv_head)?;
    let attended = attention(ctx, &rotate(ctx, &q)?, &rotate(ctx, &k)?, &v)?;
    let middle = (x + linear(&attended, &w[4])?)?;
    let normed = rms_norm(&middle, &w[5], eps)?;
    let gate = linear(&normed, &w[6])?;
    let silu = (&gate / (gate.neg()?.exp()? + 1.0)?)?;
    middle + linear(&(silu * linear(&normed, &w[7])?)?, &w[8])?
}

/// `[b, t, n * d]` to `[b, n, t, d]`.
fn split_heads(ctx: &Ctx, x: &Tensor, n: usize) -> CandleResult<Tensor> {
    x.reshape((ctx.batch.b, ctx.batch.t, n, ctx.heads.d))?.transpose(1, 2)?.contiguous()
}

/// `x * cos + rotate_half(x) * sin` over `[b, n, t, d]`.
fn rotate(ctx: &Ctx, x: &Tensor) -> CandleResult<Tensor> {
    let (b, t, half) = (ctx.batch.b, ctx.batch.t, ctx.heads.d / 2);
    let rows = || (0..b * t).map(|row| ctx.angles.row(row));
    let table = |numbers: Vec<f32>| {
        let table = Tensor::from_vec(numbers, (b, 1, t, half), &Device::Cpu)?.to_dtype(x.dtype())?;
        Tensor::cat(&[&table, &table], 3)
    };
    let cos = table(rows().flat_map(|(cos, _)| cos.to_vec()).collect())?;
    let sin = table(rows().flat_map(|(_, sin)| sin.to_vec()).collect())?;
    let turned = Tensor::cat(&[&x.narrow(3, half, half)?.neg()?, &x.narrow(3, 0, half)?], 3)?;
    x.broadcast_mul(&cos)? + turned.broadcast_mul(&sin)?
}

/// Softmax attention with the full mask, `[b, t, n_head * d]`.
fn attention(ctx: &Ctx, q: &Tensor, k: &Tensor, v: &Tensor) -> CandleResult<Tensor> {
    let (b, t, heads) = (ctx.batch.b, ctx.batch.t, ctx.heads);
    let repeat =
        |x: &Tensor| x.unsqueeze(2)?.repeat((1, 1, heads.group(), 1, 1))?.reshape((b, heads.n_head, t, heads.d));
    let scores = (q.matmul(&repeat(k)?.transpose(2, 3)?.contiguous()?)? / (heads.d as f64).sqrt())?;
    let hidden = |at: usize| {
        let (row, i, j) = (at / (t * t), at / t % t, at % t);
        j > i || j < ctx.batch.doc_starts[row * t + i] as usize
    };
    let mask: Vec<f32> = (0..b * t * t).map(|at| if hidden(at) { -1e9 } else { 0.0 }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (b, 1, t, t), &Device::Cpu)?.to_dtype(q.dtype())?)?;
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    p.matmul(&repeat(v)?.contiguous()?)?.transpose(1, 2)?.reshape((b, t, heads.q_dim()))
}

/// Log-prob, entropy and log-sum-exp, `[b * t]` each, unmasked; `w` is the final norm and the output projection.
pub(crate) fn head(ctx: &Ctx, x: &Tensor, w: &[Tensor]) -> CandleResult<[Tensor; 3]> {
    let n = ctx.batch.len();
    let normed = rms_norm(x, &w[0], ctx.model.config().norm_eps)?;
    let logits = linear(&normed, &w[1])?.reshape((n, ()))?;
    let top = logits.max_keepdim(1)?.detach();
    let logsumexp = (logits.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?.log()? + top)?;
    let log_p = logits.broadcast_sub(&logsumexp)?;
    let targets = Tensor::from_slice(&ctx.batch.targets, (n, 1), &Device::Cpu)?;
    let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?;
    Ok([log_p.gather(&targets, 1)?.squeeze(1)?, entropy, logsumexp.squeeze(1)?])
}

/// Autograd through `scalar(input, weights)`: adds the gradients of the weights at canonical indices `at` and returns the
/// gradient of the input, if there is one.
pub(crate) fn backward(
    ctx: &Ctx,
    input: Option<&Tensor>,
    at: &[usize],
    gradients: &mut Gradients,
    scalar: impl FnOnce(&Tensor, &[Tensor]) -> CandleResult<Tensor>,
) -> Result<Option<Tensor>> {
    let vars = at.iter().map(|&i| Var::from_tensor(&ctx.model.tensors()[i])).collect::<CandleResult<Vec<_>>>()?;
    let weights: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let placeholder = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    let input_var = Var::from_tensor(input.unwrap_or(&placeholder))?;
    let store = scalar(input_var.as_tensor(), &weights)?.backward()?;
    for (&i, var) in at.iter().zip(&vars) {
        if let Some(grad) = store.get(var) {
            super::add_to(&mut gradients.0[i], &grad.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    let grad = input.map(|x| store.get(&input_var).cloned().map_or_else(|| x.zeros_like(), |g| g.contiguous()));
    Ok(grad.transpose()?)
}
