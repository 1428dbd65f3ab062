//! Batch normalization as per-channel arithmetic: kernels deliver sums per channel, these turn them into coefficients, and
//! kernels apply those coefficients while they read. Refuses to touch an activation. The formulas are those of
//! `darts_ops::batch_norm`; all normalizations of a stage go in one launch, and with them the fold that delivers their sums, where
//! it comes right before.
//!
//! *Coefficients* are a vector mean | rstd | scale | shift of 4·C, *upstream* a vector scale | b | d of 3·C.

use crate::args;
use crate::channels::pointer;
use crate::fold::{self, Fold};
use crate::images::Affine;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static STATISTICS: Kernel = Kernel::new("norm_statistics", 256);
static FROM_RUNNING: Kernel = Kernel::new("norm_from_running", 128);
static BACKWARD: Kernel = Kernel::new("norm_backward", 512);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&STATISTICS, &FROM_RUNNING, &BACKWARD];

const ENTRIES: usize = 40;
/// Channels of a block of `norm_statistics`.
const CHANNELS: u32 = 8;
/// The same of `norm_backward`.
const BACKWARD_CHANNELS: u32 = 16;
/// Partial sums that one block of `norm_backward`, which goes over all channels, folds as fast as many blocks would; and those of a
/// channel, where each block has some of the channels.
const BACKWARD_PARTIALS: usize = 16 * 1024;
const BACKWARD_PARTIALS_OF_CHANNEL: usize = 1024;

args! {
    struct ForwardEntry: 72 {
        sums: u64,
        partials: u64,
        gamma: u64,
        beta: u64,
        running_mean: u64,
        running_var: u64,
        coefficients: u64,
        count: f64,
        channels: u32,
        blocks: u32,
    }

    struct ForwardArgs: 2880 {
        entry: [ForwardEntry; ENTRIES],
    }

    struct BackwardEntry: 88 {
        sums: u64,
        partials: u64,
        coefficients: u64,
        weight: u64,
        upstream: u64,
        d_gamma: u64,
        d_beta: u64,
        d_weight: u64,
        count: f64,
        channels: u32,
        training: u32,
        blocks: u32,
        pad: u32,
    }

    struct BackwardArgs: 3520 {
        entry: [BackwardEntry; ENTRIES],
    }
}

/// Scale and shift out of a vector of coefficients.
///
/// # Panics
/// If its length is no multiple of 4.
pub fn affine(coefficients: View) -> Affine {
    assert!(coefficients.len.is_multiple_of(4), "batch_norm::affine: {} coefficients", coefficients.len);
    let c = coefficients.len / 4;
    Affine { scale: coefficients.slice(2 * c..3 * c), shift: coefficients.slice(3 * c..4 * c) }
}

/// Scale, b and d out of an upstream vector.
///
/// # Panics
/// If its length is no multiple of 3.
pub fn upstream(vector: View) -> [View; 3] {
    assert!(vector.len.is_multiple_of(3), "batch_norm::upstream: {} coefficients", vector.len);
    let c = vector.len / 3;
    [0, 1, 2].map(|i| vector.slice(i * c..(i + 1) * c))
}

/// A normalization by the statistics of the batch itself: training.
#[derive(Debug, Copy, Clone)]
pub struct Statistics {
    /// \[Σz | Σz²\], 2·C.
    pub sums: View<f64>,
    /// Elements of a channel, N·H·W.
    pub count: usize,
    /// γ `[C]`; none: 1.
    pub gamma: Option<View>,
    /// β `[C]`; none: 0.
    pub beta: Option<View>,
    /// Running mean and variance `[C]`, moved towards the batch's where they are given.
    pub running: Option<[View; 2]>,
    /// Coefficients, 4·C, overwritten.
    pub coefficients: View,
}

/// A normalization by running statistics: evaluation.
#[derive(Debug, Copy, Clone)]
pub struct Running {
    /// Running mean and variance `[C]`.
    pub running: [View; 2],
    /// γ `[C]`; none: 1.
    pub gamma: Option<View>,
    /// β `[C]`; none: 0.
    pub beta: Option<View>,
    /// Coefficients, 4·C, overwritten.
    pub coefficients: View,
}

