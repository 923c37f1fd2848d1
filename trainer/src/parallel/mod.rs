//! Ranks that work together: collectives, meshes, and how a rank learns who it is.
//!
//! In: buffers on every rank. Out: the same call's result on every rank, with sums whose order is written down. A
//! [`Collective`] is started and then waited for with a deadline; a lost or silent peer ends the call on every rank with
//! [`Error::Peer`](crate::Error::Peer). Nothing shrinks in place: the run stops, and running again continues.
//!
//! `collective` is the interface, `group` its one implementation over any [`wire`]; `threads` and `tcp` are the wires.
//! `team` is data parallelism on top; `mesh` is arithmetic on ranks; `launch` reads the environment of torchrun, Slurm and MPI.
//! `grid` composes data, tensor, sequence and pipeline parallelism with ZeRO 0 to 3: `division` says who holds what, `schedule` when
//! a stage does what, `walk` does it, `sums` adds up gradients; `verify` compares a mesh with one process.
//!
//! **Order of sums.** A sum over ranks is the binary tree over the rank index, the one of `ops::tree_sum`: if ranks own aligned
//! power-of-two runs of micro-batches, 1, 2 and 4 ranks give the same bits.

pub mod buffer;
pub mod collective;
mod division;
mod frame;
pub mod grid;
mod group;
pub mod launch;
mod mail;
pub mod mesh;
mod rendezvous;
pub mod schedule;
mod sums;
pub mod tcp;
pub mod team;
pub mod threads;
pub mod verify;
mod walk;
mod wire;

#[cfg(test)]
mod collective_tests;
#[cfg(test)]
mod grid_tests;
#[cfg(test)]
mod tcp_tests;
#[cfg(test)]
mod team_tests;

pub use buffer::Buffer;
pub use collective::{Collective, Pending};
pub use grid::{Grid, GridOptions};
pub use launch::Launch;
pub use mesh::{Axis, Mesh};
pub use team::Team;
