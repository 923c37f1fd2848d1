//! The tape's promises, for the plain model and for members of the family that together use every option.

use super::*;
use crate::decode::{Extend, KvCache, extend};
use crate::family::{AttentionBias, Mlp, Norm, Placement, QkNorm, RopeScaling};
use crate::ops::cross_entropy::row_stats;
use crate::rng::Key;
use crate::{Family, ModelConfig};
use candle_core::Device;
use std::collections::BTreeMap;

const VOCAB: u32 = 37;

fn config(tied: bool) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCAB as usize,
        n_layer: 2,
        n_head: 4,
        n_kv_head: 2,
        n_embd: 24,
        n_ffn: 19,
        sequence_len: 80,
        tied,
        ..ModelConfig::default()
    }
}

/// Members of the family; each option is away from its default in at least one.
fn members() -> Vec<(&'static str, ModelConfig)> {
    let plain = Family::default;
    let member = |tied: bool, n_kv_head: usize, family: Family| ModelConfig { n_kv_head, family, ..config(tied) };
    let gpt = Family {
        norm: Norm::Layer,
        position: Position::Learned,
        attention_bias: AttentionBias::All,
        mlp: Mlp::Gelu,
        mlp_bias: true,
        ..plain()
    };
    let post = Family {
        norm: Norm::Layer,
        placement: Placement::Post,
        position: Position::Sinusoidal,
        mlp: Mlp::Relu2,
        mlp_bias: true,
        ..plain()
    };
    let output = Family {
        placement: Placement::Output,
        qk_norm: QkNorm::Full,
        attention_bias: AttentionBias::Qkv,
        z_loss: 0.01,
        ..plain()
    };
    let sandwich = Family {
        placement: Placement::Sandwich,
        qk_norm: QkNorm::Head,
        layers: "SSL".into(),
        window: Some(9),
        rope_local_theta: Some(100.0),
        rope_scaling: RopeScaling::Linear,
        rope_factor: 2.0,
        head_dim: Some(10),
        attention_scale: Some(0.2),
        attention_softcap: Some(3.0),
        logit_softcap: Some(4.0),
        mlp: Mlp::Geglu,
        embedding_scale: 1.7,
        z_loss: 0.01,
        ..plain()
    };
    let nope = Family {
        layers: "SN".into(),
        window: Some(65),
        rope_scaling: RopeScaling::Llama3,
        rope_factor: 4.0,
        rope_original_len: Some(30),
        mlp: Mlp::GeluErf,
        mlp_bias: true,
        attention_bias: AttentionBias::Qkv,
        ..plain()
    };
    let none = Family { placement: Placement::Post, position: Position::None, mlp: Mlp::Relu, ..plain() };
    let yarn = Family {
        norm: Norm::Layer,
        placement: Placement::Output,
        rope_share: 0.7,
        rope_scaling: RopeScaling::Yarn,
        rope_factor: 4.0,
        attention_bias: AttentionBias::All,
        mlp_bias: true,
        ..plain()
    };
    vec![
        ("plain tied", config(true)),
        ("plain untied", config(false)),
        ("post", member(false, 1, post)),
        ("output", member(true, 4, output.clone())),
        ("sandwich", ModelConfig { n_layer: 3, ..member(true, 2, sandwich.clone()) }),
        ("nope", member(false, 2, nope)),
        ("none", member(true, 2, none.clone())),
        ("yarn", member(false, 4, yarn)),
        ("dropout, pre", member(true, 4, Family { dropout: 0.2, ..gpt.clone() })),
        ("dropout, post", member(true, 2, Family { dropout: 0.2, ..none })),
        ("dropout, output", member(true, 2, Family { dropout: 0.2, ..output })),
        ("dropout, sandwich", member(true, 2, Family { dropout: 0.2, ..sandwich })),
        ("gpt", member(true, 4, gpt)),
    ]
}

/// Every tensor random around its default, logits of a standard deviation above 1.
fn model(config: &ModelConfig) -> Model {
    let key = Key::new(5);
    let fill = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
        let center = if name.ends_with(".bias") || shape.len() > 1 { 0.0 } else { 1.0 };
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n as u64).map(|j| (center + 0.3 * key.fold(i as u64).normal(j)) as f32).collect();
        (name, Tensor::from_vec(data, shape, &Device::Cpu).unwrap())
    };
    let tensors: BTreeMap<_, _> = config.parameters().into_iter().enumerate().map(fill).collect();
    Model::from_tensors(config.clone(), tensors).unwrap()
}

