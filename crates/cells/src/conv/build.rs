//! Building a network: the tables of parameters and statistics, the plan of the arenas, and the multiply-adds, grow together.
//!
//! Sizes of activations are planned per sample, so that one network serves workspaces of any batch. Refuses nothing:
//! whether a network makes sense is checked by what calls it.

use darts_ops::{Images, Plan, Slot};

use crate::parameters::{Init, Table};
use std::ops::Range;

/// Height, width and channels of one sample's activation, stored `[H, W, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c: usize,
}

impl Geometry {
    pub(crate) fn pixels(self) -> usize {
        self.h * self.w
    }

    pub(crate) fn len(self) -> usize {
        self.pixels() * self.c
    }

    pub(crate) fn with_channels(self, c: usize) -> Self {
        Self { c, ..self }
    }

    /// ⌈H/s⌉ × ⌈W/s⌉, the size that every padded operation of stride s gives.
    pub(crate) fn strided(self, stride: usize) -> Self {
        Self { h: self.h.div_ceil(stride), w: self.w.div_ceil(stride), ..self }
    }

    pub(crate) fn images(self, n: usize) -> Images {
        Images { n, h: self.h, w: self.w, c: self.c }
    }
}

/// An activation: where it lies in the arena (planned for one sample) and its shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buffer {
    pub(crate) slot: Slot,
    pub(crate) shape: Geometry,
    /// Its number among all activations of the network.
    pub(crate) id: usize,
}

/// What grows while a network is built.
#[derive(Default)]
pub(crate) struct Builder {
    pub(crate) parameters: Table,
    pub(crate) statistics: Table,
    pub(crate) activations: Plan,
    pub(crate) channels: Plan,
    pub(crate) multiply_adds: u64,
    /// Floats of each activation per sample, by `Buffer::id`.
    pub(crate) buffers: Vec<usize>,
    /// Lengths, per sample, of the largest set of temporaries that any stage's backward needs at once.
    temporaries: Vec<usize>,
    /// Room for activations that are computed twice instead of kept.
    transients: Vec<Slot>,
}

impl Builder {
    /// Plans an activation of `shape`.
    pub(crate) fn buffer(&mut self, shape: Geometry) -> Buffer {
        let slot = self.activations.reserve(shape.len());
        self.identified(slot, shape)
    }

    /// The `index`-th activation that a stage computes, uses and gives up: all stages share its room.
    pub(crate) fn transient(&mut self, index: usize, shape: Geometry) -> Buffer {
        if self.transients.len() <= index {
            self.transients.resize(index + 1, Slot::default());
        }
        if self.transients[index].len() < shape.len() {
            // A room that turns out too small stays with those that were planned in it: activations shrink from cell to cell.
            self.transients[index] = self.activations.reserve(shape.len());
        }
        self.identified(self.transients[index].first(shape.len()), shape)
    }

    fn identified(&mut self, slot: Slot, shape: Geometry) -> Buffer {
        self.buffers.push(shape.len());
        Buffer { slot, shape, id: self.buffers.len() - 1 }
    }

    /// Plans a vector of per-channel coefficients.
    pub(crate) fn channel_vector(&mut self, len: usize) -> Slot {
        self.channels.reserve(len)
    }

    /// Asks that `lengths[i]` floats per sample be there as the i-th temporary of a backward stage.
    pub(crate) fn need_temporaries(&mut self, lengths: impl IntoIterator<Item = usize>) {
        for (i, len) in lengths.into_iter().enumerate() {
            if i == self.temporaries.len() {
                self.temporaries.push(0);
            }
            self.temporaries[i] = self.temporaries[i].max(len);
        }
    }

    /// Plans the temporaries that all stages share.
    pub(crate) fn reserve_temporaries(&mut self) -> Vec<Slot> {
        let lengths = std::mem::take(&mut self.temporaries);
        lengths.into_iter().map(|len| self.activations.reserve(len)).collect()
    }

    /// A convolution weight `[out, in/groups, kh, kw]`.
    pub(crate) fn conv_weight(&mut self, name: String, shape: [usize; 4]) -> Range<usize> {
        self.parameters.push(name, &shape, Init::conv(&shape))
    }
}

/// `prefix.leaf`; the leaf alone where there is no prefix.
pub(crate) fn join(prefix: &str, leaf: &str) -> String {
    if prefix.is_empty() { leaf.to_owned() } else { format!("{prefix}.{leaf}") }
}
