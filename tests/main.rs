//! The integration tests: the program as people run it, end to end, and the numbers it must agree with.

mod bad_input;
mod bloom;
mod cli;
#[cfg(feature = "ballista")]
mod cluster;
mod commands;
mod corpora;
mod curation;
mod determinism;
mod family;
mod kills;
mod launch;
mod mill;
mod parity;
mod placement;
mod retain;
mod rooms;
mod shapes;
mod shards;
mod sources;
mod support;
mod tokens;
mod training;
