//! Linear maps: `y = x W^T`, `dx = dy W` and `dW = dy^T x`, each with one fixed order of sums.
//!
//! In: rows of activations and a weight packed once per value ([`Packed`]). Out: rows, or the weight's gradient. The
//! inner dimension is cut into chunks of 512; an element is the sum over chunks, in order, of one fused multiply-add
//! chain each. So bits depend on neither the number of rows, nor threads, nor the split of the work.

use super::Scalar;
use super::gemm::{Left, PANEL, Right, TILE_ROWS, block};
use rayon::prelude::*;

/// Inner numbers per chunk of a sum; part of the definition of the result.
pub const INNER_CHUNK: usize = 512;
/// Rows that one task takes; not part of the result.
const TASK_ROWS: usize = 48;

/// A matrix `[k, n]` in panels of 16 columns: `[ceil(n / 16), k, 16]`, zero-padded.
#[derive(Clone, Debug)]
pub struct Packed<T = f32> {
    n: usize,
    k: usize,
    data: Vec<T>,
}

impl<T: Scalar> Packed<T> {
    /// From `w: [n, k]`, for `y = x w^T`.
    pub fn transposed(w: &[T], n: usize, k: usize) -> Self {
        assert_eq!(w.len(), n * k, "a weight is [n, k]");
        let mut data = vec![T::ZERO; n.div_ceil(PANEL) * k * PANEL];
        for (j, row) in w.chunks_exact(k).enumerate() {
            let panel = &mut data[j / PANEL * k * PANEL..];
            for (i, x) in row.iter().enumerate() {
                panel[i * PANEL + j % PANEL] = *x;
            }
        }
        Self { n, k, data }
    }

    /// From `w: [k, n]`, for `y = x w`.
    pub fn plain(w: &[T], k: usize, n: usize) -> Self {
        assert_eq!(w.len(), n * k, "a weight is [k, n]");
        let mut data = vec![T::ZERO; n.div_ceil(PANEL) * k * PANEL];
        pack_panels(w, n, 0..n, &mut data);
        Self { n, k, data }
    }

    /// Columns of the result.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    fn right(&self, column: usize, k: usize) -> Right<'_, T> {
        let data = &self.data[column / PANEL * self.k * PANEL + k * PANEL..];
        Right { data, panel: self.k * PANEL, step: PANEL }
    }
}

/// Copies columns `range` of rows of `n` numbers into panels `[., rows, 16]`.
fn pack_panels<T: Scalar>(rows: &[T], n: usize, range: std::ops::Range<usize>, out: &mut [T]) {
    let count = rows.len() / n;
    for (p, column) in range.clone().step_by(PANEL).enumerate() {
        let width = (range.end - column).min(PANEL);
        let panel = &mut out[p * count * PANEL..][..count * PANEL];
        for (row, out) in rows.chunks_exact(n).zip(panel.as_chunks_mut::<PANEL>().0) {
            if width == PANEL {
                out.copy_from_slice(&row[column..column + PANEL]);
            } else {
                out[..width].copy_from_slice(&row[column..column + width]);
                out[width..].fill(T::ZERO);
            }
        }
    }
}

/// `y = x w` (or `y += x w`) on this thread. `x: [rows, k]`, `y: [rows, n]`.
pub fn linear_rows<T: Scalar>(x: &[T], w: &Packed<T>, y: &mut [T], add: bool) {
    columns(x, w, 0..w.n, y, add);
}

/// Columns `range` (starting at a multiple of 16) of `x w` into `y: [rows, range.len()]`.
fn columns<T: Scalar>(x: &[T], w: &Packed<T>, range: std::ops::Range<usize>, y: &mut [T], add: bool) {
    let rows = x.len() / w.k;
    let cols = range.len();
    debug_assert_eq!(y.len(), rows * cols);
    for start in (0..w.k).step_by(INNER_CHUNK) {
        let k = INNER_CHUNK.min(w.k - start);
        let left = Left::rows(&x[start.min(x.len())..], w.k);
        block(rows, cols, k, left, w.right(range.start, start), y, cols, add || start > 0);
    }
}

