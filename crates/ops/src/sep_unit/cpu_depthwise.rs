//! The depthwise half: a list of taps applied to a row of pixels, and the gradient of the taps' weights. Refuses to know
//! which convolution the taps stand for: every kernel size, stride and dilation and the correlation of backward are
//! lists of offsets.
//!
//! C′: channels padded to whole vectors. A step is the distance in floats from one pixel to the next.

use crate::simd::Lanes;

/// One tap: offsets in floats from a pixel's input and from the weights.
#[derive(Debug, Copy, Clone)]
pub(super) struct Tap {
    pub(super) input: usize,
    pub(super) weight: usize,
}

/// Taps, with their largest offsets.
pub(super) struct Taps {
    taps: Vec<Tap>,
    input_reach: usize,
    weight_reach: usize,
}

impl Taps {
    pub(super) fn new(taps: impl Iterator<Item = Tap>) -> Self {
        let taps: Vec<_> = taps.collect();
        Self {
            input_reach: taps.iter().map(|tap| tap.input).max().unwrap_or(0),
            weight_reach: taps.iter().map(|tap| tap.weight).max().unwrap_or(0),
            taps,
        }
    }
}

/// A row of pixels.
#[derive(Debug, Copy, Clone)]
pub(super) struct Row {
    pub(super) pixels: usize,
    /// C′, whole vectors.
    pub(super) channels: usize,
    pub(super) input_step: usize,
    pub(super) output_step: usize,
}

/// output\[p,c\] (+)= Σ_t weights\[t,c\]·input\[p at tap t,c\]: added if `ADD`, else overwritten.
#[inline(always)]
pub(super) fn apply<L: Lanes, const ADD: bool>(
    lanes: L,
    taps: &Taps,
    weights: &[f32],
    input: &[f32],
    output: &mut [f32],
    row: Row,
) {
    let Row { pixels, channels, input_step, output_step } = row;
    if pixels == 0 {
        return;
    }
    assert!(channels.is_multiple_of(L::LANES), "sep_unit: channels");
    if !taps.taps.is_empty() {
        assert!(weights.len() >= taps.weight_reach + channels, "sep_unit: depthwise weights");
        assert!(input.len() >= (pixels - 1) * input_step + taps.input_reach + channels, "sep_unit: input row");
    }
    assert!(output.len() >= (pixels - 1) * output_step + channels, "sep_unit: output row");
    let context = Context { taps: &taps.taps, weights: weights.as_ptr(), channels, input_step, output_step };
    let (mut input, mut output, mut left) = (input.as_ptr(), output.as_mut_ptr(), pixels);
    macro_rules! tiles {
        ($pixels:literal, $vectors:literal) => {
            while left >= $pixels {
                // SAFETY: the asserts above: $pixels more pixels are there at `input` (with every tap) and `output`, channels of them, and
                // weights of every tap.
                unsafe { context.pixels::<L, $pixels, $vectors, ADD>(lanes, input, output) };
                input = input.wrapping_add($pixels * input_step);
                output = output.wrapping_add($pixels * output_step);
                left -= $pixels;
            }
        };
    }
    tiles!(8, 1);
    tiles!(4, 2);
    tiles!(2, 2);
    tiles!(1, 2);
}

/// What the tiles of a row share.
struct Context<'a> {
    taps: &'a [Tap],
    weights: *const f32,
    channels: usize,
    input_step: usize,
    output_step: usize,
}

impl Context<'_> {
    /// `P` pixels, `V` vectors of channels at a time.
    ///
    /// # Safety
    /// `P` pixels of all channels are readable at `input` for every tap and writable at `output`; every tap has weights.
    #[inline(always)]
    unsafe fn pixels<L: Lanes, const P: usize, const V: usize, const ADD: bool>(
        &self,
        lanes: L,
        input: *const f32,
        output: *mut f32,
    ) {
        let mut channel = 0;
        // SAFETY: channel + vectors·LANES ≤ channels at every call.
        unsafe {
            while channel + V * L::LANES <= self.channels {
                self.tile::<L, P, V, ADD>(lanes, channel, input, output);
                channel += V * L::LANES;
            }
            while channel < self.channels {
                self.tile::<L, P, 1, ADD>(lanes, channel, input, output);
                channel += L::LANES;
            }
        }
    }

    /// `P` pixels, `V` vectors of channels from `channel` on: P·V independent chains.
    ///
    /// # Safety
    /// As for `pixels`, and those channels are there.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const P: usize, const V: usize, const ADD: bool>(
        &self,
        lanes: L,
        channel: usize,
        input: *const f32,
        output: *mut f32,
    ) {
        let mut acc = [[lanes.zero(); V]; P];
        // SAFETY: the caller's promise covers every pixel p < P, every tap and V vectors from `channel` on.
        unsafe {
            let (input, output, weights) = (input.add(channel), output.add(channel), self.weights.add(channel));
            if ADD {
                for (p, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        *acc = lanes.load(output.add(p * self.output_step + v * L::LANES));
                    }
                }
            }
            for tap in self.taps {
                let (input, weights) = (input.add(tap.input), weights.add(tap.weight));
                let mut weight = [lanes.zero(); V];
                for (v, weight) in weight.iter_mut().enumerate() {
                    *weight = lanes.load(weights.add(v * L::LANES));
                }
                for (p, acc) in acc.iter_mut().enumerate() {
                    for (v, acc) in acc.iter_mut().enumerate() {
                        let value = lanes.load(input.add(p * self.input_step + v * L::LANES));
                        *acc = lanes.mul_add(weight[v], value, *acc);
                    }
                }
            }
            for (p, acc) in acc.iter().enumerate() {
                for (v, &value) in acc.iter().enumerate() {
                    lanes.store(output.add(p * self.output_step + v * L::LANES), value);
                }
            }
        }
    }
}

/// Rows of output pixels and the window of input that each reads.
#[derive(Debug, Copy, Clone)]
pub(super) struct Window {
    pub(super) kernel: usize,
    pub(super) rows: usize,
    pub(super) pixels: usize,
    /// C′, whole vectors.
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
    assert!(channels.is_multiple_of(L::LANES), "sep_unit: channels");
    assert!(gradient.len() >= (rows - 1) * window.gradient_row + pixels * channels, "sep_unit: gradient rows");
    assert!(input.len() >= inputs + taps + channels, "sep_unit: input rows");
    assert!(into.len() >= kernel * kernel * channels, "sep_unit: depthwise gradient");
    for channel in (0..channels).step_by(L::LANES) {
        // SAFETY: the asserts above cover all rows, pixels, taps and channels; a vector from `channel` on is inside.
        unsafe {
            let gradient = gradient.as_ptr().add(channel);
            let input = input.as_ptr().add(channel);
            let into = into.as_mut_ptr().add(channel);
            // R rows of T taps at a time: as many accumulators as there are registers for.
            macro_rules! taps {
                ($rows:literal, $taps:literal, $row:expr, $column:expr) => {
                    window.taps::<L, $rows, $taps>(
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
    }
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