/// The backward of a normalization whose output entered a weighted sum, or of the weighted sum alone.
#[derive(Debug, Copy, Clone)]
pub struct Backward {
    /// \[Σg | Σg·z\] of the gradient g of the sum, 2·C.
    pub sums: View<f64>,
    /// Elements of a channel, N·H·W.
    pub count: usize,
    /// The normalization; none: z entered the sum as it is, and only `d_weight` is wanted.
    pub norm: Option<NormBackward>,
    /// The weight in the sum, one float; none: 1.
    pub weight: Option<View>,
    /// Whether the statistics were the batch's; if not, they are constants.
    pub training: bool,
    /// ∂loss/∂weight, one float, added to.
    pub d_weight: Option<View>,
}

/// The normalization of a [`Backward`].
#[derive(Debug, Copy, Clone)]
pub struct NormBackward {
    /// Coefficients, 4·C, as the forward pass wrote them.
    pub coefficients: View,
    /// scale | b | d of dz = scale·g + b·z + d, 3·C, overwritten.
    pub upstream: View,
    /// ∂loss/∂γ `[C]`, overwritten.
    pub d_gamma: Option<View>,
    /// ∂loss/∂β `[C]`, overwritten.
    pub d_beta: Option<View>,
}

/// Coefficients, and where they are given new running statistics, of all `norms`.
///
/// # Panics
/// If a view does not have the length that the coefficients ask for, or a count is 0.
pub fn statistics(program: &mut Program, norms: &[Statistics]) {
    const OPERATION: &str = "batch_norm::statistics";
    let entry = |norm: &Statistics| {
        let c = norm.coefficients.len / 4;
        assert_eq!(norm.sums.len, 2 * c, "{OPERATION}: sums must hold [Σz | Σz²] of {c} channels");
        assert!(norm.count > 0, "{OPERATION}: no elements to normalize over");
        let entry = forward_entry(OPERATION, norm.coefficients, norm.gamma, norm.beta, norm.running);
        ForwardEntry { sums: norm.sums.address, count: norm.count as f64, ..entry }
    };
    let mut entries: Vec<ForwardEntry> = norms.iter().map(entry).collect();
    let folds = fold::take_last(program, |fold| norms.iter().any(|norm| fold.sums == norm.sums));
    for (entry, norm) in entries.iter_mut().zip(norms) {
        (entry.partials, entry.blocks) = partials(&folds, norm.sums);
    }
    let shared = STATISTICS.threads * size_of::<f64>() as u32;
    push_forward(program, &STATISTICS, CHANNELS, shared, &entries);
}

/// Coefficients of all `norms` from their running statistics, which stay as they are.
///
/// # Panics
/// If a view does not have the length that the coefficients ask for.
pub fn from_running(program: &mut Program, norms: &[Running]) {
    let entry = |norm: &Running| {
        let running = Some(norm.running);
        forward_entry("batch_norm::from_running", norm.coefficients, norm.gamma, norm.beta, running)
    };
    let entries: Vec<ForwardEntry> = norms.iter().map(entry).collect();
    push_forward(program, &FROM_RUNNING, FROM_RUNNING.threads, 0, &entries);
}

/// Address and blocks of the partial sums that add up to `sums`, where they are among `folds`; otherwise zeros.
fn partials(folds: &[Fold], sums: View<f64>) -> (u64, u32) {
    folds
        .iter()
        .find(|fold| fold.sums == sums)
        .map_or((0, 0), |fold| (fold.partials.address, (fold.partials.len / fold.sums.len) as u32))
}

fn forward_entry(
    operation: &str,
    coefficients: View,
    gamma: Option<View>,
    beta: Option<View>,
    running: Option<[View; 2]>,
) -> ForwardEntry {
    let c = coefficients.len / 4;
    assert_eq!(coefficients.len, 4 * c, "{operation}: coefficients of {c} channels");
    for view in [gamma, beta, running.map(|r| r[0]), running.map(|r| r[1])].into_iter().flatten() {
        assert_eq!(view.len, c, "{operation}: γ, β and running statistics must have {c} channels");
    }
    ForwardEntry {
        sums: 0,
        partials: 0,
        gamma: pointer(gamma),
        beta: pointer(beta),
        running_mean: pointer(running.map(|r| r[0])),
        running_var: pointer(running.map(|r| r[1])),
        coefficients: coefficients.address,
        count: 0.0,
        channels: c as u32,
        blocks: 0,
    }
}

