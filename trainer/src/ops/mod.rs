//! Fused operations on contiguous f32 rows, forward and backward.
//!
//! In and out: slices, row-major, shapes beside each function. Every function gives the same bits for any number of
//! threads, and every row's result is independent of the other rows of the call. Each file ends with the plain candle
//! formula that it is tested against. What is kept for backward is `tape`'s decision.

// One module per line.
pub mod activation;
pub mod attention;
mod attention_backward;
#[cfg(test)]
mod attention_tests;
pub mod bias;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub(crate) mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod norm;
pub mod rms_norm;
pub mod rope;
pub(crate) mod simd;
pub mod swiglu;
pub mod tree_sum;

use crate::{Error, Result};
use candle_core::{CpuStorage, Storage, Tensor};

/// Read access to the numbers of a contiguous f32 CPU tensor.
pub struct View<'a> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
}

impl std::ops::Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(data)) => &data[self.start..self.start + self.len],
            _ => unreachable!("`view` has checked device and type"),
        }
    }
}

/// The numbers of `tensor`, row-major.
pub fn view(tensor: &Tensor) -> Result<View<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => layout.contiguous_offsets(),
        _ => None,
    };
    let (start, end) = range.ok_or_else(|| Error::Format("expected a contiguous f32 tensor on the CPU".into()))?;
    Ok(View { storage, start, len: end - start })
}
