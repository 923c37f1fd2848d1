//! Tests of the GRPO family: values by hand, finite differences, dead keys, truncation, padding.

use super::super::testing::{finite_difference, ragged, tokens};
use super::*;
use crate::rng::Stream;

const ALL: [GrpoLoss; 4] = [GrpoLoss::Grpo, GrpoLoss::DrGrpo, GrpoLoss::Dapo, GrpoLoss::Cispo];

fn config(loss: GrpoLoss) -> GrpoConfig {
    GrpoConfig { loss, epsilon_high: if loss == GrpoLoss::Cispo { 1.5 } else { 0.28 }, ..GrpoConfig::default() }
}

fn rollout(logprob: &[f64], old: &[f64], advantage: f64) -> Rollout {
    Rollout { tokens: tokens(logprob), old_logprob: Some(old.to_vec()), advantage, ..Rollout::default() }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-12, "{a} {b}");
}

#[test]
fn on_policy_the_loss_is_minus_the_weighted_advantage() {
    let one = |n: usize, advantage| Rollout { tokens: tokens(&vec![-1.0; n]), advantage, ..Rollout::default() };
    let rollouts = [one(1, 1.0), one(3, -2.0)];
    let loss = |c: GrpoConfig| grpo(&c, &rollouts).unwrap().loss;
    close(loss(config(GrpoLoss::Grpo)), (-1.0 + 2.0) / 2.0);
    close(loss(config(GrpoLoss::Dapo)), (-1.0 + 6.0) / 4.0);
    close(loss(GrpoConfig { max_completion_tokens: 10, ..config(GrpoLoss::DrGrpo) }), (-1.0 + 6.0) / 20.0);
    close(loss(config(GrpoLoss::Cispo)), (1.0 - 6.0) / 4.0); // -A * logp with logp = -1
    let grads = grpo(&config(GrpoLoss::Dapo), &rollouts).unwrap().grads;
    assert_eq!((grads[0].d_logprob[0], grads[1].d_logprob[2]), (-0.25, 0.5));
}

#[test]
fn the_clip_stops_the_gradient_on_the_losing_side_only() {
    let ln = f64::ln;
    let old = [-3.0; 4];
    let now = [-3.0 + ln(1.5), -3.0 + ln(0.5), -3.0 + ln(1.1), -3.0];
    let up = grpo(&config(GrpoLoss::Grpo), &[rollout(&now, &old, 1.0)]).unwrap();
    close(up.loss, -(1.28 + 0.5 + 1.1 + 1.0) / 4.0);
    close(up.grads[0].d_logprob[0], 0.0);
    close(up.grads[0].d_logprob[1], -0.5 / 4.0);
    close(up.grads[0].d_logprob[2], -1.1 / 4.0);
    let down = grpo(&config(GrpoLoss::Grpo), &[rollout(&now, &old, -1.0)]).unwrap();
    close(down.loss, (1.5 + 0.8 + 1.1 + 1.0) / 4.0);
    close(down.grads[0].d_logprob[0], 1.5 / 4.0);
    close(down.grads[0].d_logprob[1], 0.0);
    assert_eq!((up.metrics["clip_ratio/high_mean"], up.metrics["clip_ratio/low_mean"]), (0.25, 0.0));
    assert_eq!((down.metrics["clip_ratio/low_mean"], down.metrics["clip_ratio/region_mean"]), (0.25, 0.25));
    let both = grpo(&config(GrpoLoss::Grpo), &[rollout(&now, &old, 1.0), rollout(&old, &old, 1.0)]).unwrap();
    assert_eq!((both.metrics["clip_ratio/high_max"], both.metrics["clip_ratio/high_mean"]), (0.25, 0.125));
}

#[test]
fn the_plain_kl_is_k3_with_its_own_gradient() {
    let mut one = Rollout { tokens: tokens(&[-1.0, -2.0]), ref_logprob: Some(vec![-1.0, -1.5]), ..Rollout::default() };
    one.advantage = 0.0;
    let c = GrpoConfig { beta: 0.1, unbiased_kl: false, ..config(GrpoLoss::Grpo) };
    let out = grpo(&c, &[one]).unwrap();
    let kl = (0.5_f64.exp() - 0.5 - 1.0) / 2.0;
    close(out.metrics["kl"], kl);
    close(out.loss, 0.1 * kl);
    close(out.grads[0].d_logprob[0], 0.0);
    close(out.grads[0].d_logprob[1], 0.05 * (1.0 - 0.5_f64.exp()));
}

