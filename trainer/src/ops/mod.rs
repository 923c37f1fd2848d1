//! Fused operations on contiguous rows of f32 or f64 ([`Scalar`]), forward and backward.
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
pub mod cross_entropy_parts;
pub mod dropout;
pub mod embedding;
pub(crate) mod gemm;
pub mod layer_norm;
pub mod linear;
pub mod norm;
pub mod rms_norm;
pub mod rope;
mod scalar;
pub(crate) mod simd;
pub mod swiglu;
pub mod tree_sum;

pub use scalar::Scalar;

use crate::{Error, Result};
use candle_core::{Storage, Tensor};
use std::marker::PhantomData;

/// Read access to the numbers of a contiguous CPU tensor of type `T`.
pub struct View<'a, T = f32> {
    storage: candle_core::StorageRef<'a>,
    start: usize,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T: Scalar> std::ops::Deref for View<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            Storage::Cpu(data) => {
                let all = T::cpu_storage_as_slice(data).expect("of this type because `view` has checked it");
                &all[self.start..self.start + self.len]
            }
            _ => unreachable!("`view` has checked the device"),
        }
    }
}

/// The numbers of `tensor`, row-major.
pub fn view<T: Scalar>(tensor: &Tensor) -> Result<View<'_, T>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = match &*storage {
        Storage::Cpu(data) if T::cpu_storage_as_slice(data).is_ok() => layout.contiguous_offsets(),
        _ => None,
    };
    let kind = T::DTYPE.as_str();
    let (start, end) = range.ok_or_else(|| Error::Format(format!("expected a contiguous {kind} tensor on the CPU")))?;
    Ok(View { storage, start, len: end - start, numbers: PhantomData })
}
