//! How exact each mesh is on this machine: `cargo run --release -p trainer --example verify_meshes`.
//!
//! Prints, for a model of 12 heads, 6 key heads and 6 layers, two steps of AdamW: tensors compared, how many of them have all bits
//! of one process, and the largest distance, in f64 and (one step) in f32. Ranks are threads. Not a test.

use trainer::ModelConfig;
use trainer::ops::Scalar;
use trainer::parallel::GridOptions;
use trainer::parallel::verify::{Case, Setup, verify};

fn main() -> trainer::Result<()> {
    let config = ModelConfig {
        vocab_size: 41,
        n_layer: 6,
        n_head: 12,
        n_kv_head: 6,
        n_embd: 48,
        n_ffn: 50,
        sequence_len: 24,
        ..ModelConfig::default()
    };
    let mut cases = Vec::new();
    for (mesh, zero, chunks, each) in [
        ("dp2", 0, 1, false),
        ("dp4", 1, 1, false),
        ("dp2", 2, 1, false),
        ("dp2", 3, 1, false),
        ("pp2", 0, 1, true),
        ("pp3", 0, 2, true),
        ("dp2 pp2", 3, 1, true),
        ("tp2", 0, 1, false),
        ("tp3", 0, 1, false),
        ("dp2 tp2", 2, 1, false),
        ("tp2 pp2", 0, 1, true),
        ("dp2 tp2 pp2", 3, 1, true),
    ] {
        let case = Case::new(mesh, zero)?;
        cases.push(Case { options: GridOptions { chunks, ..case.options }, each, ..case });
    }
    show::<f64>(&Setup::new(config.clone(), 5), &cases)?;
    show::<f32>(&Setup { steps: 1, ..Setup::new(config, 5) }, &cases)
}

fn show<T: Scalar>(setup: &Setup, cases: &[Case]) -> trainer::Result<()> {
    for (case, report) in cases.iter().zip(verify::<T>(setup, cases)?) {
        let (all, equal) = (report.differences.len(), report.differences.iter().filter(|d| d.equal).count());
        let (mesh, zero, chunks) = (case.mesh.to_string(), case.options.zero, case.options.chunks);
        let verdict = if report.faults().is_empty() { "exact" } else { "NOT exact" };
        println!(
            "{} {mesh:12} zero {zero} chunks {chunks}: {equal:3} of {all} equal, at most {:.1e}: {verdict}",
            T::DTYPE.as_str(),
            report.worst()
        );
    }
    Ok(())
}
