//! Backward of `attention`: gradients of queries, keys and values from the saved log-sum-exp.
//!
//! In: what forward kept ([`Kept`]) and the gradient of its output. Out: three gradients. One task owns one key head of
//! one row with all its query heads, so that sums run in a fixed order: heads, then query blocks, then key blocks.
//! Dao 2023 (FlashAttention-2), algorithm 2, with the query blocks outside.

use super::Scalar;
use super::attention::{Documents, Heads, KEYS, Row, pack_columns, pack_rows, scatter};
use super::gemm::{Left, Right, block};
use super::simd::{dot, exp, multiversion, tanh};
use rayon::prelude::*;

/// What forward has left for backward; shapes as in [`forward`].
#[derive(Clone, Copy)]
pub struct Kept<'a, T = f32> {
    /// Rotated queries.
    pub q: &'a [T],
    /// Rotated keys.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// Outputs.
    pub out: &'a [T],
    /// Log-sum-exps.
    pub logsumexp: &'a [T],
}

/// Writes `dq: [b * t, n_head * d]` and `dk, dv: [b * t, n_kv_head * d]` from `d_out: [b * t, n_head * d]`.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Scalar>(
    heads: Heads,
    t: usize,
    docs: &Documents,
    kept: Kept<T>,
    d_out: &[T],
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let (width, kv_width, d) = (heads.q_dim(), heads.kv_dim(), heads.d);
    let rows = dq.par_chunks_mut(t * width).zip(dk.par_chunks_mut(t * kv_width)).zip(dv.par_chunks_mut(t * kv_width));
    rows.zip(docs).enumerate().for_each(|(b, (((dq, dk), dv), docs))| {
        let q_range = b * t * width..(b + 1) * t * width;
        let row = Row::new(heads, t, b, kept.k, kept.v);
        let lse = &kept.logsumexp[b * heads.n_head * t..(b + 1) * heads.n_head * t];
        let (q, out, d_out) = (&kept.q[q_range.clone()], &kept.out[q_range.clone()], &d_out[q_range]);
        let parts: Vec<Group<T>> = (0..heads.n_kv_head)
            .into_par_iter()
            .map(|g| {
                let mut group = Group::new(heads, t);
                docs.iter().for_each(|doc| group.document(heads, t, doc, (q, out, d_out), &row, lse, g));
                group
            })
            .collect();
        for (g, part) in parts.iter().enumerate() {
            scatter(&part.dq, dq, width, g * heads.group() * d, heads.group() * d);
            scatter(&part.dk, dk, kv_width, g * d, d);
            scatter(&part.dv, dv, kv_width, g * d, d);
        }
    });
}

/// Gradients of one key head and its query heads in one row, and the packed operands of the document at hand.
#[derive(Default)]
struct Group<T> {
    dq: Vec<T>, // [t, group * d]
    dk: Vec<T>, // [t, d]
    dv: Vec<T>, // [t, d]
    keys: Vec<T>,
    keys_t: Vec<T>,
    values_t: Vec<T>,
    queries: Vec<T>,
    d_out: Vec<T>,
    sum_dq: Vec<T>,
    sum_dk: Vec<T>,
    sum_dv: Vec<T>,
}

impl<T: Scalar> Group<T> {
    fn new(heads: Heads, t: usize) -> Self {
        let kv = || vec![T::ZERO; t * heads.d];
        Self { dq: vec![T::ZERO; t * heads.group() * heads.d], dk: kv(), dv: kv(), ..Self::default() }
    }

    #[allow(clippy::too_many_arguments)]
    fn document(
        &mut self,
        heads: Heads,
        t: usize,
        doc: &std::ops::Range<usize>,
        (q, out, d_out): (&[T], &[T], &[T]),
        row: &Row<T>,
        lse: &[T],
        g: usize,
    ) {
        let (width, kv_width, d, padded) = (heads.q_dim(), heads.kv_dim(), heads.d, heads.padded());
        pack_rows(row.k, kv_width, g * d, d, padded, doc, &mut self.keys);
        pack_columns(row.k, kv_width, g * d, d, doc, &mut self.keys_t);
        pack_columns(row.v, kv_width, g * d, d, doc, &mut self.values_t);
        for sum in [&mut self.sum_dk, &mut self.sum_dv] {
            sum.clear();
            sum.resize(self.keys.len(), T::ZERO);
        }
        for h in 0..heads.group() {
            let head = g * heads.group() + h;
            pack_rows(q, width, head * d, d, padded, doc, &mut self.queries);
            pack_rows(d_out, width, head * d, d, padded, doc, &mut self.d_out);
            let mut pull = vec![T::ZERO; doc.len()];
            let (out, d_out) = (&out[doc.start * width..], &d_out[doc.start * width..]);
            row_dots(out, d_out, width, head * d, d, &mut pull);
            self.sum_dq.clear();
            self.sum_dq.resize(self.keys.len(), T::ZERO);
            self.head(heads, doc.len(), &lse[head * t + doc.start..head * t + doc.end], &pull);
            let n = heads.group() * d;
            for (from, to) in
                self.sum_dq.chunks_exact(padded).zip(self.dq[doc.start * n..doc.end * n].chunks_exact_mut(n))
            {
                to[h * d..(h + 1) * d].copy_from_slice(&from[..d]);
            }
        }
        for (sum, to) in [(&self.sum_dk, &mut self.dk), (&self.sum_dv, &mut self.dv)] {
            for (from, to) in sum.chunks_exact(padded).zip(to[doc.start * d..doc.end * d].chunks_exact_mut(d)) {
                to.copy_from_slice(&from[..d]);
            }
        }
    }