/// `y = x w` on all threads. `x: [rows, k]`, `y: [rows, n]`.
pub fn linear<T: Scalar>(x: &[T], w: &Packed<T>, y: &mut [T]) {
    let rows = x.len() / w.k;
    assert_eq!((x.len(), y.len()), (rows * w.k, rows * w.n), "linear: x is [rows, k] and y is [rows, n]");
    let threads = rayon::current_num_threads();
    if threads == 1 || rows >= threads * TASK_ROWS || rows * w.k * w.n < 1 << 18 {
        let tasks = y.par_chunks_mut(TASK_ROWS * w.n).zip(x.par_chunks(TASK_ROWS * w.k));
        return tasks.for_each(|(y, x)| linear_rows(x, w, y, false));
    }
    let width = w.n.div_ceil(4 * threads).next_multiple_of(PANEL);
    let parts: Vec<Vec<T>> = (0..w.n)
        .into_par_iter()
        .step_by(width)
        .map(|start| {
            let range = start..(start + width).min(w.n);
            let mut part = vec![T::ZERO; rows * range.len()];
            columns(x, w, range, &mut part, false);
            part
        })
        .collect();
    for (p, part) in parts.iter().enumerate() {
        let cols = part.len() / rows;
        for (row, out) in part.chunks_exact(cols).zip(y.chunks_exact_mut(w.n)) {
            out[p * width..p * width + cols].copy_from_slice(row);
        }
    }
}

/// One weight gradient to compute: `dw += dy^T x`.
pub struct WeightGrad<'a, T = f32> {
    /// `[rows, out]`.
    pub dy: &'a [T],
    /// `[rows, in]`.
    pub x: &'a [T],
    /// `[out, in]`, added to.
    pub dw: &'a mut [T],
    /// Numbers per row of `dy`.
    pub out: usize,
    /// Numbers per row of `x`.
    pub inner: usize,
}

/// Adds the weight gradients of a layer, all at once so that every thread has work. Sums run over rows in order, in
/// chunks of 512.
pub fn weight_grads<T: Scalar>(jobs: Vec<WeightGrad<'_, T>>) {
    let work: usize = jobs.iter().map(|j| j.out * j.inner).sum();
    let per_task = (work / (2 * rayon::current_num_threads())).max(TILE_ROWS * 16);
    let tasks: Vec<_> = jobs
        .into_iter()
        .flat_map(|job| {
            let (dy, x, out, inner) = (job.dy, job.x, job.out, job.inner);
            let rows = per_task.div_ceil(inner).next_multiple_of(TILE_ROWS);
            let parts = job.dw.chunks_mut(rows * inner).enumerate();
            parts.map(move |(i, dw)| (dy, x, dw, out, inner, i * rows)).collect::<Vec<_>>()
        })
        .collect();
    tasks.into_par_iter().for_each(|(dy, x, dw, out, inner, first)| weight_rows(dy, x, dw, out, inner, first));
}

/// Rows `first..` of `dy^T x`, as many as fit `dw`.
fn weight_rows<T: Scalar>(dy: &[T], x: &[T], dw: &mut [T], out: usize, inner: usize, first: usize) {
    const GROUP: usize = 16 * PANEL; // columns packed at a time: 512 KiB
    let (rows, m) = (dy.len() / out, dw.len() / inner);
    let mut left = vec![T::ZERO; INNER_CHUNK.min(rows) * m.next_multiple_of(TILE_ROWS)];
    let mut right = vec![T::ZERO; INNER_CHUNK.min(rows) * inner.next_multiple_of(PANEL).min(GROUP)];
    for start in (0..rows).step_by(INNER_CHUNK) {
        let k = INNER_CHUNK.min(rows - start);
        pack_tiles(&dy[start * out..(start + k) * out], out, first, m, &mut left);
        let a = Left { data: &left, tile: k * TILE_ROWS, row: 1, step: TILE_ROWS };
        for column in (0..inner).step_by(GROUP) {
            let range = column..(column + GROUP).min(inner);
            let cols = range.len();
            pack_panels(&x[start * inner..(start + k) * inner], inner, range, &mut right);
            let b = Right { data: &right, panel: k * PANEL, step: PANEL };
            block(m, cols, k, a, b, &mut dw[column..], inner, true);
        }
    }
}

