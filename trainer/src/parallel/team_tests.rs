//! Data parallelism against one rank: the same bits for 1, 2, 3 and 4 ranks, with state whole and spread.

use super::{Collective, Team, threads};
use crate::optim::{Ema, NoiseScale, OptimConfig, Rule, RuleConfig};
use crate::rng::Key;
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, ModelConfig, Result, TokenGrad, TokenStats, checkpoint};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(60);

fn trainer(rule: &RuleConfig) -> Trainer {
    let config = ModelConfig { vocab_size: 40, n_layer: 2, n_embd: 64, n_ffn: 72, ..ModelConfig::default() };
    let model = Model::init(config, 1).unwrap();
    let mut trainer = Trainer::with_rule(model, &OptimConfig::default(), rule).unwrap();
    trainer.noise = Some(NoiseScale::default());
    trainer.ema = Some(Ema::new(&trainer.model, 0.9).unwrap());
    trainer
}

/// Micro-batches of step `step`, of unequal numbers of counted tokens.
fn micro(step: u64, n: u64) -> Vec<Batch> {
    let one = |i: u64| {
        let key = Key::new(step).fold(i);
        let id = |at: u64| key.below(at, 40) as u32;
        let mut batch = Batch::from_rows(1, 12, (0..12).map(id).collect(), (1..13).map(id).collect()).unwrap();
        batch.loss_mask[..(i % 5) as usize].fill(0.0);
        batch
    };
    (0..n).map(one).collect()
}

/// Mean over the counted tokens of the whole step.
fn mean_nll(micro: &[Batch], stats: &[TokenStats]) -> Result<Vec<TokenGrad>> {
    assert_eq!(micro.len(), stats.len(), "every rank sees the statistics of all");
    let n: f32 = micro.iter().flat_map(|b| &b.loss_mask).sum();
    let grad = |b: &Batch| TokenGrad { d_logprob: b.loss_mask.iter().map(|m| -m / n).collect(), d_entropy: None };
    Ok(micro.iter().map(grad).collect())
}

fn rules() -> Vec<RuleConfig> {
    let of = |optimizer, state_bits| RuleConfig { optimizer, state_bits, ..RuleConfig::default() };
    vec![of(Rule::Adamw, None), of(Rule::Muon, Some(8)), of(Rule::Lion, None), of(Rule::Adamw, Some(8))]
}

fn on_ranks<R: Send>(n: usize, work: impl Fn(&dyn Collective) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = threads::world(n).into_iter().map(|end| scope.spawn(move || work(&*end))).collect();
        ranks.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

#[test]
fn any_number_of_ranks_trains_to_the_bits_of_one_with_state_whole_or_spread() {
    for rule in rules() {
        for n in [1, 6] {
            let mut alone = trainer(&rule);
            for step in 0..3 {
                let micro = micro(step, n);
                alone.step(&micro, 1e-2, |stats| mean_nll(&micro, stats)).unwrap();
            }
            let want = checkpoint::encode(&alone).unwrap();
            for ranks in 1..=4 {
                for spread in [false, true] {
                    let ends = on_ranks(ranks, |group| {
                        let team = Team { group, deadline: DEADLINE };
                        let mut trainer = trainer(&rule);
                        if spread {
                            trainer = team.spread(trainer);
                        }
                        for step in 0..3 {
                            let micro = micro(step, n);
                            trainer.step_in(&team, &micro, 1e-2, |stats| mean_nll(&micro, stats)).unwrap();
                        }
                        checkpoint::encode(&team.whole(&trainer).unwrap()).unwrap()
                    });
                    for end in ends {
                        assert!(end == want, "{rule:?}, {n} micro-batches, {ranks} ranks, spread {spread}");
                    }
                }
            }
        }
    }
}

#[test]
fn spread_state_is_held_once() {
    for ranks in [2, 3, 4] {
        let held = on_ranks(ranks, |group| {
            let trainer = Team { group, deadline: DEADLINE }.spread(trainer(&RuleConfig::default()));
            trainer.owned.unwrap()
        });
        let count = trainer(&RuleConfig::default()).state.len();
        assert!(held.iter().cloned().flatten().eq(0..count), "{held:?}");
        assert!(held.iter().all(|range| !range.is_empty()), "{held:?}");
    }
}

#[test]
fn training_goes_on_with_another_number_of_ranks_to_the_same_bits() {
    let rule = &rules()[0];
    let mut straight = trainer(rule);
    let mut state = trainer(rule);
    for (stretch, ranks) in [4, 2, 3, 1].into_iter().enumerate() {
        let step = stretch as u64;
        let micro = micro(step, 8);
        straight.step(&micro, 1e-2, |stats| mean_nll(&micro, stats)).unwrap();
        state = on_ranks(ranks, |group| {
            let team = Team { group, deadline: DEADLINE };
            let mut trainer = team.spread(state.clone());
            trainer.step_in(&team, &micro, 1e-2, |stats| mean_nll(&micro, stats)).unwrap();
            team.whole(&trainer).unwrap()
        })
        .remove(0);
        assert!(checkpoint::encode(&state).unwrap() == checkpoint::encode(&straight).unwrap(), "{ranks} ranks");
    }
}

#[test]
fn an_error_on_one_rank_ends_all_and_changes_nothing() {
    let errors = on_ranks(3, |group| {
        let team = Team { group, deadline: DEADLINE };
        let mut trainer = trainer(&RuleConfig::default());
        let before = trainer.model.slice(0).to_vec();
        let micro = micro(0, 3);
        let error = trainer
            .step_in(&team, &micro, 1e-2, |stats| match group.rank() {
                1 => Err(Error::Loss("no such loss".into())),
                _ => mean_nll(&micro, stats),
            })
            .unwrap_err();
        assert_eq!((trainer.step, trainer.model.slice(0).to_vec()), (0, before));
        error
    });
    assert!(matches!(errors[1], Error::Loss(_)));
    for error in [&errors[0], &errors[2]] {
        assert!(matches!(error, Error::Peer { rank: 1, what } if what.contains("no such loss")), "{error}");
    }
}

#[test]
fn runs_are_aligned_powers_of_two() {
    let runs = on_ranks(3, |group| [1, 2, 6, 8, 9].map(|n| Team { group, deadline: DEADLINE }.run(n)));
    assert_eq!(runs[0], [0..1, 0..1, 0..2, 0..4, 0..4]);
    assert_eq!(runs[1], [1..1, 1..2, 2..4, 4..8, 4..8]);
    assert_eq!(runs[2], [1..1, 2..2, 4..6, 8..8, 8..9]);
}
