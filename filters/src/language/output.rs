//! From the hidden layer to the best label and its probability.
//!
//! In: the mean of a text's rows, f32. Out: a label's index and its probability as fastText 0.9.2 reports it. All four losses.
//! Order of sums, which is the contract: the score of a label is sum over d, ascending, of hidden[d] * weight[d], each product and each
//! sum rounded to f32, never contracted. Labels lie side by side, so a vector unit of any width does the same for several labels. The
//! softmax's denominator is summed in 8 lanes, lane = label modulo 8, and the lanes as ((0+4)+(2+6))+((1+5)+(3+7)). `exp` and `ln` are our
//! own: those of C libraries differ between versions and processors.

use super::format::Loss;

/// Labels that are scored side by side.
const LANES: usize = 32;

/// A node of the Huffman tree over labels; `left`/`right` index nodes, leaves are the first `n_labels` nodes.
#[derive(Clone, Copy, Debug)]
struct Node {
    left: u32,
    right: u32,
}

/// The output matrix, and how scores become probabilities.
#[derive(Debug)]
pub(super) struct Output {
    loss: Loss,
    n_labels: usize,
    dim: usize,
    /// [blocks of labels, dim, LANES]; labels beyond the last are zero. Hierarchical softmax: inner nodes in place of labels.
    weights: Vec<f32>,
    tree: Vec<Node>,
    /// The logistic function at the 513 points that fastText tabulates.
    sigmoid: Vec<f32>,
    wide: bool,
}

impl Output {
    /// matrix: [labels, dim]; counts: [labels], how often each label occurred in training.
    pub(super) fn new(loss: Loss, matrix: &[f32], dim: usize, counts: &[i64]) -> Self {
        let n_labels = counts.len();
        let mut weights = vec![0.0; n_labels.div_ceil(LANES) * LANES * dim];
        for (label, row) in matrix.chunks_exact(dim).enumerate() {
            for (d, &weight) in row.iter().enumerate() {
                weights[(label / LANES * dim + d) * LANES + label % LANES] = weight;
            }
        }
        let tree = if loss == Loss::HierarchicalSoftmax { huffman(counts) } else { Vec::new() };
        let points = if loss == Loss::Logistic { 513 } else { 0 };
        let sigmoid = (0..points).map(|point| logistic(point as f32 * 16.0 / 512.0 - 8.0)).collect();
        Self { loss, n_labels, dim, weights, tree, sigmoid, wide: super::hidden::has_avx2() }
    }

    /// Never the AVX2 build, for comparison.
    #[cfg(test)]
    pub(super) fn narrow(mut self) -> Self {
        self.wide = false;
        self
    }

    /// hidden: [dim] -> the best label and its probability, 0..1; of equal ones the last, as fastText.
    ///
    /// The probability is fastText's, which adds 1e-5 before it takes a logarithm; beyond 1 it is cut to 1.
    pub(super) fn best(&self, hidden: &[f32], scores: &mut Vec<f32>) -> (usize, f32) {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            // SAFETY: `wide` is true only where the processor has the features.
            return unsafe { self.best_wide(hidden, scores) };
        }
        self.best_any(hidden, scores)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn best_wide(&self, hidden: &[f32], scores: &mut Vec<f32>) -> (usize, f32) {
        self.best_any(hidden, scores)
    }

    #[inline(always)]
    fn best_any(&self, hidden: &[f32], scores: &mut Vec<f32>) -> (usize, f32) {
        self.score(hidden, scores);
        let (label, probability) = match self.loss {
            Loss::HierarchicalSoftmax => {
                let mut best = (0, f32::NEG_INFINITY);
                self.descend(self.tree.len() - 1, 0.0, scores, &mut best);
                (best.0, exp(best.1))
            }
            Loss::Softmax => {
                let (label, highest) = last_highest(scores);
                (label, 1.0 / sum_of_exponentials(scores, highest) + 1e-5)
            }
            Loss::Logistic => {
                scores.iter_mut().for_each(|score| *score = self.tabulated(*score));
                let (label, highest) = last_highest(scores);
                (label, highest + 1e-5)
            }
        };
        (label, probability.min(1.0))
    }

