//! Ids to a model: ops and blocks, optimizer, loader, checkpoints, generation, evaluation.
//!
//! In: token shards and losses. Out: weights, per-token statistics, sampled tokens. All arithmetic of the model half
//! lives here; what a loss *means* is `align`'s business, files and stages are `pipeline`'s. candle Tensors are the
//! containers, the arithmetic is our own fused code, f32 to train and f64 to judge by, whose bits depend
//! neither on threads nor on batch mates.
//!
//! Reading order: `model` (what the weights are), `tape` (how they are walked), `trainer` and `optim` (how they change),
//! `parallel` (how ranks share the work).

// One module per line, so that edits stay line-wise.
pub mod batch;
mod blocks;
pub mod checkpoint;
pub mod decode;
pub mod error;
pub mod eval;
pub mod export;
pub mod family;
pub mod generate;
pub mod hf;
pub mod layout;
pub mod loader;
pub mod model;
pub mod ops;
pub mod optim;
pub mod packing;
pub mod parallel;
pub mod rng;
pub mod sample;
pub mod tape;
pub mod trainer;

pub use batch::Batch;
pub use error::{Error, Result};
pub use family::Family;
pub use model::{Model, ModelConfig};
pub use tape::{TokenGrad, TokenStats};
