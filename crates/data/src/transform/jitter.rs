//! Colour jitter: brightness, contrast, saturation and hue of one image, by random factors in a random order, as
//! torchvision's `ColorJitter` does on Pillow images. Pixels stay bytes between the four, and are cut off at 0 and 255.
//!
//! Brightness, contrast and saturation blend the image with black, its mean gray, its own gray image; they match
//! Pillow's bytes. The hue is turned in floating point, where Pillow first rounds hue and saturation to 256 steps. It
//! refuses to change an image's size or to draw anything itself but [`ColourJitter::draw`].

use crate::dataset::CHANNELS;
use crate::random::Generator;

/// How far colours are changed at most.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ColourJitter {
    /// Factor of the brightness: 1 − b to 1 + b, not below 0.
    pub brightness: f64,
    /// Factor of the contrast, likewise.
    pub contrast: f64,
    /// Factor of the saturation, likewise.
    pub saturation: f64,
    /// Turn of the hue: −h to h of the whole circle.
    pub hue: f64,
}

/// One change of colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adjustment {
    /// factor·v.
    Brightness(f32),
    /// m + factor·(v − m), with m the mean of the gray image.
    Contrast(f32),
    /// g + factor·(v − g), with g the pixel's gray.
    Saturation(f32),
    /// The hue turned by this part of the circle.
    Hue(f32),
}

/// The changes of one image, in their order.
pub type Adjustments = [Adjustment; 4];

impl ColourJitter {
    /// The paper's on ImageNet.
    pub const IMAGENET: Self = Self { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.2 };

    /// Draws factors and order.
    pub fn draw(&self, random: &mut Generator) -> Adjustments {
        let mut factor = |width: f64| {
            let low = (1.0 - width).max(0.0);
            (low + (1.0 + width - low) * random.uniform()) as f32
        };
        let [brightness, contrast, saturation] = [self.brightness, self.contrast, self.saturation].map(&mut factor);
        let hue = (self.hue * (2.0 * random.uniform() - 1.0)) as f32;
        let mut adjustments = [
            Adjustment::Brightness(brightness),
            Adjustment::Contrast(contrast),
            Adjustment::Saturation(saturation),
            Adjustment::Hue(hue),
        ];
        random.shuffle(&mut adjustments);
        adjustments
    }
}

impl Adjustment {
    /// Changes an image of bytes `[H, W, 3]` in place.
    pub fn apply(self, pixels: &mut [u8]) {
        match self {
            Self::Brightness(factor) => blend(pixels, 0.0, factor),
            Self::Contrast(factor) => blend(pixels, mean_gray(pixels), factor),
            Self::Saturation(factor) => by_blocks(pixels, Saturate { factor }),
            Self::Hue(turn) => by_blocks(pixels, TurnHue { turn: 6.0 * turn.rem_euclid(1.0) }),
        }
    }
}

/// Luma of ITU-R 601 in 16 bits after the point, rounded, as Pillow computes it: every number is whole and below 2²⁴ until the
/// fraction is cut off, so f32 is exact.
#[inline(always)]
fn gray([red, green, blue]: [f32; CHANNELS]) -> f32 {
    ((red * 19_595.0 + green * 38_470.0 + blue * 7_471.0 + 32_768.0) / 65_536.0).floor()
}

/// `value` cut off at 0 and 255 and rounded towards 0: from 2²³ on, the lowest bits of a float are its ones. (`as` has no vector
/// instruction.)
#[inline(always)]
fn byte(value: f32) -> u8 {
    (value.clamp(0.0, 255.0).floor() + 8_388_608.0).to_bits() as u8
}

/// The rounded mean of the gray image.
fn mean_gray(pixels: &[u8]) -> f32 {
    let count = pixels.len() / CHANNELS;
    let sum = pulp::Arch::new().dispatch(SumOfGray { pixels });
    (sum as f64 / count.max(1) as f64 + 0.5).floor() as f32
}

struct SumOfGray<'a> {
    pixels: &'a [u8],
}

impl pulp::NullaryFnOnce for SumOfGray<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut sum = 0;
        for block in self.pixels.as_chunks::<CHANNELS>().0.chunks(BLOCK) {
            let [red, green, blue] = planes(block);
            let mut grays = [0; BLOCK];
            for i in 0..BLOCK {
                grays[i] = u32::from(byte(gray([red[i], green[i], blue[i]])));
            }
            sum += u64::from(grays[..block.len()].iter().sum::<u32>());
        }
        sum
    }
}

