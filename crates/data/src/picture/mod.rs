//! From an image file's bytes to RGB pixels of the wanted size. Format is told by content, never by the file's name.
//!
//! Grayscale, palette, 16-bit and CMYK images are made 8-bit RGB; transparent ones are laid over white; the camera's
//! orientation (EXIF) is applied; then the wanted part is scaled to the wanted size. Of an animation the first frame is
//! taken. A JPEG that is to shrink to half its size or less is decoded at a reduced scale, where that is faster. It
//! refuses formats other than JPEG, PNG and WebP, and images that unpack to more than their file's size justifies.

mod reduced;
pub(crate) mod scale;

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage, RgbaImage};

use crate::dataset::ImageSize;
use crate::transform::Region;
use scale::scale;

/// The longest side that is accepted, in pixels.
const MAX_SIDE: u32 = 32_768;
/// Unpacked bytes that any file may claim; a JPEG's or PNG's honest ratio is below 1,100.
const BYTES_PER_FILE_BYTE: u64 = 2048;
const MIN_UNPACKED_LIMIT: u64 = 4 << 20;
const MAX_UNPACKED_LIMIT: u64 = 512 << 20;

/// The most bytes that an image may unpack to when its file has `file_bytes`.
fn unpacked_limit(file_bytes: usize) -> u64 {
    (file_bytes as u64).saturating_mul(BYTES_PER_FILE_BYTE).clamp(MIN_UNPACKED_LIMIT, MAX_UNPACKED_LIMIT)
}

/// Which part of an image of a given size is wanted.
pub(crate) type Choose<'a> = &'a mut dyn FnMut(ImageSize) -> Region;

/// Overwrites `pixels` (`[H, W, 3]` of `size`) with the part of the image in `file` that `choose` names; the error is the
/// reason, for a person.
pub(crate) fn decode(file: &[u8], size: ImageSize, choose: Choose, pixels: &mut [u8]) -> Result<(), String> {
    decode_any(file, size, choose, pixels).map_err(|error| error.to_string())
}

type AnyResult<T> = Result<T, Box<dyn std::error::Error>>;

fn decode_any(file: &[u8], size: ImageSize, choose: Choose, pixels: &mut [u8]) -> AnyResult<()> {
    let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format()?;
    let is_jpeg = match reader.format() {
        Some(ImageFormat::Jpeg) => true,
        Some(ImageFormat::Png | ImageFormat::WebP) => false,
        Some(other) => return Err(format!("it is a {other:?} image, expected JPEG, PNG or WebP").into()),
        None => return Err("it is no JPEG, PNG or WebP image".into()),
    };
    let limit = unpacked_limit(file.len());
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(limit);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let ((width, height), unpacked) = (decoder.dimensions(), decoder.total_bytes());
    if width == 0 || height == 0 {
        return Err("the image has no pixels".into());
    }
    if unpacked > limit {
        let size = file.len();
        return Err(format!("{size} bytes claim to be {width} x {height} pixels ({unpacked} bytes)").into());
    }
    let orientation = decoder.orientation()?;
    let stored = ImageSize { height: height as usize, width: width as usize };
    let upright =
        if is_turned(orientation) { ImageSize { height: stored.width, width: stored.height } } else { stored };
    let region = choose(upright);
    if is_jpeg
        && orientation == Orientation::NoTransforms
        && let Some((image, reduced)) = reduced::decode(file, stored, region, size, limit)
    {
        let (x, y) = (reduced.width as f64 / width as f64, reduced.height as f64 / height as f64);
        scale(&image, reduced, region.scaled(x, y), size, pixels);
        return Ok(());
    }
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let image = if image.color().has_alpha() { over_white(&image.into_rgba8()) } else { image.into_rgb8() };
    scale(image.as_raw(), upright, region, size, pixels);
    Ok(())
}

/// Whether rows become columns.
fn is_turned(orientation: Orientation) -> bool {
    match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            true
        }
        Orientation::NoTransforms
        | Orientation::Rotate180
        | Orientation::FlipHorizontal
        | Orientation::FlipVertical => false,
    }
}

