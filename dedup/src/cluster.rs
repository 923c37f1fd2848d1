//! Who stays, with a few bytes a document: the forms of [`resolve_edges`](crate::resolve_edges()) for corpora that do not fit
//! in memory.
//!
//! In: the number of documents, numbered 0..n in survivor order, and edges as a stream. Out: for each document the kept one
//! of its cluster, and the evidence of each removal as it is decided. Left to others: sorting edges outside of memory.
//! Memory: [`Stars`] and [`Components`] 4 bytes a document, [`cluster_sizes`] 4 more; edges are not held.

use crate::{Candidate, Edge};

/// A removal and its evidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Removal {
    /// The removed document.
    pub document: u32,
    /// The kept document it repeats.
    pub kept: u32,
    /// Jaccard similarity of the two, 0..1; None if it was not looked at.
    pub jaccard: Option<f64>,
    /// Bands that the two share; 0 if they are linked only through others.
    pub shared_bands: u32,
}

/// Verified removal (`verify = true`): a document goes iff it is similar to a kept one, for the most similar of them.
#[derive(Clone, Debug)]
pub struct Stars {
    kept: Vec<u32>,
    /// The best removal of the last document seen, until the next document's edges come.
    best: Option<Removal>,
    last: (u32, u32),
}

impl Stars {
    /// For documents 0..n, all of which stay until an edge says otherwise.
    pub fn new(documents: usize) -> Self {
        Self { kept: (0..documents as u32).collect(), best: None, last: (0, 0) }
    }

    /// Takes the next edge, in ascending order of (`b`, `a`); returns the removal that this decides, of an earlier `b`.
    pub fn push(&mut self, edge: &Edge) -> Option<Removal> {
        let Candidate { a, b, shared_bands } = edge.pair;
        assert!(a < b && self.last < (b, a), "edges come in ascending order of (b, a), each once");
        let decided = if self.last.0 < b { self.decide() } else { None };
        self.last = (b, a);
        let better = self.best.is_none_or(|best| edge.jaccard > best.jaccard);
        if self.kept[a as usize] == a && better {
            self.best = Some(Removal { document: b, kept: a, jaccard: edge.jaccard, shared_bands });
        }
        decided
    }

    /// After the last edge: the removal it decides, and for each document the kept one, possibly itself.
    pub fn finish(mut self) -> (Option<Removal>, Vec<u32>) {
        (self.decide(), self.kept)
    }

    fn decide(&mut self) -> Option<Removal> {
        let removal = self.best.take()?;
        self.kept[removal.document as usize] = removal.kept;
        Some(removal)
    }
}

/// Connected components (`verify = false`): whatever is linked, also through others, goes for the first in survivor order.
#[derive(Clone, Debug)]
pub struct Components {
    /// Union-find; a document's parent is never a later one, so the first of a component is its root.
    parents: Vec<u32>,
}

impl Components {
    /// For documents 0..n, each its own component.
    pub fn new(documents: usize) -> Self {
        Self { parents: (0..documents as u32).collect() }
    }

    /// Joins the components of two documents; pairs come in any order.
    pub fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }

    /// For each document the first of its component, possibly itself.
    pub fn finish(mut self) -> Vec<u32> {
        for document in 0..self.parents.len() {
            // Parents are earlier, so this one is a root already.
            self.parents[document] = self.parents[self.parents[document] as usize];
        }
        self.parents
    }

    fn root(&mut self, mut at: u32) -> u32 {
        while self.parents[at as usize] != at {
            // Path halving.
            self.parents[at as usize] = self.parents[self.parents[at as usize] as usize];
            at = self.parents[at as usize];
        }
        at
    }
}

/// Documents in the cluster of each kept document; 0 for removed ones.
pub fn cluster_sizes(kept: &[u32]) -> Vec<u32> {
    let mut sizes = vec![0; kept.len()];
    kept.iter().for_each(|&kept| sizes[kept as usize] += 1);
    sizes
}

