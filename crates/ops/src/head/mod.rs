//! What stands between a network's last cell and its loss: the global average pool over a cell's output, and the
//! cross-entropy. Refuses to hold the linear layer between them, which is a 1×1 [`conv`](crate::conv) whose pixels are the samples.
//!
//! Axes: N images, P = H·W pixels, K features or classes. A cell's output comes as parts `[N, H, W, C_i]`, K = ΣC_i.

use crate::images::{Images, Write};
use crate::profile::{self, Work};
use crate::simd::InstructionSet;

mod cpu;
pub mod reference;
#[cfg(test)]
mod tests;

/// out\[n, k\] = mean over the pixels of image n of channel k of the concatenated parts. `images.c` plays no part: the parts'
/// lengths say how many channels they have.
///
/// # Shapes
/// parts `[N, H, W, C_i]`; out `[N, ΣC_i]`, overwritten.
///
/// # Panics
/// If the lengths do not fit.
pub fn global_average_pool(images: Images, parts: &[&[f32]], out: &mut [f32]) {
    global_average_pool_on(InstructionSet::selected(), images, parts, out);
}

/// [`global_average_pool`] on a given instruction set.
///
/// # Panics
/// As [`global_average_pool`].
pub fn global_average_pool_on(set: InstructionSet, images: Images, parts: &[&[f32]], out: &mut [f32]) {
    check("head::global_average_pool", images, parts.iter().map(|part| part.len()), out.len());
    let _span = profile::span("head pool forward", || {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        Work { flops: len, floats: len + out.len() }
    });
    cpu::pool(set, images, parts, out);
}

/// Spreads the gradient of the pooled features over the pixels: d_part\[n, p, k\] (+)= d_out\[n, k\] / P, as `write` says.
///
/// # Shapes
/// As [`global_average_pool`].
///
/// # Panics
/// If the lengths do not fit.
pub fn global_average_pool_backward(images: Images, d_out: &[f32], d_parts: &mut [&mut [f32]], write: Write) {
    check("head::global_average_pool_backward", images, d_parts.iter().map(|part| part.len()), d_out.len());
    let _span = profile::span("head pool backward", || {
        let len: usize = d_parts.iter().map(|part| part.len()).sum();
        Work { flops: len, floats: len + d_out.len() }
    });
    cpu::pool_backward(images, d_out, d_parts, write);
}

fn check(operation: &str, images: Images, parts: impl Iterator<Item = usize>, features: usize) {
    let pixels = images.pixels();
    assert!(pixels > 0, "{operation}: no pixels to average over in {images:?}");
    let mut channels = 0;
    for len in parts {
        assert!(len.is_multiple_of(pixels), "{operation}: a part of {len} floats in {images:?}");
        channels += len / pixels;
    }
    assert_eq!(features, images.n * channels, "{operation}: features [{}, {channels}]", images.n);
}

/// What [`cross_entropy`] returns.
#[derive(Debug, Copy, Clone, PartialEq)]
pub struct CrossEntropy {
    /// Mean over the samples, without `weight`.
    pub loss: f64,
    /// Samples whose largest logit is that of their label (the first of equal ones counts).
    pub correct: usize,
}

/// Mean cross-entropy of softmax(logits) with the targets (1 − ε)·onehot(label) + ε/K, ε = `label_smoothing`:
///
/// loss = 1/N · Σ_n (log Σ_k e^l\[n,k\] − (1 − ε)·l\[n,label_n\] − ε/K · Σ_k l\[n,k\]).
///
/// `d_logits`, where given, is overwritten with `weight` times the gradient of that:
/// weight/N · (softmax(l\[n\])\[k\] − target\[n,k\]). All arithmetic is in f64.
///
/// # Shapes
/// logits, d_logits `[N, K]`; labels N.
///
/// # Panics
/// If the lengths do not fit, or a label is not below K.
pub fn cross_entropy(
    logits: &[f32],
    labels: &[u32],
    label_smoothing: f64,
    weight: f64,
    mut d_logits: Option<&mut [f32]>,
) -> CrossEntropy {
    const OPERATION: &str = "head::cross_entropy";
    let n = labels.len();
    if n == 0 {
        assert!(logits.is_empty(), "{OPERATION}: logits of 0 samples");
        return CrossEntropy { loss: 0.0, correct: 0 };
    }
    assert!(
        logits.len().is_multiple_of(n) && !logits.is_empty(),
        "{OPERATION}: {} logits of {n} samples",
        logits.len()
    );
    assert!(d_logits.as_ref().is_none_or(|d| d.len() == logits.len()), "{OPERATION}: gradient of the logits");
    let classes = logits.len() / n;
    let mut result = CrossEntropy { loss: 0.0, correct: 0 };
    for (row, (logits, &label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
        let label = label as usize;
        assert!(label < classes, "{OPERATION}: label {label} of {classes} classes");
        let gradient = d_logits.as_deref_mut().map(|d| &mut d[row * classes..][..classes]);
        let sample = Sample { logits, label, label_smoothing };
        result.loss += sample.loss(weight / n as f64, gradient);
        result.correct += usize::from(sample.largest() == label);
    }
    result.loss /= n as f64;
    result
}

/// One row of logits and its target.
struct Sample<'a> {
    logits: &'a [f32],
    label: usize,
    label_smoothing: f64,
}

impl Sample<'_> {
    /// The loss of the sample; `gradient` becomes `scale` times its gradient.
    fn loss(&self, scale: f64, gradient: Option<&mut [f32]>) -> f64 {
        let k = self.logits.len() as f64;
        let logits = || self.logits.iter().map(|&l| f64::from(l));
        let top = logits().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits().map(|l| (l - top).exp()).sum();
        if let Some(gradient) = gradient {
            for (index, (d, l)) in gradient.iter_mut().zip(logits()).enumerate() {
                let hot = if index == self.label { 1.0 - self.label_smoothing } else { 0.0 };
                *d = (scale * ((l - top).exp() / total - hot - self.label_smoothing / k)) as f32;
            }
        }
        // Differences from the top: a large common offset of the logits costs no digits.
        let label = f64::from(self.logits[self.label]) - top;
        let mean = if self.label_smoothing == 0.0 { 0.0 } else { logits().map(|l| l - top).sum::<f64>() / k };
        total.ln() - (1.0 - self.label_smoothing) * label - self.label_smoothing * mean
    }

    fn largest(&self) -> usize {
        let mut best = 0;
        for (index, logit) in self.logits.iter().enumerate() {
            if *logit > self.logits[best] {
                best = index;
            }
        }
        best
    }
}
