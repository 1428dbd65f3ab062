//! Dense products of matrices of any size, with the `gemm` crate: recurrent weights, embeddings, decoders. Refuses to fuse
//! anything with the product; small strips against small matrices are the business of the convolution kernels. A matrix that meets
//! many others, one after the other, is laid out once ([`Packed`]) and multiplied with a kernel of our own.
//!
//! gemm picks its own instruction set (AVX-512, AVX2 + FMA, …) and adds up in an order that does not depend on the number of
//! threads.

use crate::images::Write;
use crate::profile::{self, Work};

mod packed;

pub use packed::{Packed, multiply_packed};

/// A matrix that is read: element (r, c) at `r · row_stride + c · column_stride`.
#[derive(Copy, Clone, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    place: Place,
}

/// A matrix that is written, rows contiguous.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    place: Place,
}

#[derive(Copy, Clone, Debug)]
struct Place {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Place {
    fn new(rows: usize, columns: usize, row_stride: usize, len: usize) -> Self {
        let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns };
        assert!(
            columns <= row_stride && end <= len,
            "matmul: {rows}×{columns} with a row every {row_stride} in {len} floats"
        );
        Self { rows, columns, row_stride, column_stride: 1 }
    }
}

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, contiguous, at the beginning of `data`.
    ///
    /// # Panics
    /// If `data` is shorter.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::with_stride(data, rows, columns, columns)
    }

    /// `[rows, columns]` with a row every `stride` floats.
    ///
    /// # Panics
    /// If rows overlap or `data` is shorter.
    pub fn with_stride(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, place: Place::new(rows, columns, stride, data.len()) }
    }

    /// The same numbers, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let Place { rows, columns, row_stride, column_stride } = self.place;
        let place = Place { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Self { place, ..self }
    }
}

impl<'a> MatrixMut<'a> {
    /// `[rows, columns]`, contiguous, at the beginning of `data`.
    ///
    /// # Panics
    /// If `data` is shorter.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::with_stride(data, rows, columns, columns)
    }

    /// `[rows, columns]` with a row every `stride` floats.
    ///
    /// # Panics
    /// If rows overlap or `data` is shorter.
    pub fn with_stride(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let place = Place::new(rows, columns, stride, data.len());
        Self { data, place }
    }
}

/// out\[m,n\] (+)= Σ_k a\[m,k\]·b\[k,n\], on all threads of the current pool.
///
/// # Shapes
/// `a` \[M, K\], `b` \[K, N\], `out` \[M, N\].
///
/// # Panics
/// If the shapes do not fit each other.
pub fn multiply(a: Matrix, b: Matrix, out: MatrixMut, write: Write) {
    let (m, k, n) = (a.place.rows, a.place.columns, b.place.columns);
    assert!(b.place.rows == k, "matmul: {m}×{k} times {}×{n}", b.place.rows);
    assert!(out.place.rows == m && out.place.columns == n, "matmul: {m}×{n} into {:?}", out.place);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if write == Write::Overwrite {
            out.data.chunks_mut(out.place.row_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let _span = profile::span("matmul", || Work { flops: 2 * m * k * n, floats: m * k + k * n + m * n });
    let stride = |stride: usize| stride as isize;
    // SAFETY: every matrix lies in its slice (`Place::new`; a transposition keeps the set of elements), `out` is borrowed
    // exclusively, so it overlaps neither factor, and a former content that is not read need not be initialized.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            stride(out.place.column_stride),
            stride(out.place.row_stride),
            write == Write::Accumulate,
            a.data.as_ptr(),
            stride(a.place.column_stride),
            stride(a.place.row_stride),
            b.data.as_ptr(),
            stride(b.place.column_stride),
            stride(b.place.row_stride),
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::Rayon(rayon::current_num_threads()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 + seed * 101) % 257) as f32 / 128.0 - 1.0).collect()
    }

    #[test]
    fn products_match_a_plain_loop() {
        for (m, k, n) in [(1, 1, 1), (3, 17, 5), (64, 12, 33), (7, 0, 4), (0, 3, 2), (5, 300, 96)] {
            for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true)] {
                for write in [Write::Overwrite, Write::Accumulate] {
                    let (a, b) = (values(m * k, 1), values(k * n, 2));
                    let stride = n + 3;
                    let before = values(m * stride, 3);
                    let mut out = before.clone();
                    let left = if transpose_a { Matrix::new(&a, k, m).transposed() } else { Matrix::new(&a, m, k) };
                    let right = if transpose_b { Matrix::new(&b, n, k).transposed() } else { Matrix::new(&b, k, n) };
                    multiply(left, right, MatrixMut::with_stride(&mut out, m, n, stride), write);
                    for row in 0..m {
                        for column in 0..stride {
                            let term = |i: usize| {
                                let a = if transpose_a { a[i * m + row] } else { a[row * k + i] };
                                let b = if transpose_b { b[column * k + i] } else { b[i * n + column] };
                                f64::from(a) * f64::from(b)
                            };
                            let old = f64::from(before[row * stride + column]);
                            let expected = match write {
                                _ if column >= n => old,
                                Write::Overwrite => (0..k).map(term).sum(),
                                Write::Accumulate => old + (0..k).map(term).sum::<f64>(),
                            };
                            let actual = f64::from(out[row * stride + column]);
                            let tolerance = 1e-6 * (k as f64 + 1.0);
                            assert!((actual - expected).abs() <= tolerance, "{m}×{k}×{n}: {actual} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn results_are_the_same_bits_for_any_number_of_threads() {
        for (m, k, n) in [(256, 300, 600), (2240, 64, 512), (17, 900, 130)] {
            let (a, b) = (values(m * k, 4), values(k * n, 5));
            let product = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut out = vec![0.0; m * n];
                pool.install(|| {
                    let out = MatrixMut::new(&mut out, m, n);
                    multiply(Matrix::new(&a, m, k), Matrix::new(&b, k, n), out, Write::Overwrite);
                });
                out
            };
            let one = product(1);
            for threads in [2, 3, 8] {
                assert!(product(threads) == one, "{m}×{k}×{n} on {threads} threads");
            }
        }
    }

    #[test]
    #[should_panic(expected = "matmul: 2×3 times 4×2")]
    fn factors_that_do_not_fit_are_refused() {
        let mut out = [0.0; 4];
        multiply(
            Matrix::new(&[0.0; 6], 2, 3),
            Matrix::new(&[0.0; 8], 4, 2),
            MatrixMut::new(&mut out, 2, 2),
            Write::Overwrite,
        );
    }
}
