//! After warm-up a loader's step makes no allocation of 64 KiB or more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use darts_data::{Augment, Loader, SyntheticConfig, SyntheticImages};

static LARGE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which upholds the contract; counting touches
// nothing but an atomic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGE.fetch_add(usize::from(layout.size() >= 64 << 10), Ordering::Relaxed);
        // SAFETY: the caller's layout is handed on as it is.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout, since `alloc` hands on to it.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn steps_after_warm_up_make_no_large_allocation() {
    let config = SyntheticConfig { train_len: 1000, ..SyntheticConfig::default() };
    let loader = Loader::new(SyntheticImages::train(&config).unwrap(), Augment::cifar(), 64).workers(2);
    let (mut epoch, mut random) = (loader.epoch(0, 0).unwrap(), loader.random_batches(0).unwrap());
    let mut step = || (epoch.next().unwrap().unwrap(), random.next().unwrap().unwrap());
    (0..3).for_each(|_| drop(step()));
    let before = LARGE.load(Ordering::Relaxed);
    for _ in 3..15 {
        let (train, valid) = step();
        assert_eq!(train.images().len(), valid.images().len());
    }
    assert_eq!(LARGE.load(Ordering::Relaxed) - before, 0, "allocations of 64 KiB or more in 12 steps");
}
