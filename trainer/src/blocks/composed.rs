//! The blocks in plain candle operations: the reference for the fused ones, and their stand-in (`Ops::Composed`).
//!
//! In: the block's input and weights as tensors of any float type. Out: tensors that candle's autograd can walk back.
//! Every operation used here has a backward; candle-nn's fused ones do not and are not used.

use crate::Result;
use crate::family::{Mlp, Placement, Position, QkNorm};
use crate::layout::Part;
use crate::ops::Scalar;
use crate::ops::dropout::{Dropout, Place};
use crate::ops::embedding::sinusoid;
use crate::tape::{Ctx, Gradients};
use candle_core::{D, Device, Tensor, Var};

type CandleResult<T> = candle_core::Result<T>;

/// `[b, t, c]` from the table and, if positions are learned, their table.
pub(crate) fn embedding<T: Scalar>(ctx: &Ctx<T>, w: &[Tensor]) -> CandleResult<Tensor> {
    let (n, config) = (ctx.batch.len(), ctx.model.config());
    let rows = |ids: &[u32], table: &Tensor| table.index_select(&Tensor::from_slice(ids, n, &Device::Cpu)?, 0);
    let mut x = (rows(&ctx.batch.ids, &w[0])? * config.family.embedding_scale)?;
    match config.family.position {
        Position::Learned => x = (x + rows(&ctx.batch.positions, &w[1])?)?,
        Position::Sinusoidal => {
            let mut waves = vec![T::ZERO; n * config.n_embd];
            for (row, &p) in waves.chunks_exact_mut(config.n_embd).zip(&ctx.batch.positions) {
                sinusoid(config.rope_theta, p, row);
            }
            x = (x + Tensor::from_vec(waves, (n, config.n_embd), &Device::Cpu)?)?;
        }
        Position::Rope | Position::None => {}
    }
    drop_out(ctx, x.reshape((ctx.batch.b, ctx.batch.t, ()))?, Place::Embedding)
}

/// `x` times the mask of this place.
fn drop_out<T: Scalar>(ctx: &Ctx<T>, x: Tensor, place: Place) -> CandleResult<Tensor> {
    let (b, t, c) = x.dims3()?;
    let Some(dropout) = Dropout::new(ctx.model.config().family.dropout, ctx.noise, place, b, t, c) else {
        return Ok(x);
    };
    let mut mask = vec![T::ONE; b * t * c];
    dropout.apply(&mut mask, 0);
    x * Tensor::from_vec(mask, (b, t, c), &Device::Cpu)?
}

/// `x / sqrt(mean(x^2) + eps) * w`; with a bias `(x - mean(x)) / sqrt(var(x) + eps) * w + b`.
pub(crate) fn norm(x: &Tensor, w: &Tensor, b: Option<&Tensor>, eps: f64) -> CandleResult<Tensor> {
    let x = if b.is_some() { x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)? } else { x.clone() };
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let y = x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(w)?;
    b.map_or(Ok(y.clone()), |b| y.broadcast_add(b))
}

/// `x w^T` over the last axis.
fn linear(x: &Tensor, w: &Tensor) -> CandleResult<Tensor> {
    x.broadcast_matmul(&w.t()?)
}

/// The weights of one layer by part.
struct Weights<'a, T> {
    ctx: &'a Ctx<'a, T>,
    l: usize,
    w: &'a [Tensor],
}

