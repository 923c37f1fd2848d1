//! The integration tests: the program as people run it, end to end, and the numbers it must agree with.

mod bad_input;
mod cli;
mod commands;
mod corpora;
mod curation;
mod kills;
mod mill;
mod parity;
mod rooms;
mod shapes;
mod sources;
mod support;