#[test]
fn the_unbiased_kl_has_the_reverse_kl_gradient_on_policy() {
    let one = Rollout { tokens: tokens(&[-1.0, -2.0]), ref_logprob: Some(vec![-1.0, -1.5]), ..Rollout::default() };
    let out = grpo(&GrpoConfig { beta: 0.1, ..config(GrpoLoss::Grpo) }, &[one]).unwrap();
    close(out.metrics["kl"], (0.5_f64.exp() - 1.5) / 2.0);
    close(out.grads[0].d_logprob[1], 0.05 * (-2.0 + 1.5)); // log-prob minus reference
}

#[test]
fn a_sequence_ratio_is_the_exp_of_the_mean_log_ratio() {
    let c = GrpoConfig { importance_sampling_level: RatioLevel::Sequence, ..config(GrpoLoss::Grpo) };
    let out = grpo(&c, &[rollout(&[-1.0, -2.0], &[-1.2, -2.0], 1.0), rollout(&[-1.0], &[-3.0], 1.0)]).unwrap();
    close(out.loss, -(0.1_f64.exp() + 1.28) / 2.0);
    close(out.grads[0].d_logprob[0], -0.1_f64.exp() / 4.0);
    assert_eq!((out.grads[1].d_logprob[0], out.metrics["clip_ratio/high_mean"]), (0.0, 0.5));
}

fn random_step(seed: u64) -> Vec<Rollout> {
    let mut stream = Stream::new(&[seed.into()]);
    (0..6)
        .map(|i| {
            let tokens = ragged(&mut stream, 1 + i);
            let mut near = |shift: f64| {
                tokens.logprob.iter().map(|l| l + shift + 1.2 * (stream.share() - 0.5)).collect::<Vec<_>>()
            };
            let (old, reference) = (near([-0.6, 0.6][i % 2]), near(0.0));
            let advantage = [1.3, -0.7, -0.9, 0.8, 0.0, -0.4][i];
            Rollout { tokens, old_logprob: Some(old), ref_logprob: Some(reference), advantage, truncated: i == 4 }
        })
        .collect()
}

#[test]
fn gradients_of_every_loss_and_level_match_finite_differences() {
    let rollouts = random_step(6);
    for loss in ALL {
        for (level, flag) in [(RatioLevel::Token, false), (RatioLevel::Sequence, true), (RatioLevel::Token, true)] {
            if loss == GrpoLoss::Cispo {
                continue; // its ratio is detached: see the next test
            }
            let base = GrpoConfig { importance_sampling_level: level, beta: 0.2, ..config(loss) };
            let c = GrpoConfig { mask_truncated: flag, unbiased_kl: flag, ..base };
            let out = grpo(&c, &rollouts).unwrap();
            assert!(out.metrics["clip_ratio/region_mean"] > 0.0, "no clip fired: the case is too tame");
            for (s, grad) in out.grads.iter().enumerate() {
                let worst = finite_difference(&rollouts[s].tokens, grad, |moved| {
                    let mut rollouts = rollouts.clone();
                    rollouts[s].tokens = moved.clone();
                    grpo(&c, &rollouts).unwrap().loss
                });
                assert!(worst < 1e-7, "{loss:?} {level:?}: {worst}");
            }
        }
    }
}

#[test]
fn cispo_weighs_the_log_prob_by_a_detached_capped_ratio() {
    let ln = f64::ln;
    let out =
        grpo(&config(GrpoLoss::Cispo), &[rollout(&[-1.0, -1.0], &[-1.0 - ln(2.0), -1.0 - ln(1.2)], 1.0)]).unwrap();
    close(out.grads[0].d_logprob[0], -1.5 / 2.0);
    close(out.grads[0].d_logprob[1], -1.2 / 2.0);
    close(out.loss, (1.5 + 1.2) / 2.0);
    assert_eq!(out.metrics["cispo_clip_ratio"], 0.5);
}

#[test]
fn zero_advantage_without_kl_gives_exactly_no_gradient() {
    let mut rollouts = random_step(7);
    rollouts.iter_mut().for_each(|r| r.advantage = 0.0);
    for loss in ALL {
        let out = grpo(&config(loss), &rollouts).unwrap();
        assert!(out.loss == 0.0 && out.grads.iter().all(|g| g.d_logprob.iter().all(|&d| d == 0.0)));
    }
}