/// centre + factor·(v − centre) for every byte v, cut off at 0 and 255 and rounded towards 0.
fn blend(pixels: &mut [u8], centre: f32, factor: f32) {
    pulp::Arch::new().dispatch(Blend { pixels, centre, factor });
}

struct Blend<'a> {
    pixels: &'a mut [u8],
    centre: f32,
    factor: f32,
}

impl pulp::NullaryFnOnce for Blend<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { pixels, centre, factor } = self;
        for value in pixels {
            *value = byte(centre + factor * (f32::from(*value) - centre));
        }
    }
}

/// Pixels that are changed together: enough for vector instructions, few enough for the first-level cache.
const BLOCK: usize = 64;

/// Red, green and blue apart; what is missing of a block is black.
#[inline(always)]
fn planes(block: &[[u8; CHANNELS]]) -> [[f32; BLOCK]; CHANNELS] {
    let mut planes = [[0.0; BLOCK]; CHANNELS];
    let [reds, greens, blues] = &mut planes;
    for (i, &[red, green, blue]) in block.iter().enumerate() {
        (reds[i], greens[i], blues[i]) = (f32::from(red), f32::from(green), f32::from(blue));
    }
    planes
}

/// A change of one pixel, whose results are rounded towards 0.
trait Change: Copy {
    fn change(self, pixel: [f32; CHANNELS]) -> [f32; CHANNELS];
}

#[derive(Clone, Copy)]
struct Saturate {
    factor: f32,
}

impl Change for Saturate {
    #[inline(always)]
    fn change(self, [red, green, blue]: [f32; CHANNELS]) -> [f32; CHANNELS] {
        let gray = gray([red, green, blue]);
        let blend = |value: f32| gray + self.factor * (value - gray);
        [blend(red), blend(green), blend(blue)]
    }
}

/// In the hexcone model with maximum M, chroma C and hue h (in sixths of the circle), the channels are
/// M − C·max(0, min(k, 4 − k, 1)), k = (n + h) mod 6, for n = 5, 3, 1.
#[derive(Clone, Copy)]
struct TurnHue {
    /// In sixths of the circle.
    turn: f32,
}

impl Change for TurnHue {
    #[inline(always)]
    fn change(self, [r, g, b]: [f32; CHANNELS]) -> [f32; CHANNELS] {
        let wrapped = |h: f32| if h >= 6.0 { h - 6.0 } else { h };
        let most = r.max(g).max(b);
        let chroma = most - r.min(g).min(b);
        let inverse = if chroma > 0.0 { 1.0 / chroma } else { 0.0 };
        let hue = if most == r {
            (g - b) * inverse
        } else if most == g {
            (b - r) * inverse + 2.0
        } else {
            (r - g) * inverse + 4.0
        };
        let hue = wrapped(wrapped(hue + if hue < 0.0 { 6.0 } else { 0.0 }) + self.turn);
        let channel = |n: f32| {
            let k = wrapped(n + hue);
            most - chroma * k.min(4.0 - k).clamp(0.0, 1.0) + 0.5
        };
        [channel(5.0), channel(3.0), channel(1.0)]
    }
}

fn by_blocks(pixels: &mut [u8], change: impl Change) {
    pulp::Arch::new().dispatch(ByBlocks { pixels, change });
}

struct ByBlocks<'a, C> {
    pixels: &'a mut [u8],
    change: C,
}

