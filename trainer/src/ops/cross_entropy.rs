//! Log-prob, entropy and log-sum-exp of rows of logits, and the gradient back to the logits.
//!
//! In: one row of T logits and its target. Out: three numbers, or the row of gradients in place of the logits. The
//! loss itself is elsewhere: it maps log-probs and entropies to their gradients. Sums run in 16 lanes over chunks of
//! 512 logits, the chunks' sums in f64.

use super::Scalar;
use super::simd::{LANES, exp, max, max_lanes, multiversion, sum_lanes, tanh};

const CHUNK: usize = 512;

multiversion! {
    /// Log-prob of `target`, entropy, log-sum-exp of one row of logits, all in nats.
    pub fn row_stats<T: Scalar>(logits: &[T], target: u32) -> [T; 3] {
        let mut top = [T::NEG_INFINITY; LANES];
        let (head, tail) = logits.as_chunks::<LANES>();
        for x in head {
            for i in 0..LANES {
                top[i] = max(top[i], x[i]);
            }
        }
        for (i, x) in tail.iter().enumerate() {
            top[i] = max(top[i], *x);
        }
        let top = max_lanes(top);
        let (mut sum, mut weighted) = (0.0_f64, 0.0_f64);
        for chunk in logits.chunks(CHUNK) {
            let (mut s, mut w) = ([T::ZERO; LANES], [T::ZERO; LANES]);
            let (head, tail) = chunk.as_chunks::<LANES>();
            for x in head {
                for i in 0..LANES {
                    let shifted = x[i] - top;
                    let e = exp(shifted);
                    s[i] += e;
                    w[i] = e.mul_add(shifted, w[i]);
                }
            }
            for (i, x) in tail.iter().enumerate() {
                let shifted = *x - top;
                let e = exp(shifted);
                s[i] += e;
                w[i] = e.mul_add(shifted, w[i]);
            }
            sum += sum_lanes(s).wide();
            weighted += sum_lanes(w).wide();
        }
        let log_sum = sum.ln();
        let target = logits[target as usize].wide() - top.wide();
        [T::of(target - log_sum), T::of(log_sum - weighted / sum), T::of(top.wide() + log_sum)]
    }
}

multiversion! {
    /// `cap * tanh(x / cap)` in place.
    pub fn soft_cap<T: Scalar>(logits: &mut [T], cap: T) {
        for x in logits.iter_mut() {
            *x = tanh(*x / cap) * cap;
        }
    }
}

multiversion! {
    /// The gradient of [`soft_cap`]: `slopes` times `1 - (capped / cap)^2`.
    pub fn soft_cap_backward<T: Scalar>(capped: &[T], cap: T, slopes: &mut [T]) {
        for (x, slope) in capped.iter().zip(slopes) {
            let bent = *x / cap;
            *slope *= bent.mul_add(-bent, T::ONE);
        }
    }
}

multiversion! {
    /// Adds `d_logsumexp * p` to `slopes`, where `p` is the softmax of `logits`.
    pub fn logsumexp_backward<T: Scalar>(logits: &[T], logsumexp: T, d_logsumexp: T, slopes: &mut [T]) {
        for (x, slope) in logits.iter().zip(slopes) {
            *slope = exp(*x - logsumexp).mul_add(d_logsumexp, *slope);
        }
    }
}

multiversion! {
    /// Replaces `logits` by `d_logprob * d logprob / d logits + d_entropy * d entropy / d logits`.
    pub fn row_backward<T: Scalar>(logits: &mut [T], target: u32, stats: [T; 3], d_logprob: T, d_entropy: T) {
        let [_, entropy, logsumexp] = stats;
        let at_target = logits[target as usize] - logsumexp;
        if d_entropy == T::ZERO {
            for x in logits.iter_mut() {
                *x = -d_logprob * exp(*x - logsumexp);
            }
        } else {
            for x in logits.iter_mut() {
                let log_p = *x - logsumexp;
                *x = exp(log_p) * -d_entropy.mul_add(log_p + entropy, d_logprob);
            }
        }
        // 1 - p by `expm1`, exact where the target is nearly certain.
        let rest = T::of(-at_target.wide().exp_m1());
        let p = T::of(at_target.wide().exp());
        logits[target as usize] = d_logprob * rest - d_entropy * p * (at_target + entropy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formula(logits: &[f64], target: usize) -> [f64; 3] {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        let lse = sum.ln();
        let entropy = logits.iter().map(|x| -(x - lse).exp() * (x - lse)).sum();
        [logits[target] - lse, entropy, lse]
    }

    #[test]
    fn statistics_and_gradients_equal_the_formula_in_f64() {
        for n in [1_usize, 2, 15, 33, 1000] {
            let key = crate::rng::Key::new(n as u64);
            let logits: Vec<f32> = (0..n as u64).map(|i| (key.normal(i) * 3.0) as f32).collect();
            let wide: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
            let target = n / 2;
            let stats = row_stats(&logits, target as u32);
            for (a, b) in stats.iter().zip(formula(&wide, target)) {
                assert!((f64::from(*a) - b).abs() < 2e-6 * (1.0 + b.abs()), "{n}: {a} {b}");
            }
            for (d_logprob, d_entropy) in [(1.0_f32, 0.0_f32), (-0.5, 0.7)] {
                let mut grad = logits.clone();
                row_backward(&mut grad, target as u32, stats, d_logprob, d_entropy);
                for i in (0..n).step_by(n.div_ceil(20)) {
                    let value = |step: f64| {
                        let mut moved = wide.clone();
                        moved[i] += step;
                        let [lp, h, _] = formula(&moved, target);
                        f64::from(d_logprob) * lp + f64::from(d_entropy) * h
                    };
                    let want = (value(1e-5) - value(-1e-5)) / 2e-5;
                    assert!((f64::from(grad[i]) - want).abs() < 2e-6, "{n} {i}: {} {want}", grad[i]);
                }
            }
        }
    }

    #[test]
    fn the_gradients_of_cap_and_logsumexp_equal_finite_differences() {
        let logits = [-4.0_f32, -0.3, 0.0, 0.2, 1.0, 5.0];
        let wide = logits.map(f64::from);
        let cap = |x: f64| 2.0 * (x / 2.0).tanh();
        let value = |at: usize, step: f64| {
            let mut moved = wide;
            moved[at] += step;
            formula(&moved.map(cap), 0)[2]
        };
        let mut capped = logits;
        soft_cap(&mut capped, 2.0);
        let logsumexp = row_stats(&capped, 0)[2];
        let mut slopes = [0.0; 6];
        logsumexp_backward(&capped, logsumexp, 1.0, &mut slopes);
        soft_cap_backward(&capped, 2.0, &mut slopes);
        for i in 0..6 {
            assert!((f64::from(capped[i]) - cap(wide[i])).abs() < 1e-6);
            let want = (value(i, 1e-5) - value(i, -1e-5)) / 2e-5;
            assert!((f64::from(slopes[i]) - want).abs() < 1e-6, "{i}: {} {want}", slopes[i]);
        }
    }

    #[test]
    fn huge_and_one_sided_logits_stay_finite() {
        let [lp, h, lse] = row_stats(&[1e4, 0.0, -1e4], 0);
        assert_eq!((lp, h, lse), (0.0, 0.0, 1e4));
        assert_eq!(row_stats(&[1e4, 0.0], 1)[0], -1e4);
    }
}
