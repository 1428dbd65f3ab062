//! Adds up, in f64 and in a fixed order, the partial sums that the blocks of a kernel leave. Knows no operation.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FOLD: Kernel = Kernel::new("fold_partials", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FOLD];

const ENTRIES: usize = 128;
const COLUMNS: u32 = 32;

args! {
    struct FoldEntry: 24 {
        partials: u64,
        sums: u64,
        blocks: u32,
        len: u32,
    }

    struct FoldArgs: 3072 {
        entry: [FoldEntry; ENTRIES],
    }
}

/// Partial sums and what they add up to.
#[derive(Debug, Copy, Clone)]
pub struct Fold {
    /// `[B, L]`.
    pub partials: View,
    /// `[L]`, overwritten.
    pub sums: View<f64>,
}

/// sums\[l\] = Σ_b partials\[b, l\] for every entry, all in one launch (one per 128 entries).
///
/// # Panics
/// If partials are no whole number of sums.
pub fn partials(program: &mut Program, entries: &[Fold]) {
    for entries in entries.chunks(ENTRIES) {
        let mut args = FoldArgs { entry: [FoldEntry { partials: 0, sums: 0, blocks: 0, len: 0 }; ENTRIES] };
        for (to, entry) in args.entry.iter_mut().zip(entries) {
            let (len, floats) = (entry.sums.len, entry.partials.len);
            assert!(len > 0 && floats.is_multiple_of(len), "fold: {floats} partial sums for {len} sums");
            *to = FoldEntry {
                partials: entry.partials.address,
                sums: entry.sums.address,
                blocks: (floats / len) as u32,
                len: len as u32,
            };
        }
        let longest = entries.iter().map(|entry| entry.sums.len).max().unwrap_or(0);
        let shared = FOLD.threads * size_of::<f64>() as u32;
        program.push(&FOLD, [blocks(longest, COLUMNS), entries.len() as u32, 1], shared, &args);
    }
}