impl<C: Change> pulp::NullaryFnOnce for ByBlocks<'_, C> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for block in self.pixels.as_chunks_mut::<CHANNELS>().0.chunks_mut(BLOCK) {
            let [reds, greens, blues] = planes(block);
            let mut bytes = [[0; BLOCK]; CHANNELS];
            let [red, green, blue] = &mut bytes;
            for i in 0..BLOCK {
                let [r, g, b] = self.change.change([reds[i], greens[i], blues[i]]);
                (red[i], green[i], blue[i]) = (byte(r), byte(g), byte(b));
            }
            for (i, pixel) in block.iter_mut().enumerate() {
                *pixel = [red[i], green[i], blue[i]];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn pixels(count: usize) -> Vec<u8> {
        let mut pixels = vec![0; CHANNELS * count];
        Key::new(1, Purpose::new("colours")).generator().fill_bytes(&mut pixels);
        pixels
    }

    fn adjusted(pixels: &[u8], adjustment: Adjustment) -> Vec<u8> {
        let mut out = pixels.to_vec();
        adjustment.apply(&mut out);
        out
    }

    /// Pillow 13: `ImageEnhance.Brightness(image).enhance(f)` and its siblings on a 2 × 2 image.
    #[test]
    fn brightness_contrast_and_saturation_match_pillow() {
        let image = [200, 40, 60, 30, 90, 180, 255, 255, 255, 0, 10, 20];
        for (adjustment, expected) in [
            (Adjustment::Brightness(1.3), [255, 52, 78, 39, 116, 233, 255, 255, 255, 0, 13, 26]),
            (Adjustment::Brightness(0.7), [140, 28, 42, 21, 63, 126, 178, 178, 178, 0, 7, 14]),
            (Adjustment::Contrast(1.3), [227, 19, 45, 6, 84, 201, 255, 255, 255, 0, 0, 0]),
            (Adjustment::Contrast(0.7), [172, 60, 74, 53, 95, 158, 211, 211, 211, 32, 39, 46]),
            (Adjustment::Saturation(1.3), [233, 25, 51, 14, 92, 209, 255, 255, 255, 0, 10, 23]),
            (Adjustment::Saturation(0.7), [167, 55, 69, 45, 87, 150, 255, 255, 255, 2, 9, 16]),
        ] {
            assert_eq!(adjusted(&image, adjustment), expected, "{adjustment:?}");
        }
    }

    /// The hexcone model as Python's `colorsys` writes it, in f64.
    fn turned(pixel: &[u8], turn: f64) -> [f64; 3] {
        let [r, g, b] = [0, 1, 2].map(|channel| f64::from(pixel[channel]) / 255.0);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let (mut h, mut s) = (0.0, 0.0);
        if most > least {
            s = (most - least) / most;
            let [rc, gc, bc] = [r, g, b].map(|c| (most - c) / (most - least));
            h = if most == r {
                bc - gc
            } else if most == g {
                2.0 + rc - bc
            } else {
                4.0 + gc - rc
            } / 6.0;
        }
        let h = (h + turn).rem_euclid(1.0) * 6.0;
        let (i, f) = (h.floor(), h.fract());
        let (p, q, t) = (most * (1.0 - s), most * (1.0 - s * f), most * (1.0 - s * (1.0 - f)));
        [[most, t, p], [q, most, p], [p, most, t], [p, q, most], [t, p, most], [most, p, q]][i as usize % 6]
            .map(|c| 255.0 * c)
    }

    #[test]
    fn hue_matches_the_hexcone_model() {
        let image = pixels(1000);
        for turn in [-0.5, -0.2, -0.01, 0.0, 0.13, 0.2, 0.5] {
            let out = adjusted(&image, Adjustment::Hue(turn));
            for (before, after) in image.chunks(3).zip(out.chunks(3)) {
                for (value, expected) in after.iter().zip(turned(before, turn.into())) {
                    assert!((f64::from(*value) - expected).abs() <= 0.51, "{before:?} by {turn}: {after:?}");
                }
            }
        }
        assert_eq!(adjusted(&image, Adjustment::Hue(0.0)), image);
        assert_eq!(
            adjusted(&[7, 7, 7, 0, 0, 0, 255, 255, 255], Adjustment::Hue(0.3)),
            [7, 7, 7, 0, 0, 0, 255, 255, 255]
        );
    }

    #[test]
    fn draws_stay_in_their_ranges_come_in_every_order_and_cover_both_sides() {
        let mut random = Key::new(3, Purpose::new("jitter")).generator();
        let mut orders = std::collections::HashSet::new();
        let mut sums = [0.0; 4];
        for _ in 0..2000 {
            let adjustments = ColourJitter::IMAGENET.draw(&mut random);
            let mut order = [0; 4];
            for (place, adjustment) in adjustments.into_iter().enumerate() {
                let (kind, value, range) = match adjustment {
                    Adjustment::Brightness(f) => (0, f, 0.6..=1.4),
                    Adjustment::Contrast(f) => (1, f, 0.6..=1.4),
                    Adjustment::Saturation(f) => (2, f, 0.6..=1.4),
                    Adjustment::Hue(f) => (3, f, -0.2..=0.2),
                };
                assert!(range.contains(&value), "{adjustment:?}");
                sums[kind] += value;
                order[place] = kind;
            }
            orders.insert(order);
        }
        assert_eq!(orders.len(), 24);
        for (sum, mean) in sums.iter().zip([1.0, 1.0, 1.0, 0.0]) {
            assert!((sum / 2000.0 - mean).abs() < 0.02, "{sums:?}");
        }
    }
}
