//! Embedding: a row of the table per id, and the scatter-add back.
//!
//! In: ids `[rows]` and a table `[vocab, c]`. Out: rows `[rows, c]`; backward adds each row's gradient to its id's row of
//! the table, in row order, whatever the split of the work.

use super::Scalar;
use rayon::prelude::*;

/// `out[r] = table[ids[r]]`.
pub fn forward<T: Scalar>(table: &[T], ids: &[u32], c: usize, out: &mut [T]) {
    for (row, &id) in out.chunks_exact_mut(c).zip(ids) {
        row.copy_from_slice(&table[id as usize * c..(id as usize + 1) * c]);
    }
}

/// Sines and cosines of a position in turn, `[c]`, of wavelengths from 2 pi to `2 pi theta`. Vaswani et al. 2017,
/// section 3.5.
pub fn sinusoid<T: Scalar>(theta: f64, position: u32, out: &mut [T]) {
    let c = out.len();
    for (i, x) in out.iter_mut().enumerate() {
        let angle = f64::from(position) / theta.powf((i / 2 * 2) as f64 / c as f64);
        *x = T::of(if i % 2 == 0 { angle.sin() } else { angle.cos() });
    }
}

/// `d_table[ids[r]] += dy[r]`, rows in order.
pub fn backward<T: Scalar>(dy: &[T], ids: &[u32], c: usize, d_table: &mut [T]) {
    let part = (d_table.len() / c).div_ceil(4 * rayon::current_num_threads()).max(1);
    d_table.par_chunks_mut(part * c).enumerate().for_each(|(p, table)| {
        let range = p * part..p * part + table.len() / c;
        for (row, &id) in dy.chunks_exact(c).zip(ids) {
            if range.contains(&(id as usize)) {
                let at = (id as usize - range.start) * c;
                for (t, d) in table[at..at + c].iter_mut().zip(row) {
                    *t += *d;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_gathered_and_repeated_ids_add_up() {
        let table = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut out = [0.0; 6];
        forward(&table, &[2, 0, 2], 2, &mut out);
        assert_eq!(out, [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        let mut grad = [0.0; 6];
        backward(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 0, 2], 2, &mut grad);
        assert_eq!(grad, [3.0, 4.0, 0.0, 0.0, 6.0, 8.0]);
    }

    #[test]
    fn sinusoids_have_the_papers_wavelengths() {
        let mut row = [0.0_f32; 4];
        sinusoid(10_000.0, 3, &mut row);
        let want = [3.0_f64.sin(), 3.0_f64.cos(), 0.03_f64.sin(), 0.03_f64.cos()];
        assert!(row.iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7), "{row:?}");
    }

    #[test]
    fn no_rows_change_nothing() {
        let mut grad = [1.0; 4];
        backward(&[], &[], 2, &mut grad);
        assert_eq!(grad, [1.0; 4]);
    }
}
