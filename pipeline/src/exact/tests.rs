//! Exact statistics against Python's rationals (`tests/parity/exact_sums.py`), against 128-bit integers, and against themselves in any
//! order, cut and memory.

use super::{Exact, Statistic};
use crate::session::{block_on, session_of};
use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::datasource::MemTable;
use datafusion::physical_plan::{ExecutionPlan, collect};
use serde_json::Value;
use std::sync::Arc;

/// xorshift64*: numbers that are the same on every day.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.below(i + 1));
        }
    }

    /// A finite float of any size.
    fn float(&mut self) -> f64 {
        loop {
            let x = f64::from_bits(self.next());
            if x.is_finite() {
                return x;
            }
        }
    }
}

fn statistic(which: Statistic, rows: &[(f64, f64)]) -> Option<f64> {
    let terms = which.terms();
    let mut sums = vec![Exact::default(); terms.len()];
    for (x, y) in rows {
        for (sum, term) in sums.iter_mut().zip(terms) {
            match term {
                super::statistic::Term::X => sum.add(*x),
                super::statistic::Term::Y => sum.add(*y),
                super::statistic::Term::Xx => sum.add_product(*x, *x, 1),
                super::statistic::Term::Xy => sum.add_product(*x, *y, 1),
                super::statistic::Term::Yy => sum.add_product(*y, *y, 1),
            }
        }
    }
    which.value(rows.len() as u64, &sums)
}

#[test]
fn statistics_are_the_nearest_floats_to_the_rationals_of_python() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/parity/exact_sums.json");
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() >= 40);
    let bits = |v: &Value| f64::from_bits(u64::from_str_radix(v.as_str().unwrap(), 16).unwrap());
    let column = |v: &Value| v.as_array().unwrap().iter().map(bits).collect::<Vec<_>>();
    for case in &cases {
        let rows: Vec<(f64, f64)> = column(&case["x"]).into_iter().zip(column(&case["y"])).collect();
        for (key, which, ulps) in [
            ("sum", Statistic::Sum, 0),
            ("mean", Statistic::Mean, 0),
            ("var", Statistic::Variance { sample: true }, 0),
            ("var_pop", Statistic::Variance { sample: false }, 0),
            ("covar", Statistic::Covariance { sample: true }, 0),
            ("covar_pop", Statistic::Covariance { sample: false }, 0),
            ("stddev", Statistic::Deviation { sample: true }, 2),
            ("corr", Statistic::Correlation, 2),
        ] {
            let (found, wanted) = (statistic(which, &rows), case.get(key).map(bits));
            let near = match (found, wanted) {
                (Some(a), Some(b)) => (a.to_bits() as i64).abs_diff(b.to_bits() as i64) <= ulps,
                (None, None) => true,
                _ => false,
            };
            assert!(near, "{key} of {}: {found:?}, expected {wanted:?}", case["name"]);
        }
    }
}

#[test]
fn sums_agree_with_integers_of_128_bits() {
    let mut random = Random(5);
    for round in 0..500 {
        let count = 1 + random.below(3000);
        let width = 1 + random.below(53);
        let whole: Vec<i64> = (0..count)
            .map(|_| {
                let n = (random.next() >> (64 - width)) as i64;
                (if random.next().is_multiple_of(2) { n } else { -n })
                    << random.below(60 - width.min(59) + 1).min(63 - width)
            })
            .filter(|n| (*n as f64) as i64 == *n)
            .collect();
        let values: Vec<f64> = whole.iter().map(|n| *n as f64 / 1024.0).collect();
        let wanted = whole.iter().map(|n| i128::from(*n)).sum::<i128>() as f64 / 1024.0;
        let (mut one, mut all) = (Exact::default(), Exact::default());
        values.iter().for_each(|x| one.add(*x));
        all.add_all(&values);
        assert_eq!((one.value().to_bits(), all.value().to_bits()), (wanted.to_bits(), wanted.to_bits()), "{round}");
    }
}

#[test]
fn any_order_and_any_cut_gives_the_same_bits_and_what_was_added_can_be_taken_away() {
    let mut random = Random(11);
    for round in 0..300 {
        let mut values: Vec<f64> = (0..random.below(200)).map(|_| random.float()).collect();
        if round % 3 == 0 {
            let mirrored: Vec<f64> = values.iter().map(|x| -x).collect();
            values.extend(mirrored);
        }
        let mut whole = Exact::default();
        whole.add_all(&values);
        let wanted = whole.value();
        if round % 3 == 0 {
            assert_eq!(wanted.to_bits(), 0);
        }
        random.shuffle(&mut values);
        let mut parts = vec![Exact::default(); 1 + random.below(7)];
        for x in &values {
            let at = random.below(parts.len());
            parts[at].add(*x);
        }
        let mut joined = Exact::default();
        for part in &mut parts {
            let mut bytes = Vec::new();
            part.write(&mut bytes);
            let mut rest = &bytes[..];
            joined.merge(&Exact::read(&mut rest).unwrap());
            assert!(rest.is_empty());
        }
        assert_eq!(joined.value().to_bits(), wanted.to_bits(), "{round}");
        values.iter().for_each(|x| joined.subtract(*x));
        assert_eq!(joined.value().to_bits(), 0, "{round}");
    }
}

