//! A batch and the pool that its buffers come from and go back to. It refuses to keep more buffers than were reserved.
//!
//! A batch has one of two forms: floats, as a network reads them, or bytes with what was drawn for each image, of which a device
//! makes the same floats.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataset::ImageSize;
use crate::transform::Draw;

/// Images and labels of one step. Its buffers go back to the loader when it is dropped.
pub struct Batch {
    buffers: Buffers,
    step: u64,
    size: ImageSize,
    pool: Pool,
}

#[derive(Default)]
struct Buffers {
    images: Vec<f32>,
    pixels: Vec<u8>,
    draws: Vec<Draw>,
    labels: Vec<u32>,
}

/// What the images of a batch are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// Normalized floats.
    #[default]
    Floats,
    /// Bytes at the network's size, and what is still to be done to them.
    Bytes,
}

/// An example's place in a batch, to be overwritten.
pub(super) enum Place<'a> {
    Floats(&'a mut [f32]),
    Bytes(&'a mut [u8], &'a mut Draw),
}

impl Buffers {
    fn resize(&mut self, form: Form, count: usize, size: ImageSize) {
        match form {
            Form::Floats => self.images.resize(count * size.len(), 0.0),
            Form::Bytes => {
                self.pixels.resize(count * size.len(), 0);
                self.draws.resize(count, Draw::default());
            }
        }
        self.labels.resize(count, 0);
    }
}

impl Batch {
    /// Normalized images, `[N, H, W, 3]`; none in a batch of bytes.
    pub fn images(&self) -> &[f32] {
        &self.buffers.images
    }

    /// Images as bytes, `[N, H, W, 3]`; none in a batch of floats.
    pub fn pixels(&self) -> &[u8] {
        &self.buffers.pixels
    }

    /// What is still to be done to each image, `[N]`: colours, shift, mirror, cutout ([`Transform::apply`](crate::transform::Transform::apply)); none
    /// in a batch of floats.
    pub fn draws(&self) -> &[Draw] {
        &self.buffers.draws
    }

    /// Labels, `[N]`.
    pub fn labels(&self) -> &[u32] {
        &self.buffers.labels
    }

    /// Number of examples N.
    pub fn len(&self) -> usize {
        self.buffers.labels.len()
    }

    /// True when there are no examples; a loader makes no such batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Which batch of the epoch (or of the random stream) this is, from 0.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Size of the images.
    pub fn image_size(&self) -> ImageSize {
        self.size
    }

    /// Keeps the first `len` examples.
    pub(super) fn truncate(&mut self, len: usize) {
        self.buffers.images.truncate(len * self.size.len());
        self.buffers.pixels.truncate(len * self.size.len());
        self.buffers.draws.truncate(len);
        self.buffers.labels.truncate(len);
    }

    pub(super) fn example_mut(&mut self, position: usize) -> (Place<'_>, &mut u32) {
        let image = position * self.size.len()..(position + 1) * self.size.len();
        let Buffers { images, pixels, draws, labels } = &mut self.buffers;
        let place = match self.pool.form {
            Form::Floats => Place::Floats(&mut images[image]),
            Form::Bytes => Place::Bytes(&mut pixels[image], &mut draws[position]),
        };
        (place, &mut labels[position])
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffers));
    }
}

/// Free buffers, shared by a loader's iterators and their batches.
#[derive(Clone, Default)]
pub(super) struct Pool {
    form: Form,
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Default)]
struct Shelf {
    free: Vec<Buffers>,
    in_use: usize,
    /// Buffers that the living iterators need at once.
    needed: usize,
    /// The largest `needed` so far: more free buffers than that are not kept.
    kept: usize,
}

impl Pool {
    /// A pool of batches of this form.
    pub(super) fn of(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

    /// Makes buffers for one more iterator that needs `count` at once, where none are free.
    pub(super) fn reserve(&self, count: usize, batch_size: usize, size: ImageSize) {
        let mut shelf = self.lock();
        shelf.needed += count;
        shelf.kept = shelf.kept.max(shelf.needed);
        while shelf.free.len() + shelf.in_use < shelf.needed {
            let mut buffers = Buffers::default();
            buffers.resize(self.form, batch_size, size);
            shelf.free.push(buffers);
        }
    }

    /// Says that an iterator which reserved `count` is gone; its buffers stay for the next one.
    pub(super) fn release(&self, count: usize) {
        self.lock().needed -= count;
    }

    /// A batch of `count` examples whose contents are still those of an earlier batch.
    pub(super) fn take(&self, step: u64, count: usize, size: ImageSize) -> Batch {
        let mut buffers = {
            let mut shelf = self.lock();
            shelf.in_use += 1;
            shelf.free.pop().unwrap_or_default()
        };
        buffers.resize(self.form, count, size);
        Batch { buffers, step, size, pool: self.clone() }
    }

    fn give_back(&self, buffers: Buffers) {
        let mut shelf = self.lock();
        shelf.in_use -= 1;
        if shelf.free.len() < shelf.kept {
            shelf.free.push(buffers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