/// Lets exact duplicates follow the document they equal: `first` as by [`mark_equal`](crate::mark_equal()), `kept` as by
/// [`Stars::finish`] or [`Components::finish`], whose edges were between first documents only.
pub fn follow_equal(first: &[u32], kept: &mut [u32]) {
    assert_eq!(first.len(), kept.len(), "both are about all documents");
    for document in 0..kept.len() {
        // The first document is never later, so its own fate is written already.
        kept[document] = kept[first[document] as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DedupConfig, Outcome, resolve_edges};

    fn edge(a: u32, b: u32, jaccard: f64) -> Edge {
        Edge { pair: Candidate { a, b, shared_bands: a + 1 }, jaccard: Some(jaccard) }
    }

    /// All edges among `documents`, about one pair in `sparse`, with few different similarities so that ties occur.
    fn random_edges(state: &mut u64, documents: u32, sparse: u64) -> Vec<Edge> {
        let mut edges = Vec::new();
        for b in 1..documents {
            for a in 0..b {
                *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if (*state >> 33).is_multiple_of(sparse) {
                    edges.push(edge(a, b, 0.8 + ((*state >> 20) % 4) as f64 / 20.0));
                }
            }
        }
        edges
    }

    #[test]
    fn streams_give_what_the_steps_in_memory_give() {
        let mut state = 5;
        for round in 0..60_u64 {
            let documents = 1 + (round * 7 % 90) as u32;
            let edges = random_edges(&mut state, documents, 2 + round % 40);
            let order: Vec<u32> = (0..documents).collect();
            for verify in [true, false] {
                let config = DedupConfig { verify, ..DedupConfig::default() };
                let wanted = resolve_edges(&order, &edges, &config);
                let kept = if verify {
                    let mut stars = Stars::new(documents as usize);
                    let mut removals: Vec<Removal> = edges.iter().filter_map(|edge| stars.push(edge)).collect();
                    let (last, kept) = stars.finish();
                    removals.extend(last);
                    check_removals(&removals, &wanted);
                    kept
                } else {
                    let mut components = Components::new(documents as usize);
                    edges.iter().rev().for_each(|edge| components.join(edge.pair.b, edge.pair.a));
                    components.finish()
                };
                let sizes = cluster_sizes(&kept);
                for (document, outcome) in wanted.iter().enumerate() {
                    match *outcome {
                        Outcome::Kept { cluster_size } => {
                            assert_eq!((kept[document], sizes[document]), (document as u32, cluster_size))
                        }
                        Outcome::Removed { kept: survivor, .. } => assert_eq!(kept[document], survivor),
                    }
                }
            }
        }
    }

    fn check_removals(removals: &[Removal], wanted: &[Outcome]) {
        let count = wanted.iter().filter(|outcome| matches!(outcome, Outcome::Removed { .. })).count();
        assert_eq!(removals.len(), count);
        for &Removal { document, kept, jaccard, shared_bands } in removals {
            assert_eq!(wanted[document as usize], Outcome::Removed { kept, jaccard, shared_bands });
        }
    }

    #[test]
    fn exact_duplicates_follow_the_first_also_when_it_goes() {
        // 3 equals 1, 4 equals 0; 1 was removed for 0.
        let mut kept = vec![0, 0, 2, 3, 4];
        follow_equal(&[0, 1, 2, 1, 0], &mut kept);
        assert_eq!(kept, [0, 0, 2, 0, 0]);
        assert_eq!(cluster_sizes(&kept), [4, 0, 1, 0, 0]);
        assert_eq!(Components::new(0).finish(), Vec::<u32>::new());
        assert_eq!(Stars::new(0).finish(), (None, Vec::new()));
    }

    #[test]
    #[should_panic(expected = "ascending order")]
    fn edges_out_of_order_are_noticed() {
        let mut stars = Stars::new(3);
        stars.push(&edge(0, 2, 0.9));
        stars.push(&edge(0, 1, 0.9));
    }
}
