//! What a pass through a network works on: a workspace, the flat vectors it reads, and the gradients it writes.
//!
//! Nothing here computes; the pass only hands out views. Which statistics normalize, and whether they are updated, is
//! said by the caller ([`Statistics`]), never inferred.

use std::ops::Range;

use darts_ops::batch_norm::Coefficients;
use darts_ops::{Affine, Arena, Images, Plan, Slot, Write};

use super::build::{Buffer, Geometry};

/// The memory of a network: every activation of a forward pass, kept for the backward one, and the gradients.
///
/// Made by [`ConvNetwork::workspace`](super::ConvNetwork::workspace) for a largest batch; smaller batches use a part of it.
pub struct Workspace {
    pub(crate) activations: Arena,
    pub(crate) channels: Arena,
    pub(crate) capacity: usize,
    pub(crate) batch: usize,
    /// Whether the last forward pass normalized by the batch's own statistics.
    pub(crate) normalized_by_batch: bool,
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace")
            .field("capacity", &self.capacity)
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl Workspace {
    pub(crate) fn new(activations: &Plan, channels: &Plan, capacity: usize) -> Self {
        Self {
            activations: Arena::new(&activations.scaled(capacity)),
            channels: Arena::new(channels),
            capacity,
            batch: capacity,
            normalized_by_batch: false,
        }
    }

    /// Notes what the coming forward pass, and the backward pass after it, work on.
    pub(crate) fn begin(&mut self, batch: usize, statistics: &Statistics) {
        self.batch = batch;
        self.normalized_by_batch = matches!(statistics, Statistics::Batch { .. });
    }

    /// The largest batch this workspace was planned for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Samples of the last forward pass.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.activations.len() + self.channels.len())
    }

    pub(crate) fn slot(&self, buffer: &Buffer) -> Slot {
        self.scaled(buffer.slot)
    }

    pub(crate) fn scaled(&self, per_sample: Slot) -> Slot {
        per_sample.scaled(self.capacity, self.batch)
    }

    /// As much of a scaled temporary as `like` has.
    pub(crate) fn exact(&self, temporary: Slot, like: &Buffer) -> Slot {
        temporary.first(like.shape.len() * self.batch)
    }

    pub(crate) fn images(&self, shape: Geometry) -> Images {
        shape.images(self.batch)
    }
}

/// The statistics that batch normalization uses in a pass.
#[derive(Debug)]
pub enum Statistics<'a> {
    /// The batch's own (training); `update` receives running ← 0.9·running + 0.1·batch where it is given.
    Batch {
        /// The flat vector of running statistics to update.
        update: Option<&'a mut [f32]>,
    },
    /// The running ones (evaluation).
    Running(&'a [f32]),
}

/// What a forward pass reads.
#[derive(Clone, Copy, Debug)]
pub struct ForwardInput<'a> {
    /// Normalized images, `[N, H, W, C]`.
    pub images: &'a [f32],
    /// N.
    pub batch: usize,
    /// The flat parameters θ.
    pub theta: &'a [f32],
    /// Operation weights, `[2·edges, operations]`, normal cell first; empty for a discrete network.
    pub weights: &'a [f32],
    /// Which (edge, operation) pairs are computed, in the layout of `weights`; `None`: all of them.
    pub active: Option<&'a [bool]>,
    /// Path-dropout factors `[operations, N]`, already divided by the keep probability; `None`: nothing is dropped.
    pub masks: Option<&'a [f32]>,
}

impl ForwardInput<'_> {
    pub(crate) fn is_active(&self, weight: Option<usize>) -> bool {
        match (self.active, weight) {
            (Some(active), Some(i)) => active[i],
            _ => true,
        }
    }

    /// The weight of an operation; 1 in a discrete network.
    pub(crate) fn weight(&self, weight: Option<usize>) -> f32 {
        weight.map_or(1.0, |i| self.weights[i])
    }

    pub(crate) fn mask(&self, mask: Option<usize>) -> Option<&[f32]> {
        Some(&self.masks?[mask? * self.batch..][..self.batch])
    }
}

