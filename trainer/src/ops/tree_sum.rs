//! Sums whose order is part of their definition: a binary tree over micro-batches, fixed chunks for norms.
//!
//! In: gradients one micro-batch at a time, or all numbers of a gradient. Out: their sum. Equal aligned runs of
//! micro-batches form subtrees, so ranks that own power-of-two runs add up to the same bits.

use super::Scalar;
use rayon::prelude::*;

/// Numbers per chunk of a norm; part of the definition of the result.
const CHUNK: usize = 4096;

/// Adds gradients (lists of buffers of equal shapes) as they come, holding one partial sum per level of the tree.
pub struct TreeSum<T = f32> {
    partials: Vec<(u32, Vec<Vec<T>>)>,
}

impl<T> Default for TreeSum<T> {
    fn default() -> Self {
        Self { partials: Vec::new() }
    }
}

impl<T: Scalar> TreeSum<T> {
    /// The next leaf.
    pub fn push(&mut self, leaf: Vec<Vec<T>>) {
        let mut node = (0, leaf);
        while self.partials.last().is_some_and(|(level, _)| *level == node.0) {
            let (level, left) = self.partials.pop().expect("just seen");
            node = (level + 1, add(left, &node.1));
        }
        self.partials.push(node);
    }

    /// The sum of all leaves: the remaining subtrees, smallest first. None if there was no leaf.
    pub fn finish(mut self) -> Option<Vec<Vec<T>>> {
        let (_, mut right) = self.partials.pop()?;
        while let Some((_, left)) = self.partials.pop() {
            right = add(left, &right);
        }
        Some(right)
    }
}

fn add<T: Scalar>(mut left: Vec<Vec<T>>, right: &[Vec<T>]) -> Vec<Vec<T>> {
    for (left, right) in left.iter_mut().zip(right) {
        left.par_chunks_mut(CHUNK).zip(right.par_chunks(CHUNK)).for_each(|(left, right)| {
            for (l, r) in left.iter_mut().zip(right) {
                *l += *r;
            }
        });
    }
    left
}

/// Sum of squares in f64: chunks of 4096 in order, then a binary tree over the chunks of all buffers.
pub fn sum_of_squares<T: Scalar>(buffers: &[Vec<T>]) -> f64 {
    tree_of_squares(squares(buffers))
}

/// The sums of the chunks alone, in order: buffers may be spread over ranks, each whole on one.
pub fn squares<T: Scalar>(buffers: &[Vec<T>]) -> Vec<f64> {
    buffers.par_iter().flat_map_iter(|buffer| buffer.chunks(CHUNK).map(chunk_squares)).collect()
}

/// The binary tree over the chunks of all buffers.
pub fn tree_of_squares(mut sums: Vec<f64>) -> f64 {
    while sums.len() > 1 {
        sums = sums.chunks(2).map(|pair| pair.iter().sum()).collect();
    }
    sums.first().copied().unwrap_or(0.0)
}

fn chunk_squares<T: Scalar>(chunk: &[T]) -> f64 {
    let mut lanes = [0.0_f64; 8];
    for part in chunk.chunks(8) {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += x.wide() * x.wide();
        }
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(i: usize) -> Vec<Vec<f32>> {
        vec![vec![1.0 / (i as f32 + 3.0); 5], vec![i as f32 * 0.1]]
    }

    fn sum(range: std::ops::Range<usize>) -> Vec<Vec<f32>> {
        let mut tree = TreeSum::default();
        range.for_each(|i| tree.push(leaf(i)));
        tree.finish().unwrap()
    }

    #[test]
    fn two_ranks_with_half_the_micro_batches_each_add_to_the_same_bits() {
        assert_eq!(add(sum(0..4), &sum(4..8)), sum(0..8));
        assert_eq!(add(add(sum(0..2), &sum(2..4)), &add(sum(4..6), &sum(6..8))), sum(0..8));
        assert_eq!(add(sum(0..4), &add(sum(4..6), &sum(6..7))), sum(0..7));
    }

    #[test]
    fn one_leaf_is_itself_and_none_is_none() {
        assert_eq!(sum(3..4), leaf(3));
        assert!(TreeSum::<f32>::default().finish().is_none());
    }

    #[test]
    fn squares_add_up_in_f64() {
        let buffers = vec![vec![1e-4_f32; 10_000], vec![], vec![3.0, 4.0]];
        let want = 10_000.0 * f64::from(1e-4_f32).powi(2) + 25.0;
        assert!((sum_of_squares(&buffers) - want).abs() < 1e-12);
        assert_eq!(sum_of_squares::<f32>(&[]), 0.0);
    }
}
