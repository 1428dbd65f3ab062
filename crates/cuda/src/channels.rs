//! How blocks lie over pixels × channels: the host's half of `device/channels.cuh`. Pushes nothing.

use crate::view::View;

/// Channels of a pack.
const PACK: usize = 4;

/// Whether the threads may take four channels at once: then all of `addresses` and every pixel's first channel lie at
/// multiples of 16 bytes.
pub(crate) fn vector(channels: usize, addresses: impl IntoIterator<Item = u64>) -> bool {
    channels.is_multiple_of(PACK) && addresses.into_iter().all(|address| address.is_multiple_of(16))
}

/// Pixels that a block of `threads` goes over at once.
pub(crate) fn rows(channels: usize, vector: bool, threads: u32) -> usize {
    let packs = if vector { channels / PACK } else { channels };
    threads as usize / packs.clamp(1, threads as usize)
}

/// Blocks that a large device wants: four to a multiprocessor.
const BLOCKS: usize = 528;

/// Pixels of an image that a block takes, where `rows` threads take one each at a time: up to `most` for each, as long as
/// `images` images of `pixels` pixels leave enough blocks.
pub(crate) fn chunk(images: usize, pixels: usize, rows: usize, most: usize) -> usize {
    let mut each = most;
    while each > 1 && images * pixels.div_ceil(each * rows) < BLOCKS {
        each /= 2;
    }
    each * rows
}

/// Bytes of shared memory in which `device/channels.cuh` sums `count` packs of every one of `threads` threads.
pub(crate) fn sum_rows_bytes(vector: bool, threads: u32, count: u32) -> u32 {
    let pack = if vector { PACK as u32 } else { 1 };
    count * threads * pack * size_of::<f32>() as u32
}

/// The pointer that device code gets for an optional argument.
pub(crate) fn pointer<T>(view: Option<View<T>>) -> u64 {
    view.map_or(0, |view| view.address)
}

#[cfg(test)]
mod tests {
    use super::{rows, vector};

    #[test]
    fn packs_need_whole_vectors_of_channels_and_aligned_addresses() {
        assert!(vector(16, [0x100, 0x110]));
        assert!(!vector(17, [0x100]));
        assert!(!vector(16, [0x100, 0x104]));
    }

    #[test]
    fn a_block_covers_as_many_whole_pixels_as_it_has_threads_for() {
        assert_eq!(
            [(16, true), (36, true), (36, false), (1, false), (1000, false)].map(|(c, v)| rows(c, v, 256)),
            [64, 28, 7, 256, 1]
        );
    }
}
