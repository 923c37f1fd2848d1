//! The tape: a model as a list of blocks, walked forward and backward.
//!
//! In: a model and a micro-batch ([`Ctx`]). Out: per-token statistics ([`TokenStats`]) and, given what a loss makes of
//! them ([`TokenGrad`]), the gradient of every parameter. A block takes the carry (the hidden stream) and leaves what its
//! backward needs; with `recompute` only the carry is kept and the block runs again, to the same bits. The blocks
//! themselves are in `blocks`; losses are elsewhere.

use crate::blocks::{Embedding, Head, Layer};
use crate::ops::attention::Heads;
use crate::ops::rope::Angles;
use crate::{Batch, Error, Model, Result};
use candle_core::Tensor;
use std::ops::Range;

/// What the head says about the `targets` of one micro-batch; all columns `[b * t]`, 0 where `loss_mask` is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenStats {
    /// Log-probability of the target, in nats, <= 0.
    pub logprob: Vec<f32>,
    /// Entropy of the next-token distribution, in nats, >= 0.
    pub entropy: Vec<f32>,
    /// Log of the sum of exponentials of the logits, in nats.
    pub logsumexp: Vec<f32>,
}

/// Derivative of a step's loss with respect to the statistics of one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGrad {
    /// d loss / d logprob, `[b * t]`.
    pub d_logprob: Vec<f32>,
    /// d loss / d entropy, `[b * t]`, if the loss uses the entropy.
    pub d_entropy: Option<Vec<f32>>,
}

/// How a block computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ops {
    /// Our own operations with their own backward.
    #[default]
    Fused,
    /// Plain candle operations, backward by autograd inside the block: slow, and the reference for `Fused`.
    Composed,
}

/// Everything that the blocks of one micro-batch read.
pub struct Ctx<'a> {
    /// Weights.
    pub model: &'a Model,
    /// Tokens.
    pub batch: &'a Batch,
    /// Which implementation runs.
    pub ops: Ops,
    /// Keep only each layer's input and run it again in backward.
    pub recompute: bool,
    pub(crate) heads: Heads,
    pub(crate) angles: Angles,
    pub(crate) documents: Vec<Vec<Range<usize>>>,
}

impl<'a> Ctx<'a> {
    /// Checks the batch against the model.
    pub fn new(model: &'a Model, batch: &'a Batch) -> Result<Self> {
        let config = model.config();
        batch.check(config.vocab_size)?;
        Ok(Self {
            model,
            batch,
            ops: Ops::default(),
            recompute: false,
            heads: heads(model),
            angles: Angles::new(config.rope_theta, config.head_dim(), &batch.positions),
            documents: (0..batch.b).map(|row| batch.documents(row)).collect(),
        })
    }
}

/// Attention sizes of a model.
pub(crate) fn heads(model: &Model) -> Heads {
    let config = model.config();
    Heads { n_head: config.n_head, n_kv_head: config.n_kv_head, d: config.head_dim() }
}

/// What one block hands to the next.
#[derive(Clone, Debug)]
pub enum Carry {
    /// Before the embedding: the batch itself.
    Start,
    /// The hidden stream, `[b, t, c]`.
    Hidden(Tensor),
    /// After the head.
    Stats(TokenStats),
}

impl Carry {
    pub(crate) fn hidden(self) -> Tensor {
        match self {
            Self::Hidden(x) => x,
            _ => unreachable!("the tape puts layers and the head after the embedding"),
        }
    }
}

/// What one block hands back to the one before it.
#[derive(Clone, Debug)]
pub enum Slope {
    /// Into the head.
    Stats(TokenGrad),
    /// Gradient of the hidden stream, `[b, t, c]`.
    Hidden(Tensor),
    /// Out of the embedding.
    End,
}

impl Slope {
    pub(crate) fn hidden(self) -> Tensor {
        match self {
            Self::Hidden(x) => x,
            _ => unreachable!("the tape puts layers and the embedding before the head"),
        }
    }
}

/// Gradients of all parameters: flat numbers in canonical order.
pub struct Gradients(pub Vec<Vec<f32>>);

impl Gradients {
    /// All zero.
    pub fn zeros(model: &Model) -> Self {
        Self(model.tensors().iter().map(|t| vec![0.0; t.elem_count()]).collect())
    }
}

/// One step of the tape.
pub trait Block: Send + Sync {
    /// The next carry, and what backward needs.
    fn forward(&self, ctx: &Ctx, carry: Carry) -> Result<(Carry, Vec<Tensor>)>;

    /// The slope of the carry that came in; parameter gradients are added to `gradients`.
    fn backward(&self, ctx: &Ctx, kept: Vec<Tensor>, slope: Slope, gradients: &mut Gradients) -> Result<Slope>;

