//! The embedding block: ids to the hidden stream.
//!
//! In: the batch's ids and positions. Out: `[b, t, c]`; backward adds to the gradient of the table, which a tied head has
//! begun, and to that of learned positions.

use super::{composed, shared_ends, tensor};
use crate::family::Position;
use crate::ops::dropout::{Dropout, Place};
use crate::ops::{Scalar, embedding, view};
use crate::tape::{Block, Carry, Ctx, Gradients, Ops, Slope};
use crate::{Model, Result};
use candle_core::Tensor;
use rayon::prelude::*;

/// A row of `model.embed_tokens.weight` per id, scaled, and what the family adds for its position.
pub struct Embedding;

/// `x: [rows, c]` of ids at positions, which learned positions must hold.
pub(crate) fn embed<T: Scalar>(model: &Model<T>, ids: &[u32], positions: &[u32]) -> Vec<T> {
    let c = model.config().n_embd;
    let mut x = vec![T::ZERO; ids.len() * c];
    embedding::forward(&model.slice(0), ids, c, &mut x);
    placed(model, x, positions)
}

/// Rows of the table, scaled and with what the family adds for their positions.
pub(super) fn placed<T: Scalar>(model: &Model<T>, mut x: Vec<T>, positions: &[u32]) -> Vec<T> {
    let (config, c) = (model.config(), model.config().n_embd);
    let scale = T::of(config.family.embedding_scale);
    if scale != T::ONE {
        x.iter_mut().for_each(|x| *x *= scale);
    }
    let mut add = |row: usize, position: &[T]| super::add_to(&mut x[row * c..(row + 1) * c], position);
    match config.family.position {
        Position::Learned => {
            let table = model.slice(1);
            positions.iter().enumerate().for_each(|(row, &p)| add(row, &table[p as usize * c..(p as usize + 1) * c]));
        }
        Position::Sinusoidal => {
            let mut wave = vec![T::ZERO; c];
            for (row, &p) in positions.iter().enumerate() {
                embedding::sinusoid(config.rope_theta, p, &mut wave);
                add(row, &wave);
            }
        }
        Position::Rope | Position::None => {}
    }
    x
}

/// Canonical indices of the embedding's parameters.
fn parameters<T: Scalar>(model: &Model<T>) -> Vec<usize> {
    (0..model.layer_at(0)).collect()
}

pub(super) fn dropout<T: Scalar>(ctx: &Ctx<T>) -> Option<Dropout> {
    let (config, batch) = (ctx.model.config(), ctx.batch);
    Dropout::new(config.family.dropout, ctx.noise, Place::Embedding, batch.b, batch.t, config.n_embd)
}

impl<T: Scalar> Block<T> for Embedding {
    fn forward(&self, ctx: &Ctx<T>, _: Carry<T>) -> Result<(Carry<T>, Vec<Tensor>)> {
        let (batch, c) = (ctx.batch, ctx.model.config().n_embd);
        if ctx.ops == Ops::Composed {
            let weights = &ctx.model.tensors()[..ctx.model.layer_at(0)];
            return Ok((Carry::Hidden(composed::embedding(ctx, weights)?), Vec::new()));
        }
        if let Some(peers) = ctx.peers {
            return Ok((shared_ends::embed(ctx, peers)?, Vec::new()));
        }
        let mut x = embed(ctx.model, &batch.ids, &batch.positions);
        if let Some(dropout) = dropout(ctx) {
            x.par_chunks_mut(c).enumerate().for_each(|(row, x)| dropout.apply(x, row));
        }
        Ok((Carry::Hidden(tensor(x, [batch.b, batch.t, c])?), Vec::new()))
    }

    fn backward(
        &self,
        ctx: &Ctx<T>,
        _: Vec<Tensor>,
        slope: Slope<T>,
        gradients: &mut Gradients<T>,
    ) -> Result<Slope<T>> {
        let slope = slope.hidden();
        if ctx.ops == Ops::Composed {
            composed::backward(ctx, None, &parameters(ctx.model), gradients, |_, w| {
                (composed::embedding(ctx, w)? * &slope)?.sum_all()
            })?;
            return Ok(Slope::End);
        }
        if let Some(peers) = ctx.peers {
            shared_ends::embed_backward(ctx, peers, &slope, gradients)?;
            return Ok(Slope::End);
        }
        let (config, c) = (ctx.model.config(), ctx.model.config().n_embd);
        let (slope, dropout, scale) = (view::<T>(&slope)?, dropout(ctx), T::of(config.family.embedding_scale));
        let mut changed = Vec::new();
        if dropout.is_some() || scale != T::ONE {
            changed = slope.to_vec();
        }
        if let Some(dropout) = dropout {
            changed.par_chunks_mut(c).enumerate().for_each(|(row, x)| dropout.apply(x, row));
        }
        if config.family.position == Position::Learned {
            let dy = if changed.is_empty() { &*slope } else { &changed };
            embedding::backward(dy, &ctx.batch.positions, c, &mut gradients.0[1]);
        }
        if scale != T::ONE {
            changed.iter_mut().for_each(|x| *x *= scale);
        }
        let dy = if changed.is_empty() { &*slope } else { &changed };
        embedding::backward(dy, &ctx.batch.ids, c, &mut gradients.0[0]);
        Ok(Slope::End)
    }

    fn worth_recomputing(&self) -> bool {
        false
    }
}
