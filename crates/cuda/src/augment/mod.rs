//! Batches of images that lie on the device as bytes: which examples, what is done to each, and the floats that a network reads.
//! What is random is drawn on the host; here it is applied, to the same bits as on the CPU.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static AUGMENT: Kernel = Kernel::new("augment_images", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&AUGMENT];

/// Channels of an image: red, green, blue.
const CHANNELS: usize = 3;

args! {
    /// An example of a batch, and what happens to it: crop, mirror, normalization, cutout, in this order.
    #[derive(Default, PartialEq, Eq)]
    pub struct Example: 32 {
        /// Which image.
        pub index: u32,
        /// Rows that the crop lies below the image's top; what lies outside of the image is black.
        pub down: i32,
        /// Columns that it lies right of the image's left edge.
        pub right: i32,
        /// 1: the crop is mirrored, left and right.
        pub flip: u32,
        /// Rows `cutout[0]..cutout[1]` and columns `cutout[2]..cutout[3]` that are set to the mean colour, which is 0.
        pub cutout: [u32; 4],
    }

    struct AugmentArgs: 56 {
        pixels: u64,
        labels: u64,
        table: u64,
        examples: u64,
        images: u64,
        out_labels: u64,
        height: u32,
        width: u32,
    }
}

/// A set of labelled images in device memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Source {
    /// Bytes of the images, `[images, H, W, 3]`.
    pub pixels: View<u8>,
    /// Their classes, `[images]`.
    pub labels: View<u32>,
    /// The number that each byte becomes, `[256, 3]`.
    pub table: View,
    /// H.
    pub height: usize,
    /// W.
    pub width: usize,
}

/// Makes the batch of `examples`.
///
/// # Shapes
/// `examples`, `labels` (overwritten): `[N]`. `images` (overwritten): `[N, H, W, 3]`.
///
/// # Panics
/// If a length does not fit. An example whose index is that of no image is not noticed.
#[track_caller]
pub fn augment(program: &mut Program, source: Source, examples: View<Example>, images: View, labels: View<u32>) {
    let Source { pixels, labels: classes, table, height, width } = source;
    let (batch, image) = (examples.len, height * width * CHANNELS);
    assert_eq!(pixels.len, classes.len * image, "augment: bytes of {} images", classes.len);
    assert_eq!(table.len, 256 * CHANNELS, "augment: a number for each byte and channel");
    assert_eq!((images.len, labels.len), (batch * image, batch), "augment: a batch of {batch}");
    let args = AugmentArgs {
        pixels: pixels.address,
        labels: classes.address,
        table: table.address,
        examples: examples.address,
        images: images.address,
        out_labels: labels.address,
        height: height as u32,
        width: width as u32,
    };
    program.push(&AUGMENT, [blocks(height * width, AUGMENT.threads), batch as u32, 1], 0, &args);
}