/// Columns `first..first + m` of rows of `n` numbers into tiles `[ceil(m / 6), rows, 6]`.
fn pack_tiles<T: Scalar>(rows: &[T], n: usize, first: usize, m: usize, out: &mut [T]) {
    let count = rows.len() / n;
    for t in 0..m.div_ceil(TILE_ROWS) {
        let column = first + t * TILE_ROWS;
        let width = (m - t * TILE_ROWS).min(TILE_ROWS);
        let tile = &mut out[t * count * TILE_ROWS..][..count * TILE_ROWS];
        for (row, out) in rows.chunks_exact(n).zip(tile.as_chunks_mut::<TILE_ROWS>().0) {
            if width == TILE_ROWS {
                out.copy_from_slice(&row[column..column + TILE_ROWS]);
            } else {
                out[..width].copy_from_slice(&row[column..column + width]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let key = crate::rng::Key::new(seed);
        (0..n as u64).map(|i| key.normal(i) as f32).collect()
    }

    fn tensor(data: &[f32], rows: usize, cols: usize) -> Tensor {
        Tensor::from_slice(data, (rows, cols), &Device::Cpu).unwrap()
    }

    fn close(got: &[f32], want: &Tensor) {
        let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let norm = want.iter().map(|x| x * x).sum::<f32>().sqrt();
        let diff = got.iter().zip(&want).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        assert!(got.len() == want.len() && diff <= 2e-6 * norm, "{diff} of {norm}");
    }

    #[test]
    fn forward_and_both_gradients_equal_plain_candle_at_odd_sizes() {
        for (rows, n, k) in [(1, 1, 1), (3, 17, 5), (70, 40, 33), (49, 100, 1030), (1100, 7, 19)] {
            let (x, w, dy) = (numbers(rows * k, 1), numbers(n * k, 2), numbers(rows * n, 3));
            let (tx, tw, tdy) = (tensor(&x, rows, k), tensor(&w, n, k), tensor(&dy, rows, n));
            let mut y = vec![0.0; rows * n];
            linear(&x, &Packed::transposed(&w, n, k), &mut y);
            close(&y, &tx.matmul(&tw.t().unwrap()).unwrap());
            let mut dx = vec![0.0; rows * k];
            linear(&dy, &Packed::plain(&w, n, k), &mut dx);
            close(&dx, &tdy.matmul(&tw).unwrap());
            let mut dw = vec![0.0; n * k];
            weight_grads(vec![WeightGrad { dy: &dy, x: &x, dw: &mut dw, out: n, inner: k }]);
            close(&dw, &tdy.t().unwrap().matmul(&tx).unwrap());
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_70_at_1_and_3_threads() {
        let (rows, n, k) = (70, 515, 700);
        let (x, w) = (numbers(rows * k, 1), Packed::transposed(&numbers(n * k, 2), n, k));
        let mut all = vec![0.0; rows * n];
        linear_rows(&x, &w, &mut all, false);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for count in 1..=rows {
                let mut some = vec![0.0; count * n];
                pool.install(|| linear(&x[..count * k], &w, &mut some));
                assert!(some.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()), "{count} rows");
            }
        }
    }

    #[test]
    fn weight_gradients_have_the_same_bits_at_1_and_3_threads() {
        let (rows, n, k) = (600, 45, 70);
        let (x, dy) = (numbers(rows * k, 1), numbers(rows * n, 2));
        let run = |threads| {
            let mut dw = vec![0.0; n * k];
            let job = || weight_grads(vec![WeightGrad { dy: &dy, x: &x, dw: &mut dw, out: n, inner: k }]);
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(job);
            dw
        };
        assert_eq!(run(1), run(3));
    }
}
