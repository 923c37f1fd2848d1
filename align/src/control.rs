//! Controls: the same run with the signal taken away, which must then stay flat.
//!
//! In: a seed and what names the sample (step, prompt and sample index, or pair id). Out: a reward that knows nothing
//! of the completion, or whether a pair's two answers change places. Left to others: the steps and the comparison.
//! Random rewards: Shao et al. 2025 (spurious rewards); with one update per rollout and no KL, pass@1 must not move.

use serde::{Deserialize, Serialize};

use crate::rng::Stream;

/// Where GRPO takes its rewards from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rewards {
    /// 1 for a passed verdict, 0 for a failed one, none for an unknown one.
    #[default]
    Verdict,
    /// A fair coin keyed by (seed, step, prompt, sample): the control.
    Random,
}

/// Which answer of a pair counts as chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Labels {
    /// As the pair says.
    #[default]
    Given,
    /// Exactly half of them swapped, keyed by (seed, prompt, pair id): the control.
    Shuffled,
}

/// A reward of 0 or 1, each with probability 1/2, that depends on nothing but these keys.
pub fn random_reward(seed: u64, step: u64, prompt_id: &str, sample: u32) -> f64 {
    let key = ["random_reward".into(), seed.into(), step.into(), prompt_id.into(), u64::from(sample).into()];
    (Stream::new(&key).next_u64() >> 63) as f64
}

/// The reward of one rollout: by its verdict (`None` = unknown, left out of its group), or by the control's coin.
pub fn reward(
    source: Rewards,
    verdict: Option<bool>,
    seed: u64,
    step: u64,
    prompt_id: &str,
    sample: u32,
) -> Option<f64> {
    match source {
        Rewards::Verdict => verdict.map(|passed| f64::from(u8::from(passed))),
        Rewards::Random => Some(random_reward(seed, step, prompt_id, sample)),
    }
}

/// Which pairs' two answers change places, for pairs of (prompt id, pair id): none as given; when shuffled every other one in a
/// keyed order of prompts and of pairs within each. A coin for each pair would leave some per cent more on one side, and a model
/// that finds the one direction all pairs share learns from that surplus.
pub fn swapped(labels: Labels, seed: u64, pairs: &[(&str, &str)]) -> Vec<bool> {
    let mut swaps = vec![false; pairs.len()];
    if labels == Labels::Shuffled {
        let key = |id: &str| Stream::new(&["shuffled_labels".into(), seed.into(), id.into()]).next_u64();
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        order.sort_by_key(|i| (key(pairs[*i].0), pairs[*i].0, key(pairs[*i].1), pairs[*i].1));
        order.into_iter().skip(1).step_by(2).for_each(|i| swaps[i] = true);
    }
    swaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rewards_are_fair_and_depend_on_every_key() {
        let mean = (0..8_000).map(|i| random_reward(17, i / 64, "prompt", (i % 64) as u32)).sum::<f64>() / 8_000.0;
        assert!((mean - 0.5).abs() < 0.03, "{mean}");
        let row = |seed, step, prompt: &str| (0..64).map(|s| random_reward(seed, step, prompt, s)).collect::<Vec<_>>();
        assert_eq!(row(1, 2, "a"), row(1, 2, "a"));
        assert_ne!(row(1, 2, "a"), row(2, 2, "a"));
        assert_ne!(row(1, 2, "a"), row(1, 3, "a"));
        assert_ne!(row(1, 2, "a"), row(1, 2, "b"));
    }

    #[test]
    fn the_verdict_is_the_reward_unless_the_control_is_on() {
        assert_eq!(reward(Rewards::Verdict, Some(true), 1, 2, "p", 3), Some(1.0));
        assert_eq!(reward(Rewards::Verdict, Some(false), 1, 2, "p", 3), Some(0.0));
        assert_eq!(reward(Rewards::Verdict, None, 1, 2, "p", 3), None);
        let coins: Vec<_> = (0..64).map(|s| reward(Rewards::Random, None, 1, 2, "p", s)).collect();
        assert!(coins.contains(&Some(0.0)) && coins.contains(&Some(1.0)) && !coins.contains(&None));
    }

    #[test]
    fn shuffled_labels_swap_exactly_half_of_the_pairs_also_within_prompts_and_given_ones_none() {
        let names: Vec<(String, String)> =
            (0..801).map(|i| (format!("prompt-{}", i / 2), format!("pair-{i}"))).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|(p, i)| (p.as_str(), i.as_str())).collect();
        let swaps = swapped(Labels::Shuffled, 17, &pairs);
        assert_eq!(swaps.iter().filter(|s| **s).count(), 400);
        // One pair without a partner may shift the parity behind it, never the balance of a prompt by more than its own pairs.
        let even = (0..400).filter(|i| swaps[2 * i] != swaps[2 * i + 1]).count();
        assert!(even >= 399, "{even}");
        let mut backwards: Vec<(&str, &str)> = pairs.clone();
        backwards.reverse();
        let mut again = swapped(Labels::Shuffled, 17, &backwards);
        again.reverse();
        assert_eq!(again, swaps, "the order of rows does not matter");
        assert_ne!(swapped(Labels::Shuffled, 18, &pairs), swaps);
        assert!(swapped(Labels::Given, 17, &pairs).iter().all(|s| !s));
        assert!(swapped(Labels::Shuffled, 17, &[]).is_empty());
    }
}
