//! One row of logits to one token.
//!
//! In: logits, settings, a key. Out: a token id, a function of these alone: the draw uses one random number per token id
//! of the vocabulary, addressed by (key, id), so it depends on nothing that was sampled before or beside it.
//!
//! The draw is the Gumbel-max trick in its exponential form: with `E_i` exponential, the smallest `E_i / p_i` belongs to
//! token `i` with probability `p_i`, and `-ln E_i` is a Gumbel (Maddison et al. 2014, "A* sampling"). Most tokens lose by
//! a bound that needs neither a logarithm nor an exponential.

use crate::ops::simd::{LANES, max, max_lanes, multiversion, sum_lanes};
use crate::rng::Key;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How tokens are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SampleConfig {
    /// Logits are divided by this, above 0; 1 samples from the model as it is.
    pub temperature: f64,
    /// Only the so many likeliest tokens can be drawn; 0 means all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have at least this probability can be drawn, above 0 to 1; 1 means all.
    /// Measured after temperature and `top_k`.
    pub top_p: f64,
    /// Most tokens of one completion.
    pub max_tokens: usize,
    /// Always take the likeliest token (the lowest id of equals); temperature, `top_k` and `top_p` must keep defaults.
    pub greedy: bool,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, max_tokens: 64, greedy: false }
    }
}

impl SampleConfig {
    /// Ok if every number is in its range and none is set in vain.
    pub fn check(&self) -> Result<()> {
        let fault = |field, got: String, expected: &str| Err(Error::Config { field, got, expected: expected.into() });
        if !(self.temperature.is_finite() && self.temperature >= 1e-3) {
            return fault("temperature", self.temperature.to_string(), "expected 0.001 or more, or `greedy = true`");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return fault("top_p", self.top_p.to_string(), "expected above 0 to 1");
        }
        if self.greedy && (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0) {
            return fault("greedy", "true".into(), "expected no temperature, top_k or top_p beside it");
        }
        Ok(())
    }
}

/// The token drawn from `logits` `[vocab_size]`, never one of `banned`. `None` if a logit that counts is not finite or
/// nothing is left to draw.
pub fn draw(logits: &[f32], cfg: &SampleConfig, banned: &[u32], key: Key) -> Option<u32> {
    let allowed = |id: usize| !banned.contains(&(id as u32));
    let best = likeliest(logits, allowed)?;
    if cfg.greedy {
        return Some(best as u32);
    }
    let odds = Odds { logits, peak: f64::from(logits[best]), temperature: cfg.temperature, key };
    let all = (cfg.top_k == 0 || cfg.top_k >= logits.len()) && cfg.top_p >= 1.0;
    let winner = if all {
        race(odds, best, banned)
    } else {
        let mut ids: Vec<usize> = (0..logits.len()).filter(|&id| allowed(id)).collect();
        nucleus(&mut ids, cfg, |id| -odds.distance(id));
        ids.into_iter().min_by(|&a, &b| odds.time(a).total_cmp(&odds.time(b)))?
    };
    Some(winner as u32)
}

/// The lowest id among those of the highest allowed logit.
fn likeliest(logits: &[f32], allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let (top, finite) = top(logits);
    if finite && let Some(best) = logits.iter().position(|&l| l == top).filter(|&id| allowed(id)) {
        return Some(best);
    }
    let mut best: Option<usize> = None;
    for id in (0..logits.len()).filter(|&id| allowed(id)) {
        if !logits[id].is_finite() {
            return None;
        }
        if best.is_none_or(|b| logits[id] > logits[b]) {
            best = Some(id);
        }
    }
    best
}

multiversion! {
    /// The highest logit, and whether all are finite.
    fn top(logits: &[f32]) -> (f32, bool) {
        let (mut tops, mut zeros) = ([f32::NEG_INFINITY; LANES], [0.0_f32; LANES]);
        for chunk in logits.chunks(LANES) {
            for (i, x) in chunk.iter().enumerate() {
                tops[i] = max(tops[i], *x);
                zeros[i] += *x * 0.0; // NaN if `x` is not finite
            }
        }
        (max_lanes(tops), sum_lanes(zeros) == 0.0)
    }
}

