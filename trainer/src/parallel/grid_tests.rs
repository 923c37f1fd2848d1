//! Checkpoints between meshes, what each rank holds, errors, and the wire.

use super::tcp::{self, TcpConfig};
use super::verify::{Case, Setup};
use super::*;
use crate::ops::tree_sum::sum_of_squares;
use crate::optim::{Ema, OptimConfig, Rates, Rule, RuleConfig};
use crate::trainer::Trainer;
use crate::{Batch, Error, Model, ModelConfig, Result, TokenGrad, TokenStats, checkpoint};
use std::net::TcpListener;
use std::time::Duration;

fn config() -> ModelConfig {
    ModelConfig { vocab_size: 41, n_layer: 6, n_head: 6, n_embd: 24, n_kv_head: 6, n_ffn: 30, ..ModelConfig::default() }
}

fn trainer(rule: Rule) -> Trainer {
    let rule = RuleConfig { optimizer: rule, ..RuleConfig::default() };
    let mut trainer = Trainer::with_rule(Model::init(config(), 1).unwrap(), &OptimConfig::default(), &rule).unwrap();
    trainer.ema = Some(Ema::new(&trainer.model, 0.9).unwrap());
    trainer
}

fn micro(step: u64, n: usize) -> Vec<Batch> {
    let key = crate::rng::Key::new(step);
    let ids = |i: usize, shift: u64| (0..9).map(|at| key.fold(i as u64).below(at + shift, 41) as u32).collect();
    (0..n).map(|i| Batch::from_rows(1, 9, ids(i, 0), ids(i, 1)).unwrap()).collect()
}

fn mean_nll(stats: &[TokenStats]) -> Result<Vec<TokenGrad>> {
    let n: usize = stats.iter().map(|s| s.logprob.len()).sum();
    let grad = |s: &TokenStats| TokenGrad { d_logprob: vec![-1.0 / n as f32; s.logprob.len()], d_entropy: None };
    Ok(stats.iter().map(grad).collect())
}

