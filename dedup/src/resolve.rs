//! Who stays: verified removal around kept documents, or the classical transitive clusters.
//!
//! In: the survivor order, candidate pairs, and the exact similarity of a pair. Out: one [`Outcome`] per document.
//! Left to others: where shingles are stored. The rule (DESIGN.md §2): documents are visited in survivor order; a document
//! is removed iff a candidate of it that was *kept* has a Jaccard similarity of at least `min_jaccard`, and the most
//! similar such is the one it is removed for. A document similar only to removed ones stays: unlike the transitive
//! closure, no chain A~B~C can remove C for an A that it does not resemble.

use crate::{Candidate, DedupConfig};

/// What becomes of a document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It stays.
    Kept {
        /// Documents in its cluster: itself and those removed for it.
        cluster_size: u32,
    },
    /// It repeats a kept document.
    Removed {
        /// The kept document.
        kept: u32,
        /// Jaccard similarity to it, 0..1; `None` if it was not looked at (`verify = false`).
        jaccard: Option<f64>,
        /// Bands shared with it; 0 if they are linked only through others (`verify = false`).
        shared_bands: u32,
    },
}

/// A candidate whose documents are similar enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    /// The pair.
    pub pair: Candidate,
    /// Its Jaccard similarity, 0..1; `None` if it was not looked at.
    pub jaccard: Option<f64>,
}

/// The definition, in one sequential pass.
///
/// `order`: all documents 0..n, each once, the most worth keeping first. `candidates`: pairs of them, each once, in any
/// order. `jaccard_of`: the exact similarity of two documents, called only for a candidate of which one is kept.
pub fn resolve(
    order: &[u32],
    candidates: &[Candidate],
    jaccard_of: impl Fn(u32, u32) -> f64,
    config: &DedupConfig,
) -> Vec<Outcome> {
    if !config.verify {
        return clusters(order, candidates);
    }
    let neighbours = Neighbours::new(order.len(), candidates);
    keep_or_remove(order, |document, is_kept| {
        let kept = neighbours.of(document).filter(|&(other, _)| is_kept(other));
        let similar = kept.map(|(other, index)| (other, jaccard_of(document, other), candidates[index].shared_bands));
        similar.filter(|&(_, jaccard, _)| jaccard >= config.min_jaccard).collect()
    })
}

/// Compares candidates exactly and drops those less similar than `min_jaccard`; with `verify = false` all remain. Any
/// slice of the candidates can be done anywhere and in any order.
pub fn verify(candidates: &[Candidate], jaccard_of: impl Fn(u32, u32) -> f64, config: &DedupConfig) -> Vec<Edge> {
    let edge = |&pair: &Candidate| {
        let jaccard = config.verify.then(|| jaccard_of(pair.a, pair.b));
        let similar = jaccard.is_none_or(|jaccard| jaccard >= config.min_jaccard);
        similar.then_some(Edge { pair, jaccard })
    };
    candidates.iter().filter_map(edge).collect()
}

/// What [`resolve`] gives, from the edges that [`verify`] left of all candidates.
pub fn resolve_edges(order: &[u32], edges: &[Edge], config: &DedupConfig) -> Vec<Outcome> {
    let pairs: Vec<Candidate> = edges.iter().map(|edge| edge.pair).collect();
    if !config.verify {
        return clusters(order, &pairs);
    }
    let neighbours = Neighbours::new(order.len(), &pairs);
    keep_or_remove(order, |document, is_kept| {
        let kept = neighbours.of(document).filter(|&(other, _)| is_kept(other));
        kept.map(|(other, index)| (other, edges[index].jaccard.unwrap_or(1.0), pairs[index].shared_bands)).collect()
    })
}

