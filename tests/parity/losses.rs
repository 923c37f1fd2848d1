//! SFT, DPO family and GRPO family against TRL's own trainers: loss, metrics and every gradient.

use super::golden::{Golden, TOLERANCE, close, near, split, tensors_close, wide};
use align::advantage::advantages;
use align::loss::grpo::{GrpoConfig, GrpoLoss, RatioLevel, Rollout, ScaleRewards, grpo};
use align::loss::preference::{Pair, PreferenceConfig, PreferenceLoss, preference};
use align::loss::sft::{SftConfig, SftLoss, sft};
use align::loss::step::{MicroView, Segment, gather, rows, scatter};
use align::loss::{LossError, LossOutput, Metrics, Tokens};
use candle_core::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;
use trainer::optim::OptimConfig;
use trainer::tape::score;
use trainer::trainer::Trainer;
use trainer::{Batch, Model, TokenGrad, TokenStats};

fn policy() -> Model {
    Golden::load("forward_untied").model()
}

/// The frozen second model of the preference and policy-gradient cases.
fn reference() -> Model {
    let weights = Golden::load("dpo_sigmoid_untied").named("reference.");
    Model::from_tensors(Golden::load("forward_untied").config(), weights).unwrap()
}

fn views<'a>(micro: &'a [Batch], stats: &'a [TokenStats]) -> Vec<MicroView<'a>> {
    let view = |(batch, stats): (&'a Batch, &'a TokenStats)| MicroView {
        logprob: &stats.logprob,
        entropy: &stats.entropy,
        loss_mask: &batch.loss_mask,
    };
    micro.iter().zip(stats).map(view).collect()
}

/// All rows of a step, in order.
fn all_rows(micro: &[Batch]) -> Vec<Segment> {
    micro.iter().enumerate().flat_map(|(m, batch)| rows(m, batch.b, batch.t)).collect()
}

/// Per-token values of every row under `model`.
fn tokens_under(model: &Model, batch: &Batch) -> Vec<Tokens> {
    let (micro, stats) = ([batch.clone()], [score(model, batch).unwrap()]);
    gather(&views(&micro, &stats), &all_rows(&micro)).unwrap()
}

/// The loss of the sequences at `segments`, and the gradient of every parameter.
fn run(
    micro: &[Batch],
    segments: &[Segment],
    loss: impl FnOnce(&[Tokens]) -> Result<LossOutput, LossError>,
) -> (LossOutput, BTreeMap<String, Tensor>) {
    let trainer = Trainer::new(policy(), &OptimConfig::default()).unwrap();
    let mut output = None;
    let gradients = trainer.gradients(micro, |stats| {
        let result = loss(&gather(&views(micro, stats), segments).unwrap()).unwrap();
        let sizes: Vec<_> = micro.iter().map(Batch::len).collect();
        let grads = scatter(&sizes, segments, &result.grads).unwrap();
        output = Some(result);
        Ok(grads.into_iter().map(|g| TokenGrad { d_logprob: g.d_logprob, d_entropy: g.d_entropy }).collect())
    });
    (output.unwrap(), gradients.unwrap())
}

/// Loss and gradients against the golden; the largest distance.
fn check(golden: &Golden, output: &LossOutput, gradients: &BTreeMap<String, Tensor>) -> Result<f64, String> {
    // A policy-gradient loss is a small difference of large terms: what counts is its distance on the terms' scale, 1.
    let want = golden.number("/loss");
    let apart = (output.loss - want).abs() / want.abs().max(1.0);
    if apart.is_nan() || apart > TOLERANCE {
        return Err(format!("loss {} instead of {want}", output.loss));
    }
    Ok(apart.max(tensors_close(gradients, &golden.named("grad."), TOLERANCE)?))
}

/// Every metric that both sides have, to 1e-5; `expected` must be among them.
fn check_metrics(golden: &Golden, metrics: &Metrics, expected: &[&str]) {
    let theirs = golden.facts["metrics"].as_object().unwrap();
    for name in expected {
        assert!(theirs.contains_key(*name) && metrics.contains_key(*name), "{name} is missing");
    }
    // TRL counts all tokens it was shown, over the whole run; ours are the step's loss tokens.
    for (name, ours) in metrics.iter().filter(|(name, _)| *name != "num_tokens") {
        if let Some(value) = theirs.get(name).and_then(Value::as_f64) {
            assert!((ours - value).abs() <= TOLERANCE * value.abs().max(1.0), "{name}: {ours} instead of {value}");
        }
    }
}

