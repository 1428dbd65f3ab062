//! Whether there is a driver at all: what can be said without the feature `cuda`.

/// Names of the driver's library.
const LIBRARIES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// Whether this machine has NVIDIA's driver. It may still find no device, or be too old.
pub fn driver_is_present() -> bool {
    // SAFETY: loading runs the library's initializers, and the driver's are made to be run in any program.
    LIBRARIES.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok())
}
