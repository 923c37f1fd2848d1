//! The blocks of the tape: embedding, Transformer layer (its halves are `attention` and `mlp`), head.
//!
//! In: a carry. Out: the next carry and what backward needs; or a slope and parameter gradients. Each block has a fused
//! form and a composed one (`composed`), chosen by `Ctx::ops`. The order of blocks is the tape's business.

mod attention;
pub(crate) mod composed;
mod embedding;
mod head;
mod layer;
mod mlp;
pub(crate) mod parts;
mod shared;
mod shared_ends;

pub use embedding::Embedding;
pub(crate) use embedding::embed;
pub use head::Head;
pub(crate) use head::last_logits;
pub use layer::Layer;
pub(crate) use shared::Peers;

use crate::Result;
use crate::ops::Scalar;
use candle_core::{Device, Tensor};

/// Rows that one task of a backward pass takes; part of the order of sums of the norms' gains.
pub(crate) const ROWS: usize = 48;

/// Rows that one task of a forward pass takes; not part of the result.
pub(crate) fn task_rows(rows: usize) -> usize {
    rows.div_ceil(2 * rayon::current_num_threads()).next_multiple_of(6).clamp(6, ROWS)
}

/// A tensor that owns `data`.
pub(crate) fn tensor<T: Scalar, const N: usize>(data: Vec<T>, shape: [usize; N]) -> Result<Tensor> {
    Ok(Tensor::from_vec(data, shape.as_slice(), &Device::Cpu)?)
}

/// `total += part`.
pub(crate) fn add_to<T: Scalar>(total: &mut [T], part: &[T]) {
    for (t, p) in total.iter_mut().zip(part) {
        *t += *p;
    }
}
