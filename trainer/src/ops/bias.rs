//! Bias of a linear map: `y += b` per row, and its gradient, the sum of rows in order.

use super::Scalar;
use super::simd::multiversion;

multiversion! {
    /// `y[r] += b` for each row of `y: [rows, n]`, `b: [n]`.
    pub fn forward<T: Scalar>(b: &[T], y: &mut [T]) {
        for row in y.chunks_exact_mut(b.len()) {
            for (y, b) in row.iter_mut().zip(b) {
                *y += *b;
            }
        }
    }
}

multiversion! {
    /// Adds the rows of `dy: [rows, n]` to `db: [n]`, in order.
    pub fn backward<T: Scalar>(dy: &[T], db: &mut [T]) {
        for row in dy.chunks_exact(db.len()) {
            for (db, dy) in db.iter_mut().zip(row) {
                *db += *dy;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_bias_is_added_to_each_row_and_its_gradient_is_their_sum() {
        let mut y = [1.0, 2.0, 3.0, 4.0];
        super::forward(&[10.0, 20.0], &mut y);
        assert_eq!(y, [11.0, 22.0, 13.0, 24.0]);
        let mut db = [1.0, 0.0];
        super::backward(&y, &mut db);
        assert_eq!(db, [25.0, 46.0]);
        super::backward(&[], &mut db);
        assert_eq!(db, [25.0, 46.0]);
    }
}
