//! Forward pass, gradients, packing and AdamW against transformers' Llama and `torch.optim.AdamW`.

use super::golden::{Golden, TOLERANCE, close, near, split, tensors_close, wide};
use candle_core::Tensor;
use std::collections::BTreeMap;
use trainer::optim::OptimConfig;
use trainer::tape::score;
use trainer::trainer::Trainer;
use trainer::{Batch, Model, TokenGrad, TokenStats};

/// Mean cross-entropy over the counted positions of a step, and its gradient.
pub fn cross_entropy(micro: &[Batch], stats: &[TokenStats]) -> (f64, Vec<TokenGrad>) {
    let n: f64 = micro.iter().flat_map(|b| &b.loss_mask).map(|&m| f64::from(m)).sum();
    let mut loss = 0.0;
    let grads = micro.iter().zip(stats).map(|(batch, stats)| {
        loss -= batch.loss_mask.iter().zip(&stats.logprob).map(|(&m, &l)| f64::from(m) * f64::from(l)).sum::<f64>() / n;
        let d_logprob = batch.loss_mask.iter().map(|&m| (-f64::from(m) / n) as f32).collect();
        TokenGrad { d_logprob, d_entropy: None }
    });
    let grads = grads.collect();
    (loss, grads)
}

fn loss_and_gradients(model: &Model, micro: &[Batch]) -> (f64, BTreeMap<String, Tensor>) {
    let trainer = Trainer::new(model.clone(), &OptimConfig::default()).unwrap();
    let mut loss = f64::NAN;
    let gradients = trainer.gradients(micro, |stats| {
        let (value, grads) = cross_entropy(micro, stats);
        loss = value;
        Ok(grads)
    });
    (loss, gradients.unwrap())
}

/// Log-prob, entropy and logsumexp of every counted position against those of the golden's logits.
fn check_forward(golden: &Golden, model: &Model) -> Result<f64, String> {
    let batch = golden.batch("batch");
    let stats = score(model, &batch).map_err(|e| e.to_string())?;
    let vocab_size = model.config().vocab_size;
    let logits = wide(golden.f32("logits"));
    let (mut got, mut want) = ([const { Vec::new() }; 3], [const { Vec::new() }; 3]);
    for at in (0..batch.len()).filter(|&at| batch.loss_mask[at] != 0.0) {
        let row = &logits[at * vocab_size..(at + 1) * vocab_size];
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let logsumexp = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        let entropy = row.iter().map(|x| (x - logsumexp).exp() * (logsumexp - x)).sum();
        let expected = [row[batch.targets[at] as usize] - logsumexp, entropy, logsumexp];
        let found = [stats.logprob[at], stats.entropy[at], stats.logsumexp[at]];
        for column in 0..3 {
            want[column].push(expected[column]);
            got[column].push(f64::from(found[column]));
        }
    }
    let mut worst = 0.0_f64;
    for (column, what) in ["logprob", "entropy", "logsumexp"].into_iter().enumerate() {
        worst = worst.max(close(what, &got[column], &want[column], TOLERANCE)?);
    }
    Ok(worst)
}

/// Forward, loss and every gradient, with the rows in one micro-batch and in several.
fn check_all(golden: &Golden, model: &Model) -> Result<f64, String> {
    let mut worst = check_forward(golden, model)?;
    let batch = golden.batch("batch");
    for rows in [batch.b, 1] {
        let (loss, gradients) = loss_and_gradients(model, &split(&batch, rows));
        worst = worst.max(near("loss", loss, golden.number("/loss"), TOLERANCE)?);
        worst = worst.max(tensors_close(&gradients, &golden.named("grad."), TOLERANCE)?);
    }
    Ok(worst)
}

#[test]
fn log_probs_loss_and_every_gradient_equal_pytorch() {
    for name in ["forward_tied", "forward_untied"] {
        let golden = Golden::load(name);
        assert!(golden.number("/logits_std") >= 1.0, "flat logits would hide faults");
        println!("{name}: worst relative distance {:.1e}", check_all(&golden, &golden.model()).unwrap());
    }
}

