//! What stands between a network's last cell and its loss: the global average pool over a cell's output, and the
//! cross-entropy. Refuses to hold the linear layer between them.
//!
//! Axes: N images, P = H·W pixels, K features or classes. A cell's output comes as parts `[N, H, W, C_i]`, K = ΣC_i. The formulas
//! are those of `darts_ops::head`.

use crate::args;
use crate::channels::pointer;
use crate::images::{Images, Write};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static POOL: Kernel = Kernel::new("head_pool", 256);
static POOL_BACKWARD: Kernel = Kernel::new("head_pool_backward", 256);
static CROSS_ENTROPY: Kernel = Kernel::new("head_cross_entropy", 128);
static LOSS: Kernel = Kernel::new("head_loss", 128);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&POOL, &POOL_BACKWARD, &CROSS_ENTROPY, &LOSS];

const PARTS: usize = 64;
/// Channels that a block of the forward pool takes.
const CHANNELS: u32 = 32;
/// Floats that a thread of the backward pool writes.
const FLOATS: usize = 4;

args! {
    struct Part: 16 {
        part: u64,
        channels: u32,
        first: u32,
    }

    struct PoolArgs: 1048 {
        features: u64,
        pixels: u32,
        total: u32,
        chunk: u32,
        accumulate: u32,
        part: [Part; PARTS],
    }

    struct CrossEntropyArgs: 56 {
        logits: u64,
        labels: u64,
        d_logits: u64,
        samples: u64,
        label_smoothing: f64,
        scale: f64,
        classes: u32,
        pad: u32,
    }

    struct LossArgs: 40 {
        samples: u64,
        result: u64,
        weight: f64,
        n: u32,
        accumulate: u32,
        counts: u32,
        pad: u32,
    }
}

/// out\[n, k\] = mean over the pixels of image n of channel k of the concatenated parts. `images.c` plays no part: the parts'
/// lengths say how many channels they have.
///
/// # Shapes
/// parts `[N, H, W, C_i]`; out `[N, ΣC_i]`, overwritten.
///
/// # Panics
/// If the lengths do not fit.
pub fn global_average_pool(program: &mut Program, images: Images, parts: &[View], out: View) {
    for (args, widest, count) in pool_args("head::global_average_pool", images, parts, out, Write::Overwrite) {
        let grid = [blocks(widest, CHANNELS), images.n as u32, count];
        program.push(&POOL, grid, POOL.threads * size_of::<f32>() as u32, &args);
    }
}

/// Spreads the gradient of the pooled features over the pixels: d_part\[n, p, k\] (+)= d_out\[n, k\] / P, as `write` says.
///
/// # Shapes
/// As [`global_average_pool`].
///
/// # Panics
/// If the lengths do not fit.
pub fn global_average_pool_backward(
    program: &mut Program,
    images: Images,
    d_out: View,
    d_parts: &[View],
    write: Write,
) {
    for (args, _, count) in pool_args("head::global_average_pool_backward", images, d_parts, d_out, write) {
        let grid = [blocks(images.image_pixels(), args.chunk), images.n as u32, count];
        program.push(&POOL_BACKWARD, grid, 0, &args);
    }
}

/// Arguments, channels of the widest part and number of parts of every launch.
fn pool_args(
    operation: &str,
    images: Images,
    parts: &[View],
    features: View,
    write: Write,
) -> Vec<(PoolArgs, usize, u32)> {
    let pixels = images.pixels();
    assert!(pixels > 0, "{operation}: no pixels to average over in {images:?}");
    let mut total = 0;
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        assert!(part.len.is_multiple_of(pixels), "{operation}: a part of {} floats in {images:?}", part.len);
        let channels = part.len / pixels;
        all.push(Part { part: part.address, channels: channels as u32, first: total as u32 });
        total += channels;
    }
    assert_eq!(features.len, images.n * total, "{operation}: features [{}, {total}]", images.n);
    let launch = |parts: &[Part]| {
        let widest = parts.iter().map(|part| part.channels).max().unwrap_or(0);
        let mut part = [parts[0]; PARTS];
        part[..parts.len()].copy_from_slice(parts);
        let args = PoolArgs {
            features: features.address,
            pixels: images.image_pixels() as u32,
            total: total as u32,
            chunk: (FLOATS * POOL_BACKWARD.threads as usize).div_ceil(widest.max(1) as usize) as u32,
            accumulate: write.flag(),
            part,
        };
        (args, widest as usize, parts.len() as u32)
    };
    all.chunks(PARTS).map(launch).collect()
}

/// What a [`cross_entropy`] does beside computing the loss of every sample.
#[derive(Debug, Copy, Clone)]
pub struct CrossEntropy {
    /// ε of the targets (1 − ε)·onehot + ε/K.
    pub label_smoothing: f64,
    /// Factor of the loss in `result` and of the gradient.
    pub weight: f64,
    /// Whether right answers count in `result`: not those of an auxiliary head.
    pub counts: bool,
    /// What happens to the former `result`.
    pub write: Write,
}

/// Mean cross-entropy of softmax(logits) with the targets (1 − ε)·onehot(label) + ε/K:
///
/// loss = 1/N · Σ_n (log Σ_k e^l\[n,k\] − (1 − ε)·l\[n,label_n\] − ε/K · Σ_k l\[n,k\]).
///
/// `d_logits`, where given, is overwritten with `weight` times its gradient. `result` = \[weight·loss | right answers\]; a label is
/// right if its logit is the first of the largest. All arithmetic is in f64.
///
/// # Shapes
/// logits, d_logits `[N, K]`; labels N, each less than K (which only who fills them can check); `samples` 2·N, overwritten:
/// scratch; result 2.
///
/// # Panics
/// If the lengths do not fit.
pub fn cross_entropy(
    program: &mut Program,
    logits: View,
    labels: View<u32>,
    config: CrossEntropy,
    d_logits: Option<View>,
    samples: View<f64>,
    result: View<f64>,
) {
    const OPERATION: &str = "head::cross_entropy";
    let n = labels.len;
    assert!(
        n > 0 && logits.len > 0 && logits.len.is_multiple_of(n),
        "{OPERATION}: {} logits of {n} samples",
        logits.len
    );
    assert!(d_logits.is_none_or(|d| d.len == logits.len), "{OPERATION}: gradient of the logits");
    assert_eq!((samples.len, result.len), (2 * n, 2), "{OPERATION}: lengths of samples and result");
    let args = CrossEntropyArgs {
        logits: logits.address,
        labels: labels.address,
        d_logits: pointer(d_logits),
        samples: samples.address,
        label_smoothing: config.label_smoothing,
        scale: config.weight / n as f64,
        classes: (logits.len / n) as u32,
        pad: 0,
    };
    let shared = CROSS_ENTROPY.threads * (size_of::<f64>() + size_of::<u32>()) as u32;
    program.push(&CROSS_ENTROPY, [n as u32, 1, 1], shared, &args);
    let args = LossArgs {
        samples: samples.address,
        result: result.address,
        weight: config.weight,
        n: n as u32,
        accumulate: config.write.flag(),
        counts: config.counts.into(),
        pad: 0,
    };
    program.push(&LOSS, [1, 1, 1], LOSS.threads / 32 * size_of::<f64>() as u32, &args);
}