    /// hidden: [dim] -> scores: [labels].
    #[inline(always)]
    fn score(&self, hidden: &[f32], scores: &mut Vec<f32>) {
        scores.clear();
        scores.resize(self.n_labels.div_ceil(LANES) * LANES, 0.0);
        let blocks = self.weights.chunks_exact(self.dim * LANES);
        for (block, sums) in blocks.zip(scores.as_chunks_mut::<LANES>().0) {
            let mut held = [0.0_f32; LANES];
            for (weights, &value) in block.as_chunks::<LANES>().0.iter().zip(hidden) {
                for (sum, weight) in held.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            *sums = held;
        }
        scores.truncate(self.n_labels);
    }

    /// Walks the Huffman tree, left before right, and leaves out what cannot be better than the best leaf so far.
    fn descend(&self, node: usize, log_probability: f32, inner: &[f32], best: &mut (usize, f32)) {
        // The tree can be as deep as there are labels: an own stack, not the thread's.
        let mut pending = vec![(node, log_probability)];
        while let Some((node, log_probability)) = pending.pop() {
            if log_probability < best.1 {
                continue;
            }
            if node < self.n_labels {
                *best = (node, log_probability);
                continue;
            }
            let right = logistic(inner[node - self.n_labels]);
            let Node { left: to_left, right: to_right } = self.tree[node];
            let log = |probability: f32| ln(f64::from(probability) + 1e-5) as f32;
            pending.push((to_right as usize, log_probability + log(right)));
            pending.push((to_left as usize, log_probability + log(1.0 - right)));
        }
    }

    /// fastText's logistic function: a table of 512 steps over -8..8.
    #[inline(always)]
    fn tabulated(&self, x: f32) -> f32 {
        if x < -8.0 {
            0.0
        } else if x > 8.0 {
            1.0
        } else {
            self.sigmoid[((x + 8.0) * 512.0 / 8.0 / 2.0) as usize]
        }
    }
}

#[inline(always)]
fn last_highest(scores: &[f32]) -> (usize, f32) {
    let highest =
        scores.iter().fold(f32::NEG_INFINITY, |highest, &score| if score > highest { score } else { highest });
    (scores.iter().rposition(|&score| score == highest).unwrap_or(0), highest)
}

/// Sum of exp(score - highest), in 8 lanes.
#[inline(always)]
fn sum_of_exponentials(scores: &[f32], highest: f32) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (eights, rest) = scores.as_chunks::<8>();
    for eight in eights {
        for (lane, score) in lanes.iter_mut().zip(eight) {
            *lane += exp(score - highest);
        }
    }
    for (lane, score) in lanes.iter_mut().zip(rest) {
        *lane += exp(score - highest);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

fn logistic(x: f32) -> f32 {
    (1.0 / (1.0 + f64::from(exp(-x)))) as f32
}

/// e^x to about 1e-7 relative; 0 below -87. Cody and Waite's reduction by ln 2 in two parts, then the Taylor polynomial of degree 7
/// on -0.35..0.35, whose remainder is 6e-9. Without a branch, so that it can be done for several labels at once.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
    let cut = x.clamp(-87.0, 88.0);
    let shifted = cut * std::f32::consts::LOG2_E + TO_INTEGER;
    let whole = shifted - TO_INTEGER;
    let r = cut - whole * (355.0 / 512.0);
    let r = r + whole * 2.121_944_4e-4;
    let mut power = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * r + coefficient;
    }
    let scale = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { power * scale }
}

/// Natural logarithm of a positive normal number, to about 1e-13: 2 artanh((m - 1) / (m + 1)) for the mantissa m in 0.71..1.41.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let above = (bits & 0x000F_FFFF_FFFF_FFFF) > 0x0006_A09E_667F_3BCD; // mantissa beyond the square root of 2
    let exponent = (bits >> 52) as i64 - 1023 + i64::from(above);
    let mantissa = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | if above { 1022 << 52 } else { 1023 << 52 });
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let mut series = 1.0 / 17.0;
    for divisor in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / divisor;
    }
    2.0 * s * series + exponent as f64 * std::f64::consts::LN_2
}

/// The Huffman tree over label counts in descending order, by two queues, in fastText's node order.
fn huffman(counts: &[i64]) -> Vec<Node> {
    const UNSET: i64 = 1_000_000_000_000_000;
    let n_labels = counts.len();
    let nodes = 2 * n_labels - 1;
    let mut tree = vec![Node { left: 0, right: 0 }; nodes];
    let mut weights: Vec<i64> = counts.iter().map(|&count| count.clamp(0, UNSET - 1)).collect();
    weights.resize(nodes + 1, UNSET);
    let (mut leaf, mut node) = (n_labels, n_labels);
    for inner in n_labels..nodes {
        let mut next = || {
            if leaf > 0 && weights[leaf - 1] < weights[node] {
                leaf -= 1;
                leaf
            } else {
                node += 1;
                node - 1
            }
        };
        let (left, right) = (next(), next());
        tree[inner] = Node { left: left as u32, right: right as u32 };
        weights[inner] = weights[left].saturating_add(weights[right]);
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_over_one_or_equal_or_absurd_counts_ends() {
        for counts in [vec![1], vec![5, 5], vec![i64::MAX, i64::MAX, -1], vec![1, 2, 3, 4, 5]] {
            let tree = huffman(&counts);
            for (inner, node) in tree.iter().enumerate().skip(counts.len()) {
                let (left, right) = (node.left as usize, node.right as usize);
                assert!(left < inner && right < inner && left != right, "{counts:?}");
            }
        }
    }

    #[test]
    fn our_exponential_and_logarithm_agree_with_the_library() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 4e-7, "exp {x}: {} {expected}", exp(x));
            let y = expected + 1e-5;
            assert!((ln(y) - y.ln()).abs() < 1e-12, "ln {y}");
        }
        assert_eq!((exp(0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }
}
