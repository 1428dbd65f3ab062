//! Scaling a part of an image to a size: bilinear, with the filter widened where the image shrinks, as Pillow and
//! torchvision scale. fast_image_resize does it, with the best instructions of the machine.

use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use crate::dataset::{CHANNELS, ImageSize};
use crate::transform::Region;

thread_local! {
    /// Keeps its buffers from image to image.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Overwrites `out` with the part `region` of an image.
///
/// # Shapes
/// `image`: `[H, W, 3]` of `source`; `out`: `[H', W', 3]` of `size`. A region that reaches over the image's border by a
/// rounding error is moved back; neither image may be empty.
///
/// # Panics
/// If a slice has another length.
pub(crate) fn scale(image: &[u8], source: ImageSize, region: Region, size: ImageSize, out: &mut [u8]) {
    assert_eq!((image.len(), out.len()), (source.len(), size.len()), "scaling {source:?} to {size:?}");
    let (left, width) = inside(region.left, region.width, source.width);
    let (top, height) = inside(region.top, region.height, source.height);
    let aligned = [left, top, width, height].iter().all(|edge| edge.fract() == 0.0);
    if aligned && (width as usize, height as usize) == (size.width, size.height) {
        let rows = image.chunks_exact(source.width * CHANNELS).skip(top as usize);
        for (out, row) in out.chunks_exact_mut(size.width * CHANNELS).zip(rows) {
            out.copy_from_slice(&row[left as usize * CHANNELS..][..size.width * CHANNELS]);
        }
        return;
    }
    let options =
        ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(left, top, width, height);
    // Of one type of pixels: the function for all of them would compile the whole library.
    let from = TypedImageRef::<U8x3>::from_buffer(source.width as u32, source.height as u32, image)
        .expect("the slice has the image's length");
    let mut to = TypedImage::<U8x3>::from_buffer(size.width as u32, size.height as u32, out)
        .expect("the slice has the size's length");
    RESIZER
        .with_borrow_mut(|resizer| resizer.resize_typed(&from, &mut to, &options))
        .expect("the region lies inside the image");
}

/// (start, length) of an interval of [0, most], at least a thousandth of a pixel long.
fn inside(start: f64, length: f64, most: usize) -> (f64, f64) {
    let most = most as f64;
    let length = length.clamp(1e-3, most);
    (start.clamp(0.0, most - length), length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Key, Purpose};

    fn noise(size: ImageSize) -> Vec<u8> {
        let mut pixels = vec![0; size.len()];
        Key::new(9, Purpose::new("noise")).generator().fill_bytes(&mut pixels);
        pixels
    }

    /// The definition: each output pixel is the mean of the region's pixels under a triangle around its centre.
    fn reference(image: &[u8], source: ImageSize, region: Region, size: ImageSize) -> Vec<f64> {
        let weights = |start: f64, length: f64, out: usize, most: usize| -> Vec<Vec<f64>> {
            let step = length / out as f64;
            let reach = step.max(1.0);
            let row = |i: usize| -> Vec<f64> {
                let centre = start + (i as f64 + 0.5) * step;
                let weight = |j: usize| (1.0 - ((j as f64 + 0.5 - centre) / reach).abs()).max(0.0);
                let row: Vec<f64> = (0..most).map(weight).collect();
                let sum: f64 = row.iter().sum();
                row.into_iter().map(|weight| weight / sum).collect()
            };
            (0..out).map(row).collect()
        };
        let rows = weights(region.top, region.height, size.height, source.height);
        let columns = weights(region.left, region.width, size.width, source.width);
        let mut out = Vec::new();
        for row in &rows {
            for column in &columns {
                for channel in 0..CHANNELS {
                    let mut sum = 0.0;
                    for (y, wy) in row.iter().enumerate() {
                        for (x, wx) in column.iter().enumerate().filter(|(_, w)| **w > 0.0) {
                            sum += wy * wx * f64::from(image[(y * source.width + x) * CHANNELS + channel]);
                        }
                    }
                    out.push(sum);
                }
            }
        }
        out
    }

    #[test]
    fn every_ratio_and_place_matches_the_triangle_filter() {
        let source = ImageSize { height: 23, width: 31 };
        let image = noise(source);
        for (region, size) in [
            (Region::whole(source), ImageSize { height: 7, width: 9 }),
            (Region::whole(source), ImageSize { height: 40, width: 11 }),
            (Region { left: 3.0, top: 2.0, width: 20.0, height: 17.0 }, ImageSize::square(8)),
            (Region { left: 1.25, top: 0.5, width: 22.5, height: 20.25 }, ImageSize::square(16)),
            (Region { left: 30.0, top: 22.0, width: 1.0, height: 1.0 }, ImageSize::square(3)),
        ] {
            let mut out = vec![0; size.len()];
            scale(&image, source, region, size, &mut out);
            for (i, (found, expected)) in out.iter().zip(reference(&image, source, region, size)).enumerate() {
                // Two passes, each rounded to a byte.
                assert!((f64::from(*found) - expected).abs() <= 1.1, "{region:?} {i}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_part_of_the_wanted_size_is_copied() {
        let source = ImageSize { height: 6, width: 5 };
        let (image, size) = (noise(source), ImageSize { height: 2, width: 3 });
        let mut out = vec![0; size.len()];
        scale(&image, source, Region { left: 1.0, top: 3.0, width: 3.0, height: 2.0 }, size, &mut out);
        assert_eq!(out[..9], image[(3 * 5 + 1) * 3..][..9]);
        assert_eq!(out[9..], image[(4 * 5 + 1) * 3..][..9]);
    }

    #[test]
    fn a_region_that_leaves_the_image_by_a_rounding_error_is_moved_back() {
        let source = ImageSize::square(4);
        let mut out = [0; 12];
        let region = Region { left: -1e-12, top: 1e-9, width: 4.0 + 1e-12, height: 4.0 };
        scale(&noise(source), source, region, ImageSize::square(2), &mut out);
    }
}
