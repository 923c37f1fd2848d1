//! Placeholder while the dependencies build.
pub mod language;
pub mod charset;
pub mod extract;
pub mod rules;
pub mod text;
