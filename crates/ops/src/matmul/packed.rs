//! Products with one matrix again and again: a recurrent weight meets a batch at every time step, so it is laid out for the registers
//! once and then only streamed. Refuses to lay out the other factor, which has few rows and stays in the second-level cache.
//!
//! out\[m,n\] (+)= Σ_k a\[m,k\]·b\[k,n\]. A block of b's columns is cut into panels of three vectors, each `[K, 3·lanes]` and contiguous;
//! a tile of some rows of `a` and one panel is summed in registers over at most `DEPTH` k at a time, in ascending order. A panel and
//! some rows are a task: the panel is read once from memory and stays in the second-level cache while the rows pass.

use super::{Matrix, MatrixMut};
use crate::aligned::AlignedBuffer;
use crate::images::Write;
use crate::matrix::tile;
use crate::profile::{self, Work};
use crate::shared::Shared;
use crate::simd::{InstructionSet, Kernel, Lanes};
use rayon::prelude::*;
use std::ops::Range;

/// Vectors of a panel's row; with four rows of `a` they fill 16 registers, with eight 32.
const PANEL: usize = 3;
/// Rows of `a` of a task: enough to make up for reading the panel, few enough for tasks to go into any number of threads.
const ROWS: usize = 128;
/// Rows of a panel between two visits to the output.
const DEPTH: usize = 1024;

/// A matrix `[K, blocks·columns]` laid out for [`multiply_packed`]: equal blocks of columns side by side. Zeros at first.
pub struct Packed {
    data: AlignedBuffer,
    set: InstructionSet,
    rows: usize,
    columns: usize,
    blocks: usize,
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({}×{}·{})", self.rows, self.blocks, self.columns)
    }
}

impl Packed {
    /// Room for a matrix of `rows` rows and `blocks` blocks of `columns` columns, on the selected instruction set.
    pub fn new(rows: usize, columns: usize, blocks: usize) -> Self {
        Self::new_on(InstructionSet::selected(), rows, columns, blocks)
    }

    fn new_on(set: InstructionSet, rows: usize, columns: usize, blocks: usize) -> Self {
        let panels = columns.div_ceil(set.run(PanelWidth));
        let data = AlignedBuffer::zeroed(rows * panels * set.run(PanelWidth) * blocks);
        Self { data, set, rows, columns, blocks }
    }

    /// Floats that [`Packed::new`] asks for.
    pub fn floats(rows: usize, columns: usize, blocks: usize) -> usize {
        let width = InstructionSet::selected().run(PanelWidth);
        rows * columns.div_ceil(width) * width * blocks
    }

    /// Copies `matrix` into block `block`, its first row becoming row `first_row` (overwritten; the rest stays).
    ///
    /// # Panics
    /// If the block has not so many rows and columns.
    pub fn pack(&mut self, block: usize, first_row: usize, matrix: Matrix) {
        let place = matrix.place;
        assert!(
            block < self.blocks && first_row + place.rows <= self.rows && place.columns == self.columns,
            "Packed::pack: {}×{} at row {first_row} of block {block} of {self:?}",
            place.rows,
            place.columns
        );
        let width = self.set.run(PanelWidth);
        let panel_len = self.rows * width;
        let len = self.columns.div_ceil(width) * panel_len;
        let data = &mut self.data.as_mut_slice()[block * len..(block + 1) * len];
        data.par_chunks_mut(panel_len.max(1)).enumerate().for_each(|(panel, data)| {
            let columns = panel * width..self.columns.min((panel + 1) * width);
            let rows = data[first_row * width..].chunks_exact_mut(width).take(place.rows);
            for (row, values) in rows.enumerate() {
                let start = row * place.row_stride + columns.start * place.column_stride;
                let from = matrix.data[start..].iter().step_by(place.column_stride.max(1));
                values.iter_mut().zip(from).take(columns.len()).for_each(|(to, &from)| *to = from);
            }
        });
    }
}

