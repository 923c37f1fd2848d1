//! Model to better model: losses, advantages, verifiers, tasks and their controls.
//!
//! In: per-token log-probs and entropies of a whole training step, rewards, completions, documents. Out: gradients with
//! respect to those log-probs, verdicts, task rows. Everything here is a pure function of its arguments and seeds.
//! Left to others: the forward and backward pass (`trainer`), files and SQL (`pipeline`), ids and chat format (`tokenizer`).

pub mod advantage;
pub mod control;
pub mod loss;
pub mod rng;
pub mod tasks;
pub mod verify;
