//! Optimizer state in 8 bits: dynamic quantisation by blocks of 256 numbers.
//!
//! In: state in f32 or f64. Out: one code per number and one scale per block, its largest magnitude; a number is scale times code
//! table. The tables hold -1 or 0 to 1 in seven decades, each with twice the steps of the one below (Dettmers et al.
//! 2021, "8-bit optimizers via block-wise quantization", section 1.3; `bitsandbytes.create_dynamic_map`). We differ in
//! one point: a positive second moment is never rounded to 0, since what is divided by its root would explode.

use crate::ops::Scalar;
use std::sync::LazyLock;

/// Numbers that share a scale.
pub const BLOCK: usize = 256;

/// 256 values in ascending order, the limits between neighbours, and where to begin looking.
pub struct Table {
    values: [f32; 256],
    /// `limits[i]` lies between values `i` and `i + 1`; the last is infinite.
    limits: [f32; 256],
    /// By the upper 16 bits of a number: the code of the least number that has them. No such range holds two limits.
    starts: Vec<u8>,
}

/// For running means of gradients: -1 to 1.
pub static SIGNED: LazyLock<Table> = LazyLock::new(|| Table::dynamic(true));
/// For running means of squares: 0 to 1.
pub static UNSIGNED: LazyLock<Table> = LazyLock::new(|| Table::dynamic(false));

impl Table {
    fn dynamic(signed: bool) -> Self {
        let mut list = vec![0.0_f64, 1.0];
        for decade in 0..7 {
            let steps = 1_usize << (decade + usize::from(!signed));
            for step in 0..steps {
                let mean = 0.1 + 0.9 * (step as f64 + 0.5) / steps as f64;
                let value = mean * 10.0_f64.powi(decade as i32 - 6);
                list.push(value);
                if signed {
                    list.push(-value);
                }
            }
        }
        list.sort_by(f64::total_cmp);
        let values: [f32; 256] = std::array::from_fn(|i| list[i] as f32);
        let limit = |i: usize| values.get(i + 1).map_or(f32::INFINITY, |next| 0.5 * (values[i] + next));
        let limits: [f32; 256] = std::array::from_fn(limit);
        // Of negative numbers the least has all lower bits set.
        let least = |upper: u32| f32::from_bits(upper << 16 | if upper >> 15 == 1 { 0xffff } else { 0 });
        let code = |upper: u32| limits.partition_point(|limit: &f32| *limit < least(upper)) as u8;
        Self { values, limits, starts: (0..1 << 16).map(code).collect() }
    }

    /// The values in ascending order.
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// Code of the nearest value; the smaller one of two equally near.
    #[inline(always)]
    fn nearest(&self, x: f32) -> u8 {
        let start = self.starts[(x.to_bits() >> 16) as usize];
        start + u8::from(self.limits[usize::from(start)] < x)
    }

    /// Numbers of codes and scales; block `i` starts at `256 i`.
    pub fn decode<T: Scalar>(&self, codes: &[u8], scales: &[f32], out: &mut [T]) {
        for ((codes, scale), out) in codes.chunks(BLOCK).zip(scales).zip(out.chunks_mut(BLOCK)) {
            for (code, out) in codes.iter().zip(out) {
                *out = T::from(self.values[usize::from(*code)] * scale);
            }
        }
    }

    /// Codes and scales of numbers. With `keep_positive` a number above 0 gets a code above that of 0.
    pub fn encode<T: Scalar>(&self, numbers: &[T], keep_positive: bool, codes: &mut [u8], scales: &mut [f32]) {
        for ((numbers, scale), codes) in numbers.chunks(BLOCK).zip(scales).zip(codes.chunks_mut(BLOCK)) {
            let numbers = || numbers.iter().map(|x| x.wide() as f32);
            *scale = numbers().fold(0.0, |most, x| if x.abs() > most { x.abs() } else { most });
            let over = if *scale > 0.0 { *scale } else { 1.0 };
            for (x, code) in numbers().zip(codes) {
                *code = self.nearest(x / over);
                if keep_positive && x > 0.0 && self.values[usize::from(*code)] == 0.0 {
                    *code += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    #[test]
    fn tables_ascend_and_hold_the_ends() {
        for (table, least) in [(&*SIGNED, -0.992_968_8_f32), (&*UNSIGNED, 0.0)] {
            assert!(table.values.is_sorted_by(|a, b| a < b));
            assert!((table.values[0] - least).abs() < 1e-6 && table.values[255] == 1.0);
            assert!(table.values.contains(&0.0));
        }
    }

    #[test]
    fn every_number_gets_the_nearest_value_and_every_value_its_own_code() {
        for table in [&*SIGNED, &*UNSIGNED] {
            for i in 0..=2000 {
                let x = i as f32 / 1000.0 - 1.0;
                let far = |v: &f32| (v - x).abs();
                let best = table.values.iter().map(far).fold(f32::MAX, f32::min);
                assert!(far(&table.values[usize::from(table.nearest(x))]) - best < 1e-7, "{x}");
            }
            for (code, value) in table.values.iter().enumerate() {
                assert_eq!(usize::from(table.nearest(*value)), code);
            }
        }
    }

    #[test]
    fn a_round_trip_is_near_in_each_block_and_a_second_one_changes_nothing() {
        let key = Key::new(4);
        let numbers: Vec<f32> =
            (0..1000).map(|i| (key.normal(i) * [1e-9, 1.0, 1e6, 0.0][i as usize / 256]) as f32).collect();
        let (mut codes, mut scales, mut back) = (vec![0; 1000], vec![0.0; 4], vec![0.0; 1000]);
        SIGNED.encode(&numbers, false, &mut codes, &mut scales);
        SIGNED.decode(&codes, &scales, &mut back);
        for (i, (a, b)) in numbers.iter().zip(&back).enumerate() {
            assert!((a - b).abs() <= 0.008 * scales[i / 256], "{i}: {a} {b}");
        }
        let (again, kept) = (codes.clone(), scales.clone());
        SIGNED.encode(&back, false, &mut codes, &mut scales);
        assert_eq!(codes, again);
        assert!(scales.iter().zip(kept).all(|(a, b)| (a - b).abs() <= 0.008 * b));
    }

    #[test]
    fn a_tiny_positive_number_stays_positive_if_asked() {
        let numbers = [1.0_f32, 1e-12, 0.0];
        let (mut codes, mut scales, mut back) = ([0; 3], [0.0], [0.0_f32; 3]);
        UNSIGNED.encode(&numbers, true, &mut codes, &mut scales);
        UNSIGNED.decode(&codes, &scales, &mut back);
        assert!(back[1] > 0.0 && back[2] == 0.0);
        UNSIGNED.encode(&numbers, false, &mut codes, &mut scales);
        assert_eq!(codes[1], 0);
    }
}
