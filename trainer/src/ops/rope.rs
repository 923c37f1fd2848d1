//! Rotary positions, in the half-split ("rotate_half") convention of Hugging Face's Llama.
//!
//! In: rows `[rows, heads * d]` and the position of each row. Out: the rows, the front of each head rotated in place;
//! backward is the transpose. Su et al. 2021; stretched wavelengths: Chen et al. 2023 (linear), Llama 3.1, Peng et al. 2023
//! (YaRN). Frequencies and angles are f32 as in `transformers`; cosines are correctly
//! rounded from f64, to f32 also where rows are f64: any table of cosines makes an exact rotation and its transpose.

use super::Scalar;
use super::simd::multiversion;
use crate::ModelConfig;
use crate::family::RopeScaling;

/// Wavelengths of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Wavelengths {
    /// Width of a head.
    pub d: usize,
    /// Angle per position of each rotated pair, `[rotated / 2]`.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub sharpness: f32,
}

impl Wavelengths {
    /// Unstretched, whole heads of width `d`.
    pub fn plain(theta: f64, d: usize) -> Self {
        Self { d, frequencies: frequencies(theta, d), sharpness: 1.0 }
    }

    /// Those of a model: of layers with a theta of their own if `local`.
    pub fn of(config: &ModelConfig, local: bool) -> Self {
        let (family, d) = (&config.family, config.head_dim());
        let rotated = family.rotary_dim(d);
        let theta = family.rope_local_theta.filter(|_| local);
        let mut frequencies = frequencies(theta.unwrap_or(config.rope_theta), rotated);
        let mut sharpness = 1.0;
        if theta.is_none() {
            let factor = family.rope_factor;
            let original = family.original_len(config.sequence_len);
            let (slow, fast) = (family.rope_slow_turns, family.fast_turns());
            // Share of the stretched frequency for each pair, 0 to 1.
            let share: Box<dyn Fn(usize, f64) -> f64> = match family.rope_scaling {
                RopeScaling::None => Box::new(|_, _| 0.0),
                RopeScaling::Linear => Box::new(|_, _| 1.0),
                RopeScaling::Llama3 => Box::new(move |_, frequency| {
                    let turns = original * frequency / std::f64::consts::TAU;
                    1.0 - ((turns - slow) / (fast - slow)).clamp(0.0, 1.0)
                }),
                RopeScaling::Yarn => {
                    sharpness = (0.1 * factor.ln() + 1.0) as f32;
                    let index = |turns: f64| {
                        let wavelength = original / (turns * std::f64::consts::TAU);
                        rotated as f64 * wavelength.ln() / (2.0 * config.rope_theta.ln())
                    };
                    let low = index(fast).floor().max(0.0);
                    let high = index(slow).ceil().min(rotated as f64 - 1.0);
                    let width = if high > low { high - low } else { 1e-3 };
                    Box::new(move |i, _| ((i as f64 - low) / width).clamp(0.0, 1.0))
                }
            };
            for (i, f) in frequencies.iter_mut().enumerate() {
                let wide = f64::from(*f);
                let share = share(i, wide);
                if share > 0.0 {
                    *f = (wide * (1.0 - share) + wide / factor * share) as f32;
                }
            }
        }
        Self { d, frequencies, sharpness }
    }
}

/// `1 / theta^(2 i / rotated)`.
fn frequencies(theta: f64, rotated: usize) -> Vec<f32> {
    (0..rotated / 2).map(|i| 1.0 / (theta.powf(f64::from((2 * i) as f32 / rotated as f32)) as f32)).collect()
}

/// Cosines and sines of the rows of one batch.
#[derive(Clone, Debug)]
pub struct Angles {
    d: usize,
    half: usize,
    cos: Vec<f32>,   // [entries, rotated / 2]
    sin: Vec<f32>,   // [entries, rotated / 2]
    entry: Vec<u32>, // [rows]
}

impl Angles {
    /// At these positions.
    pub fn new(wavelengths: &Wavelengths, positions: &[u32]) -> Self {
        let top = positions.iter().max().map_or(0, |&p| p as usize + 1);
        // A table by position if it is shorter than one by row; the numbers are the same.
        let table: Vec<u32> = if top <= positions.len() { (0..top as u32).collect() } else { positions.to_vec() };
        let entry = if top <= positions.len() { positions.to_vec() } else { (0..positions.len() as u32).collect() };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &p in &table {
            for f in &wavelengths.frequencies {
                let angle = f64::from(p as f32 * f);
                cos.push(angle.cos() as f32 * wavelengths.sharpness);
                sin.push(angle.sin() as f32 * wavelengths.sharpness);
            }
        }
        Self { d: wavelengths.d, half: wavelengths.frequencies.len(), cos, sin, entry }
    }

    /// Cosines and sines of row `row`, `[rotated / 2]` each.
    pub fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = self.entry[row] as usize * self.half..(self.entry[row] as usize + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Rotates rows `first..` in place: `x: [rows, heads * d]`.
    pub fn rotate<T: Scalar>(&self, x: &mut [T], width: usize, first: usize) {
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = self.row(first + i);
            turn(row, self.d, cos, sin, 1.0);
        }
    }

