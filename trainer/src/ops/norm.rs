//! A norm with its weights: RMSNorm or LayerNorm behind one face.
//!
//! In: rows. Out: rows and what backward needs per row: one number (RMSNorm) or two (LayerNorm). The arithmetic is
//! `rms_norm`'s and `layer_norm`'s.

use super::{Scalar, layer_norm, rms_norm};

/// Weights of one norm; a bias makes it a LayerNorm.
#[derive(Clone, Copy)]
pub struct Norm<'a, T = f32> {
    /// `[c]`.
    pub gain: &'a [T],
    /// `[c]`.
    pub bias: Option<&'a [T]>,
    /// Added to the mean square or the variance.
    pub eps: f64,
}

impl<T: Scalar> Norm<'_, T> {
    /// Numbers kept per row.
    pub fn kept(&self) -> usize {
        1 + usize::from(self.bias.is_some())
    }

    /// `y: [rows, c]` and `stats: [rows, kept]` from `x: [rows, c]`.
    pub fn forward(&self, x: &[T], y: &mut [T], stats: &mut [T]) {
        match self.bias {
            None => rms_norm::forward(x, self.gain, self.eps, y, stats),
            Some(bias) => layer_norm::forward(x, self.gain, bias, self.eps, y, stats),
        }
    }

    /// `y` once more, the same bits.
    pub fn again(&self, x: &[T], stats: &[T], y: &mut [T]) {
        match self.bias {
            None => rms_norm::again(x, self.gain, stats, y),
            Some(bias) => layer_norm::again(x, self.gain, bias, stats, y),
        }
    }

    /// Adds to `dx: [rows, c]`; returns the gradients of the gain and, of a LayerNorm, the bias.
    pub fn backward(&self, x: &[T], stats: &[T], dy: &[T], dx: &mut [T]) -> (Vec<T>, Option<Vec<T>>) {
        let mut d_gain = vec![T::ZERO; self.gain.len()];
        let mut d_bias = self.bias.map(|b| vec![T::ZERO; b.len()]);
        match &mut d_bias {
            None => rms_norm::backward(x, self.gain, stats, dy, dx, &mut d_gain),
            Some(d_bias) => layer_norm::backward(x, self.gain, stats, dy, dx, &mut d_gain, d_bias),
        }
        (d_gain, d_bias)
    }
}