/// Two rows: one document of 70, then documents of 3, 60 and 7; some positions masked.
fn batch() -> Batch {
    let (t, key) = (70, Key::new(9));
    let id = |i: usize| key.below(i as u64, u64::from(VOCAB)) as u32;
    let mut batch = Batch::from_rows(2, t, (0..2 * t).map(id).collect(), (1..2 * t + 1).map(id).collect()).unwrap();
    for i in 0..t {
        let start = if i < 3 {
            0
        } else if i < 63 {
            3
        } else {
            63
        };
        batch.doc_starts[t + i] = start as u32;
        batch.positions[t + i] = (i - start) as u32;
    }
    for at in [0, 5, 6, 71, 139] {
        batch.loss_mask[at] = 0.0;
    }
    batch
}

fn grad<T: Scalar>(batch: &Batch) -> TokenGrad<T> {
    let key = Key::new(11);
    let column = |s: u64| (0..batch.len() as u64).map(|i| T::of(key.fold(s).normal(i))).collect();
    TokenGrad { d_logprob: column(1), d_entropy: Some(column(2)) }
}

fn noise(first_sample: u64) -> Option<Noise> {
    Some(Noise { key: Key::new(17).fold(3), first_sample })
}

fn run<T: Scalar>(model: &Model<T>, batch: &Batch, ops: Ops, recompute: bool) -> (TokenStats<T>, Vec<Vec<T>>) {
    let ctx = Ctx { ops, recompute, noise: noise(0), ..Ctx::new(model, batch).unwrap() };
    let (stats, saved) = forward(&ctx).unwrap();
    (stats, backward(&ctx, saved, grad(batch)).unwrap().0)
}

