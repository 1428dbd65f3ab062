//! The gradient of depthwise weights: every tap is a sum over pixels, as many taps at a time as there are registers for
//! their sums. Refuses to add up images: results are added to what the caller holds.
//!
//! C′: channels padded, a multiple of the short vectors. A step is the distance in floats from one pixel to the next.

use crate::simd::{Lanes, for_vectors};

/// Rows of output pixels and the window of input that each reads.
#[derive(Debug, Copy, Clone)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) rows: usize,
    pub(super) pixels: usize,
    /// C′.
    pub(super) channels: usize,
    /// Floats between rows of the gradient; its pixels are C′ apart.
    pub(super) gradient_row: usize,
    /// Floats between the inputs of output rows and of output pixels.
    pub(super) input_row: usize,
    pub(super) input_step: usize,
    /// Floats between rows and between columns of taps.
    pub(super) tap_row: usize,
    pub(super) tap_step: usize,
}

/// into\[t,c\] += Σ_p gradient\[p,c\]·input\[p at tap t,c\]; `into` is `[k², C′]`.
#[inline(always)]
pub(super) fn accumulate_weights<L: Lanes>(
    lanes: L,
    window: Window,
    gradient: &[f32],
    input: &[f32],
    into: &mut [f32],
) {
    let Window { kernel, rows, pixels, channels, .. } = window;
    if rows == 0 || pixels == 0 {
        return;
    }
    let taps = (kernel - 1) * (window.tap_row + window.tap_step);
    let inputs = (rows - 1) * window.input_row + (pixels - 1) * window.input_step;
    assert!(channels.is_multiple_of(L::Short::LANES), "sep_unit: channels");
    assert!(gradient.len() >= (rows - 1) * window.gradient_row + pixels * channels, "sep_unit: gradient rows");
    assert!(input.len() >= inputs + taps + channels, "sep_unit: input rows");
    assert!(into.len() >= kernel * kernel * channels, "sep_unit: depthwise gradient");
    for_vectors!(lanes: L, channels, channel => {
        // SAFETY: the asserts above cover all rows, pixels, taps and channels; a vector from `channel` on is inside.
        unsafe {
            let gradient = gradient.as_ptr().add(channel);
            let input = input.as_ptr().add(channel);
            let into = into.as_mut_ptr().add(channel);
            // R rows of T taps at a time: as many accumulators as there are registers for.
            macro_rules! taps {
                ($rows:literal, $taps:literal, $row:expr, $column:expr) => {
                    window.taps::<_, $rows, $taps>(
                        lanes,
                        gradient,
                        input.add($row * window.tap_row + $column * window.tap_step),
                        into.add(($row * kernel + $column) * channels),
                    )
                };
            }
            match kernel {
                3 => taps!(3, 3, 0, 0),
                5 if L::MANY_REGISTERS => taps!(5, 5, 0, 0),
                5 => {
                    taps!(2, 5, 0, 0);
                    taps!(2, 5, 2, 0);
                    taps!(1, 5, 4, 0);
                }
                7 => (0..7).for_each(|row| taps!(1, 7, row, 0)),
                _ => (0..kernel * kernel).for_each(|tap| taps!(1, 1, tap / kernel, tap % kernel)),
            }
        }
    });
}

impl Window {
    /// `R` rows of `T` taps, one vector of channels: R·T independent chains.
    ///
    /// # Safety
    /// The pointers are at the first of those taps, with all rows and pixels behind them, as `accumulate_weights` asserts.
    #[inline(always)]
    unsafe fn taps<L: Lanes, const R: usize, const T: usize>(
        &self,
        lanes: L,
        gradient: *const f32,
        input: *const f32,
        into: *mut f32,
    ) {
        let mut acc = [[lanes.zero(); T]; R];
        // SAFETY: as the caller promises.
        unsafe {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (t, acc) in acc.iter_mut().enumerate() {
                    *acc = lanes.load(into.add((r * self.kernel + t) * self.channels));
                }
            }
            for row in 0..self.rows {
                let (mut gradient, mut input) =
                    (gradient.add(row * self.gradient_row), input.add(row * self.input_row));
                for _ in 0..self.pixels {
                    let value = lanes.load(gradient);
                    for (r, acc) in acc.iter_mut().enumerate() {
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let x = lanes.load(input.add(r * self.tap_row + t * self.tap_step));
                            *acc = lanes.mul_add(value, x, *acc);
                        }
                    }
                    gradient = gradient.wrapping_add(self.channels);
                    input = input.wrapping_add(self.input_step);
                }
            }
            for (r, acc) in acc.iter().enumerate() {
                for (t, &value) in acc.iter().enumerate() {
                    lanes.store(into.add((r * self.kernel + t) * self.channels), value);
                }
            }
        }
    }
}
