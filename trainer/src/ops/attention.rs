//! Causal grouped-query attention in 64-key blocks, forward and backward, without the score matrix.
//!
//! In: queries and keys after rotation, values, and where each document starts. Out: the heads' outputs and, per query
//! and head, the log-sum-exp that backward needs. Blocks start at a document's first token, and each query's arithmetic
//! is its own: a query has the same bits alone (decoding over cached pages) and among many (training), whatever
//! document precedes it in its row. A sliding window hides keys, and skips the blocks that it hides from every query of a
//! block; a block that is hidden from one query leaves that query's sums as they are, so skipping changes no bit. Dao 2023
//! (FlashAttention-2) for both passes.

use super::Scalar;
use super::gemm::{Left, PANEL, Right, block};
use super::simd::{LANES, exp, max, max_lanes, multiversion, sum_lanes, tanh};
use rayon::prelude::*;

pub use super::attention_backward::{Kept, backward};

/// Keys per block; part of the definition of the result.
pub const KEYS: usize = 64;

/// Sizes of one attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads.
    pub n_kv_head: usize,
    /// Width of one head.
    pub d: usize,
    /// Keys that a query sees, its own included.
    pub window: usize,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Scaled scores become `cap * tanh(score / cap)`; 0 for no cap.
    pub softcap: f64,
}

impl Heads {
    /// Full attention with scale `1 / sqrt(d)`.
    pub fn new(n_head: usize, n_kv_head: usize, d: usize) -> Self {
        let scale = 1.0 / (d as f64).sqrt();
        Self { n_head, n_kv_head, d, window: usize::MAX, scale, softcap: 0.0 }
    }

    /// Width of a row of queries.
    pub fn q_dim(&self) -> usize {
        self.n_head * self.d
    }

    /// Width of a row of keys or of values.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_head * self.d
    }

    /// Query heads per key head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_kv_head
    }

    /// Head width rounded up to whole panels.
    pub fn padded(&self) -> usize {
        self.d.next_multiple_of(PANEL)
    }

    /// First key that the query at `position` sees.
    pub(super) fn first_key(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

/// Up to 64 keys and values of one document in the layout that the kernel reads; zero where not yet filled.
#[derive(Clone, Debug)]
pub struct Page<T = f32> {
    keys: Vec<T>,   // [n_kv_head, d, 64]
    values: Vec<T>, // [n_kv_head, 64, padded d]
}

impl<T: Scalar> Page<T> {
    /// An empty page.
    pub fn new(heads: Heads) -> Self {
        let n = heads.n_kv_head * KEYS;
        Self { keys: vec![T::ZERO; n * heads.d], values: vec![T::ZERO; n * heads.padded()] }
    }

    /// Writes slot `slot` (0 to 63): `k` and `v` are `[n_kv_head * d]`.
    pub fn set(&mut self, heads: Heads, slot: usize, k: &[T], v: &[T]) {
        let (d, padded) = (heads.d, heads.padded());
        for g in 0..heads.n_kv_head {
            for i in 0..d {
                self.keys[(g * d + i) * KEYS + slot] = k[g * d + i];
            }
            self.values[(g * KEYS + slot) * padded..][..d].copy_from_slice(&v[g * d..(g + 1) * d]);
        }
    }

    fn head(&self, heads: Heads, g: usize) -> (&[T], &[T]) {
        let (k, v) = (heads.d * KEYS, KEYS * heads.padded());
        (&self.keys[g * k..(g + 1) * k], &self.values[g * v..(g + 1) * v])
    }
}

/// Consecutive queries of one document against its pages: `q, out: [rows, n_head * d]`, the first query at position
/// `first` of the document. The pages hold keys and values of positions `0..first + rows` at least.
pub fn over_pages<T: Scalar>(
    heads: Heads,
    scratch: &mut Scratch<T>,
    q: &[T],
    pages: &[&Page<T>],
    first: usize,
    out: &mut [T],
) {
    let width = heads.q_dim();
    let rows = q.len() / width;
    for start in blocks_of_queries(first, rows) {
        for h in 0..heads.n_head {
            let queries = &q[start.start * width + h * heads.d..];
            let kv = |j: usize| pages[j].head(heads, h / heads.group());
            scratch.attend(heads, queries, width, start.len(), first + start.start, kv);
            scratch.copy_out(heads, start.len(), &mut out[start.start * width + h * heads.d..], width);
        }
    }
}

/// Splits `rows` queries from position `first` where positions reach a multiple of 64.
fn blocks_of_queries(first: usize, rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        at = (start + KEYS - (first + start) % KEYS).min(rows);
        (start < rows).then_some(start..at)
    })
}

/// Buffers for one block of up to 64 queries of one head; what they hold between calls does not matter.
pub struct Scratch<T = f32> {
    scores: Vec<T>, // [64, 64]
    out: Vec<T>,    // [64, padded d]
    top: [T; KEYS],
    sum: [T; KEYS],
}

