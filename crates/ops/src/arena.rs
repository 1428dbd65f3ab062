//! One allocation for everything that a network keeps between its kernels, planned in advance. Refuses to free or to
//! grow: what a stage needs is reserved before the first step, and read and written through slots afterwards.

use crate::aligned::{AlignedBuffer, FLOATS_PER_LINE};

/// The layout of an arena to be: reserve every buffer, then allocate them all at once.
///
/// ```
/// use darts_ops::arena::{Arena, Plan};
/// let mut plan = Plan::new();
/// let (x, y) = (plan.reserve(3), plan.reserve(3));
/// let mut arena = Arena::new(&plan);
/// arena.write(x).copy_from_slice(&[1.0, 2.0, 3.0]);
/// let (read, mut write) = arena.split(&[x], &[y]);
/// write[0].copy_from_slice(read[0]);
/// assert_eq!(arena.read(y), [1.0, 2.0, 3.0]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Plan {
    len: usize,
}

/// A buffer of an arena: its place, not its contents. The default one is empty.
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct Slot {
    offset: usize,
    len: usize,
}

/// The memory of a plan: zeros at first.
pub struct Arena {
    memory: AlignedBuffer,
}

impl Plan {
    /// An empty plan.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for `len` floats that begins at a multiple of 64 bytes and overlaps nothing reserved before.
    pub fn reserve(&mut self, len: usize) -> Slot {
        let slot = Slot { offset: self.len, len };
        self.len += len.next_multiple_of(FLOATS_PER_LINE);
        slot
    }

    /// The plan in which every buffer is `capacity` times as large, for [`Slot::scaled`].
    pub fn scaled(&self, capacity: usize) -> Self {
        Self { len: self.len * capacity }
    }

    /// Floats that an arena of this plan holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been reserved.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Slot {
    /// Floats in the buffer.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether the buffer has no floats.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Floats before the buffer in its arena: where it lies in a memory of another kind that has the same plan.
    pub fn offset(self) -> usize {
        self.offset
    }

    /// Its first `count` floats: a smaller batch uses the beginning of a buffer that was planned for the largest.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn first(self, count: usize) -> Self {
        assert!(count <= self.len, "Slot::first: {count} floats of a slot of {}", self.len);
        Self { len: count, ..self }
    }

    /// A slot planned for one sample, in a plan made for one sample, as that of `count` samples in the plan
    /// [`scaled`](Plan::scaled) by `capacity`.
    ///
    /// # Panics
    /// If `count` exceeds `capacity`.
    pub fn scaled(self, capacity: usize, count: usize) -> Self {
        assert!(count <= capacity, "Slot::scaled: {count} samples of a capacity of {capacity}");
        Self { offset: self.offset * capacity, len: self.len * count }
    }

    fn end(self) -> usize {
        self.offset + self.len
    }

    fn overlaps(self, other: Self) -> bool {
        self.offset < other.end() && other.offset < self.end()
    }
}

impl Arena {
    /// Allocates what `plan` reserved, filled with zeros.
    pub fn new(plan: &Plan) -> Self {
        Self { memory: AlignedBuffer::zeroed(plan.len()) }
    }

    /// Floats it holds.
    pub fn len(&self) -> usize {
        self.memory.as_slice().len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer at `slot`.
    ///
    /// # Panics
    /// If the slot lies outside (it belongs to another plan).
    pub fn read(&self, slot: Slot) -> &[f32] {
        &self.memory.as_slice()[slot.offset..slot.end()]
    }

    /// The buffer at `slot`, to be written.
    ///
    /// # Panics
    /// If the slot lies outside (it belongs to another plan).
    pub fn write(&mut self, slot: Slot) -> &mut [f32] {
        &mut self.memory.as_mut_slice()[slot.offset..slot.end()]
    }

    /// Several buffers at once: some to be read, some to be written. A slot may be read more than once.
    ///
    /// # Panics
    /// If a slot to be written overlaps any other slot, or a slot lies outside.
    pub fn split<'a>(&'a mut self, read: &[Slot], write: &[Slot]) -> (Vec<&'a [f32]>, Vec<&'a mut [f32]>) {
        let memory = self.memory.as_mut_slice();
        for (i, slot) in write.iter().enumerate() {
            let others = read.iter().chain(&write[..i]);
            for other in others {
                assert!(!slot.overlaps(*other), "Arena::split: {slot:?} is written and overlaps {other:?}");
            }
        }
        for slot in read.iter().chain(write) {
            assert!(slot.end() <= memory.len(), "Arena::split: {slot:?} lies outside of an arena of {}", memory.len());
        }
        let base = memory.as_mut_ptr();
        // SAFETY: every slot lies inside `memory`, which `self` keeps borrowed for 'a; no written slot overlaps another slot
        // (both asserted above), so each exclusive slice is the only one over its floats.
        unsafe {
            (
                read.iter().map(|slot| std::slice::from_raw_parts(base.add(slot.offset), slot.len)).collect(),
                write.iter().map(|slot| std::slice::from_raw_parts_mut(base.add(slot.offset), slot.len)).collect(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_to_cache_lines_and_start_at_zero() {
        let mut plan = Plan::new();
        let slots = [plan.reserve(1), plan.reserve(17), plan.reserve(0), plan.reserve(5)];
        let arena = Arena::new(&plan);
        for slot in slots {
            assert_eq!(arena.read(slot).as_ptr() as usize % 64, 0);
            assert!(arena.read(slot).iter().all(|&value| value == 0.0));
        }
        assert_eq!(plan.len(), 16 + 32 + 16);
    }

    #[test]
    fn split_hands_out_the_same_memory_as_read() {
        let mut plan = Plan::new();
        let (a, b, c) = (plan.reserve(4), plan.reserve(4), plan.reserve(9));
        let mut arena = Arena::new(&plan);
        arena.write(a).fill(2.0);
        {
            let (read, mut write) = arena.split(&[a, a.first(1)], &[c, b]);
            write[1].copy_from_slice(read[0]);
            write[0][0] = read[1][0] + 1.0;
        }
        assert_eq!(arena.read(b), [2.0; 4]);
        assert_eq!(arena.read(c)[..2], [3.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "overlaps")]
    fn split_refuses_to_write_what_it_reads() {
        let mut plan = Plan::new();
        let a = plan.reserve(4);
        Arena::new(&plan).split(&[a.first(2)], &[a]);
    }
}