/// Where a backward pass writes; each vector that is given is overwritten.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// ∂loss/∂θ.
    pub theta: Option<&'a mut [f32]>,
    /// ∂loss/∂(operation weights).
    pub weights: Option<&'a mut [f32]>,
    /// ∂loss/∂images, `[N, H, W, C]`.
    pub images: Option<&'a mut [f32]>,
}

pub(crate) struct Forward<'a> {
    pub(crate) ws: &'a mut Workspace,
    pub(crate) input: ForwardInput<'a>,
    pub(crate) statistics: Statistics<'a>,
}

impl Forward<'_> {
    /// Room for a kernel's sums Σz, Σz², where this pass normalizes by the batch.
    pub(crate) fn sums(&self, channels: usize) -> Option<Vec<f64>> {
        matches!(self.statistics, Statistics::Batch { .. }).then(|| vec![0.0; 2 * channels])
    }
}

pub(crate) struct Backward<'a> {
    pub(crate) ws: &'a mut Workspace,
    pub(crate) input: ForwardInput<'a>,
    pub(crate) theta: Option<&'a mut [f32]>,
    pub(crate) weights: Option<&'a mut [f32]>,
    /// Which gradient buffers hold something, by `Buffer::id`.
    pub(crate) written: Vec<bool>,
    pub(crate) temporaries: &'a [Slot],
}

impl<'a> Backward<'a> {
    /// A pass that has written nothing yet; the vectors that are given start at zero, which is what operations that are not
    /// computed leave.
    pub(crate) fn new(
        ws: &'a mut Workspace,
        input: ForwardInput<'a>,
        mut theta: Option<&'a mut [f32]>,
        mut weights: Option<&'a mut [f32]>,
        buffers: usize,
        temporaries: &'a [Slot],
    ) -> Self {
        for vector in [&mut theta, &mut weights].into_iter().flatten() {
            vector.fill(0.0);
        }
        Self { ws, input, theta, weights, written: vec![false; buffers], temporaries }
    }

    /// How the next contribution to `gradient` is to be written: the first one overwrites.
    pub(crate) fn write_to(&mut self, gradient: &Buffer) -> Write {
        if std::mem::replace(&mut self.written[gradient.id], true) { Write::Accumulate } else { Write::Overwrite }
    }

    /// Makes a gradient that nothing has contributed to zero.
    pub(crate) fn ensure(&mut self, gradient: &Buffer) {
        if let Write::Overwrite = self.write_to(gradient) {
            let slot = self.ws.slot(gradient);
            self.ws.activations.write(slot).fill(0.0);
        }
    }
}

/// Mutable views of `ranges` of `data`, in the order given. The ranges must not overlap.
pub(crate) fn disjoint<'a>(mut data: &'a mut [f32], ranges: &[Range<usize>]) -> Vec<&'a mut [f32]> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].start);
    let mut views: Vec<Option<&mut [f32]>> = ranges.iter().map(|_| None).collect();
    let mut start = 0;
    for i in order {
        let (_, rest) = data.split_at_mut(ranges[i].start - start);
        let (view, rest) = rest.split_at_mut(ranges[i].len());
        views[i] = Some(view);
        data = rest;
        start = ranges[i].end;
    }
    views.into_iter().flatten().collect()
}

/// Views of four consecutive vectors of C floats as a batch norm's coefficients.
pub(crate) fn coefficients(vector: &mut [f32], channels: usize) -> Coefficients<'_> {
    let (mean, rest) = vector.split_at_mut(channels);
    let (rstd, rest) = rest.split_at_mut(channels);
    let (scale, shift) = rest.split_at_mut(channels);
    Coefficients { mean, rstd, scale, shift }
}

/// Scale and shift out of the same vector.
pub(crate) fn affine(vector: &[f32], channels: usize) -> Affine<'_> {
    Affine { scale: &vector[2 * channels..3 * channels], shift: &vector[3 * channels..4 * channels] }
}
