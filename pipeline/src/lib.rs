//! Manifest to plan to stages: everything that opens a user's file, orders work, prints or exits.
//!
//! Reading order: `manifest` (what a person wrote), `plan` (what it means), `execute` (doing it), `stage` (one file per
//! kind), `store` and `receipt` (what makes it durable), `cli` (one file per command).

pub mod ablate;
pub mod cli;
pub mod dataset;
pub mod diff;
pub mod engine;
pub mod error;
pub mod estimate;
pub mod exact;
pub mod execute;
pub mod explain;
pub mod manifest;
pub mod plan;
pub mod progress;
pub mod ranks;
pub mod receipt;
pub mod report;
pub mod retain;
pub mod schema;
pub mod session;
pub mod sink;
pub mod source;
pub mod stage;
pub mod store;
pub mod tables;
pub mod tensorboard;
pub mod udf;
pub mod verdict;
pub mod verify_parallel;
pub mod whatif;

pub use error::{Error, Result};
