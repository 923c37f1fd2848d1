//! One step of each rule on a run of numbers; the same code in f32 for training and in f64 for the goldens.
//!
//! In: gradients, weights and state, element by element, and the scalars of the step (computed in f64, rounded once).
//! Out: new weights and state in place. Elements never meet, so neither chunks nor threads reach a result. Order of
//! operations: PyTorch's `AdamW` and `SGD`; Lion as in Chen et al. 2023, algorithm 2. Weight decay is decoupled in all.

use crate::ops::Scalar;
use crate::ops::simd::multiversion;

/// Scalars of an AdamW step.
#[derive(Clone, Copy)]
pub(crate) struct Adam<T> {
    clip: T,
    keep: T,
    beta1: T,
    beta2: T,
    rest1: T,
    rest2: T,
    root: T,
    eps: T,
    rate: T,
}

impl<T: Scalar> Adam<T> {
    /// Step `t` (from 1) at rate `lr`; weights are multiplied by `1 - decay`.
    pub fn new(clip: f64, decay: f64, betas: [f64; 2], eps: f64, lr: f64, t: f64) -> Self {
        let [beta1, beta2] = betas;
        Self {
            clip: T::of(clip),
            keep: T::of(1.0 - decay),
            beta1: T::of(beta1),
            beta2: T::of(beta2),
            rest1: T::of(1.0 - beta1),
            rest2: T::of(1.0 - beta2),
            root: T::of((1.0 - beta2.powf(t)).sqrt()),
            eps: T::of(eps),
            rate: T::of(lr / (1.0 - beta1.powf(t))),
        }
    }

    /// `m` and `v` are the running means of the gradient and of its square.
    #[inline(always)]
    pub fn update(self, g: &[T], w: &mut [T], m: &mut [T], v: &mut [T]) {
        let n = g.len();
        let (w, m, v) = (&mut w[..n], &mut m[..n], &mut v[..n]);
        for i in 0..n {
            let g = g[i] * self.clip;
            m[i] = m[i] * self.beta1 + g * self.rest1;
            v[i] = v[i] * self.beta2 + g * g * self.rest2;
            w[i] = w[i] * self.keep - self.rate * (m[i] / (v[i].sqrt() / self.root + self.eps));
        }
    }
}

/// Scalars of a Lion step.
#[derive(Clone, Copy)]
pub(crate) struct Lion<T> {
    clip: T,
    keep: T,
    betas: [T; 2],
    rests: [T; 2],
    rate: T,
}

impl<T: Scalar> Lion<T> {
    /// Rate `lr`; weights are multiplied by `1 - decay`.
    pub fn new(clip: f64, decay: f64, betas: [f64; 2], lr: f64) -> Self {
        Self {
            clip: T::of(clip),
            keep: T::of(1.0 - decay),
            betas: betas.map(T::of),
            rests: betas.map(|b| T::of(1.0 - b)),
            rate: T::of(lr),
        }
    }

    /// `m` is the running mean of the gradient; the step is the sign of a mix of both, 0 for 0.
    #[inline(always)]
    pub fn update(self, g: &[T], w: &mut [T], m: &mut [T]) {
        let n = g.len();
        let (w, m) = (&mut w[..n], &mut m[..n]);
        let zero = T::of(0.0);
        for i in 0..n {
            let g = g[i] * self.clip;
            let mixed = m[i] * self.betas[0] + g * self.rests[0];
            let up = if mixed > zero { self.rate } else { zero };
            let down = if mixed < zero { self.rate } else { zero };
            w[i] = w[i] * self.keep - (up - down);
            m[i] = m[i] * self.betas[1] + g * self.rests[1];
        }
    }
}

/// Scalars of a step of gradient descent.
#[derive(Clone, Copy)]
pub(crate) struct Sgd<T> {
    clip: T,
    keep: T,
    momentum: T,
    nesterov: bool,
    rate: T,
}

impl<T: Scalar> Sgd<T> {
    /// Rate `lr`; weights are multiplied by `1 - decay`.
    pub fn new(clip: f64, decay: f64, momentum: f64, nesterov: bool, lr: f64) -> Self {
        Self { clip: T::of(clip), keep: T::of(1.0 - decay), momentum: T::of(momentum), nesterov, rate: T::of(lr) }
    }

    /// `m` is the sum of gradients, each decayed by `momentum` per step.
    #[inline(always)]
    pub fn update(self, g: &[T], w: &mut [T], m: &mut [T]) {
        let n = g.len();
        let (w, m) = (&mut w[..n], &mut m[..n]);
        for i in 0..n {
            let g = g[i] * self.clip;
            m[i] = m[i] * self.momentum + g;
            let d = if self.nesterov { g + self.momentum * m[i] } else { m[i] };
            w[i] = w[i] * self.keep - self.rate * d;
        }
    }
}

multiversion! {
    pub(crate) fn adam<T: Scalar>(rule: Adam<T>, g: &[T], w: &mut [T], m: &mut [T], v: &mut [T]) {
        rule.update(g, w, m, v);
    }
}

multiversion! {
    pub(crate) fn lion<T: Scalar>(rule: Lion<T>, g: &[T], w: &mut [T], m: &mut [T]) {
        rule.update(g, w, m);
    }
}

multiversion! {
    pub(crate) fn sgd<T: Scalar>(rule: Sgd<T>, g: &[T], w: &mut [T], m: &mut [T]) {
        rule.update(g, w, m);
    }
}
