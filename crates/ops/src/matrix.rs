//! Register-tiled products of a strip of pixels with a small matrix, for the pointwise half of every convolution.
//! Refuses to block for caches or to use threads: a strip is cut so that it fits the first-level cache, and callers
//! run strips side by side.
//!
//! - [`product`]: out\[p,n\] = Σ_k strip\[p,k\]·w\[k,n\] with a [`Packed`] w, and Σ_p out, Σ_p out² by the way. Packed from Wᵀ it
//!   is the gradient of the strip, dstrip = dz·Wᵀ.
//! - [`accumulate_outer`]: into\[k,n\] += Σ_p strip\[p,k\]·other\[p,n\], the gradient of w.

use crate::simd::{Lanes, padded};

/// Vectors in a panel of a packed matrix.
const PANEL: usize = 2;

/// Rows `0..rows` of floats, `stride` apart.
#[derive(Copy, Clone)]
pub(crate) struct Strip<'a> {
    /// The floats; row r begins at `r · stride`.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Floats from one row to the next.
    pub stride: usize,
}

/// Where a product goes: row r at `r · stride`, of which `columns` floats are written (overwritten).
pub(crate) struct Output<'a> {
    /// The floats.
    pub data: &'a mut [f32],
    /// Floats from one row to the next.
    pub stride: usize,
    /// Floats written in a row: N, or N padded (the rest is then 0).
    pub columns: usize,
}

/// Rows of an output that are not evenly spaced: after every `run` of them come `gap` more floats. So a strip of pixels is
/// written into an image with a margin around it.
#[derive(Copy, Clone)]
pub(crate) struct Runs {
    /// Rows in a run, at least 1.
    pub run: usize,
    /// Floats between the end of a run and the beginning of the next.
    pub gap: usize,
}

impl Runs {
    /// Evenly spaced rows.
    const NONE: Self = Self { run: usize::MAX, gap: 0 };
}

/// A matrix `[K, N]` laid out in panels of two vectors of columns, of one, or of a short one, N padded with zeros.
#[derive(Copy, Clone)]
pub(crate) struct Packed<'a> {
    data: &'a [f32],
    k: usize,
    n: usize,
}

/// Strides of a matrix `[K, N]` to be packed: element (k, n) is at `k · k_stride + n · n_stride`.
#[derive(Copy, Clone)]
pub(crate) struct Layout {
    /// K.
    pub k: usize,
    /// N.
    pub n: usize,
    /// Floats from k to k + 1.
    pub k_stride: usize,
    /// Floats from n to n + 1.
    pub n_stride: usize,
}

impl Layout {
    /// Floats that the packed matrix takes.
    pub(crate) fn packed_len<L: Lanes>(self) -> usize {
        self.k * padded::<L>(self.n)
    }
}

/// Packs `matrix` into `data` of `layout.packed_len()` floats.
pub(crate) fn pack<'a, L: Lanes>(_lanes: L, layout: Layout, matrix: &[f32], data: &'a mut [f32]) -> Packed<'a> {
    let Layout { k, n, k_stride, n_stride } = layout;
    let columns = padded::<L>(n);
    assert_eq!(data.len(), k * columns, "matrix::pack: buffer for a {k}×{n} matrix");
    let mut panels = &mut data[..];
    let mut first = 0;
    while first < columns {
        let width = panel_width::<L>(columns - first);
        let (panel, rest) = std::mem::take(&mut panels).split_at_mut(k * width);
        for (row, values) in panel.chunks_exact_mut(width).enumerate() {
            for (column, value) in values.iter_mut().enumerate() {
                let column = first + column;
                *value = if column < n { matrix[row * k_stride + column * n_stride] } else { 0.0 };
            }
        }
        panels = rest;
        first += width;
    }
    Packed { data, k, n }
}

