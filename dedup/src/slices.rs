//! Verification in slices: candidates are compared with only the shingle sets of one slice in memory.
//!
//! In: pairs of all bands, the number of shingles of every document, and a way to fetch sets. Out: edges sorted by (b, a), as
//! [`Stars`](crate::Stars) wants them. Left to others: where pairs and sets are stored.
//! Memory: 8 bytes a pair while a part is merged, 12 for each candidate of it, the sets of one slice, and 4 bytes a document
//! for the numbers of shingles. Parts are ranges of `b`, so that each can be merged on its own and edges come in order.

use crate::lsh::merge_runs;
use crate::{Candidate, DedupConfig, Edge, verify};

/// Which of `parts` a pair (`a << 32 | b`, as by [`bucket_pairs`](crate::bucket_pairs())) belongs to: ranges of `b` of equal
/// length, in ascending order.
pub fn pair_part(pair: u64, documents: usize, parts: usize) -> usize {
    (u64::from(pair as u32) * parts as u64 / documents.max(1) as u64) as usize
}

/// Pairs of one part, of all bands and in any order, as candidates sorted by (b, a).
pub fn merge_part(mut pairs: Vec<u64>) -> Vec<Candidate> {
    pairs.iter_mut().for_each(|pair| *pair = pair.rotate_left(32));
    pairs.sort_unstable();
    merge_runs(&pairs, |pair| (pair as u32, (pair >> 32) as u32))
}

/// Whether sets of these sizes are too different for a Jaccard similarity of `min_jaccard`: the smaller may lie in the
/// larger at best.
pub fn out_of_reach(a: u32, b: u32, min_jaccard: f64) -> bool {
    a.max(b) > 0 && f64::from(a.min(b)) / f64::from(a.max(b)) < min_jaccard
}

/// Cuts candidates into slices whose sets take at most `limit_bytes` together; a pair that takes more is a slice alone.
/// `lengths`: shingles of each document. Every document counts once in a slice.
pub fn slices<'a>(pairs: &'a [Candidate], lengths: &[u32], limit_bytes: usize) -> Vec<&'a [Candidate]> {
    let (mut cut, mut start, mut bytes) = (Vec::new(), 0, 0);
    let mut held = std::collections::HashSet::new();
    for (at, pair) in pairs.iter().enumerate() {
        let size = |document: u32| lengths[document as usize] as usize * 8;
        let new = |held: &std::collections::HashSet<u32>| -> usize {
            [pair.a, pair.b].iter().filter(|document| !held.contains(document)).map(|document| size(*document)).sum()
        };
        let mut more = new(&held);
        if at > start && bytes + more > limit_bytes {
            cut.push(&pairs[start..at]);
            (start, bytes) = (at, 0);
            held.clear();
            more = new(&held);
        }
        bytes += more;
        held.extend([pair.a, pair.b]);
    }
    if start < pairs.len() {
        cut.push(&pairs[start..]);
    }
    cut
}

/// The documents of some candidates, ascending, each once: whose sets are to be fetched.
pub fn documents_of(pairs: &[Candidate]) -> Vec<u32> {
    let mut documents: Vec<u32> = pairs.iter().flat_map(|pair| [pair.a, pair.b]).collect();
    documents.sort_unstable();
    documents.dedup();
    documents
}

/// Shingle sets of some documents, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct ShingleSets {
    documents: Vec<u32>,
    ends: Vec<usize>,
    shingles: Vec<u64>,
}

impl ShingleSets {
    /// Adds the sorted set of a document; documents come in ascending order.
    pub fn push(&mut self, document: u32, shingles: &[u64]) {
        assert!(self.documents.last().is_none_or(|&last| last < document), "documents come in ascending order");
        self.documents.push(document);
        self.shingles.extend_from_slice(shingles);
        self.ends.push(self.shingles.len());
    }

    /// The set of a document; None if it was not added.
    pub fn get(&self, document: u32) -> Option<&[u64]> {
        let at = self.documents.binary_search(&document).ok()?;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(&self.shingles[start..self.ends[at]])
    }
}

