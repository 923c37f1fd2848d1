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
    /// A step that must not be applied; the state before it is still there.
    #[error(
        "{what} of step {step} is {got}, expected {expected}; the step was not applied; documents of its batch: {}\nhint: lower learning_rate, lengthen the warm-up, or look at these documents",
        if documents.is_empty() { "not known".to_owned() } else { documents.join(", ") }
    )]
    Diverged {
        /// Which quantity.
        what: &'static str,
        /// Optimizer step, from 0.
        step: u64,
        /// Its value.
        got: f64,
        /// What it had to be.
        expected: String,
        /// What the batch was made of, as the caller names it.
        documents: Vec<String>,
    },
    /// A rank that is lost, silent or has given up; all ranks end, and running again continues from the last commit.
    #[error(
        "rank {rank} {what}\nhint: all ranks stop; see the log of rank {rank}, then run again: training goes on from its last checkpoint"
    )]
    Peer {
        /// Whose fault it is, in the whole world.
        rank: usize,
        /// What happened to it.
        what: String,
    },
    /// The environment does not say who this process is among the others.
    #[error("launch: {0}")]
    Launch(String),
    /// A socket could not be opened.
    #[error("cannot {verb} at {at}: {source}")]
    Socket {
        /// What was tried.
        verb: &'static str,
        /// Address.
        at: String,
        /// Why not.
        source: std::io::Error,
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

impl Error {
    /// For `map_err`: what was tried, and where.
    pub(crate) fn socket(verb: &'static str, at: &str) -> impl FnOnce(std::io::Error) -> Self {
        let at = at.to_owned();
        move |source| Self::Socket { verb, at, source }
    }

    /// Whether a peer ended this run: the binary exits with 7, and running again continues.
    pub fn is_lost_peer(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