impl<T: Scalar> Scratch<T> {
    /// Buffers for heads of this width.
    pub fn new(heads: Heads) -> Self {
        let out = vec![T::ZERO; KEYS * heads.padded()];
        Self { scores: vec![T::ZERO; KEYS * KEYS], out, top: [T::ZERO; KEYS], sum: [T::ZERO; KEYS] }
    }

    /// Online softmax over all key blocks up to the queries' own. `kv(j)` is block `j`: keys `[d, 64]`, values `[64, padded]`.
    fn attend<'a>(
        &mut self,
        heads: Heads,
        queries: &[T],
        width: usize,
        rows: usize,
        first: usize,
        kv: impl Fn(usize) -> (&'a [T], &'a [T]),
    ) {
        let padded = heads.padded();
        self.top = [T::NEG_INFINITY; KEYS];
        self.sum = [T::ZERO; KEYS];
        self.out[..rows * padded].fill(T::ZERO);
        for j in heads.first_key(first) / KEYS..=(first + rows - 1) / KEYS {
            let (keys, values) = kv(j);
            block(
                rows,
                KEYS,
                heads.d,
                Left::rows(queries, width),
                Right::rows(keys, KEYS),
                &mut self.scores,
                KEYS,
                false,
            );
            let visible = first + 1 - (j * KEYS).min(first + 1);
            let (top, sum) = (&mut self.top[..rows], &mut self.sum[..rows]);
            online_softmax(&mut self.scores, &mut self.out, padded, visible, heads, top, sum);
            block(
                rows,
                padded,
                KEYS,
                Left::rows(&self.scores, KEYS),
                Right::rows(values, padded),
                &mut self.out,
                padded,
                true,
            );
        }
        for (out, sum) in self.out.chunks_exact_mut(padded).zip(&self.sum[..rows]) {
            for x in out {
                *x /= *sum;
            }
        }
    }

    fn copy_out(&self, heads: Heads, rows: usize, out: &mut [T], width: usize) {
        for (i, row) in self.out.chunks_exact(heads.padded()).take(rows).enumerate() {
            out[i * width..i * width + heads.d].copy_from_slice(&row[..heads.d]);
        }
    }
}

multiversion! {
    /// One block of scores to weights: query `i` sees its first `visible + i` keys, of those the last `window`. Rescales
    /// `out` and updates the running maximum and sum.
    fn online_softmax<T: Scalar>(scores: &mut [T], out: &mut [T], padded: usize, visible: usize, heads: Heads, top: &mut [T], sum: &mut [T]) {
        let rows = scores.as_chunks_mut::<KEYS>().0.iter_mut().zip(out.chunks_exact_mut(padded));
        for (i, ((scores, out), (top, sum))) in rows.zip(top.iter_mut().zip(sum.iter_mut())).enumerate() {
            let limit = visible + i;
            let hidden = limit.saturating_sub(heads.window);
            if hidden >= KEYS {
                scores.fill(T::ZERO);
                continue;
            }
            mask(scores, hidden, limit, T::of(heads.scale), T::of(heads.softcap));
            let mut lanes = [T::NEG_INFINITY; LANES];
            for part in scores.as_chunks::<LANES>().0 {
                for l in 0..LANES {
                    lanes[l] = max(lanes[l], part[l]);
                }
            }
            let new_top = max(*top, max_lanes(lanes));
            let mut lanes = [T::ZERO; LANES];
            for part in scores.as_chunks_mut::<LANES>().0 {
                for l in 0..LANES {
                    part[l] = exp(part[l] - new_top);
                    lanes[l] += part[l];
                }
            }
            let shrink = exp(*top - new_top);
            *top = new_top;
            *sum = sum.mul_add(shrink, sum_lanes(lanes));
            for x in out {
                *x *= shrink;
            }
        }
    }
}

/// Scales and caps the scores `hidden..limit` and hides the others.
#[inline(always)]
fn mask<T: Scalar>(scores: &mut [T; KEYS], hidden: usize, limit: usize, scale: T, softcap: T) {
    for x in scores.iter_mut() {
        *x *= scale;
    }
    if softcap > T::ZERO {
        for x in scores.iter_mut() {
            *x = tanh(*x / softcap) * softcap;
        }
    }
    scores[..hidden].fill(T::NEG_INFINITY);
    for x in scores.iter_mut().skip(limit) {
        *x = T::NEG_INFINITY;
    }
}

/// Documents of each row: `documents[row]` lists ranges of positions.
pub type Documents = [Vec<std::ops::Range<usize>>];

