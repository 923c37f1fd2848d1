//! Rotary positions, in the half-split ("rotate_half") convention of Hugging Face's Llama.
//!
//! In: rows `[rows, heads * d]` and the position of each row. Out: the rows, rotated in place; backward is the same
//! rotation the other way. Su et al. 2021. Frequencies and angles are f32 as in `transformers`; cosines are correctly
//! rounded from f64.

use super::simd::multiversion;

/// Cosines and sines of the rows of one batch.
#[derive(Clone, Debug)]
pub struct Angles {
    half: usize,
    cos: Vec<f32>,   // [entries, d / 2]
    sin: Vec<f32>,   // [entries, d / 2]
    entry: Vec<u32>, // [rows]
}

impl Angles {
    /// For heads of width `d` at these positions.
    pub fn new(theta: f64, d: usize, positions: &[u32]) -> Self {
        let half = d / 2;
        let frequency: Vec<f32> =
            (0..half).map(|i| 1.0 / (theta.powf(f64::from((2 * i) as f32 / d as f32)) as f32)).collect();
        let top = positions.iter().max().map_or(0, |&p| p as usize + 1);
        // A table by position if it is shorter than one by row; the numbers are the same.
        let table: Vec<u32> = if top <= positions.len() { (0..top as u32).collect() } else { positions.to_vec() };
        let entry = if top <= positions.len() { positions.to_vec() } else { (0..positions.len() as u32).collect() };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for &p in &table {
            for f in &frequency {
                let angle = f64::from(p as f32 * f);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Self { half, cos, sin, entry }
    }

    /// Cosines and sines of row `row`, `[d / 2]` each.
    pub fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let range = self.entry[row] as usize * self.half..(self.entry[row] as usize + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Rotates rows `first..` in place: `x: [rows, heads * d]`.
    pub fn rotate(&self, x: &mut [f32], width: usize, first: usize) {
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = self.row(first + i);
            turn(row, cos, sin, 1.0);
        }
    }

    /// Rotates back: the gradient of [`Self::rotate`].
    pub fn rotate_back(&self, x: &mut [f32], width: usize, first: usize) {
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            let (cos, sin) = self.row(first + i);
            turn(row, cos, sin, -1.0);
        }
    }
}

multiversion! {
    fn turn(row: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b, s) = (low[i], high[i], sin[i] * sign);
                low[i] = a * cos[i] - b * s;
                high[i] = b * cos[i] + a * s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_zero_is_the_identity_and_turning_back_undoes() {
        let angles = Angles::new(10_000.0, 6, &[0, 5, 900_000]);
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
            let angles = Angles::new(100.0, 4, &[i, j]);
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
        let by_row = Angles::new(10_000.0, 8, &[3]);
        let by_position = Angles::new(10_000.0, 8, &[0, 1, 2, 3]);
        assert_eq!(by_row.row(0), by_position.row(3));
    }
}
