//! For tests alone: how much memory a piece of code takes at most, measured on its own thread by a counting allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// (bytes now, most bytes since the last reset), of this thread.
    static BYTES: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

fn count(bytes: isize) {
    // A thread that is being torn down has no counter any more; nothing is measured there.
    let _ = BYTES.try_with(|counter| {
        let (now, most) = counter.get();
        counter.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract; counting touches
// nothing but a thread-local cell that needs no allocation and no destructor.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's layout is handed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's layout is handed on as it is.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the pointer came from `System` with this layout, since the functions above hand on to it.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes that `work` had allocated at once on this thread.
pub(crate) fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let (before, _) = BYTES.get();
    BYTES.set((before, before));
    let result = work();
    let (_, most) = BYTES.get();
    (result, (most - before) as usize)
}