#[test]
fn thousands_of_carries_are_put_off_and_made() {
    let mut sum = Exact::default();
    (0..10_000).for_each(|_| sum.add(-f64::MAX));
    assert_eq!(sum.value(), f64::NEG_INFINITY);
    (0..9_999).for_each(|_| sum.add(f64::MAX));
    assert_eq!(sum.value(), -f64::MAX);
    let mut squares = Exact::default();
    (0..5_000).for_each(|i| squares.add_product(f64::MAX, f64::MAX * [1.0, -1.0][i % 2], 1));
    squares.add_product(5e-324, 5e-324, 1);
    assert_eq!(squares.big(2 * super::LOWEST).unwrap().scaled(), (1.0, -2148));
}

#[test]
fn what_is_no_number_says_so_and_can_be_taken_away_again() {
    let (nan, up, down) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    for (values, wanted) in [
        (vec![1.0, nan], nan),
        (vec![up, 1.0], up),
        (vec![down], down),
        (vec![up, 2.0, down], nan),
        (vec![up, nan], nan),
    ] {
        let mut sum = Exact::default();
        values.iter().for_each(|x| sum.add(*x));
        let mut all = Exact::default();
        all.add_all(&values);
        let mut bytes = Vec::new();
        sum.write(&mut bytes);
        let read = Exact::read(&mut &bytes[..]).unwrap();
        for found in [sum.value(), all.value(), read.value()] {
            assert!(found == wanted || (found.is_nan() && wanted.is_nan()), "{values:?}: {found}");
        }
        values.iter().filter(|x| !x.is_finite()).for_each(|x| sum.subtract(*x));
        assert!(sum.value().is_finite());
    }
    let rows = [(1.0, 2.0), (up, 1.0)];
    assert!(statistic(Statistic::Variance { sample: true }, &rows).unwrap().is_nan());
    assert!(statistic(Statistic::Correlation, &rows).unwrap().is_nan());
    assert_eq!(statistic(Statistic::Correlation, &rows[..1]), None);
    assert_eq!(statistic(Statistic::Correlation, &[(1.0, 2.0), (1.0, 3.0)]), None);
    assert_eq!(statistic(Statistic::Sum, &[]), None);
    assert!(Exact::read(&mut &[0, 2, 0, 1][..]).is_none());
}

const QUERY: &str = "SELECT g, sum(x), avg(x), var(x), var_pop(x), stddev(x), stddev_pop(x), covar_samp(x, y), covar_pop(y, x), \
     corr(x, y), sum(x) FILTER (WHERE y > 0), sum(DISTINCT x), avg(DISTINCT round(y)), sum(f), sum(k), avg(k), min(x), max(y) \
     FROM (SELECT *, CAST(x AS FLOAT) AS f FROM t) GROUP BY g ORDER BY g";

/// How often a plan's operators spilled.
fn spills(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let own = plan.metrics().and_then(|m| m.spill_count()).unwrap_or_default();
    own + plan.children().into_iter().map(spills).sum::<usize>()
}

/// What a query gives over these rows, as text with all digits.
fn answer(
    query: &str,
    rows: &[(i64, Option<f64>, Option<f64>)],
    cut: usize,
    partitions: usize,
    memory: Option<u64>,
) -> String {
    let batches: Vec<Vec<RecordBatch>> = rows
        .chunks(rows.len().div_ceil(partitions))
        .map(|part| {
            let batch = |rows: &[(i64, Option<f64>, Option<f64>)]| {
                let g: ArrayRef = Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int64Array>());
                let x: ArrayRef = Arc::new(rows.iter().map(|r| r.1).collect::<Float64Array>());
                let y: ArrayRef = Arc::new(rows.iter().map(|r| r.2).collect::<Float64Array>());
                let k: ArrayRef = Arc::new(rows.iter().map(|r| r.2.map(|y| (y * 7.0) as i64)).collect::<Int64Array>());
                RecordBatch::try_from_iter_with_nullable([
                    ("g", g, true),
                    ("x", x, true),
                    ("y", y, true),
                    ("k", k, true),
                ])
                .unwrap()
            };
            part.chunks(cut).map(batch).collect()
        })
        .collect();
    let spill = tempfile::tempdir().unwrap();
    let session = session_of(memory, Some(spill.path()), partitions, cut).unwrap();
    let table = MemTable::try_new(batches[0][0].schema(), batches).unwrap();
    session.register_table("t", Arc::new(table)).unwrap();
    let (plan, found) = block_on(async {
        let plan = session.sql(query).await.unwrap().create_physical_plan().await.unwrap();
        let found = collect(plan.clone(), session.task_ctx()).await.unwrap();
        (plan, found)
    });
    assert!(memory.is_none() || spills(&plan) > 0, "nothing spilled at {memory:?} bytes");
    let mut lines = Vec::new();
    for batch in found {
        for i in 0..batch.num_rows() {
            let cell = |c: &ArrayRef| match c.as_primitive_opt::<Float64Type>() {
                _ if c.is_null(i) => "null".into(),
                Some(floats) => format!("{:?} {:016x}", floats.value(i), floats.value(i).to_bits()),
                None => datafusion::arrow::util::display::array_value_to_string(c, i).unwrap(),
            };
            lines.push(batch.columns().iter().map(cell).collect::<Vec<String>>().join(" | "));
        }
    }
    lines.join("\n")
}

