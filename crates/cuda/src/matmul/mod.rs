//! Dense products of f32 matrices of any size: recurrent weights, decoders. On CUDA cores in f32, or on tensor cores with factors
//! rounded to tf32 or bfloat16 on their way. Refuses to choose its work by the device: tiles and splits depend on the shape
//! alone, so the same shape gives the same bits on every device of a kind.
//!
//! Three tiles of the output: 128×128 where that fills a device, 64×64, and 32×32 with the sum divided inside the block, for the
//! small products of a recurrent cell. A long sum over few outputs is divided between blocks as well;
//! their partial products lie in scratch memory and are added in order.

use crate::args;
use crate::images::Write;
use crate::precision::Precision;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

/// Of each precision the kernels for small, medium and large tiles.
static F32: [Kernel; 3] =
    [Kernel::new("matmul_small", THREADS), Kernel::new("matmul_medium", THREADS), Kernel::new("matmul_large", THREADS)];
static TF32: [Kernel; 3] = [
    Kernel::new("matmul_small_tf32", THREADS),
    Kernel::new("matmul_medium_tf32", THREADS),
    Kernel::new("matmul_large_tf32", THREADS),
];
static BF16: [Kernel; 3] = [
    Kernel::new("matmul_small_bf16", THREADS),
    Kernel::new("matmul_medium_bf16", THREADS),
    Kernel::new("matmul_large_bf16", THREADS),
];
static REDUCE: Kernel = Kernel::new("matmul_reduce", THREADS);

const THREADS: u32 = 256;

/// The kernels of this module.
pub const KERNELS: &[&Kernel] =
    &[&F32[0], &F32[1], &F32[2], &TF32[0], &TF32[1], &TF32[2], &BF16[0], &BF16[1], &BF16[2], &REDUCE];

args! {
    struct MatmulArgs: 72 {
        a: u64,
        b: u64,
        out: u64,
        scale: u64,
        m: u32,
        n: u32,
        k: u32,
        a_row: u32,
        a_column: u32,
        b_row: u32,
        b_column: u32,
        out_row: u32,
        split: u32,
        accumulate: u32,
    }

    struct ReduceArgs: 48 {
        partial: u64,
        out: u64,
        scale: u64,
        m: u32,
        n: u32,
        out_row: u32,
        splits: u32,
        accumulate: u32,
        pad: u32,
    }
}

/// A matrix: element (r, c) at `r · row_stride + c · column_stride`.
#[derive(Copy, Clone, Debug)]
pub struct Matrix {
    data: View,
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Matrix {
    /// `[rows, columns]`, contiguous, at the beginning of `data`.
    ///
    /// # Panics
    /// If `data` is shorter.
    #[track_caller]
    pub fn new(data: View, rows: usize, columns: usize) -> Self {
        Self::with_stride(data, rows, columns, columns)
    }

    /// `[rows, columns]` with a row every `stride` floats.
    ///
    /// # Panics
    /// If rows overlap or `data` is shorter.
    #[track_caller]
    pub fn with_stride(data: View, rows: usize, columns: usize, stride: usize) -> Self {
        let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(
            columns <= stride && end <= data.len,
            "matmul: {rows}×{columns} with a row every {stride} in {} floats",
            data.len
        );
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The same numbers, rows and columns exchanged.
    pub fn transposed(self) -> Self {
        let Self { rows, columns, row_stride, column_stride, .. } = self;
        Self { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride, ..self }
    }
}

/// Rows and columns of the output that a block makes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 32×32, the sum divided by four inside the block.
    Small,
    /// 64×64.
    Medium,
    /// 128×128.
    Large,
}

impl Tile {
    const fn side(self) -> usize {
        match self {
            Self::Small => 32,
            Self::Medium => 64,
            Self::Large => 128,
        }
    }

    const fn kernel(self, precision: Precision) -> &'static Kernel {
        let kernels = match precision {
            Precision::F32 => &F32,
            Precision::Tf32 => &TF32,
            Precision::Bf16 => &BF16,
        };
        &kernels[self as usize]
    }

    /// Two stages of both factors' tiles, rows padded: of 8, 16 and 32 steps of k in f32, of 16 words on tensor cores.
    const fn shared_bytes(self, precision: Precision) -> u32 {
        let side = self.side();
        let words = match (precision, self) {
            (Precision::F32, Self::Small) => 32 * (side + 4),
            (Precision::F32, Self::Medium) => 16 * (side + 4),
            (Precision::F32, Self::Large) => 8 * (side + 4),
            (Precision::Tf32 | Precision::Bf16, _) => side * 20,
        };
        (2 * 2 * words * size_of::<f32>()) as u32
    }

    fn tiles(self, m: usize, n: usize) -> usize {
        m.div_ceil(self.side()) * n.div_ceil(self.side())
    }
}

/// How a product is divided into blocks.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// Tile of a block.
    pub tile: Tile,
    /// Parts that the sum over k is divided into between blocks.
    pub splits: usize,
}

/// Blocks that are enough for the devices this is written for, of 80 to 150 multiprocessors. A constant: results must not depend
/// on the device's number.
const ENOUGH: usize = 120;
/// The largest number of steps of k that a tile of a factor has; all divide it.
const DEEPEST: usize = 32;
/// The shortest sum that a block is worth.
const SHORTEST: usize = 256;

impl Division {
    /// The division of a product of \[m, k\] and \[k, n\].
    pub fn of(m: usize, k: usize, n: usize) -> Self {
        for tile in [Tile::Large, Tile::Medium] {
            if tile.tiles(m, n) >= ENOUGH {
                return Self { tile, splits: 1 };
            }
        }
        if k < 4 * SHORTEST {
            return Self { tile: Tile::Small, splits: 1 };
        }
        let wanted = (2 * ENOUGH).div_ceil(Tile::Medium.tiles(m, n).max(1));
        Self { tile: Tile::Medium, splits: wanted.min(k / SHORTEST) }
    }

