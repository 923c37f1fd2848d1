//! `cross_entropy` where each rank has a run of the logits of a row.
//!
//! In: this rank's logits and, if the target is among them, where. Out: four numbers in f64 per rank; those of all ranks make
//! log-prob, entropy and log-sum-exp. With `m` the largest logit: `[m, sum e^(x - m), sum e^(x - m) (x - m), target's logit or 0]`.
//! Sums run over the logits in order, then over ranks in order.

use super::{Scalar, cross_entropy};

/// The four numbers of one rank's logits.
pub fn part_stats<T: Scalar>(logits: &[T], target: Option<u32>) -> [f64; 4] {
    let top = logits.iter().fold(f64::NEG_INFINITY, |top, x| if x.wide() > top { x.wide() } else { top });
    let (mut sum, mut weighted) = (0.0, 0.0);
    for x in logits {
        let shifted = x.wide() - top;
        let e = shifted.exp();
        sum += e;
        weighted += e * shifted;
    }
    [top, sum, weighted, target.map_or(0.0, |at| logits[at as usize].wide())]
}

/// Log-prob, entropy, log-sum-exp from the numbers of all ranks, at least one.
pub fn joined_stats(parts: &[[f64; 4]]) -> [f64; 3] {
    let top = parts.iter().fold(f64::NEG_INFINITY, |top, part| top.max(part[0]));
    let (mut sum, mut weighted, mut target) = (0.0, 0.0, 0.0);
    for [own_top, own_sum, own_weighted, own_target] in parts {
        let (shift, share) = (own_top - top, (own_top - top).exp());
        sum += share * own_sum;
        weighted += share * (own_weighted + shift * own_sum);
        target += own_target;
    }
    let log_sum = sum.ln();
    [target - top - log_sum, log_sum - weighted / sum, top + log_sum]
}

/// [`cross_entropy::row_backward`] of one rank's logits; the target may be elsewhere.
pub fn row_backward<T: Scalar>(logits: &mut [T], target: Option<u32>, stats: [T; 3], d_logprob: T, d_entropy: T) {
    if let Some(target) = target {
        return cross_entropy::row_backward(logits, target, stats, d_logprob, d_entropy);
    }
    let [_, entropy, logsumexp] = stats;
    for x in logits.iter_mut() {
        let log_p = *x - logsumexp;
        *x = T::exp(log_p) * -d_entropy.mul_add(log_p + entropy, d_logprob);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    #[test]
    fn parts_of_any_size_make_the_statistics_and_slopes_of_the_whole_row() {
        let key = Key::new(8);
        let logits: Vec<f64> = (0..50).map(|i| key.normal(i) * 4.0).collect();
        for cuts in [vec![0, 50], vec![0, 1, 50], vec![0, 17, 34, 50]] {
            for target in [0, 20, 49_usize] {
                let own = |r: &[usize]| (r[0]..r[1]).contains(&target).then(|| (target - r[0]) as u32);
                let parts: Vec<_> = cuts.windows(2).map(|r| part_stats(&logits[r[0]..r[1]], own(r))).collect();
                let whole = cross_entropy::row_stats(&logits, target as u32);
                for (a, b) in joined_stats(&parts).iter().zip(whole) {
                    assert!((a - b).abs() < 1e-13 * (1.0 + b.abs()), "{cuts:?} {target}: {a} {b}");
                }
                let (mut want, mut got) = (logits.clone(), logits.clone());
                cross_entropy::row_backward(&mut want, target as u32, whole, -0.7, 0.3);
                cuts.windows(2).for_each(|r| row_backward(&mut got[r[0]..r[1]], own(r), whole, -0.7, 0.3));
                assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-15), "{got:?}");
            }
        }
    }
}
