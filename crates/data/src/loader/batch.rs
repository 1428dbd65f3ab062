//! A batch and the pool that its buffers come from and go back to. It refuses to keep more buffers than were reserved.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataset::ImageSize;

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
    labels: Vec<u32>,
}

impl Batch {
    /// Normalized images, `[N, H, W, 3]`.
    pub fn images(&self) -> &[f32] {
        &self.buffers.images
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
        self.buffers.labels.truncate(len);
    }

    pub(super) fn example_mut(&mut self, position: usize) -> (&mut [f32], &mut u32) {
        let image = &mut self.buffers.images[position * self.size.len()..][..self.size.len()];
        (image, &mut self.buffers.labels[position])
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffers));
    }
}

/// Free buffers, shared by a loader's iterators and their batches.
#[derive(Clone, Default)]
pub(super) struct Pool(Arc<Mutex<Shelf>>);

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
    /// Makes buffers for one more iterator that needs `count` at once, where none are free.
    pub(super) fn reserve(&self, count: usize, batch_size: usize, size: ImageSize) {
        let mut shelf = self.lock();
        shelf.needed += count;
        shelf.kept = shelf.kept.max(shelf.needed);
        while shelf.free.len() + shelf.in_use < shelf.needed {
            let images = vec![0.0; batch_size * size.len()];
            shelf.free.push(Buffers { images, labels: vec![0; batch_size] });
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
        buffers.images.resize(count * size.len(), 0.0);
        buffers.labels.resize(count, 0);
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
