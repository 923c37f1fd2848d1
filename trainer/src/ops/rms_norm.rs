//! RMSNorm: `y = x / sqrt(mean(x^2) + eps) * w`, forward and backward, row by row.
//!
//! In: rows `[rows, c]` and a gain `[c]`. Out: rows, and the inverse root mean square per row, which backward needs.
//! Statistics in T with 16 fixed lanes. Zhang & Sennrich 2019.

use super::Scalar;
use super::simd::{dot, fold2, multiversion};

multiversion! {
    /// `y: [rows, c]` and `inverse: [rows]` from `x: [rows, c]`, `w: [c]`.
    pub fn forward<T: Scalar>(x: &[T], w: &[T], eps: f64, y: &mut [T], inverse: &mut [T]) {
        let c = w.len();
        for ((x, y), inverse) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(inverse) {
            let r = T::ONE / (dot(x, x) / T::of(c as f64) + T::of(eps)).sqrt();
            *inverse = r;
            for i in 0..c {
                y[i] = x[i] * r * w[i];
            }
        }
    }
}

multiversion! {
    /// Recomputes `y` from the kept `inverse`: the same bits as [`forward`].
    pub fn again<T: Scalar>(x: &[T], w: &[T], inverse: &[T], y: &mut [T]) {
        let c = w.len();
        for ((x, y), r) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(inverse) {
            for i in 0..c {
                y[i] = x[i] * *r * w[i];
            }
        }
    }
}

multiversion! {
    /// Adds to `dx: [rows, c]` and `dw: [c]` what `dy: [rows, c]` means for them; rows in order.
    pub fn backward<T: Scalar>(x: &[T], w: &[T], inverse: &[T], dy: &[T], dx: &mut [T], dw: &mut [T]) {
        let c = w.len();
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)).zip(inverse);
        let mut scaled = vec![T::ZERO; c];
        for (((x, dy), dx), &r) in rows {
            for i in 0..c {
                scaled[i] = dy[i] * w[i];
                dw[i] = (dy[i] * x[i]).mul_add(r, dw[i]);
            }
            let inner = fold2(&scaled, x, |acc, a: T, b| a.mul_add(b, acc));
            let pull = r * r * r * inner / T::of(c as f64);
            for i in 0..c {
                dx[i] += scaled[i].mul_add(r, -(x[i] * pull));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device, Tensor, Var};

    #[test]
    fn forward_and_gradients_equal_candle_autograd_at_odd_widths() {
        for (rows, c) in [(1, 1), (3, 7), (5, 128), (2, 37)] {
            let key = crate::rng::Key::new(4);
            let make = |n: usize, s: u64| (0..n as u64).map(|i| key.fold(s).normal(i) as f32).collect::<Vec<_>>();
            let (x, w, dy) = (make(rows * c, 1), make(c, 2), make(rows * c, 3));
            let tx = Var::from_slice(&x, (rows, c), &Device::Cpu).unwrap();
            let tw = Var::from_slice(&w, c, &Device::Cpu).unwrap();
            let mean = tx.sqr().unwrap().mean_keepdim(D::Minus1).unwrap();
            let ty = tx.broadcast_div(&(mean + 1e-5).unwrap().sqrt().unwrap()).unwrap().broadcast_mul(&tw).unwrap();
            let tdy = Tensor::from_slice(&dy, (rows, c), &Device::Cpu).unwrap();
            let grads = (&ty * &tdy).unwrap().sum_all().unwrap().backward().unwrap();
            let (mut y, mut inverse) = (vec![0.0; rows * c], vec![0.0; rows]);
            forward(&x, &w, 1e-5, &mut y, &mut inverse);
            let (mut dx, mut dw) = (vec![0.0; rows * c], vec![0.0; c]);
            backward(&x, &w, &inverse, &dy, &mut dx, &mut dw);
            let mut twice = vec![0.0; rows * c];
            again(&x, &w, &inverse, &mut twice);
            assert_eq!(y, twice);
            for (got, want) in [(y, &ty), (dx, grads.get(&tx).unwrap()), (dw, grads.get(&tw).unwrap())] {
                let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (a, b) in got.iter().zip(&want) {
                    assert!((a - b).abs() <= 2e-5 * (1.0 + b.abs()), "{a} {b}");
                }
            }
        }
    }
}
