//! What travels between ranks: numbers of one type, and the sum of several ranks' numbers.
//!
//! In: one buffer per rank, in rank order. Out: their sum by the binary tree of `ops::tree_sum`, element by element, so any cut
//! of a buffer into pieces gives the same bits.

use crate::ops::Scalar;
use crate::{Error, Result};
use candle_core::{CpuStorage, DType};
use rayon::prelude::*;
use std::ops::{Add, Range};

/// Numbers of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Buffer {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision: losses, norms.
    F64(Vec<f64>),
    /// Anything else, as bytes; cannot be summed.
    Bytes(Vec<u8>),
}

impl From<Vec<f32>> for Buffer {
    fn from(data: Vec<f32>) -> Self {
        Self::F32(data)
    }
}

impl From<Vec<f64>> for Buffer {
    fn from(data: Vec<f64>) -> Self {
        Self::F64(data)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(data: Vec<u8>) -> Self {
        Self::Bytes(data)
    }
}

/// Numbers per task of a sum; not part of the result.
const CHUNK: usize = 1 << 14;

impl Buffer {
    /// Numbers (or bytes).
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F64(data) => data.len(),
            Self::Bytes(data) => data.len(),
        }
    }

    /// True if it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers, if they are f32.
    pub fn into_f32(self) -> Result<Vec<f32>> {
        match self {
            Self::F32(data) => Ok(data),
            other => Err(other.unlike("f32")),
        }
    }

    /// The numbers, if they are f64.
    pub fn into_f64(self) -> Result<Vec<f64>> {
        match self {
            Self::F64(data) => Ok(data),
            other => Err(other.unlike("f64")),
        }
    }

    /// Numbers of either type.
    pub(crate) fn of<T: Scalar>(data: Vec<T>) -> Self {
        match T::to_cpu_storage_owned(data) {
            CpuStorage::F32(data) => Self::F32(data),
            CpuStorage::F64(data) => Self::F64(data),
            _ => unreachable!("there are two scalar types"),
        }
    }

    /// The numbers, if they are of type `T`.
    pub(crate) fn into_numbers<T: Scalar>(self) -> Result<Vec<T>> {
        match self {
            Self::F32(data) if T::DTYPE == DType::F32 => Ok(T::cpu_storage_data(CpuStorage::F32(data))?),
            Self::F64(data) if T::DTYPE == DType::F64 => Ok(T::cpu_storage_data(CpuStorage::F64(data))?),
            other => Err(other.unlike(T::DTYPE.as_str())),
        }
    }

    /// The bytes, if they are bytes.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(data) => Ok(data),
            other => Err(other.unlike("bytes")),
        }
    }

    fn unlike(&self, expected: &str) -> Error {
        Error::Format(format!("a rank sent {} {}, expected {expected}", self.len(), self.kind()))
    }

    /// Name of the type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bytes(_) => "bytes",
        }
    }

    /// A copy of a part.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::F32(data) => Self::F32(data[range].to_vec()),
            Self::F64(data) => Self::F64(data[range].to_vec()),
            Self::Bytes(data) => Self::Bytes(data[range].to_vec()),
        }
    }

    /// One after the other; at least one, all of one type.
    pub(crate) fn joined(parts: Vec<Self>) -> Result<Self> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().expect("one part per rank because there is at least one rank");
        for part in parts {
            match (&mut all, part) {
                (Self::F32(all), Self::F32(part)) => all.extend(part),
                (Self::F64(all), Self::F64(part)) => all.extend(part),
                (Self::Bytes(all), Self::Bytes(part)) => all.extend(part),
                (all, part) => return Err(part.unlike(all.kind())),
            }
        }
        Ok(all)
    }

    /// The sum of one buffer per rank, in rank order; all of one type and length.
    pub(crate) fn sum(parts: Vec<Self>) -> Result<Self> {
        let (kind, len) = (parts[0].kind(), parts[0].len());
        if let Some((rank, other)) = parts.iter().enumerate().find(|(_, p)| p.kind() != kind || p.len() != len) {
            let got = format!("{} {}", other.len(), other.kind());
            return Err(Error::Format(format!("a sum over ranks: rank {rank} gave {got}, rank 0 gave {len} {kind}")));
        }
        match kind {
            "f32" => Ok(Self::F32(tree(parts.into_iter().map(Self::into_f32).collect::<Result<_>>()?))),
            "f64" => Ok(Self::F64(tree(parts.into_iter().map(Self::into_f64).collect::<Result<_>>()?))),
            _ => Err(Error::Format("a sum over ranks: bytes cannot be summed".into())),
        }
    }
}

/// The sum of the leaves by a binary tree; leftover subtrees join smallest first, as in `ops::tree_sum`.
fn tree<T: Copy + Add<Output = T> + Send + Sync>(leaves: Vec<Vec<T>>) -> Vec<T> {
    let mut partials: Vec<(u32, Vec<T>)> = Vec::new();
    for leaf in leaves {
        let mut node = (0, leaf);
        while partials.last().is_some_and(|(level, _)| *level == node.0) {
            let (level, left) = partials.pop().expect("just seen");
            node = (level + 1, added(left, &node.1));
        }
        partials.push(node);
    }
    let (_, mut right) = partials.pop().expect("one leaf per rank because there is at least one rank");
    while let Some((_, left)) = partials.pop() {
        right = added(left, &right);
    }
    right
}

fn added<T: Copy + Add<Output = T> + Send + Sync>(mut left: Vec<T>, right: &[T]) -> Vec<T> {
    left.par_chunks_mut(CHUNK).zip(right.par_chunks(CHUNK)).for_each(|(left, right)| {
        for (l, r) in left.iter_mut().zip(right) {
            *l = *l + *r;
        }
    });
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tree_sum::TreeSum;

    #[test]
    fn sums_are_those_of_the_tree_over_micro_batches() {
        for n in 1..20 {
            let leaf = |i: usize| (0..7).map(|j| 1.0 / (3.0 + (i * 7 + j) as f32)).collect::<Vec<f32>>();
            let mut want = TreeSum::default();
            (0..n).for_each(|i| want.push(vec![leaf(i)]));
            let got = Buffer::sum((0..n).map(|i| leaf(i).into()).collect()).unwrap();
            assert_eq!(got.into_f32().unwrap(), want.finish().unwrap()[0]);
        }
    }

    #[test]
    fn lengths_and_types_that_differ_are_named_with_their_rank() {
        let error = Buffer::sum(vec![vec![1.0_f32].into(), vec![1.0_f32, 2.0].into()]).unwrap_err().to_string();
        assert!(error.contains("rank 1 gave 2 f32") && error.contains("rank 0 gave 1 f32"), "{error}");
        assert!(Buffer::sum(vec![vec![1.0_f32].into(), vec![1.0_f64].into()]).is_err());
        assert!(Buffer::sum(vec![vec![1_u8].into()]).is_err());
    }
}