fn norm(x: &mut dyn Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Distance relative to the length of `b`, or to `floor` if that is more.
fn relative<T: Scalar>(a: &[T], b: &[T], floor: f64) -> f64 {
    norm(&mut a.iter().zip(b).map(|(a, b)| a.wide() - b.wide())) / norm(&mut b.iter().map(|b| b.wide())).max(floor)
}

/// A key bias that is not rotated adds the same to all scores of a query, so nothing depends on it.
fn is_idle(config: &ModelConfig, name: &str) -> bool {
    let rotated = (0..config.n_layer).any(|l| name.contains(&format!("layers.{l}.")) && config.family.rotates(l));
    name.ends_with("k_proj.bias") && !rotated && config.family.attention_softcap.is_none()
}

#[test]
fn statistics_and_every_gradient_equal_candle_autograd_and_no_gradient_stops() {
    for (member, config) in members() {
        let (model, batch) = (model(&config), batch());
        let (stats, gradients) = run(&model, &batch, Ops::Fused, false);
        let (want_stats, want) = run(&model, &batch, Ops::Composed, false);
        let columns = [
            (&stats.logprob, &want_stats.logprob),
            (&stats.entropy, &want_stats.entropy),
            (&stats.logsumexp, &want_stats.logsumexp),
        ];
        for (got, want) in columns {
            let error = relative(got, want, 1e-12);
            assert!(error < 2e-6, "{member}: {error}");
        }
        for ((name, got), want) in model.names().iter().zip(&gradients).zip(&want) {
            let length = norm(&mut want.iter().map(|x: &f32| f64::from(*x)));
            if is_idle(&config, name) {
                assert!(norm(&mut got.iter().map(|x| f64::from(*x))) < 1e-3, "{member}, {name}: not 0");
                continue;
            }
            assert!(length > 1e-2, "{member}, {name}: gradient stops ({length})");
            let error = relative(got, want, 1e-2);
            assert!(error < 1e-5, "{member}, {name}: {error}");
        }
    }
}

#[test]
fn in_f64_statistics_and_gradients_equal_candle_autograd_to_its_last_digits() {
    for (member, config) in members() {
        let (model, batch) = (model(&config).cast::<f64>().unwrap(), batch());
        let (stats, gradients) = run(&model, &batch, Ops::Fused, false);
        let (want_stats, want) = run(&model, &batch, Ops::Composed, false);
        for (got, want) in [(&stats.logprob, &want_stats.logprob), (&stats.entropy, &want_stats.entropy)] {
            assert!(relative(got, want, 1e-12) < 1e-12, "{member}: {}", relative(got, want, 1e-12));
        }
        for ((name, got), want) in model.names().iter().zip(&gradients).zip(&want) {
            let error = relative(got, want, 1e-2);
            assert!(error < 1e-12, "{member}, {name}: {error}");
        }
        let again = run(&model, &batch, Ops::Fused, true);
        assert!(again == (stats, gradients), "{member}: recomputed");
    }
}

#[test]
fn gradients_equal_finite_differences_of_the_loss_in_f64() {
    for (member, config) in members() {
        let (before, batch) = (model(&config).cast::<f64>().unwrap(), batch());
        let (_, gradients) = run(&before, &batch, Ops::Fused, false);
        let grad = grad::<f64>(&batch);
        let loss = |model: &Model<f64>| {
            let stats = forward(&Ctx { noise: noise(0), ..Ctx::new(model, &batch).unwrap() }).unwrap().0;
            let z = config.family.z_loss;
            let terms = (0..batch.len()).filter(|&at| batch.loss_mask[at] != 0.0).map(|at| {
                let (d, lse) = (grad.d_logprob[at], stats.logsumexp[at]);
                let d_entropy = grad.d_entropy.as_ref().unwrap()[at];
                d * stats.logprob[at] + d_entropy * stats.entropy[at] + z * d.abs() * lse * lse
            });
            terms.sum::<f64>()
        };
        // Along a random direction through each tensor; two step sizes, extrapolated. ReLU has kinks that a step may cross.
        for (i, name) in before.names().iter().enumerate() {
            let key = Key::new(21).fold(i as u64);
            let direction: Vec<f64> = (0..gradients[i].len() as u64).map(|j| key.normal(j)).collect();
            let want: f64 = gradients[i].iter().zip(&direction).map(|(g, d)| g * d).sum();
            let moved = |step: f64| {
                let mut tensors = before.tensors().to_vec();
                let shift = Tensor::from_slice(&direction, tensors[i].dims(), &Device::Cpu).unwrap();
                tensors[i] = (&tensors[i] + (shift * step).unwrap()).unwrap();
                loss(&before.with_tensors(tensors).unwrap())
            };
            let slope = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
            let got = (4.0 * slope(1e-5) - slope(2e-5)) / 3.0;
            let scale = norm(&mut gradients[i].iter().copied()).max(1.0);
            let margin = if matches!(config.family.mlp, Mlp::Relu | Mlp::Relu2) { 3e-3 } else { 1e-8 };
            assert!((got - want).abs() < margin * scale, "{member}, {name}: {got} instead of {want}, of {scale}");
        }
    }
}

#[test]
fn recomputing_and_the_number_of_threads_change_no_bit() {
    for (member, config) in members() {
        let (model, batch) = (model(&config), batch());
        let reference = run(&model, &batch, Ops::Fused, false);
        for (threads, recompute) in [(1, true), (2, false), (5, true)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| run(&model.clone(), &batch, Ops::Fused, recompute));
            assert!(again == reference, "{member}: {threads} threads, recompute {recompute}");
        }
    }
}

#[test]
fn a_later_token_changes_nothing_before_it() {
    for (member, config) in members() {
        let (model, before) = (model(&config), batch());
        let mut after = before.clone();
        after.ids[40] = (before.ids[40] + 1) % VOCAB;
        let (a, b) = (score(&model, &before).unwrap(), score(&model, &after).unwrap());
        assert_eq!(a.logprob[..40], b.logprob[..40], "{member}");
        assert_ne!(a.logprob[41], b.logprob[41], "{member}");
        assert_eq!(a.logprob[70..], b.logprob[70..], "{member}");
    }
}

#[test]
fn zeroing_any_tensor_changes_what_comes_out() {
    for (member, config) in members() {
        let (model, batch) = (model(&config), batch());
        let before = score(&model, &batch).unwrap();
        for (i, name) in model.names().iter().enumerate() {
            let mut tensors = model.tensors().to_vec();
            tensors[i] = tensors[i].zeros_like().unwrap();
            let after = score(&model.with_tensors(tensors).unwrap(), &batch).unwrap();
            let moved = relative(&after.logprob, &before.logprob, 1e-12);
            assert_eq!(moved > 1e-4, !is_idle(&config, name), "{member}, {name}: {moved}");
        }
    }
}

