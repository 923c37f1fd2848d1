//! Training speed of the quickstart's model on random tokens: `cargo run --release -p trainer --example train_speed [steps]`.
//!
//! Prints tokens per second at one thread and at two, the time of each phase, and decoding speed. Not a test.

use std::time::Instant;
use trainer::decode::{Extend, KvCache, extend};
use trainer::optim::OptimConfig;
use trainer::rng::Key;
use trainer::tape::{Ctx, backward, forward, score};
use trainer::trainer::Trainer;
use trainer::{Batch, Model, ModelConfig, Result, TokenGrad, TokenStats};

fn mean_nll(stats: &[TokenStats]) -> Result<Vec<TokenGrad>> {
    let n: usize = stats.iter().map(|s| s.logprob.len()).sum();
    let grad = |s: &TokenStats| TokenGrad { d_logprob: vec![-1.0 / n as f32; s.logprob.len()], d_entropy: None };
    Ok(stats.iter().map(grad).collect())
}

fn random_batch(b: usize, t: usize, vocab_size: u64) -> Result<Batch> {
    let key = Key::new(1);
    let ids = |shift: u64| (0..(b * t) as u64).map(|i| key.below(i + shift, vocab_size) as u32).collect();
    Batch::from_rows(b, t, ids(0), ids(1))
}

fn main() -> Result<()> {
    let steps: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(10);
    let config = ModelConfig::default();
    let batch = random_batch(16, config.sequence_len, config.vocab_size as u64)?;
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| measure(&config, &batch, steps, threads))?;
    }
    Ok(())
}

/// CPU time of this process so far, in seconds (Linux; 10 ms steps). Says more than the clock on a busy machine.
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|x| x.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn measure(config: &ModelConfig, batch: &Batch, steps: usize, threads: usize) -> Result<()> {
    let mut trainer = Trainer::new(Model::init(config.clone(), 1)?, &OptimConfig::default())?;
    let mut best = f64::INFINITY;
    let (start, cpu) = (Instant::now(), cpu_secs());
    for _ in 0..steps {
        let step = Instant::now();
        trainer.step(std::slice::from_ref(batch), 1e-3, mean_nll)?;
        best = best.min(step.elapsed().as_secs_f64());
    }
    let mean = start.elapsed().as_secs_f64() / steps as f64;
    let tokens = batch.len() as f64;
    println!("{threads} threads: {:.0} tokens per second of CPU time", tokens * steps as f64 / (cpu_secs() - cpu));
    println!(
        "{threads} threads: {:.0} tokens/s mean, {:.0} best step ({:.0} ms)",
        tokens / mean,
        tokens / best,
        best * 1e3
    );

    let (mut phases, model) = ([f64::INFINITY; 3], &trainer.model);
    for _ in 0..steps {
        let ctx = Ctx::new(model, batch)?;
        let lap = Instant::now();
        let (stats, saved) = forward(&ctx)?;
        phases[0] = phases[0].min(lap.elapsed().as_secs_f64());
        let grad = mean_nll(&[stats])?.remove(0);
        let lap = Instant::now();
        backward(&ctx, saved, grad)?;
        phases[1] = phases[1].min(lap.elapsed().as_secs_f64());
        let lap = Instant::now();
        score(model, batch)?;
        phases[2] = phases[2].min(lap.elapsed().as_secs_f64());
    }
    println!(
        "  forward {:.0} ms, backward {:.0} ms, score {:.0} ms",
        phases[0] * 1e3,
        phases[1] * 1e3,
        phases[2] * 1e3
    );
    let tokens = &batch.ids[..64];
    for rows in [1, 64] {
        let mut caches = vec![KvCache::new(); rows];
        let lap = Instant::now();
        for i in 0..64 {
            let mut sequences: Vec<Extend> =
                caches.iter_mut().map(|cache| Extend { tokens: &tokens[i..=i], cache }).collect();
            extend(model, &mut sequences)?;
        }
        println!("  decode {rows} sequences: {:.0} tokens/s", 64.0 * rows as f64 / lap.elapsed().as_secs_f64());
    }
    Ok(())
}
