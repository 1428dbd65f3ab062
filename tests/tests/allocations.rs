//! After warm-up a search step of the paper's network asks the allocator for no block of 64 KiB or more.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use darts_bilevel::{Search, SearchConfig, SecondOrder, Strategy};
use darts_cells::conv::{ConvNetwork, NetworkConfig};
use darts_cells::space::ConvSpace;
use darts_data::{Augment, Loader, SyntheticConfig, SyntheticImages};
use darts_ops::vector::Vector;
use darts_runs::supernet::SupernetProblem;

/// What counts as large.
const LARGE: usize = 64 * 1024;

/// The system's allocator, counting large blocks.
struct Counting;

static LARGE_BLOCKS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGE_BLOCKS.fetch_add(usize::from(layout.size() >= LARGE), Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `pointer` came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGE_BLOCKS.fetch_add(usize::from(size >= LARGE), Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract, and `pointer` came from the system's allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_search_step_makes_no_large_allocation_after_warm_up() {
    const BATCH: usize = 8;
    let before = LARGE_BLOCKS.load(Ordering::Relaxed);
    drop(std::hint::black_box(vec![1u8; LARGE]));
    assert_eq!(LARGE_BLOCKS.load(Ordering::Relaxed), before + 1, "the allocator does not count");

    let data = SyntheticConfig::default();
    let loader =
        |seed| Loader::new(SyntheticImages::train(&data).unwrap(), Augment::cifar(), BATCH).random_batches(seed);
    let (mut train, mut valid) = (loader(0).unwrap(), loader(1).unwrap());
    let space = ConvSpace::darts();
    let network =
        ConvNetwork::supernet(&space, &NetworkConfig { layers: 4, ..NetworkConfig::cifar_search(10) }).unwrap();
    let (theta, statistics) = network.initialize(0);
    let mut problem = SupernetProblem::new(network, space.operations(), BATCH, statistics);
    let vector = |values| Vector::from_vec(values, &Device::Cpu).unwrap();
    let strategy = Strategy::SecondOrder(SecondOrder::default());
    let config = SearchConfig { strategy, ..SearchConfig::cifar10() };
    let mut search = Search::new(vector(theta), vector(space.initial_alphas(0)), config).unwrap();
    let mut step = || {
        let (train, valid) = (train.next().unwrap().unwrap(), valid.next().unwrap().unwrap());
        search.step(&mut problem, &train, &valid, 0.025).unwrap();
    };
    for _ in 0..4 {
        step();
    }
    let before = LARGE_BLOCKS.load(Ordering::Relaxed);
    for _ in 0..4 {
        step();
    }
    assert_eq!(LARGE_BLOCKS.load(Ordering::Relaxed) - before, 0, "blocks of 64 KiB or more in 4 steps");
}
