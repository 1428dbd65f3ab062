//! What the machine can do, and what the shipped kernels make of it: the numbers that a benchmark prints side by side.
//! Refuses to judge: it measures.
//!
//! A kernel that does `flops` operations on `bytes` of memory cannot take less than max(flops / [`fma_rate`],
//! bytes / [`copy_bandwidth`]) seconds, unless what it touches stays in a cache.

use crate::simd::{InstructionSet, Kernel, Lanes};
use std::hint::black_box;
use std::time::{Duration, Instant};

mod kernels;

pub use kernels::{KernelResult, kernel_benches};

/// Repetitions of a ceiling's measurement, of which the fastest counts: a ceiling is what the machine reached once.
const REPETITIONS: usize = 7;

/// Operations per second (a multiply-add is two) of `threads` threads that do nothing but multiply-adds in registers, on the
/// selected instruction set.
///
/// # Panics
/// If the machine refuses to start the threads.
pub fn fma_rate(threads: usize) -> f64 {
    let threads = threads.max(1);
    let set = InstructionSet::selected();
    let rounds = 4_000_000;
    let seconds = best(threads, |_| {
        black_box(set.run(MultiplyAdds { rounds: black_box(rounds) }));
    });
    let operations = 2 * CHAINS * set.run(CountLanes) * rounds * threads;
    operations as f64 / seconds
}

/// Independent multiply-adds: enough to hide their latency, few enough for 16 registers.
const CHAINS: usize = 12;

struct MultiplyAdds {
    rounds: usize,
}

impl Kernel for MultiplyAdds {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> f32 {
        let mut chains: [L::V; CHAINS] = std::array::from_fn(|i| lanes.splat(i as f32));
        let (a, b) = (lanes.splat(black_box(0.999)), lanes.splat(black_box(0.001)));
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = lanes.mul_add(*chain, a, b);
            }
        }
        let mut sums = [0.0; crate::simd::MAX_LANES];
        let sum = chains.into_iter().fold(lanes.zero(), |sum, chain| lanes.add(sum, chain));
        // SAFETY: `sums` has room for the longest vector there is.
        unsafe { lanes.store(sums.as_mut_ptr(), sum) };
        sums.iter().sum()
    }
}

struct CountLanes;

impl Kernel for CountLanes {
    type Output = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> usize {
        L::LANES
    }
}

/// Bytes per second, read and written together, of `threads` threads that copy arrays too large for any cache.
///
/// # Panics
/// If the machine refuses to start the threads.
pub fn copy_bandwidth(threads: usize) -> f64 {
    /// 128 MiB, shared by all threads.
    const FLOATS: usize = 32 << 20;
    let threads = threads.max(1);
    let share = FLOATS / threads;
    let from = vec![1.0f32; share * threads];
    let mut to = vec![0.0f32; share * threads];
    let shared = crate::shared::Shared::new(&mut to);
    let seconds = best(threads, |thread| {
        let range = thread * share..(thread + 1) * share;
        // SAFETY: every thread has its own range, and waits for the others before it takes it again.
        let to = unsafe { shared.part(range.clone()) };
        to.copy_from_slice(black_box(&from[range]));
        black_box(to);
    });
    (8 * share * threads) as f64 / seconds
}

/// Shortest time in which `threads` threads do `work(thread)` side by side, after one round to warm up.
fn best(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.unwrap_or_else(|error| panic!("roofline: no pool of {threads} threads: {error}"));
    let round = || {
        let start = Instant::now();
        pool.broadcast(|context| work(context.index()));
        start.elapsed()
    };
    round();
    (0..REPETITIONS).map(|_| round()).min().unwrap_or(Duration::ZERO).as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_are_positive_and_kernels_report_what_they_did() {
        assert!(fma_rate(1) > 1e8);
        assert!(copy_bandwidth(2) > 1e8);
        let results = kernels::run(1, Duration::ZERO);
        assert!(results.len() > 20);
        for result in results {
            assert!(result.calls >= 3 && result.seconds > 0.0 && result.bytes > 0.0, "{result:?}");
        }
    }
}