/// Compares one slice of candidates exactly, see [`verify`]. `fetch` is given [`documents_of`] the slice and adds the set of
/// each. Nothing is fetched if `config.verify` is off.
pub fn verify_slice<E>(
    pairs: &[Candidate],
    fetch: impl FnOnce(&[u32], &mut ShingleSets) -> Result<(), E>,
    config: &DedupConfig,
) -> Result<Vec<Edge>, E> {
    let mut sets = ShingleSets::default();
    if config.verify {
        fetch(&documents_of(pairs), &mut sets)?;
    }
    let of = |document: u32| sets.get(document).expect("every document that was asked for was added");
    Ok(verify(pairs, |a, b| crate::jaccard(of(a), of(b)), config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hasher, Overflow, Stars, bucket_pairs, candidates, resolve, shingles};
    use std::convert::Infallible;

    /// The steps as a pipeline does them: band by band and key partition by key partition, pairs into parts, part by part in
    /// slices of few sets.
    #[test]
    fn partitions_parts_and_slices_give_what_one_pass_gives() {
        let config = DedupConfig { ngram: 2, bands: 10, rows: 2, min_jaccard: 0.5, ..DedupConfig::default() };
        let word = |n: usize| format!("w{}", char::from_u32(0x4e00 + n as u32).unwrap_or('x'));
        let text =
            |n: usize| (0..30).map(|i| word(n / 6 * 40 + i + n % 6 * (i % 4 / 3) * 50)).collect::<Vec<_>>().join(" ");
        let sets: Vec<Vec<u64>> = (0..120).map(|n| shingles(&text(n * 37 % 120), config.ngram)).collect();
        let hasher = Hasher::new(config.bands, config.rows, 1);
        let mut bands = vec![Vec::new(); config.bands];
        for (document, set) in sets.iter().enumerate() {
            for (band, key) in hasher.band_keys(&hasher.signature(set)).into_iter().enumerate() {
                bands[band].push((key, document as u32));
            }
        }
        bands.iter_mut().for_each(|band| band.sort_unstable());
        let jaccard = |a: u32, b: u32| crate::jaccard(&sets[a as usize], &sets[b as usize]);
        let order: Vec<u32> = (0..120).collect();
        let wanted = resolve(&order, &candidates(&bands, 4).0, jaccard, &config);
        assert!(wanted.iter().filter(|o| matches!(o, crate::Outcome::Removed { .. })).count() > 20);

        let mut parts = vec![Vec::new(); 7];
        let mut overflow = Overflow::default();
        for band in &bands {
            for partition in 0..3 {
                let entries: Vec<_> = band.iter().copied().filter(|entry| entry.0 % 3 == partition).collect();
                let mut pairs = Vec::new();
                overflow = overflow.plus(bucket_pairs(&entries, 4, &mut pairs));
                pairs.into_iter().for_each(|pair| parts[pair_part(pair, 120, 7)].push(pair));
            }
        }
        assert_eq!(overflow, candidates(&bands, 4).1);
        let lengths: Vec<u32> = sets.iter().map(|set| set.len() as u32).collect();
        let (mut stars, mut removals, mut most) = (Stars::new(120), Vec::new(), 0);
        for pairs in parts.into_iter().map(merge_part) {
            for slice in slices(&pairs, &lengths, 2_000) {
                most = most.max(documents_of(slice).iter().map(|d| lengths[*d as usize] as usize * 8).sum());
                let fetch = |documents: &[u32], held: &mut ShingleSets| {
                    documents.iter().for_each(|&document| held.push(document, &sets[document as usize]));
                    Ok::<(), Infallible>(())
                };
                for edge in verify_slice(slice, fetch, &config).unwrap_or_else(|never| match never {}) {
                    removals.extend(stars.push(&edge));
                }
            }
        }
        let (last, kept) = stars.finish();
        removals.extend(last);
        assert!(most > 0 && most <= 2_000, "{most}");
        for (document, outcome) in wanted.iter().enumerate() {
            let removal = removals.iter().find(|removal| removal.document as usize == document);
            match *outcome {
                crate::Outcome::Kept { .. } => assert_eq!((kept[document], removal), (document as u32, None)),
                crate::Outcome::Removed { kept: survivor, jaccard, shared_bands } => {
                    let found = removal.unwrap();
                    assert_eq!((found.kept, found.jaccard, found.shared_bands), (survivor, jaccard, shared_bands));
                }
            }
        }
    }

    #[test]
    fn sets_out_of_reach_are_never_similar_enough() {
        for (a, b, min, wanted) in [(4, 5, 0.8, false), (3, 5, 0.8, true), (0, 0, 0.8, false), (0, 1, 0.1, true)] {
            assert_eq!(out_of_reach(a, b, min), wanted, "{a} {b}");
        }
        assert!(slices(&[], &[], 8).is_empty() && documents_of(&[]).is_empty());
        assert_eq!(ShingleSets::default().get(0), None);
    }

    #[test]
    fn a_pair_that_is_too_large_is_a_slice_alone() {
        let pairs = [(0, 1), (0, 2), (1, 2)].map(|(a, b)| Candidate { a, b, shared_bands: 1 });
        let cut = slices(&pairs, &[9, 1, 1], 40);
        assert_eq!(cut, [&pairs[..1], &pairs[1..2], &pairs[2..]]);
        assert_eq!(slices(&pairs, &[1, 1, 1], 24), [&pairs]);
    }
}
