//! Ten steps of every rule in f64 against PyTorch and the published formula, and 8-bit tables against bitsandbytes.
//!
//! In: `tests/parity/optimizers`, made by `tests/parity/optimizers.py`. The rules are the ones that training runs, in f64; in
//! f32 they are held to their own f64.

use super::muon::{Muon, MuonScale};
use super::quantise::{SIGNED, Table, UNSIGNED};
use super::rules::{Adam, Lion, Sgd};
use crate::ops::Scalar;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::collections::BTreeMap;

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

const NAMES: [&str; 4] = ["wide", "tall", "square", "gain"];

fn read(file: &str) -> Vec<u8> {
    let path = format!("{}/../tests/parity/optimizers/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn tensors(case: &str) -> Tensors {
    let bytes = read(&format!("{case}.safetensors"));
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |dtype: Dtype, data: &[u8]| -> Vec<f64> {
        match dtype {
            Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
            Dtype::U8 => data.iter().map(|b| f64::from(*b)).collect(),
            other => panic!("{case} holds {other:?}"),
        }
    };
    parsed.iter().map(|(k, v)| (k.to_owned(), (v.shape().to_vec(), numbers(v.dtype(), v.data())))).collect()
}

fn facts(case: &str) -> Value {
    serde_json::from_slice(&read(&format!("{case}.json"))).unwrap()
}

fn number(facts: &Value, at: &str) -> f64 {
    facts.pointer(at).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {at}"))
}

/// State of one tensor: weights, two buffers.
struct State<T> {
    w: Vec<T>,
    m: Vec<T>,
    v: Vec<T>,
}

/// Largest relative distance of the weights after steps 1, 5 and 10 from the golden's; `update` gets (state, gradient,
/// learning rate, step from 1, rows, cols).
fn farthest<T: Scalar>(case: &str, mut update: impl FnMut(&mut State<T>, &[T], f64, f64, usize, usize)) -> f64 {
    let (problem, golden) = (tensors("problem"), tensors(case));
    let rates: Vec<f64> = facts("problem")["rates"].as_array().unwrap().iter().map(|r| r.as_f64().unwrap()).collect();
    let mut worst = 0.0_f64;
    for name in NAMES.iter().filter(|name| golden.contains_key(&format!("{name}.1"))) {
        let (shape, start) = &problem[&format!("start.{name}")];
        let (slope, pull) = (&problem[&format!("slope.{name}")].1, &problem[&format!("pull.{name}")].1);
        let n = start.len();
        let zeros = || vec![T::of(0.0); n];
        let mut state = State { w: start.iter().map(|x| T::of(*x)).collect(), m: zeros(), v: zeros() };
        for (step, lr) in rates.iter().enumerate() {
            let gradient = |i: usize| T::of(slope[i]) * state.w[i] + T::of(pull[step * n + i]);
            let g: Vec<T> = (0..n).map(gradient).collect();
            update(&mut state, &g, *lr, (step + 1) as f64, shape[0], n / shape[0]);
            if let Some((_, want)) = golden.get(&format!("{name}.{}", step + 1)) {
                let apart: f64 = state.w.iter().zip(want).map(|(a, b)| (a.wide() - b).powi(2)).sum();
                worst = worst.max((apart / want.iter().map(|x| x * x).sum::<f64>()).sqrt());
            }
        }
    }
    worst
}

/// The case in f64 and in f32.
fn check(case: &str, double: f64, single: f64, limit: f64) {
    println!("{case}: {double:.1e} in f64, {single:.1e} in f32");
    assert!(double <= 1e-12, "{case} in f64: {double:.1e}");
    assert!(single <= limit, "{case} in f32: {single:.1e}");
}

fn betas(facts: &Value) -> [f64; 2] {
    [number(facts, "/betas/0"), number(facts, "/betas/1")]
}

#[test]
fn ten_steps_of_adamw_follow_pytorch() {
    fn run<T: Scalar>(case: &str, decay: f64) -> f64 {
        let facts = facts(case);
        farthest::<T>(case, |s, g, lr, t, _, _| {
            Adam::new(1.0, lr * decay, betas(&facts), number(&facts, "/eps"), lr, t)
                .update(g, &mut s.w, &mut s.m, &mut s.v);
        })
    }
    for case in ["adamw", "adamw_slow"] {
        check(case, run::<f64>(case, 0.1), run::<f32>(case, 0.1), 1e-5);
        assert!(run::<f64>(case, 0.0) > 1e-3, "decay must show");
    }
}

#[test]
fn ten_steps_of_gradient_descent_follow_pytorch() {
    fn run<T: Scalar>(case: &str) -> f64 {
        let facts = facts(case);
        let (momentum, nesterov) = (number(&facts, "/momentum"), facts["nesterov"].as_bool().unwrap());
        farthest::<T>(case, |s, g, lr, _, _, _| {
            Sgd::new(1.0, lr * 0.1, momentum, nesterov, lr).update(g, &mut s.w, &mut s.m);
        })
    }
    for case in ["sgd", "sgd_momentum", "sgd_nesterov"] {
        check(case, run::<f64>(case), run::<f32>(case), 1e-5);
    }
}

#[test]
fn ten_steps_of_lion_follow_the_formula() {
    fn run<T: Scalar>() -> f64 {
        let facts = facts("lion");
        farthest::<T>("lion", |s, g, lr, _, _, _| {
            Lion::new(1.0, lr * 0.1, betas(&facts), lr).update(g, &mut s.w, &mut s.m);
        })
    }
    check("lion", run::<f64>(), run::<f32>(), 1e-5);
}

#[test]
fn ten_steps_of_muon_follow_pytorch() {
    fn rule(facts: &Value, scale: MuonScale, lr: f64) -> Muon {
        Muon {
            clip: 1.0,
            decay: lr * number(facts, "/weight_decay"),
            momentum: number(facts, "/momentum"),
            nesterov: facts["nesterov"].as_bool().unwrap(),
            iterations: number(facts, "/newton_schulz_steps") as u32,
            scale,
            lr,
        }
    }
    for (case, scale) in [("muon_spectral", MuonScale::Spectral), ("muon_adamw", MuonScale::Adamw)] {
        let facts = facts(case);
        let double = farthest::<f64>(case, |s, g, lr, _, rows, cols| {
            rule(&facts, scale, lr).update(g, &mut s.w, &mut s.m, rows, cols);
        });
        let single = farthest::<f32>(case, |s, g, lr, _, rows, cols| {
            rule(&facts, scale, lr).update(g, &mut s.w, &mut s.m, rows, cols);
        });
        check(case, double, single, 1e-4);
    }
}

#[test]
fn tables_and_scales_are_those_of_bitsandbytes_and_codes_the_nearest() {
    let golden = tensors("quantised");
    for (part, table, numbers) in [("signed", &*SIGNED, "numbers"), ("unsigned", &*UNSIGNED, "squares")] {
        let want = &golden[&format!("{part}.table")].1;
        assert!(table.values().iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-7), "{part}");
        let numbers: Vec<f32> = golden[numbers].1.iter().map(|x| *x as f32).collect();
        let (mut codes, mut scales) = (vec![0; numbers.len()], vec![0.0; 3]);
        Table::encode(table, &numbers, false, &mut codes, &mut scales);
        assert_eq!(scales.iter().map(|s| f64::from(*s)).collect::<Vec<_>>(), golden[&format!("{part}.scales")].1);
        let want = &golden[&format!("{part}.codes")].1;
        let other = codes.iter().zip(want).filter(|(a, b)| f64::from(**a) != **b).count();
        // A number within rounding of the middle between two values may go either way.
        assert!(other <= 2, "{part}: {other} of {} codes differ", codes.len());
    }
}
