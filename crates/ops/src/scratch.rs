//! Memory that kernels use for the length of a call or of a task. Refuses to allocate once a program has run a step
//! or two: buffers return to one pool, and every new one is as large as the largest request seen so far.

use crate::aligned::AlignedBuffer;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// A buffer on loan; its contents are whatever its last user left.
pub(crate) struct Scratch {
    buffer: Option<AlignedBuffer>,
    len: usize,
}

/// `len` floats of arbitrary content, 64-byte aligned.
pub(crate) fn take(len: usize) -> Scratch {
    let buffer = lock(|pool| pool.take(len)).unwrap_or_else(AlignedBuffer::zeroed);
    Scratch { buffer: Some(buffer), len }
}

/// f64 on loan.
pub(crate) struct Sums(Scratch);

/// `len` f64 zeros, 64-byte aligned: partial sums.
pub(crate) fn take_sums(len: usize) -> Sums {
    Sums(take_zeroed(2 * len))
}

impl Deref for Sums {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Sums {
    fn deref_mut(&mut self) -> &mut [f64] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// `len` zeros, 64-byte aligned.
pub(crate) fn take_zeroed(len: usize) -> Scratch {
    let mut scratch = take(len);
    scratch.fill(0.0);
    scratch
}

/// Sees to it that every thread of the current rayon pool, up to `tasks` of them, can take `len` floats at once without an
/// allocation: how many tasks ran at the same time in earlier calls is chance, and must not decide whether this one
/// allocates.
pub(crate) fn reserve(tasks: usize, len: usize) {
    let wanted = tasks.min(rayon::current_num_threads());
    while let Some(size) = lock(|pool| pool.missing(wanted, len)) {
        let buffer = AlignedBuffer::zeroed(size);
        lock(|pool| pool.free.push(buffer));
    }
}

/// Free buffers.
struct Pool {
    free: Vec<AlignedBuffer>,
    largest: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), largest: 0 });

fn lock<T>(action: impl FnOnce(&mut Pool) -> T) -> T {
    // A panic while the lock is held leaves a list of whole buffers: poisoning says nothing here.
    action(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Pool {
    /// A free buffer of at least `len` floats, or the size that a new one should have.
    fn take(&mut self, len: usize) -> Result<AlignedBuffer, usize> {
        self.largest = self.largest.max(len);
        match self.free.iter().rposition(|buffer| buffer.len() >= len) {
            Some(index) => Ok(self.free.swap_remove(index)),
            None => Err(self.grow()),
        }
    }

    /// The size of one more buffer, if fewer than `wanted` of the free ones hold `len` floats.
    fn missing(&mut self, wanted: usize, len: usize) -> Option<usize> {
        self.largest = self.largest.max(len);
        let fitting = self.free.iter().filter(|buffer| buffer.len() >= len).count();
        (fitting < wanted).then(|| self.grow())
    }

    /// The size for a new buffer; one that has become too small makes room for it.
    fn grow(&mut self) -> usize {
        let largest = self.largest;
        if let Some(index) = self.free.iter().position(|buffer| buffer.len() < largest) {
            self.free.swap_remove(index);
        }
        largest
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer.as_slice()[..self.len])
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.buffer.as_mut().map_or(&mut [], |buffer| &mut buffer.as_mut_slice()[..self.len])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            lock(|pool| pool.free.push(buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_used_again_for_smaller_requests() {
        let mut pool = Pool { free: Vec::new(), largest: 0 };
        assert_eq!(pool.take(100).err(), Some(100));
        pool.free.push(AlignedBuffer::zeroed(100));
        assert!(pool.take(40).is_ok());
        assert_eq!(pool.take(40).err(), Some(100), "a new buffer is as large as the largest request");
    }

    #[test]
    fn a_larger_request_replaces_a_buffer_that_became_too_small() {
        let mut pool = Pool { free: vec![AlignedBuffer::zeroed(16)], largest: 16 };
        assert_eq!(pool.take(64).err(), Some(64));
        assert!(pool.free.is_empty());
    }

    #[test]
    fn reserved_buffers_cover_every_thread() {
        let mut pool = Pool { free: vec![AlignedBuffer::zeroed(64)], largest: 64 };
        assert_eq!(pool.missing(2, 32), Some(64));
        pool.free.push(AlignedBuffer::zeroed(64));
        assert_eq!(pool.missing(2, 32), None);
    }

    #[test]
    fn loans_are_aligned_and_of_the_length_asked_for() {
        let scratch = take_zeroed(33);
        assert_eq!((scratch.len(), scratch.as_ptr() as usize % 64), (33, 0));
        assert!(scratch.iter().all(|&value| value == 0.0));
    }
}
