//! Quads of channels, the gradient that arrives at an output, and products in shared memory: the host's half of
//! `device/quads.cuh` and `device/product.cuh`. Pushes nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::args;
use crate::channels::{pointer, vector};
use crate::images::{Images, Upstream};

/// Terms that an upstream gradient may have in device code.
pub(crate) const UPSTREAM_TERMS: usize = 4;

/// Threads of a block of the kernels that these pieces make up.
pub(crate) const THREADS: usize = 256;

/// Floats of shared memory that a block may take: 96 KiB, which every device from compute capability 8.0 on has.
pub(crate) const SHARED_FLOATS: usize = 24 * 1024;

/// Multiprocessors of a large device.
const MULTIPROCESSORS: usize = 132;

/// Bytes that a multiprocessor moves while a warp waits to issue its next instruction: about 11 cycles, as measured, of 13 bytes.
const BYTES: usize = 147;

/// Shared memory of the largest device's multiprocessor, in floats, and what a block takes beside its own.
const MULTIPROCESSOR: usize = 57 * 1024;
const RESERVED: usize = 256;

args! {
    /// One gradient.
    pub(crate) struct TermArgs: 24 {
        grad: u64,
        scale: u64,
        sample_scale: u64,
    }

    /// The gradient that arrives at an output.
    pub(crate) struct UpstreamArgs: 128 {
        term: [TermArgs; UPSTREAM_TERMS],
        z: u64,
        b: u64,
        d: u64,
        terms: u32,
        pub(crate) wide: u32,
    }
}

impl UpstreamArgs {
    /// No gradient.
    pub(crate) const NONE: Self = Self {
        term: [TermArgs { grad: 0, scale: 0, sample_scale: 0 }; UPSTREAM_TERMS],
        z: 0,
        b: 0,
        d: 0,
        terms: 0,
        wide: 0,
    };

    /// `upstream` of a z of shape `images`; `operation` names the kernel in the message.
    ///
    /// # Panics
    /// If a view does not have the length of its shape, or there are more than four terms.
    pub(crate) fn new(operation: &str, upstream: Upstream, images: Images) -> Self {
        let terms = upstream.terms;
        assert!(
            terms.len() <= UPSTREAM_TERMS,
            "{operation}: {} gradients of a z, expected at most {UPSTREAM_TERMS}",
            terms.len()
        );
        let mut args = Self { terms: terms.len() as u32, ..Self::NONE };
        for (to, term) in args.term.iter_mut().zip(terms) {
            assert_eq!(term.grad.len, images.len(), "{operation}: gradient for a z of {images:?}");
            assert!(term.scale.is_none_or(|scale| scale.len == images.c), "{operation}: scale of a gradient");
            assert!(term.sample_scale.is_none_or(|s| s.len == images.n), "{operation}: sample scale of a gradient");
            *to = TermArgs {
                grad: term.grad.address,
                scale: pointer(term.scale),
                sample_scale: pointer(term.sample_scale),
            };
        }
        if let Some(bn) = upstream.bn {
            assert_eq!(bn.z.len, images.len(), "{operation}: z of the batch norm for a z of {images:?}");
            assert!(bn.b.len == images.c && bn.d.len == images.c, "{operation}: b and d of the batch norm");
            (args.z, args.b, args.d) = (bn.z.address, bn.b.address, bn.d.address);
        }
        let addresses = args.term.iter().flat_map(|term| [term.grad, term.scale]).chain([args.z, args.b, args.d]);
        args.wide = vector(images.c, addresses).into();
        args
    }
}

/// What `quotient` in device code divides by `n` with; exact while dividend × divisor is below 2³¹.
pub(crate) fn magic(n: usize) -> u32 {
    (1_u32 << 31).div_ceil(n as u32)
}

/// Steps of the loop in which a block goes over `pixels` × `channels`, four by four.
pub(crate) fn tile4_rounds(pixels: usize, channels: usize) -> usize {
    ((pixels / 4).next_multiple_of(8) * channels.div_ceil(4)).div_ceil(THREADS)
}

/// Whether lanes of a warp share columns in a product of so many `columns` of four.
pub(crate) fn shares_interleave(columns: usize) -> bool {
    columns.is_multiple_of(4)
}

/// What `share` in device code divides by for so many `columns` of four.
pub(crate) fn share_magic(columns: usize) -> u32 {
    magic(if shares_interleave(columns) { columns / 4 } else { columns })
}

/// Whether the threads of a block have room for a product of `columns` × `groups` shares.
pub(crate) fn shares_fit(columns: usize, groups: usize) -> bool {
    if shares_interleave(columns) {
        columns / 4 * groups.div_ceil(8) * 32 <= THREADS
    } else {
        columns * groups <= THREADS
    }
}