#[test]
fn sft_over_unequal_micro_batches_equals_trl() {
    let inputs = Golden::load("sft_nll_untied");
    let micro = [inputs.batch("micro0.batch"), inputs.batch("micro1.batch")];
    for (kind, loss) in [("nll", SftLoss::Nll), ("dft", SftLoss::Dft)] {
        let golden = Golden::load(&format!("sft_{kind}_untied"));
        let (output, gradients) = run(&micro, &all_rows(&micro), |tokens| sft(&SftConfig { loss }, tokens));
        assert_eq!(output.metrics["num_tokens"], golden.number("/loss_tokens"));
        println!("sft {kind}: worst relative distance {:.1e}", check(&golden, &output, &gradients).unwrap());
    }
}

/// Chosen and rejected rows interleaved, as `preference` returns its gradients: the batch has all chosen ones first.
fn interleaved(segments: &[Segment]) -> Vec<Segment> {
    let (chosen, rejected) = segments.split_at(segments.len() / 2);
    chosen.iter().zip(rejected).flat_map(|(c, r)| [*c, *r]).collect()
}

fn pairs(tokens: &[Tokens], reference: &[(f64, f64)]) -> Vec<Pair> {
    let pair = |(both, sums): (&[Tokens], &(f64, f64))| Pair {
        chosen: both[0].clone(),
        rejected: both[1].clone(),
        reference: Some(*sums),
    };
    tokens.chunks(2).zip(reference).map(pair).collect()
}

/// Sequence log-probs of the reference, checked against TRL's.
fn reference_sums(inputs: &Golden, batch: &Batch) -> Vec<(f64, f64)> {
    let sums: Vec<f64> = tokens_under(&reference(), batch).iter().map(Tokens::sum).collect();
    let (chosen, rejected) = sums.split_at(sums.len() / 2);
    close("reference, chosen", chosen, &wide(inputs.f32("logp.ref_chosen")), TOLERANCE).unwrap();
    close("reference, rejected", rejected, &wide(inputs.f32("logp.ref_rejected")), TOLERANCE).unwrap();
    chosen.iter().copied().zip(rejected.iter().copied()).collect()
}

#[test]
fn preference_losses_equal_trl() {
    let inputs = Golden::load("dpo_sigmoid_untied");
    let batch = inputs.batch("batch");
    let reference = reference_sums(&inputs, &batch);
    for (kind, loss) in [
        ("sigmoid", PreferenceLoss::Dpo),
        ("ipo", PreferenceLoss::Ipo),
        ("hinge", PreferenceLoss::Hinge),
        ("robust", PreferenceLoss::Robust),
        ("sigmoid_norm", PreferenceLoss::DpoNorm),
    ] {
        let golden = Golden::load(&format!("dpo_{kind}_untied"));
        let (beta, label_smoothing) = (golden.number("/beta"), golden.number("/label_smoothing"));
        let config = PreferenceConfig { loss, beta, label_smoothing, ..PreferenceConfig::default() };
        for per_micro in [batch.b, 5] {
            let micro = split(&batch, per_micro);
            let segments = interleaved(&all_rows(&micro));
            let (output, gradients) = run(&micro, &segments, |tokens| preference(&config, &pairs(tokens, &reference)));
            let worst = check(&golden, &output, &gradients).unwrap();
            println!("dpo {kind}, {} micro-batches: worst relative distance {worst:.1e}", micro.len());
            let names = ["rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"];
            check_metrics(
                &golden,
                &output.metrics,
                &[&names[..], &["logps/chosen", "logps/rejected", "entropy"]].concat(),
            );
        }
    }
}

#[test]
fn dpo_of_a_policy_that_is_its_reference_starts_at_ln_2() {
    let batch = Golden::load("dpo_sigmoid_untied").batch("batch");
    let segments = interleaved(&all_rows(std::slice::from_ref(&batch)));
    let (output, _) = run(&[batch], &segments, |tokens| {
        let own: Vec<_> = tokens.chunks(2).map(|both| (both[0].sum(), both[1].sum())).collect();
        preference(&PreferenceConfig::default(), &pairs(tokens, &own))
    });
    assert!((output.loss - std::f64::consts::LN_2).abs() < 1e-12);
}

