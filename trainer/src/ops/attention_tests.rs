//! Attention against the plain formula in candle, and its promises about bits, for each kind: full, sliding, capped, scaled.

use super::attention::{Heads, KEYS, Kept, Page, Scratch, backward, forward, over_pages};
use crate::rng::Key;
use candle_core::{D, DType, Device, Tensor, Var};
use std::ops::Range;

/// One document that fills its row.
fn whole_row(t: usize) -> Vec<Vec<Range<usize>>> {
    vec![std::iter::once(0..t).collect()]
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    let key = Key::new(seed);
    (0..n as u64).map(|i| key.normal(i) as f32).collect()
}

/// softmax(cap(q k^T * scale) + mask) v, `[t, n_head * d]`, of one row.
fn plain(heads: Heads, t: usize, docs: &[Range<usize>], q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let split =
        |x: &Tensor, n: usize| x.reshape((t, n, heads.d)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
    let repeat = |x: Tensor| {
        let x = x.unsqueeze(1).unwrap().repeat((1, heads.group(), 1, 1)).unwrap();
        x.reshape((heads.n_head, t, heads.d)).unwrap()
    };
    let (q, k, v) = (split(q, heads.n_head), repeat(split(k, heads.n_kv_head)), repeat(split(v, heads.n_kv_head)));
    let start = |i: usize| docs.iter().find(|d| d.contains(&i)).unwrap().start;
    let seen = |i: usize, j: usize| j <= i && j >= start(i) && i - j < heads.window;
    let mask: Vec<f64> = (0..t * t).map(|x| if seen(x / t, x % t) { 0.0 } else { -1e9 }).collect();
    let mask = Tensor::from_vec(mask, (t, t), &Device::Cpu).unwrap();
    let mut scores = (q.matmul(&k.t().unwrap()).unwrap() * heads.scale).unwrap();
    if heads.softcap > 0.0 {
        let cap = heads.softcap;
        scores = ((scores / cap).unwrap().tanh().unwrap() * cap).unwrap();
    }
    let scores = scores.broadcast_add(&mask).unwrap();
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1).unwrap().detach()).unwrap().exp().unwrap();
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1).unwrap()).unwrap();
    p.matmul(&v).unwrap().transpose(0, 1).unwrap().reshape((t, heads.n_head * heads.d)).unwrap()
}

/// Relative to the length of `want`, or to `floor` times that of numbers of size 1: slopes of scores vanish where one key is seen.
fn close(name: &str, got: &[f32], want: &Tensor, floor: f64) {
    let want = want.flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let norm = want.iter().map(|x| x * x).sum::<f64>().sqrt();
    let diff = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt();
    assert!(
        got.len() == want.len() && diff <= 2e-6 * norm.max(floor * (want.len() as f64).sqrt()),
        "{name}: {diff} of {norm}"
    );
}

const CASES: [(usize, usize, usize, usize); 6] =
    [(1, 1, 1, 2), (5, 2, 1, 6), (64, 4, 2, 16), (65, 2, 2, 24), (130, 4, 2, 32), (200, 3, 1, 8)];

/// Every case with every kind of attention.
fn kinds() -> Vec<(usize, Heads)> {
    let kinds = |(t, n_head, n_kv_head, d): (usize, usize, usize, usize)| {
        let full = Heads::new(n_head, n_kv_head, d);
        let windows = [1, 7, 64, 65, 100].map(|window| Heads { window, ..full });
        let others = [full, Heads { softcap: 1.5, ..full }, Heads { scale: 0.3, window: 20, softcap: 0.7, ..full }];
        others.into_iter().chain(windows).map(move |heads| (t, heads))
    };
    CASES.into_iter().flat_map(kinds).collect()
}

fn documents(t: usize) -> Vec<Range<usize>> {
    if t > 100 { vec![0..3, 3..80, 80..t] } else { whole_row(t).remove(0) }
}

