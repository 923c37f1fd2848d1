//! Scores texts with a fastText classifier.
//!
//! In: a `ModelFile`, then texts. Out: the best label and its probability. Leaves to `format.rs` the file, to `mod.rs` what the labels
//! mean, and to `train.rs` how a model is made.
//! Arithmetic: fastText 0.9.2 (Bojanowski et al. 2017, Joulin et al. 2016), with all four losses; the crate `fasttext` 0.8, which
//! trains our models, scores quantised hierarchical-softmax models as if they were plain softmax.

use super::LanguageError;
use super::format::{Loss, ModelFile};

const END_OF_SENTENCE: &[u8] = b"</s>";
const LABEL_PREFIX: &[u8] = b"__label__";

/// A node of the Huffman tree over labels; `left`/`right` index nodes, leaves are the first `n_labels` nodes.
#[derive(Clone, Copy, Debug)]
struct Node {
    left: usize,
    right: usize,
}

/// A loaded model. Quantised matrices are expanded to f32 once, so that a text costs one row addition per n-gram.
#[derive(Debug)]
pub(super) struct Classifier {
    dim: usize,
    min_n: usize,
    max_n: usize,
    word_ngrams: usize,
    buckets: u32,
    loss: Loss,
    words: WordTable,
    labels: Vec<String>,
    /// Row of each bucket, `u32::MAX` where the row was pruned; `None` for a model that was not pruned.
    pruned_rows: Option<Vec<u32>>,
    /// [rows, dim]: words, then buckets.
    input: Vec<f32>,
    /// [labels, dim] (hierarchical softmax: inner nodes of the tree).
    output: Vec<f32>,
    tree: Vec<Node>,
}

