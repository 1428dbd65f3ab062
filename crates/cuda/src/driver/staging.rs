//! A ring of page-locked memory that uploads go through: bytes are copied into it, the device fetches them when their turn
//! has come, and the caller's slice is free at once. A part of the ring is used again when the copies out of it are done.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result, sys};

use super::failure::Failed;
use crate::error::Result;

/// Parts of the ring.
const PARTS: usize = 4;
/// Bytes of a part.
const PART: usize = 4 << 20;
/// What copies are aligned to.
const ALIGNMENT: usize = 256;

pub(super) struct Ring {
    parts: Vec<Part>,
    /// The part that is being filled, and how far it is.
    current: usize,
    filled: usize,
}

struct Part {
    memory: *mut u8,
    /// When the last copy out of this part is done.
    done: CudaEvent,
}

// SAFETY: the memory belongs to the part alone and is reached through `&mut` alone.
unsafe impl Send for Part {}

impl Ring {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let part = || {
            let done = context.new_event(None).in_call("making an event")?;
            // SAFETY: the context is bound; write-combined, because the host only ever writes to it.
            let memory = unsafe { result::malloc_host(PART, sys::CU_MEMHOSTALLOC_WRITECOMBINED) };
            Ok(Part { memory: memory.in_call("allocating page-locked memory")?.cast(), done })
        };
        Ok(Self { parts: (0..PARTS).map(|_| part()).collect::<Result<_>>()?, current: 0, filled: 0 })
    }

    /// Puts `from` into the ring and asks the stream to copy it to `to`, in pieces where it is longer than a part.
    pub(super) fn upload(&mut self, stream: &CudaStream, mut to: u64, mut from: &[u8]) -> Result<()> {
        const OPERATION: &str = "writing to the device";
        while !from.is_empty() {
            if self.filled == PART {
                // Every copy out of this part is in the stream by now.
                self.parts[self.current].done.record(stream).in_call(OPERATION)?;
                self.current = (self.current + 1) % PARTS;
                self.filled = 0;
                self.parts[self.current].done.synchronize().in_call(OPERATION)?;
            }
            let (piece, rest) = from.split_at(from.len().min(PART - self.filled));
            // SAFETY: `filled + piece.len()` is at most a part, and no copy out of this range is under way: the part's
            // event was waited for when it became the current one. `to` lies in one allocation (the caller has checked).
            let copied = unsafe {
                let slot = self.parts[self.current].memory.add(self.filled);
                std::ptr::copy_nonoverlapping(piece.as_ptr(), slot, piece.len());
                result::memcpy_htod_async(to, std::slice::from_raw_parts(slot, piece.len()), stream.cu_stream())
            };
            copied.in_call(OPERATION)?;
            self.filled = (self.filled + piece.len()).next_multiple_of(ALIGNMENT).min(PART);
            to += piece.len() as u64;
            from = rest;
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: allocated in `Ring::new`, freed here alone; a stream is waited for before its ring is dropped.
        let _ = unsafe { result::free_host(self.memory.cast()) };
    }
}
