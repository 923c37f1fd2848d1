//! Compares texts: exact duplicates, and near-duplicates nominated by MinHash-LSH and then verified.
//!
//! In: texts and a survivor order. Out: for every document whether it is kept, and if not, for which kept document and
//! how similar the two are. Left to others: files, tables, the SQL of the survivor order, running steps in parallel.
//!
//! The steps, each a pure function over plain slices:
//! 1. [`exact_key`] per text; [`collapse`] keeps the first of each key;
//! 2. [`Shingler::shingles`], [`Hasher::signature`] and [`Hasher::band_keys`] per text that is left;
//! 3. [`bucket_pairs`] per band and key partition, [`merge_pairs`] over all of them (or [`candidates`] for both);
//! 4. [`verify`] per slice of candidates, then [`resolve_edges`]. [`resolve`] is the same in one sequential pass: the
//!    definition that the steps are tested against.
//!
//! Broder 1997 (resemblance, MinHash); Leskovec, Rajaraman & Ullman, *Mining of Massive Datasets*, ch. 3 (banding).

mod config;
mod decontaminate;
mod fineweb;
mod lsh;
mod minhash;
mod normalise;
mod resolve;
mod shingle;

pub use config::{ConfigError, DedupConfig, Method};
pub use decontaminate::{EvaluationSet, Overlap};
pub use fineweb::{FinewebHash, FinewebHasher, FinewebShingler, simplify};
pub use lsh::{Candidate, Overflow, bucket_pairs, candidates, merge_pairs};
pub use minhash::Hasher;
pub use normalise::{exact_key, normalise, text_hash};
pub use resolve::{Edge, Outcome, collapse, resolve, resolve_edges, verify};
pub use shingle::{Shingler, jaccard, shingles};
