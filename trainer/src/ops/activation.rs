//! The feed-forward's inner function: gated (SwiGLU, GeGLU) or plain (ReLU, its square, two forms of GELU), element by element.
//!
//! In: `up` and, if gated, `gate`, of equal length. Out: `h`, or the gradients of both; backward recomputes `h` to the same
//! bits. GELU's tanh form is `x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))`, the exact one `x * erfc(-x / sqrt 2) / 2`
//! (Hendrycks & Gimpel 2016); ReLU^2: So et al. 2021. SwiGLU is `swiglu`'s.

use super::Scalar;
use super::simd::{erfc, exp, multiversion};
use super::swiglu;
use crate::family::Mlp;

const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// `h` from `up` and, if the kind is gated, `gate` (else empty).
pub fn forward<T: Scalar>(kind: Mlp, gate: &[T], up: &[T], h: &mut [T]) {
    match kind {
        Mlp::Swiglu => swiglu::forward(gate, up, h),
        Mlp::Geglu => geglu_forward(gate, up, h),
        Mlp::Relu => plain(up, h, positive),
        Mlp::Relu2 => plain(up, h, |x| positive(x) * positive(x)),
        Mlp::Gelu => gelu_forward(up, h),
        Mlp::GeluErf => gelu_erf_forward(up, h),
    }
}

/// From `dh`: `d_gate` (if gated, else empty), `d_up` and, once more, `h`.
pub fn backward<T: Scalar>(kind: Mlp, gate: &[T], up: &[T], dh: &[T], d_gate: &mut [T], d_up: &mut [T], h: &mut [T]) {
    match kind {
        Mlp::Swiglu => return swiglu::backward(gate, up, dh, d_gate, d_up, h),
        Mlp::Geglu => return geglu_backward(gate, up, dh, d_gate, d_up, h),
        Mlp::Relu => plain(up, d_up, |x| if x > T::ZERO { T::ONE } else { T::ZERO }),
        Mlp::Relu2 => plain(up, d_up, |x| T::of(2.0) * positive(x)),
        Mlp::Gelu => gelu_slope(up, d_up),
        Mlp::GeluErf => gelu_erf_slope(up, d_up),
    }
    for (d, dh) in d_up.iter_mut().zip(dh) {
        *d *= *dh;
    }
    forward(kind, gate, up, h);
}

/// The larger of `x` and 0.
#[inline(always)]
fn positive<T: Scalar>(x: T) -> T {
    if x > T::ZERO { x } else { T::ZERO }
}

fn plain<T: Scalar>(x: &[T], y: &mut [T], f: impl Fn(T) -> T) {
    for (x, y) in x.iter().zip(y) {
        *y = f(*x);
    }
}

/// GELU and its derivative, tanh form.
#[inline(always)]
fn gelu<T: Scalar>(x: T) -> (T, T) {
    let square = x * x;
    let inner = T::of(2.0) * T::of(ROOT_2_OVER_PI) * x * square.mul_add(T::of(CUBIC), T::ONE);
    let denominator = T::ONE + exp(-inner);
    let sigmoid = T::ONE / denominator;
    let slope = T::of(2.0) * T::of(ROOT_2_OVER_PI) * square.mul_add(T::of(3.0) * T::of(CUBIC), T::ONE);
    let y = x / denominator;
    (y, (y * (T::ONE - sigmoid)).mul_add(slope, sigmoid))
}

multiversion! {
    fn gelu_forward<T: Scalar>(x: &[T], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = gelu(*x).0;
        }
    }
}

multiversion! {
    fn gelu_slope<T: Scalar>(x: &[T], d: &mut [T]) {
        for (x, d) in x.iter().zip(d) {
            *d = gelu(*x).1;
        }
    }
}

multiversion! {
    fn gelu_erf_forward<T: Scalar>(x: &[T], y: &mut [T]) {
        for (x, y) in x.iter().zip(y) {
            *y = T::of(0.5) * *x * erfc(-*x * T::of(std::f64::consts::FRAC_1_SQRT_2));
        }
    }
}

multiversion! {
    fn gelu_erf_slope<T: Scalar>(x: &[T], d: &mut [T]) {
        for (x, d) in x.iter().zip(d) {
            let density = T::of(0.5) * T::of(ROOT_2_OVER_PI) * exp(-T::of(0.5) * *x * *x);
            *d = T::of(0.5).mul_add(erfc(-*x * T::of(std::f64::consts::FRAC_1_SQRT_2)), *x * density);
        }
    }
}

