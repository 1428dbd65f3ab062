//! Which part of an image is shown: the centre for evaluation, a random part for training. Only geometry: what scales
//! the part to the network's size is elsewhere.

use crate::dataset::ImageSize;
use crate::random::Generator;

/// Proportions (width over height) of random parts, as torchvision draws them.
const RATIOS: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Draws of a random part before the centre is taken instead.
const ATTEMPTS: usize = 10;

/// A rectangle of an image, in its pixels from its top left corner; edges may lie between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Columns left of it.
    pub left: f64,
    /// Rows above it.
    pub top: f64,
    /// Columns.
    pub width: f64,
    /// Rows.
    pub height: f64,
}

impl Region {
    /// All of an image.
    pub fn whole(source: ImageSize) -> Self {
        Self { left: 0.0, top: 0.0, width: source.width as f64, height: source.height as f64 }
    }

    fn centre(source: ImageSize, width: usize, height: usize) -> Self {
        let (left, top) = ((source.width - width) / 2, (source.height - height) / 2);
        Self { left: left as f64, top: top as f64, width: width as f64, height: height as f64 }
    }

    /// The largest centred part of whole pixels that has the proportions of `wanted`; at least one pixel each way.
    pub fn largest(source: ImageSize, wanted: ImageSize) -> Self {
        let (width, height) = (source.width, source.height);
        let (part_width, part_height) = if width * wanted.height > height * wanted.width {
            (height * wanted.width / wanted.height, height)
        } else {
            (width, width * wanted.height / wanted.width)
        };
        Self::centre(source, part_width.max(1), part_height.max(1))
    }

    /// What torchvision's `Resize(side)` and `CenterCrop(wanted)` show: of the image with its shorter side scaled to
    /// `side`, the centre of the size `wanted`.
    ///
    /// # Panics
    /// If `side` is below a side of `wanted`: there would be nothing to show at the border.
    pub fn centre_crop(source: ImageSize, side: usize, wanted: ImageSize) -> Self {
        assert!(side >= wanted.width.max(wanted.height), "the centre {wanted:?} of an image of side {side}");
        let short = source.width.min(source.height);
        // The longer side is rounded down, and half a pixel to the even number, as Python does.
        let scaled = |length: usize| if length == short { side } else { side * length / short };
        let (width, height) = (scaled(source.width), scaled(source.height));
        let start = |length: usize, wanted: usize| ((length - wanted) as f64 / 2.0).round_ties_even();
        let (x, y) = (source.width as f64 / width as f64, source.height as f64 / height as f64);
        Self {
            left: start(width, wanted.width) * x,
            top: start(height, wanted.height) * y,
            width: wanted.width as f64 * x,
            height: wanted.height as f64 * y,
        }
    }