    /// Rotates back: the gradient of [`Self::rotate`].
    pub fn rotate_back<T: Scalar>(&self, x: &mut [T], width: usize, first: usize) {
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = self.row(first + i);
            turn(row, self.d, cos, sin, -1.0);
        }
    }
}

multiversion! {
    fn turn<T: Scalar>(row: &mut [T], d: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(d) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for i in 0..half {
                let (a, b, c, s) = (low[i], high[i], T::from(cos[i]), T::from(sin[i] * sign));
                low[i] = a * c - b * s;
                high[i] = b * c + a * s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    #[test]
    fn position_zero_is_the_identity_and_turning_back_undoes() {
        let angles = Angles::new(&Wavelengths::plain(10_000.0, 6), &[0, 5, 900_000]);
        let before: Vec<f32> = (0..36).map(|i| i as f32 * 0.1 - 1.0).collect();
        let mut x = before.clone();
        angles.rotate(&mut x, 12, 0);
        assert_eq!(x[..12], before[..12]);
        assert!((x[12] - before[12]).abs() > 1e-3);
        angles.rotate_back(&mut x, 12, 0);
        assert!(x.iter().zip(&before).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn scores_depend_on_the_distance_only() {
        let (q, k) = ([0.3_f32, -1.0, 0.7, 2.0], [1.1_f32, 0.4, -0.2, 0.5]);
        let score = |i: u32, j: u32| {
            let angles = Angles::new(&Wavelengths::plain(100.0, 4), &[i, j]);
            let (mut q, mut k) = (q, k);
            angles.rotate(&mut q, 4, 0);
            angles.rotate(&mut k, 4, 1);
            q.iter().zip(&k).map(|(a, b)| a * b).sum::<f32>()
        };
        assert!((score(7, 3) - score(104, 100)).abs() < 1e-5);
        assert!((score(7, 3) - score(3, 7)).abs() > 1e-3);
    }

    #[test]
    fn a_table_by_row_equals_a_table_by_position() {
        let by_row = Angles::new(&Wavelengths::plain(10_000.0, 8), &[3]);
        let by_position = Angles::new(&Wavelengths::plain(10_000.0, 8), &[0, 1, 2, 3]);
        assert_eq!(by_row.row(0), by_position.row(3));
    }

    fn config(family: Family) -> ModelConfig {
        ModelConfig {
            n_embd: 64,
            n_head: 2,
            rope_theta: 10_000.0,
            sequence_len: 8192,
            family,
            ..ModelConfig::default()
        }
    }

    #[test]
    fn only_the_front_of_a_head_is_rotated_and_the_transpose_undoes_the_scale() {
        let family = Family { rope_share: 0.3, rope_scaling: RopeScaling::Yarn, rope_factor: 8.0, ..Family::default() };
        let wavelengths = Wavelengths::of(&config(family), false);
        assert_eq!((wavelengths.d, wavelengths.frequencies.len()), (32, 4));
        assert!((wavelengths.sharpness - 1.207_944_2).abs() < 1e-6);
        let angles = Angles::new(&wavelengths, &[9]);
        let (x, dy): (Vec<f32>, Vec<f32>) = (0..64).map(|i| ((i as f32).sin(), (i as f32 * 0.7).cos())).unzip();
        let (mut y, mut dx) = (x.clone(), dy.clone());
        angles.rotate(&mut y, 64, 0);
        angles.rotate_back(&mut dx, 64, 0);
        assert_eq!((&y[8..32], &y[40..]), (&x[8..32], &x[40..]));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        assert!((dot(&y, &dy) - dot(&x, &dx)).abs() < 1e-5);
    }

    #[test]
    fn scaling_stretches_slow_wavelengths_in_full_and_fast_ones_not_at_all() {
        let plain = Wavelengths::of(&config(Family::default()), false).frequencies;
        for scaling in [RopeScaling::Linear, RopeScaling::Llama3, RopeScaling::Yarn] {
            let family = Family { rope_scaling: scaling, rope_factor: 4.0, ..Family::default() };
            let scaled = Wavelengths::of(&config(family), false).frequencies;
            let ratio = |i: usize| plain[i] / scaled[i];
            assert!((ratio(15) - 4.0).abs() < 1e-3, "{scaling:?}");
            assert!((ratio(0) - if scaling == RopeScaling::Linear { 4.0 } else { 1.0 }).abs() < 1e-3, "{scaling:?}");
            assert!((1..16).all(|i| ratio(i) >= ratio(i - 1) - 1e-3), "{scaling:?}");
        }
    }

    #[test]
    fn a_local_theta_is_used_unstretched() {
        let family = Family {
            rope_local_theta: Some(500.0),
            rope_scaling: RopeScaling::Linear,
            rope_factor: 8.0,
            layers: "SL".into(),
            window: Some(4),
            ..Family::default()
        };
        assert_eq!(Wavelengths::of(&config(family), true), Wavelengths::plain(500.0, 32));
    }
}
