//! The depthwise half: taps applied to a row of pixels. Refuses to know which
//! convolution the taps stand for: every kernel size, stride and dilation and the correlation of backward are lists of
//! offsets. A square of taps at stride 1, the usual case, is a [`Grid`]: there an input that was loaded serves all the
//! outputs of a row that read it.
//!
//! C′: channels padded, a multiple of the short vectors. A step is the distance in floats from one pixel to the next.

use crate::ahead::Ahead;
use crate::simd::{Lanes, for_vectors};

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

/// Pixels of a row of inputs.
#[derive(Debug, Copy, Clone)]
pub(super) struct Row {
    pub(super) pixels: usize,
    /// C′.
    pub(super) channels: usize,
    pub(super) input_step: usize,
    /// The output pixel of the first, and the distance from one to the next, in pixels.
    pub(super) first: usize,
    pub(super) step: usize,
}

/// Some output pixels of one vector of channels: the first, and the distance from one to the next, in pixels.
#[derive(Debug, Copy, Clone)]
pub(super) struct Tile {
    pub(super) pixel: usize,
    pub(super) step: usize,
    pub(super) channel: usize,
}

/// Where outputs go, row by row.
pub(super) trait Put {
    /// Row `row` comes next.
    fn begin(&mut self, row: usize);

    /// The row is complete.
    fn end(&mut self) {}

    /// Panics unless there is room for `pixels` pixels of `channels` = C′ floats.
    fn check(&self, pixels: usize, channels: usize);

    /// What the sums of P pixels begin with.
    ///
    /// # Safety
    /// The tile lies in a row that was checked.
    unsafe fn start<L: Lanes, const P: usize>(&self, lanes: L, tile: Tile) -> [L::V; P];

    /// Takes the sums of P pixels.
    ///
    /// # Safety
    /// As for `start`.
    unsafe fn put<L: Lanes, const P: usize>(&mut self, lanes: L, tile: Tile, sums: [L::V; P]);
}

/// Memory `[rows, W, C′]`, overwritten or added to.
pub(super) struct Memory<'a> {
    floats: &'a mut [f32],
    pixels: usize,
    channels: usize,
    add: bool,
    /// Where the row begins.
    first: usize,
}

impl<'a> Memory<'a> {
    /// Rows of `pixels` pixels of `channels` = C′ floats.
    pub(super) fn new(floats: &'a mut [f32], (pixels, channels): (usize, usize), add: bool) -> Self {
        Self { floats, pixels, channels, add, first: 0 }
    }

    #[inline(always)]
    fn at(&self, tile: Tile, p: usize) -> usize {
        self.first + (tile.pixel + p * tile.step) * self.channels + tile.channel
    }
}

