//! The end of backward on one image, row by row, out of the registers that hold the gradient of the activated input: the
//! mask of the ReLU, the former contents of du, and the sums for the batch norm before.

use super::cpu::Padded;
use super::cpu_depthwise::{Memory, Put, Tile};
use crate::images::Images;
use crate::simd::{Lanes, for_vectors};

/// du = d_activated·\[activated > 0\] of one image, and its sums.
pub(super) struct Finish<'a> {
    images: Images,
    input: Padded,
    operands: Operands<'a>,
    /// `[Σdu | Σdu·x]` of a row, 2·C′: f32 carries no more than that.
    row_sums: &'a mut [f32],
    /// The row that comes in.
    row: usize,
}

/// What the last step of an image reads and writes.
pub(super) struct Operands<'a> {
    /// relu(a·x + b), padded.
    pub(super) activated: &'a [f32],
    /// What other units gave d_activated, `[H, W, C′]`.
    pub(super) former: Option<&'a [f32]>,
    pub(super) x: &'a [f32],
    pub(super) du: &'a mut [f32],
    /// Whether du is added to.
    pub(super) add: bool,
    /// `[Σdu | Σdu·x]`, added to.
    pub(super) sums: Option<&'a mut [f64]>,
}

impl<'a> Finish<'a> {
    pub(super) fn new(images: Images, input: Padded, operands: Operands<'a>, row_sums: &'a mut [f32]) -> Self {
        let len = images.image_len();
        assert!(operands.x.len() == len && operands.du.len() == len, "sep_unit: an image of {images:?}");
        assert!(operands.activated.len() >= input.len() && row_sums.len() == 2 * input.c, "sep_unit: finish");
        let former = operands.former.map_or(usize::MAX, <[f32]>::len);
        assert!(former >= images.image_pixels() * input.c, "sep_unit: the gradient of other units");
        Self { images, input, operands, row_sums, row: 0 }
    }

    /// The end where no unit gives a gradient.
    #[inline(always)]
    pub(super) fn zeros<L: Lanes>(&mut self, lanes: L) {
        for row in 0..self.images.h {
            self.begin(row);
            for pixel in 0..self.images.w {
                for_vectors!(lanes: L, self.input.c, channel => {
                    // SAFETY: a pixel of a row, and a vector of its C′ channels.
                    unsafe { self.put(lanes, Tile { pixel, step: 1, channel }, [lanes.zero()]) }
                });
            }
            self.end();
        }
    }
}

impl Put for Finish<'_> {
    #[inline(always)]
    fn begin(&mut self, row: usize) {
        assert!(row < self.images.h, "sep_unit: row {row}");
        self.row = row;
        self.row_sums.fill(0.0);
    }

    #[inline(always)]
    fn end(&mut self) {
        if let Some(sums) = self.operands.sums.as_deref_mut() {
            for (half, row) in sums.chunks_exact_mut(self.images.c).zip(self.row_sums.chunks_exact(self.input.c)) {
                half.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
    }

    #[inline(always)]
    fn check(&self, pixels: usize, channels: usize) {
        assert!(pixels <= self.images.w && channels == self.input.c, "sep_unit: a row of {pixels} pixels");
    }

    #[inline(always)]
    unsafe fn start<L: Lanes, const P: usize>(&self, lanes: L, tile: Tile) -> [L::V; P] {
        let mut sums = [lanes.zero(); P];
        if let Some(former) = self.operands.former {
            for (p, sum) in sums.iter_mut().enumerate() {
                let pixel = self.row * self.images.w + tile.pixel + p * tile.step;
                // SAFETY: `former` has C′ floats for every pixel, and the tile lies in a row.
                *sum = unsafe { lanes.load(former.as_ptr().add(pixel * self.input.c + tile.channel)) };
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn put<L: Lanes, const P: usize>(&mut self, lanes: L, tile: Tile, mut sums: [L::V; P]) {
        let Self { images, input, ref mut operands, ref mut row_sums, row } = *self;
        let here = images.c - tile.channel;
        // SAFETY: x and du have C floats for every pixel and `activated` C′ inside its margin, the row sums 2·C′; the tile lies in a row,
        // and a vector at the end of the channels of x or du is cut at C.
        unsafe {
            let first = (row * images.w + tile.pixel) * images.c + tile.channel;
            let step = tile.step * images.c;
            let activated = input.at(row + input.margin, input.margin + tile.pixel) + tile.channel;
            for (p, sum) in sums.iter_mut().enumerate() {
                let activated = lanes.load(operands.activated.as_ptr().add(activated + p * tile.step * input.c));
                *sum = lanes.where_positive(activated, *sum);
            }
            let du = operands.du.as_mut_ptr().add(first);
            if operands.add {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum = lanes.add(*sum, lanes.load_up_to(du.add(p * step), here));
                }
            }
            if here >= L::LANES {
                for (p, &sum) in sums.iter().enumerate() {
                    lanes.store(du.add(p * step), sum);
                }
            } else {
                // Not unrolled, of a copy: there are many tiles, and the code for a cut vector is long.
                let sums = sums;
                for (p, &sum) in sums.iter().enumerate().take(std::hint::black_box(P)) {
                    lanes.store_first(du.add(p * step), sum, here);
                }
            }
            if operands.sums.is_some() {
                let x = operands.x.as_ptr().add(first);
                // Two chains each: neighbouring pixels.
                let (mut plain, mut products) = ([lanes.zero(); 2], [lanes.zero(); 2]);
                for (p, &sum) in sums.iter().enumerate() {
                    plain[p % 2] = lanes.add(plain[p % 2], sum);
                    products[p % 2] = lanes.mul_add(sum, lanes.load_up_to(x.add(p * step), here), products[p % 2]);
                }
                let to = row_sums.as_mut_ptr().add(tile.channel);
                lanes.store(to, lanes.add(lanes.load(to), lanes.add(plain[0], plain[1])));
                let to = to.add(input.c);
                lanes.store(to, lanes.add(lanes.load(to), lanes.add(products[0], products[1])));
            }
        }
    }
}

/// Where the gradient of the activated image goes: to the other units', or on. One type, so that all that comes before is compiled
/// once.
pub(super) enum To<'a> {
    Sum(Memory<'a>),
    Finish(Finish<'a>),
}

macro_rules! either {
    ($to:expr, $put:ident => $action:expr) => {
        match $to {
            To::Sum($put) => $action,
            To::Finish($put) => $action,
        }
    };
}

impl Put for To<'_> {
    #[inline(always)]
    fn begin(&mut self, row: usize) {
        either!(self, put => put.begin(row));
    }

    #[inline(always)]
    fn end(&mut self) {
        either!(self, put => put.end());
    }

    #[inline(always)]
    fn check(&self, pixels: usize, channels: usize) {
        either!(self, put => put.check(pixels, channels));
    }

    #[inline(always)]
    unsafe fn start<L: Lanes, const P: usize>(&self, lanes: L, tile: Tile) -> [L::V; P] {
        // SAFETY: the caller's promise.
        unsafe { either!(self, put => put.start(lanes, tile)) }
    }

    #[inline(always)]
    unsafe fn put<L: Lanes, const P: usize>(&mut self, lanes: L, tile: Tile, sums: [L::V; P]) {
        // SAFETY: the caller's promise.
        unsafe { either!(self, put => put.put(lanes, tile, sums)) }
    }
}
