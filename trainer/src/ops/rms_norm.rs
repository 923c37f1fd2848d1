//! RMSNorm: `y = x / sqrt(mean(x^2) + eps) * w`, forward and backward, row by row.
//!
//! In: rows `[rows, c]` and a gain `[c]`. Out: rows, and the inverse root mean square per row, which backward needs.
//! Statistics in f32 with 16 fixed lanes. Zhang & Sennrich 2019.

use super::simd::{dot, fold2, multiversion};

multiversion! {
    /// `y: [rows, c]` and `inverse: [rows]` from `x: [rows, c]`, `w: [c]`.
    pub fn forward(x: &[f32], w: &[f32], eps: f64, y: &mut [f32], inverse: &mut [f32]) {
        let c = w.len();
        for ((x, y), inverse) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(inverse) {
            let r = 1.0 / (dot(x, x) / c as f32 + eps as f32).sqrt();
            *inverse = r;
            for i in 0..c {
                y[i] = x[i] * r * w[i];
            }
        }
    }
}

multiversion! {
    /// Recomputes `y` from the kept `inverse`: the same bits as [`forward`].
    pub fn again(x: &[f32], w: &[f32], inverse: &[f32], y: &mut [f32]) {
        let c = w.len();
        for ((x, y), r) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(inverse) {
            for i in 0..c {
                y[i] = x[i] * r * w[i];
            }
        }
    }
}

multiversion! {
    /// Adds to `dx: [rows, c]` and `dw: [c]` what `dy: [rows, c]` means for them; rows in order.
    pub fn backward(x: &[f32], w: &[f32], inverse: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let c = w.len();
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)).zip(inverse);
        let mut scaled = vec![0.0; c];
        for (((x, dy), dx), &r) in rows {
            for i in 0..c {
                scaled[i] = dy[i] * w[i];
                dw[i] = (dy[i] * x[i]).mul_add(r, dw[i]);
            }
            let inner = fold2(&scaled, x, |acc, a, b| a.mul_add(b, acc));
            let pull = r * r * r * inner / c as f32;
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
