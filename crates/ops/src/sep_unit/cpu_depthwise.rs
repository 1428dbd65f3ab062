//! The depthwise half: taps applied to a row of pixels. Refuses to know which
//! convolution the taps stand for: every kernel size, stride and dilation and the correlation of backward are lists of
//! offsets. A square of taps at stride 1, the usual case, is a [`Grid`]: there an input that was loaded serves all the
//! outputs of a row that read it.
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

/// A square of K × K taps at stride 1.
#[derive(Debug, Copy, Clone)]
pub(super) struct Grid {
    /// K: 3, 5 or 7.
    kernel: usize,
    /// Pixels between columns of taps.
    dilation: usize,
    /// Floats between rows of taps.
    tap_row: usize,
}

impl Grid {
    /// `row` is the number of floats in a row of the input; none if the kernel has no code of its own.
    pub(super) fn new(kernel: usize, dilation: usize, row: usize) -> Option<Self> {
        matches!(kernel, 3 | 5 | 7).then_some(Self { kernel, dilation, tap_row: dilation * row })
    }
}

/// output\[p,c\] (+)= Σ_{i,j} weights\[i·K + j,c\]·input\[p + d·j in row d·i,c\] for `pixels` pixels of `channels` = C′ floats, contiguous in
/// input and output: added if `ADD`, else overwritten. `weights` is `[K², C′]`.
#[inline(always)]
pub(super) fn apply_grid<L: Lanes, const ADD: bool>(
    lanes: L,
    grid: Grid,
    weights: &[f32],
    input: &[f32],
    output: &mut [f32],
    (pixels, channels): (usize, usize),
) {
    let Grid { kernel, dilation, tap_row } = grid;
    assert!(channels.is_multiple_of(L::LANES), "sep_unit: channels");
    assert!(weights.len() >= kernel * kernel * channels, "sep_unit: depthwise weights");
    let reach = (kernel - 1) * (tap_row + dilation * channels);
    assert!(input.len() >= reach + pixels * channels, "sep_unit: input row");
    assert!(output.len() >= pixels * channels, "sep_unit: output row");
    // Every d-th pixel reads every d-th pixel: d rows without dilation.
    for class in 0..dilation.min(pixels) {
        let context = GridContext { kernel, weights: weights.as_ptr(), channels, step: dilation * channels, tap_row };
        let count = (pixels - class).div_ceil(dilation);
        let first = class * channels;
        // SAFETY: the asserts above: class + (count − 1)·d < pixels, and every tap of such a pixel is inside `input`.
        unsafe {
            let (input, output) = (input.as_ptr().add(first), output.as_mut_ptr().add(first));
            match kernel {
                3 => context.pixels::<L, 3, ADD>(lanes, count, input, output),
                5 => context.pixels::<L, 5, ADD>(lanes, count, input, output),
                _ => context.pixels::<L, 7, ADD>(lanes, count, input, output),
            }
        }
    }
}

/// What the tiles of a row share.
struct GridContext {
    kernel: usize,
    weights: *const f32,
    channels: usize,
    step: usize,
    tap_row: usize,
}

impl GridContext {
    /// `count` pixels of all channels.
    ///
    /// # Safety
    /// They are readable at `input` for every tap and writable at `output`; K² taps have weights.
    #[inline(always)]
    unsafe fn pixels<L: Lanes, const K: usize, const ADD: bool>(
        &self,
        lanes: L,
        count: usize,
        input: *const f32,
        output: *mut f32,
    ) {
        let mut done = 0;
        macro_rules! tiles {
            ($pixels:literal) => {
                while count - done >= $pixels {
                    for channel in (0..self.channels).step_by(L::LANES) {
                        let offset = done * self.step + channel;
                        // SAFETY: pixels done..done + $pixels are below `count`, and a vector from `channel` on is inside.
                        unsafe {
                            let weights = self.weights.add(channel);
                            self.tile::<L, $pixels, K, ADD>(lanes, weights, input.add(offset), output.add(offset));
                        }
                    }
                    done += $pixels;
                }
            };
        }
        tiles!(8);
        tiles!(4);
        tiles!(2);
        tiles!(1);
    }

    /// `P` pixels, one vector of channels: P independent chains. Input i serves the outputs i − K + 1 to i.
    ///
    /// # Safety
    /// As for `pixels`; `self.kernel` is K.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const P: usize, const K: usize, const ADD: bool>(
        &self,
        lanes: L,
        weights: *const f32,
        input: *const f32,
        output: *mut f32,
    ) {
        let mut acc = [lanes.zero(); P];
        // Opaque, or the multiples of the step are computed, and spilled, before the loop over tiles: more of them than there are
        // registers.
        let step = std::hint::black_box(self.step);
        // SAFETY: the caller's promise covers pixels p < P and with them the inputs i < P + K − 1 of K rows.
        unsafe {
            if ADD {
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = lanes.load(output.add(p * step));
                }
            }
            let (mut row, mut weights) = (input, weights);
            // As many as K, though the compiler must not know it: unrolled, the addresses of K rows are too many for the registers.
            for _ in 0..self.kernel {
                let mut weight = [lanes.zero(); K];
                for weight in &mut weight {
                    *weight = lanes.load(weights);
                    weights = weights.wrapping_add(self.channels);
                }
                let mut input = row;
                // Written out, so that the accumulators are registers whatever the compiler thinks of unrolling.
                macro_rules! inputs {
                    ($($i:literal)*) => {$(
                        if $i < P + K - 1 {
                            if $i > 0 {
                                input = input.wrapping_add(step);
                            }
                            let value = lanes.load(input);
                            for (t, &weight) in weight.iter().enumerate() {
                                if t <= $i && $i - t < P {
                                    acc[$i - t] = lanes.mul_add(weight, value, acc[$i - t]);
                                }
                            }
                        }
                    )*};
                }
                inputs!(0 1 2 3 4 5 6 7 8 9 10 11 12 13);
                row = row.wrapping_add(self.tap_row);
            }
            for (p, &value) in acc.iter().enumerate() {
                lanes.store(output.add(p * step), value);
            }
        }
    }
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