/// out (+)= a·b with the rows `rows` of the blocks `blocks` of b, as `write` says, on all threads of the current pool. Results are the
/// same bits for any number of them.
///
/// # Shapes
/// `a` \[M, rows\], `out` \[M, blocks·columns\].
///
/// # Panics
/// If the shapes do not fit each other.
pub fn multiply_packed(a: Matrix, b: &Packed, rows: Range<usize>, blocks: Range<usize>, out: MatrixMut, write: Write) {
    let (m, k, n) = (a.place.rows, rows.len(), blocks.len() * b.columns);
    assert!(
        rows.end <= b.rows && blocks.end <= b.blocks && a.place.columns == k && a.place.column_stride == 1,
        "multiply_packed: {:?} times rows {rows:?} of blocks {blocks:?} of {b:?}",
        a.place
    );
    assert!(out.place.rows == m && out.place.columns == n, "multiply_packed: {m}×{n} into {:?}", out.place);
    if m == 0 || n == 0 {
        return;
    }
    let _span = profile::span("matmul, packed", || Work { flops: 2 * m * k * n, floats: m * k + k * n + m * n });
    let width = b.set.run(PanelWidth);
    let panels = b.columns.div_ceil(width);
    let shared = Shared::new(out.data);
    let panel_len = b.rows * width;
    let parts = m.div_ceil(ROWS);
    (0..blocks.len() * panels * parts).into_par_iter().for_each(|task| {
        let (panel, part) = (task / parts, task % parts);
        let (block, column) = (panel / panels, panel % panels * width);
        b.set.run(Product {
            a,
            rows_of_a: part * ROWS..m.min((part + 1) * ROWS),
            panel: &b.data.as_slice()[(blocks.start * panels + panel) * panel_len..][..panel_len],
            rows: rows.clone(),
            out: shared,
            out_start: block * b.columns + column,
            out_stride: out.place.row_stride,
            columns: width.min(b.columns - column),
            accumulate: write == Write::Accumulate,
        });
    });
}

/// Floats in a row of a panel.
struct PanelWidth;

impl Kernel for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> usize {
        PANEL * L::LANES
    }
}

/// One panel and some rows.
struct Product<'a> {
    a: Matrix<'a>,
    rows_of_a: Range<usize>,
    panel: &'a [f32],
    /// The rows of b that `a` meets.
    rows: Range<usize>,
    out: Shared<'a, f32>,
    /// Where the panel's first column stands in a row of `out`.
    out_start: usize,
    out_stride: usize,
    /// Columns of the panel that are there.
    columns: usize,
    accumulate: bool,
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let mut depth = self.rows.start;
        // At least once: a sum over no k is 0.
        loop {
            let here = depth..self.rows.end.min(depth + DEPTH);
            let mut row = self.rows_of_a.start;
            while row < self.rows_of_a.end {
                row += match (self.rows_of_a.end - row, self.columns.div_ceil(L::LANES)) {
                    (8.., PANEL) if L::MANY_REGISTERS => self.some::<L, 8, PANEL>(lanes, row, here.clone()),
                    (8.., 2) if L::MANY_REGISTERS => self.some::<L, 8, 2>(lanes, row, here.clone()),
                    (8.., _) if L::MANY_REGISTERS => self.some::<L, 8, 1>(lanes, row, here.clone()),
                    (4.., PANEL) => self.some::<L, 4, PANEL>(lanes, row, here.clone()),
                    (4.., _) => self.some::<L, 4, 2>(lanes, row, here.clone()),
                    _ => self.some::<L, 1, PANEL>(lanes, row, here.clone()),
                };
            }
            depth = here.end;
            if depth >= self.rows.end {
                return;
            }
        }
    }
}