/// `out: [b * t, n_head * d]` and `logsumexp: [b, n_head, t]` from `q: [b * t, n_head * d]`, `k, v: [b * t, n_kv_head * d]`.
#[allow(clippy::too_many_arguments)]
pub fn forward<T: Scalar>(
    heads: Heads,
    t: usize,
    docs: &Documents,
    q: &[T],
    k: &[T],
    v: &[T],
    out: &mut [T],
    logsumexp: &mut [T],
) {
    let (width, d) = (heads.q_dim(), heads.d);
    let rows = out.par_chunks_mut(t * width).zip(logsumexp.par_chunks_mut(heads.n_head * t)).zip(docs);
    rows.enumerate().for_each(|(b, ((out, logsumexp), docs))| {
        let row = Row::new(heads, t, b, k, v);
        let q = &q[b * t * width..(b + 1) * t * width];
        let parts: Vec<(Vec<T>, Vec<T>)> =
            (0..heads.n_kv_head).into_par_iter().map(|g| forward_group(heads, t, docs, q, &row, g)).collect();
        for (g, (part, lse)) in parts.iter().enumerate() {
            let (from, n) = (g * heads.group(), heads.group());
            scatter(part, out, width, from * d, n * d);
            logsumexp[from * t..(from + n) * t].copy_from_slice(lse);
        }
    });
}

/// Keys and values of one row of the batch.
pub(super) struct Row<'a, T> {
    pub k: &'a [T],
    pub v: &'a [T],
}

impl<'a, T> Row<'a, T> {
    pub(super) fn new(heads: Heads, t: usize, b: usize, k: &'a [T], v: &'a [T]) -> Self {
        let range = b * t * heads.kv_dim()..(b + 1) * t * heads.kv_dim();
        Self { k: &k[range.clone()], v: &v[range] }
    }
}

/// All query heads of key head `g`: outputs `[t, group * d]` and log-sum-exps `[group, t]`.
fn forward_group<T: Scalar>(
    heads: Heads,
    t: usize,
    docs: &[std::ops::Range<usize>],
    q: &[T],
    row: &Row<T>,
    g: usize,
) -> (Vec<T>, Vec<T>) {
    let (width, d, group, padded) = (heads.q_dim(), heads.d, heads.group(), heads.padded());
    let mut out = vec![T::ZERO; t * group * d];
    let mut lse = vec![T::ZERO; group * t];
    let mut scratch = Scratch::new(heads);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for doc in docs {
        pack_columns(row.k, heads.kv_dim(), g * d, d, doc, &mut keys);
        pack_rows(row.v, heads.kv_dim(), g * d, d, padded, doc, &mut values);
        let kv = |j: usize| (&keys[j * d * KEYS..][..d * KEYS], &values[j * KEYS * padded..][..KEYS * padded]);
        for part in blocks_of_queries(0, doc.len()) {
            let at = doc.start + part.start;
            for h in 0..group {
                let queries = &q[at * width + (g * group + h) * d..];
                scratch.attend(heads, queries, width, part.len(), part.start, kv);
                scratch.copy_out(heads, part.len(), &mut out[at * group * d + h * d..], group * d);
                for i in 0..part.len() {
                    lse[h * t + at + i] = T::of(scratch.top[i].wide() + scratch.sum[i].wide().ln());
                }
            }
        }
    }
    (out, lse)
}

/// `[rows, n]` into columns `at..at + n` of `[rows, width]`.
pub(super) fn scatter<T: Scalar>(part: &[T], out: &mut [T], width: usize, at: usize, n: usize) {
    for (from, to) in part.chunks_exact(n).zip(out.chunks_exact_mut(width)) {
        to[at..at + n].copy_from_slice(from);
    }
}

/// Positions `doc`, columns `at..at + d` of rows of `width`, transposed: `[blocks, d, 64]`, zero-padded.
pub(super) fn pack_columns<T: Scalar>(
    x: &[T],
    width: usize,
    at: usize,
    d: usize,
    doc: &std::ops::Range<usize>,
    out: &mut Vec<T>,
) {
    out.clear();
    out.resize(doc.len().div_ceil(KEYS) * d * KEYS, T::ZERO);
    for (i, row) in x[doc.start * width..doc.end * width].chunks_exact(width).enumerate() {
        let page = &mut out[i / KEYS * d * KEYS + i % KEYS..];
        for (j, x) in row[at..at + d].iter().enumerate() {
            page[j * KEYS] = *x;
        }
    }
}

/// Positions `doc`, columns `at..at + d` of rows of `width`: `[blocks * 64, padded]`, zero-padded.
pub(super) fn pack_rows<T: Scalar>(
    x: &[T],
    width: usize,
    at: usize,
    d: usize,
    padded: usize,
    doc: &std::ops::Range<usize>,
    out: &mut Vec<T>,
) {
    out.clear();
    out.resize(doc.len().next_multiple_of(KEYS) * padded, T::ZERO);
    let rows = x[doc.start * width..doc.end * width].chunks_exact(width);
    for (row, out) in rows.zip(out.chunks_exact_mut(padded)) {
        out[..d].copy_from_slice(&row[at..at + d]);
    }
}
