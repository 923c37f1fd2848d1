//! Held-out measures: bits per byte, a bigram baseline for it, and pass@k.
//!
//! In: a model (or training shards) and held-out documents as ids, or counts of right samples. Out: numbers with what
//! they were counted over. What a task is and whether a sample is right is `align`'s business.
//!
//! Bits per byte counts the same tokens for every model: each token of a document but the first, if it stands for at
//! least one byte of text. Special tokens stand for none (`byte_len` 0), so neither their nats nor their bytes count;
//! nor do those of a document's first token, which no model here is trained to predict.

use crate::packing::{Masked, pack};
use crate::{Error, Model, Result, tape};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use tokenizer::shard::ShardSet;

/// Rows that are scored at once; bounds memory, changes no bits.
const ROWS: usize = 16;

/// How many bytes of text a token stands for; 0 for special tokens.
pub type ByteLen<'f> = &'f dyn Fn(u32) -> usize;

/// Cross-entropy of held-out text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BpbReport {
    /// Sum of negative log-probabilities, in nats.
    pub nats: f64,
    /// Tokens counted.
    pub tokens: u64,
    /// Bytes of text that the counted tokens stand for.
    pub bytes: u64,
    /// `nats / (ln 2 * bytes)`; lower is better, 8 is a uniform guess of bytes.
    pub bpb: f64,
}

impl BpbReport {
    fn new(nats: f64, tokens: u64, bytes: u64) -> Result<Self> {
        if bytes == 0 {
            let expected = "expected a document with two tokens of text or more".to_owned();
            return Err(Error::Config { field: "held-out text", got: "empty".into(), expected });
        }
        Ok(Self { nats, tokens, bytes, bpb: nats / (std::f64::consts::LN_2 * bytes as f64) })
    }
}

/// The documents of some shards, in order.
pub fn documents(shards: &ShardSet) -> impl Iterator<Item = Result<Vec<u32>>> + '_ {
    let shards = shards.shards().iter();
    shards.flat_map(|shard| (0..shard.n_docs()).map(|d| Ok(shard.tokens(shard.doc_range(d))?)))
}

/// Bits per byte of `documents` under the model. A document longer than a row is cut into windows of `sequence_len`
/// targets that share one token, so every token is predicted once, from what its window holds before it.
pub fn bits_per_byte(
    model: &Model,
    documents: impl Iterator<Item = Result<Vec<u32>>>,
    byte_len: ByteLen<'_>,
) -> Result<BpbReport> {
    let t = model.config().sequence_len;
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    let mut score = |windows: &mut Vec<Masked>| -> Result<()> {
        let packing = pack(windows, t, ROWS)?;
        let stats = packing.batches.iter().map(|b| Ok(tape::score(model, b)?.logprob));
        let logprobs = stats.collect::<Result<Vec<_>>>()?;
        // Sums run over windows and tokens in document order: the packing leaves no trace in the last bit.
        for (i, (ids, mask)) in windows.drain(..).enumerate() {
            for (j, logprob) in packing.of(&logprobs, i).iter().enumerate().filter(|(j, _)| mask[j + 1]) {
                nats -= f64::from(*logprob);
                tokens += 1;
                bytes += byte_len(ids[j + 1]) as u64;
            }
        }
        Ok(())
    };
    let (mut windows, mut waiting) = (Vec::new(), 0);
    for ids in documents {
        let ids = ids?;
        for start in (0..ids.len().saturating_sub(1)).step_by(t) {
            let window = ids[start..ids.len().min(start + t + 1)].to_vec();
            waiting += window.len() - 1;
            let mask = window.iter().map(|&id| byte_len(id) > 0).collect();
            windows.push((window, mask));
        }
        if waiting >= ROWS * t {
            score(&mut windows)?;
            waiting = 0;
        }
    }
    score(&mut windows)?;
    BpbReport::new(nats, tokens, bytes)
}

/// Counts of tokens and of pairs of neighbours inside documents.
#[derive(Clone, Debug)]
pub struct Bigram {
    unigrams: Vec<u64>,
    total: u64,
    pairs: HashMap<(u32, u32), u64>,
    /// Per token: how often it was followed by anything, and by how many different tokens.
    followed: Vec<(u64, u64)>,
}

/// Added to every unigram count, so that an unseen token is possible: Jeffreys' prior (Krichevsky and Trofimov 1981).
const ADD_K: f64 = 0.5;

impl Bigram {
    /// Counts of `documents`, whose ids are below `vocab_size`.
    pub fn train(documents: impl Iterator<Item = Result<Vec<u32>>>, vocab_size: usize) -> Result<Self> {
        let (unigrams, followed) = (vec![0; vocab_size], vec![(0, 0); vocab_size]);
        let mut model = Self { unigrams, total: 0, pairs: HashMap::new(), followed };
        for ids in documents {
            let ids = ids?;
            if let Some(at) = ids.iter().position(|&id| id as usize >= vocab_size) {
                return Err(Error::Batch { what: format!("id {} is not below vocab_size {vocab_size}", ids[at]), at });
            }
            ids.iter().for_each(|&id| model.unigrams[id as usize] += 1);
            model.total += ids.len() as u64;
            for pair in ids.windows(2) {
                let count = model.pairs.entry((pair[0], pair[1])).or_insert(0);
                *count += 1;
                let followed = &mut model.followed[pair[0] as usize];
                followed.0 += 1;
                followed.1 += u64::from(*count == 1);
            }
        }
        Ok(model)
    }

