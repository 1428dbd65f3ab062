//! Heap memory for f32 that begins at a multiple of 64 bytes, from zeroed pages of the system: what is never touched
//! costs nothing. Refuses to grow.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};

/// A cache line.
#[derive(Copy, Clone)]
#[repr(C, align(64))]
struct Line([f32; FLOATS_PER_LINE]);

/// Floats in a cache line.
pub(crate) const FLOATS_PER_LINE: usize = 16;

// SAFETY: an array of 16 f32 under a 64-byte alignment has no padding and no invalid bit pattern, zero included.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above; the type is Copy and 'static.
unsafe impl bytemuck::Pod for Line {}

/// A fixed number of f32, the first at a multiple of 64 bytes.
pub(crate) struct AlignedBuffer {
    lines: Vec<Line>,
}

impl AlignedBuffer {
    /// `len` zeros, rounded up to whole cache lines.
    pub(crate) fn zeroed(len: usize) -> Self {
        let count = len.div_ceil(FLOATS_PER_LINE);
        if count == 0 {
            return Self { lines: Vec::new() };
        }
        let layout = Layout::array::<Line>(count).expect("a buffer larger than the address space");
        // SAFETY: the layout has a size, as `count` is not 0.
        let pointer = unsafe { alloc_zeroed(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: `pointer` was just allocated by the global allocator with the layout of `count` lines, which is what a vector of that
        // capacity frees it with; all bytes are 0, a valid `Line`.
        let lines = unsafe { Vec::from_raw_parts(pointer.cast(), count, count) };
        Self { lines }
    }

    /// How many floats it holds.
    pub(crate) fn len(&self) -> usize {
        self.lines.len() * FLOATS_PER_LINE
    }

    /// The floats.
    pub(crate) fn as_slice(&self) -> &[f32] {
        bytemuck::cast_slice(&self.lines)
    }

    /// The floats.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.lines)
    }
}
