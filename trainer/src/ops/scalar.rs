//! The number that ops are generic over: f32 for training, f64 for judging.
//!
//! In f32 every function has its own bits, independent of the system's libm (see [`super::simd`]). In f64 the same loops run in
//! the same order, so that gradients and the exactness of parallelism can be held to 1e-9 and 1e-12; exponentials are
//! the standard library's there, the error function is candle's.

use super::gemm::{A, B, C};
use candle_core::WithDType;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::Neg;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// f32 or f64.
pub trait Scalar:
    sealed::Sealed + WithDType + Default + Debug + Neg<Output = Self> + From<f32> + Into<f64> + Sum
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Below every number.
    const NEG_INFINITY: Self;

    /// The nearest number of this type.
    fn of(x: f64) -> Self;
    /// The same number in f64.
    fn wide(self) -> f64;
    /// `self * a + b`, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Magnitude.
    fn abs(self) -> Self;
    /// e^self.
    fn exp(self) -> Self;
    /// Hyperbolic tangent.
    fn tanh(self) -> Self;
    /// Complementary error function.
    fn erfc(self) -> Self;
    /// Tiles of [`super::gemm::block`].
    ///
    /// # Safety
    /// All indices are in range, as asserted there.
    #[doc(hidden)]
    unsafe fn tiles(rows: usize, cols: usize, k: usize, a: A<Self>, b: B<Self>, c: C<Self>, add: bool);
}

macro_rules! scalar {
    ($ty:ident, $exp:expr, $tanh:expr, $erfc:expr, $tiles:expr) => {
        impl Scalar for $ty {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NEG_INFINITY: Self = $ty::NEG_INFINITY;

            #[inline(always)]
            fn of(x: f64) -> Self {
                x as $ty
            }
            #[inline(always)]
            fn wide(self) -> f64 {
                self.into()
            }
            #[inline(always)]
            fn mul_add(self, a: Self, b: Self) -> Self {
                $ty::mul_add(self, a, b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                $ty::sqrt(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                $ty::abs(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn tanh(self) -> Self {
                $tanh(self)
            }
            #[inline(always)]
            fn erfc(self) -> Self {
                $erfc(self)
            }
            #[inline(always)]
            unsafe fn tiles(rows: usize, cols: usize, k: usize, a: A<Self>, b: B<Self>, c: C<Self>, add: bool) {
                // SAFETY: passed on.
                unsafe { $tiles(rows, cols, k, a, b, c, add) }
            }
        }
    };
}

scalar!(f32, super::simd::exp_f32, super::simd::tanh_f32, super::simd::erfc_f32, super::gemm::tiles_f32);
scalar!(f64, f64::exp, f64::tanh, candle_core::cpu::erf::erfc_f64, super::gemm::tiles_f64);
