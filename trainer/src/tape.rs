//! The tape: a model as a list of blocks, walked forward and backward.
//!
//! In: a model and a micro-batch ([`Ctx`]). Out: per-token statistics ([`TokenStats`]) and, given what a loss makes of
//! them ([`TokenGrad`]), the gradient of every parameter. A block takes the carry (the hidden stream) and leaves what its
//! backward needs; with `recompute` only the carry is kept and the block runs again, to the same bits. The blocks
//! themselves are in `blocks`; losses are elsewhere.

use crate::blocks::Peers;
use crate::blocks::{Embedding, Head, Layer};
use crate::family::Position;
use crate::ops::Scalar;
use crate::ops::dropout::Noise;
use crate::ops::rope::{Angles, Wavelengths};
use crate::{Batch, Error, Model, Result};
use candle_core::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// What the head says about the `targets` of one micro-batch; all columns `[b * t]`, 0 where `loss_mask` is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenStats<T = f32> {
    /// Log-probability of the target, in nats, <= 0.
    pub logprob: Vec<T>,
    /// Entropy of the next-token distribution, in nats, >= 0.
    pub entropy: Vec<T>,
    /// Log of the sum of exponentials of the logits, in nats.
    pub logsumexp: Vec<T>,
}

/// Derivative of a step's loss with respect to the statistics of one micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenGrad<T = f32> {
    /// d loss / d logprob, `[b * t]`.
    pub d_logprob: Vec<T>,
    /// d loss / d entropy, `[b * t]`, if the loss uses the entropy.
    pub d_entropy: Option<Vec<T>>,
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
pub struct Ctx<'a, T = f32> {
    /// Weights.
    pub model: &'a Model<T>,
    /// Tokens.
    pub batch: &'a Batch,
    /// Which implementation runs.
    pub ops: Ops,
    /// Keep only each layer's input and run it again in backward.
    pub recompute: bool,
    /// Randomness of dropout; without it nothing is dropped, as in evaluation.
    pub noise: Option<Noise>,
    /// With whom matrices are shared; None: they are whole here.
    pub(crate) peers: Option<Peers<'a>>,
    pub(crate) rotations: Arc<Rotations>,
    pub(crate) documents: Arc<Vec<Vec<Range<usize>>>>,
}

impl<'a, T: Scalar> Ctx<'a, T> {
    /// Checks the batch against the model.
    pub fn new(model: &'a Model<T>, batch: &'a Batch) -> Result<Self> {
        let config = model.config();
        batch.check(config.vocab_size)?;
        check_positions(model, &batch.positions)?;
        Ok(Self {
            model,
            batch,
            ops: Ops::default(),
            recompute: false,
            noise: None,
            peers: None,
            rotations: Arc::new(Rotations::new(model, &batch.positions)),
            documents: Arc::new((0..batch.b).map(|row| batch.documents(row)).collect()),
        })
    }

    /// The same micro-batch under other tensors of the same model.
    pub(crate) fn with<'b>(&self, model: &'b Model<T>) -> Ctx<'b, T>
    where
        'a: 'b,
    {
        let (rotations, documents) = (self.rotations.clone(), self.documents.clone());
        Ctx {
            model,
            batch: self.batch,
            ops: self.ops,
            recompute: self.recompute,
            noise: self.noise,
            peers: self.peers,
            rotations,
            documents,
        }
    }

    /// How layer `l` rotates the batch's positions, if it does.
    pub(crate) fn angles(&self, l: usize) -> Option<&Angles> {
        self.rotations.of(self.model, l)
    }
}

/// Rotations of all layers at some positions.
pub(crate) struct Rotations {
    far: Option<Angles>,
    local: Option<Angles>,
}

impl Rotations {
    pub(crate) fn new<T: Scalar>(model: &Model<T>, positions: &[u32]) -> Self {
        let config = model.config();
        let angles = |local: bool| {
            let used = (0..config.n_layer).any(|l| config.family.rotates(l) && config.family.is_local(l) == local);
            used.then(|| Angles::new(&Wavelengths::of(config, local), positions))
        };
        Self { far: angles(false), local: angles(true) }
    }

    pub(crate) fn of<T: Scalar>(&self, model: &Model<T>, l: usize) -> Option<&Angles> {
        let family = &model.config().family;
        let angles = if family.is_local(l) { &self.local } else { &self.far };
        angles.as_ref().filter(|_| family.rotates(l))
    }
}

/// Ok if the model has a row for every position, where it has rows at all.
pub(crate) fn check_positions<T: Scalar>(model: &Model<T>, positions: &[u32]) -> Result<()> {
    let config = model.config();
    let beyond = |p: &u32| config.family.position == Position::Learned && *p as usize >= config.sequence_len;
    match positions.iter().position(beyond) {
        None => Ok(()),
        Some(at) => {
            let longest = config.sequence_len;
            let what = format!("position {} has no learned row: `sequence_len` is {longest}", positions[at]);
            Err(Error::Batch { what, at })
        }
    }
}

