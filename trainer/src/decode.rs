//! Incremental forward: new tokens of many sequences against their cached keys and values.
//!
//! In: tokens and a [`KvCache`] per sequence. Out: logits after each sequence's last new token, and longer caches. The
//! row-local parts and the attention are the tape's own, so prefill, decode and training give the same bits. Sampling
//! and scheduling are `generate`'s business.

use crate::blocks::parts::Parts;
use crate::blocks::{embed, last_logits};
use crate::ops::attention::{Heads, KEYS, Page, Scratch, over_pages};
use crate::tape::{Rotations, check_positions};
use crate::{Error, Model, Result};
use rayon::prelude::*;
use std::sync::Arc;

/// Keys and values of one sequence; clones share pages until one of them grows into a shared page.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    len: usize,
    pages: Vec<Arc<Vec<Page>>>, // [ceil(len / 64)][n_layer]
}

impl KvCache {
    /// An empty cache; positions start at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `new` more tokens that nobody else sees.
    fn grow(&mut self, heads: Heads, n_layer: usize, new: usize) {
        if !self.len.is_multiple_of(KEYS) {
            let last = self.pages.last_mut().expect("a cache that is not empty has a page");
            Arc::make_mut(last);
        }
        while self.pages.len() * KEYS < self.len + new {
            self.pages.push(Arc::new(vec![Page::new(heads); n_layer]));
        }
    }

    fn set(&mut self, heads: Heads, layer: usize, position: usize, k: &[f32], v: &[f32]) {
        let page = Arc::get_mut(&mut self.pages[position / KEYS]).expect("`grow` has made the page our own");
        page[layer].set(heads, position % KEYS, k, v);
    }
}

/// More tokens for one sequence.
pub struct Extend<'a> {
    /// At least one token, appended after what the cache holds.
    pub tokens: &'a [u32],
    /// Keys and values so far; grows by `tokens.len()`.
    pub cache: &'a mut KvCache,
}

/// Runs new tokens of many sequences at once (prefill and decode alike). Returns the logits after the last new token of
/// each sequence, `[sequences, vocab_size]`. Feed a row to [`crate::ops::cross_entropy::row_stats`] for the log-prob of
/// a sampled token: bit-equal to `tape::score` on the same tokens, whatever else is in the batch.
pub fn extend(model: &Model, sequences: &mut [Extend<'_>]) -> Result<Vec<f32>> {
    let config = model.config();
    let (c, kv, heads) = (config.n_embd, config.kv_dim(), config.heads(0));
    let ids: Vec<u32> = sequences.iter().flat_map(|s| s.tokens).copied().collect();
    if let Some(at) = ids.iter().position(|&id| id as usize >= config.vocab_size) {
        return Err(Error::Batch { what: format!("id {} is not below vocab_size {}", ids[at], config.vocab_size), at });
    }
    if let Some(at) = sequences.iter().position(|s| s.tokens.is_empty()) {
        return Err(Error::Batch { what: "sequence without new tokens".into(), at });
    }
    let positions: Vec<u32> =
        sequences.iter().flat_map(|s| (s.cache.len..s.cache.len + s.tokens.len()).map(|p| p as u32)).collect();
    check_positions(model, &positions)?;
    sequences.par_iter_mut().for_each(|s| s.cache.grow(heads, config.n_layer, s.tokens.len()));
    let rotations = Rotations::new(model, &positions);
    let mut x = embed(model, &ids, &positions);
    let mut attended = vec![0.0; ids.len() * heads.q_dim()];
    for layer in 0..config.n_layer {
        let parts = Parts::new(model, layer);
        let p = parts.project(&x, rotations.of(model, layer));
        let rows = split(sequences, &p.k, kv).into_par_iter().zip(split(sequences, &p.v, kv));
        sequences.par_iter_mut().zip(rows).for_each(|(s, (k, v))| {
            for (i, (k, v)) in k.chunks_exact(kv).zip(v.chunks_exact(kv)).enumerate() {
                s.cache.set(heads, layer, s.cache.len + i, k, v);
            }
        });
        attend(parts.heads, layer, sequences, &p.q, &mut attended);
        x = parts.finish(&x, &attended).out;
    }
    let mut last = Vec::with_capacity(sequences.len() * c);
    let mut end = 0;
    for s in sequences {
        s.cache.len += s.tokens.len();
        end += s.tokens.len() * c;
        last.extend_from_slice(&x[end - c..end]);
    }
    Ok(last_logits(model, &last))
}

/// The rows of each sequence.
fn split<'a>(sequences: &[Extend<'_>], mut rows: &'a [f32], width: usize) -> Vec<&'a [f32]> {
    let cut = |s: &Extend| {
        let (head, tail) = rows.split_at(s.tokens.len() * width);
        rows = tail;
        head
    };
    sequences.iter().map(cut).collect()
}

/// Attention of all new tokens, one task per sequence and 64 queries.
fn attend(heads: Heads, layer: usize, sequences: &[Extend<'_>], q: &[f32], out: &mut [f32]) {
    let width = heads.q_dim();
    let mut tasks = Vec::new();
    let mut rest = out;
    for (s, q) in sequences.iter().zip(split(sequences, q, width)) {
        for (i, q) in q.chunks(KEYS * width).enumerate() {
            let (head, tail) = rest.split_at_mut(q.len());
            rest = tail;
            tasks.push((&*s.cache, s.cache.len + i * KEYS, q, head));
        }
    }
    tasks.into_par_iter().for_each_init(
        || Scratch::new(heads),
        |scratch, (cache, first, q, out)| {
            let pages: Vec<&Page> = cache.pages.iter().map(|page| &page[layer]).collect();
            over_pages(heads, scratch, q, &pages, first, out);
        },
    );
}