impl Put for Memory<'_> {
    #[inline(always)]
    fn begin(&mut self, row: usize) {
        self.first = row * self.pixels * self.channels;
    }

    #[inline(always)]
    fn check(&self, pixels: usize, channels: usize) {
        assert!(channels == self.channels, "sep_unit: channels of an output row");
        assert!(self.floats.len() >= self.first + pixels * channels, "sep_unit: output row");
    }

    #[inline(always)]
    unsafe fn start<L: Lanes, const P: usize>(&self, lanes: L, tile: Tile) -> [L::V; P] {
        let mut sums = [lanes.zero(); P];
        if self.add {
            for (p, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *sum = unsafe { lanes.load(self.floats.as_ptr().add(self.at(tile, p))) };
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn put<L: Lanes, const P: usize>(&mut self, lanes: L, tile: Tile, sums: [L::V; P]) {
        for (p, sum) in sums.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { lanes.store(self.floats.as_mut_ptr().add(self.at(tile, p)), sum) }
        }
    }
}

/// output\[p,c\] = Σ_t weights\[t,c\]·input\[p at tap t,c\], put where `out` says; a vector of output is a tick of `ahead`.
#[inline(always)]
pub(super) fn apply<L: Lanes>(
    lanes: L,
    taps: &Taps,
    weights: &[f32],
    input: &[f32],
    row: Row,
    out: &mut impl Put,
    ahead: &mut Ahead,
) {
    let Row { pixels, channels, input_step, first, step } = row;
    if pixels == 0 {
        return;
    }
    assert!(channels.is_multiple_of(L::Short::LANES), "sep_unit: channels");
    if !taps.taps.is_empty() {
        assert!(weights.len() >= taps.weight_reach + channels, "sep_unit: depthwise weights");
        assert!(input.len() >= (pixels - 1) * input_step + taps.input_reach + channels, "sep_unit: input row");
    }
    out.check(first + (pixels - 1) * step + 1, channels);
    let context = Context { taps: &taps.taps, weights: weights.as_ptr(), input_step };
    let (mut input, mut done) = (input.as_ptr(), 0);
    macro_rules! tiles {
        ($pixels:literal) => {
            while pixels - done >= $pixels {
                for_vectors!(lanes: L, channels, channel => {
                    let tile = Tile { pixel: first + done * step, step, channel };
                    // SAFETY: the asserts above: $pixels more pixels are there at `input` (with every tap) and in `out`, a vector from `channel`
                    // on, and weights of every tap.
                    unsafe { context.tile::<_, $pixels>(lanes, input.add(channel), tile, out) }
                });
                ahead.tick($pixels * channels.div_ceil(L::LANES));
                input = input.wrapping_add($pixels * input_step);
                done += $pixels;
            }
        };
    }
    tiles!(8);
    tiles!(1);
}

/// A square of K × K taps at stride 1.
#[derive(Debug, Copy, Clone)]
pub(super) struct Grid {
    /// K: 3 or 5.
    kernel: usize,
    /// Pixels between columns of taps.
    dilation: usize,
    /// Floats between rows of taps.
    tap_row: usize,
}

impl Grid {
    /// `row` is the number of floats in a row of the input; none if the kernel has no code of its own.
    pub(super) fn new(kernel: usize, dilation: usize, row: usize) -> Option<Self> {
        matches!(kernel, 3 | 5).then_some(Self { kernel, dilation, tap_row: dilation * row })
    }
}

/// output\[p,c\] = Σ_{i,j} weights\[i·K + j,c\]·input\[p + d·j in row d·i,c\] for `pixels` pixels of `channels` = C′ floats, contiguous in
/// the input; put where `out` says. `weights` is `[K², C′]`. A vector of output is a tick of `ahead`.
#[inline(always)]
pub(super) fn apply_grid<L: Lanes>(
    lanes: L,
    grid: Grid,
    weights: &[f32],
    input: &[f32],
    (pixels, channels): (usize, usize),
    out: &mut impl Put,
    ahead: &mut Ahead,
) {
    let Grid { kernel, dilation, tap_row } = grid;
    assert!(channels.is_multiple_of(L::Short::LANES), "sep_unit: channels");
    assert!(weights.len() >= kernel * kernel * channels, "sep_unit: depthwise weights");
    let reach = (kernel - 1) * (tap_row + dilation * channels);
    assert!(input.len() >= reach + pixels * channels, "sep_unit: input row");
    out.check(pixels, channels);
    // Every d-th pixel reads every d-th pixel: d rows without dilation.
    for class in 0..dilation.min(pixels) {
        let context = GridContext { kernel, dilation, weights: weights.as_ptr(), channels, tap_row, class };
        let count = (pixels - class).div_ceil(dilation);
        // SAFETY: the asserts above: class + (count − 1)·d < pixels, and every tap of such a pixel is inside `input`.
        unsafe {
            let input = input.as_ptr().add(class * channels);
            match kernel {
                3 => context.pixels::<L, 3>(lanes, count, input, out, ahead),
                _ => context.pixels::<L, 5>(lanes, count, input, out, ahead),
            }
        }
    }
}

/// What the tiles of a row share.
struct GridContext {
    kernel: usize,
    dilation: usize,
    weights: *const f32,
    channels: usize,
    tap_row: usize,
    /// The first pixel.
    class: usize,
}

impl GridContext {
    /// `count` pixels of all channels.
    ///
    /// # Safety
    /// They are readable at `input` for every tap, and `out` has room for them; K² taps have weights.
    #[inline(always)]
    unsafe fn pixels<L: Lanes, const K: usize>(
        &self,
        lanes: L,
        count: usize,
        input: *const f32,
        out: &mut impl Put,
        ahead: &mut Ahead,
    ) {
        let mut done = 0;
        macro_rules! tiles {
            ($pixels:literal) => {
                while count - done >= $pixels {
                    for_vectors!(lanes: L, self.channels, channel => {
                        let pixel = self.class + done * self.dilation;
                        let tile = Tile { pixel, step: self.dilation, channel };
                        let offset = done * self.dilation * self.channels + channel;
                        // SAFETY: pixels done..done + $pixels are below `count`, and a vector from `channel` on is inside.
                        unsafe { self.tile::<_, $pixels, K>(lanes, input.add(offset), tile, out) }
                        ahead.tick($pixels);
                    });
                    done += $pixels;
                }
            };
        }
        tiles!(8);
        tiles!(4);
        tiles!(1);
    }

    /// `P` pixels, one vector of channels: P independent chains. Input i serves the outputs i − K + 1 to i.
    ///
    /// # Safety
    /// As for `pixels`; `self.kernel` is K.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const P: usize, const K: usize>(
        &self,
        lanes: L,
        input: *const f32,
        tile: Tile,
        out: &mut impl Put,
    ) {
        // Opaque, or the multiples of the step are computed, and spilled, before the loop over tiles: more of them than there are
        // registers.
        let step = std::hint::black_box(self.dilation * self.channels);
        // SAFETY: the caller's promise covers pixels p < P and with them the inputs i < P + K − 1 of K rows.
        unsafe {
            let mut acc = out.start::<L, P>(lanes, tile);
            let (mut row, mut weights) = (input, self.weights.add(tile.channel));
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
                inputs!(0 1 2 3 4 5 6 7 8 9 10 11);
                row = row.wrapping_add(self.tap_row);
            }
            out.put(lanes, tile, acc);
        }
    }
}

/// What the tiles of a row share.
struct Context<'a> {
    taps: &'a [Tap],
    weights: *const f32,
    input_step: usize,
}

impl Context<'_> {
    /// `P` pixels, one vector of channels: P independent chains.
    ///
    /// # Safety
    /// The vector is readable at `input` for P pixels and every tap, and `out` has room for it; every tap has weights.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const P: usize>(&self, lanes: L, input: *const f32, tile: Tile, out: &mut impl Put) {
        // SAFETY: the caller's promise covers every pixel p < P and every tap.
        unsafe {
            let mut acc = out.start::<L, P>(lanes, tile);
            for tap in self.taps {
                let weight = lanes.load(self.weights.add(tap.weight + tile.channel));
                let input = input.add(tap.input);
                for (p, acc) in acc.iter_mut().enumerate() {
                    *acc = lanes.mul_add(weight, lanes.load(input.add(p * self.input_step)), *acc);
                }
            }
            out.put(lanes, tile, acc);
        }
    }
}