/// `channels`: of a block.
fn push_forward(program: &mut Program, kernel: &'static Kernel, channels: u32, shared: u32, entries: &[ForwardEntry]) {
    for entries in entries.chunks(ENTRIES) {
        let mut args = ForwardArgs { entry: [entries[0]; ENTRIES] };
        args.entry[..entries.len()].copy_from_slice(entries);
        let widest = entries.iter().map(|entry| entry.channels).max().unwrap_or(0);
        let grid = [blocks(widest as usize, channels), entries.len() as u32, 1];
        program.push(kernel, grid, shared, &args);
    }
}

/// For each of `norms` the coefficients with which the gradient of the sum reaches z, the gradients of γ and β, and that of
/// the weight: Σ_c scale·S₁ + shift·S₀ of its sums, or Σ_c S₁ without a normalization. No two of them may add to the same
/// `d_weight`.
///
/// # Panics
/// If a view does not have the length that the sums ask for, a count is 0, or two entries add to one weight's gradient.
pub fn backward(program: &mut Program, norms: &[Backward]) {
    const OPERATION: &str = "batch_norm::backward";
    let mut weights: Vec<u64> = norms.iter().filter_map(|norm| norm.d_weight.map(|d| d.address)).collect();
    weights.sort_unstable();
    assert!(weights.windows(2).all(|pair| pair[0] != pair[1]), "{OPERATION}: a weight that stands for two operations");
    // The gradient of a weight is a sum over all channels.
    let one_block = norms.iter().any(|norm| norm.d_weight.is_some());
    let is_short = |fold: &Fold| match one_block {
        true => fold.partials.len <= BACKWARD_PARTIALS,
        false => fold.partials.len <= BACKWARD_PARTIALS_OF_CHANNEL * fold.sums.len,
    };
    let folds = fold::take_last(program, |fold| is_short(fold) && norms.iter().any(|norm| fold.sums == norm.sums));
    for norms in norms.chunks(ENTRIES) {
        let entries: Vec<BackwardEntry> = norms.iter().map(|norm| backward_entry(OPERATION, norm, &folds)).collect();
        let mut args = BackwardArgs { entry: [entries[0]; ENTRIES] };
        args.entry[..entries.len()].copy_from_slice(&entries);
        let shared = BACKWARD.threads * size_of::<f64>() as u32;
        let widest = entries.iter().map(|entry| entry.channels).max().unwrap_or(0);
        let runs = if one_block { 1 } else { blocks(widest as usize, BACKWARD_CHANNELS) };
        program.push(&BACKWARD, [entries.len() as u32, runs, 1], shared, &args);
    }
}

fn backward_entry(operation: &str, backward: &Backward, folds: &[Fold]) -> BackwardEntry {
    let c = backward.sums.len / 2;
    assert_eq!(backward.sums.len, 2 * c, "{operation}: sums must hold [Σg | Σg·z]");
    assert!(backward.count > 0, "{operation}: no elements were normalized");
    assert!(backward.weight.is_none_or(|w| w.len == 1) && backward.d_weight.is_none_or(|w| w.len == 1), "{operation}");
    if let Some(norm) = &backward.norm {
        let lengths = (norm.coefficients.len, norm.upstream.len);
        assert_eq!(lengths, (4 * c, 3 * c), "{operation}: coefficients and upstream of {c} channels");
        let fits = |view: Option<View>| view.is_none_or(|view| view.len == c);
        assert!(fits(norm.d_gamma) && fits(norm.d_beta), "{operation}: gradients of γ and β of {c} channels");
    }
    let (partials, blocks) = partials(folds, backward.sums);
    BackwardEntry {
        sums: backward.sums.address,
        partials,
        coefficients: pointer(backward.norm.map(|norm| norm.coefficients)),
        weight: pointer(backward.weight),
        upstream: pointer(backward.norm.map(|norm| norm.upstream)),
        d_gamma: pointer(backward.norm.and_then(|norm| norm.d_gamma)),
        d_beta: pointer(backward.norm.and_then(|norm| norm.d_beta)),
        d_weight: pointer(backward.d_weight),
        count: backward.count as f64,
        channels: c as u32,
        training: backward.training.into(),
        blocks,
        pad: 0,
    }
}