    /// Whether running forward again is cheaper to hold than what it keeps.
    fn worth_recomputing(&self) -> bool;
}

/// The blocks of a model in order.
pub fn blocks(model: &Model) -> Vec<Box<dyn Block>> {
    let mut list: Vec<Box<dyn Block>> = vec![Box::new(Embedding)];
    list.extend((0..model.config().n_layer).map(|l| Box::new(Layer { at: model.layer_at(l) }) as Box<dyn Block>));
    list.push(Box::new(Head));
    list
}

/// What forward leaves behind one block.
pub enum Saved {
    /// What the block kept.
    Kept(Vec<Tensor>),
    /// The carry that came in; the block runs again.
    Input(Carry),
}

/// Statistics of the batch, and what [`backward`] needs.
pub fn forward(ctx: &Ctx) -> Result<(TokenStats, Vec<Saved>)> {
    let mut carry = Carry::Start;
    let mut saved = Vec::new();
    for block in blocks(ctx.model) {
        let again = (ctx.recompute && block.worth_recomputing()).then(|| Saved::Input(carry.clone()));
        let (next, kept) = block.forward(ctx, carry)?;
        saved.push(again.unwrap_or(Saved::Kept(kept)));
        carry = next;
    }
    Ok((stats(carry), saved))
}

/// Gradients of all parameters, given the loss's gradient of the statistics.
pub fn backward(ctx: &Ctx, mut saved: Vec<Saved>, grad: TokenGrad) -> Result<Gradients> {
    let n = ctx.batch.len();
    if grad.d_logprob.len() != n || grad.d_entropy.as_ref().is_some_and(|d| d.len() != n) {
        return Err(Error::Loss(format!("gradients of {} tokens, expected {n}", grad.d_logprob.len())));
    }
    let mut gradients = Gradients::zeros(ctx.model);
    let mut slope = Slope::Stats(grad);
    for block in blocks(ctx.model).iter().rev() {
        let kept = match saved.pop().ok_or_else(|| Error::Loss("backward without forward".into()))? {
            Saved::Kept(kept) => kept,
            Saved::Input(carry) => block.forward(ctx, carry)?.1,
        };
        slope = block.backward(ctx, kept, slope, &mut gradients)?;
    }
    Ok(gradients)
}

/// Token statistics of a batch without gradients; no activation is kept.
pub fn score(model: &Model, batch: &Batch) -> Result<TokenStats> {
    let ctx = Ctx::new(model, batch)?;
    let mut carry = Carry::Start;
    for block in blocks(model) {
        carry = block.forward(&ctx, carry)?.0;
    }
    Ok(stats(carry))
}