    /// One query head of one document of `n` tokens: query blocks in order, key blocks in order within.
    fn head(&mut self, heads: Heads, n: usize, lse: &[T], pull: &[T]) {
        let (d, padded) = (heads.d, heads.padded());
        let mut weights = [T::ZERO; KEYS * KEYS];
        let mut slopes = [T::ZERO; KEYS * KEYS];
        for qb in (0..n).step_by(KEYS) {
            let rows = KEYS.min(n - qb);
            let (q, d_out) = (&self.queries[qb * padded..], &self.d_out[qb * padded..]);
            for kb in (heads.first_key(qb) / KEYS * KEYS..=qb).step_by(KEYS) {
                let keys_t = Right::rows(&self.keys_t[kb * d..], KEYS);
                let values_t = Right::rows(&self.values_t[kb * d..], KEYS);
                block(rows, KEYS, d, Left::rows(q, padded), keys_t, &mut weights, KEYS, false);
                block(rows, KEYS, d, Left::rows(d_out, padded), values_t, &mut slopes, KEYS, false);
                softmax_slopes(&mut weights, &mut slopes, qb - kb, heads, &lse[qb..qb + rows], &pull[qb..]);
                let (weights, slopes) = (&weights[..rows * KEYS], &slopes[..rows * KEYS]);
                let range = kb * padded..(kb + KEYS) * padded;
                let (dk, dv) = (&mut self.sum_dk[range.clone()], &mut self.sum_dv[range]);
                block(KEYS, padded, rows, Left::columns(weights, KEYS), Right::rows(d_out, padded), dv, padded, true);
                block(KEYS, padded, rows, Left::columns(slopes, KEYS), Right::rows(q, padded), dk, padded, true);
                let (dq, keys) = (&mut self.sum_dq[qb * padded..], &self.keys[kb * padded..]);
                block(rows, padded, KEYS, Left::rows(slopes, KEYS), Right::rows(keys, padded), dq, padded, true);
            }
        }
    }
}

multiversion! {
    /// Scores to weights and `d weights` to `d scores` (already scaled), in place; query 0 is `ahead` of key 0.
    fn softmax_slopes<T: Scalar>(weights: &mut [T], slopes: &mut [T], ahead: usize, heads: Heads, lse: &[T], pull: &[T]) {
        let (scale, cap) = (T::of(heads.scale), T::of(heads.softcap));
        let rows = weights.as_chunks_mut::<KEYS>().0.iter_mut().zip(slopes.as_chunks_mut::<KEYS>().0.iter_mut());
        for (i, ((weights, slopes), (lse, pull))) in rows.zip(lse.iter().zip(pull)).enumerate() {
            let limit = (ahead + i + 1).min(KEYS);
            let hidden = heads.first_key(ahead + i).min(KEYS);
            if cap > T::ZERO {
                for j in 0..KEYS {
                    let bent = tanh(weights[j] * scale / cap);
                    let p = exp(bent.mul_add(cap, -*lse));
                    weights[j] = p;
                    slopes[j] = p * (slopes[j] - *pull) * scale * bent.mul_add(-bent, T::ONE);
                }
            } else {
                for j in 0..KEYS {
                    let p = exp(weights[j].mul_add(scale, -*lse));
                    weights[j] = p;
                    slopes[j] = p * (slopes[j] - *pull) * scale;
                }
            }
            for row in [weights, slopes] {
                row[..hidden].fill(T::ZERO);
                row[limit..].fill(T::ZERO);
            }
        }
    }
}

multiversion! {
    /// Dot products of columns `at..at + d` of each pair of rows.
    fn row_dots<T: Scalar>(a: &[T], b: &[T], width: usize, at: usize, d: usize, out: &mut [T]) {
        for ((a, b), out) in a.chunks_exact(width).zip(b.chunks_exact(width)).zip(out) {
            *out = dot(&a[at..at + d], &b[at..at + d]);
        }
    }
}