/// A golden's settings as our config.
fn grpo_config(golden: &Golden) -> GrpoConfig {
    let text = |at: &str| golden.facts[at].as_str().unwrap();
    GrpoConfig {
        loss: serde_json::from_value(golden.facts["loss_type"].clone()).unwrap(),
        epsilon_low: golden.number("/epsilon"),
        epsilon_high: golden.number("/epsilon_high"),
        importance_sampling_level: match text("importance_sampling_level") {
            "sequence" => RatioLevel::Sequence,
            _ => RatioLevel::Token,
        },
        beta: golden.number("/beta"),
        entropy_coef: golden.number("/entropy_coef"),
        scale_rewards: match text("scale_rewards") {
            "batch" => ScaleRewards::Batch,
            "none" => ScaleRewards::None,
            _ => ScaleRewards::Group,
        },
        group_size: golden.number("/group_size") as usize,
        max_completion_tokens: golden.number("/max_completion_length") as usize,
        mask_truncated: golden.facts["mask_truncated_completions"].as_bool().unwrap(),
        ..GrpoConfig::default()
    }
}

#[test]
fn policy_gradient_losses_advantages_and_metrics_equal_trl() {
    let inputs = Golden::load("grpo_grpo_beta004_untied");
    let batch = inputs.batch("batch");
    let by_row = |values: &[f32]| wide(values).chunks(batch.t).map(<[f64]>::to_vec).collect::<Vec<_>>();
    let old = by_row(inputs.f32("logp.old"));
    let flat = |tokens: &[Tokens]| tokens.iter().flat_map(|t| t.logprob.clone()).collect::<Vec<_>>();
    let (current, frozen) = (tokens_under(&policy(), &batch), tokens_under(&reference(), &batch));
    close("policy", &flat(&current), &wide(inputs.f32("logp.current")), TOLERANCE).unwrap();
    close("reference", &flat(&frozen), &wide(inputs.f32("logp.ref")), TOLERANCE).unwrap();
    for name in [
        "grpo_beta0",
        "grpo_beta004",
        "bnpo_beta0",
        "dr_grpo_beta0",
        "dr_grpo_beta004",
        "dapo_beta0",
        "dapo_beta004",
        "dapo_entropy",
        "dapo_masked",
        "dapo_batch",
        "dr_grpo_noscale",
        "gspo",
        "cispo",
    ] {
        let golden = Golden::load(&format!("grpo_{name}_untied"));
        let config = grpo_config(&golden);
        let rewards: Vec<_> = golden.numbers("/rewards").into_iter().map(Some).collect();
        let advantages = advantages(&config, &rewards);
        close("advantages", &advantages.values, &wide(golden.f32("advantages")), TOLERANCE).unwrap();
        check_metrics(&golden, &advantages.metrics, &["reward", "reward_std"]);
        let truncated = golden.numbers("/truncated_rows");
        for per_micro in [batch.b, 5] {
            let micro = split(&batch, per_micro);
            let (output, gradients) = run(&micro, &all_rows(&micro), |tokens| {
                let rollout = |(i, tokens): (usize, &Tokens)| Rollout {
                    tokens: tokens.clone(),
                    old_logprob: Some(old[i].clone()),
                    ref_logprob: Some(frozen[i].logprob.clone()),
                    advantage: advantages.values[i],
                    truncated: truncated.contains(&(i as f64)),
                };
                grpo(&config, &tokens.iter().enumerate().map(rollout).collect::<Vec<_>>())
            });
            let worst = check(&golden, &output, &gradients).unwrap_or_else(|e| panic!("{name}: {e}"));
            println!("{name}, {} micro-batches: worst relative distance {worst:.1e}", micro.len());
            let clips: &[&str] = match config.loss {
                GrpoLoss::Cispo => &["cispo_clip_ratio"],
                _ => &["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/low_min", "clip_ratio/high_max"],
            };
            let kl: &[&str] = if config.beta > 0.0 { &["kl"] } else { &[] };
            let lengths = ["entropy", "completions/mean_length", "completions/clipped_ratio"];
            check_metrics(&golden, &output.metrics, &[clips, kl, &lengths].concat());
        }
    }
}

#[test]
fn a_loss_divided_by_the_wrong_count_or_one_gradient_missing_is_seen() {
    let golden = Golden::load("sft_nll_untied");
    let micro = [golden.batch("micro0.batch"), golden.batch("micro1.batch")];
    let (mut output, mut gradients) = run(&micro, &all_rows(&micro), |tokens| sft(&SftConfig::default(), tokens));
    check(&golden, &output, &gradients).unwrap();
    for name in gradients.keys().cloned().collect::<Vec<_>>() {
        let right = gradients.insert(name.clone(), gradients[&name].zeros_like().unwrap()).unwrap();
        assert!(check(&golden, &output, &gradients).is_err(), "{name}");
        gradients.insert(name, right);
    }
    output.loss *= 1.0 + 1e-4;
    assert!(near("loss", output.loss, golden.number("/loss"), TOLERANCE).is_err());
}
