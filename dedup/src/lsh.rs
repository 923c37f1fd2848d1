//! Candidate pairs: documents that share a bucket of at least one band.
//!
//! In: per band, (key, document) sorted. Out: pairs with the number of bands they share. Left to others: what a pair
//! means. A bucket of m documents would give m² / 2 pairs, so only its first `max_candidates` documents are paired with
//! the rest, and what that leaves out is counted.

/// Two documents that share at least one band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The document with the smaller number.
    pub a: u32,
    /// The document with the larger number.
    pub b: u32,
    /// In how many bands they were paired.
    pub shared_bands: u32,
}

/// What full buckets left out; all zero if nothing was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Buckets with more documents than `max_candidates`.
    pub buckets: u64,
    /// Pairs of those buckets that were not made.
    pub pairs: u64,
}

impl Overflow {
    /// Both counts together.
    pub fn plus(self, other: Self) -> Self {
        Self { buckets: self.buckets + other.buckets, pairs: self.pairs + other.pairs }
    }
}

/// Appends the pairs of one band, or of one key partition of it, to `pairs`, each as `a << 32 | b`.
///
/// `entries` is sorted by key, then document; documents are numbered in survivor order, so that the first of a bucket are
/// those most likely to be kept. A bucket is never split between partitions.
pub fn bucket_pairs(entries: &[(u64, u32)], max_candidates: usize, pairs: &mut Vec<u64>) -> Overflow {
    debug_assert!(entries.is_sorted(), "entries are sorted by key, then document");
    let mut overflow = Overflow::default();
    for bucket in entries.chunk_by(|x, y| x.0 == y.0) {
        let paired = bucket.len().min(max_candidates.max(1));
        for (index, &(_, a)) in bucket[..paired].iter().enumerate() {
            pairs.extend(bucket[index + 1..].iter().map(|&(_, b)| u64::from(a) << 32 | u64::from(b)));
        }
        let left_out = (bucket.len() - paired) as u64;
        if left_out > 1 {
            overflow.buckets += 1;
            overflow.pairs += left_out * (left_out - 1) / 2;
        }
    }
    overflow
}

/// Pairs of all bands and partitions, in any order, as candidates sorted by (a, b).
pub fn merge_pairs(mut pairs: Vec<u64>) -> Vec<Candidate> {
    pairs.sort_unstable();
    merge_runs(&pairs, |pair| ((pair >> 32) as u32, pair as u32))
}

/// Sorted pairs as candidates, equal ones counted; `split` gives (a, b) of a pair.
pub(crate) fn merge_runs(pairs: &[u64], split: impl Fn(u64) -> (u32, u32)) -> Vec<Candidate> {
    let candidate = |run: &[u64]| {
        let (a, b) = split(run[0]);
        Candidate { a, b, shared_bands: run.len() as u32 }
    };
    pairs.chunk_by(|x, y| x == y).map(candidate).collect()
}

/// All candidates of all bands, sorted by (a, b), and what full buckets left out; see [`bucket_pairs`].
pub fn candidates(bands: &[Vec<(u64, u32)>], max_candidates: usize) -> (Vec<Candidate>, Overflow) {
    let mut pairs = Vec::new();
    let overflows = bands.iter().map(|entries| bucket_pairs(entries, max_candidates, &mut pairs));
    let overflow = overflows.fold(Overflow::default(), Overflow::plus);
    (merge_pairs(pairs), overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_in_one_bucket_are_paired_and_bands_counted() {
        let bands = [vec![(1, 0), (1, 2), (5, 1)], vec![(7, 0), (7, 1), (7, 2)], vec![]];
        let (found, overflow) = candidates(&bands, 10);
        let pair = |a, b, shared_bands| Candidate { a, b, shared_bands };
        assert_eq!(found, [pair(0, 1, 1), pair(0, 2, 2), pair(1, 2, 1)]);
        assert_eq!(overflow, Overflow::default());
    }

    #[test]
    fn a_full_bucket_pairs_its_first_documents_with_all_and_counts_the_rest() {
        let bucket: Vec<(u64, u32)> = (0..5).map(|document| (9, document)).collect();
        let (found, overflow) = candidates(std::slice::from_ref(&bucket), 2);
        let pairs: Vec<_> = found.iter().map(|pair| (pair.a, pair.b)).collect();
        assert_eq!(pairs, [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]);
        assert_eq!(overflow, Overflow { buckets: 1, pairs: 3 });
        assert_eq!(candidates(&[bucket], 4).1, Overflow::default());
    }

    #[test]
    fn partitions_of_a_band_give_what_the_whole_band_gives() {
        let band: Vec<(u64, u32)> = (0..200_u64).map(|n| (n * n % 17, n as u32)).collect();
        let mut band = band;
        band.sort_unstable();
        let (mut pairs, mut overflow) = (Vec::new(), Overflow::default());
        for partition in (0..3).rev() {
            let part: Vec<_> = band.iter().copied().filter(|entry| entry.0 % 3 == partition).collect();
            overflow = overflow.plus(bucket_pairs(&part, 4, &mut pairs));
        }
        assert_eq!((merge_pairs(pairs), overflow), candidates(&[band], 4));
    }
}