#[test]
fn packed_documents_have_the_bits_of_documents_in_rows_of_their_own() {
    for (member, config) in members() {
        let (model, packed) = (model(&config), batch());
        let all = score(&model, &packed).unwrap();
        for doc in packed.documents(1) {
            let range = 70 + doc.start..70 + doc.end;
            let (ids, targets) = (packed.ids[range.clone()].to_vec(), packed.targets[range.clone()].to_vec());
            let mut alone = Batch::from_rows(1, doc.len(), ids, targets).unwrap();
            alone.loss_mask = packed.loss_mask[range.clone()].to_vec();
            let stats = score(&model, &alone).unwrap();
            assert_eq!(stats.logprob, all.logprob[range.clone()], "{member}");
            assert_eq!(stats.entropy, all.entropy[range], "{member}");
        }
    }
}

#[test]
fn decoding_and_prefill_give_the_bits_of_scoring_in_any_company() {
    for (member, config) in members() {
        let (model, mut batch) = (model(&config), batch());
        batch.loss_mask.fill(1.0);
        let all = score(&model, &batch).unwrap();
        let check = |logits: &[f32], at: usize| {
            let stats = row_stats(logits, batch.targets[at]);
            let want = [all.logprob[at], all.entropy[at], all.logsumexp[at]];
            assert_eq!(stats.map(f32::to_bits), want.map(f32::to_bits), "{member}, {at}");
        };
        let (mut whole, mut single) = (KvCache::new(), KvCache::new());
        let logits = extend(&model, &mut [Extend { tokens: &batch.ids[..66], cache: &mut whole }]).unwrap();
        check(&logits, 65);
        let mut fork = whole.clone();
        for at in 0..70 {
            // Alone up to 66, then beside a fork that goes another way and the prefilled original.
            if at < 66 {
                let next = Extend { tokens: &batch.ids[at..=at], cache: &mut single };
                check(&extend(&model, &mut [next]).unwrap(), at);
                continue;
            }
            let logits = extend(
                &model,
                &mut [
                    Extend { tokens: &[1, 2], cache: &mut fork },
                    Extend { tokens: &batch.ids[at..=at], cache: &mut single },
                    Extend { tokens: &batch.ids[at..=at], cache: &mut whole },
                ],
            );
            let logits = logits.unwrap();
            check(&logits[37..74], at);
            check(&logits[74..], at);
        }
        assert_eq!((whole.len(), fork.len()), (70, 74));
    }
}

#[test]
fn dropout_needs_a_key_and_depends_on_the_sample_not_on_the_micro_batch() {
    let config = members().into_iter().find(|(name, _)| *name == "dropout, pre").unwrap().1;
    let (model, both) = (model(&config), batch());
    let missing = forward(&Ctx::new(&model, &both).unwrap());
    assert!(matches!(missing, Err(Error::Config { field: "dropout", .. })));
    let with = |batch: &Batch, noise: Option<Noise>| {
        forward(&Ctx { noise, ..Ctx::new(&model, batch).unwrap() }).unwrap().0.logprob
    };
    let cut = |from: usize| Batch {
        b: 1,
        t: 70,
        ids: both.ids[from..from + 70].to_vec(),
        targets: both.targets[from..from + 70].to_vec(),
        positions: both.positions[from..from + 70].to_vec(),
        doc_starts: both.doc_starts[from..from + 70].to_vec(),
        loss_mask: both.loss_mask[from..from + 70].to_vec(),
    };
    let all = with(&both, noise(0));
    assert_eq!(with(&cut(0), noise(0)), all[..70]);
    assert_eq!(with(&cut(70), noise(1)), all[70..]);
    assert_ne!(with(&cut(70), noise(0)), all[70..]);
    assert_ne!(all, score(&model, &both).unwrap().logprob);
}

#[test]
fn learned_positions_end_at_sequence_len() {
    let config = members().pop().unwrap().1;
    let model = model(&ModelConfig { sequence_len: 69, ..config });
    assert!(matches!(Ctx::new(&model, &batch()), Err(Error::Batch { at: 69, .. })));
    let mut cache = KvCache::new();
    assert!(extend(&model, &mut [Extend { tokens: &[1; 70], cache: &mut cache }]).is_err());
    assert!(cache.is_empty());
}

#[test]
fn an_empty_extension_and_an_unknown_id_are_refused() {
    let model = model(&config(true));
    let mut cache = KvCache::new();
    assert!(extend(&model, &mut [Extend { tokens: &[], cache: &mut cache }]).is_err());
    assert!(extend(&model, &mut [Extend { tokens: &[37], cache: &mut cache }]).is_err());
    assert!(extend(&model, &mut []).unwrap().is_empty());
    assert!(cache.is_empty());
}