/// Columns of the next panel where `left` are left, a padded number.
const fn panel_width<L: Lanes>(left: usize) -> usize {
    if left >= PANEL * L::LANES {
        PANEL * L::LANES
    } else if left >= L::LANES {
        L::LANES
    } else {
        left
    }
}

/// out\[p,n\] = Σ_k strip\[p,k\]·w\[k,n\] (overwritten). `sums` of twice N padded: \[Σ_p out | Σ_p out²\] is added to it.
#[inline(always)]
pub(crate) fn product<L: Lanes>(lanes: L, strip: Strip, packed: Packed, output: Output, sums: Option<&mut [f32]>) {
    product_in_runs(lanes, strip, packed, output, Runs::NONE, sums);
}

/// As [`product`], with rows of the output in runs.
#[inline(always)]
pub(crate) fn product_in_runs<L: Lanes>(
    lanes: L,
    strip: Strip,
    packed: Packed,
    output: Output,
    runs: Runs,
    sums: Option<&mut [f32]>,
) {
    let (k, rows) = (packed.k, strip.rows);
    let columns = padded::<L>(packed.n);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(packed.data.len() == k * columns, "matrix::product: a matrix packed for other lanes");
    assert!(strip.data.len() >= (rows - 1) * strip.stride + k, "matrix::product: strip too short");
    assert!(output.columns >= packed.n && output.columns <= columns, "matrix::product: columns");
    assert!(runs.run > 0, "matrix::product: empty runs");
    let last = (rows - 1) * output.stride + (rows - 1) / runs.run * runs.gap;
    assert!(output.data.len() >= last + output.columns, "matrix::product: output too short");
    let sums = match sums {
        Some(sums) => {
            assert!(sums.len() == 2 * columns, "matrix::product: sums");
            sums.as_mut_ptr()
        }
        None => std::ptr::null_mut(),
    };
    let mut first = 0;
    while first < columns {
        let width = panel_width::<L>(columns - first);
        // SAFETY: the asserts above: `rows` rows of k floats at `strip`, k·width floats in the panel that begins at k·first, rows of
        // `columns − first` writable floats at `output` (the last vector is cut there), 2·columns sums or null.
        unsafe {
            let panel = Panel {
                k,
                a: strip.data.as_ptr(),
                a_stride: strip.stride,
                b: packed.data.as_ptr().add(k * first),
                out: output.data.as_mut_ptr().add(first),
                out_stride: output.stride,
                runs,
                remaining: output.columns - first,
                sums: if sums.is_null() { sums } else { sums.add(first) },
                squares: columns,
            };
            let whole = output.columns - first >= width;
            if width == PANEL * L::LANES {
                match whole {
                    true if L::MANY_REGISTERS => panel.rows::<L, 12, PANEL, true>(lanes, rows),
                    false if L::MANY_REGISTERS => panel.rows::<L, 12, PANEL, false>(lanes, rows),
                    true => panel.rows::<L, 6, PANEL, true>(lanes, rows),
                    false => panel.rows::<L, 6, PANEL, false>(lanes, rows),
                }
            } else if L::Short::LANES == L::LANES || width == L::LANES {
                match whole {
                    true => panel.rows::<L, 12, 1, true>(lanes, rows),
                    false => panel.rows::<L, 12, 1, false>(lanes, rows),
                }
            } else {
                match whole {
                    true => panel.rows::<L::Short, 12, 1, true>(lanes.short(), rows),
                    false => panel.rows::<L::Short, 12, 1, false>(lanes.short(), rows),
                }
            }
        }
        first += width;
    }
}