#[test]
fn forward_and_gradients_equal_candle_autograd_in_f64() {
    for (t, heads) in kinds() {
        let n_head = heads.n_head;
        let (qn, kn) = (t * heads.q_dim(), t * heads.kv_dim());
        let (q, k, v, d_out) = (numbers(qn, 1), numbers(kn, 2), numbers(kn, 3), numbers(qn, 4));
        let docs = [documents(t)];
        let (mut out, mut lse) = (vec![0.0; qn], vec![0.0; n_head * t]);
        forward(heads, t, &docs, &q, &k, &v, &mut out, &mut lse);
        let (mut dq, mut dk, mut dv) = (vec![0.0; qn], vec![0.0; kn], vec![0.0; kn]);
        let kept = Kept { q: &q, k: &k, v: &v, out: &out, logsumexp: &lse };
        backward(heads, t, &docs, kept, &d_out, &mut dq, &mut dk, &mut dv);

        let wide =
            |x: &[f32]| Tensor::from_slice(x, (t, x.len() / t), &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
        let var = |x: &[f32]| Var::from_tensor(&wide(x)).unwrap();
        let (tq, tk, tv) = (var(&q), var(&k), var(&v));
        let want = plain(heads, t, &docs[0], &tq, &tk, &tv);
        let grads = (&want * wide(&d_out)).unwrap().sum_all().unwrap().backward().unwrap();
        close("out", &out, &want, 0.05);
        close("dq", &dq, grads.get(&tq).unwrap(), 1.0);
        close("dk", &dk, grads.get(&tk).unwrap(), 1.0);
        close("dv", &dv, grads.get(&tv).unwrap(), 0.05);
    }
}

#[test]
fn a_query_over_pages_has_the_bits_of_the_query_in_the_full_row() {
    for (t, heads) in kinds() {
        let n_head = heads.n_head;
        let (qn, kn) = (t * heads.q_dim(), t * heads.kv_dim());
        let (q, k, v) = (numbers(qn, 1), numbers(kn, 2), numbers(kn, 3));
        let (mut out, mut lse) = (vec![0.0; qn], vec![0.0; n_head * t]);
        forward(heads, t, &whole_row(t), &q, &k, &v, &mut out, &mut lse);
        let mut pages: Vec<Page> = Vec::new();
        let mut scratch = Scratch::new(heads);
        let mut whole = vec![0.0; qn];
        for i in 0..t {
            if i % KEYS == 0 {
                pages.push(Page::new(heads));
            }
            let kv = i * heads.kv_dim()..(i + 1) * heads.kv_dim();
            pages.last_mut().unwrap().set(heads, i % KEYS, &k[kv.clone()], &v[kv]);
            let row = i * heads.q_dim()..(i + 1) * heads.q_dim();
            over_pages(heads, &mut scratch, &q[row.clone()], &pages.iter().collect::<Vec<_>>(), i, &mut whole[row]);
        }
        assert!(whole.iter().zip(&out).all(|(a, b)| a.to_bits() == b.to_bits()));
        let first = t / 3;
        let mut tail = vec![0.0; qn - first * heads.q_dim()];
        over_pages(
            heads,
            &mut scratch,
            &q[first * heads.q_dim()..],
            &pages.iter().collect::<Vec<_>>(),
            first,
            &mut tail,
        );
        assert_eq!(tail, out[first * heads.q_dim()..]);
    }
}

#[test]
fn a_query_sees_its_window_and_nothing_after_itself() {
    for window in [1, 5, 64, 90, usize::MAX] {
        let (t, heads) = (150, Heads { window, ..Heads::new(2, 1, 6) });
        let (q, mut k, mut v) = (numbers(t * 12, 1), numbers(t * 6, 2), numbers(t * 6, 3));
        let run = |k: &[f32], v: &[f32]| {
            let (mut out, mut lse) = (vec![0.0; t * 12], vec![0.0; 2 * t]);
            forward(heads, t, &whole_row(t), &q, k, v, &mut out, &mut lse);
            out
        };
        let before = run(&k, &v);
        let moved = 40;
        k[moved * 6..(moved + 1) * 6].fill(0.5);
        v[moved * 6..(moved + 1) * 6].fill(-0.5);
        let after = run(&k, &v);
        for i in 0..t {
            let same = before[i * 12..(i + 1) * 12] == after[i * 12..(i + 1) * 12];
            let sees = i >= moved && i - moved < window;
            assert_eq!(same, !sees, "window {window}, query {i}");
        }
    }
}

#[test]
fn a_document_has_the_same_bits_packed_behind_another_and_alone() {
    let heads = Heads::new(4, 2, 32);
    let t = 150;
    let (q, k, v) = (numbers(t * 128, 1), numbers(t * 64, 2), numbers(t * 64, 3));
    let (mut packed, mut lse) = (vec![0.0; t * 128], vec![0.0; 4 * t]);
    forward(heads, t, &[vec![0..37, 37..t]], &q, &k, &v, &mut packed, &mut lse);
    let n = t - 37;
    let (mut alone, mut lse) = (vec![0.0; n * 128], vec![0.0; 4 * n]);
    forward(heads, n, &whole_row(n), &q[37 * 128..], &k[37 * 64..], &v[37 * 64..], &mut alone, &mut lse);
    assert_eq!(packed[37 * 128..], alone);
}

#[test]
fn gradients_have_the_same_bits_at_1_and_3_threads() {
    let heads = Heads::new(4, 2, 16);
    let (b, t) = (3, 90);
    let (q, k, v, d_out) =
        (numbers(b * t * 64, 1), numbers(b * t * 32, 2), numbers(b * t * 32, 3), numbers(b * t * 64, 4));
    let docs = vec![vec![0..t], vec![0..50, 50..t], vec![0..t]];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut out, mut lse) = (vec![0.0; b * t * 64], vec![0.0; b * 4 * t]);
            forward(heads, t, &docs, &q, &k, &v, &mut out, &mut lse);
            let (mut dq, mut dk, mut dv) = (vec![0.0; b * t * 64], vec![0.0; b * t * 32], vec![0.0; b * t * 32]);
            let kept = Kept { q: &q, k: &k, v: &v, out: &out, logsumexp: &lse };
            backward(heads, t, &docs, kept, &d_out, &mut dq, &mut dk, &mut dv);
            (out, lse, dq, dk, dv)
        })
    };
    assert_eq!(run(1), run(3));
}
