//! The second half of a layer: the end of attention, norm, feed-forward, and its end.
//!
//! In: the hidden stream before the layer and what attention has gathered. Out: the stream one layer further; backward from
//! its slope to attention's output and to the stream before the layer. Backward recomputes the norm's output and the
//! feed-forward's product instead of keeping them.

use super::parts::{Deal, Parts, Small, ranges, rows_of};
use super::{ROWS, add_to, task_rows};
use crate::layout::Part;
use crate::ops::linear::linear_rows;
use crate::ops::{Scalar, activation, bias};
use rayon::prelude::*;

/// The second half of a layer; what the family has not is empty.
pub(crate) struct Finished<T> {
    pub middle: Vec<T>,         // [rows, c]: after attention
    pub stats: Vec<T>,          // [rows, kept] of the norm before the feed-forward
    pub gate: Vec<T>,           // [rows, f]
    pub up: Vec<T>,             // [rows, f]
    pub out: Vec<T>,            // [rows, c]
    pub ends: [Vec<T>; 2],      // [rows, c]: what the norms at both ends have read
    pub end_stats: [Vec<T>; 2], // [rows, kept]
}

/// What forward has left for [`Parts::back_to_attention`].
pub(crate) struct Middle<'a, T> {
    pub middle: &'a [T],
    pub stats: &'a [T],
    pub gate: &'a [T],
    pub up: &'a [T],
    pub ends: [&'a [T]; 2],
    pub end_stats: [&'a [T]; 2],
}

/// Backward of the second half.
pub(crate) struct Upper<T> {
    pub normed: Vec<T>,     // [rows, c]: input of the feed-forward; empty if it is `middle`
    pub product: Vec<T>,    // [rows, f]
    pub d_gate: Vec<T>,     // [rows, f]
    pub d_up: Vec<T>,       // [rows, f]
    pub d_middle: Vec<T>,   // [rows, c]
    pub d_attended: Vec<T>, // [rows, n_head * d]
    pub dx: Vec<T>,         // [rows, c]
    pub dz: [Vec<T>; 2],    // [rows, c]: slopes of both matrices' outputs; empty if `d_middle` and `d_out`
    pub smalls: Vec<Small<T>>,
}

struct Finish<'a, T> {
    first: usize,
    x: &'a [T],
    attended: &'a [T],
    middle: &'a mut [T],
    stats: &'a mut [T],
    gate: &'a mut [T],
    up: &'a mut [T],
    out: &'a mut [T],
    ends: [&'a mut [T]; 2],
    end_stats: [&'a mut [T]; 2],
}

struct Back<'a, T> {
    first: usize,
    d_out: &'a [T],
    middle: &'a [T],
    stats: &'a [T],
    gate: &'a [T],
    up: &'a [T],
    ends: [&'a [T]; 2],
    end_stats: [&'a [T]; 2],
    normed: &'a mut [T],
    product: &'a mut [T],
    d_gate: &'a mut [T],
    d_up: &'a mut [T],
    d_middle: &'a mut [T],
    d_attended: &'a mut [T],
    dx: &'a mut [T],
    dz: [&'a mut [T]; 2],
}

impl<T: Scalar> Parts<'_, T> {
    /// Widths of the norm's statistics and of gates; 0 for what the family has not.
    fn mlp_widths(&self) -> (usize, usize) {
        let kept = self.norm(Part::MlpNorm, Part::MlpNormBias).map_or(0, |norm| norm.norm().kept());
        (kept, if self.family().mlp.gated() { self.model.config().n_ffn } else { 0 })
    }

    /// The layer's output from `x: [rows, c]` and `attended: [rows, n_head * d]`.
    pub fn finish(&self, x: &[T], attended: &[T]) -> Finished<T> {
        let (c, f, kind) = (self.c(), self.model.config().n_ffn, self.family().mlp);
        let rows = x.len() / c;
        let (kept, gates) = self.mlp_widths();
        let norm = self.norm(Part::MlpNorm, Part::MlpNormBias);
        let exits = [self.attention_exit(), self.mlp_exit()];
        let widths = exits.each_ref().map(|exit| exit.kept(c));
        let (w_gate, w_up) = (kind.gated().then(|| self.packed(Part::Gate)), self.packed(Part::Up));
        let (b_gate, b_up) = (self.vector(Part::GateBias), self.vector(Part::UpBias));
        let room = |width: usize| vec![T::ZERO; rows * width];
        let mut done = Finished {
            middle: room(c),
            stats: room(kept),
            gate: room(gates),
            up: room(f),
            out: room(c),
            ends: widths.map(|w| room(w.0)),
            end_stats: widths.map(|w| room(w.1)),
        };
        let n = task_rows(rows);
        let [end_0, end_1] = &mut done.ends;
        let [end_stats_0, end_stats_1] = &mut done.end_stats;
        let mut deals = [
            Deal::new(&mut done.middle, c),
            Deal::new(&mut done.stats, kept),
            Deal::new(&mut done.gate, gates),
            Deal::new(&mut done.up, f),
            Deal::new(&mut done.out, c),
            Deal::new(end_0, widths[0].0),
            Deal::new(end_1, widths[1].0),
            Deal::new(end_stats_0, widths[0].1),
            Deal::new(end_stats_1, widths[1].1),
        ];
        let tasks: Vec<Finish<T>> = ranges(rows, n)
            .map(|range| {
                let [middle, stats, gate, up, out, end_0, end_1, end_stats_0, end_stats_1] =
                    deals.each_mut().map(|deal| deal.next(range.len()));
                let (x, attended) = (rows_of(x, &range, c), rows_of(attended, &range, self.heads.q_dim()));
                let (ends, end_stats) = ([end_0, end_1], [end_stats_0, end_stats_1]);
                Finish { first: range.start, x, attended, middle, stats, gate, up, out, ends, end_stats }
            })
            .collect();
        tasks.into_par_iter().for_each_init(
            || (vec![T::ZERO; n * c], vec![T::ZERO; n * f]),
            |(normed, product), task| {
                let product = &mut product[..task.up.len()];
                let ([end_0, end_1], [stats_0, stats_1]) = (task.ends, task.end_stats);
                exits[0].forward(task.x, task.attended, task.middle, end_0, stats_0, task.first);
                let mut input = &*task.middle;
                if let Some(norm) = &norm {
                    norm.norm().forward(task.middle, &mut normed[..task.x.len()], task.stats);
                    input = &normed[..task.x.len()];
                }
                if let Some(w_gate) = w_gate {
                    linear_rows(input, w_gate, task.gate, false);
                    b_gate.iter().for_each(|b| bias::forward(b, task.gate));
                }
                linear_rows(input, w_up, task.up, false);
                b_up.iter().for_each(|b| bias::forward(b, task.up));
                activation::forward(kind, task.gate, task.up, product);
                exits[1].forward(task.middle, product, task.out, end_1, stats_1, task.first);
            },
        );
        done
    }

    /// From the slope of the layer's output back to attention's output and the stream before the layer.
    pub fn back_to_attention(&self, d_out: &[T], kept: &Middle<T>) -> Upper<T> {
        let (c, f, q_dim, kind) = (self.c(), self.model.config().n_ffn, self.heads.q_dim(), self.family().mlp);
        let rows = d_out.len() / c;
        let (stats_width, gates) = self.mlp_widths();
        let norm = self.norm(Part::MlpNorm, Part::MlpNormBias);
        let exits = [self.attention_exit(), self.mlp_exit()];
        let widths = exits.each_ref().map(|exit| exit.kept(c));
        let dz_width = exits.each_ref().map(|exit| if exit.plain() { 0 } else { c });
        let normed_width = if norm.is_some() { c } else { 0 };
        let w_gate = kind.gated().then(|| self.packed_backward(Part::Gate));
        let [w_o, w_up, w_down] = [Part::Output, Part::Up, Part::Down].map(|part| self.packed_backward(part));
        let (b_gate, b_up) = (self.vector(Part::GateBias), self.vector(Part::UpBias));
        let room = |width: usize| vec![T::ZERO; rows * width];
        let mut upper = Upper {
            normed: room(normed_width),
            product: room(f),
            d_gate: room(gates),
            d_up: room(f),
            d_middle: room(c),
            d_attended: room(q_dim),
            dx: room(c),
            dz: dz_width.map(room),
            smalls: Vec::new(),
        };
        let [dz_0, dz_1] = &mut upper.dz;
        let mut deals = [
            Deal::new(&mut upper.normed, normed_width),
            Deal::new(&mut upper.product, f),
            Deal::new(&mut upper.d_gate, gates),
            Deal::new(&mut upper.d_up, f),
            Deal::new(&mut upper.d_middle, c),
            Deal::new(&mut upper.d_attended, q_dim),
            Deal::new(&mut upper.dx, c),
            Deal::new(dz_0, dz_width[0]),
            Deal::new(dz_1, dz_width[1]),
        ];
        let tasks: Vec<Back<T>> = ranges(rows, ROWS)
            .map(|range| {
                let [normed, product, d_gate, d_up, d_middle, d_attended, dx, dz_0, dz_1] =
                    deals.each_mut().map(|deal| deal.next(range.len()));
                Back {
                    first: range.start,
                    d_out: rows_of(d_out, &range, c),
                    middle: rows_of(kept.middle, &range, c),
                    stats: rows_of(kept.stats, &range, stats_width),
                    gate: rows_of(kept.gate, &range, gates),
                    up: rows_of(kept.up, &range, f),
                    ends: [0, 1].map(|i| rows_of(kept.ends[i], &range, widths[i].0)),
                    end_stats: [0, 1].map(|i| rows_of(kept.end_stats[i], &range, widths[i].1)),
                    normed,
                    product,
                    d_gate,
                    d_up,
                    d_middle,
                    d_attended,
                    dx,
                    dz: [dz_0, dz_1],
                }
            })
            .collect();
        upper.smalls = tasks
            .into_par_iter()
            .map_init(
                || (vec![T::ZERO; ROWS * c], vec![T::ZERO; ROWS * f]),
                |(d_normed, d_product), task| {
                    let (d_normed, d_product) = (&mut d_normed[..task.middle.len()], &mut d_product[..task.up.len()]);
                    let (mut small, [dz_0, dz_1]) = (Small::default(), task.dz);
                    let first = task.first;
                    exits[1].backward(
                        task.d_out,
                        task.ends[1],
                        task.end_stats[1],
                        dz_1,
                        task.d_middle,
                        first,
                        &mut small,
                    );
                    let dz = if exits[1].plain() { task.d_out } else { dz_1 };
                    linear_rows(dz, w_down, d_product, false);
                    activation::backward(kind, task.gate, task.up, d_product, task.d_gate, task.d_up, task.product);
                    small.push_bias(Part::GateBias, b_gate.as_deref(), task.d_gate);
                    small.push_bias(Part::UpBias, b_up.as_deref(), task.d_up);
                    if let Some(w_gate) = w_gate {
                        linear_rows(task.d_gate, w_gate, d_normed, false);
                    }
                    linear_rows(task.d_up, w_up, d_normed, w_gate.is_some());
                    match &norm {
                        Some(norm) => {
                            norm.norm().again(task.middle, task.stats, task.normed);
                            let grads = norm.norm().backward(task.middle, task.stats, d_normed, task.d_middle);
                            small.push_norm(Part::MlpNorm, Part::MlpNormBias, grads);
                        }
                        None => add_to(task.d_middle, d_normed),
                    }
                    exits[0].backward(task.d_middle, task.ends[0], task.end_stats[0], dz_0, task.dx, first, &mut small);
                    let dz = if exits[0].plain() { &*task.d_middle } else { dz_0 };
                    linear_rows(dz, w_o, task.d_attended, false);
                    small
                },
            )
            .collect();
        upper
    }
}
