//! Compares texts: exact duplicates, near-duplicates nominated by MinHash-LSH and then verified, repeated lines, paragraphs
//! and substrings.
//!
//! In: texts and a survivor order. Out: for every document whether it is kept, and if not, for which kept document and
//! how similar the two are; or byte spans of a text to remove. Left to others: files, tables, the SQL of the survivor order,
//! running steps in parallel.
//!
//! Whole documents in memory, each step a pure function over plain slices:
//! 1. [`exact_key`] per text; [`collapse`] keeps the first of each key;
//! 2. [`Shingler::shingles`], [`Hasher::signature`] and [`Hasher::band_keys`] per text that is left;
//! 3. [`bucket_pairs`] per band and key partition, [`merge_pairs`] over all of them (or [`candidates`] for both);
//! 4. [`verify`] per slice of candidates, then [`resolve_edges`]. [`resolve`] is the same in one sequential pass: the
//!    definition that the steps are tested against.
//!
//! The same in bounded memory; documents are numbered in survivor order:
//!
//! | step | side files | in memory |
//! |---|---|---|
//! | A [`Signer::sign`] per fragment | keys, shingles, band keys | one document |
//! | exact: [`mark_equal`] per partition of the keys ([`key_by`], [`Signed::short`]) | | 24 bytes an entry of the partition; 4 a document |
//! | B [`bucket_pairs`] per band and partition, only documents that are their own first | pairs, by [`pair_part`] | 16 bytes an entry of the partition |
//! | C per part [`merge_part`], per slice of [`slices`] [`verify_slice`] | edges in order | 20 bytes a pair of the part, the sets of the slice; 4 a document for lengths |
//! | D [`Stars::push`], or [`Components::join`] with `verify = false` | removals | 4 bytes a document |
//! | [`follow_equal`], [`cluster_sizes`] | | 4 bytes a document |
//!
//! Together at most 16 bytes a document, 12 with `verify = false` (`tests/memory.rs` counts them), besides the partition, part
//! or slice at hand. [`find_known`] compares with what earlier runs kept, between A and the rest.
//!
//! Inside texts: [`unit_entries`], [`repeated_units`], [`unit_spans`] for lines and paragraphs; [`anchors`], [`nominate`],
//! [`SpanVerifier`], [`merge_spans`] for exact substrings, [`word_hashes`], [`merge_word_spans`] for those counted in words; [`Bloom`] where a stated rate of errors is worth the memory.
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
mod words;

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
    Anchor, LEAST_SPAN, Repeat, SpanConfig, SpanVerifier, Symbol, anchors, merge_spans, nominate, repeated_spans,
    seed_len, surroundings,
};
pub use units::{Unit, UnitConfig, UnitEntry, repeated_unit_spans, repeated_units, unit_entries, unit_spans};
pub use url::{TRACKING_PARAMETERS, canonical_url};
pub use words::{merge_word_spans, repeated_word_spans, word_hashes, word_places};
