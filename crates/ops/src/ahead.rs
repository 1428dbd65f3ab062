//! Memory asked for before it is needed. A kernel that computes for long on a little of its input shows the machine no
//! stream to run ahead of, so it says itself what comes next, a few cache lines at a time between its products. Refuses to
//! touch memory: asking changes no value, and asking for what is never used costs time alone.

use crate::aligned::FLOATS_PER_LINE;

/// Most runs of one [`Ahead`]; more of them are not asked for.
const MOST: usize = 8;
/// Cache lines that are asked for at a time: counting them one by one would cost as much as the products around them.
const LINES: usize = 8;
/// Floats in them.
const BATCH: usize = LINES * FLOATS_PER_LINE;

/// Runs of floats that are asked for, evenly over the ticks of some work.
pub(crate) struct Ahead {
    runs: [Run; MOST],
    /// The run that comes after the present one.
    next: usize,
    /// What is left of the present one.
    run: Run,
    /// Floats for each tick, and those that are due.
    rate: usize,
    due: usize,
}

/// Floats that may be somebody else's, so nothing but an address and a length.
#[derive(Copy, Clone)]
pub(crate) struct Run {
    first: *const f32,
    len: usize,
}

impl Run {
    const NONE: Self = Self { first: std::ptr::null(), len: 0 };

    #[inline(always)]
    pub(crate) fn new(first: *const f32, len: usize) -> Self {
        Self { first, len }
    }
}

impl From<&[f32]> for Run {
    #[inline(always)]
    fn from(floats: &[f32]) -> Self {
        Self { first: floats.as_ptr(), len: floats.len() }
    }
}

impl Ahead {
    /// Asks for `runs` while `ticks` ticks pass.
    pub(crate) fn new(runs: impl IntoIterator<Item = Run>, ticks: usize) -> Self {
        let mut ahead = Self { runs: [Run::NONE; MOST], next: 0, run: Run::NONE, rate: 0, due: 0 };
        let mut floats = 0;
        for (to, run) in ahead.runs.iter_mut().zip(runs) {
            *to = run;
            floats += run.len.next_multiple_of(BATCH);
        }
        ahead.rate = floats.div_ceil(ticks.max(1));
        ahead
    }

    /// Some ticks have passed.
    #[inline(always)]
    pub(crate) fn tick(&mut self, ticks: usize) {
        self.due += ticks * self.rate;
        while self.due >= BATCH {
            self.due -= BATCH;
            while self.run.len == 0 {
                let Some(&run) = self.runs.get(self.next) else { return };
                self.run = run;
                self.next += 1;
            }
            for line in 0..LINES {
                prefetch(self.run.first.wrapping_add(line * FLOATS_PER_LINE), Cache::Second);
            }
            self.run.first = self.run.first.wrapping_add(BATCH);
            self.run.len = self.run.len.saturating_sub(BATCH);
        }
    }
}

/// Asks for a few floats that are needed next, into the first-level cache.
#[inline(always)]
pub(crate) fn ask_for(run: impl Into<Run>) {
    let Run { first, len } = run.into();
    for at in (0..len).step_by(FLOATS_PER_LINE) {
        prefetch(first.wrapping_add(at), Cache::First);
    }
}

/// Where memory is brought.
#[derive(Copy, Clone)]
enum Cache {
    First,
    Second,
}

/// Asks for the cache line at `address`; nothing where the target has no such instruction.
#[inline(always)]
fn prefetch(address: *const f32, cache: Cache) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction; it faults at no address and changes no value.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match cache {
            Cache::First => _mm_prefetch::<_MM_HINT_T0>(address.cast()),
            Cache::Second => _mm_prefetch::<_MM_HINT_T1>(address.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, cache);
}
