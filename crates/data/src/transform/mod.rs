//! From pixels to what a network reads: random crop, colour jitter, horizontal flip, normalization, cutout. What is done to
//! an image is drawn from a keyed generator and applied in a second step, so that the same key gives the same numbers
//! whatever thread does it, and a test can hand in its own draws. What brings an image to the network's size is not here:
//! a [`Region`] only says which part of it is wanted.

mod jitter;
mod region;

pub use jitter::{Adjustment, Adjustments, ColourJitter};
pub use region::Region;

use crate::dataset::{CHANNELS, ImageSize, Normalization};
use crate::random::Generator;

/// How the part of an image that a network sees is chosen.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Crop {
    /// The whole image.
    Whole,
    /// The image with `padding` black pixels on every side, cropped to its own size at a uniformly random place.
    Padded {
        /// Pixels added on each side.
        padding: usize,
    },
    /// A random part of the image as it was before it was scaled ([`Region::random_resized`]).
    RandomResized {
        /// The least share of the image's area.
        least_area: f64,
    },
}

/// Which random changes training images go through, in this order: crop, colours, flip, normalization, cutout.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Augment {
    /// The crop.
    pub crop: Crop,
    /// Random colours.
    pub jitter: Option<ColourJitter>,
    /// Mirror left and right with probability ½.
    pub flip: bool,
    /// Set a square of this side, centred on a uniformly random pixel and clipped at the border, to the mean colour
    /// (DeVries & Taylor, arXiv 1708.04552).
    pub cutout: Option<usize>,
}

impl Augment {
    /// No change: what evaluation uses.
    pub const fn none() -> Self {
        Self { crop: Crop::Whole, jitter: None, flip: false, cutout: None }
    }

    /// The CIFAR recipe of the paper's section 3.1 and appendix: padding 4, crop, flip.
    pub const fn cifar() -> Self {
        Self { crop: Crop::Padded { padding: 4 }, flip: true, ..Self::none() }
    }

    /// The CIFAR recipe in proportion to another image size: padding of an eighth of the shorter side.
    pub fn proportional(size: ImageSize) -> Self {
        Self { crop: Crop::Padded { padding: size.height.min(size.width) / 8 }, ..Self::cifar() }
    }

    /// The ImageNet recipe of the paper's appendix: random resized crop, flip, colour jitter.
    pub const fn imagenet() -> Self {
        let crop = Crop::RandomResized { least_area: 0.08 };
        Self { crop, jitter: Some(ColourJitter::IMAGENET), flip: true, cutout: None }
    }

    /// The same with cutout of a square of this side (0: without cutout).
    pub fn with_cutout(self, side: usize) -> Self {
        Self { cutout: (side > 0).then_some(side), ..self }
    }

    /// Whether it moves and covers the pixels of an image of the network's size, and does nothing else: no other scale, no colours.
    pub fn only_moves(&self) -> bool {
        self.jitter.is_none() && matches!(self.crop, Crop::Whole | Crop::Padded { .. })
    }

    /// Draws what happens to one image of this size, of which the crop has already chosen the part where it does that.
    pub fn draw(&self, size: ImageSize, random: &mut Generator) -> Draw {
        if *self == Self::none() {
            return Draw::default();
        }
        let mut draw = Draw { adjustments: self.jitter.map(|jitter| jitter.draw(random)), ..Draw::default() };
        if let Crop::Padded { padding } = self.crop {
            let mut shift = || random.below(2 * padding + 1) as isize - padding as isize;
            (draw.down, draw.right) = (shift(), shift());
        }
        draw.flip = self.flip && random.below(2) == 1;
        if let Some(side) = self.cutout {
            let (y, x) = (random.below(size.height), random.below(size.width));
            let half = side / 2;
            draw.cutout = Some(Square {
                top: y.saturating_sub(half),
                bottom: (y + half).min(size.height),
                left: x.saturating_sub(half),
                right: (x + half).min(size.width),
            });
        }
        draw
    }
}

/// What happens to one image of the network's size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Draw {
    /// Changes of its colours, which the caller applies to the bytes first.
    pub adjustments: Option<Adjustments>,
    /// Rows that the crop lies below the image's top (negative: above).
    pub down: isize,
    /// Columns that the crop lies right of the image's left edge (negative: left of it).
    pub right: isize,
    /// Mirror the crop.
    pub flip: bool,
    /// What is set to the mean colour afterwards.
    pub cutout: Option<Square>,
}

/// Rows `top..bottom` and columns `left..right` of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Square {
    /// First row.
    pub top: usize,
    /// Row after the last.
    pub bottom: usize,
    /// First column.
    pub left: usize,
    /// Column after the last.
    pub right: usize,
}

/// Applies draws to images of one size, with one set of constants.
#[derive(Clone)]
pub struct Transform {
    size: ImageSize,
    /// Normalized value of each byte, per channel.
    table: Box<[[f32; CHANNELS]; 256]>,
}

impl Transform {
    /// A transform for images of this size.
    pub fn new(size: ImageSize, normalization: &Normalization) -> Self {
        let Normalization { mean, std } = normalization;
        let normalized = |byte, channel: usize| ((byte as f64 / 255.0 - mean[channel]) / std[channel]) as f32;
        let table = std::array::from_fn(|byte| std::array::from_fn(|channel| normalized(byte, channel)));
        Self { size, table: Box::new(table) }
    }

    /// The normalized value of each byte, per channel.
    pub fn table(&self) -> &[[f32; CHANNELS]; 256] {
        &self.table
    }