fn stats(carry: Carry) -> TokenStats {
    match carry {
        Carry::Stats(stats) => stats,
        _ => unreachable!("the tape ends with the head"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use crate::decode::{Extend, KvCache, extend};
    use crate::ops::cross_entropy::row_stats;
    use crate::rng::Key;
    use candle_core::Device;
    use std::collections::BTreeMap;

    fn config(tied: bool) -> ModelConfig {
        ModelConfig {
            vocab_size: 37,
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

    /// Every tensor random around its default, logits of a standard deviation above 1.
    fn model(config: &ModelConfig) -> Model {
        let key = Key::new(5);
        let fill = |(i, (name, shape)): (usize, (String, Vec<usize>))| {
            let (center, spread) = if shape.len() == 1 { (1.0, 0.3) } else { (0.0, 0.3) };
            let n: usize = shape.iter().product();
            let data: Vec<f32> =
                (0..n as u64).map(|j| (center + spread * key.fold(i as u64).normal(j)) as f32).collect();
            (name, Tensor::from_vec(data, shape, &Device::Cpu).unwrap())
        };
        let tensors: BTreeMap<_, _> = config.parameters().into_iter().enumerate().map(fill).collect();
        Model::from_tensors(config.clone(), tensors).unwrap()
    }

    /// Two rows: one document of 70, then documents of 3, 60 and 7; some positions masked.
    fn batch(vocab_size: u32) -> Batch {
        let (t, key) = (70, Key::new(9));
        let id = |i: usize| key.below(i as u64, u64::from(vocab_size)) as u32;
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

    fn grad(batch: &Batch) -> TokenGrad {
        let key = Key::new(11);
        let column = |s: u64| (0..batch.len() as u64).map(|i| key.fold(s).normal(i) as f32).collect();
        TokenGrad { d_logprob: column(1), d_entropy: Some(column(2)) }
    }

    fn run(model: &Model, batch: &Batch, ops: Ops, recompute: bool) -> (TokenStats, Vec<Vec<f32>>) {
        let ctx = Ctx { ops, recompute, ..Ctx::new(model, batch).unwrap() };
        let (stats, saved) = forward(&ctx).unwrap();
        (stats, backward(&ctx, saved, grad(batch)).unwrap().0)
    }

    fn relative(a: &[f32], b: &[f32]) -> f64 {
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(a - b)))
            / norm(&mut b.iter().map(|b| f64::from(*b))).max(1e-12)
    }

    #[test]
    fn statistics_and_every_gradient_equal_candle_autograd() {
        for tied in [true, false] {
            let model = model(&config(tied));
            let batch = batch(37);
            let (stats, gradients) = run(&model, &batch, Ops::Fused, false);
            let (want_stats, want) = run(&model, &batch, Ops::Composed, false);
            assert!(relative(&stats.logprob, &want_stats.logprob) < 1e-6);
            assert!(relative(&stats.entropy, &want_stats.entropy) < 1e-6);
            assert!(relative(&stats.logsumexp, &want_stats.logsumexp) < 1e-6);
            for ((name, got), want) in model.names().iter().zip(&gradients).zip(&want) {
                assert!(want.iter().any(|x| *x != 0.0), "{name}: gradient stops");
                let error = relative(got, want);
                assert!(error < 5e-6, "{name}: {error}");
            }
        }
    }

    #[test]
    fn recomputing_and_the_number_of_threads_change_no_bit() {
        let (model, batch) = (model(&config(true)), batch(37));
        let reference = run(&model, &batch, Ops::Fused, false);
        for (threads, recompute) in [(1, false), (1, true), (2, false), (2, true), (5, false)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(
                pool.install(|| run(&model.clone(), &batch, Ops::Fused, recompute)) == reference,
                "{threads} {recompute}"
            );
        }
    }

    #[test]
    fn a_later_token_changes_nothing_before_it() {
        let model = model(&config(true));
        let before = batch(37);
        let mut after = before.clone();
        after.ids[40] = (before.ids[40] + 1) % 37;
        let (a, b) = (score(&model, &before).unwrap(), score(&model, &after).unwrap());
        assert_eq!(a.logprob[..40], b.logprob[..40]);
        assert_ne!(a.logprob[41], b.logprob[41]);
        assert_eq!(a.logprob[70..], b.logprob[70..]);
    }

    #[test]
    fn packed_documents_have_the_bits_of_documents_in_rows_of_their_own() {
        let model = model(&config(false));
        let packed = batch(37);
        let all = score(&model, &packed).unwrap();
        for doc in packed.documents(1) {
            let range = 70 + doc.start..70 + doc.end;
            let (ids, targets) = (packed.ids[range.clone()].to_vec(), packed.targets[range.clone()].to_vec());
            let mut alone = Batch::from_rows(1, doc.len(), ids, targets).unwrap();
            alone.loss_mask = packed.loss_mask[range.clone()].to_vec();
            let stats = score(&model, &alone).unwrap();
            assert_eq!(stats.logprob, all.logprob[range.clone()]);
            assert_eq!(stats.entropy, all.entropy[range]);
        }
    }

    #[test]
    fn decoding_and_prefill_give_the_bits_of_scoring_in_any_company() {
        let model = model(&config(true));
        let mut batch = batch(37);
        batch.loss_mask.fill(1.0);
        let all = score(&model, &batch).unwrap();
        let check = |logits: &[f32], at: usize| {
            let stats = row_stats(logits, batch.targets[at]);
            assert_eq!(
                stats.map(f32::to_bits),
                [all.logprob[at], all.entropy[at], all.logsumexp[at]].map(f32::to_bits),
                "{at}"
            );
        };
        let (mut whole, mut single) = (KvCache::new(), KvCache::new());
        let logits = extend(&model, &mut [Extend { tokens: &batch.ids[..66], cache: &mut whole }]).unwrap();
        check(&logits, 65);
        let mut fork = whole.clone();
        for at in 0..70 {
            // Alone up to 66, then beside a fork that goes another way and the prefilled original.
            if at < 66 {
                check(&extend(&model, &mut [Extend { tokens: &batch.ids[at..=at], cache: &mut single }]).unwrap(), at);
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

    #[test]
    fn an_empty_extension_and_an_unknown_id_are_refused() {
        let model = model(&config(true));
        let mut cache = KvCache::new();
        assert!(extend(&model, &mut [Extend { tokens: &[], cache: &mut cache }]).is_err());
        assert!(extend(&model, &mut [Extend { tokens: &[37], cache: &mut cache }]).is_err());
        assert!(extend(&model, &mut []).unwrap().is_empty());
        assert!(cache.is_empty());
    }
}