#[test]
fn a_masked_truncated_rollout_has_no_gradient_and_leaves_the_token_count() {
    let mut rollouts = vec![rollout(&[-1.0], &[-1.0], 1.0), rollout(&[-1.0, -1.0, -1.0], &[-1.0; 3], 1.0)];
    rollouts[1].truncated = true;
    let on = grpo(&GrpoConfig { mask_truncated: true, ..config(GrpoLoss::Dapo) }, &rollouts).unwrap();
    assert_eq!((on.grads[0].d_logprob[0], on.grads[1].d_logprob[0]), (-1.0, 0.0));
    let off = grpo(&config(GrpoLoss::Dapo), &rollouts).unwrap();
    assert_eq!((off.grads[0].d_logprob[0], off.grads[1].d_logprob[0]), (-0.25, -0.25));
    let grpo_mean = grpo(&GrpoConfig { mask_truncated: true, ..config(GrpoLoss::Grpo) }, &rollouts).unwrap();
    assert_eq!(grpo_mean.loss, -0.5); // still divided by both rollouts, as in TRL
    assert_eq!((on.metrics["completions/clipped_ratio"], on.metrics["completions/mean_terminated_length"]), (0.5, 1.0));
}

#[test]
fn the_entropy_bonus_has_a_gradient_on_the_entropies() {
    let c = GrpoConfig { entropy_coef: 0.1, ..config(GrpoLoss::Dapo) };
    let out = grpo(&c, &[rollout(&[-1.0, -1.0], &[-1.0; 2], 0.0)]).unwrap();
    close(out.loss, -0.05);
    assert_eq!(out.grads[0].d_entropy, Some(vec![-0.05, -0.05]));
    assert!(grpo(&config(GrpoLoss::Dapo), &[rollout(&[-1.0], &[-1.0], 1.0)]).unwrap().grads[0].d_entropy.is_none());
}

#[test]
fn values_out_of_range_missing_references_and_empty_steps_are_errors() {
    let bad = |c: GrpoConfig| matches!(c.check(), Err(LossError::Config { .. }));
    assert!(ALL.iter().all(|&l| config(l).check().is_ok()));
    assert!(bad(GrpoConfig { epsilon_low: -0.1, ..GrpoConfig::default() }));
    assert!(bad(GrpoConfig { epsilon_low: 0.1, ..config(GrpoLoss::Cispo) }));
    assert!(bad(GrpoConfig { beta: f64::NAN, ..GrpoConfig::default() }));
    assert!(bad(GrpoConfig { unbiased_kl: false, ..GrpoConfig::default() }));
    assert!(bad(GrpoConfig { group_size: 1, ..GrpoConfig::default() }));
    assert!(bad(GrpoConfig { ddof: 2, ..GrpoConfig::default() }));
    let one = [rollout(&[-1.0], &[-1.0], 1.0)];
    let c = GrpoConfig { beta: 0.1, ..GrpoConfig::default() };
    assert!(matches!(grpo(&c, &one), Err(LossError::Missing { .. })));
    assert_eq!(grpo(&GrpoConfig::default(), &[]), Err(LossError::Empty));
    let far = [rollout(&[-1.0], &[-2000.0], -1.0)];
    assert!(matches!(grpo(&GrpoConfig::default(), &far), Err(LossError::Overflow { .. })));
}

#[test]
fn every_key_of_the_config_changes_the_loss_or_the_advantages() {
    let rollouts = random_step(8);
    let rewards: Vec<_> = [1.0, 0.0, 0.3, 0.9, 0.2, 0.2].map(Some).to_vec();
    let base = GrpoConfig { group_size: 3, beta: 0.1, ..config(GrpoLoss::DrGrpo) };
    let of = |c: &GrpoConfig| {
        let loss = grpo(c, &rollouts).unwrap();
        (loss.loss, loss.grads, crate::advantage::advantages(c, &rewards).values)
    };
    let coins = |source| (0..32).map(|s| crate::control::reward(source, Some(true), 1, 1, "p", s)).collect::<Vec<_>>();
    for changed in [
        GrpoConfig { loss: GrpoLoss::Dapo, ..base.clone() },
        GrpoConfig { epsilon_low: 0.1, ..base.clone() },
        GrpoConfig { epsilon_high: 0.1, ..base.clone() },
        GrpoConfig { importance_sampling_level: RatioLevel::Sequence, ..base.clone() },
        GrpoConfig { beta: 0.2, ..base.clone() },
        GrpoConfig { unbiased_kl: false, ..base.clone() },
        GrpoConfig { entropy_coef: 0.2, ..base.clone() },
        GrpoConfig { scale_rewards: ScaleRewards::Batch, ..base.clone() },
        GrpoConfig { scale_rewards: ScaleRewards::None, ..base.clone() },
        GrpoConfig { group_size: 2, ..base.clone() },
        GrpoConfig { ddof: 0, ..base.clone() },
        GrpoConfig { std_eps: 1e-2, ..base.clone() },
        GrpoConfig { max_completion_tokens: 7, ..base.clone() },
        GrpoConfig { mask_truncated: true, ..base.clone() },
    ] {
        assert_ne!(of(&base), of(&changed), "{changed:?}");
    }
    assert_ne!(coins(Rewards::Verdict), coins(Rewards::Random));
}
