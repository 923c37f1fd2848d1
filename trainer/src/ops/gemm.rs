//! The one matrix-multiplication kernel: 6 x 16 tiles of C, each element one chain of fused multiply-adds over k.
//!
//! In: A with any strides (its elements are broadcast), B in panels of 16 columns. Out: `C = A B` or `C += A B`.
//! An element of C is `fma(a[k-1], b[k-1], ... fma(a[0], b[0], 0))`, whatever the number of rows, columns or threads and
//! whichever build runs, so a row's bits do not depend on its batch. Splitting k into chunks and packing are the
//! caller's. Goto & van de Geijn 2008 for the tile scheme; 6 x 16 fills the 16 AVX2 registers.

use super::Scalar;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 6;
/// Columns of a panel.
pub(crate) const PANEL: usize = 16;

/// Left operand: element (r, k) is `data[(r / 6) * tile + (r % 6) * row + k * step]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a, T> {
    pub data: &'a [T],
    pub tile: usize,
    pub row: usize,
    pub step: usize,
}

impl<'a, T> Left<'a, T> {
    /// Rows of `row` numbers, one after the other.
    pub fn rows(data: &'a [T], row: usize) -> Self {
        Self { data, tile: TILE_ROWS * row, row, step: 1 }
    }

    /// The transpose of rows of `step` numbers.
    pub fn columns(data: &'a [T], step: usize) -> Self {
        Self { data, tile: TILE_ROWS, row: 1, step }
    }
}

/// Right operand: element (k, c) is `data[(c / 16) * panel + k * step + c % 16]`; panels are always whole.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a, T> {
    pub data: &'a [T],
    pub panel: usize,
    pub step: usize,
}

impl<'a, T> Right<'a, T> {
    /// Rows of `step` numbers (a multiple of 16), one after the other.
    pub fn rows(data: &'a [T], step: usize) -> Self {
        Self { data, panel: PANEL, step }
    }
}

/// `c[r * c_row + j] = (or +=) sum_k a(r, k) b(k, j)` for `rows` x `cols`.
#[allow(clippy::too_many_arguments)]
pub(crate) fn block<T: Scalar>(
    rows: usize,
    cols: usize,
    k: usize,
    a: Left<T>,
    b: Right<T>,
    c: &mut [T],
    c_row: usize,
    add: bool,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    let last_tile = (rows - 1) / TILE_ROWS;
    let last_panel = (cols - 1) / PANEL;
    let in_last = last_tile * a.tile + (rows - 1) % TILE_ROWS * a.row;
    let in_whole = last_tile.saturating_sub(1) * a.tile + (rows - 1).min(TILE_ROWS - 1) * a.row;
    assert!(k > 0 && in_last.max(in_whole) + (k - 1) * a.step < a.data.len(), "A is too short");
    assert!(last_panel * b.panel + (k - 1) * b.step + PANEL <= b.data.len(), "B is too short");
    assert!(cols <= c_row && (rows - 1) * c_row + cols <= c.len(), "C is too short");
    let (pa, pb, pc) = (a.data.as_ptr(), b.data.as_ptr(), c.as_mut_ptr());
    // SAFETY: the asserts above bound every index that the tiles' loops form.
    unsafe { T::tiles(rows, cols, k, (pa, a.tile, a.row, a.step), (pb, b.panel, b.step), (pc, c_row), add) }
}

/// Left operand: data, tile, row, step.
pub type A<T> = (*const T, usize, usize, usize);
/// Right operand: data, panel, step.
pub type B<T> = (*const T, usize, usize);
/// Result: data, numbers per row.
pub type C<T> = (*mut T, usize);

/// In f32: 16 AVX2 registers of sums, or the portable build with the same bits.
///
/// # Safety
/// All indices are in range.
#[inline(always)]
pub(super) unsafe fn tiles_f32(rows: usize, cols: usize, k: usize, a: A<f32>, b: B<f32>, c: C<f32>, add: bool) {
    // SAFETY: passed on; `has_fma` guards the AVX2 build.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if super::simd::has_fma() {
            return avx2::run(rows, cols, k, a, b, c, add);
        }
        portable::run(rows, cols, k, a, b, c, add);
    }
}

