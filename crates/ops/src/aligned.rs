//! Heap memory for f32 that begins at a multiple of 64 bytes, zeros at first, on large pages where the system has them. Refuses to
//! grow.

use std::alloc::{Layout, alloc, handle_alloc_error};

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
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            handle_alloc_error(layout);
        }
        advise_large_pages(pointer, layout.size());
        // SAFETY: as many bytes were allocated there.
        unsafe { pointer.write_bytes(0, layout.size()) };
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

/// Asks for pages of 2 MiB, before the memory is touched: activations of hundreds of megabytes have more small pages than the
/// processor keeps addresses of, and running ahead stops at the end of a page. Advice: where it is not taken, nothing changes.
fn advise_large_pages(pointer: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 2 << 20;
        let skipped = pointer.align_offset(LARGE);
        if let Some(inside) = bytes.checked_sub(skipped).map(|rest| rest / LARGE * LARGE).filter(|&inside| inside > 0) {
            // SAFETY: `inside` bytes from there on are whole pages of this allocation; the advice changes no contents.
            unsafe { libc::madvise(pointer.wrapping_add(skipped).cast(), inside, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (pointer, bytes);
}