/// Floats of shared memory that `column_sums` takes.
pub(crate) fn column_sums_len(columns: usize, groups: usize) -> usize {
    8 * columns * groups + THREADS
}

/// How the blocks of a kernel fill a large device.
#[derive(Debug, Copy, Clone)]
pub(crate) struct Filling {
    /// Operations that a launch computes at once.
    pub(crate) together: usize,
    /// Blocks that registers allow on a multiprocessor.
    pub(crate) resident: usize,
}

impl Filling {
    /// Cost of `blocks` blocks that take `floats` of shared memory, issue `instructions` a thread and move so many `bytes`.
    ///
    /// Warps wait most of the time, and as long as they do, a block costs those beside it nothing but the memory's time; most of
    /// the shorter of the two hides behind the longer.
    pub(crate) fn cost(self, blocks: usize, floats: usize, instructions: usize, bytes: usize) -> usize {
        let room = room(floats, self.resident);
        let memory = bytes * (room / MULTIPROCESSORS) / BYTES;
        let (long, short) = (instructions.max(memory), instructions.min(memory));
        // Fewer blocks than there is room for leave room.
        (blocks * self.together).max(room) * (long + short / 4) / (room / MULTIPROCESSORS)
    }

    /// The same for a kernel whose blocks take long: its last round is as long as the others, however few blocks it has.
    pub(crate) fn cost_in_rounds(self, blocks: usize, floats: usize, instructions: usize, bytes: usize) -> usize {
        let room = room(floats, self.resident);
        let rounds = (blocks * self.together).div_ceil(room);
        Self { together: 1, ..self }.cost(rounds * room, floats, instructions, bytes)
    }
}

/// When a large device with `room` for so many blocks at once ends with these: how many take how long each, in the order in which
/// they start.
pub(crate) fn end_of(room: usize, blocks: impl Iterator<Item = (usize, usize)>) -> usize {
    let mut ends: BinaryHeap<Reverse<usize>> = (0..room).map(|_| Reverse(0)).collect();
    let mut last = 0;
    for (count, time) in blocks {
        for _ in 0..count {
            // Where a block has ended first.
            let Reverse(begin) = ends.pop().unwrap_or(Reverse(0));
            last = last.max(begin + time);
            ends.push(Reverse(begin + time));
        }
    }
    last
}

/// Blocks that a large device has room for at once, if each takes `floats` of shared memory and registers allow `resident` on a
/// multiprocessor.
pub(crate) fn room(floats: usize, resident: usize) -> usize {
    MULTIPROCESSORS * (MULTIPROCESSOR / (floats + RESERVED)).clamp(1, resident)
}

/// `c` cut into the fewest equal pieces of at most `limit`, a multiple of 4, then into more and more: the sizes of the pieces,
/// all multiples of 4.
pub(crate) fn pieces(c: usize, limit: usize) -> impl Iterator<Item = usize> {
    let mut last = usize::MAX;
    (c.div_ceil(limit)..=c.div_ceil(4)).map(move |count| c.div_ceil(count).next_multiple_of(4)).filter(move |&piece| {
        let fresh = piece < last && piece <= limit;
        if fresh {
            last = piece;
        }
        fresh
    })
}

#[cfg(test)]
mod tests {
    use super::{end_of, magic, pieces, shares_fit};

    #[test]
    fn quotients_are_exact() {
        for n in [1_u32, 2, 3, 5, 9, 36, 97, 32_767, 32_768] {
            let m = u64::from(magic(n as usize));
            for i in (0..65_536_u32).step_by(7).chain([n - 1, n, 65_535]) {
                let quotient = ((u64::from(2 * i) * m) >> 32) as u32;
                assert_eq!(quotient, i / n, "{i} / {n}");
            }
        }
    }

    #[test]
    fn pieces_are_multiples_of_four_that_cover_everything() {
        assert_eq!(pieces(16, 64).collect::<Vec<_>>(), [16, 8, 4]);
        assert_eq!(pieces(1, 64).collect::<Vec<_>>(), [4]);
        assert_eq!(pieces(144, 64).collect::<Vec<_>>(), [48, 36, 32, 24, 20, 16, 12, 8, 4]);
    }

    #[test]
    fn blocks_begin_where_others_have_ended() {
        assert_eq!(end_of(4, [(4, 10)].into_iter()), 10);
        assert_eq!(end_of(4, [(5, 10)].into_iter()), 20);
        assert_eq!(end_of(2, [(2, 10), (4, 3)].into_iter()), 16);
        assert_eq!(end_of(2, [(1, 10), (3, 3)].into_iter()), 10);
    }

    #[test]
    fn shares_are_counted_in_whole_warps_where_lanes_interleave() {
        assert!(shares_fit(4, 64) && !shares_fit(4, 65));
        assert!(shares_fit(9, 28) && !shares_fit(9, 29));
    }
}
