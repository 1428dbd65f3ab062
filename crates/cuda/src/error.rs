//! What can go wrong on a device, one line each.

/// Result of an operation on a device.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a device failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device code has no entry of that name.
    #[error("the device code has no kernel {0}: the sources and `kernels::ALL` do not belong together")]
    UnknownKernel(String),
    /// A launch that does not fit its kernel.
    #[error("{kernel}: {reason}")]
    Launch {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// A kernel did what no kernel may do: memory outside its buffers, barriers that do not match.
    #[error("{kernel}: block ({}, {}, {}), thread {thread}: {what}", block[0], block[1], block[2])]
    Fault {
        /// The kernel.
        kernel: &'static str,
        /// Index of the block.
        block: [u32; 3],
        /// Index of the thread in its block.
        thread: u32,
        /// What it did.
        what: String,
    },
    /// A copy that does not fit the view.
    #[error("a copy of {host} bytes on the host and {device} bytes on the device")]
    CopyLength {
        /// Bytes on the host.
        host: usize,
        /// Bytes on the device.
        device: usize,
    },
    /// Device memory that nobody allocated.
    #[error("{bytes} bytes at {address:#x} are not within one allocation of this device")]
    NotAllocated {
        /// Where they start.
        address: u64,
        /// How many they are.
        bytes: usize,
    },
    /// No memory is left.
    #[error("out of device memory: {needed} bytes were asked for, {free} are free")]
    OutOfMemory {
        /// Bytes asked for.
        needed: usize,
        /// Bytes free when they were.
        free: usize,
    },
}
