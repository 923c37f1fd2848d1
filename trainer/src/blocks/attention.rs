//! The first half of a layer without the attention itself: norm, projections, norms of queries and keys, rotation.
//!
//! In: rows of the hidden stream. Out: queries, keys and values; backward from their slopes to the stream's. Row-local work
//! runs in tasks that keep their intermediates in cache.

use super::parts::{Deal, Parts, Small, ranges, rows_of};
use super::{ROWS, add_to, task_rows};
use crate::family::QkNorm;
use crate::layout::Part;
use crate::ops::linear::linear_rows;
use crate::ops::rope::Angles;
use crate::ops::{Scalar, bias, rms_norm};
use rayon::prelude::*;

/// What attention reads, and what backward needs of how it came to be; empty where the family has no such norm.
pub(crate) struct Projected<T> {
    pub q: Vec<T>,            // [rows, n_head * d], normed and rotated
    pub k: Vec<T>,            // [rows, n_kv_head * d], likewise
    pub v: Vec<T>,            // [rows, n_kv_head * d]
    pub stats: Vec<T>,        // [rows, kept] of the input norm
    pub raw: [Vec<T>; 2],     // q and k before their norms
    pub inverse: [Vec<T>; 2], // [rows, groups] of these norms
}

/// Slopes of queries, keys and values; those of queries and keys are turned back in place.
pub(crate) struct Slopes<'a, T> {
    pub dq: &'a mut [T],
    pub dk: &'a mut [T],
    pub dv: &'a [T],
}