    /// Probability of `next` after `previous`, above 0 for ids below `vocab_size`; sums to 1 over `next`. Pair counts
    /// interpolated with add-k unigrams; the weights are those of Witten and Bell (1991), a function of the training
    /// counts alone: the more different tokens followed `previous`, the more its unseen followers are trusted.
    pub fn probability(&self, previous: u32, next: u32) -> f64 {
        let unseen = self.total as f64 + ADD_K * self.unigrams.len() as f64;
        let unigram = (self.unigrams[next as usize] as f64 + ADD_K) / unseen;
        let (times, kinds) = self.followed[previous as usize];
        if times == 0 {
            return unigram;
        }
        let pair = self.pairs.get(&(previous, next)).copied().unwrap_or(0);
        (pair as f64 + kinds as f64 * unigram) / (times + kinds) as f64
    }

    /// Bits per byte of `documents`, over the same tokens as [`bits_per_byte`].
    pub fn bits_per_byte(
        &self,
        documents: impl Iterator<Item = Result<Vec<u32>>>,
        byte_len: ByteLen<'_>,
    ) -> Result<BpbReport> {
        let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
        for ids in documents {
            let ids = ids?;
            for pair in ids.windows(2).filter(|pair| byte_len(pair[1]) > 0) {
                nats -= self.probability(pair[0], pair[1]).ln();
                tokens += 1;
                bytes += byte_len(pair[1]) as u64;
            }
        }
        BpbReport::new(nats, tokens, bytes)
    }
}

/// Bits per byte of a [`Bigram`] trained on `train` over the documents of `held_out`: what a base model must beat.
pub fn bigram_baseline(
    train: &ShardSet,
    held_out: &ShardSet,
    vocab_size: usize,
    byte_len: ByteLen<'_>,
) -> Result<BpbReport> {
    Bigram::train(documents(train), vocab_size)?.bits_per_byte(documents(held_out), byte_len)
}

/// pass@k over prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PassAtK {
    /// Samples that a user would draw per prompt.
    pub k: usize,
    /// Estimated share of prompts with at least one right sample among `k`, 0 to 1.
    pub mean: f64,
    /// Standard error of `mean` over prompts (unbiased variance); 0 for a single prompt.
    pub standard_error: f64,
    /// Prompts counted.
    pub prompts: usize,
}

