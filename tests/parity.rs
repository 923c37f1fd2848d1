//! The model half against PyTorch, transformers and TRL: same weights, same batch, same numbers.
//!
//! In: golden files made by `parity/make_goldens.py`. Out: failures with the tensor's name and its distance.
//! Tolerances are issue 2's: f32, relative difference <= 1e-5 for log-probs, losses and every gradient tensor, <= 1e-4
//! over ten optimizer steps. How the goldens came to be, and what they do not cover: `parity/README.md`.

mod export;
mod golden;
mod losses;
mod model;
