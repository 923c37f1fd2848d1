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

mod bloom;
mod cluster;
mod config;
mod decontaminate;
mod fineweb;
mod index;
mod keys;
mod lsh;
mod minhash;
mod normalise;
mod rehydrate;
mod resolve;
mod shingle;
mod sign;
mod slices;
mod spans;
mod units;
mod url;

pub use bloom::{Bloom, BloomConfig, BloomError};
pub use cluster::{Components, Removal, Stars, cluster_sizes, follow_equal};
pub use config::{ConfigError, DedupConfig, Method};
pub use decontaminate::{EvaluationSet, Overlap};
pub use fineweb::{FinewebHash, FinewebHasher, FinewebShingler, simplify};
pub use index::{Index, IndexBuilder, IndexError, Known, find_known};
pub use keys::{ExactBy, KeyEntry, MatchedBy, key_by, mark_equal, unmarked};
pub use lsh::{Candidate, Overflow, bucket_pairs, candidates, merge_pairs};
pub use minhash::Hasher;
pub use normalise::{exact_key, normalise, text_hash};
pub use rehydrate::{FINEWEB2_WEIGHTS, measured_weights, rehydration_weight};
pub use resolve::{Edge, Outcome, collapse, resolve, resolve_edges, verify};
pub use shingle::{Shingler, jaccard, shingles};
pub use sign::{Family, SignatureConfig, Signed, Signer};
pub use slices::{ShingleSets, documents_of, merge_part, out_of_reach, pair_part, slices, verify_slice};
pub use spans::{
    Anchor, LEAST_SPAN_BYTES, Repeat, SpanConfig, SpanVerifier, anchors, merge_spans, nominate, repeated_spans,
    seed_bytes, surroundings,
};
pub use units::{Unit, UnitConfig, UnitEntry, repeated_unit_spans, repeated_units, unit_entries, unit_spans};
pub use url::{TRACKING_PARAMETERS, canonical_url};
