//! After the first step a search allocates nothing of 64 KiB or more. A binary of its own: the counter is global.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::Device;
use darts_bilevel::{BilevelProblem, Gradients, Pass, Search, SearchConfig, SecondOrder, Strategy};
use darts_ops::vector::{Error, Vector};

/// Counts allocations of 64 KiB or more.
struct Counting;

static LARGE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator with the arguments it came with; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= 64 << 10 {
            LARGE.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the one asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this layout, by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// `L = ½‖w − α₀‖²`, for both losses.
struct Distance;

impl BilevelProblem for Distance {
    type Batch = ();
    type Error = Error;

    fn evaluate(&mut self, _: Pass, w: &Vector, alpha: &Vector, _: &(), g: Gradients<'_>) -> Result<f64, Error> {
        let centre = alpha.read(|alpha| alpha[0])?;
        let sum = w.read(|w| w.iter().map(|w| f64::from(w - centre)).sum::<f64>())?;
        if let Some(out) = g.w {
            w.read(|w| out.write(|out| out.iter_mut().zip(w).for_each(|(o, w)| *o = w - centre)))??;
        }
        if let Some(out) = g.alpha {
            out.fill(-sum as f32)?;
        }
        w.read(|w| w.iter().map(|w| 0.5 * f64::from(w - centre).powi(2)).sum())
    }
}

#[test]
fn a_step_makes_no_large_allocation_after_the_first() {
    let len = 1 << 19;
    for strategy in [Strategy::FirstOrder, Strategy::SecondOrder(SecondOrder::clipped(1.0))] {
        let config = SearchConfig { strategy, ..SearchConfig::cifar10() };
        let w = Vector::from_vec(vec![0.5; len], &Device::Cpu).unwrap();
        let mut search = Search::new(w, Vector::zeros(2, &Device::Cpu).unwrap(), config).unwrap();
        search.step(&mut Distance, &(), &(), 0.01).unwrap();
        let before = LARGE.load(Ordering::Relaxed);
        assert!(before > 0, "the counter does not count");
        for _ in 0..3 {
            search.step(&mut Distance, &(), &(), 0.01).unwrap();
        }
        assert_eq!(LARGE.load(Ordering::Relaxed) - before, 0, "{strategy:?}");
    }
}