/// Keeps the `top_k` ids of highest `exponent` (lowest id among equals), then of those the fewest whose probabilities
/// reach `top_p`; ids come back in ascending order.
fn nucleus(ids: &mut Vec<usize>, cfg: &SampleConfig, exponent: impl Fn(usize) -> f64) {
    let order = |a: &usize, b: &usize| exponent(*b).total_cmp(&exponent(*a)).then(a.cmp(b));
    if cfg.top_k > 0 && cfg.top_k < ids.len() {
        ids.select_nth_unstable_by(cfg.top_k - 1, order);
        ids.truncate(cfg.top_k);
    }
    if cfg.top_p < 1.0 {
        ids.sort_unstable_by(order);
        let total: f64 = ids.iter().map(|&id| exponent(id).exp()).sum();
        let (mut sum, mut kept) = (0.0, 0);
        while kept < ids.len() && sum < cfg.top_p * total {
            sum += exponent(ids[kept]).exp();
            kept += 1;
        }
        ids.truncate(kept);
    }
    ids.sort_unstable();
}

/// Tokens as runners: the first to arrive is a draw from the softmax.
#[derive(Clone, Copy)]
struct Odds<'l> {
    logits: &'l [f32],
    peak: f64,
    temperature: f64,
    key: Key,
}

impl Odds<'_> {
    /// How far `id` is below the likeliest, in nats of the tempered distribution.
    #[inline(always)]
    fn distance(&self, id: usize) -> f64 {
        (self.peak - f64::from(self.logits[id])) / self.temperature
    }

    /// `E / p` of `id`, with `p` relative to the likeliest. Noise as in [`race`].
    fn time(&self, id: usize) -> f64 {
        let (chunk, i) = ((id / LANES) as u64, id % LANES);
        let block = self.key.block(chunk * LANES as u64 / 2 + (i % (LANES / 2)) as u64);
        let word = i / (LANES / 2) * 2;
        -unit(block[word], block[word + 1]).ln() * self.distance(id).exp()
    }
}

multiversion! {
    /// The runner with the smallest time among all that are not `banned`. `favourite`, the likeliest, runs first: a good
    /// early time spares most others the logarithm and the exponential.
    fn race(odds: Odds<'_>, favourite: usize, banned: &[u32]) -> usize {
        const HALF: usize = LANES / 2;
        let mut best = (odds.time(favourite), favourite);
        for (chunk, logits) in odds.logits.chunks(LANES).enumerate() {
            let [a, b, c, d] = odds.key.blocks::<HALF>((chunk * HALF) as u64);
            let (mut u, mut least) = ([0.0_f64; LANES], [f64::INFINITY; LANES]);
            for i in 0..HALF {
                (u[i], u[HALF + i]) = (unit(a[i], b[i]), unit(c[i], d[i]));
            }
            for (i, logit) in logits.iter().enumerate() {
                // E >= 1 - u, and 1 / p = e^x is at least the first terms of its series.
                let x = (odds.peak - f64::from(*logit)) / odds.temperature;
                let series = 1.0 + x * (1.0 + x * (1.0 / 2.0 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0)))));
                least[i] = (1.0 - u[i]) * series;
            }
            if least.iter().all(|&least| least >= best.0) {
                continue;
            }
            for i in 0..logits.len() {
                if least[i] >= best.0 {
                    continue;
                }
                let id = chunk * LANES + i;
                let time = -u[i].ln() * odds.distance(id).exp();
                if time < best.0 && !banned.contains(&(id as u32)) {
                    best = (time, id);
                }
            }
        }
        best.1
    }
}

