//! LayerNorm: `y = (x - mean(x)) / sqrt(var(x) + eps) * w + b`, forward and backward, row by row.
//!
//! In: rows `[rows, c]`, a gain and a bias `[c]`. Out: rows, and per row the mean and the inverse deviation, which backward
//! needs. The variance is that of the centred row, in T with 16 fixed lanes. Ba et al. 2016.

use super::Scalar;
use super::simd::{fold2, multiversion};

multiversion! {
    /// `y: [rows, c]` and `stats: [rows, 2]` (mean, inverse deviation) from `x: [rows, c]`, `w, b: [c]`.
    pub fn forward<T: Scalar>(x: &[T], w: &[T], b: &[T], eps: f64, y: &mut [T], stats: &mut [T]) {
        let c = w.len();
        let b = &b[..c];
        for ((x, y), stats) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(stats.as_chunks_mut::<2>().0) {
            let mean = fold2(x, x, |acc, a, _| acc + a) / T::of(c as f64);
            for i in 0..c {
                y[i] = x[i] - mean;
            }
            let r = T::ONE / (fold2(y, y, |acc, a: T, b| a.mul_add(b, acc)) / T::of(c as f64) + T::of(eps)).sqrt();
            *stats = [mean, r];
            for i in 0..c {
                y[i] = (y[i] * r).mul_add(w[i], b[i]);
            }
        }
    }
}

multiversion! {
    /// Recomputes `y` from the kept `stats`: the same bits as [`forward`].
    pub fn again<T: Scalar>(x: &[T], w: &[T], b: &[T], stats: &[T], y: &mut [T]) {
        let c = w.len();
        let b = &b[..c];
        for ((x, y), [mean, r]) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)).zip(stats.as_chunks::<2>().0) {
            for i in 0..c {
                y[i] = ((x[i] - *mean) * *r).mul_add(w[i], b[i]);
            }
        }
    }
}

multiversion! {
    /// Adds to `dx: [rows, c]`, `dw: [c]` and `db: [c]` what `dy: [rows, c]` means for them; rows in order.
    pub fn backward<T: Scalar>(x: &[T], w: &[T], stats: &[T], dy: &[T], dx: &mut [T], dw: &mut [T], db: &mut [T]) {
        let c = w.len();
        let rows = x.chunks_exact(c).zip(dy.chunks_exact(c)).zip(dx.chunks_exact_mut(c)).zip(stats.as_chunks::<2>().0);
        let (mut scaled, mut unit) = (vec![T::ZERO; c], vec![T::ZERO; c]);
        for (((x, dy), dx), &[mean, r]) in rows {
            for i in 0..c {
                unit[i] = (x[i] - mean) * r;
                scaled[i] = dy[i] * w[i];
                dw[i] = dy[i].mul_add(unit[i], dw[i]);
                db[i] += dy[i];
            }
            let level = fold2(&scaled, &scaled, |acc, a, _| acc + a) / T::of(c as f64);
            let pull = fold2(&scaled, &unit, |acc, a: T, b| a.mul_add(b, acc)) / T::of(c as f64);
            for i in 0..c {
                dx[i] += (scaled[i] - level - unit[i] * pull) * r;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn formula(x: &[f64], w: &[f32], b: &[f32], eps: f64) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().sum::<f64>() / n;
        let r = 1.0 / (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n + eps).sqrt();
        x.iter().zip(w.iter().zip(b)).map(|(x, (w, b))| (x - mean) * r * f64::from(*w) + f64::from(*b)).collect()
    }

    #[test]
    fn forward_equals_the_formula_and_gradients_finite_differences_at_odd_widths() {
        for (rows, c) in [(1, 2), (3, 7), (2, 37), (2, 64)] {
            let make = |s: u64, n: usize| -> Vec<f32> { (0..n as u64).map(|i| Key::new(s).normal(i) as f32).collect() };
            let (x, w, b, dy) = (make(1, rows * c), make(2, c), make(3, c), make(4, rows * c));
            let (mut y, mut stats, mut again_y) = (vec![0.0; rows * c], vec![0.0; rows * 2], vec![0.0; rows * c]);
            forward(&x, &w, &b, 1e-2, &mut y, &mut stats);
            again(&x, &w, &b, &stats, &mut again_y);
            assert_eq!(y, again_y);
            let (mut dx, mut dw, mut db) = (vec![0.0; rows * c], vec![0.0; c], vec![0.0; c]);
            backward(&x, &w, &stats, &dy, &mut dx, &mut dw, &mut db);
            let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() <= 3e-6 * (1.0 + b.abs()), "{a} {b}");
            for r in 0..rows {
                let range = r * c..(r + 1) * c;
                let dot = |y: Vec<f64>| y.iter().zip(&dy[range.clone()]).map(|(y, d)| y * f64::from(*d)).sum::<f64>();
                for (got, want) in y[range.clone()].iter().zip(formula(&wide[range.clone()], &w, &b, 1e-2)) {
                    near(*got, want);
                }
                for i in 0..c {
                    let at = |step: f64| {
                        let mut row = wide[range.clone()].to_vec();
                        row[i] += step;
                        dot(formula(&row, &w, &b, 1e-2))
                    };
                    near(dx[r * c + i], (at(1e-5) - at(-1e-5)) / 2e-5);
                }
            }
            for i in 0..c {
                let unit = |r: usize| formula(&wide[r * c..(r + 1) * c], &vec![1.0; c], &vec![0.0; c], 1e-2)[i];
                near(dw[i], (0..rows).map(|r| unit(r) * f64::from(dy[r * c + i])).sum());
                near(db[i], (0..rows).map(|r| f64::from(dy[r * c + i])).sum());
            }
        }
    }
}
