//! Training steps as one process, for `tests/peers/train.py`: `step_speed CONFIG_JSON FOLDER ROWS STEPS THREADS`.
//!
//! CONFIG_JSON is a `ModelConfig`. With STEPS 0 the model at its start is written into FOLDER as `transformers` reads it; otherwise
//! FOLDER is read, and STEPS steps of AdamW (rate 0.001, the default betas and decay, clipping at 1) go over ROWS rows of
//! `i * i * 31 + 7 i mod vocab`. Prints one line of JSON: seconds until the first step was taken, wall and CPU seconds of each
//! step, loss before the first and before the last, and the peak resident size in bytes (Linux).

use std::path::Path;
use std::time::Instant;
use trainer::export::{SpecialIds, hf_files};
use trainer::optim::OptimConfig;
use trainer::trainer::Trainer;
use trainer::{Batch, Error, Model, ModelConfig, Result, TokenGrad, TokenStats, hf};

fn mean_nll(stats: &[TokenStats], loss: &mut f64) -> Result<Vec<TokenGrad>> {
    let n: usize = stats.iter().map(|s| s.logprob.len()).sum();
    *loss = -stats.iter().flat_map(|s| &s.logprob).map(|x| f64::from(*x)).sum::<f64>() / n as f64;
    let grad = |s: &TokenStats| TokenGrad { d_logprob: vec![-1.0 / n as f32; s.logprob.len()], d_entropy: None };
    Ok(stats.iter().map(grad).collect())
}

/// CPU seconds of this process so far (Linux; steps of 10 ms).
fn cpu_secs() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|x| x.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn main() -> Result<()> {
    let began = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, folder, rows, steps, threads] = &arguments[..] else {
        return Err(Error::Format("usage: step_speed CONFIG_JSON FOLDER ROWS STEPS THREADS".into()));
    };
    let number = |text: &String| text.parse::<usize>().map_err(|e| Error::Format(format!("{text}: {e}")));
    let config: ModelConfig = serde_json::from_str(config).map_err(|e| Error::Format(e.to_string()))?;
    let (folder, rows, steps) = (Path::new(folder), number(rows)?, number(steps)?);
    if steps == 0 {
        for (name, bytes) in hf_files(&Model::init(config, 1)?, &SpecialIds::default())? {
            std::fs::write(folder.join(name), bytes).map_err(|e| Error::Format(e.to_string()))?;
        }
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(number(threads)?).build();
    pool.expect("the system starts threads").install(|| train(&config, folder, rows, steps, began))
}

fn train(config: &ModelConfig, folder: &Path, rows: usize, steps: usize, began: Instant) -> Result<()> {
    let (t, vocab) = (config.sequence_len, config.vocab_size as u64);
    let id = |i: u64| ((i * i * 31 + 7 * i) % vocab) as u32;
    let ids = |shift: u64| (0..(rows * t) as u64).map(|i| id(i + shift)).collect();
    let batch = Batch::from_rows(rows, t, ids(0), ids(1))?;
    let mut trainer = Trainer::new(hf::read_dir(folder)?, &OptimConfig::default())?;
    let (mut walls, mut cpus, mut losses, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for step in 0..steps {
        let (start, cpu, mut loss) = (Instant::now(), cpu_secs(), 0.0);
        trainer.step(std::slice::from_ref(&batch), 1e-3, |stats| mean_nll(stats, &mut loss))?;
        walls.push(start.elapsed().as_secs_f64());
        cpus.push(cpu_secs() - cpu);
        losses.push(loss);
        if step == 0 {
            first = began.elapsed().as_secs_f64();
        }
    }
    let row = serde_json::json!({
        "first_step": first, "wall": walls, "cpu": cpus, "peak_bytes": peak_bytes(),
        "first_loss": losses[0], "last_loss": losses[steps - 1],
    });
    println!("{row}");
    Ok(())
}