    /// A random part as torchvision's `RandomResizedCrop` draws it: an area of `least_area` to 1 times the image's,
    /// proportions from 3:4 to 4:3 (uniform in the logarithm), whole pixels, a uniformly random place.
    pub fn random_resized(source: ImageSize, least_area: f64, random: &mut Generator) -> Self {
        let area = (source.width * source.height) as f64;
        let [low, high] = RATIOS.map(f64::ln);
        for _ in 0..ATTEMPTS {
            let target = area * (least_area + (1.0 - least_area) * random.uniform());
            let ratio = (low + (high - low) * random.uniform()).exp();
            let width = (target * ratio).sqrt().round_ties_even() as usize;
            let height = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=source.width).contains(&width) && (1..=source.height).contains(&height) {
                let top = random.below(source.height - height + 1);
                let left = random.below(source.width - width + 1);
                return Self { left: left as f64, top: top as f64, width: width as f64, height: height as f64 };
            }
        }
        let [narrowest, widest] = RATIOS;
        let ratio = source.width as f64 / source.height as f64;
        let rounded = |length: f64, most: usize| (length.round_ties_even() as usize).clamp(1, most);
        if ratio < narrowest {
            Self::centre(source, source.width, rounded(source.width as f64 / narrowest, source.height))
        } else if ratio > widest {
            Self::centre(source, rounded(source.height as f64 * widest, source.width), source.height)
        } else {
            Self::whole(source)
        }
    }

    /// The same part of the same image at another scale.
    pub(crate) fn scaled(self, x: f64, y: f64) -> Self {
        Self { left: self.left * x, top: self.top * y, width: self.width * x, height: self.height * y }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn size(width: usize, height: usize) -> ImageSize {
        ImageSize { height, width }
    }

    #[test]
    fn the_largest_centred_part_keeps_proportions() {
        let part = |source, wanted| {
            let Region { left, top, width, height } = Region::largest(source, wanted);
            [left, top, width, height]
        };
        assert_eq!(part(size(640, 480), ImageSize::square(32)), [80.0, 0.0, 480.0, 480.0]);
        assert_eq!(part(size(10, 30_000), ImageSize::square(32)), [0.0, 14_995.0, 10.0, 10.0]);
        assert_eq!(part(size(1, 7), size(100, 1)), [0.0, 3.0, 1.0, 1.0]);
    }

    /// By hand: 500 × 375 becomes 341 × 256; of its 117 surplus columns 58 (58.5, to even) lie left of the crop.
    #[test]
    fn the_centre_crop_matches_torchvision() {
        let region = Region::centre_crop(size(500, 375), 256, ImageSize::square(224));
        let (x, y) = (500.0 / 341.0, 375.0 / 256.0);
        let expected = Region { left: 58.0 * x, top: 16.0 * y, width: 224.0 * x, height: 224.0 * y };
        assert_eq!(region, expected);
        let whole = Region::centre_crop(size(64, 64), 64, ImageSize::square(64));
        assert_eq!(whole, Region::whole(size(64, 64)));
    }

    #[test]
    fn random_parts_lie_inside_and_have_the_areas_and_proportions_that_were_asked_for() {
        let source = size(500, 375);
        let mut random = Key::new(1, Purpose::new("regions")).generator();
        let (mut areas, mut ratios) = (0.0, 0.0);
        for _ in 0..4000 {
            let Region { left, top, width, height } = Region::random_resized(source, 0.08, &mut random);
            assert!(left >= 0.0 && top >= 0.0 && left + width <= 500.0 && top + height <= 375.0);
            let area = width * height / (500.0 * 375.0);
            assert!((0.078..=1.0).contains(&area), "{area}");
            assert!((0.73..1.37).contains(&(width / height)), "{width} x {height}");
            areas += area;
            ratios += (width / height).ln();
        }
        // Parts that do not fit are drawn again: torchvision's means over 20,000 draws are 0.4323 and 0.0317.
        assert!((areas / 4000.0 - 0.4323).abs() < 0.015, "{}", areas / 4000.0);
        assert!((ratios / 4000.0 - 0.0317).abs() < 0.015, "{}", ratios / 4000.0);
    }

    #[test]
    fn images_of_impossible_proportions_show_their_centre() {
        let mut random = Key::new(2, Purpose::new("regions")).generator();
        let tall = Region::random_resized(size(3, 3000), 0.5, &mut random);
        assert_eq!(tall, Region { left: 0.0, top: 1498.0, width: 3.0, height: 4.0 });
        let wide = Region::random_resized(size(3000, 3), 0.5, &mut random);
        assert_eq!(wide, Region { left: 1498.0, top: 0.0, width: 4.0, height: 3.0 });
        for (width, height) in [(1, 1), (2, 1), (1, 3)] {
            let Region { left, top, width: w, height: h } =
                Region::random_resized(size(width, height), 0.08, &mut random);
            assert!(w >= 1.0 && h >= 1.0 && left + w <= width as f64 && top + h <= height as f64);
        }
    }
}
