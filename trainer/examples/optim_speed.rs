//! Cost of an optimizer step of each rule on a model of 17 million parameters, and of collectives on four ranks:
//! `cargo run --release -p trainer --example optim_speed [steps]`. Prints CPU time, state size and wall time. Not a test.

use std::time::{Duration, Instant};
use trainer::optim::{OptimConfig, Rates, Rule, RuleConfig, Slot, apply, zeros};
use trainer::parallel::{Buffer, threads};
use trainer::rng::Key;
use trainer::{Model, ModelConfig, Result};

/// CPU time of this process so far, in seconds (Linux; 10 ms steps).
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|x| x.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn state_bytes(state: &[Slot]) -> usize {
    let bytes = |slot: &Slot| match slot {
        Slot::Empty => 0,
        Slot::Momentum(m) => 4 * m.elem_count(),
        Slot::Moments { m, v } => 4 * (m.elem_count() + v.elem_count()),
        Slot::Moments8 { m, v } => [m, v].map(|b| b.codes.elem_count() + 4 * b.scales.elem_count()).iter().sum(),
    };
    state.iter().map(bytes).sum()
}

fn main() -> Result<()> {
    let steps: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(5);
    let config = ModelConfig {
        vocab_size: 8192,
        n_layer: 6,
        n_head: 6,
        n_kv_head: 6,
        n_embd: 384,
        n_ffn: 1536,
        ..ModelConfig::default()
    };
    let start = Model::init(config, 1)?;
    println!("{} parameters", start.n_params());
    let gradient = |i: usize| {
        let key = Key::new(i as u64);
        (0..start.slice(i).len() as u64).map(|j| key.normal(j) as f32).collect()
    };
    let gradients: Vec<Vec<f32>> = (0..start.tensors().len()).map(gradient).collect();
    for (optimizer, state_bits) in
        [(Rule::Adamw, None), (Rule::Adamw, Some(8)), (Rule::Lion, None), (Rule::Sgd, None), (Rule::Muon, None)]
    {
        let rule = RuleConfig { optimizer, state_bits, ..RuleConfig::default() };
        let (mut model, mut state) = (start.clone(), zeros(&rule, &start)?);
        let (wall, cpu) = (Instant::now(), cpu_secs());
        for step in 0..steps {
            let optim = OptimConfig::default();
            (model, state) = apply(&optim, &rule, &model, &state, &gradients, 1.0, Rates::of(1e-3), step)?;
        }
        let (wall, cpu) = (wall.elapsed().as_secs_f64() / steps as f64, (cpu_secs() - cpu) / steps as f64);
        let (bits, mib) = (state_bits.unwrap_or(32), state_bytes(&state) as f64 / (1 << 20) as f64);
        println!(
            "{optimizer:?} {bits} bits: {:.0} ms CPU, {:.0} ms wall per step, state {mib:.0} MiB",
            cpu * 1e3,
            wall * 1e3
        );
    }
    let (deadline, n) = (Duration::from_secs(600), start.n_params());
    std::thread::scope(|scope| {
        for end in threads::world(4) {
            scope.spawn(move || {
                let add = || end.all_reduce(Buffer::F32(vec![1.0; n])).wait(deadline).expect("four healthy ranks");
                add();
                let wall = Instant::now();
                (0..steps).for_each(|_| drop(add()));
                if end.rank() == 0 {
                    let mib = (4 * n * steps as usize) as f64 / (1 << 20) as f64;
                    println!(
                        "all_reduce, 4 ranks as threads: {:.0} MiB/s per rank",
                        mib / wall.elapsed().as_secs_f64()
                    );
                }
            });
        }
    });
    Ok(())
}