/// into\[k,n\] += Σ_p strip\[p,k\]·other\[p,n\] for k < `k` and n < `n`, a padded number; `into` is `[k, n]`, contiguous.
#[inline(always)]
pub(crate) fn accumulate_outer<L: Lanes>(lanes: L, strip: Strip, k: usize, other: Strip, n: usize, into: &mut [f32]) {
    let rows = strip.rows;
    if rows == 0 || k == 0 || n == 0 {
        return;
    }
    assert!(n == padded::<L>(n), "matrix::accumulate_outer: n");
    assert!(other.rows == rows, "matrix::accumulate_outer: rows");
    assert!(strip.data.len() >= (rows - 1) * strip.stride + k, "matrix::accumulate_outer: strip");
    assert!(other.data.len() >= (rows - 1) * other.stride + n, "matrix::accumulate_outer: other");
    assert!(into.len() >= k * n, "matrix::accumulate_outer: into");
    let mut first = 0;
    while first < n {
        let width = panel_width::<L>(n - first);
        // SAFETY: the asserts above: `rows` rows of k floats at `strip`, of n at `other`, k rows of n at `into`; the panel's columns
        // first..first + width lie below n.
        unsafe {
            let outer = Outer {
                depth: rows,
                a: strip.data.as_ptr(),
                a_stride: strip.stride,
                b: other.data.as_ptr().add(first),
                b_stride: other.stride,
                into: into.as_mut_ptr().add(first),
                n,
            };
            if width == PANEL * L::LANES {
                if L::MANY_REGISTERS {
                    outer.rows::<L, 12, PANEL>(lanes, k);
                } else {
                    outer.rows::<L, 6, PANEL>(lanes, k);
                }
            } else if L::Short::LANES == L::LANES || width == L::LANES {
                outer.rows::<L, 12, 1>(lanes, k);
            } else {
                outer.rows::<L::Short, 12, 1>(lanes.short(), k);
            }
        }
        first += width;
    }
}

/// acc\[r,v\] += Σ_k a\[r·a_row + k·a_step\]·b\[k·b_step + v·LANES..\]: R·V independent chains.
///
/// # Safety
/// Those elements are readable for r < R, k < depth, v < V.
#[inline(always)]
pub(crate) unsafe fn tile<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    depth: usize,
    (a, a_row, a_step): (*const f32, usize, usize),
    (b, b_step): (*const f32, usize),
    acc: &mut [[L::V; V]; R],
) {
    let (mut a, mut b) = (a, b);
    let mut sum = *acc;
    for _ in 0..depth {
        let mut right = [lanes.zero(); V];
        // SAFETY: the caller vouches for the elements of step k, to which `a` and `b` have been moved; wrapping moves past the last step
        // are never read.
        unsafe {
            for (v, right) in right.iter_mut().enumerate() {
                *right = lanes.load(b.add(v * L::LANES));
            }
            for (r, sum) in sum.iter_mut().enumerate() {
                let left = lanes.splat(*a.add(r * a_row));
                for (sum, right) in sum.iter_mut().zip(right) {
                    *sum = lanes.mul_add(left, right, *sum);
                }
            }
        }
        a = a.wrapping_add(a_step);
        b = b.wrapping_add(b_step);
    }
    *acc = sum;
}

/// One panel of a product.
#[derive(Copy, Clone)]
struct Panel {
    k: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    out: *mut f32,
    out_stride: usize,
    runs: Runs,
    /// Columns of `out` from this panel on.
    remaining: usize,
    /// Σ of the panel's columns, or null.
    sums: *mut f32,
    /// Distance from Σ to Σ².
    squares: usize,
}

/// The row that a panel has come to.
struct Cursor {
    a: *const f32,
    out: *mut f32,
    /// Rows left of the run.
    left: usize,
}