/// Uniform in the open interval (0, 1): 52 bits, in the middle of their step.
#[inline(always)]
fn unit(low: u32, high: u32) -> f64 {
    let bits = (u64::from(low) | u64::from(high) << 32) >> 12;
    f64::from_bits(bits | 1023 << 52) - 1.0 + f64::EPSILON / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 0.0, 2.0, -1.0, 2.0, -30.0];

    fn shares(cfg: &SampleConfig, banned: &[u32]) -> [f64; 6] {
        let n = 40_000;
        let mut counts = [0.0; 6];
        for i in 0..n {
            let id = draw(&LOGITS, cfg, banned, Key::new(9).fold(i)).unwrap();
            counts[id as usize] += 1.0 / n as f64;
        }
        counts
    }

    fn assert_close(got: [f64; 6], weights: [f64; 6]) {
        let sum: f64 = weights.iter().sum();
        for (g, w) in got.iter().zip(weights) {
            // Four standard errors of a share of 40,000 draws.
            assert!((g - w / sum).abs() < 0.01, "{got:?} against {weights:?} / {sum}");
            assert!(w > 0.0 || *g == 0.0);
        }
    }

    #[test]
    fn draws_follow_the_softmax_with_temperature() {
        for temperature in [1.0, 0.5, 2.0] {
            let cfg = SampleConfig { temperature, ..SampleConfig::default() };
            assert_close(shares(&cfg, &[]), LOGITS.map(|l| (f64::from(l) / temperature).exp()));
        }
    }

    #[test]
    fn banned_and_truncated_tokens_are_never_drawn_and_the_rest_keep_their_odds() {
        let e = |x: f64| x.exp();
        let cfg = SampleConfig::default();
        assert_close(shares(&cfg, &[2, 3]), [e(1.0), 1.0, 0.0, 0.0, e(2.0), e(-30.0)]);
        let top_k = SampleConfig { top_k: 3, ..SampleConfig::default() };
        assert_close(shares(&top_k, &[]), [e(1.0), 0.0, e(2.0), 0.0, e(2.0), 0.0]);
        // The two likeliest hold 0.78: a share of 0.8 needs a third.
        let top_p = SampleConfig { top_p: 0.8, ..SampleConfig::default() };
        assert_close(shares(&top_p, &[]), [e(1.0), 0.0, e(2.0), 0.0, e(2.0), 0.0]);
        let both = SampleConfig { top_k: 3, top_p: 0.4, ..SampleConfig::default() };
        assert_close(shares(&both, &[]), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn the_greedy_choice_is_the_lowest_of_the_likeliest() {
        let cfg = SampleConfig { greedy: true, ..SampleConfig::default() };
        assert_eq!(draw(&LOGITS, &cfg, &[], Key::new(1)), Some(2));
        assert_eq!(draw(&LOGITS, &cfg, &[2], Key::new(1)), Some(4));
        let cold = SampleConfig { temperature: 0.001, ..SampleConfig::default() };
        assert!([2, 4].contains(&draw(&LOGITS, &cold, &[], Key::new(1)).unwrap()));
    }

    #[test]
    fn the_bound_spares_work_and_changes_nothing() {
        let logits: Vec<f32> = (0..500).map(|i| ((i * 37) % 101) as f32 * 0.07).collect();
        for i in 0..300 {
            let key = Key::new(4).fold(i);
            let odds = Odds { logits: &logits, peak: 8.0, temperature: 1.0, key };
            let slow = |banned: &[u32]| {
                let ids = (0..500).filter(|&id| !banned.contains(&(id as u32)));
                ids.min_by(|&a, &b| odds.time(a).total_cmp(&odds.time(b))).map(|id| id as u32)
            };
            let first = slow(&[]);
            assert_eq!(draw(&logits, &SampleConfig::default(), &[], key), first);
            let banned = [first.unwrap(), 3];
            assert_eq!(draw(&logits, &SampleConfig::default(), &banned, key), slow(&banned));
        }
    }

    #[test]
    fn broken_logits_and_an_empty_choice_give_nothing() {
        let cfg = SampleConfig::default();
        assert_eq!(draw(&[0.0, f32::NAN], &cfg, &[], Key::new(1)), None);
        assert_eq!(draw(&[0.0, f32::INFINITY], &cfg, &[], Key::new(1)), None);
        assert_eq!(draw(&[0.0, f32::NAN], &cfg, &[1], Key::new(1)), Some(0));
        assert_eq!(draw(&[0.0, 1.0], &cfg, &[0, 1], Key::new(1)), None);
    }

    #[test]
    fn settings_out_of_range_or_in_vain_are_refused() {
        for bad in [
            SampleConfig { temperature: 0.0, ..SampleConfig::default() },
            SampleConfig { temperature: f64::NAN, ..SampleConfig::default() },
            SampleConfig { top_p: 0.0, ..SampleConfig::default() },
            SampleConfig { greedy: true, top_k: 4, ..SampleConfig::default() },
        ] {
            assert!(bad.check().is_err());
        }
        SampleConfig::default().check().unwrap();
    }
}