impl<T: Scalar> Weights<'_, T> {
    fn get(&self, part: Part) -> Option<&Tensor> {
        self.ctx.model.layout().part(0, part).map(|at| &self.w[at])
    }

    fn linear(&self, x: &Tensor, matrix: Part, bias: Part) -> CandleResult<Tensor> {
        let y = linear(x, self.get(matrix).expect("callers ask for matrices that the family has"))?;
        self.get(bias).map_or(Ok(y.clone()), |b| y.broadcast_add(b))
    }

    /// The norm, or `x` if the family has none here.
    fn norm(&self, x: &Tensor, gain: Part, bias: Part) -> CandleResult<Tensor> {
        let eps = self.ctx.model.config().norm_eps;
        self.get(gain).map_or(Ok(x.clone()), |w| norm(x, w, self.get(bias), eps))
    }

    /// The stream after a half of the layer has added `z`.
    fn end(&self, x: &Tensor, z: Tensor, gain: Part, bias: Part, place: Place) -> CandleResult<Tensor> {
        if self.ctx.model.config().family.placement == Placement::Post {
            return self.norm(&(x + drop_out(self.ctx, z, place)?)?, gain, bias);
        }
        x + drop_out(self.ctx, self.norm(&z, gain, bias)?, place)?
    }

    /// `[b, n, t, d]`, normed and rotated, from a projection `[b, t, n * d]`.
    fn heads(&self, x: &Tensor, n: usize, gain: Option<Part>) -> CandleResult<Tensor> {
        let (ctx, d) = (self.ctx, self.ctx.model.config().head_dim());
        let (b, t, eps) = (ctx.batch.b, ctx.batch.t, ctx.model.config().norm_eps);
        let gain = gain.and_then(|part| self.get(part));
        let x = match (ctx.model.config().family.qk_norm, gain) {
            (QkNorm::Full, Some(w)) => norm(x, w, None, eps)?.reshape((b, t, n, d))?,
            (QkNorm::Head, Some(w)) => norm(&x.reshape((b, t, n, d))?, w, None, eps)?,
            _ => x.reshape((b, t, n, d))?,
        };
        x.transpose(1, 2)?.contiguous()
    }

    fn activation(&self, x: &Tensor) -> CandleResult<Tensor> {
        let kind = self.ctx.model.config().family.mlp;
        let up = self.linear(x, Part::Up, Part::UpBias)?;
        let gate = kind.gated().then(|| self.linear(x, Part::Gate, Part::GateBias)).transpose()?;
        match (kind, gate) {
            (Mlp::Swiglu, Some(gate)) => (&gate / (gate.neg()?.exp()? + 1.0)?)? * up,
            (_, Some(gate)) => gelu(&gate)? * up,
            (Mlp::Relu2, None) => up.relu()?.sqr(),
            (Mlp::Gelu, None) => gelu(&up),
            (Mlp::GeluErf, None) => (&up * ((&up * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?)? * 0.5,
            (_, None) => up.relu(),
        }
    }
}

/// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
fn gelu(x: &Tensor) -> CandleResult<Tensor> {
    let inner = ((x + (x * x.sqr()?)? * 0.044715)? * (2.0 / std::f64::consts::PI).sqrt())?;
    (x * (inner.tanh()? + 1.0)?)? * 0.5
}

/// One layer, `[b, t, c]`; weights in canonical order.
pub(crate) fn layer<T: Scalar>(ctx: &Ctx<T>, l: usize, x: &Tensor, w: &[Tensor]) -> CandleResult<Tensor> {
    let (w, config) = (Weights { ctx, l, w }, ctx.model.config());
    let normed = w.norm(x, Part::InputNorm, Part::InputNormBias)?;
    let project = |matrix: Part, bias: Part| w.linear(&normed, matrix, bias);
    let q = w.heads(&project(Part::Query, Part::QueryBias)?, config.n_head, Some(Part::QueryNorm))?;
    let k = w.heads(&project(Part::Key, Part::KeyBias)?, config.n_kv_head, Some(Part::KeyNorm))?;
    let v = w.heads(&project(Part::Value, Part::ValueBias)?, config.n_kv_head, None)?;
    let attended = attention(ctx, w.l, &rotate(ctx, l, &q)?, &rotate(ctx, l, &k)?, &v)?;
    let added = w.linear(&attended, Part::Output, Part::OutputBias)?;
    let middle = w.end(x, added, Part::AttentionNorm, Part::AttentionNormBias, Place::Attention(l))?;
    let normed = w.norm(&middle, Part::MlpNorm, Part::MlpNormBias)?;
    let added = w.linear(&w.activation(&normed)?, Part::Down, Part::DownBias)?;
    w.end(&middle, added, Part::FinishNorm, Part::FinishNormBias, Place::Mlp(l))
}

/// `x * cos + rotate_half(x) * sin` over the rotated front of `[b, n, t, d]`.
fn rotate<T: Scalar>(ctx: &Ctx<T>, l: usize, x: &Tensor) -> CandleResult<Tensor> {
    let Some(angles) = ctx.angles(l) else { return Ok(x.clone()) };
    let (b, t, d, half) = (ctx.batch.b, ctx.batch.t, x.dim(3)?, angles.row(0).0.len());
    let rows = || (0..b * t).map(|row| angles.row(row));
    let table = |numbers: Vec<f32>| {
        let table = Tensor::from_vec(numbers, (b, 1, t, half), &Device::Cpu)?.to_dtype(x.dtype())?;
        Tensor::cat(&[&table, &table], 3)
    };
    let cos = table(rows().flat_map(|(cos, _)| cos.to_vec()).collect())?;
    let sin = table(rows().flat_map(|(_, sin)| sin.to_vec()).collect())?;
    let turned = Tensor::cat(&[&x.narrow(3, half, half)?.neg()?, &x.narrow(3, 0, half)?], 3)?;
    let front = (x.narrow(3, 0, 2 * half)?.broadcast_mul(&cos)? + turned.broadcast_mul(&sin)?)?;
    if 2 * half == d { Ok(front) } else { Tensor::cat(&[&front, &x.narrow(3, 2 * half, d - 2 * half)?], 3) }
}

/// Softmax attention with the full mask, `[b, t, n_head * d]`.
fn attention<T: Scalar>(ctx: &Ctx<T>, l: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> CandleResult<Tensor> {
    let (b, t, heads) = (ctx.batch.b, ctx.batch.t, ctx.model.config().heads(l));
    let repeat =
        |x: &Tensor| x.unsqueeze(2)?.repeat((1, 1, heads.group(), 1, 1))?.reshape((b, heads.n_head, t, heads.d));
    let mut scores = (q.matmul(&repeat(k)?.transpose(2, 3)?.contiguous()?)? * heads.scale)?;
    if heads.softcap > 0.0 {
        scores = ((scores / heads.softcap)?.tanh()? * heads.softcap)?;
    }
    let hidden = |at: usize| {
        let (row, i, j) = (at / (t * t), at / t % t, at % t);
        j > i || j < ctx.batch.doc_starts[row * t + i] as usize || i - j >= heads.window
    };
    let mask: Vec<f32> = (0..b * t * t).map(|at| if hidden(at) { -1e9 } else { 0.0 }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (b, 1, t, t), &Device::Cpu)?.to_dtype(q.dtype())?)?;
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    p.matmul(&repeat(v)?.contiguous()?)?.transpose(1, 2)?.reshape((b, t, heads.q_dim()))
}

/// Log-prob, entropy and log-sum-exp, `[b * t]` each, unmasked; `w` is the output projection, then the final norm's
/// gain and bias.
pub(crate) fn head<T: Scalar>(ctx: &Ctx<T>, x: &Tensor, w: &[Tensor]) -> CandleResult<[Tensor; 3]> {
    let n = ctx.batch.len();
    let config = ctx.model.config();
    let normed = norm(x, &w[1], w.get(2), config.norm_eps)?;
    let mut logits = linear(&normed, &w[0])?.reshape((n, ()))?;
    if let Some(cap) = config.family.logit_softcap {
        logits = ((logits / cap)?.tanh()? * cap)?;
    }
    let top = logits.max_keepdim(1)?.detach();
    let logsumexp = (logits.broadcast_sub(&top)?.exp()?.sum_keepdim(1)?.log()? + top)?;
    let log_p = logits.broadcast_sub(&logsumexp)?;
    let targets = Tensor::from_slice(&ctx.batch.targets, (n, 1), &Device::Cpu)?;
    let entropy = (log_p.exp()? * &log_p)?.sum(1)?.neg()?;
    Ok([log_p.gather(&targets, 1)?.squeeze(1)?, entropy, logsumexp.squeeze(1)?])
}

/// Autograd through `scalar(input, weights)`: adds the gradients of the weights at canonical indices `at` and returns the
/// gradient of the input, if there is one.
pub(crate) fn backward<T: Scalar>(
    ctx: &Ctx<T>,
    input: Option<&Tensor>,
    at: &[usize],
    gradients: &mut Gradients<T>,
    scalar: impl FnOnce(&Tensor, &[Tensor]) -> CandleResult<Tensor>,
) -> Result<Option<Tensor>> {
    let vars = at.iter().map(|&i| Var::from_tensor(&ctx.model.tensors()[i])).collect::<CandleResult<Vec<_>>>()?;
    let weights: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let placeholder = Tensor::zeros(1, T::DTYPE, &Device::Cpu)?;
    let input_var = Var::from_tensor(input.unwrap_or(&placeholder))?;
    let store = scalar(input_var.as_tensor(), &weights)?.backward()?;
    for (&i, var) in at.iter().zip(&vars) {
        if let Some(grad) = store.get(var) {
            super::add_to(&mut gradients.0[i], &grad.flatten_all()?.to_vec1::<T>()?);
        }
    }
    let grad = input.map(|x| store.get(&input_var).cloned().map_or_else(|| x.zeros_like(), |g| g.contiguous()));
    Ok(grad.transpose()?)
}
