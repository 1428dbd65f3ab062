//! Adds up, in f64 and in a fixed order, the partial sums that the blocks of a kernel leave. Knows no operation.

use crate::args;
use crate::pod;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FOLD: Kernel = Kernel::new("fold_partials", 256);
static WEIGHTS: Kernel = Kernel::new("fold_weights", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FOLD, &WEIGHTS];

const ENTRIES: usize = 128;
/// Columns of a block.
const COLUMNS: u32 = 8;
const WEIGHTS_COLUMNS: u32 = 32;

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

/// Partial gradients of weights and what they add up to.
#[derive(Debug, Copy, Clone)]
pub struct FoldWeights {
    /// `[B, L]`.
    pub partials: View,
    /// `[L]`, overwritten with the sums, rounded.
    pub sums: View,
}

/// sums\[l\] = Σ_b partials\[b, l\] for every entry, all in one launch (one per 128 entries).
///
/// # Panics
/// If partials are no whole number of sums.
pub fn partials(program: &mut Program, entries: &[Fold]) {
    let entries: Vec<_> = entries.iter().map(|entry| (entry.partials, entry.sums.address, entry.sums.len)).collect();
    push(program, &FOLD, COLUMNS, &entries);
}

/// What the program's last launch folds, if that folds partial sums and all of them are `wanted`. The launch is gone then: who
/// takes them folds them, and so saves a launch and the time between two.
pub(crate) fn take_last(program: &mut Program, wanted: impl Fn(&Fold) -> bool) -> Vec<Fold> {
    let Some(last) = program.launches.last().filter(|last| last.kernel == &FOLD) else { return Vec::new() };
    let args: FoldArgs = pod::value(&last.args);
    let fold = |entry: &FoldEntry| {
        let len = entry.len as usize;
        Fold { partials: View::at(entry.partials, entry.blocks as usize * len), sums: View::at(entry.sums, len) }
    };
    let folds: Vec<Fold> = args.entry[..last.grid[1] as usize].iter().map(fold).collect();
    if !folds.iter().all(wanted) {
        return Vec::new();
    }
    program.launches.pop();
    folds
}

/// [`take_last`] for a kernel that writes these tensors, and partial sums for some of them to `scratch`: what was to be folded right
/// before it is folded with those.
pub(crate) fn join_last(
    program: &mut Program,
    written: impl Iterator<Item = (View, Option<View<f64>>)>,
    scratch: View,
) -> Vec<Fold> {
    let written: Vec<_> = written.collect();
    if written.iter().all(|(_, sums)| sums.is_none()) {
        return Vec::new();
    }
    let views = || written.iter().map(|&(view, _)| view).chain([scratch]);
    take_last(program, |fold| views().all(|view| !view.overlaps(fold.partials) && !view.overlaps(fold.sums)))
}

/// Partial gradients of weights that kernels have left, to be added up in one launch for many of them.
#[derive(Debug)]
pub struct Pending {
    room: View,
    used: usize,
    most: usize,
    entries: Vec<FoldWeights>,
}

impl Pending {
    /// None yet; partial gradients will lie in `room`.
    pub fn new(room: View) -> Self {
        Self { room, used: 0, most: 0, entries: Vec::new() }
    }

    /// Room for `blocks` partial gradients, which will be added up to `sums`.
    ///
    /// # Panics
    /// If there is no more room.
    #[track_caller]
    pub(crate) fn partials(&mut self, blocks: usize, sums: View) -> View {
        let partials = self.room.slice(self.used..self.used + blocks * sums.len);
        self.used += partials.len;
        self.most = self.most.max(self.used);
        self.entries.push(FoldWeights { partials, sums });
        partials
    }

    /// Floats that were ever in use together.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Adds up what there is: all sums are there afterwards, and all of the room is free.
    pub fn fold(&mut self, program: &mut Program) {
        weights(program, &self.entries);
        self.entries.clear();
        self.used = 0;
    }
}

/// As [`partials`].
///
/// # Panics
/// As [`partials`].
pub fn weights(program: &mut Program, entries: &[FoldWeights]) {
    let entries: Vec<_> = entries.iter().map(|entry| (entry.partials, entry.sums.address, entry.sums.len)).collect();
    push(program, &WEIGHTS, WEIGHTS_COLUMNS, &entries);
}

/// Entries are partial sums, and the address and the number of what they add up to.
fn push(program: &mut Program, kernel: &'static Kernel, columns: u32, entries: &[(View, u64, usize)]) {
    for entries in entries.chunks(ENTRIES) {
        let mut args = FoldArgs { entry: [FoldEntry { partials: 0, sums: 0, blocks: 0, len: 0 }; ENTRIES] };
        for (to, &(partials, sums, len)) in args.entry.iter_mut().zip(entries) {
            let floats = partials.len;
            assert!(len > 0 && floats.is_multiple_of(len), "fold: {floats} partial sums for {len} sums");
            *to = FoldEntry { partials: partials.address, sums, blocks: (floats / len) as u32, len: len as u32 };
        }
        let longest = entries.iter().map(|entry| entry.2).max().unwrap_or(0);
        let shared = kernel.threads * size_of::<f64>() as u32;
        program.push(kernel, [blocks(longest, columns), entries.len() as u32, 1], shared, &args);
    }
}
