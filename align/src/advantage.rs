//! Group-relative advantages: how much better a rollout did than the others of its prompt.
//!
//! In: one reward per rollout, `group_size` consecutive ones per prompt; `None` = unscorable. Out: one advantage each,
//! which groups carry no signal, and TRL-named metrics. Left to others: rewards (`verify`, `control`), the policy loss.
//! Shao et al. 2024 (GRPO), Liu et al. 2025 (Dr. GRPO: no division), TRL 1.16 `sum_then_normalize` semantics.

use crate::loss::Metrics;
use crate::loss::grpo::{GrpoConfig, ScaleRewards};

/// Advantages of a whole step.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One per rollout; 0 where the reward is unknown.
    pub values: Vec<f64>,
    /// One per group: true if its known rewards are all equal (or fewer than two), so it teaches nothing.
    pub zero_variance: Vec<bool>,
    /// `reward`, `reward_std` (over all known rewards), `frac_reward_zero_std`, `frac_reward_unknown`.
    pub metrics: Metrics,
}

/// `reward - mean of its group`, divided by `std + eps` of the group, of the batch, or not at all. Groups are
/// `config.group_size` consecutive rewards; panics if the rewards do not fill whole groups.
pub fn advantages(config: &GrpoConfig, rewards: &[Option<f64>]) -> Advantages {
    assert!(config.group_size > 0 && rewards.len().is_multiple_of(config.group_size), "rewards come in whole groups");
    let batch = moments(rewards, config.ddof);
    let (mut values, mut zero_variance) = (Vec::with_capacity(rewards.len()), Vec::new());
    for group in rewards.chunks(config.group_size) {
        // Rounding can give equal rewards a tiny std, so equality is tested on the raw rewards.
        let flat = constant(group);
        zero_variance.push(flat);
        let of_group = moments(group, config.ddof);
        let scale = match config.scale_rewards {
            ScaleRewards::Group => of_group.and_then(|m| m.std).map(|std| std + config.std_eps),
            ScaleRewards::Batch => batch.and_then(|m| m.std).map(|std| std + config.std_eps),
            ScaleRewards::None => Some(1.0),
        };
        for reward in group {
            values.push(match (reward, of_group, scale) {
                (Some(reward), Some(m), Some(scale)) if !flat => (reward - m.mean) / scale,
                _ => 0.0,
            });
        }
    }
    let metrics = metrics(config, rewards, &zero_variance);
    Advantages { values, zero_variance, metrics }
}

#[derive(Clone, Copy)]
struct Moments {
    mean: f64,
    /// `None` if there are too few rewards for it.
    std: Option<f64>,
}

/// Mean and standard deviation of the known rewards; `None` if there are none.
fn moments(rewards: &[Option<f64>], ddof: u32) -> Option<Moments> {
    let n = rewards.iter().flatten().count();
    if n == 0 {
        return None;
    }
    let mean = rewards.iter().flatten().sum::<f64>() / n as f64;
    let squares = rewards.iter().flatten().map(|r| (r - mean) * (r - mean)).sum::<f64>();
    let free = n as f64 - f64::from(ddof);
    Some(Moments { mean, std: (free > 0.0).then(|| (squares / free).sqrt()) })
}

fn constant(rewards: &[Option<f64>]) -> bool {
    let mut known = rewards.iter().flatten();
    let first = known.next();
    known.all(|r| Some(r) == first)
}

fn metrics(config: &GrpoConfig, rewards: &[Option<f64>], zero_variance: &[bool]) -> Metrics {
    let mut out = Metrics::new();
    if let Some(all) = moments(rewards, 1) {
        out.insert("reward".to_owned(), all.mean);
        if let Some(std) = all.std {
            out.insert("reward_std".to_owned(), std);
        }
    }
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    let flat = match config.scale_rewards {
        // TRL tests the std it divides by: for `batch` that is one number for the whole step.
        ScaleRewards::Batch => f64::from(u8::from(constant(rewards))),
        _ => share(zero_variance.iter().filter(|&&z| z).count(), zero_variance.len()),
    };
    out.insert("frac_reward_zero_std".to_owned(), flat);
    let unknown = rewards.iter().filter(|r| r.is_none()).count();
    out.insert("frac_reward_unknown".to_owned(), share(unknown, rewards.len()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(group_size: usize, scale_rewards: ScaleRewards) -> GrpoConfig {
        GrpoConfig { group_size, scale_rewards, ..GrpoConfig::default() }
    }

    fn known(rewards: &[f64]) -> Vec<Option<f64>> {
        rewards.iter().map(|&r| Some(r)).collect()
    }

    #[test]
    fn group_scaling_uses_bessel_and_eps_as_trl_does() {
        let out = advantages(&config(4, ScaleRewards::Group), &known(&[1.0, 0.0, 0.0, 1.0]));
        let expected = 0.5 / ((1.0_f64 / 3.0).sqrt() + 1e-4);
        assert!((out.values[0] - expected).abs() < 1e-15 && (out.values[1] + expected).abs() < 1e-15);
        let population = GrpoConfig { ddof: 0, std_eps: 0.0, ..config(4, ScaleRewards::Group) };
        assert_eq!(advantages(&population, &known(&[1.0, 0.0, 0.0, 1.0])).values, [1.0, -1.0, -1.0, 1.0]);
        assert_eq!((out.metrics["reward"], out.metrics["frac_reward_zero_std"]), (0.5, 0.0));
    }

    #[test]
    fn batch_scaling_divides_by_the_std_of_all_rewards_and_none_by_nothing() {
        let rewards = known(&[1.0, 0.0, 1.0, 1.0]);
        let out = advantages(&config(2, ScaleRewards::Batch), &rewards);
        assert!((out.values[0] - 0.5 / (0.5 + 1e-4)).abs() < 1e-15);
        assert_eq!(out.values[2..], [0.0, 0.0]);
        assert_eq!(out.metrics["frac_reward_zero_std"], 0.0);
        let out = advantages(&config(2, ScaleRewards::None), &rewards);
        assert_eq!((out.values, out.metrics["frac_reward_zero_std"]), (vec![0.5, -0.5, 0.0, 0.0], 0.5));
    }

    #[test]
    fn equal_rewards_give_exactly_zero_even_where_rounding_gives_a_std() {
        let out = advantages(&config(3, ScaleRewards::Group), &known(&[0.1, 0.1, 0.1]));
        assert_eq!((out.values, out.zero_variance), (vec![0.0; 3], vec![true]));
    }

    #[test]
    fn unknown_rewards_neither_move_the_baseline_nor_get_an_advantage() {
        let rewards = [Some(1.0), None, Some(0.0), None, None, Some(1.0)];
        let out = advantages(&config(3, ScaleRewards::None), &rewards);
        assert_eq!(out.values, [0.5, 0.0, -0.5, 0.0, 0.0, 0.0]);
        assert_eq!(out.zero_variance, [false, true]);
        assert_eq!(out.metrics["frac_reward_unknown"], 0.5);
        let out = advantages(&config(2, ScaleRewards::Group), &[None, None]);
        assert_eq!(out.values, [0.0, 0.0]);
        assert!(!out.metrics.contains_key("reward"));
        assert_eq!(advantages(&config(1, ScaleRewards::Group), &[Some(1.0)]).values, [0.0]);
    }
}