/// For each document 0..n the first in `order` with the same key, possibly itself: exact duplicates collapsed.
pub fn collapse(order: &[u32], keys: &[u128]) -> Vec<u32> {
    assert_eq!(order.len(), keys.len(), "one key per document");
    let mut ranked: Vec<(u128, u32)> =
        (0..order.len() as u32).map(|rank| (keys[order[rank as usize] as usize], rank)).collect();
    ranked.sort_unstable();
    let mut kept = vec![0; order.len()];
    for group in ranked.chunk_by(|x, y| x.0 == y.0) {
        for &(_, rank) in group {
            kept[order[rank as usize] as usize] = order[group[0].1 as usize];
        }
    }
    kept
}

/// Visits documents in order; `similar` lists the kept documents (other, jaccard, shared bands) that one repeats.
fn keep_or_remove(order: &[u32], similar: impl Fn(u32, &dyn Fn(u32) -> bool) -> Vec<(u32, f64, u32)>) -> Vec<Outcome> {
    let ranks = ranks(order);
    let mut outcomes = vec![None; order.len()];
    for &document in order {
        let is_kept = |other: u32| matches!(outcomes[other as usize], Some(Outcome::Kept { .. }));
        let mut found = similar(document, &is_kept);
        // The most similar; of equals the first in survivor order.
        found.sort_unstable_by(|x, y| y.1.total_cmp(&x.1).then(ranks[x.0 as usize].cmp(&ranks[y.0 as usize])));
        outcomes[document as usize] = Some(match found.first() {
            None => Outcome::Kept { cluster_size: 1 },
            Some(&(kept, jaccard, shared_bands)) => {
                if let Some(Outcome::Kept { cluster_size }) = &mut outcomes[kept as usize] {
                    *cluster_size += 1;
                }
                Outcome::Removed { kept, jaccard: Some(jaccard), shared_bands }
            }
        });
    }
    outcomes.into_iter().map(|outcome| outcome.expect("every document is in the order once")).collect()
}

fn ranks(order: &[u32]) -> Vec<u32> {
    let mut ranks = vec![u32::MAX; order.len()];
    for (rank, &document) in order.iter().enumerate() {
        ranks[document as usize] = rank as u32;
    }
    ranks
}

/// The classical behaviour: connected components of all candidates; the first in survivor order is kept.
fn clusters(order: &[u32], candidates: &[Candidate]) -> Vec<Outcome> {
    let ranks = ranks(order);
    // Union-find over ranks with the smallest rank as root, so the result does not depend on the order of pairs.
    let mut parents: Vec<u32> = (0..order.len() as u32).collect();
    for pair in candidates {
        let [a, b] = [pair.a, pair.b].map(|document| root(&mut parents, ranks[document as usize]));
        parents[a.max(b) as usize] = a.min(b);
    }
    let mut sizes = vec![0_u32; order.len()];
    let roots: Vec<u32> = (0..order.len() as u32).map(|rank| root(&mut parents, rank)).collect();
    roots.iter().for_each(|&root| sizes[root as usize] += 1);
    let mut outcomes: Vec<Outcome> = (0..order.len())
        .map(|document| match (ranks[document], roots[ranks[document] as usize]) {
            (rank, root) if rank == root => Outcome::Kept { cluster_size: sizes[root as usize] },
            (_, root) => Outcome::Removed { kept: order[root as usize], jaccard: None, shared_bands: 0 },
        })
        .collect();
    for pair in candidates {
        for (document, other) in [(pair.a, pair.b), (pair.b, pair.a)] {
            match &mut outcomes[document as usize] {
                Outcome::Removed { kept, shared_bands, .. } if *kept == other => *shared_bands = pair.shared_bands,
                _ => {}
            }
        }
    }
    outcomes
}

fn root(parents: &mut [u32], mut at: u32) -> u32 {
    while parents[at as usize] != at {
        parents[at as usize] = parents[parents[at as usize] as usize];
        at = parents[at as usize];
    }
    at
}

/// For each document its candidates, as (other document, index of the pair).
struct Neighbours {
    starts: Vec<usize>,
    entries: Vec<(u32, u32)>,
}

