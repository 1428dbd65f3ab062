//! JPEG at a half, a quarter or an eighth of its size, straight from the low frequencies of its blocks: less to compute
//! and less to scale afterwards, where a part is to shrink that far anyway. Decoding at full size is not done here.

use jpeg_decoder::{Decoder, PixelFormat};

use crate::dataset::{CHANNELS, ImageSize};
use crate::transform::Region;

/// The image `[H, W, 3]` at the smallest scale at which `region` still has the pixels of `size`, with its size; nothing
/// where that is the full scale, or the file is one that this decoder does not take (CMYK, or damaged).
pub(super) fn decode(
    file: &[u8],
    stored: ImageSize,
    region: Region,
    size: ImageSize,
    limit: u64,
) -> Option<(Vec<u8>, ImageSize)> {
    let eighths = eighths(region, size)?;
    let mut decoder = Decoder::new(file);
    decoder.set_max_decoding_buffer_size(usize::try_from(limit).unwrap_or(usize::MAX));
    decoder.read_info().ok()?;
    let wanted = |length: usize| u16::try_from((length * eighths).div_ceil(8)).ok();
    decoder.scale(wanted(stored.width)?, wanted(stored.height)?).ok()?;
    let pixels = decoder.decode().ok()?;
    let info = decoder.info()?;
    let reduced = ImageSize { height: info.height.into(), width: info.width.into() };
    let pixels = match info.pixel_format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.into_iter().flat_map(|gray| [gray; CHANNELS]).collect(),
        PixelFormat::L16 | PixelFormat::CMYK32 => return None,
    };
    (pixels.len() == reduced.len() && !reduced.is_empty()).then_some((pixels, reduced))
}

/// The scale in eighths.
fn eighths(region: Region, size: ImageSize) -> Option<usize> {
    [1, 2, 4].into_iter().find(|&eighths| {
        let scale = eighths as f64 / 8.0;
        region.width * scale >= size.width as f64 && region.height * scale >= size.height as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(width: f64, height: f64) -> Region {
        Region { left: 0.0, top: 0.0, width, height }
    }

    #[test]
    fn the_part_keeps_at_least_the_wanted_pixels() {
        let size = ImageSize::square(32);
        assert_eq!(eighths(region(63.9, 64.0), size), None);
        assert_eq!(eighths(region(64.0, 64.0), size), Some(4));
        assert_eq!(eighths(region(127.0, 500.0), size), Some(4));
        assert_eq!(eighths(region(128.0, 128.0), size), Some(2));
        assert_eq!(eighths(region(256.0, 4000.0), size), Some(1));
    }

    /// A smooth picture has little beyond its low frequencies: whichever way it shrinks, it comes out the same.
    #[test]
    fn a_smooth_picture_is_the_same_at_every_scale() {
        let side = 256;
        let smooth = image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x as u8, y as u8, ((x + y) / 2) as u8]));
        let mut file = Vec::new();
        let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, 95);
        encoder.encode_image(&smooth).unwrap();
        let stored = ImageSize::square(side as usize);
        for target in [128, 64, 32] {
            let size = ImageSize::square(target);
            let (image, reduced) = decode(&file, stored, Region::whole(stored), size, 1 << 24).unwrap();
            assert_eq!(reduced, size);
            let mut expected = vec![0; size.len()];
            super::super::scale(smooth.as_raw(), stored, Region::whole(stored), size, &mut expected);
            let sum: u64 = image.iter().zip(&expected).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = sum as f64 / image.len() as f64;
            assert!(mean < 2.0, "{target}: {mean} levels apart");
        }
        assert!(decode(&file, stored, Region::whole(stored), ImageSize::square(200), 1 << 24).is_none());
    }
}
