//! The one error type of the crate.
//!
//! Each variant says what, where, expected and got. Nothing here is about files: callers own those.

/// What can go wrong in the model half.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle refused an operation.
    #[error("tensor operation: {0}")]
    Candle(#[from] candle_core::Error),
    /// A configuration value that no model or run can have.
    #[error("`{field}` is {got}: {expected}")]
    Config {
        /// Field as written in the manifest.
        field: &'static str,
        /// What was given.
        got: String,
        /// What would be accepted.
        expected: String,
    },
    /// A batch whose columns do not describe packed rows.
    #[error("batch: {what} at position {at}")]
    Batch {
        /// Which rule is broken.
        what: String,
        /// Flat index into `[b * t]`.
        at: usize,
    },
    /// A named tensor is absent.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// Hugging Face parameter name.
        name: String,
    },
    /// A tensor nobody asked for.
    #[error("tensor `{name}` belongs to no parameter of this model")]
    UnknownTensor {
        /// Name as found.
        name: String,
    },
    /// A tensor of the wrong shape or type.
    #[error("tensor `{name}` has shape {got:?}, expected {expected:?}")]
    Shape {
        /// Hugging Face parameter name.
        name: String,
        /// Shape the model configuration asks for.
        expected: Vec<usize>,
        /// Shape found.
        got: Vec<usize>,
    },
    /// A number left the finite range; the step was not applied.
    #[error("{what} is not finite at step {step}")]
    NotFinite {
        /// Which quantity.
        what: String,
        /// Optimizer step, from 0.
        step: u64,
    },
    /// A loss returned gradients that do not fit the batches.
    #[error("loss: {0}")]
    Loss(String),
    /// Token shards that do not hold what was written.
    #[error(transparent)]
    Shard(#[from] tokenizer::shard::ShardError),
    /// Stored bytes or JSON that cannot be a checkpoint.
    #[error("format: {0}")]
    Format(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