/// In f64: the portable build, with fused multiply-adds in hardware where there are any.
///
/// # Safety
/// All indices are in range.
pub(super) unsafe fn tiles_f64(rows: usize, cols: usize, k: usize, a: A<f64>, b: B<f64>, c: C<f64>, add: bool) {
    // SAFETY (callers): as above, and the CPU has the features.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn fast(rows: usize, cols: usize, k: usize, a: A<f64>, b: B<f64>, c: C<f64>, add: bool) {
        // SAFETY: passed on.
        unsafe { portable::run(rows, cols, k, a, b, c, add) }
    }
    // SAFETY: passed on; `has_fma` guards the fast build.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if super::simd::has_fma() {
            return fast(rows, cols, k, a, b, c, add);
        }
        portable::run(rows, cols, k, a, b, c, add);
    }
}

/// Loops over panels from column `$from` and over tiles; `tile` must be in scope.
macro_rules! walk_tiles {
    ($from:expr, $rows:ident, $cols:ident, $k:ident, $a:ident, $b:ident, $c:ident, $add:ident $(, $t:tt)?) => {
        for col in ($from..$cols).step_by(PANEL) {
            let b = $b.0.add(col / PANEL * $b.1);
            let width = ($cols - col).min(PANEL);
            for row in (0..$rows).step_by(TILE_ROWS) {
                let a = $a.0.add(row / TILE_ROWS * $a.1);
                let c = $c.0.add(row * $c.1 + col);
                match $rows - row {
                    1 => tile::<1 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                    2 => tile::<2 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                    3 => tile::<3 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                    4 => tile::<4 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                    5 => tile::<5 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                    _ => tile::<6 $(, $t)?>($k, (a, $a.2, $a.3), (b, $b.2), (c, $c.1), width, $add),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{A, B, C, PANEL, TILE_ROWS};
    use std::arch::x86_64::{
        __m256, _mm256_add_ps, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
        _mm256_storeu_ps,
    };

    // SAFETY (callers): indices in range as asserted in `block`; the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run(rows: usize, cols: usize, k: usize, a: A<f32>, b: B<f32>, c: C<f32>, add: bool) {
        // One or two rows alone would wait for each multiply-add: several panels at once keep the units busy.
        // SAFETY: passed on.
        unsafe {
            let wide = match rows {
                1 => panels::<1, 4>(cols, k, a, b, c, add),
                2 => panels::<2, 2>(cols, k, a, b, c, add),
                _ => 0,
            };
            walk_tiles!(wide, rows, cols, k, a, b, c, add)
        }
    }

    /// Whole groups of `P` panels of `M` rows; returns the first column that is left.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn panels<const M: usize, const P: usize>(
        cols: usize,
        k: usize,
        a: A<f32>,
        b: B<f32>,
        c: C<f32>,
        add: bool,
    ) -> usize {
        let end = cols - cols % (P * PANEL);
        for col in (0..end).step_by(P * PANEL) {
            // SAFETY: columns `col..col + P * 16` exist, all else is passed on.
            unsafe {
                let right = (b.0.add(col / PANEL * b.1), b.1, b.2);
                let acc = multiply::<M, P>(k, (a.0, a.2, a.3), right);
                for (m, acc) in acc.iter().enumerate() {
                    for (p, acc) in acc.iter().enumerate() {
                        store(acc, c.0.add(m * c.1 + col + p * PANEL), add);
                    }
                }
            }
        }
        end
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn tile<const M: usize>(
        k: usize,
        a: (*const f32, usize, usize),
        b: (*const f32, usize),
        c: (*mut f32, usize),
        width: usize,
        add: bool,
    ) {
        // SAFETY: the caller bounds all three operands; a partial panel of C goes through `spill`.
        unsafe {
            let acc = multiply::<M, 1>(k, a, (b.0, 0, b.1));
            if width == PANEL {
                for (m, [acc]) in acc.iter().enumerate() {
                    store(acc, c.0.add(m * c.1), add);
                }
                return;
            }
            let mut spill = [0.0_f32; PANEL];
            for (m, [acc]) in acc.iter().enumerate() {
                store(acc, spill.as_mut_ptr(), false);
                for (j, x) in spill.iter().enumerate().take(width) {
                    let out = c.0.add(m * c.1 + j);
                    *out = if add { *out + x } else { *x };
                }
            }
        }
    }

    /// Sixteen columns of one row.
    type Row = [__m256; 2];

    /// `M` rows of `P` panels, in registers.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn multiply<const M: usize, const P: usize>(
        k: usize,
        a: (*const f32, usize, usize),
        b: (*const f32, usize, usize),
    ) -> [[Row; P]; M] {
        let mut acc = [[[_mm256_setzero_ps(); 2]; P]; M];
        let (mut pa, mut pb) = (a.0, b.0);
        for _ in 0..k {
            for p in 0..P {
                // SAFETY: the caller bounds A and B; the last step's pointers are not read.
                unsafe {
                    let b0 = _mm256_loadu_ps(pb.add(p * b.1));
                    let b1 = _mm256_loadu_ps(pb.add(p * b.1 + 8));
                    for (m, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_broadcast_ss(&*pa.add(m * a.1));
                        acc[p][0] = _mm256_fmadd_ps(x, b0, acc[p][0]);
                        acc[p][1] = _mm256_fmadd_ps(x, b1, acc[p][1]);
                    }
                }
            }
            pa = pa.wrapping_add(a.2);
            pb = pb.wrapping_add(b.2);
        }
        acc
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn store(row: &Row, out: *mut f32, add: bool) {
        // SAFETY: the caller owns 16 numbers at `out`.
        unsafe {
            if add {
                _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), row[0]));
                _mm256_storeu_ps(out.add(8), _mm256_add_ps(_mm256_loadu_ps(out.add(8)), row[1]));
            } else {
                _mm256_storeu_ps(out, row[0]);
                _mm256_storeu_ps(out.add(8), row[1]);
            }
        }
    }
}

