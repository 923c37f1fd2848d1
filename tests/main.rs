//! The integration tests: the program as people run it, end to end, and the numbers it must agree with.

mod bad_input;
mod bloom;
mod cli;
mod commands;
mod curation;
mod kills;
mod mill;
mod parity;
mod placement;
mod retain;
mod rooms;
mod shapes;
mod sources;
mod support;
