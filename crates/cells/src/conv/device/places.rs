//! Where a network's buffers lie in device memory. Two of them share their bytes when no launch of any pass lies between the first and
//! the last use of both: gradients lie where activations were that nothing reads any more, and an evaluation keeps little more than
//! two cells.
//!
//! Passes are laid down first with every buffer at addresses of its own. What a launch uses is then what its arguments point
//! to.

use std::cmp::Reverse;
use std::ops::Range;

use darts_cuda::{Program, View};
use darts_ops::Slot;

use crate::conv::build::Buffer;

/// Bytes that everything is aligned to.
pub(super) const ALIGNMENT: u64 = 256;

/// Where passes start that are laid down only to be looked at: no number among a kernel's arguments looks like an address there.
const NOWHERE: u64 = 0xda << 40;

/// A plan of the memory, for up to `capacity` samples.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// The address of its first byte.
    pub(super) start: u64,
    capacity: usize,
    /// Bytes of each buffer, by `Buffer::id`.
    sizes: Vec<u64>,
    /// Where it lies, in bytes from the start; none: no pass uses it.
    offsets: Vec<Option<u64>>,
    /// Vectors per channel come first, then buffers, then what lies there between launches.
    buffers_at: u64,
    between_at: u64,
    between: Between,
}

/// Memory that kernels need between their launches.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Between {
    /// Bytes from one launch to the next.
    pub(super) scratch: u64,
    /// Floats of partial gradients of weights, from a launch to the end of its cell.
    pub(super) partials: usize,
}

impl Between {
    pub(super) fn max(self, other: Self) -> Self {
        Self { scratch: self.scratch.max(other.scratch), partials: self.partials.max(other.partials) }
    }
}

impl Places {
    /// Every buffer by itself, and all the memory between launches that may be asked for. `buffers`: floats of each per sample, by
    /// `Buffer::id`; `channels`: floats of all vectors per channel.
    pub(super) fn apart(buffers: &[usize], channels: usize, capacity: usize) -> Self {
        let bytes = |floats: usize| (4 * floats as u64).next_multiple_of(ALIGNMENT);
        let buffers_at = bytes(channels);
        let sizes: Vec<u64> = buffers.iter().map(|&floats| bytes(floats * capacity)).collect();
        let mut end = buffers_at;
        let mut place = |size: &u64| {
            end += size;
            Some(end - size)
        };
        let offsets = sizes.iter().map(&mut place).collect();
        let between = Between { scratch: 1 << 40, partials: 1 << 38 };
        Self { start: NOWHERE, capacity, sizes, offsets, buffers_at, between_at: end, between }
    }

    /// The plan in which buffers share memory as those passes allow that were laid down at the places of this one, with so much
    /// memory between launches.
    pub(super) fn together(mut self, uses: &Uses, between: Between) -> Self {
        let mut order: Vec<usize> = (0..self.sizes.len()).filter(|&id| uses.any(id)).collect();
        self.offsets.fill(None);
        // The largest first: what is small fits between.
        order.sort_by_key(|&id| Reverse(self.sizes[id]));
        let mut end = self.buffers_at;
        for (position, &id) in order.iter().enumerate() {
            let beside = order[..position].iter().filter(|&&other| uses.overlap(id, other));
            let mut taken: Vec<Range<u64>> = beside.filter_map(|&other| self.bytes_of(other)).collect();
            taken.sort_by_key(|range| range.start);
            let mut at = self.buffers_at;
            for range in taken {
                if at + self.sizes[id] <= range.start {
                    break;
                }
                at = at.max(range.end);
            }
            self.offsets[id] = Some(at);
            end = end.max(at + self.sizes[id]);
        }
        (self.between_at, self.between) = (end, between);
        self
    }

    /// How many buffers there are.
    pub(super) fn count(&self) -> usize {
        self.sizes.len()
    }

    /// Bytes from the start to the end.
    pub(super) fn bytes(&self) -> u64 {
        self.scratch().end - self.start + 4 * self.between.partials as u64
    }

    /// `batch` samples of a buffer.
    ///
    /// # Panics
    /// For one that no pass used when the plan was made.
    pub(super) fn buffer(&self, buffer: &Buffer, batch: usize) -> View {
        assert!(batch <= self.capacity, "{batch} samples of a capacity of {}", self.capacity);
        let Some(offset) = self.offsets[buffer.id] else {
            panic!("buffer {} is used by no pass that was planned for", buffer.id)
        };
        View::at(self.start + offset, buffer.shape.len() * batch)
    }

    /// Vectors per channel.
    pub(super) fn channels(&self, slot: Slot) -> View {
        View::at(self.start + 4 * slot.offset() as u64, slot.len())
    }

    /// Addresses of the scratch memory.
    pub(super) fn scratch(&self) -> Range<u64> {
        let start = self.start + self.between_at;
        start..start + self.between.scratch.next_multiple_of(ALIGNMENT)
    }

    /// Room for partial gradients of weights.
    pub(super) fn partials(&self) -> View {
        View::at(self.scratch().end, self.between.partials)
    }

    /// Two buffers that share memory although some program uses both at some time; twice the same that has no place.
    #[cfg(test)]
    pub(super) fn conflict(&self, uses: &Uses) -> Option<[usize; 2]> {
        let share = |a: usize, b: usize| {
            let (a, b) = (self.bytes_of(a)?, self.bytes_of(b)?);
            Some(a.start < b.end && b.start < a.end)
        };
        let pairs = (0..self.count()).flat_map(|a| (0..a).map(move |b| [a, b]));
        pairs.filter(|&[a, b]| uses.overlap(a, b)).find(|&[a, b]| share(a, b) == Some(true))
    }

    fn bytes_of(&self, id: usize) -> Option<Range<u64>> {
        self.offsets[id].map(|offset| offset..offset + self.sizes[id])
    }
}

/// Which launches of programs use which buffer.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// For each program, the first and the last launch that uses each buffer, by `Buffer::id`.
    programs: Vec<Vec<Option<[usize; 2]>>>,
}

impl Uses {
    /// Takes in a program that was laid down at the places of a plan that keeps all buffers apart.
    pub(super) fn add(&mut self, apart: &Places, program: &Program) {
        let mut by_place: Vec<(Range<u64>, usize)> =
            (0..apart.sizes.len()).filter_map(|id| Some((apart.bytes_of(id)?, id))).collect();
        by_place.sort_by_key(|(range, _)| range.start);
        let mut uses: Vec<Option<[usize; 2]>> = vec![None; apart.sizes.len()];
        for (number, launch) in program.launches.iter().enumerate() {
            // Pointers are aligned to their size in the arguments of every kernel.
            for bytes in launch.args.chunks_exact(8) {
                let address = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                let Some(at) = address.checked_sub(apart.start) else { continue };
                let next = by_place.partition_point(|(range, _)| range.start <= at);
                let Some((range, id)) = next.checked_sub(1).map(|index| &by_place[index]) else { continue };
                if range.contains(&at) {
                    uses[*id].get_or_insert([number; 2])[1] = number;
                }
            }
        }
        self.programs.push(uses);
    }

    fn any(&self, id: usize) -> bool {
        self.programs.iter().any(|uses| uses[id].is_some())
    }

    /// Whether some program uses both at some time.
    fn overlap(&self, a: usize, b: usize) -> bool {
        let meet = |uses: &Vec<Option<[usize; 2]>>| {
            uses[a]
                .zip(uses[b])
                .is_some_and(|([first, last], [other_first, other_last])| first <= other_last && other_first <= last)
        };
        self.programs.iter().any(meet)
    }
}
