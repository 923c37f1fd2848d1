//! SwiGLU: `h = silu(gate) * up`, forward and backward, element by element.
//!
//! In: `gate` and `up` of equal length. Out: `h`, or the gradients of both; backward recomputes the sigmoid and `h`.
//! Shazeer 2020.

use super::Scalar;
use super::simd::{exp, multiversion};

multiversion! {
    /// `h = gate * sigmoid(gate) * up`.
    pub fn forward<T: Scalar>(gate: &[T], up: &[T], h: &mut [T]) {
        for ((g, u), h) in gate.iter().zip(up).zip(h) {
            *h = *g / (T::ONE + exp(-*g)) * *u;
        }
    }
}

multiversion! {
    /// From `dh`: `d_gate`, `d_up` and, once more, `h` (the same bits as [`forward`]).
    pub fn backward<T: Scalar>(gate: &[T], up: &[T], dh: &[T], d_gate: &mut [T], d_up: &mut [T], h: &mut [T]) {
        let n = gate.len();
        let (up, dh, d_gate, d_up, h) = (&up[..n], &dh[..n], &mut d_gate[..n], &mut d_up[..n], &mut h[..n]);
        for i in 0..n {
            let (g, u) = (gate[i], up[i]);
            let denominator = T::ONE + exp(-g);
            let silu = g / denominator;
            let sigmoid = T::ONE / denominator;
            h[i] = silu * u;
            d_up[i] = dh[i] * silu;
            d_gate[i] = dh[i] * u * silu.mul_add(T::ONE - sigmoid, sigmoid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_equal_finite_differences_in_f64() {
        let gate = [-90.0_f32, -8.0, -1.5, -0.2, 0.0, 0.4, 3.0, 20.0, 90.0];
        let up = [0.7_f32, -1.0, 2.0, 0.3, 1.0, -0.9, 0.1, 1.5, -2.0];
        let dh = [1.0_f32; 9];
        let formula = |g: f64, u: f64| g / (1.0 + (-g).exp()) * u;
        let (mut dg, mut du, mut h, mut again) = ([0.0; 9], [0.0; 9], [0.0; 9], [0.0; 9]);
        forward(&gate, &up, &mut h);
        backward(&gate, &up, &dh, &mut dg, &mut du, &mut again);
        assert_eq!(h, again);
        for i in 0..9 {
            let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
            let near = |a: f32, b: f64| assert!((f64::from(a) - b).abs() <= 1e-6 * (1.0 + b.abs()), "{i}: {a} {b}");
            near(h[i], formula(g, u));
            near(dg[i], (formula(g + 1e-5, u) - formula(g - 1e-5, u)) / 2e-5);
            near(du[i], (formula(g, u + 1e-5) - formula(g, u - 1e-5)) / 2e-5);
        }
    }
}