impl Neighbours {
    fn new(documents: usize, candidates: &[Candidate]) -> Self {
        let mut starts = vec![0; documents + 1];
        for pair in candidates {
            starts[pair.a as usize + 1] += 1;
            starts[pair.b as usize + 1] += 1;
        }
        for document in 0..documents {
            starts[document + 1] += starts[document];
        }
        let mut next = starts.clone();
        let mut entries = vec![(0, 0); candidates.len() * 2];
        for (index, pair) in candidates.iter().enumerate() {
            for (document, other) in [(pair.a, pair.b), (pair.b, pair.a)] {
                entries[next[document as usize]] = (other, index as u32);
                next[document as usize] += 1;
            }
        }
        Self { starts, entries }
    }

    fn of(&self, document: u32) -> impl Iterator<Item = (u32, usize)> {
        let range = self.starts[document as usize]..self.starts[document as usize + 1];
        self.entries[range].iter().map(|&(other, index)| (other, index as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hasher, candidates, jaccard, shingles};

    fn pair(a: u32, b: u32) -> Candidate {
        Candidate { a, b, shared_bands: 1 }
    }

    #[test]
    fn a_document_like_only_removed_ones_stays() {
        // 0 ~ 1 ~ 2, but 0 and 2 differ.
        let similarity = |a: u32, b: u32| if a.abs_diff(b) == 1 { 0.9 } else { 0.1 };
        let all = [pair(0, 1), pair(0, 2), pair(1, 2)];
        let verified = resolve(&[0, 1, 2], &all, similarity, &DedupConfig::default());
        let removed = Outcome::Removed { kept: 0, jaccard: Some(0.9), shared_bands: 1 };
        assert_eq!(verified, [Outcome::Kept { cluster_size: 2 }, removed, Outcome::Kept { cluster_size: 1 }]);
        let classical = DedupConfig { verify: false, ..DedupConfig::default() };
        let outcomes = resolve(&[0, 1, 2], &all[..1], similarity, &classical);
        assert_eq!(outcomes[2], Outcome::Kept { cluster_size: 1 });
        let outcomes = resolve(&[0, 1, 2], &[pair(0, 1), pair(1, 2)], similarity, &classical);
        assert_eq!(outcomes[0], Outcome::Kept { cluster_size: 3 });
        assert_eq!(outcomes[2], Outcome::Removed { kept: 0, jaccard: None, shared_bands: 0 });
    }

    #[test]
    fn the_order_decides_who_survives_and_the_most_similar_is_named() {
        let all = [pair(0, 1), pair(0, 2), pair(1, 2)];
        let similarity = |a: u32, b: u32| if a + b == 1 { 0.1 } else { 0.8 + f64::from(a + b) / 100.0 };
        let outcomes = resolve(&[1, 0, 2], &all, similarity, &DedupConfig::default());
        let most = Some(0.8 + 3.0 / 100.0);
        assert_eq!(outcomes[2], Outcome::Removed { kept: 1, jaccard: most, shared_bands: 1 });
        let outcomes = resolve(&[2, 1, 0], &all, similarity, &DedupConfig::default());
        assert_eq!(outcomes[2], Outcome::Kept { cluster_size: 3 });
        assert_eq!(resolve(&[], &[], similarity, &DedupConfig::default()), []);
    }

    #[test]
    fn equal_similarity_goes_to_the_first_in_order() {
        let similarity = |a: u32, b: u32| if a + b == 1 { 0.0 } else { 0.9 };
        for (order, kept) in [([0, 1, 2], 0), ([1, 0, 2], 1)] {
            let outcomes = resolve(&order, &[pair(0, 1), pair(0, 2), pair(1, 2)], similarity, &DedupConfig::default());
            assert_eq!(outcomes[2], Outcome::Removed { kept, jaccard: Some(0.9), shared_bands: 1 });
        }
    }

    #[test]
    fn equal_keys_collapse_to_the_first_in_order() {
        assert_eq!(collapse(&[2, 0, 1, 3], &[7, 8, 7, 9]), [2, 1, 2, 3]);
        assert_eq!(collapse(&[], &[]), Vec::<u32>::new());
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, most: usize) -> usize {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) as usize % most
        }

        fn shuffle<T>(&mut self, items: &mut [T]) {
            for last in (1..items.len()).rev() {
                items.swap(last, self.below(last + 1));
            }
        }
    }