impl Panel {
    /// All rows, `R` at a time; all of the panel's columns are written if `WHOLE` (so that loop has no branches), else `remaining`.
    ///
    /// # Safety
    /// `rows` rows of `a` and `out`, the panel at `b` and the sums are there, as `product` asserts.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const R: usize, const V: usize, const WHOLE: bool>(self, lanes: L, rows: usize) {
        let mut cursor = Cursor { a: self.a, out: self.out, left: self.runs.run };
        let mut left = rows;
        // SAFETY: at least as many rows are left as each call takes.
        unsafe {
            while left >= R {
                self.some::<L, R, V, WHOLE>(lanes, &mut cursor);
                left -= R;
            }
            while left >= 4 {
                self.some::<L, 4, V, WHOLE>(lanes, &mut cursor);
                left -= 4;
            }
            while left > 0 {
                self.some::<L, 1, V, WHOLE>(lanes, &mut cursor);
                left -= 1;
            }
        }
    }

    /// The next `R` rows.
    ///
    /// # Safety
    /// As for `rows`, and `R` rows are there from the cursor on.
    #[inline(always)]
    unsafe fn some<L: Lanes, const R: usize, const V: usize, const WHOLE: bool>(&self, lanes: L, cursor: &mut Cursor) {
        let mut acc = [[lanes.zero(); V]; R];
        // SAFETY: the caller's promise covers R rows of `a`, the whole panel, and the floats of `out` up to `remaining`; the cursor's
        // wrapping moves past the last row are never followed.
        unsafe {
            tile(lanes, self.k, (cursor.a, self.a_stride, 1), (self.b, V * L::LANES), &mut acc);
            cursor.a = cursor.a.wrapping_add(R * self.a_stride);
            for acc in &acc {
                for (v, &value) in acc.iter().enumerate() {
                    let at = v * L::LANES;
                    if WHOLE {
                        lanes.store(cursor.out.add(at), value);
                    } else if at < self.remaining {
                        lanes.store_up_to(cursor.out.add(at), value, self.remaining - at);
                    }
                }
                cursor.out = cursor.out.wrapping_add(self.out_stride);
                cursor.left -= 1;
                if cursor.left == 0 {
                    cursor.out = cursor.out.wrapping_add(self.runs.gap);
                    cursor.left = self.runs.run;
                }
            }
            if !self.sums.is_null() {
                for v in 0..V {
                    let at = self.sums.add(v * L::LANES);
                    let mut sum = lanes.load(at);
                    let mut square = lanes.load(at.add(self.squares));
                    for acc in &acc {
                        sum = lanes.add(sum, acc[v]);
                        square = lanes.mul_add(acc[v], acc[v], square);
                    }
                    lanes.store(at, sum);
                    lanes.store(at.add(self.squares), square);
                }
            }
        }
    }
}

/// One panel of columns of a sum of outer products.
#[derive(Copy, Clone)]
struct Outer {
    depth: usize,
    a: *const f32,
    a_stride: usize,
    b: *const f32,
    b_stride: usize,
    into: *mut f32,
    n: usize,
}

impl Outer {
    /// All `k` rows of the result, `R` at a time.
    ///
    /// # Safety
    /// `depth` rows of k floats at `a` and of V vectors at `b`, k rows at `into` are there, as `accumulate_outer` asserts.
    #[inline(always)]
    unsafe fn rows<L: Lanes, const R: usize, const V: usize>(self, lanes: L, k: usize) {
        let mut row = 0;
        // SAFETY: rows row..row + R are below `k` at every call.
        unsafe {
            while row + R <= k {
                self.some::<L, R, V>(lanes, row);
                row += R;
            }
            while row + 4 <= k {
                self.some::<L, 4, V>(lanes, row);
                row += 4;
            }
            while row < k {
                self.some::<L, 1, V>(lanes, row);
                row += 1;
            }
        }
    }