    /// k of one block: whole tiles of every kernel.
    fn split(self, k: usize) -> usize {
        k.div_ceil(self.splits.max(1)).next_multiple_of(DEEPEST).max(DEEPEST)
    }

    /// Blocks that share a tile of the output; at most `splits`.
    fn parts(self, k: usize) -> usize {
        k.div_ceil(self.split(k)).max(1)
    }

    /// Floats of scratch memory that a product takes when it is divided like this.
    pub fn scratch_len(self, m: usize, k: usize, n: usize) -> usize {
        let parts = self.parts(k);
        if parts > 1 { parts * m * n } else { 0 }
    }
}

/// Floats of scratch memory that [`multiply`] needs for a product of \[m, k\] and \[k, n\].
pub fn scratch_len(m: usize, k: usize, n: usize) -> usize {
    Division::of(m, k, n).scratch_len(m, k, n)
}

/// out\[m,n\] (+)= scale\[m,n\]·Σ_k a\[m,k\]·b\[k,n\].
///
/// # Shapes
/// `a` \[M, K\], `b` \[K, N\], `out` \[M, N\] with contiguous rows, `scale` \[M, N\] (none: 1), `scratch`: [`scratch_len`] floats or more,
/// contents arbitrary before and after.
///
/// # Panics
/// If the shapes do not fit each other.
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "the product's own, and where its parts go")]
pub fn multiply(
    program: &mut Program,
    precision: Precision,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    write: Write,
    scale: Option<View>,
    scratch: View,
) {
    let division = Division::of(a.rows, a.columns, b.columns);
    multiply_divided(program, precision, division, a, b, out, write, scale, scratch);
}

/// [`multiply`] with a given division.
///
/// # Panics
/// As [`multiply`].
#[track_caller]
#[expect(clippy::too_many_arguments, reason = "those of multiply, and what it chooses")]
pub fn multiply_divided(
    program: &mut Program,
    precision: Precision,
    division: Division,
    a: Matrix,
    b: Matrix,
    out: Matrix,
    write: Write,
    scale: Option<View>,
    scratch: View,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(b.rows == k, "matmul: {m}×{k} times {}×{n}", b.rows);
    assert!(out.rows == m && out.columns == n && out.column_stride == 1, "matmul: {m}×{n} into {out:?}");
    if let Some(scale) = scale {
        assert_eq!(scale.len, m * n, "matmul: scale of {m}×{n}");
    }
    let needed = division.scratch_len(m, k, n);
    assert!(scratch.len >= needed, "matmul: scratch of {} floats for {m}×{k}×{n}, {needed} are needed", scratch.len);
    if m == 0 || n == 0 {
        return;
    }
    let (side, parts) = (division.tile.side() as u32, division.parts(k));
    let divided = parts > 1;
    let scale = scale.map_or(0, |scale| scale.address);
    let args = MatmulArgs {
        a: a.data.address,
        b: b.data.address,
        out: if divided { scratch.address } else { out.data.address },
        scale: if divided { 0 } else { scale },
        m: m as u32,
        n: n as u32,
        k: k as u32,
        a_row: a.row_stride as u32,
        a_column: a.column_stride as u32,
        b_row: b.row_stride as u32,
        b_column: b.column_stride as u32,
        out_row: if divided { n } else { out.row_stride } as u32,
        split: division.split(k) as u32,
        accumulate: if divided { Write::Overwrite } else { write }.flag(),
    };
    let grid = [blocks(n, side), blocks(m, side), parts as u32];
    program.push(division.tile.kernel(precision), grid, division.tile.shared_bytes(precision), &args);
    if divided {
        let args = ReduceArgs {
            partial: scratch.address,
            out: out.data.address,
            scale,
            m: m as u32,
            n: n as u32,
            out_row: out.row_stride as u32,
            splits: parts as u32,
            accumulate: write.flag(),
            pad: 0,
        };
        program.push(&REDUCE, [blocks(m * n, REDUCE.threads), 1, 1], 0, &args);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divisions_fill_a_device_without_more_scratch_than_they_need() {
        // The products of a search cell's first and last state, its gradients, and the decoder's.
        assert_eq!(Division::of(256, 300, 4800), Division { tile: Tile::Medium, splits: 1 });
        assert_eq!(Division::of(256, 300, 600), Division { tile: Tile::Small, splits: 1 });
        assert_eq!(Division::of(640, 300, 10_000), Division { tile: Tile::Large, splits: 1 });
        assert_eq!(Division::of(256, 4800, 300), Division { tile: Tile::Medium, splits: 12 });
        assert_eq!(scratch_len(256, 300, 600), 0);
        for (m, k, n) in [(256, 4800, 300), (640, 10_000, 300), (300, 8960, 600), (1, 5000, 1)] {
            let division = Division::of(m, k, n);
            let (split, parts) = (division.split(k), division.parts(k));
            assert!(parts <= division.splits && (parts - 1) * split < k && parts * split >= k, "{m}×{k}×{n}");
            assert_eq!(scratch_len(m, k, n), if parts > 1 { parts * m * n } else { 0 });
        }
    }

    #[test]
    #[should_panic(expected = "matmul: 2×3 times 4×2")]
    fn factors_that_do_not_fit_are_refused() {
        let matrix = |rows, columns| Matrix::new(View::at(0x1000, rows * columns), rows, columns);
        let mut program = Program::default();
        multiply(
            &mut program,
            Precision::F32,
            matrix(2, 3),
            matrix(4, 2),
            matrix(2, 2),
            Write::Overwrite,
            None,
            View::none(),
        );
    }
}
