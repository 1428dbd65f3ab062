//! The end of backward on one image: the mask of the ReLU, the sums for the batch norm before, and the former contents
//! of du. Refuses to go over an image channel by channel: a row of all operands fits a first-level cache, an image
//! does not.

use super::cpu::Padded;
use crate::images::Images;
use crate::simd::Lanes;

/// The last step of one image: du = d_activated·\[activated > 0\].
pub(super) struct Finish<'a> {
    pub(super) images: Images,
    pub(super) input: Padded,
    pub(super) activated: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) x: &'a [f32],
}

impl Finish<'_> {
    /// One vector of channels of a row, added to `du` if `ADD`; Σdu and Σdu·x are added to `sums` if `SUMS`; the vector is
    /// cut at the end of the channels unless `WHOLE`.
    #[inline(always)]
    pub(super) fn row<L: Lanes, const ADD: bool, const SUMS: bool, const WHOLE: bool>(
        &self,
        lanes: L,
        row: usize,
        channel: usize,
        du: &mut [f32],
        sums: &mut [f32],
    ) {
        let Images { w, c, .. } = self.images;
        let (input, padded) = (self.input, self.input.c);
        let here = if WHOLE { L::LANES } else { c - channel };
        let activated = &self.activated[input.at(row + input.margin, input.margin)..][..w * padded];
        let gradient = &self.gradient[row * w * padded..][..w * padded];
        let x = &self.x[row * w * c..][..w * c];
        let du = &mut du[row * w * c..][..w * c];
        let (sum_at, product_at) = sums.split_at_mut(padded);
        let (sum_at, product_at) = (&mut sum_at[channel..], &mut product_at[channel..padded]);
        // SAFETY: the slices have w pixels of C′ and of c floats, the sums C′ − channel ≥ LANES; a vector at the end of the channels
        // stops at c.
        unsafe {
            // Two chains each: neighbouring pixels.
            let mut sum = [lanes.load(sum_at.as_ptr()), lanes.zero()];
            let mut product = [lanes.load(product_at.as_ptr()), lanes.zero()];
            // A macro, since a closure used more than once would not be inlined.
            macro_rules! pixel {
                ($pixel:expr, $chain:literal) => {{
                    let (from, to) = ($pixel * padded + channel, $pixel * c + channel);
                    let activated = lanes.load(activated.as_ptr().add(from));
                    let mut value = lanes.where_positive(activated, lanes.load(gradient.as_ptr().add(from)));
                    if ADD {
                        value = lanes.add(value, lanes.load_up_to(du.as_ptr().add(to), here));
                    }
                    lanes.store_up_to(du.as_mut_ptr().add(to), value, here);
                    if SUMS {
                        let x = lanes.load_up_to(x.as_ptr().add(to), here);
                        sum[$chain] = lanes.add(sum[$chain], value);
                        product[$chain] = lanes.mul_add(value, x, product[$chain]);
                    }
                }};
            }
            for pair in 0..w / 2 {
                pixel!(2 * pair, 0);
                pixel!(2 * pair + 1, 1);
            }
            if w % 2 == 1 {
                pixel!(w - 1, 0);
            }
            if SUMS {
                lanes.store(sum_at.as_mut_ptr(), lanes.add(sum[0], sum[1]));
                lanes.store(product_at.as_mut_ptr(), lanes.add(product[0], product[1]));
            }
        }
    }
}