/// What forward has left for [`Parts::back_to_input`].
pub(crate) struct Entry<'a, T> {
    pub x: &'a [T],
    pub stats: &'a [T],
    pub raw: [&'a [T]; 2],
    pub inverse: [&'a [T]; 2],
}

struct Project<'a, T> {
    first: usize,
    x: &'a [T],
    q: &'a mut [T],
    k: &'a mut [T],
    v: &'a mut [T],
    stats: &'a mut [T],
    raw: [&'a mut [T]; 2],
    inverse: [&'a mut [T]; 2],
}

struct Back<'a, T> {
    first: usize,
    x: &'a [T],
    stats: &'a [T],
    raw: [&'a [T]; 2],
    inverse: [&'a [T]; 2],
    dq: &'a mut [T],
    dk: &'a mut [T],
    dv: &'a [T],
    dx: &'a mut [T],
    normed: &'a mut [T],
}

impl<T: Scalar> Parts<'_, T> {
    /// Numbers per row: the input norm's, raw queries and keys, and the statistics of their norms.
    fn widths(&self) -> (usize, [usize; 2], [usize; 2]) {
        let kept = self.entry_norm().map_or(0, |norm| norm.norm().kept());
        let (q, kv) = (self.heads.q_dim(), self.heads.kv_dim());
        match self.family().qk_norm {
            QkNorm::None => (kept, [0, 0], [0, 0]),
            QkNorm::Head => (kept, [q, kv], [self.heads.n_head, self.heads.n_kv_head]),
            QkNorm::Full => (kept, [q, kv], [1, 1]),
        }
    }

    /// Queries, keys and values of `x: [rows, c]`; `angles` if the layer rotates.
    pub fn project(&self, x: &[T], angles: Option<&Angles>) -> Projected<T> {
        let (c, q_dim, kv, eps) = (self.c(), self.heads.q_dim(), self.heads.kv_dim(), self.model.config().norm_eps);
        let rows = x.len() / c;
        let (kept, raw, groups) = self.widths();
        let norm = self.entry_norm();
        let gains = [Part::QueryNorm, Part::KeyNorm].map(|part| self.vector(part));
        let biases = [Part::QueryBias, Part::KeyBias, Part::ValueBias].map(|part| self.vector(part));
        let weights = [Part::Query, Part::Key, Part::Value].map(|part| self.packed(part));
        let room = |width: usize| vec![T::ZERO; rows * width];
        let mut p = Projected {
            q: room(q_dim),
            k: room(kv),
            v: room(kv),
            stats: room(kept),
            raw: raw.map(room),
            inverse: groups.map(room),
        };
        let n = task_rows(rows);
        let (mut q, mut k, mut v) = (Deal::new(&mut p.q, q_dim), Deal::new(&mut p.k, kv), Deal::new(&mut p.v, kv));
        let mut stats = Deal::new(&mut p.stats, kept);
        let [raw_q, raw_k] = &mut p.raw;
        let mut raws = [Deal::new(raw_q, raw[0]), Deal::new(raw_k, raw[1])];
        let [inverse_q, inverse_k] = &mut p.inverse;
        let mut inverses = [Deal::new(inverse_q, groups[0]), Deal::new(inverse_k, groups[1])];
        let tasks: Vec<Project<T>> = ranges(rows, n)
            .map(|range| Project {
                first: range.start,
                x: rows_of(x, &range, c),
                q: q.next(range.len()),
                k: k.next(range.len()),
                v: v.next(range.len()),
                stats: stats.next(range.len()),
                raw: raws.each_mut().map(|deal| deal.next(range.len())),
                inverse: inverses.each_mut().map(|deal| deal.next(range.len())),
            })
            .collect();
        tasks.into_par_iter().for_each_init(
            || vec![T::ZERO; n * c],
            |normed, task| {
                let mut input = task.x;
                if let Some(norm) = &norm {
                    norm.norm().forward(task.x, &mut normed[..task.x.len()], task.stats);
                    input = &normed[..task.x.len()];
                }
                let (q, k) = (task.q, task.k);
                for ((y, raw), (i, inverse)) in
                    [&mut *q, &mut *k].into_iter().zip(task.raw).zip(task.inverse.into_iter().enumerate())
                {
                    let Some(gain) = &gains[i] else {
                        linear_rows(input, weights[i], y, false);
                        biases[i].iter().for_each(|b| bias::forward(b, y));
                        continue;
                    };
                    linear_rows(input, weights[i], raw, false);
                    biases[i].iter().for_each(|b| bias::forward(b, raw));
                    rms_norm::forward(raw, gain, eps, y, inverse);
                }
                linear_rows(input, weights[2], task.v, false);
                biases[2].iter().for_each(|b| bias::forward(b, task.v));
                if let Some(angles) = angles {
                    angles.rotate(q, q_dim, task.first);
                    angles.rotate(k, kv, task.first);
                }
            },
        );
        p
    }

    /// From queries, keys and values back to the layer's input: `dx` is added to. Returns the norm's output (empty if there
    /// is no norm: it is the input) and the gradients of gains and biases.
    pub fn back_to_input(
        &self,
        entry: &Entry<T>,
        angles: Option<&Angles>,
        slopes: Slopes<T>,
        dx: &mut [T],
    ) -> (Vec<T>, Vec<Small<T>>) {
        let (c, q_dim, kv) = (self.c(), self.heads.q_dim(), self.heads.kv_dim());
        let rows = entry.x.len() / c;
        let (kept, raw, groups) = self.widths();
        let norm = self.entry_norm();
        let gains = [Part::QueryNorm, Part::KeyNorm].map(|part| self.vector(part));
        let biases = [Part::QueryBias, Part::KeyBias, Part::ValueBias].map(|part| self.vector(part));
        let weights = [Part::Query, Part::Key, Part::Value].map(|part| self.packed_backward(part));
        let width = if norm.is_some() { c } else { 0 };
        let mut normed = vec![T::ZERO; rows * width];
        let mut deals =
            [Deal::new(slopes.dq, q_dim), Deal::new(slopes.dk, kv), Deal::new(dx, c), Deal::new(&mut normed, width)];
        let tasks: Vec<Back<T>> = ranges(rows, ROWS)
            .map(|range| {
                let [dq, dk, dx, normed] = deals.each_mut().map(|deal| deal.next(range.len()));
                Back {
                    first: range.start,
                    x: rows_of(entry.x, &range, c),
                    stats: rows_of(entry.stats, &range, kept),
                    raw: [0, 1].map(|i| rows_of(entry.raw[i], &range, raw[i])),
                    inverse: [0, 1].map(|i| rows_of(entry.inverse[i], &range, groups[i])),
                    dv: rows_of(slopes.dv, &range, kv),
                    dq,
                    dk,
                    dx,
                    normed,
                }
            })
            .collect();
        let smalls = tasks
            .into_par_iter()
            .map_init(
                || vec![T::ZERO; ROWS * c],
                |d_normed, task| {
                    let (d_normed, mut small) = (&mut d_normed[..task.x.len()], Small::default());
                    if let Some(angles) = angles {
                        angles.rotate_back(task.dq, q_dim, task.first);
                        angles.rotate_back(task.dk, kv, task.first);
                    }
                    let parts = [Part::QueryNorm, Part::KeyNorm];
                    for (i, dy) in [&mut *task.dq, &mut *task.dk].into_iter().enumerate() {
                        if let Some(gain) = &gains[i] {
                            let (mut d_raw, mut d_gain) = (vec![T::ZERO; dy.len()], vec![T::ZERO; gain.len()]);
                            rms_norm::backward(task.raw[i], gain, task.inverse[i], dy, &mut d_raw, &mut d_gain);
                            dy.copy_from_slice(&d_raw);
                            small.push(parts[i], d_gain);
                        }
                    }
                    small.push_bias(Part::QueryBias, biases[0].as_deref(), task.dq);
                    small.push_bias(Part::KeyBias, biases[1].as_deref(), task.dk);
                    small.push_bias(Part::ValueBias, biases[2].as_deref(), task.dv);
                    linear_rows(task.dq, weights[0], d_normed, false);
                    linear_rows(task.dk, weights[1], d_normed, true);
                    linear_rows(task.dv, weights[2], d_normed, true);
                    match &norm {
                        Some(norm) => {
                            norm.norm().again(task.x, task.stats, task.normed);
                            let grads = norm.norm().backward(task.x, task.stats, d_normed, task.dx);
                            small.push_norm(Part::InputNorm, Part::InputNormBias, grads);
                        }
                        None => add_to(task.dx, d_normed),
                    }
                    small
                },
            )
            .collect();
        (normed, smalls)
    }
}