    /// Rows `row..row + R` of the result.
    ///
    /// # Safety
    /// As for `rows`, and `row + R ≤ k`.
    #[inline(always)]
    unsafe fn some<L: Lanes, const R: usize, const V: usize>(self, lanes: L, row: usize) {
        let mut acc = [[lanes.zero(); V]; R];
        // SAFETY: the caller's promise covers columns row..row + R of `a` and rows row..row + R of `into`.
        unsafe {
            let into = self.into.add(row * self.n);
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = lanes.load(into.add(r * self.n + v * L::LANES));
                }
            }
            let a = self.a.add(row);
            tile(lanes, self.depth, (a, 1, self.a_stride), (self.b, self.b_stride), &mut acc);
            for (r, acc) in acc.iter().enumerate() {
                for (v, &value) in acc.iter().enumerate() {
                    lanes.store(into.add(r * self.n + v * L::LANES), value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{InstructionSet, Kernel};

    /// Whole numbers: every product and sum below 2²⁴ is exact in f32, so results are compared for equality.
    fn whole_numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 7 + seed * 13 + i / 5) % 11) as f32 - 5.0).collect()
    }

    struct Check {
        rows: usize,
        k: usize,
        n: usize,
    }

    impl Kernel for Check {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            let Self { rows, k, n } = self;
            let (a, w) = (whole_numbers(rows * k, 1), whole_numbers(n * k, 2));
            let columns = padded::<L>(n);
            let layout = Layout { k, n, k_stride: 1, n_stride: k };
            let mut buffer = vec![f32::NAN; layout.packed_len::<L>()];
            let packed = pack(lanes, layout, &w, &mut buffer);
            let strip = Strip { data: &a, rows, stride: k };

            let (mut out, mut sums) = (vec![f32::NAN; rows * n], vec![0.0; 2 * columns]);
            let output = Output { data: &mut out, stride: n, columns: n };
            product(lanes, strip, packed, output, Some(&mut sums));
            let expected: Vec<f32> =
                (0..rows * n).map(|i| (0..k).map(|j| a[i / n * k + j] * w[i % n * k + j]).sum()).collect();
            assert_eq!(out, expected, "product, {rows}×{k}·{k}×{n}");
            for column in 0..n {
                let values = || (0..rows).map(|row| expected[row * n + column]);
                assert_eq!(sums[column], values().sum::<f32>(), "Σ of column {column}");
                let squares: f32 = values().map(|value| value * value).sum();
                assert_eq!(sums[columns + column], squares, "Σ² of column {column}");
            }

            let mut padded = vec![f32::NAN; rows * columns];
            let output = Output { data: &mut padded, stride: columns, columns };
            product(lanes, strip, packed, output, None);
            for (row, values) in padded.chunks_exact(columns).enumerate() {
                assert_eq!(values[..n], expected[row * n..][..n]);
                assert!(values[n..].iter().all(|&value| value == 0.0), "padding of row {row}");
            }

            let mut spaced = vec![-1.0; rows * n + rows.div_ceil(3) * 5];
            let output = Output { data: &mut spaced, stride: n, columns: n };
            product_in_runs(lanes, strip, packed, output, Runs { run: 3, gap: 5 }, None);
            for (run, rows) in expected.chunks(3 * n).enumerate() {
                let (values, gap) = spaced[run * (3 * n + 5)..][..rows.len() + 5].split_at(rows.len());
                assert_eq!((values, gap), (rows, [-1.0; 5].as_slice()), "run {run}");
            }

            let mut outer = vec![1.0; k * columns];
            let other = Strip { data: &padded, rows, stride: columns };
            accumulate_outer(lanes, strip, k, other, columns, &mut outer);
            for (i, &value) in outer.iter().enumerate() {
                let sum: f32 =
                    (0..rows).map(|row| a[row * k + i / columns] * padded[row * columns + i % columns]).sum();
                assert_eq!(value, 1.0 + sum, "outer product, {rows} pixels, {k}×{n}");
            }
        }
    }

    #[test]
    fn products_match_plain_loops_on_every_instruction_set() {
        for set in InstructionSet::available() {
            for rows in [1, 3, 6, 8, 13, 29] {
                for k in [1, 5, 16, 17] {
                    for n in [1, 8, 17, 36, 48, 56] {
                        set.run(Check { rows, k, n });
                    }
                }
            }
        }
    }
}