/// c·a + 255·(1 − a) per channel, rounded.
fn over_white(image: &RgbaImage) -> RgbImage {
    let mut opaque = RgbImage::new(image.width(), image.height());
    for (out, &image::Rgba([red, green, blue, alpha])) in opaque.pixels_mut().zip(image.pixels()) {
        let blend = |c: u8| ((u32::from(c) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 127) / 255) as u8;
        out.0 = [blend(red), blend(green), blend(blue)];
    }
    opaque
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};
    use crate::test_memory::peak_bytes;

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    fn centre(file: &[u8], size: ImageSize, pixels: &mut [u8]) -> Result<(), String> {
        decode(file, size, &mut |source| Region::largest(source, size), pixels)
    }

    fn decoded(name: &str, size: ImageSize) -> Vec<u8> {
        let mut pixels = vec![0; size.len()];
        centre(&fixture(name), size, &mut pixels).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        pixels
    }

    /// Each fixture is 16 × 16: left half one colour, right half another; the colours below are those that Pillow
    /// wrote (made gray by its luma, or over white by hand).
    #[test]
    fn every_colour_mode_and_format_gives_the_colours_that_were_drawn() {
        let (left, right) = ([200, 40, 60], [30, 90, 180]);
        let half_over_white = left.map(|c: u8| ((f64::from(c) * 128.0 + 255.0 * 127.0) / 255.0).round() as u8);
        let cases = [
            ("rgb.jpg", left, right, 3),
            ("progressive.jpg", left, right, 3),
            ("rgb.png", left, right, 0),
            ("rgb16.png", left, right, 0),
            ("lossless.webp", left, right, 0),
            ("lossy.webp", left, right, 6),
            ("palette.png", left, right, 0),
            ("palette_transparent.png", [255; 3], right, 0),
            ("gray.png", [90; 3], [82; 3], 0),
            ("gray.jpg", [90; 3], [82; 3], 2),
            ("gray16.png", [18; 3], [237; 3], 0),
            ("one_bit.png", [0; 3], [255; 3], 0),
            ("gray_alpha.png", [255; 3], [100; 3], 0),
            ("rgba.png", half_over_white, right, 0),
            ("rgba.webp", half_over_white, right, 0),
            ("cmyk.jpg", left, right, 3),
            ("turned.jpg", left, right, 3),
        ];
        for (name, left, right, tolerance) in cases {
            let pixels = decoded(name, ImageSize::square(16));
            for (x, expected) in [(2, left), (13, right)] {
                for y in [0, 7, 15] {
                    let found = &pixels[(y * 16 + x) * 3..][..3];
                    let far = found.iter().zip(expected).any(|(&a, b)| a.abs_diff(b) > tolerance);
                    assert!(!far, "{name} at ({x}, {y}): {found:?}, expected {expected:?} ± {tolerance}");
                }
            }
        }
    }

    #[test]
    fn any_size_is_scaled_and_its_centre_kept() {
        for (height, width) in [(1, 1), (32, 32), (8, 8), (5, 40), (40, 5), (16, 8)] {
            let pixels = decoded("rgb.png", ImageSize { height, width });
            if width >= 8 {
                assert_eq!(pixels[..3], [200, 40, 60], "{height} x {width}");
                assert_eq!(pixels[pixels.len() - 3..], [30, 90, 180], "{height} x {width}");
            }
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_a_reason() {
        let refused = |file: &[u8]| centre(file, ImageSize::square(4), &mut [0; 48]).unwrap_err();
        assert_eq!(refused(b""), "it is no JPEG, PNG or WebP image");
        assert_eq!(refused(b"GIF89a...."), "it is a Gif image, expected JPEG, PNG or WebP");
        let whole = fixture("rgb.png");
        assert!(!refused(&whole[..whole.len() / 2]).is_empty());
    }

    #[test]
    fn a_file_that_claims_too_many_pixels_is_refused_before_they_are_allocated() {
        let mut file = fixture("rgb.png");
        file[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        // The header's checksum, so that nothing but the size is wrong.
        let checksum = crc32(&file[12..29]).to_be_bytes();
        file[29..33].copy_from_slice(&checksum);
        let reason = centre(&file, ImageSize::square(4), &mut [0; 48]).unwrap_err();
        assert!(reason.contains("16384 x 16384") || reason.to_lowercase().contains("limit"), "{reason}");
    }

    #[test]
    fn mutated_images_never_panic_nor_take_more_memory_than_their_size_justifies() {
        let names = ["rgb.jpg", "progressive.jpg", "cmyk.jpg", "turned.jpg", "rgb.png", "rgb16.png", "palette.png"];
        let names = names.into_iter().chain(["gray_alpha.png", "lossless.webp", "lossy.webp", "rgba.webp"]);
        let originals: Vec<Vec<u8>> = names.map(fixture).collect();
        let size = ImageSize::square(8);
        let (mut pixels, mut accepted) = (vec![0; size.len()], 0);
        for input in 0..11_000 {
            let mut random = Key::new(input, Purpose::new("mutated image")).generator();
            let mut file = originals[input as usize % originals.len()].clone();
            for _ in 0..=random.below(4) {
                let at = random.below(file.len());
                file[at] = [random.below(256) as u8, 0, 0xFF, file[at] ^ (1 << random.below(8))][random.below(4)];
            }
            match random.below(8) {
                0 => file.truncate(random.below(file.len())),
                1 => file.extend_from_within(file.len() / 2..),
                _ => {}
            }
            repair_checksums(&mut file);
            let (result, peak) = peak_bytes(|| centre(&file, size, &mut pixels));
            let bound = 4 * unpacked_limit(file.len());
            assert!(peak as u64 <= bound, "input {input}: {} bytes took {peak}, at most {bound}", file.len());
            accepted += usize::from(result.is_ok());
        }
        assert!(accepted > 1000, "only {accepted} inputs got through: the mutations are too coarse to test much");
    }

    /// Makes a PNG's chunk checksums right again, so that mutations reach beyond them.
    fn repair_checksums(file: &mut [u8]) {
        let mut at = 8;
        while file.starts_with(b"\x89PNG") && at + 12 <= file.len() {
            let length = u32::from_be_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]) as usize;
            let Some(chunk) = file.get(at + 4..(at + 8).saturating_add(length)) else { return };
            let checksum = crc32(chunk).to_be_bytes();
            at += 8 + length;
            let Some(place) = file.get_mut(at..at + 4) else { return };
            place.copy_from_slice(&checksum);
            at += 4;
        }
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        })
    }
}
