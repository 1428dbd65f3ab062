//! A pass that is being laid down: where buffers lie, which gradients hold something already, what is free to be used between
//! two launches.

use std::ops::Range;

use darts_cuda::fold::Pending;
use darts_cuda::{Images, Pod, Program, View, Write, vector};
use darts_ops::Slot;

use super::DeviceConvPass;
use super::places::{ALIGNMENT, Between, Places};
use crate::conv::build::{Buffer, Geometry};
use crate::device::DeviceStatistics;

/// A pass that is being laid down.
pub(super) struct Lower<'a> {
    pub(super) program: &'a mut Program,
    pub(super) pass: DeviceConvPass,
    pub(super) batch: usize,
    places: &'a Places,
    /// Buffers that lie where the caller says, by `Buffer::id`.
    elsewhere: Vec<(usize, View)>,
    /// Which gradient buffers hold something, by `Buffer::id`.
    written: Vec<bool>,
    /// Partial gradients of weights.
    pub(super) pending: Pending,
    scratch: Range<u64>,
    next: u64,
    most: u64,
}

impl<'a> Lower<'a> {
    pub(super) fn new(
        places: &'a Places,
        batch: usize,
        pass: DeviceConvPass,
        elsewhere: Vec<(usize, View)>,
        program: &'a mut Program,
    ) -> Self {
        let scratch = places.scratch();
        Self {
            program,
            pass,
            batch,
            places,
            elsewhere,
            written: vec![false; places.count()],
            pending: Pending::new(places.partials()),
            next: scratch.start,
            most: scratch.start,
            scratch,
        }
    }

    /// What the pass took at most of the memory that its kernels need between their launches.
    pub(super) fn needed(&self) -> Between {
        Between { scratch: self.most - self.scratch.start, partials: self.pending.most() }
    }

    /// Whether the pass normalizes by the statistics of its batch.
    pub(super) fn by_batch(&self) -> bool {
        matches!(self.pass.statistics, DeviceStatistics::Batch { .. })
    }

    pub(super) fn view(&self, buffer: &Buffer) -> View {
        let elsewhere = self.elsewhere.iter().find(|(id, _)| *id == buffer.id);
        elsewhere.map_or_else(|| self.places.buffer(buffer, self.batch), |&(_, view)| view)
    }

    pub(super) fn views(&self, buffers: &[Buffer]) -> Vec<View> {
        buffers.iter().map(|buffer| self.view(buffer)).collect()
    }

    /// Scratch memory for what `like` has.
    pub(super) fn take_like(&mut self, like: &Buffer) -> View {
        self.take(like.shape.len() * self.batch)
    }

    pub(super) fn channels(&self, slot: Slot) -> View {
        self.places.channels(slot)
    }

    pub(super) fn images(&self, shape: Geometry) -> Images {
        Images { n: self.batch, h: shape.h, w: shape.w, c: shape.c }
    }

    pub(super) fn theta(&self, range: &Range<usize>) -> View {
        self.pass.theta.slice(range.clone())
    }

    pub(super) fn d_theta(&self, range: &Range<usize>) -> Option<View> {
        self.pass.gradients.theta.map(|theta| theta.slice(range.clone()))
    }

    /// The weight of an operation; none: 1.
    pub(super) fn weight(&self, weight: Option<usize>) -> Option<View> {
        weight.map(|index| self.pass.weights.slice(index..index + 1))
    }

    pub(super) fn d_weight(&self, weight: Option<usize>) -> Option<View> {
        let (weights, index) = (self.pass.gradients.weights?, weight?);
        Some(weights.slice(index..index + 1))
    }

    pub(super) fn mask(&self, mask: Option<usize>) -> Option<View> {
        let (masks, index) = (self.pass.masks?, mask?);
        Some(masks.slice(index * self.batch..(index + 1) * self.batch))
    }

    /// How the next contribution to `gradient` is to be written: the first one overwrites.
    pub(super) fn write_to(&mut self, gradient: &Buffer) -> Write {
        if std::mem::replace(&mut self.written[gradient.id], true) { Write::Accumulate } else { Write::Overwrite }
    }

    /// The same for gradients that one kernel contributes to: where only some of them hold something, the others become 0.
    pub(super) fn write_to_all(&mut self, gradients: &[Buffer]) -> Write {
        if gradients.iter().any(|gradient| self.written[gradient.id]) {
            gradients.iter().for_each(|gradient| self.ensure(gradient));
            return Write::Accumulate;
        }
        gradients.iter().for_each(|gradient| self.written[gradient.id] = true);
        Write::Overwrite
    }

    /// Makes a gradient that nothing has contributed to zero.
    pub(super) fn ensure(&mut self, gradient: &Buffer) {
        if self.write_to(gradient) == Write::Overwrite {
            let view = self.view(gradient);
            vector::fill(self.program, view, 0.0);
        }
    }

    /// Where the scratch memory that is in use ends: everything that is taken from now on is free again after
    /// [`Lower::release`]. Launches run in their order, so a place may be used again by the next.
    pub(super) fn mark(&self) -> u64 {
        self.next
    }

    pub(super) fn release(&mut self, mark: u64) {
        self.next = mark;
    }

    /// Scratch memory for `len` elements.
    pub(super) fn take<T: Pod>(&mut self, len: usize) -> View<T> {
        let view = View::<T>::at(self.next, len);
        self.next += (view.bytes() as u64).next_multiple_of(ALIGNMENT);
        // It was measured when the places were planned.
        assert!(self.next <= self.scratch.end, "more scratch memory than was planned");
        self.most = self.most.max(self.next);
        view
    }

    /// Adds up the partial gradients of weights that wait for it.
    pub(super) fn fold_pending(&mut self) {
        self.pending.fold(self.program);
    }

    /// Room for a kernel's sums [Σz | Σz²], where this pass normalizes by the batch.
    pub(super) fn sums(&mut self, channels: usize) -> Option<View<f64>> {
        self.by_batch().then(|| self.take(2 * channels))
    }
}