fn rows(random: &mut Random, count: usize, groups: usize) -> Vec<(i64, Option<f64>, Option<f64>)> {
    let value = |random: &mut Random| {
        let x = (random.next() >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
        let x = x * 10f64.powi(random.below(20) as i32 - 10);
        (random.below(20) > 0).then_some(if random.below(9) == 0 { x.round() } else { x })
    };
    (0..count).map(|_| (random.below(groups) as i64, value(random), value(random))).collect()
}

#[test]
fn queries_give_the_same_bits_for_any_order_partitions_batches_and_memory() {
    let mut random = Random(23);
    let mut rows = rows(&mut random, 20_000, 6000);
    let wanted = answer(QUERY, &rows, 1024, 1, None);
    assert!(wanted.lines().count() > 5000);
    let ungrouped = QUERY.replace("SELECT g,", "SELECT").replace("GROUP BY g ORDER BY g", "");
    let whole = answer(&ungrouped, &rows, 1024, 1, None);
    for (partitions, cut, memory) in [(1, 333, None), (7, 1024, None), (3, 100, None), (1, 512, Some(10 << 20))] {
        random.shuffle(&mut rows);
        assert_eq!(answer(QUERY, &rows, cut, partitions, memory), wanted, "{partitions} partitions");
        assert_eq!(answer(&ungrouped, &rows, cut, partitions, None), whole, "{partitions} partitions");
    }
}

#[test]
fn extremes_have_one_order_for_zeros_and_what_is_no_number() {
    let mut random = Random(41);
    let values = [f64::NAN, -f64::NAN, 0.0, -0.0, 1.0, -2.5, f64::INFINITY, f64::NEG_INFINITY];
    let mut rows: Vec<_> = (0..400).map(|i| (i / 4, Some(values[random.below(8)]), None)).collect();
    rows.push((100, Some(-0.0), None));
    rows.push((100, Some(0.0), None));
    rows.push((101, Some(f64::NAN), None));
    rows.push((101, Some(7.0), None));
    let query = "SELECT g, min(x), max(x), CAST(min(f) AS DOUBLE) AS narrow FROM (SELECT *, CAST(x AS FLOAT) AS f FROM t) GROUP BY g ORDER BY g";
    let wanted = answer(query, &rows, 1024, 1, None);
    assert!(wanted.contains("100 | -0.0 8000000000000000 | 0.0 0000000000000000 | -0.0 8000000000000000"), "{wanted}");
    assert!(wanted.contains("101 | 7.0 401c000000000000 | NaN 7ff8000000000000 | 7.0 401c000000000000"), "{wanted}");
    for partitions in [1, 1, 3, 7] {
        random.shuffle(&mut rows);
        assert_eq!(answer(query, &rows, 50, partitions, None), wanted);
    }
}

#[test]
fn windows_that_slide_give_the_bits_of_their_rows() {
    let mut random = Random(31);
    let mut rows = rows(&mut random, 500, 400);
    for (i, row) in rows.iter_mut().enumerate() {
        row.0 = i as i64;
    }
    let query = "SELECT g, sum(x) OVER (ORDER BY g ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS a, \
                 stddev(x) OVER (ORDER BY g ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS b FROM t ORDER BY g";
    let found = answer(query, &rows, 64, 1, None);
    for (i, line) in found.lines().enumerate() {
        let frame: Vec<(f64, f64)> = rows[i.saturating_sub(9)..=i].iter().filter_map(|r| Some((r.1?, 0.0))).collect();
        let cell = |which| statistic(which, &frame).map_or("null".into(), |x| format!("{x:?} {:016x}", x.to_bits()));
        let wanted = format!("{i} | {} | {}", cell(Statistic::Sum), cell(Statistic::Deviation { sample: true }));
        assert_eq!(line, wanted);
    }
}
