//! What a `dedup` stage can be told.
//!
//! In: the manifest. Out: [`DedupConfig`], checked. Left to others: what `survivor` means (it is SQL).

use crate::{Family, SignatureConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How duplicates are recognised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Only texts that are equal apart from white space and Unicode form.
    Exact,
    /// Equal texts, and texts whose sets of word n-grams are similar.
    #[default]
    Minhash,
    /// No document: lines that occur earlier are cut out of texts.
    Lines,
    /// The same for paragraphs.
    Paragraphs,
    /// The same for any stretch of bytes or words.
    Spans,
    /// Documents, paragraphs or lines that a Bloom filter has seen before: little memory, and a stated rate of errors.
    Bloom,
}

/// Removes documents that repeat a kept one.
///
/// Equal texts are collapsed first. The rest are visited in survivor order; a document is removed if a kept document
/// that shares a MinHash band with it has a Jaccard similarity of at least `min_jaccard`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DedupConfig {
    /// `"exact"`: equal texts only. `"minhash"`: near-duplicates too. `"lines"`, `"paragraphs"`, `"spans"`: what occurs earlier is
    /// cut out of texts, and every cut is kept in `x_edits`. `"bloom"`: documents, paragraphs or lines (`unit`) by a Bloom filter.
    pub method: Method,
    /// Words per shingle (characters in scripts written without spaces), 1 or more. Larger is stricter.
    pub ngram: usize,
    /// MinHash bands, 1 to 1000. More bands nominate more pairs: less strict. Pairs of Jaccard similarity s are nominated
    /// with probability 1 - (1 - s^rows)^bands; for 14 x 8 that is one half at s = 0.69.
    pub bands: usize,
    /// Hashes per band, 1 to 1000. More rows nominate fewer pairs: stricter.
    pub rows: usize,
    /// Seed of the hash family.
    pub seed: u64,
    /// Compare every nominated pair exactly before anything is removed. `false` is the classical behaviour: whatever
    /// shares a band is a duplicate, also through a chain of others.
    pub verify: bool,
    /// Least Jaccard similarity (0 to 1) of the two documents' shingle sets for one of them to be removed.
    pub min_jaccard: f64,
    /// In each bucket of one band, only this many documents, the first in survivor order, are compared with the others;
    /// 1 or more. What a fuller bucket leaves out is counted in the receipt.
    pub max_candidates: usize,
    /// Which document of a group survives: the first by this SQL ORDER BY list over the input's columns; ties go by `id`.
    pub survivor: String,
}

impl Default for DedupConfig {
    /// FineWeb's 14 bands of 8 hashes over word 5-grams (Penedo et al. 2024, §3.4), with verification, which it has not.
    fn default() -> Self {
        Self {
            method: Method::Minhash,
            ngram: 5,
            bands: 14,
            rows: 8,
            seed: 1,
            verify: true,
            min_jaccard: 0.8,
            max_candidates: 100,
            survivor: "text_bytes DESC".to_owned(),
        }
    }
}

/// A field outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {got}, expected {expected}")]
pub struct ConfigError {
    /// The field's name in the manifest.
    pub field: &'static str,
    /// Its value.
    pub got: String,
    /// Its range.
    pub expected: &'static str,
}

impl DedupConfig {
    /// Checks every range; returns all faults.
    pub fn check(&self) -> Result<(), Vec<ConfigError>> {
        let sizes = 1..=1000;
        let rows = [
            ("ngram", self.ngram.to_string(), self.ngram >= 1, "1 or more"),
            ("bands", self.bands.to_string(), sizes.contains(&self.bands), "1 to 1000"),
            ("rows", self.rows.to_string(), sizes.contains(&self.rows), "1 to 1000"),
            ("min_jaccard", self.min_jaccard.to_string(), (0.0..=1.0).contains(&self.min_jaccard), "0 to 1"),
            ("max_candidates", self.max_candidates.to_string(), self.max_candidates >= 1, "1 or more"),
        ];
        faults(&rows)
    }

    /// What decides a document's signature, in one of the families.
    pub fn signatures(&self, family: Family) -> SignatureConfig {
        let Self { ngram, bands, rows, seed, .. } = *self;
        SignatureConfig { family, ngram, bands, rows, seed }
    }
}

/// The faults among rows of (field, its value, whether it is sound, its range).
pub(crate) fn faults(rows: &[(&'static str, String, bool, &'static str)]) -> Result<(), Vec<ConfigError>> {
    let faults = rows.iter().filter(|(_, _, sound, _)| !sound);
    let error = |&(field, ref got, _, expected): &(_, String, _, _)| ConfigError { field, got: got.clone(), expected };
    let faults: Vec<_> = faults.map(error).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_sound_and_every_fault_is_named() {
        assert_eq!(DedupConfig::default().check(), Ok(()));
        let bad = DedupConfig { bands: 0, min_jaccard: f64::NAN, ..DedupConfig::default() };
        let fields: Vec<_> = bad.check().unwrap_err().into_iter().map(|fault| fault.field).collect();
        assert_eq!(fields, ["bands", "min_jaccard"]);
    }
}