fn on_ranks<R: Send>(mesh: &str, zero: u8, chunks: usize, work: impl Fn(&Grid) -> R + Sync) -> Vec<R> {
    let (mesh, work): (Mesh, _) = (mesh.parse().unwrap(), &work);
    let options = GridOptions { zero, chunks, ..GridOptions::default() };
    std::thread::scope(|scope| {
        let rank = |end: Box<dyn Collective>| {
            let options = options.clone();
            scope.spawn(move || work(&Grid::new(&*end, mesh, options).unwrap()))
        };
        let ranks: Vec<_> = threads::world(mesh.size()).into_iter().map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn training_goes_on_from_mesh_to_mesh_with_every_rule_to_the_bits_of_one_process() {
    for rule in [Rule::Adamw, Rule::Muon, Rule::Lion, Rule::Sgd] {
        let (mut straight, mut state) = (trainer(rule), trainer(rule));
        for (step, (mesh, zero, chunks)) in
            [("pp2", 0, 1), ("dp3", 3, 1), ("dp2 pp3", 2, 2), ("dp2", 1, 1)].into_iter().enumerate()
        {
            let batches = micro(step as u64, 5);
            straight.step(&batches, 1e-2, mean_nll).unwrap();
            let ends = on_ranks(mesh, zero, chunks, |grid| {
                let mut part = grid.spread(state.clone()).unwrap();
                let prepared = part.prepare_on(grid, &batches, mean_nll).unwrap();
                part.apply_on(grid, prepared, Rates::of(1e-2)).unwrap();
                grid.whole(&part).unwrap()
            });
            let want = checkpoint::encode(&straight).unwrap();
            assert!(ends.iter().all(|end| checkpoint::encode(end).unwrap() == want), "{rule:?}, {mesh}");
            state = ends.into_iter().next().unwrap();
        }
    }
}

#[test]
fn a_whole_trainer_comes_back_from_any_mesh_as_it_was() {
    let mut before = trainer(Rule::Adamw);
    before.step(&micro(0, 2), 1e-2, mean_nll).unwrap();
    let want = checkpoint::encode(&before).unwrap();
    for (mesh, zero) in [("tp3", 0), ("dp2 tp2", 3), ("tp2 pp3", 1), ("dp2 tp2 pp2", 2)] {
        let ends = on_ranks(mesh, zero, 1, |grid| {
            let whole = grid.whole(&grid.spread(before.clone()).unwrap()).unwrap();
            checkpoint::encode(&whole).unwrap()
        });
        assert!(ends.into_iter().all(|end| end == want), "{mesh}");
    }
}

#[test]
fn ranks_hold_their_share_of_weights_and_state_only() {
    let whole = trainer(Rule::Sgd);
    let count = |model: &Model| model.tensors().iter().map(|t| t.elem_count()).sum::<usize>();
    let held = |mesh: &str, zero: u8| on_ranks(mesh, zero, 1, |grid| count(&grid.spread(whole.clone()).unwrap().model));
    let all = count(&whole.model);
    assert_eq!(held("dp3", 3).iter().sum::<usize>(), all);
    assert_eq!(held("dp2", 2), [all, all]);
    assert_eq!(
        held("pp3", 0).iter().sum::<usize>(),
        all + 41 * 24,
        "the tied embedding is on the first and the last stage"
    );
    assert!(held("tp3", 0).iter().all(|n| *n < all / 2));
}

#[test]
fn the_norm_of_the_gradient_is_that_of_the_whole_and_an_error_on_one_rank_ends_all() {
    let start = trainer(Rule::Adamw);
    let batches = micro(3, 4);
    let gradients: Vec<Vec<f32>> = start.prepare(&batches, mean_nll).unwrap().gradients;
    let norms = on_ranks("dp2 tp2 pp2", 2, 1, |grid| {
        grid.spread(start.clone()).unwrap().prepare_on(grid, &batches, mean_nll).unwrap().grad_norm
    });
    assert!(norms.iter().all(|norm| (norm / sum_of_squares(&gradients).sqrt() - 1.0).abs() < 1e-5), "{norms:?}");
    let errors = on_ranks("dp2 pp2", 0, 1, |grid| {
        let part = grid.spread(start.clone()).unwrap();
        let refuse = |stats: &[TokenStats]| match grid.at().pp {
            1 if grid.at().dp == 0 => Err(Error::Loss("no such loss".into())),
            _ => mean_nll(stats),
        };
        part.prepare_on(grid, &batches, refuse).err().unwrap().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("no such loss")), "{errors:?}");
}

#[test]
fn what_a_mesh_cannot_do_is_refused_by_name() {
    let field = |mesh: &str, trainer: Trainer| {
        on_ranks(mesh, 0, 1, |grid| match grid.spread(trainer.clone()) {
            Err(Error::Config { field, .. }) => field,
            _ => "nothing",
        })
        .remove(0)
    };
    assert_eq!(field("tp2", trainer(Rule::Muon)), "optimizer");
    assert_eq!(field("tp4", trainer(Rule::Adamw)), "n_head");
    let mut measured = trainer(Rule::Adamw);
    measured.noise = Some(Default::default());
    assert_eq!(field("pp2", measured), "noise");
    let end = threads::world(2).remove(0);
    assert!(matches!(
        Grid::new(&*end, "cp2".parse().unwrap(), GridOptions::default()),
        Err(Error::Config { field: "mesh", .. })
    ));
}

#[test]
fn over_sockets_a_mixed_mesh_is_as_exact_as_over_threads() {
    let setup = Setup { steps: 1, micro: 4, ..Setup::new(config(), 3) };
    let alone = setup.alone::<f64>().unwrap();
    let case = Case::new("dp2 tp2 pp2", 3).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = listener.local_addr().unwrap().to_string();
    let config = |rank: usize| {
        let deadline = Duration::from_secs(60);
        TcpConfig { rank, world: 8, master: master.clone(), identity: "test".into(), deadline }
    };
    std::thread::scope(|scope| {
        let (setup, case, alone) = (&setup, &case, &alone);
        let others: Vec<_> = (1..8)
            .map(|rank| {
                let config = config(rank);
                scope.spawn(move || setup.on::<f64>(&*tcp::world(&config).unwrap(), case, alone).unwrap())
            })
            .collect();
        let group = tcp::host(&config(0), &listener).unwrap();
        let first = setup.on::<f64>(&*group, case, alone).unwrap();
        assert!(first.faults().is_empty(), "{:?}", first.faults());
        assert!(others.into_iter().all(|rank| rank.join().unwrap().differences == first.differences));
    });
}