multiversion! {
    fn geglu_forward<T: Scalar>(gate: &[T], up: &[T], h: &mut [T]) {
        for ((g, u), h) in gate.iter().zip(up).zip(h) {
            *h = gelu(*g).0 * *u;
        }
    }
}

multiversion! {
    fn geglu_backward<T: Scalar>(gate: &[T], up: &[T], dh: &[T], d_gate: &mut [T], d_up: &mut [T], h: &mut [T]) {
        let n = gate.len();
        let (up, dh, d_gate, d_up, h) = (&up[..n], &dh[..n], &mut d_gate[..n], &mut d_up[..n], &mut h[..n]);
        for i in 0..n {
            let (y, slope) = gelu(gate[i]);
            h[i] = y * up[i];
            d_up[i] = dh[i] * y;
            d_gate[i] = dh[i] * up[i] * slope;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf by its Taylor series, good to 1e-12 below 4.
    fn erf(x: f64) -> f64 {
        let (mut sum, mut term) = (0.0, x);
        for n in 0..200 {
            sum += term / f64::from(2 * n + 1);
            term *= -x * x / f64::from(n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn formula(kind: Mlp, g: f64, u: f64) -> f64 {
        let tanh_gelu =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        match kind {
            Mlp::Swiglu => g / (1.0 + (-g).exp()) * u,
            Mlp::Geglu => tanh_gelu(g) * u,
            Mlp::Relu => u.max(0.0),
            Mlp::Relu2 => u.max(0.0).powi(2),
            Mlp::Gelu => tanh_gelu(u),
            Mlp::GeluErf => 0.5 * u * (1.0 + erf(u / 2.0_f64.sqrt())),
        }
    }

    #[test]
    fn every_kind_equals_its_formula_and_its_gradients_finite_differences() {
        let gate = [-5.0_f32, -3.0, -1.5, -0.2, 0.01, 0.4, 3.0, 4.5, 5.0];
        let up = [0.7_f32, -1.0, 2.0, 0.3, 1.0, -0.9, 0.1, -2.5, -5.0];
        let dh = [1.0_f32, 0.5, -1.0, 2.0, 1.0, 1.0, -3.0, 1.0, 1.0];
        for kind in [Mlp::Swiglu, Mlp::Geglu, Mlp::Relu, Mlp::Relu2, Mlp::Gelu, Mlp::GeluErf] {
            let g: &[f32] = if kind.gated() { &gate } else { &[] };
            let (mut dg, mut du) = (vec![0.0; g.len()], [0.0; 9]);
            let (mut h, mut again) = ([0.0; 9], [0.0; 9]);
            forward(kind, g, &up, &mut h);
            backward(kind, g, &up, &dh, &mut dg, &mut du, &mut again);
            assert_eq!(h, again);
            let near = |what: &str, a: f32, b: f64| {
                assert!((f64::from(a) - b).abs() <= 1.5e-6 * (1.0 + b.abs()), "{kind:?} {what}: {a} {b}");
            };
            for i in 0..9 {
                let (g, u, d) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dh[i]));
                near("h", h[i], formula(kind, g, u));
                near("d_up", du[i], d * (formula(kind, g, u + 1e-5) - formula(kind, g, u - 1e-5)) / 2e-5);
                if kind.gated() {
                    near("d_gate", dg[i], d * (formula(kind, g + 1e-5, u) - formula(kind, g - 1e-5, u)) / 2e-5);
                }
            }
        }
    }

    #[test]
    fn far_values_are_finite() {
        for kind in [Mlp::Geglu, Mlp::Gelu, Mlp::GeluErf] {
            let far = [-1e4_f32, 1e4, -60.0, 60.0];
            let g: &[f32] = if kind.gated() { &far } else { &[] };
            let (mut dg, mut du, mut h) = (vec![0.0; g.len()], [0.0; 4], [0.0; 4]);
            backward(kind, g, &far, &[1.0; 4], &mut dg, &mut du, &mut h);
            assert!(dg.iter().chain(&du).chain(&h).all(|x| x.is_finite()), "{kind:?}: {dg:?} {du:?} {h:?}");
        }
    }
}
