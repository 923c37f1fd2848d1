//! Looks at one text at a time: decoding, extraction from HTML, language, quality rules, edits.
//!
//! In: bytes or text of one document and a configuration. Out: text, or measurements on which a caller decides.
//! Pure functions: no files (a language model may be loaded), no clock, no state between documents.
//! Comparing documents is left to `dedup`, tables and decisions to `pipeline`.

pub mod charset;
pub mod edit;
pub mod extract;
pub mod language;
pub mod perplexity;
pub mod rules;
pub mod text;
pub mod url;
