//! Muon: momentum, then the nearest semi-orthogonal matrix by Newton and Schulz, for hidden matrices.
//!
//! In: gradient, weight and momentum of one matrix `[rows, cols]`. Out: the new ones in place. Jordan et al. 2024, "Muon: an
//! optimizer for hidden layers", with their quintic coefficients; momentum is a running mean as in `torch.optim.Muon`;
//! scales: "original" there, or matched to AdamW's step (Liu et al. 2025, eq. 4). We iterate in f32, PyTorch in bfloat16.
//! Products are this crate's `linear`, so the order of every sum is fixed; the norm is chunked as in `tree_sum`.

use crate::ops::Scalar;
use crate::ops::linear::{Packed, linear};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Coefficients of `a x + b x^3 + c x^5`, applied to singular values.
pub const QUINTIC: [f64; 3] = [3.4445, -4.775, 2.0315];
/// Smallest norm that a momentum is divided by.
const EPS: f64 = 1e-7;
/// Numbers per chunk of the norm; part of the definition of the result.
const CHUNK: usize = 4096;

/// How far Muon moves a matrix `[rows, cols]` at learning rate 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MuonScale {
    /// `0.2 sqrt(max(rows, cols))`: the root mean square of AdamW's steps, so that one learning rate fits both.
    #[default]
    Adamw,
    /// `sqrt(max(1, rows / cols))`: equal change of the output for any shape.
    Spectral,
}

impl MuonScale {
    /// The factor for a shape.
    pub fn factor(self, rows: usize, cols: usize) -> f64 {
        match self {
            Self::Adamw => 0.2 * (rows.max(cols) as f64).sqrt(),
            Self::Spectral => (rows as f64 / cols as f64).max(1.0).sqrt(),
        }
    }
}

/// Scalars of a Muon step.
#[derive(Clone, Copy)]
pub(crate) struct Muon {
    /// Factor of the gradient.
    pub clip: f64,
    /// Weights are multiplied by one minus this.
    pub decay: f64,
    /// Decay of the running mean, 0 to below 1.
    pub momentum: f64,
    /// Mix the gradient in once more.
    pub nesterov: bool,
    /// Iterations.
    pub iterations: u32,
    /// Scale.
    pub scale: MuonScale,
    /// Learning rate before scaling.
    pub lr: f64,
}

/// `x x^T` of `x: [rows, cols]`.
fn gram<T: Scalar>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    let mut y = vec![T::ZERO; rows * rows];
    linear(x, &Packed::transposed(x, rows, cols), &mut y);
    y
}

/// `a x` of `a: [n, n]` and `x: [n, cols]`.
fn times<T: Scalar>(a: &[T], x: &[T], n: usize, cols: usize) -> Vec<T> {
    let mut y = vec![T::ZERO; n * cols];
    linear(a, &Packed::plain(x, n, cols), &mut y);
    y
}

impl Muon {
    /// One step; `w`, `g` and `m` are `[rows, cols]`, `m` the running mean of gradients.
    pub fn update<T: Scalar>(self, g: &[T], w: &mut [T], m: &mut [T], rows: usize, cols: usize) {
        let (clip, beta, rest) = (T::of(self.clip), T::of(self.momentum), T::of(1.0 - self.momentum));
        let mut direction = Vec::with_capacity(g.len());
        for (g, m) in g.iter().zip(m.iter_mut()) {
            let g = *g * clip;
            *m = *m * beta + g * rest;
            direction.push(if self.nesterov { g * rest + *m * beta } else { *m });
        }
        let direction = orthogonal(direction, rows, cols, self.iterations);
        let (keep, rate) = (T::of(1.0 - self.decay), T::of(self.lr * self.scale.factor(rows, cols)));
        for (w, d) in w.iter_mut().zip(direction) {
            *w = *w * keep - rate * d;
        }
    }
}

/// `x: [rows, cols]` with its singular values pushed towards 1 by `iterations` of the quintic; all of them end in about 0.7 to
/// 1.2 after five. A matrix of zeros stays zero.
pub(crate) fn orthogonal<T: Scalar>(x: Vec<T>, rows: usize, cols: usize, iterations: u32) -> Vec<T> {
    if rows > cols {
        let wide = orthogonal(transposed(&x, rows, cols), cols, rows, iterations);
        return transposed(&wide, cols, rows);
    }
    let scale = T::of(norm(&x).max(EPS));
    let mut x: Vec<T> = x.into_iter().map(|v| v / scale).collect();
    let [a, b, c] = QUINTIC.map(T::of);
    for _ in 0..iterations {
        let gram = gram(&x, rows, cols);
        let square = times(&gram, &gram, rows, rows);
        let mixed: Vec<T> = gram.iter().zip(square).map(|(g, s)| b * *g + c * s).collect();
        let moved = times(&mixed, &x, rows, cols);
        x = x.iter().zip(moved).map(|(x, m)| a * *x + m).collect();
    }
    x
}

fn norm<T: Scalar>(x: &[T]) -> f64 {
    let mut sums: Vec<f64> = x.chunks(CHUNK).map(|c| c.iter().map(|v| v.wide() * v.wide()).sum()).collect();
    while sums.len() > 1 {
        sums = sums.chunks(2).map(|pair| pair.iter().sum()).collect();
    }
    sums.first().copied().unwrap_or(0.0).sqrt()
}

fn transposed<T: Copy>(x: &[T], rows: usize, cols: usize) -> Vec<T> {
    (0..cols).flat_map(|c| (0..rows).map(move |r| x[r * cols + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn draw(rows: usize, cols: usize) -> Vec<f64> {
        (0..(rows * cols) as u64).map(|i| Key::new(7).normal(i)).collect()
    }

    #[test]
    fn singular_values_end_near_one_for_wide_tall_and_square_matrices() {
        for (rows, cols) in [(5, 40), (40, 5), (12, 12), (1, 9), (9, 1)] {
            let x = orthogonal(draw(rows, cols), rows, cols, 5);
            let small = rows.min(cols);
            let wide = if rows > cols { transposed(&x, rows, cols) } else { x };
            let gram = gram(&wide, small, rows.max(cols));
            let trace: f64 = (0..small).map(|i| gram[i * small + i]).sum::<f64>() / small as f64;
            assert!((0.45..1.5).contains(&trace), "{rows} x {cols}: mean squared singular value {trace}");
        }
    }

    #[test]
    fn f32_follows_f64_and_its_bits_do_not_depend_on_threads() {
        let (rows, cols) = (70, 530);
        let wide = orthogonal(draw(rows, cols), rows, cols, 5);
        let single: Vec<f32> = draw(rows, cols).into_iter().map(|v| v as f32).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| orthogonal(single.clone(), rows, cols, 5))
        };
        let got = run(1);
        assert!(run(2) == got && run(5) == got);
        let apart: f64 = got.iter().zip(&wide).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
        assert!(apart / norm(&wide) < 1e-5, "{apart}");
    }

    #[test]
    fn zeros_stay_zero_and_scales_are_as_published() {
        assert!(orthogonal(vec![0.0_f64; 12], 3, 4, 5).iter().all(|x| *x == 0.0));
        assert_eq!(MuonScale::Spectral.factor(4, 16), 1.0);
        assert_eq!(MuonScale::Spectral.factor(16, 4), 2.0);
        assert_eq!(MuonScale::Adamw.factor(25, 100), 2.0);
    }
}