/// Unbiased pass@k from `(samples drawn, samples right)` per prompt: `1 - C(n - c, k) / C(n, k)`. Chen et al. 2021
/// ("Evaluating large language models trained on code"), section 2.1, in their product form.
pub fn pass_at_k(counts: &[(usize, usize)], k: usize) -> Result<PassAtK> {
    let fault = |got: String, expected: &str| Error::Config { field: "pass@k", got, expected: expected.into() };
    if k == 0 || counts.is_empty() {
        return Err(fault(format!("k = {k} over {} prompts", counts.len()), "expected at least one of each"));
    }
    let mut values = Vec::with_capacity(counts.len());
    for &(n, c) in counts {
        if n < k || c > n {
            return Err(fault(format!("{c} of {n} right"), &format!("expected at least k = {k} samples per prompt")));
        }
        let all_wrong: f64 = if n - c < k { 0.0 } else { (n - c + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product() };
        values.push(1.0 - all_wrong);
    }
    let prompts = values.len();
    let mean = values.iter().sum::<f64>() / prompts as f64;
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let standard_error = if prompts < 2 { 0.0 } else { (squares / (prompts - 1) as f64 / prompts as f64).sqrt() };
    Ok(PassAtK { k, mean, standard_error, prompts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, ModelConfig};

    fn model() -> Model {
        let config = ModelConfig {
            vocab_size: 16,
            n_layer: 2,
            n_embd: 16,
            n_ffn: 24,
            sequence_len: 8,
            ..ModelConfig::default()
        };
        Model::init(config, 4).unwrap()
    }

    /// Token 0 is special; token `i` stands for `i` bytes.
    fn byte_len(id: u32) -> usize {
        id as usize
    }

    fn held_out() -> Vec<Vec<u32>> {
        let long: Vec<u32> = (0..30).map(|i| 1 + (i * 7) % 15).chain([0]).collect();
        vec![vec![3, 4, 0], long, vec![5], vec![], vec![2, 0, 2], (1..12).collect()]
    }

    #[test]
    fn tokens_and_bytes_leave_out_first_and_special_tokens() {
        let report = bits_per_byte(&model(), held_out().into_iter().map(Ok), &byte_len).unwrap();
        let counted: Vec<u32> =
            held_out().iter().flat_map(|d| d.get(1..).unwrap_or(&[]).to_vec()).filter(|&id| id > 0).collect();
        assert_eq!(report.tokens as usize, counted.len());
        assert_eq!(report.bytes, counted.iter().map(|&id| u64::from(id)).sum::<u64>());
        // Each window alone, scored as a row of its own.
        let windows = held_out().into_iter().flat_map(|d| {
            let starts = (0..d.len().saturating_sub(1)).step_by(8);
            starts.map(|s| d[s..d.len().min(s + 9)].to_vec()).collect::<Vec<_>>()
        });
        let expected: f64 = windows
            .map(|w| {
                let (ids, targets) = (w[..w.len() - 1].to_vec(), w[1..].to_vec());
                let batch = Batch::from_rows(1, ids.len(), ids, targets.clone()).unwrap();
                let logprobs = tape::score(&model(), &batch).unwrap().logprob;
                let counted = logprobs.iter().zip(targets).filter(|(_, target)| *target > 0);
                counted.map(|(l, _)| -f64::from(*l)).sum::<f64>()
            })
            .sum();
        assert!((report.nats - expected).abs() < 1e-9, "{} {expected}", report.nats);
        assert!((report.bpb * report.bytes as f64 * std::f64::consts::LN_2 - report.nats).abs() < 1e-9);
    }

    #[test]
    fn what_a_document_costs_does_not_depend_on_its_neighbours() {
        let nats = |docs: Vec<Vec<u32>>| bits_per_byte(&model(), docs.into_iter().map(Ok), &byte_len).unwrap().nats;
        let long = held_out()[1].clone();
        let many: Vec<Vec<u32>> = (0..40).flat_map(|_| held_out()).collect();
        let all: f64 = held_out().into_iter().filter(|d| d.len() > 1).map(|d| nats(vec![d])).sum();
        assert!((nats(many) - 40.0 * all).abs() < 1e-9 * all);
        assert!(nats(vec![long]) > 0.0);
    }

    #[test]
    fn no_text_is_an_error() {
        for docs in [vec![], vec![vec![7]], vec![vec![0, 0, 0]]] {
            assert!(bits_per_byte(&model(), docs.into_iter().map(Ok), &byte_len).is_err());
        }
    }

    #[test]
    fn bigram_probabilities_sum_to_one_and_follow_the_counts() {
        let bigram = Bigram::train(vec![vec![1, 2, 1, 2, 1, 3], vec![4]].into_iter().map(Ok), 16).unwrap();
        for previous in 0..16 {
            let sum: f64 = (0..16).map(|next| bigram.probability(previous, next)).sum();
            assert!((sum - 1.0).abs() < 1e-12);
        }
        // By hand: 1 was followed three times by two kinds; unigram of 2 is (2 + .5) / (7 + 8).
        let expected = (2.0 + 2.0 * (2.5 / 15.0)) / 5.0;
        assert!((bigram.probability(1, 2) - expected).abs() < 1e-12);
        assert!(bigram.probability(1, 15) > 0.0);
        assert!(Bigram::train(vec![vec![16]].into_iter().map(Ok), 16).is_err());
    }

    #[test]
    fn bigrams_see_the_same_tokens_and_learn_a_pattern() {
        let pattern: Vec<Vec<u32>> = (0..20).map(|_| vec![1, 2, 3, 1, 2, 3, 1, 2, 3]).collect();
        let bigram = Bigram::train(pattern.clone().into_iter().map(Ok), 16).unwrap();
        let trained = bigram.bits_per_byte(pattern.into_iter().map(Ok), &byte_len).unwrap();
        assert!(trained.nats / (trained.tokens as f64) < 0.1);
        let ours = bits_per_byte(&model(), held_out().into_iter().map(Ok), &byte_len).unwrap();
        let theirs = bigram.bits_per_byte(held_out().into_iter().map(Ok), &byte_len).unwrap();
        assert_eq!((ours.tokens, ours.bytes), (theirs.tokens, theirs.bytes));
    }

    #[test]
    fn pass_at_k_equals_the_share_of_subsets_with_a_right_sample() {
        // 5 samples, 2 right, k = 2: 1 - C(3,2)/C(5,2) = 0.7.
        let one = pass_at_k(&[(5, 2)], 2).unwrap();
        assert!((one.mean - 0.7).abs() < 1e-12);
        assert_eq!(one.standard_error, 0.0);
        let edge = |n, c, k| pass_at_k(&[(n, c)], k).unwrap().mean;
        assert_eq!((edge(4, 0, 4), edge(4, 1, 4), edge(4, 4, 1), edge(4, 3, 2)), (0.0, 1.0, 1.0, 1.0));
        let two = pass_at_k(&[(1, 1), (1, 0), (1, 1), (1, 0)], 1).unwrap();
        assert!((two.mean - 0.5).abs() < 1e-12 && (two.standard_error - (1.0_f64 / 12.0).sqrt()).abs() < 1e-12);
        assert!(pass_at_k(&[(3, 1)], 4).is_err() && pass_at_k(&[], 1).is_err() && pass_at_k(&[(3, 1)], 0).is_err());
    }
}
