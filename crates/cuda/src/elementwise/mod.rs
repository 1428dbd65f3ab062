//! Small passes between the large ones: copies of blocks of matrices, masks, sums of partial sums. Refuses anything that has a
//! gradient of its own.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static MASK: Kernel = Kernel::new("elementwise_mask", 256);
static COPY: Kernel = Kernel::new("elementwise_copy", 256);
static SUM: Kernel = Kernel::new("elementwise_sum", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&MASK, &COPY, &SUM];

/// Blocks that one launch copies.
const BLOCKS: usize = 64;

args! {
    struct MaskArgs: 40 {
        values: u64,
        mask: u64,
        out: u64,
        len: u64,
        period: u64,
    }

    struct CopyArgs: 1040 {
        from: [u64; BLOCKS],
        to: [u64; BLOCKS],
        rows: u32,
        width: u32,
        from_stride: u32,
        to_stride: u32,
    }

    struct SumArgs: 32 {
        partial: u64,
        out: u64,
        factor: f64,
        len: u64,
    }
}

/// out = values·mask, the mask repeated as often as it takes; `values` may be `out`.
///
/// # Panics
/// If the lengths differ or are no multiple of the mask's.
#[track_caller]
pub fn mask(program: &mut Program, values: View, mask: View, out: View) {
    assert_eq!(values.len, out.len, "mask: values and their place");
    assert!(mask.len > 0 && out.len.is_multiple_of(mask.len), "mask: of {} floats for {}", mask.len, out.len);
    let args = MaskArgs {
        values: values.address,
        mask: mask.address,
        out: out.address,
        len: out.len as u64,
        period: mask.len as u64,
    };
    program.push(&MASK, [blocks(out.len, MASK.threads), 1, 1], 0, &args);
}

/// Rows of a matrix that is copied, and how far apart they lie before and after.
#[derive(Copy, Clone, Debug)]
pub struct Rows {
    /// How many.
    pub rows: usize,
    /// Floats of each.
    pub width: usize,
    /// Floats from one row to the next where they come from.
    pub from_stride: usize,
    /// And where they go.
    pub to_stride: usize,
}

/// Copies matrices of one shape, each from a view to another, all in as few launches as it takes.
///
/// # Panics
/// If a view is too short.
#[track_caller]
pub fn copy(program: &mut Program, shape: Rows, pairs: &[(View, View)]) {
    let Rows { rows, width, from_stride, to_stride } = shape;
    if rows == 0 || width == 0 {
        return;
    }
    for (from, to) in pairs {
        let fits = |view: &View, stride: usize| (rows - 1) * stride + width <= view.len;
        assert!(fits(from, from_stride) && fits(to, to_stride), "copy: {shape:?} from {from:?} to {to:?}");
    }
    for pairs in pairs.chunks(BLOCKS) {
        let mut args = CopyArgs {
            from: [0; BLOCKS],
            to: [0; BLOCKS],
            rows: rows as u32,
            width: width as u32,
            from_stride: from_stride as u32,
            to_stride: to_stride as u32,
        };
        for (i, (from, to)) in pairs.iter().enumerate() {
            (args.from[i], args.to[i]) = (from.address, to.address);
        }
        program.push(&COPY, [blocks(rows * width, COPY.threads), pairs.len() as u32, 1], 0, &args);
    }
}

/// out\[0\] = factor·Σ partial, in a fixed order; overwritten.
///
/// # Panics
/// If `out` is not of one element.
#[track_caller]
pub fn sum(program: &mut Program, partial: View<f64>, factor: f64, out: View<f64>) {
    assert_eq!(out.len, 1, "sum: its place");
    let args = SumArgs { partial: partial.address, out: out.address, factor, len: partial.len as u64 };
    program.push(&SUM, [1, 1, 1], SUM.threads / 32 * size_of::<f64>() as u32, &args);
}