mod portable {
    use super::{A, B, C, PANEL, Scalar, TILE_ROWS};

    // SAFETY (callers): indices in range as asserted in `block`.
    #[inline(always)]
    pub(super) unsafe fn run<T: Scalar>(rows: usize, cols: usize, k: usize, a: A<T>, b: B<T>, c: C<T>, add: bool) {
        // SAFETY: passed on.
        unsafe { walk_tiles!(0, rows, cols, k, a, b, c, add, _) }
    }

    #[inline(always)]
    unsafe fn tile<const M: usize, T: Scalar>(
        k: usize,
        a: (*const T, usize, usize),
        b: (*const T, usize),
        c: (*mut T, usize),
        width: usize,
        add: bool,
    ) {
        // SAFETY: the caller bounds all three operands.
        unsafe {
            let mut acc = [[T::ZERO; PANEL]; M];
            for i in 0..k {
                let row = &*b.0.add(i * b.1).cast::<[T; PANEL]>();
                for (m, acc) in acc.iter_mut().enumerate() {
                    let x = *a.0.add(m * a.1 + i * a.2);
                    for j in 0..PANEL {
                        acc[j] = x.mul_add(row[j], acc[j]);
                    }
                }
            }
            for (m, acc) in acc.iter().enumerate() {
                for (j, x) in acc.iter().enumerate().take(width) {
                    let out = c.0.add(m * c.1 + j);
                    *out = if add { *out + *x } else { *x };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let key = crate::rng::Key::new(seed);
        (0..n as u64).map(|i| key.normal(i) as f32).collect()
    }

    #[test]
    fn portable_and_avx2_builds_give_the_bits_of_one_fma_chain() {
        for (rows, cols, k) in
            [(1_usize, 1_usize, 1_usize), (1, 150, 9), (2, 77, 20), (5, 17, 3), (6, 16, 33), (13, 40, 64), (70, 31, 7)]
        {
            let panels = cols.div_ceil(PANEL);
            let (a, b) = (numbers(rows * k, 1), numbers(panels * k * PANEL, 2));
            let right = Right { data: &b, panel: k * PANEL, step: PANEL };
            let mut fast = vec![0.0; rows * cols];
            block(rows, cols, k, Left::rows(&a, k), right, &mut fast, cols, false);
            let mut slow = vec![0.0; rows * cols];
            let (left, out) = ((a.as_ptr(), TILE_ROWS * k, k, 1), (slow.as_mut_ptr(), cols));
            // SAFETY: operands have exactly the sizes that the shapes need.
            unsafe { portable::run(rows, cols, k, left, (b.as_ptr(), k * PANEL, PANEL), out, false) };
            for r in 0..rows {
                for c in 0..cols {
                    let at = |i: usize| b[c / PANEL * k * PANEL + i * PANEL + c % PANEL];
                    let want = (0..k).fold(0.0_f32, |acc, i| a[r * k + i].mul_add(at(i), acc));
                    assert_eq!(want.to_bits(), fast[r * cols + c].to_bits());
                    assert_eq!(want.to_bits(), slow[r * cols + c].to_bits());
                }
            }
        }
    }
}