impl Product<'_> {
    /// `R` rows and `V` vectors of the output from `row` on: the sum over the rows `depth` of b, added to what stands there unless
    /// it is the first of an overwritten output. Returns `R`.
    #[inline(always)]
    fn some<L: Lanes, const R: usize, const V: usize>(&self, lanes: L, row: usize, depth: Range<usize>) -> usize {
        let width = PANEL * L::LANES;
        let (k, stride, columns) = (depth.len(), self.a.place.row_stride, self.columns);
        let b = &self.panel[depth.start * width..depth.end * width];
        let a = &self.a.data[row * stride + (depth.start - self.rows.start)..];
        assert!(k == 0 || a.len() >= (R - 1) * stride + k, "multiply_packed: a too short");
        let mut out: [&mut [f32]; R] = std::array::from_fn(|r| {
            let start = (row + r) * self.out_stride + self.out_start;
            // SAFETY: tasks have different panels and rows are apart, so no other live part overlaps this one.
            unsafe { self.out.part(start..start + columns) }
        });
        let mut acc = [[lanes.zero(); V]; R];
        // SAFETY: every row of `out` has `columns` floats, of which vector v takes what is left from v·LANES on; R rows of k floats at
        // `a` and k rows of `width` at `b` are there, as asserted.
        unsafe {
            if self.accumulate || depth.start > self.rows.start {
                for (acc, out) in acc.iter_mut().zip(&out) {
                    for (v, acc) in acc.iter_mut().enumerate().filter(|(v, _)| v * L::LANES < columns) {
                        *acc = lanes.load_up_to(out.as_ptr().add(v * L::LANES), columns - v * L::LANES);
                    }
                }
            }
            tile(lanes, k, (a.as_ptr(), stride, 1), (b.as_ptr(), width), &mut acc);
            for (acc, out) in acc.iter().zip(&mut out) {
                for (v, &value) in acc.iter().enumerate().filter(|(v, _)| v * L::LANES < columns) {
                    lanes.store_up_to(out.as_mut_ptr().add(v * L::LANES), value, columns - v * L::LANES);
                }
            }
        }
        R
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::multiply;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 257) as f32 / 128.0 - 1.0).collect()
    }

    /// Blocks packed in two parts, the second transposed; some of the rows and blocks multiplied; against the plain product.
    #[test]
    fn products_with_parts_of_a_packed_matrix_match_those_with_the_plain_one() {
        for set in InstructionSet::available() {
            for (m, k, columns, blocks) in
                [(1, 1, 1, 1), (7, 5, 17, 2), (64, 33, 40, 3), (13, 1100, 16, 2), (3, 0, 5, 1)]
            {
                let n = columns * blocks;
                let b = values(k * n, 2);
                let mut packed = Packed::new_on(set, k, columns, blocks);
                let half = k / 2;
                for block in 0..blocks {
                    let upper = Matrix::with_stride(&b[block * columns..], half, columns, n);
                    packed.pack(block, 0, upper);
                    let lower: Vec<f32> = (0..columns)
                        .flat_map(|column| (half..k).map(move |row| row * n + block * columns + column))
                        .map(|at| b[at])
                        .collect();
                    packed.pack(block, half, Matrix::new(&lower, columns, k - half).transposed());
                }
                for (rows, chosen) in [(0..k, 0..blocks), (k / 3..k, blocks - 1..blocks), (half..half, 0..1)] {
                    for write in [Write::Overwrite, Write::Accumulate] {
                        let (a, wide) = (values(m * rows.len(), 1), chosen.len() * columns);
                        let stride = wide + 3;
                        let before = values(m * stride, 3);
                        let (mut actual, mut expected) = (before.clone(), before.clone());
                        let a = Matrix::new(&a, m, rows.len());
                        let part = &b[(rows.start * n + chosen.start * columns).min(b.len())..];
                        let part = Matrix::with_stride(part, rows.len(), wide, n);
                        multiply(a, part, MatrixMut::with_stride(&mut expected, m, wide, stride), write);
                        let out = MatrixMut::with_stride(&mut actual, m, wide, stride);
                        multiply_packed(a, &packed, rows.clone(), chosen.clone(), out, write);
                        for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                            let tolerance = 1e-6 * (k as f32 + 1.0);
                            assert!(
                                (actual - expected).abs() <= tolerance,
                                "{set:?} {packed:?} at {i}: {actual} {expected}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn results_are_the_same_bits_for_any_number_of_threads() {
        let (m, k, n) = (65, 300, 170);
        let (a, b) = (values(m * k, 4), values(k * n, 5));
        let product = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut out = vec![0.0; m * n];
            pool.install(|| {
                let mut packed = Packed::new(k, n, 1);
                packed.pack(0, 0, Matrix::new(&b, k, n));
                let out = MatrixMut::new(&mut out, m, n);
                multiply_packed(Matrix::new(&a, m, k), &packed, 0..k, 0..1, out, Write::Overwrite);
            });
            out
        };
        let one = product(1);
        assert!([2, 3, 8].into_iter().all(|threads| product(threads) == one));
    }

    #[test]
    #[should_panic(expected = "Packed::pack")]
    fn a_part_that_does_not_fit_is_refused() {
        Packed::new(2, 3, 1).pack(0, 1, Matrix::new(&[0.0; 6], 2, 3));
    }
}
