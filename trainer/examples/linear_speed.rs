//! Speed of the fixed-order matrix products beside the `gemm` crate's: `cargo run --release -p trainer --example linear_speed`.
//!
//! Prints GFLOP/s on one thread, best of ten, for the shapes of the quickstart's model. Not a test.

use std::time::Instant;
use trainer::ops::linear::{Packed, WeightGrad, linear, weight_grads};
use trainer::rng::Key;

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let key = Key::new(seed);
    (0..n as u64).map(|i| key.normal(i) as f32).collect()
}

/// GFLOP/s of the best of ten runs.
fn best(flops: usize, mut run: impl FnMut()) -> f64 {
    let secs = (0..10).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    flops as f64 / secs.fold(f64::INFINITY, f64::min) * 1e-9
}

/// `c[m, n] = a[m, k] b[k, n]` by the `gemm` crate; strides are (column, row).
fn peer(m: usize, n: usize, k: usize, c: &mut [f32], a: (&[f32], isize, isize), b: (&[f32], isize, isize)) {
    // SAFETY: the callers' buffers hold m * n, m * k and k * n numbers in these strides.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.0.as_ptr(),
            a.1,
            a.2,
            b.0.as_ptr(),
            b.1,
            b.2,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

fn main() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("one thread");
    println!("rows    out  in     y = x W^T  (gemm)   dW = dy^T x  (gemm)   GFLOP/s");
    for (rows, out, inner) in [
        (1, 352, 128),
        (8, 352, 128),
        (48, 352, 128),
        (4096, 128, 128),
        (4096, 352, 128),
        (4096, 128, 352),
        (1024, 2048, 128),
        (1024, 1024, 1024),
    ] {
        let (x, w, dy) = (numbers(rows * inner, 1), numbers(out * inner, 2), numbers(rows * out, 3));
        let packed = Packed::transposed(&w, out, inner);
        let (mut y, mut dw) = (vec![0.0; rows * out], vec![0.0; out * inner]);
        let flops = 2 * rows * out * inner;
        let ours = pool.install(|| best(flops, || linear(&x, &packed, &mut y)));
        let ours_dw =
            pool.install(|| best(flops, || weight_grads(vec![WeightGrad { dy: &dy, x: &x, dw: &mut dw, out, inner }])));
        let (i, o) = (inner as isize, out as isize);
        let theirs = best(flops, || peer(rows, out, inner, &mut y, (&x, 1, i), (&w, i, 1)));
        let theirs_dw = best(flops, || peer(out, inner, rows, &mut dw, (&dy, o, 1), (&x, 1, i)));
        println!("{rows:<7} {out:<4} {inner:<5}  {ours:9.1} {theirs:8.1}  {ours_dw:12.1} {theirs_dw:8.1}");
    }
}
