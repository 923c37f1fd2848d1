//! Every mesh against one process; and that a forgotten sum does not pass.

use super::super::division::Cut;
use super::*;
use crate::Family;
use crate::family::{AttentionBias, Mlp, Norm, Placement, Position, QkNorm};

/// 12 heads, 6 key heads, 6 layers: 2, 3 and 4 divide what they must; sizes that they do not divide are cut unevenly.
fn setup(tied: bool, family: Family) -> Setup {
    let config = ModelConfig {
        vocab_size: 41,
        n_layer: 6,
        n_head: 12,
        n_kv_head: 6,
        n_embd: 48,
        n_ffn: 50,
        sequence_len: 24,
        tied,
        family,
        ..ModelConfig::default()
    };
    Setup { t: 11, micro: 5, ..Setup::new(config, 5) }
}

/// Members of the family that together use every option that tensor parallelism must know.
fn members() -> Vec<(&'static str, Setup)> {
    let gpt = Family {
        norm: Norm::Layer,
        position: Position::Learned,
        attention_bias: AttentionBias::All,
        mlp: Mlp::Gelu,
        mlp_bias: true,
        dropout: 0.2,
        ..Family::default()
    };
    let sandwich = Family {
        placement: Placement::Sandwich,
        qk_norm: QkNorm::Head,
        layers: "SSL".into(),
        window: Some(5),
        logit_softcap: Some(4.0),
        attention_softcap: Some(3.0),
        embedding_scale: 1.7,
        z_loss: 0.01,
        dropout: 0.2,
        attention_bias: AttentionBias::Qkv,
        ..Family::default()
    };
    let post =
        Family { placement: Placement::Post, norm: Norm::Layer, mlp: Mlp::Relu2, mlp_bias: true, ..Family::default() };
    vec![
        ("plain", setup(true, Family::default())),
        ("gpt", setup(false, gpt)),
        ("sandwich", setup(true, sandwich)),
        ("post", setup(false, post)),
    ]
}

fn case(mesh: &str, zero: u8, chunks: usize, each: bool) -> Case {
    let case = Case::new(mesh, zero).unwrap();
    Case { options: GridOptions { chunks, ..case.options }, each, ..case }
}

fn check<T: Scalar>(member: &str, setup: &Setup, cases: &[Case]) {
    for (case, report) in cases.iter().zip(verify::<T>(setup, cases).unwrap()) {
        let faults = report.faults();
        assert!(
            faults.is_empty(),
            "{member}, {case:?}: {} of {} {:?}",
            faults.len(),
            report.differences.len(),
            &faults[..faults.len().min(4)]
        );
    }
}

#[test]
fn data_and_pipeline_parallel_and_every_zero_have_the_bits_of_one_process() {
    let mut cases =
        vec![case("dp2", 0, 1, false), case("dp4", 1, 1, false), case("pp2", 0, 1, false), case("pp3", 0, 1, true)];
    cases.extend([case("pp2", 0, 3, true), case("pp3", 1, 2, false), case("pp2", 0, 2, false)]);
    cases
        .extend((0..=3).flat_map(|zero| {
            [case("dp2", zero, 1, true), case("dp3", zero, 1, false), case("dp2 pp2", zero, 1, true)]
        }));
    cases.push(case("dp2 pp3", 3, 2, true));
    for (member, setup) in &members()[..3] {
        check::<f32>(member, setup, &cases);
    }
}

#[test]
fn tensor_and_sequence_parallel_differ_from_one_process_in_the_last_digits_only() {
    let cases = ["tp2", "tp3", "tp6", "dp2 tp2"].map(|mesh| case(mesh, 0, 1, false));
    for (member, setup) in members() {
        check::<f64>(member, &setup, &cases);
        // In f32 steps let rounding grow.
        check::<f32>(member, &Setup { steps: 1, ..setup }, &cases[..2]);
    }
}

#[test]
fn mixed_meshes_of_up_to_eight_ranks_are_exact() {
    let cases = [("tp2 pp2", 0), ("dp2 tp2", 2), ("dp2 tp3", 3), ("dp2 tp2 pp2", 1), ("dp2 tp2 pp2", 3)];
    let cases = cases.map(|(mesh, zero)| case(mesh, zero, 1, true));
    for (member, setup) in members() {
        check::<f64>(member, &Setup { recompute: true, ..setup }, &cases);
    }
}

#[test]
fn every_sum_over_tensor_parallel_ranks_that_is_forgotten_is_found_by_name() {
    let (_, setup) = members().swap_remove(2);
    let setup = Setup { steps: 1, micro: 2, ..setup };
    let alone = setup.alone::<f64>().unwrap();
    let (case, names) = (case("tp2", 0, 1, false), setup.config.parameters());
    for (at, (name, _)) in names.iter().enumerate().filter(|(_, (name, _))| Cut::of(name) == Cut::Whole) {
        let run = |end: Box<dyn Collective>| {
            let mut grid = Grid::new(&*end, case.mesh, case.options.clone()).unwrap();
            grid.forgotten = Some(at);
            setup.on_grid::<f64>(&grid, &case, &alone).unwrap()
        };
        let reports: Vec<Report> = std::thread::scope(|scope| {
            let ranks: Vec<_> = threads::world(2).into_iter().map(|end| scope.spawn(|| run(end))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        });
        let found = reports[0].faults().iter().any(|d| d.what == format!("gradient of {name}, step 0"));
        assert!(found, "{name}");
    }
}

#[test]
fn rows_and_columns_beyond_one_task_are_shared_as_exactly() {
    for (member, setup) in members() {
        let config = ModelConfig { n_layer: 2, n_ffn: 300, sequence_len: 120, ..setup.config };
        let setup = Setup { config, t: 120, micro: 2, steps: 1, ..setup };
        check::<f64>(member, &setup, &[case("tp2", 0, 1, false)]);
    }
}
