//! Batches of images that lie on the device as bytes: which examples, what is done to each, and the floats that a network reads.
//! What is random is drawn on the host; here it is applied, to the same bits as on the CPU.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static AUGMENT: Kernel = Kernel::new("augment_images", 256);
static COLOUR: Kernel = Kernel::new("augment_colour", 512);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&AUGMENT, &COLOUR];

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

    /// How the colours of an image are changed: up to four changes in their order, each rounded to bytes.
    #[derive(Default, PartialEq)]
    pub struct Colours: 32 {
        /// What each is: [`Colours::BRIGHTNESS`] and its siblings, 0 for none. The contrast at most once.
        pub kinds: [u32; 4],
        /// By how much: a factor, or sixths of the circle from 0 up to 6 that the hue is turned by.
        pub amounts: [f32; 4],
    }

    struct ColourArgs: 24 {
        pixels: u64,
        colours: u64,
        image_pixels: u32,
        pad: u32,
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

impl Colours {
    /// factor·v.
    pub const BRIGHTNESS: u32 = 1;
    /// m + factor·(v − m), with m the rounded mean of the gray image as it is by then.
    pub const CONTRAST: u32 = 2;
    /// g + factor·(v − g), with g the pixel's gray.
    pub const SATURATION: u32 = 3;
    /// The hue turned.
    pub const HUE: u32 = 4;
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

/// Changes the colours of images in place.
///
/// # Shapes
/// `pixels` (changed): `[N, H, W, 3]`. `colours`: `[N]`.
///
/// # Panics
/// If a length does not fit, or an image has more than 2²⁴ pixels.
#[track_caller]
pub fn colour(program: &mut Program, pixels: View<u8>, colours: View<Colours>) {
    let image_pixels = pixels.len / CHANNELS / colours.len.max(1);
    assert_eq!(pixels.len, colours.len * image_pixels * CHANNELS, "colour: bytes of {} images", colours.len);
    // Their grays are summed in 32 bits.
    assert!(image_pixels <= 1 << 24, "colour: images of {image_pixels} pixels");
    let args =
        ColourArgs { pixels: pixels.address, colours: colours.address, image_pixels: image_pixels as u32, pad: 0 };
    program.push(&COLOUR, [colours.len as u32, 1, 1], COLOUR.threads / 32 * 4, &args);
}
