//! Lanes: one source for the AVX2 and the portable build of an element loop, with equal bits.
//!
//! In: plain loops over fixed-size arrays with `mul_add`, over f32 or f64. Out: the same loops, compiled for AVX2 + FMA where the
//! CPU has them. Rust never reorders float operations, so both give the same bits. [`exp_f32`] is a polynomial, so that it
//! vectorises and does not depend on the system's libm (Cephes `expf`; at most 2 ulp from the true value).

use super::Scalar;

/// Lanes of a reduction: two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// True if AVX2 and FMA may be used.
#[inline(always)]
pub(crate) fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Defines a function twice, for AVX2 + FMA and portable, and picks one per call.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$t:ident: $bound:ident>)? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn portable $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fast $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                if crate::ops::simd::has_fma() {
                    // SAFETY: the CPU has the features that `fast` is compiled for.
                    return unsafe { fast($($arg),*) };
                }
            }
            portable($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// e^x; 0 below -87, e^88 above 88, NaN for NaN.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let y = if x > 88.0 { 88.0 } else { x };
    let y = if y < -87.0 { -87.0 } else { y };
    let t = y.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = n.mul_add(-0.693_359_4, y);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p.mul_add(r, c);
    }
    let e = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((t.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.0 { 0.0 } else { e * scale }
}

/// Hyperbolic tangent, at most 2 ulp off: an odd polynomial below 0.625 (Cephes `tanhf`), by [`exp_f32`] above.
#[inline(always)]
pub(crate) fn tanh_f32(x: f32) -> f32 {
    let z = x * x;
    let mut p = -5.704_988_7e-3_f32;
    for c in [2.063_908_8e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        p = p.mul_add(z, c);
    }
    let small = (p * z).mul_add(x, x);
    let large = (1.0 - 2.0 / (exp_f32(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { small } else { large }
}

/// Complementary error function, relative error below 1e-6 where it is above 1e-30 (Press et al. 1992, section 6.2).
#[inline(always)]
pub(crate) fn erfc_f32(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / 0.5_f32.mul_add(z, 1.0);
    let mut p = 0.170_872_77_f32;
    for c in [
        -0.822_152_23,
        1.488_515_9,
        -1.135_204,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_7,
        -1.265_512_2,
    ] {
        p = p.mul_add(t, c);
    }
    // exp(-z^2) by itself and with what rounding z^2 loses, since a sum in the exponent would cost digits.
    let square = z * z;
    let rest = z.mul_add(z, -square);
    let tail = t * exp_f32(p) * exp_f32(-square) * (1.0 - rest);
    if x < 0.0 { 2.0 - tail } else { tail }
}

/// e^x of the type's own making.
#[inline(always)]
pub(crate) fn exp<T: Scalar>(x: T) -> T {
    T::exp(x)
}

/// Hyperbolic tangent of the type's own making.
#[inline(always)]
pub(crate) fn tanh<T: Scalar>(x: T) -> T {
    T::tanh(x)
}

/// Complementary error function of the type's own making.
#[inline(always)]
pub(crate) fn erfc<T: Scalar>(x: T) -> T {
    T::erfc(x)
}

/// Sum of the lanes, always by the same tree.
#[inline(always)]
pub(crate) fn sum_lanes<T: Scalar>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Largest lane.
#[inline(always)]
pub(crate) fn max_lanes<T: Scalar>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = max(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger of two; a NaN in `a` is passed on (one instruction, unlike `f32::max`).
#[inline(always)]
pub(crate) fn max<T: Scalar>(a: T, b: T) -> T {
    if b > a { b } else { a }
}

/// Sum over `a.len()` elements of `f(i, lane)`-style accumulation: `lanes[i % 16] = step(lanes[i % 16], a[i], b[i])`.
#[inline(always)]
pub(crate) fn fold2<T: Scalar>(a: &[T], b: &[T], step: impl Fn(T, T, T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    let (a_head, a_tail) = a.as_chunks::<LANES>();
    let (b_head, b_tail) = b[..a.len()].as_chunks::<LANES>();
    for (x, y) in a_head.iter().zip(b_head) {
        for i in 0..LANES {
            lanes[i] = step(lanes[i], x[i], y[i]);
        }
    }
    for (i, (x, y)) in a_tail.iter().zip(b_tail).enumerate() {
        lanes[i] = step(lanes[i], *x, *y);
    }
    sum_lanes(lanes)
}

/// Sum of `a[i] * b[i]`.
#[inline(always)]
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    fold2(a, b, |acc, x, y| x.mul_add(y, acc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp_and_exact_at_zero() {
        assert_eq!(exp(0.0_f32), 1.0);
        assert_eq!(exp(-0.0_f32), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::INFINITY).is_finite());
        for i in -8600..8800 {
            let x = i as f32 * 0.01 + 0.003;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((got / want - 1.0).abs() < 2.4e-7, "{x}: {got} {want}");
        }
    }

    #[test]
    fn tanh_is_within_a_few_ulp_odd_and_keeps_nan() {
        for i in -4000..4000 {
            let x = i as f32 * 0.005 + 0.000_7;
            let want = f64::from(x).tanh();
            assert!((f64::from(tanh(x)) - want).abs() <= 2e-7 * want.abs(), "{x}: {} {want}", tanh(x));
            assert_eq!(tanh(-x), -tanh(x));
        }
        assert_eq!((tanh(0.0_f32), tanh(1e4_f32), tanh(-1e30_f32)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

    #[test]
    fn erfc_equals_reference_values() {
        // By the C library in double precision.
        let table = [
            (-3.0, 1.999_977_909_503),
            (-1.0, 1.842_700_792_949),
            (-0.1, 1.112_462_916_018),
            (0.0, 1.0),
            (0.25, 0.723_673_609_831_7),
            (0.5, 0.479_500_122_186_9),
            (1.0, 0.157_299_207_050_2),
            (2.0, 4.677_734_981_047e-3),
            (3.0, 2.209_049_699_858e-5),
            (4.0, 1.541_725_790_028e-8),
        ];
        for (x, want) in table {
            let got = f64::from(erfc::<f32>(x));
            assert!((got - want).abs() <= 1e-6 * want, "{x}: {got} {want}");
        }
    }

    #[test]
    fn both_builds_of_a_loop_give_the_same_bits() {
        multiversion! {
            fn run(a: &[f32]) -> f32 {
                let mut lanes = [0.0; LANES];
                for x in a.as_chunks::<LANES>().0 {
                    for i in 0..LANES { lanes[i] = exp(x[i]).mul_add(x[i], lanes[i]); }
                }
                sum_lanes(lanes)
            }
        }
        let a: Vec<f32> = (0..160).map(|i| (i as f32 * 0.37).sin() * 5.0).collect();
        let mut lanes = [0.0_f32; LANES];
        for (i, x) in a.iter().enumerate() {
            lanes[i % LANES] = exp(*x).mul_add(*x, lanes[i % LANES]);
        }
        assert_eq!(run(&a).to_bits(), sum_lanes(lanes).to_bits());
    }
}