#[test]
fn recomputing_activations_gives_the_same_bits() {
    let golden = Golden::load("forward_tied");
    let micro = [golden.batch("batch")];
    let bits = |recompute: bool| {
        let mut trainer = Trainer::new(golden.model(), &OptimConfig::default()).unwrap();
        trainer.recompute = recompute;
        let gradients = trainer.gradients(&micro, |stats| Ok(cross_entropy(&micro, stats).1)).unwrap();
        gradients.values().flat_map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bits(false), bits(true));
}

#[test]
fn zeroing_any_single_tensor_is_seen() {
    for name in ["forward_tied", "forward_untied"] {
        let golden = Golden::load(name);
        let weights = golden.named("weight.");
        assert_eq!(weights.len(), 2 * 9 + 2 + usize::from(name == "forward_untied"));
        for zeroed in weights.keys() {
            let mut broken = weights.clone();
            broken.insert(zeroed.clone(), weights[zeroed].zeros_like().unwrap());
            let model = Model::from_tensors(golden.config(), broken).unwrap();
            assert!(check_forward(&golden, &model).is_err(), "{name} does not notice that {zeroed} is zero");
        }
    }
}

#[test]
fn a_gain_of_one_or_a_wrong_constant_is_seen() {
    let golden = Golden::load("forward_untied");
    let weights = golden.named("weight.");
    for (name, gain) in weights.iter().filter(|(name, _)| name.contains("norm")) {
        let mut broken = weights.clone();
        broken.insert(name.clone(), gain.ones_like().unwrap());
        let model = Model::from_tensors(golden.config(), broken).unwrap();
        assert!(check_forward(&golden, &model).is_err(), "{name} may as well be missing");
    }
    let right = golden.config();
    for config in [
        trainer::ModelConfig { rope_theta: 10_000.0, ..right.clone() },
        trainer::ModelConfig { norm_eps: 1e-5, ..right.clone() },
    ] {
        let model = Model::from_tensors(config, weights.clone()).unwrap();
        assert!(check_forward(&golden, &model).is_err());
    }
}

#[test]
fn two_documents_packed_in_a_row_are_as_good_as_alone() {
    let (golden, model) = (Golden::load("packed_untied"), Golden::load("forward_untied").model());
    println!("packed: worst relative distance {:.1e}", check_all(&golden, &model).unwrap());
    let mut leaky = golden.batch("batch");
    leaky.doc_starts.fill(0);
    let (loss, _) = loss_and_gradients(&model, &[leaky]);
    assert!(near("loss", loss, golden.number("/loss"), 1e-3).is_err(), "attention across documents must show");
}

#[test]
fn ten_adamw_steps_follow_pytorch() {
    let golden = Golden::load("optimizer_tied");
    let betas = golden.numbers("/betas");
    let optim = OptimConfig {
        weight_decay: golden.number("/weight_decay"),
        beta1: betas[0],
        beta2: betas[1],
        eps: golden.number("/eps"),
        clip_norm: golden.number("/clip_norm"),
    };
    let mut trainer = Trainer::new(Golden::load("forward_tied").model(), &optim).unwrap();
    let (losses, norms) = (golden.numbers("/losses"), golden.numbers("/grad_norms"));
    assert!(norms.iter().any(|&n| n < optim.clip_norm) && norms.iter().any(|&n| n > optim.clip_norm));
    for step in 0..losses.len() {
        let micro = split(&golden.batch(&format!("step{step}.batch")), 2);
        let mut loss = f64::NAN;
        let report = trainer.step(&micro, golden.number("/lr"), |stats| {
            let (value, grads) = cross_entropy(&micro, stats);
            loss = value;
            Ok(grads)
        });
        let apart = near("loss", loss, losses[step], 1e-4).unwrap();
        near("norm of the gradient", report.unwrap().grad_norm, norms[step], 1e-4).unwrap();
        println!("step {step}: loss {loss:.6}, relative distance {apart:.1e}");
    }
    let weights = trainer.model.params().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    let worst = tensors_close(&weights, &golden.named("final."), 1e-4).unwrap();
    println!("weights after {} steps: worst relative distance {worst:.1e}", losses.len());
}
