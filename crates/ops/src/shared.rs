//! Work cut between threads: how a batch is cut into tasks, and a slice that tasks write disjoint parts of where the
//! parts are not what `par_chunks_mut` cuts. Refuses to check disjointness: that is the promise of its caller.

use crate::ahead::Run;
use std::marker::PhantomData;
use std::ops::Range;

/// Most tasks that a batch is cut into.
const MAX_CHUNKS: usize = 32;

/// The tasks that a batch of `n` images is cut into: runs of images that depend on `n` alone, never on the number of
/// threads, so that sums of partial results are the same bits for any number of them.
pub(crate) fn chunks(n: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = n.min(MAX_CHUNKS);
    (0..count).map(move |chunk| chunk * n / count..(chunk + 1) * n / count)
}

/// A mutable slice that tasks take parts of.
#[derive(Copy, Clone)]
pub(crate) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the type only hands out parts through `part`, whose callers promise that no two live parts overlap; that is how
// `&mut [T]` is split between threads, which needs T: Send.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Borrows `slice` for as long as parts of it are used.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    /// No other part that overlaps `range` is alive.
    ///
    /// # Panics
    /// If the range lies outside of the slice.
    pub(crate) unsafe fn part(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "Shared::part: {range:?} of {}", self.len);
        // SAFETY: the range lies in the slice, which stays borrowed for 'a, and the caller promises that it is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

impl Shared<'_, f32> {
    /// The elements in `range`, to be asked for; they may be another's, or lie outside of the slice.
    #[inline(always)]
    pub(crate) fn run(self, range: Range<usize>) -> Run {
        Run::new(self.pointer.wrapping_add(range.start), range.len())
    }
}