impl Classifier {
    /// Reads a model file's bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, LanguageError> {
        let ModelFile { header, dictionary, input, output } = ModelFile::read(bytes)?;
        let tree = match header.loss {
            Loss::HierarchicalSoftmax => huffman(&dictionary.label_counts),
            _ => Vec::new(),
        };
        Ok(Self {
            dim: header.dim,
            min_n: header.min_n,
            max_n: header.max_n,
            word_ngrams: header.word_ngrams,
            buckets: header.buckets as u32,
            loss: header.loss,
            words: WordTable::new(&dictionary.words),
            labels: dictionary.labels,
            pruned_rows: dictionary.pruned_rows,
            input,
            output,
            tree,
        })
    }

    /// Labels in the model's own order, as the file spells them.
    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Index of the best label and its probability, 0..1; `None` if the text has no token; of equal ones the first. fastText prints
    /// every probability 1e-5 too high.
    pub(super) fn best(&self, text: &str) -> Option<(usize, f32)> {
        let hidden = self.hidden(text.as_bytes())?;
        let scores = self.probabilities(&hidden);
        let mut best = (0, scores[0]);
        for (label, &score) in scores.iter().enumerate().skip(1) {
            if score > best.1 {
                best = (label, score);
            }
        }
        Some((best.0, best.1.min(1.0)))
    }

    /// Mean of the rows of all words and n-grams of the text: [dim]. `None` without a token.
    fn hidden(&self, text: &[u8]) -> Option<Vec<f32>> {
        let mut sum = Sum { total: vec![0.0; self.dim], rows: 0 };
        let mut hashes = Vec::new();
        let mut marked = Vec::new();
        for token in text.split(|&byte| is_space(byte)).filter(|token| !token.is_empty()) {
            let hash = fnv(token);
            let word = self.words.find(token, hash);
            if word.is_none() && token.starts_with(LABEL_PREFIX) {
                continue;
            }
            if let Some(word) = word {
                sum.add(&self.input, word);
            }
            if token == END_OF_SENTENCE {
                break;
            }
            if self.max_n > 0 && self.buckets > 0 {
                marked.clear();
                marked.push(b'<');
                marked.extend_from_slice(token);
                marked.push(b'>');
                self.add_ngrams(&marked, &mut sum);
            }
            if self.word_ngrams > 1 {
                hashes.push(hash);
            }
        }
        self.add_word_ngrams(&hashes, &mut sum);
        if sum.rows == 0 {
            return None;
        }
        if let Some(end) = self.words.find(END_OF_SENTENCE, fnv(END_OF_SENTENCE)) {
            sum.add(&self.input, end);
        }
        let scale = 1.0 / sum.rows as f32;
        sum.total.iter_mut().for_each(|value| *value *= scale);
        Some(sum.total)
    }

    /// Adds the rows of all character n-grams of `<token>`; the markers alone are no 1-gram.
    fn add_ngrams(&self, marked: &[u8], sum: &mut Sum) {
        let is_start = |at: usize| marked[at] & 0xC0 != 0x80;
        for start in (0..marked.len()).filter(|&at| is_start(at)) {
            let (mut hash, mut end) = (FNV_OFFSET, start);
            for n in 1..=self.max_n {
                if end == marked.len() {
                    break;
                }
                hash = fnv_step(hash, marked[end]);
                end += 1;
                while end < marked.len() && !is_start(end) {
                    hash = fnv_step(hash, marked[end]);
                    end += 1;
                }
                let marker_alone = n == 1 && (start == 0 || end == marked.len());
                if n >= self.min_n && !marker_alone {
                    self.add_bucket(hash % self.buckets, sum);
                }
            }
        }
    }

    fn add_word_ngrams(&self, hashes: &[u32], sum: &mut Sum) {
        if self.word_ngrams < 2 || self.buckets == 0 {
            return;
        }
        let widen = |hash: u32| i64::from(hash as i32) as u64; // fastText keeps word hashes as i32
        for first in 0..hashes.len() {
            let mut hash = widen(hashes[first]);
            for &next in &hashes[first + 1..hashes.len().min(first + self.word_ngrams)] {
                hash = hash.wrapping_mul(116_049_371).wrapping_add(widen(next));
                self.add_bucket((hash % u64::from(self.buckets)) as u32, sum);
            }
        }
    }

    fn add_bucket(&self, bucket: u32, sum: &mut Sum) {
        let row = match &self.pruned_rows {
            None => bucket,
            Some(rows) => match rows[bucket as usize] {
                u32::MAX => return,
                row => row,
            },
        };
        sum.add(&self.input, self.words.len() + row as usize);
    }

    /// hidden: [dim] -> probability of each label: [labels].
    fn probabilities(&self, hidden: &[f32]) -> Vec<f32> {
        let mut scores: Vec<f32> =
            self.output.chunks_exact(self.dim).map(|row| row.iter().zip(hidden).map(|(a, b)| a * b).sum()).collect();
        match self.loss {
            Loss::Softmax => {
                let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut total = 0.0;
                for score in &mut scores {
                    *score = (*score - highest).exp();
                    total += *score;
                }
                scores.iter_mut().for_each(|score| *score /= total);
            }
            Loss::Logistic => scores.iter_mut().for_each(|score| *score = tabulated_sigmoid(*score)),
            Loss::HierarchicalSoftmax => return self.tree_probabilities(&scores),
        }
        scores
    }

    /// Walks the Huffman tree; `inner[i]` is the score of inner node i. Adds 1e-5 inside the logarithm as fastText does.
    fn tree_probabilities(&self, inner: &[f32]) -> Vec<f32> {
        let n_labels = self.labels.len();
        let mut found = vec![0.0; n_labels];
        let mut pending = vec![(self.tree.len() - 1, 0.0_f32)];
        while let Some((node, log_probability)) = pending.pop() {
            if node < n_labels {
                found[node] = log_probability.exp();
                continue;
            }
            let right = 1.0 / (1.0 + (-inner[node - n_labels]).exp());
            pending.push((self.tree[node].left, log_probability + (1.0 - right + 1e-5).ln()));
            pending.push((self.tree[node].right, log_probability + (right + 1e-5).ln()));
        }
        found
    }
}

struct Sum {
    total: Vec<f32>,
    rows: usize,
}

impl Sum {
    fn add(&mut self, matrix: &[f32], row: usize) {
        let dim = self.total.len();
        for (total, value) in self.total.iter_mut().zip(&matrix[row * dim..(row + 1) * dim]) {
            *total += value;
        }
        self.rows += 1;
    }
}

/// fastText splits on these seven bytes and on nothing else: a no-break space is part of a word.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0B | 0x0C | 0)
}

const FNV_OFFSET: u32 = 2_166_136_261;

/// fastText's FNV-1a over *signed* bytes.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(FNV_OFFSET, |hash, &byte| fnv_step(hash, byte))
}

