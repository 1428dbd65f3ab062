//! Loops over rows of pixels × channels that pools are made of. Refuses to know where a row lies in an image: windows
//! that hang over its edge are met by margins around the rows.
//!
//! Loops over the cells of a window are compiled twice: for windows of 3, unrolled, and for any.

use crate::simd::Lanes;

/// The body for every whole vector of `len` floats from `j` on (`here` is LANES), then for what is left. A macro, since a closure
/// used twice would not be inlined.
macro_rules! for_cut_vectors {
    ($lanes:ty, $len:expr, |$j:ident, $here:ident| $body:block) => {
        let len = $len;
        let whole = len / <$lanes>::LANES * <$lanes>::LANES;
        for $j in (0..whole).step_by(<$lanes>::LANES) {
            let $here = <$lanes>::LANES;
            $body
        }
        if whole < len {
            let ($j, $here) = (whole, len - whole);
            $body
        }
    };
}

/// The body with `n` the literal 3 where `count` is 3, which unrolls its loops over n, else with `n` the count.
macro_rules! unrolled {
    ($count:expr, |$n:ident| $body:block) => {
        match $count {
            3 => {
                let $n = 3;
                $body
            }
            $n => $body,
        }
    };
}

/// What the cells of a window are joined by.
pub(super) trait Join: Copy {
    /// The first cell.
    fn first<L: Lanes>(self, lanes: L, cell: L::V) -> L::V;
    /// One more.
    fn join<L: Lanes>(self, lanes: L, joined: L::V, cell: L::V) -> L::V;
}

/// The largest cell, NaN if there is one.
#[derive(Copy, Clone)]
pub(super) struct Largest;

impl Join for Largest {
    #[inline(always)]
    fn first<L: Lanes>(self, _: L, cell: L::V) -> L::V {
        cell
    }

    #[inline(always)]
    fn join<L: Lanes>(self, lanes: L, largest: L::V, cell: L::V) -> L::V {
        lanes.max_or_nan(largest, cell)
    }
}

/// The sum of the cells, each through a ReLU if `RELU`.
#[derive(Copy, Clone)]
pub(super) struct Sum<const RELU: bool>;

impl<const RELU: bool> Join for Sum<RELU> {
    #[inline(always)]
    fn first<L: Lanes>(self, lanes: L, cell: L::V) -> L::V {
        if RELU { lanes.relu(cell) } else { cell }
    }

    #[inline(always)]
    fn join<L: Lanes>(self, lanes: L, sum: L::V, cell: L::V) -> L::V {
        lanes.add(sum, self.first(lanes, cell))
    }
}

/// to\[j\] = ⊕_{i < count} from\[i·step + j\] (overwritten).
#[inline(always)]
pub(super) fn join<L: Lanes>(lanes: L, by: impl Join, from: &[f32], step: usize, count: usize, to: &mut [f32]) {
    assert!(count > 0 && from.len() >= (count - 1) * step + to.len(), "pool: rows to join");
    unrolled!(count, |count| {
        for_cut_vectors!(L, to.len(), |j, here| {
            // SAFETY: the assert above; j + here is at most the length of `to`.
            unsafe {
                let from = from.as_ptr().add(j);
                let mut joined = by.first(lanes, lanes.load_up_to(from, here));
                for i in 1..count {
                    joined = by.join(lanes, joined, lanes.load_up_to(from.add(i * step), here));
                }
                lanes.store_up_to(to.as_mut_ptr().add(j), joined, here);
            }
        });
    });
}

/// Windows of k × k cells, side by side: cell (r, t) of window j is at r·row + t·step + j.
#[derive(Copy, Clone)]
pub(super) struct Windows<'a> {
    pub(super) cells: &'a [f32],
    pub(super) kernel: usize,
    pub(super) row: usize,
    pub(super) step: usize,
}

impl Windows<'_> {
    /// The number r·k + t of the first largest cell of every window, in scan order, into `winner`; −1 if all are −∞ or NaN. If
    /// `relu`, dz becomes 0 where that cell is not above 0.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(self, lanes: L, relu: bool, winner: &mut [f32], dz: &mut [f32]) {
        let reach = (self.kernel - 1) * (self.row + self.step) + winner.len();
        assert!(self.cells.len() >= reach && dz.len() == winner.len(), "pool: windows to search");
        unrolled!(self.kernel, |kernel| {
            for_cut_vectors!(L, winner.len(), |j, here| {
                // SAFETY: the assert above; j + here is at most the length of `winner`.
                unsafe {
                    let mut largest = lanes.splat(f32::NEG_INFINITY);
                    let mut at = lanes.splat(-1.0);
                    for number in 0..kernel * kernel {
                        let from = number / kernel * self.row + number % kernel * self.step + j;
                        let cell = lanes.load_up_to(self.cells.as_ptr().add(from), here);
                        at = lanes.where_greater(cell, largest, lanes.splat(number as f32), at);
                        largest = lanes.max(cell, largest);
                    }
                    lanes.store_up_to(winner.as_mut_ptr().add(j), at, here);
                    if relu {
                        let dz = dz.as_mut_ptr().add(j);
                        lanes.store_up_to(dz, lanes.where_positive(largest, lanes.load_up_to(dz, here)), here);
                    }
                }
            });
        });
    }
}

/// to\[j\] += Σ_{i < count} dz\[i·step + j\]·\[winner\[i·step + j\] = number − i\].
#[inline(always)]
pub(super) fn add_won<L: Lanes>(
    lanes: L,
    (winner, dz): (&[f32], &[f32]),
    step: usize,
    count: usize,
    number: usize,
    to: &mut [f32],
) {
    assert!(count > 0 && winner.len() >= (count - 1) * step + to.len() && dz.len() >= winner.len(), "pool: winners");
    unrolled!(count, |count| {
        for_cut_vectors!(L, to.len(), |j, here| {
            // SAFETY: the assert above; j + here is at most the length of `to`.
            unsafe {
                let out = to.as_mut_ptr().add(j);
                let mut sum = lanes.load_up_to(out, here);
                for i in 0..count {
                    let winner = lanes.load_up_to(winner.as_ptr().add(i * step + j), here);
                    let dz = lanes.load_up_to(dz.as_ptr().add(i * step + j), here);
                    sum = lanes.add(sum, lanes.where_equal(winner, lanes.splat(number as f32 - i as f32), dz));
                }
                lanes.store_up_to(out, sum, here);
            }
        });
    });
}

/// to\[j\] += from\[j\], or 0 where x\[j\] is not above 0 if there is an x.
#[inline(always)]
pub(super) fn add<L: Lanes>(lanes: L, from: &[f32], x: Option<&[f32]>, to: &mut [f32]) {
    assert!(from.len() == to.len() && x.is_none_or(|x| x.len() == to.len()), "pool: rows to add");
    for_cut_vectors!(L, to.len(), |j, here| {
        // SAFETY: the assert above; j + here is at most the length of `to`.
        unsafe {
            let mut value = lanes.load_up_to(from.as_ptr().add(j), here);
            if let Some(x) = x {
                value = lanes.where_positive(lanes.load_up_to(x.as_ptr().add(j), here), value);
            }
            let out = to.as_mut_ptr().add(j);
            lanes.store_up_to(out, lanes.add(lanes.load_up_to(out, here), value), here);
        }
    });
}
