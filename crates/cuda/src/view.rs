//! A piece of device memory: where it is and how long. It owns nothing and checks nothing but its own bounds; whoever
//! allocated the memory keeps it alive.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// `len` elements of type `T` in device memory, at `address`.
///
/// A view without memory ([`View::none`]) is a null pointer to the device code: an optional argument that is left out.
pub struct View<T = f32> {
    /// Address of the first element, in bytes.
    pub address: u64,
    /// Number of elements.
    pub len: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> View<T> {
    /// `len` elements at `address`.
    pub const fn at(address: u64, len: usize) -> Self {
        Self { address, len, element: PhantomData }
    }

    /// No memory: address 0, no elements.
    pub const fn none() -> Self {
        Self::at(0, 0)
    }

    /// Whether this is [`View::none`].
    pub const fn is_none(self) -> bool {
        self.address == 0
    }

    /// Whether there are no elements.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Elements `range.start..range.end` of these.
    ///
    /// # Panics
    /// If the range reaches past the end, or ends before it starts.
    #[track_caller]
    pub fn slice(self, range: Range<usize>) -> Self {
        let len = self.len;
        assert!(range.start <= range.end && range.end <= len, "elements {range:?} of a view of {len}");
        Self::at(self.address + (range.start * size_of::<T>()) as u64, range.len())
    }

    /// Bytes that the elements take.
    pub const fn bytes(self) -> usize {
        self.len * size_of::<T>()
    }

    /// Whether some byte belongs to both.
    pub(crate) const fn overlaps<U>(self, other: View<U>) -> bool {
        let (end, other_end) = (self.address + self.bytes() as u64, other.address + other.bytes() as u64);
        self.address < other_end && other.address < end
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// If the bytes are no whole number of them, or the address is not aligned for them.
    #[track_caller]
    pub fn cast<U>(self) -> View<U> {
        let (bytes, size) = (self.bytes(), size_of::<U>());
        assert!(bytes.is_multiple_of(size), "{bytes} bytes as elements of {size}");
        assert!(self.address.is_multiple_of(align_of::<U>() as u64), "address {:#x} is not aligned", self.address);
        View::at(self.address, bytes / size)
    }
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<T> {}

impl<T> PartialEq for View<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.address, self.len) == (other.address, other.len)
    }
}

impl<T> Eq for View<T> {}

impl<T> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{} at {:#x}", self.len, std::any::type_name::<T>(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::View;

    #[test]
    fn a_slice_counts_elements_and_addresses_bytes() {
        let view = View::<f64>::at(0x100, 10);
        assert_eq!(view.slice(2..5), View::at(0x110, 3));
        assert_eq!(view.slice(10..10).len, 0);
        assert_eq!(view.cast::<f32>(), View::at(0x100, 20));
        assert!(View::<f32>::none().is_none());
    }

    #[test]
    #[should_panic(expected = "elements 9..11 of a view of 10")]
    fn a_slice_past_the_end_panics() {
        View::<f32>::at(0x100, 10).slice(9..11);
    }
}