fn fnv_step(hash: u32, byte: u8) -> u32 {
    (hash ^ i32::from(byte as i8) as u32).wrapping_mul(16_777_619)
}

/// fastText's logistic function: a table of 512 steps over -8..8.
fn tabulated_sigmoid(x: f32) -> f32 {
    if x < -8.0 {
        0.0
    } else if x > 8.0 {
        1.0
    } else {
        let step = ((x + 8.0) * 512.0 / 8.0 / 2.0) as i32;
        1.0 / (1.0 + (-(step as f32 * 2.0 * 8.0 / 512.0 - 8.0)).exp())
    }
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
        tree[inner] = Node { left, right };
        weights[inner] = weights[left].saturating_add(weights[right]);
    }
    tree
}

/// Words by hash, open addressing over one block of text.
#[derive(Debug)]
struct WordTable {
    text: Vec<u8>,
    /// End of each word in `text`.
    ends: Vec<usize>,
    /// Word index + 1; 0 is an empty slot. Length is a power of two, at most half full.
    slots: Vec<u32>,
}

impl WordTable {
    fn new(words: &[&[u8]]) -> Self {
        let slots = vec![0; (2 * words.len() + 1).next_power_of_two()];
        let mut table = Self { text: words.concat(), ends: Vec::with_capacity(words.len()), slots };
        let mut end = 0;
        for (index, word) in words.iter().enumerate() {
            end += word.len();
            table.ends.push(end);
            let mut slot = fnv(word) as usize & (table.slots.len() - 1);
            while table.slots[slot] != 0 {
                slot = (slot + 1) & (table.slots.len() - 1);
            }
            table.slots[slot] = index as u32 + 1;
        }
        table
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn find(&self, word: &[u8], hash: u32) -> Option<usize> {
        let mut slot = hash as usize & (self.slots.len() - 1);
        loop {
            let index = (self.slots[slot] as usize).checked_sub(1)?;
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            if &self.text[start..self.ends[index]] == word {
                return Some(index);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fasttext::FastText;
    use fasttext::args::{Args, LossName};

    fn trained(loss: LossName) -> FastText {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        for i in 0..300 {
            let (label, word) = [("de", "haus"), ("fr", "maison"), ("es", "casa"), ("ru", "дом")][(i % 7) % 4];
            std::io::Write::write_all(&mut file, format!("__label__{label} {word} {word}{}\n", i % 9).as_bytes())
                .expect("a line is written");
        }
        let mut args = Args::new();
        args.apply_supervised_defaults();
        (args.input, args.loss, args.thread, args.dim) = (file.path().to_owned(), loss, 1, 8);
        (args.minn, args.maxn, args.bucket, args.epoch, args.verbose) = (2, 3, 1000, 3, 0);
        FastText::train(args).expect("the rows train")
    }

    #[test]
    fn softmax_and_the_huffman_tree_agree_with_the_library_on_dense_models() {
        for loss in [LossName::Softmax, LossName::HierarchicalSoftmax] {
            let theirs = trained(loss);
            let mut bytes = Vec::new();
            theirs.save(&mut bytes).expect("a vector takes every byte");
            let ours = Classifier::from_bytes(&bytes).expect("its own bytes can be read");
            for text in ["haus", "la casa", "дом maison haus", "unbekannt"] {
                let hidden = ours.hidden(text.as_bytes()).expect("the text has words");
                let scores = ours.probabilities(&hidden);
                for expected in theirs.predict(text, 4, 0.0) {
                    let label =
                        ours.labels().iter().position(|label| *label == expected.label).expect("a label of both");
                    assert!(
                        (scores[label] - expected.prob).abs() < 3e-5,
                        "{text} {loss:?} {} {}",
                        scores[label],
                        expected.prob
                    );
                }
            }
        }
    }

    #[test]
    fn a_tree_over_one_or_equal_or_absurd_counts_ends() {
        for counts in [vec![1], vec![5, 5], vec![i64::MAX, i64::MAX, -1], vec![1, 2, 3, 4, 5]] {
            let tree = huffman(&counts);
            for (inner, node) in tree.iter().enumerate().skip(counts.len()) {
                assert!(node.left < inner && node.right < inner && node.left != node.right, "{counts:?}");
            }
        }
    }
}
