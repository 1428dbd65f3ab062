//! How long each kernel takes inside a whole program, beside the operations and the memory traffic that its definition asks
//! for. Recorded between [`start`] and [`stop`]; otherwise a kernel pays one relaxed load. Refuses to look inside a kernel,
//! and to sort out programs that call kernels from several threads at once: their times are wall times, and add up.
//!
//! ```
//! use darts_ops::{Images, Write, mix, profile};
//!
//! profile::start();
//! let images = Images { n: 1, h: 1, w: 2, c: 1 };
//! let term = mix::Term { z: &[1.0, 2.0], scale: &[2.0], shift: None, sample_scale: None };
//! mix::forward(images, &[term], &mut [0.0; 2], Write::Overwrite);
//! let entries = profile::stop();
//! assert_eq!((entries[0].kernel, entries[0].calls), ("mix forward", 1));
//! ```

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// All calls of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The kernel.
    pub kernel: &'static str,
    /// How often it was called.
    pub calls: u64,
    /// Wall seconds of all calls.
    pub seconds: f64,
    /// Operations of all calls (a multiply-add is two).
    pub flops: f64,
    /// Bytes that the calls have to read and write at least, with every array of a call met once.
    pub bytes: f64,
}

/// What a call's definition asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Operations; a multiply-add is two.
    pub(crate) flops: usize,
    /// Floats read or written at least.
    pub(crate) floats: usize,
}

static RECORDING: AtomicBool = AtomicBool::new(false);
static ENTRIES: Mutex<BTreeMap<&'static str, Entry>> = Mutex::new(BTreeMap::new());

/// Begins to record, and forgets what was recorded before.
pub fn start() {
    ENTRIES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    RECORDING.store(true, Ordering::Relaxed);
}

/// Ends recording: every kernel that was called, the one that took longest first.
pub fn stop() -> Vec<Entry> {
    RECORDING.store(false, Ordering::Relaxed);
    let entries = std::mem::take(&mut *ENTRIES.lock().unwrap_or_else(PoisonError::into_inner));
    let mut entries: Vec<Entry> = entries.into_values().collect();
    entries.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    entries
}

/// A call under way; recorded when it is dropped.
pub(crate) struct Span {
    kernel: &'static str,
    work: Work,
    begin: Instant,
}

/// Call at a kernel's start and keep the result to its end.
pub(crate) fn span(kernel: &'static str, work: impl FnOnce() -> Work) -> Option<Span> {
    RECORDING.load(Ordering::Relaxed).then(|| Span { kernel, work: work(), begin: Instant::now() })
}

impl Drop for Span {
    fn drop(&mut self) {
        let seconds = self.begin.elapsed().as_secs_f64();
        let mut entries = ENTRIES.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Entry { kernel: self.kernel, calls: 0, seconds: 0.0, flops: 0.0, bytes: 0.0 };
        let entry = entries.entry(self.kernel).or_insert(new);
        entry.calls += 1;
        entry.seconds += seconds;
        entry.flops += self.work.flops as f64;
        entry.bytes += 4.0 * self.work.floats as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::{Work, span, start, stop};

    /// Other tests' kernels may be recorded beside; these names are nobody's.
    #[test]
    fn calls_add_up_between_start_and_stop_and_not_outside() {
        let work = || Work { flops: 6, floats: 2 };
        drop(span("before", work));
        start();
        drop(span("a", work));
        drop(span("a", work));
        let entries = stop();
        drop(span("after", work));
        let found: Vec<_> = entries.iter().filter(|e| ["before", "a", "after"].contains(&e.kernel)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kernel, found[0].calls, found[0].flops, found[0].bytes), ("a", 2, 12.0, 16.0));
        start();
        assert!(stop().iter().all(|entry| entry.kernel != "a"));
    }
}
