//! The embedding block: ids to the hidden stream.
//!
//! In: the batch's ids. Out: `[b, t, c]`; backward adds to the gradient of the table, which a tied head has begun.

use super::{composed, tensor};
use crate::Result;
use crate::ops::{embedding, view};
use crate::tape::{Block, Carry, Ctx, Gradients, Ops, Slope};
use candle_core::Tensor;

/// A row of `model.embed_tokens.weight` per id.
pub struct Embedding;

impl Block for Embedding {
    fn forward(&self, ctx: &Ctx, _: Carry) -> Result<(Carry, Vec<Tensor>)> {
        let (batch, c) = (ctx.batch, ctx.model.config().n_embd);
        if ctx.ops == Ops::Composed {
            return Ok((Carry::Hidden(composed::embedding(ctx, &ctx.model.tensors()[0])?), Vec::new()));
        }
        let mut x = vec![0.0; batch.len() * c];
        embedding::forward(&ctx.model.slice(0), &batch.ids, c, &mut x);
        Ok((Carry::Hidden(tensor(x, [batch.b, batch.t, c])?), Vec::new()))
    }

    fn backward(&self, ctx: &Ctx, _: Vec<Tensor>, slope: Slope, gradients: &mut Gradients) -> Result<Slope> {
        let slope = slope.hidden();
        if ctx.ops == Ops::Composed {
            composed::backward(ctx, None, &[0], gradients, |_, w| {
                (composed::embedding(ctx, &w[0])? * &slope)?.sum_all()
            })?;
        } else {
            embedding::backward(&view(&slope)?, &ctx.batch.ids, ctx.model.config().n_embd, &mut gradients.0[0]);
        }
        Ok(Slope::End)
    }

    fn worth_recomputing(&self) -> bool {
        false
    }
}