    /// Texts copied from each other with edits, so that chains and clusters of all similarities occur.
    fn corpus(random: &mut Random, documents: usize) -> Vec<String> {
        let mut texts: Vec<Vec<usize>> = Vec::new();
        for _ in 0..documents {
            let mut words: Vec<usize> = match random.below(4) {
                0 => (0..20 + random.below(60)).map(|_| random.below(500)).collect(),
                _ if texts.is_empty() => vec![1],
                _ => texts[random.below(texts.len())].clone(),
            };
            for _ in 0..random.below(4) {
                let at = random.below(words.len());
                words[at] = random.below(500);
            }
            texts.push(words);
        }
        let word = |n: &usize| format!("w{}", char::from_u32(0x4e00 + *n as u32).unwrap_or('x'));
        texts.iter().map(|words| words.iter().map(word).collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn the_parallel_steps_equal_the_sequential_definition_on_random_corpora() {
        let mut random = Random(3);
        let mut removed = 0;
        for round in 0..60 {
            let count = 1 + random.below(120);
            let sets: Vec<Vec<u64>> = corpus(&mut random, count).iter().map(|text| shingles(text, 3)).collect();
            let similarity = |a: u32, b: u32| jaccard(&sets[a as usize], &sets[b as usize]);
            let config = DedupConfig {
                verify: round % 5 > 0,
                min_jaccard: 0.3 + random.below(7) as f64 / 10.0,
                ..DedupConfig::default()
            };
            let hasher = Hasher::new(20, 3, round);
            let mut bands = vec![Vec::new(); 20];
            for (document, set) in sets.iter().enumerate() {
                for (band, key) in hasher.band_keys(&hasher.signature(set)).into_iter().enumerate() {
                    bands[band].push((key, document as u32));
                }
            }
            bands.iter_mut().for_each(|band| band.sort_unstable());
            let (mut pairs, _) = candidates(&bands, 1 + random.below(50));
            let mut order: Vec<u32> = (0..count as u32).collect();
            random.shuffle(&mut order);
            let wanted = resolve(&order, &pairs, similarity, &config);
            random.shuffle(&mut pairs);
            let mut edges: Vec<Edge> =
                pairs.chunks(1 + random.below(9)).flat_map(|part| verify(part, similarity, &config)).collect();
            random.shuffle(&mut edges);
            let found = resolve_edges(&order, &edges, &config);
            assert_eq!(found, wanted, "round {round}");
            removed += check_outcomes(&found, similarity, &config);
        }
        assert!(removed > 500, "{removed}");
    }

    /// Evidence holds, sizes add up; returns how many documents were removed.
    fn check_outcomes(outcomes: &[Outcome], similarity: impl Fn(u32, u32) -> f64, config: &DedupConfig) -> usize {
        let (mut members, mut removed) = (0, 0);
        for (document, outcome) in outcomes.iter().enumerate() {
            match *outcome {
                Outcome::Kept { cluster_size } => members += cluster_size as usize,
                Outcome::Removed { kept, jaccard, .. } => {
                    removed += 1;
                    assert!(matches!(outcomes[kept as usize], Outcome::Kept { .. }));
                    if config.verify {
                        assert_eq!(jaccard, Some(similarity(document as u32, kept)));
                        assert!(jaccard >= Some(config.min_jaccard));
                    }
                }
            }
        }
        assert_eq!(members, outcomes.len());
        removed
    }
}
