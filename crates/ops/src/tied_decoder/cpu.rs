//! What is done to a chunk of logits on the CPU: a row to a task, except column sums, which are a block of columns to a task.

use crate::{
    elementary::exp_nonpositive,
    shared::Shared,
    simd::{InstructionSet, Kernel, Lanes},
};
use rayon::prelude::*;

/// Columns whose maxima and sums run side by side.
const WIDE: usize = 16;
/// Columns that are added up in f32 before the sum goes to f64, in each of the `WIDE` sums: 16 terms.
const PIECE: usize = 16 * WIDE;
/// Columns of a task of `add_column_sums`.
const BLOCK: usize = 64;

/// Σ of the negative log-likelihoods; `logits` \[R, V\], without the bias, are overwritten with their gradients if there is a scale.
pub(super) fn cross_entropy(
    set: InstructionSet,
    bias: &[f32],
    targets: &[u32],
    scale: Option<f64>,
    logits: &mut [f32],
) -> f64 {
    let rows = logits.par_chunks_mut(bias.len()).zip(targets);
    let losses: Vec<f64> = rows
        .map(|(row, &target)| {
            let target = target as usize;
            let likelihood = set.run(Softmax { bias, row, target, scale });
            if let Some(scale) = scale {
                row[target] -= scale as f32;
            }
            likelihood
        })
        .collect();
    losses.iter().sum()
}

/// Adds the bias to `logits` \[R, V\] and makes them logarithms of probabilities.
pub(super) fn log_softmax(set: InstructionSet, bias: &[f32], logits: &mut [f32]) {
    logits.par_chunks_mut(bias.len()).for_each(|row| {
        let target = 0;
        let logarithm = set.run(Softmax { bias, row, target, scale: None }) + f64::from(row[target]);
        row.iter_mut().for_each(|logit| *logit = (f64::from(*logit) - logarithm) as f32);
    });
}

/// `log Σ_v e^l[v] − l[target]` of one row, after the bias was added to it. With a scale the row becomes scale·softmax.
struct Softmax<'a> {
    bias: &'a [f32],
    row: &'a mut [f32],
    target: usize,
    scale: Option<f64>,
}

impl Kernel for Softmax<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> f64 {
        let Self { bias, row, target, scale } = self;
        let largest = add_and_max(bias, row);
        let logit = f64::from(row[target]);
        let mut sum = 0.0;
        if scale.is_some() {
            for piece in row.chunks_mut(PIECE) {
                sum += exp_in_place::<L>(piece, largest);
            }
        } else {
            let mut copy = [0.0; PIECE];
            for piece in row.chunks(PIECE) {
                let copy = &mut copy[..piece.len()];
                copy.copy_from_slice(piece);
                sum += exp_in_place::<L>(copy, largest);
            }
        }
        if let Some(scale) = scale {
            let factor = (scale / sum) as f32;
            row.iter_mut().for_each(|value| *value *= factor);
        }
        sum.ln() + f64::from(largest) - logit
    }
}

/// Adds the bias and returns the largest logit; NaN if one is NaN.
#[inline(always)]
fn add_and_max(bias: &[f32], row: &mut [f32]) -> f32 {
    let bias = &bias[..row.len()];
    let mut largest = [f32::NEG_INFINITY; WIDE];
    let (wide, rest) = row.as_chunks_mut::<WIDE>();
    let (wide_bias, rest_bias) = bias.as_chunks::<WIDE>();
    for (values, bias) in wide.iter_mut().zip(wide_bias) {
        for i in 0..WIDE {
            values[i] += bias[i];
            // Written so that a NaN, once there, stays.
            largest[i] = if values[i] <= largest[i] { largest[i] } else { values[i] };
        }
    }
    for (value, bias) in rest.iter_mut().zip(rest_bias) {
        *value += bias;
        largest[0] = if *value <= largest[0] { largest[0] } else { *value };
    }
    let keep = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
    largest.into_iter().fold(f32::NEG_INFINITY, keep)
}

/// Makes at most `PIECE` logits e^(l − largest) and returns their sum.
#[inline(always)]
fn exp_in_place<L: Lanes>(piece: &mut [f32], largest: f32) -> f64 {
    let mut sums = [0f32; WIDE];
    let (wide, rest) = piece.as_chunks_mut::<WIDE>();
    for values in wide {
        for i in 0..WIDE {
            values[i] = exp_nonpositive::<L>(values[i] - largest);
            sums[i] += values[i];
        }
    }
    let mut sum = 0.0;
    for value in rest {
        *value = exp_nonpositive::<L>(*value - largest);
        sum += f64::from(*value);
    }
    sum + sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()
}

/// sums\[v\] += Σ_r values\[r,v\].
pub(super) fn add_column_sums(set: InstructionSet, values: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    let shared = Shared::new(sums);
    (0..columns.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
        let range = block * BLOCK..columns.min((block + 1) * BLOCK);
        // SAFETY: blocks are disjoint.
        let sums = unsafe { shared.part(range.clone()) };
        set.run(ColumnSums { values, columns, first: range.start, sums });
    });
}

struct ColumnSums<'a> {
    values: &'a [f32],
    columns: usize,
    first: usize,
    sums: &'a mut [f32],
}

impl Kernel for ColumnSums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let mut totals = [0f64; BLOCK];
        let width = self.sums.len();
        for row in self.values.chunks_exact(self.columns) {
            for (total, &value) in totals.iter_mut().zip(&row[self.first..self.first + width]) {
                *total += f64::from(value);
            }
        }
        for (sum, total) in self.sums.iter_mut().zip(totals) {
            *sum = (f64::from(*sum) + total) as f32;
        }
    }
}