/// What one block hands to the next.
#[derive(Clone, Debug)]
pub enum Carry<T = f32> {
    /// Before the embedding: the batch itself.
    Start,
    /// The hidden stream, `[b, t, c]`.
    Hidden(Tensor),
    /// After the head.
    Stats(TokenStats<T>),
}

impl<T> Carry<T> {
    pub(crate) fn hidden(self) -> Tensor {
        match self {
            Self::Hidden(x) => x,
            _ => unreachable!("the tape puts layers and the head after the embedding"),
        }
    }
}

/// What one block hands back to the one before it.
#[derive(Clone, Debug)]
pub enum Slope<T = f32> {
    /// Into the head.
    Stats(TokenGrad<T>),
    /// Gradient of the hidden stream, `[b, t, c]`.
    Hidden(Tensor),
    /// Out of the embedding.
    End,
}

impl<T> Slope<T> {
    pub(crate) fn hidden(self) -> Tensor {
        match self {
            Self::Hidden(x) => x,
            _ => unreachable!("the tape puts layers and the embedding before the head"),
        }
    }
}

/// Gradients of all parameters: flat numbers in canonical order.
pub struct Gradients<T = f32>(pub Vec<Vec<T>>);

impl<T: Scalar> Gradients<T> {
    /// All zero.
    pub fn zeros(model: &Model<T>) -> Self {
        Self(model.tensors().iter().map(|t| vec![T::ZERO; t.elem_count()]).collect())
    }
}

/// One step of the tape.
pub trait Block<T = f32>: Send + Sync {
    /// The next carry, and what backward needs.
    fn forward(&self, ctx: &Ctx<T>, carry: Carry<T>) -> Result<(Carry<T>, Vec<Tensor>)>;

    /// The slope of the carry that came in; parameter gradients are added to `gradients`.
    fn backward(
        &self,
        ctx: &Ctx<T>,
        kept: Vec<Tensor>,
        slope: Slope<T>,
        gradients: &mut Gradients<T>,
    ) -> Result<Slope<T>>;

    /// Whether running forward again is cheaper to hold than what it keeps.
    fn worth_recomputing(&self) -> bool;
}

/// The blocks of a model in order.
pub fn blocks<T: Scalar>(model: &Model<T>) -> Vec<Box<dyn Block<T>>> {
    let mut list: Vec<Box<dyn Block<T>>> = vec![Box::new(Embedding)];
    list.extend((0..model.config().n_layer).map(|l| Box::new(Layer { l }) as Box<dyn Block<T>>));
    list.push(Box::new(Head));
    list
}

/// What forward leaves behind one block.
pub enum Saved<T = f32> {
    /// What the block kept.
    Kept(Vec<Tensor>),
    /// The carry that came in; the block runs again.
    Input(Carry<T>),
}

/// Statistics of the batch, and what [`backward`] needs. A model with dropout needs [`Ctx::noise`] here.
pub fn forward<T: Scalar>(ctx: &Ctx<T>) -> Result<(TokenStats<T>, Vec<Saved<T>>)> {
    if ctx.model.config().family.dropout > 0.0 && ctx.noise.is_none() {
        let expected = "expected a key in `Ctx::noise`, since training with dropout draws numbers".into();
        return Err(Error::Config { field: "dropout", got: "without noise".into(), expected });
    }
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
pub fn backward<T: Scalar>(ctx: &Ctx<T>, mut saved: Vec<Saved<T>>, grad: TokenGrad<T>) -> Result<Gradients<T>> {
    check_grad(ctx, &grad)?;
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

/// Ok if a loss's gradient has a number per token.
pub(crate) fn check_grad<T: Scalar>(ctx: &Ctx<T>, grad: &TokenGrad<T>) -> Result<()> {
    let n = ctx.batch.len();
    if grad.d_logprob.len() != n || grad.d_entropy.as_ref().is_some_and(|d| d.len() != n) {
        return Err(Error::Loss(format!("gradients of {} tokens, expected {n}", grad.d_logprob.len())));
    }
    Ok(())
}

/// Token statistics of a batch without gradients; no activation is kept.
pub fn score<T: Scalar>(model: &Model<T>, batch: &Batch) -> Result<TokenStats<T>> {
    let ctx = Ctx::new(model, batch)?;
    let mut carry = Carry::Start;
    for block in blocks(model) {
        carry = block.forward(&ctx, carry)?.0;
    }
    Ok(stats(carry))
}

fn stats<T>(carry: Carry<T>) -> TokenStats<T> {
    match carry {
        Carry::Stats(stats) => stats,
        _ => unreachable!("the tape ends with the head"),
    }
}

#[cfg(test)]
#[path = "tape_tests.rs"]
mod tests;