    /// Overwrites `out` with the image that `draw` makes of `pixels`.
    ///
    /// # Shapes
    /// `pixels` and `out`: `[H, W, 3]`.
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn apply(&self, pixels: &[u8], draw: &Draw, out: &mut [f32]) {
        let ImageSize { height, width } = self.size;
        assert_eq!((pixels.len(), out.len()), (self.size.len(), self.size.len()), "transform of {height} x {width}");
        let padding = self.table[0];
        // Columns of the crop that show the image; the others show padding.
        let from = draw.right.min(0).unsigned_abs().min(width);
        let until = width - draw.right.max(0).unsigned_abs().min(width);
        for (y, out_row) in out.chunks_exact_mut(width * CHANNELS).enumerate() {
            let source = y as isize + draw.down;
            let (out_row, _) = out_row.as_chunks_mut::<CHANNELS>();
            if source < 0 || source >= height as isize || from >= until {
                out_row.fill(padding);
                continue;
            }
            let row = &pixels[source as usize * width * CHANNELS..][..width * CHANNELS];
            let (row, _) = row.as_chunks::<CHANNELS>();
            let shown = &row[from.wrapping_add_signed(draw.right)..until.wrapping_add_signed(draw.right)];
            let normalize = |&[r, g, b]: &[u8; CHANNELS]| {
                [self.table[usize::from(r)][0], self.table[usize::from(g)][1], self.table[usize::from(b)][2]]
            };
            if draw.flip {
                let (start, end) = (width - until, width - from);
                out_row[..start].fill(padding);
                out_row[end..].fill(padding);
                out_row[start..end].iter_mut().zip(shown.iter().rev()).for_each(|(o, p)| *o = normalize(p));
            } else {
                out_row[..from].fill(padding);
                out_row[until..].fill(padding);
                out_row[from..until].iter_mut().zip(shown).for_each(|(o, p)| *o = normalize(p));
            }
        }
        if let Some(Square { top, bottom, left, right }) = draw.cutout {
            for y in top..bottom {
                out[(y * width + left) * CHANNELS..(y * width + right) * CHANNELS].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    const SIZE: ImageSize = ImageSize { height: 5, width: 7 };

    fn pixels() -> Vec<u8> {
        let mut pixels = vec![0; SIZE.len()];
        Key::new(1, Purpose::new("pixels")).generator().fill_bytes(&mut pixels);
        pixels
    }

    /// Crop, flip, normalize and cut out one element at a time.
    fn reference(pixels: &[u8], draw: &Draw, y: usize, x: usize, channel: usize) -> f32 {
        let Normalization { mean, std } = Normalization::CIFAR10;
        if draw.cutout.is_some_and(|cut| (cut.top..cut.bottom).contains(&y) && (cut.left..cut.right).contains(&x)) {
            return 0.0;
        }
        let x = if draw.flip { SIZE.width - 1 - x } else { x };
        let (y, x) = (y as isize + draw.down, x as isize + draw.right);
        let is_inside = (0..SIZE.height as isize).contains(&y) && (0..SIZE.width as isize).contains(&x);
        let value = if is_inside { pixels[(y as usize * SIZE.width + x as usize) * CHANNELS + channel] } else { 0 };
        ((f64::from(value) / 255.0 - mean[channel]) / std[channel]) as f32
    }

    #[test]
    fn every_shift_flip_and_cutout_matches_reference() {
        let (pixels, transform) = (pixels(), Transform::new(SIZE, &Normalization::CIFAR10));
        let mut out = vec![f32::NAN; SIZE.len()];
        let cut = Some(Square { top: 1, bottom: 3, left: 4, right: 7 });
        for down in -6..=6 {
            for right in -8..=8 {
                for (flip, cutout) in [(false, None), (true, None), (false, cut), (true, cut)] {
                    let draw = Draw { down, right, flip, cutout, adjustments: None };
                    out.fill(f32::NAN);
                    transform.apply(&pixels, &draw, &mut out);
                    for (at, &value) in out.iter().enumerate() {
                        let (y, x) = (at / CHANNELS / SIZE.width, at / CHANNELS % SIZE.width);
                        assert_eq!(value, reference(&pixels, &draw, y, x, at % CHANNELS), "{draw:?} at {y}, {x}");
                    }
                }
            }
        }
    }

    #[test]
    fn draws_cover_their_range_evenly_and_are_a_function_of_the_key() {
        let size = ImageSize::square(32);
        let augment = Augment::cifar().with_cutout(16);
        let (mut down, mut flips, mut full) = ([0; 9], 0, 0);
        for sample in 0..9000 {
            let key = Key::new(5, Purpose::AUGMENT).epoch(2).sample(sample);
            let draw = augment.draw(size, &mut key.generator());
            assert_eq!(draw, augment.draw(size, &mut key.generator()));
            down[(draw.down + 4) as usize] += 1;
            assert!((-4..=4).contains(&draw.right));
            flips += usize::from(draw.flip);
            let cut = draw.cutout.unwrap();
            let area = (cut.bottom - cut.top) * (cut.right - cut.left);
            assert!((64..=256).contains(&area) && cut.bottom <= 32 && cut.right <= 32, "{cut:?}");
            full += usize::from(area == 256);
        }
        assert!(down.iter().all(|count| (880..1120).contains(count)), "{down:?}");
        assert!((4300..4700).contains(&flips), "{flips} flips of 9000");
        // A centre of 17 of 32 rows and columns leaves the square whole.
        assert!((2350..2730).contains(&full), "{full} whole squares of 9000, 2540 expected");
    }

    #[test]
    fn evaluation_changes_nothing_but_the_scale() {
        let draw = Augment::none().draw(SIZE, &mut Key::new(0, Purpose::AUGMENT).generator());
        assert_eq!(draw, Draw::default());
    }
}
