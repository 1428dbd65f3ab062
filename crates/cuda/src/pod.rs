//! What may be copied to the device byte for byte, and the macro that defines kernel arguments. Refuses types with
//! padding: their bytes would not all be initialized.

/// A type whose values are plain bytes: any bit pattern is a value, and no byte of it is padding.
///
/// # Safety
/// Implementors are `Copy`, hold no pointers but as integers, are valid for every bit pattern and have no padding.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! pod {
    ($($t:ty),*) => {
        // SAFETY: numbers without padding, valid for every bit pattern.
        $(unsafe impl Pod for $t {})*
    };
}

pod!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

// SAFETY: an array of such values has no padding between them.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// The bytes of a slice.
pub(crate) fn bytes<T: Pod>(values: &[T]) -> &[u8] {
    // SAFETY: `T: Pod` has no padding, so all size_of_val(values) bytes are initialized; u8 has no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The value that has these bytes.
///
/// # Panics
/// If they are not as many as it has.
pub(crate) fn value<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "the bytes of a value");
    // SAFETY: as many bytes as `T` has, and every bit pattern is a `T: Pod`.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// The bytes of a slice, to be overwritten.
pub(crate) fn bytes_mut<T: Pod>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as in `bytes`; and every bit pattern that is written is a `T`.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// Defines structs of kernel arguments: `#[repr(C)]`, [`Pod`], of the size that is given in bytes, without padding.
/// The device code has the same fields in the same order and asserts the same size. Pointers are `u64`.
///
/// ```
/// darts_cuda::args! {
///     /// Arguments of `vector_axpy`.
///     pub struct AxpyArgs: 32 {
///         x: u64,
///         y: u64,
///         factor: u64,
///         len: u32,
///         pad: u32,
///     }
/// }
/// let args = AxpyArgs { x: 0x1000, y: 0x2000, factor: 0x3000, len: 300, pad: 0 };
/// # let _ = args;
/// ```
///
/// A struct whose fields do not add up to its size does not compile:
///
/// ```compile_fail
/// darts_cuda::args! {
///     struct Padded: 16 { x: u64, len: u32 }
/// }
/// ```
#[macro_export]
macro_rules! args {
    ($($(#[$meta:meta])* $visibility:vis struct $name:ident: $size:literal {
        $($(#[$field_meta:meta])* $field_visibility:vis $field:ident: $type:ty),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Copy, Clone)]
        $visibility struct $name {
            $($(#[$field_meta])* $field_visibility $field: $type,)*
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, concat!(stringify!($name), " is not of the size that it says"));
            assert!($(size_of::<$type>() +)* 0 == $size, concat!(stringify!($name), " has padding"));
            const fn pod<T: $crate::Pod>() {}
            $(pod::<$type>();)*
        };

        // SAFETY: repr(C), every field is Pod, and their sizes add up to the size of the struct: no padding.
        unsafe impl $crate::Pod for $name {}
    )*};
}
