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
    #[error(
        "out of GPU memory: {} were needed, {} of {} are free; a smaller batch takes less, or free what other programs hold",
        bytes(*needed), bytes(*free), bytes(*total)
    )]
    OutOfMemory {
        /// Bytes asked for.
        needed: usize,
        /// Bytes free when they were.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// There is no driver's library.
    #[error("no NVIDIA driver was found (libcuda.so.1): install one, or use --device cpu")]
    NoDriver,
    /// The driver is older than the code that it is to run.
    #[error(
        "the NVIDIA driver supports CUDA {}, and this program was built with CUDA {}: update the driver, or build with an older CUDA",
        version(*supported), version(*needed)
    )]
    DriverTooOld {
        /// What the driver supports, major and minor.
        supported: (u32, u32),
        /// What the device code was compiled with.
        needed: (u32, u32),
    },
    /// No device of that number.
    #[error("no CUDA device {index}: {}", match count { 0 => "the driver finds none".into(), 1 => "there is 0 alone".into(), n => format!("there are 0 to {}", n - 1) })]
    NoDevice {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A device that has no code.
    #[error("{name} has compute capability {}, and 8.0 or later is needed (2020 and later: Ampere, Ada, Hopper, …)", version(*capability))]
    DeviceTooOld {
        /// Its name.
        name: String,
        /// Its compute capability, major and minor.
        capability: (u32, u32),
    },
    /// The device failed, or was taken away. Whatever was in its memory is lost.
    #[error(
        "the GPU failed ({what}): what was in its memory is lost; start again, and the run goes on from its last checkpoint"
    )]
    DeviceLost {
        /// The driver's name for it.
        what: String,
    },
    /// Any other error of the driver.
    #[error("{operation}: the NVIDIA driver says {what}")]
    Driver {
        /// What was asked of it.
        operation: &'static str,
        /// Its name and text of the error.
        what: String,
    },
}

/// Bytes as people say them: 1.50 GB.
pub fn bytes(bytes: usize) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn messages_say_what_to_do_on_one_line() {
        let memory = Error::OutOfMemory { needed: 3_210_000_000, free: 150_300_000, total: 85_000_000_000 };
        assert_eq!(
            memory.to_string(),
            "out of GPU memory: 3.21 GB were needed, 150 MB of 85.00 GB are free; a smaller batch takes less, or free what \
             other programs hold"
        );
        let old = Error::DriverTooOld { supported: (12, 2), needed: (13, 0) };
        assert!(
            old.to_string()
                .starts_with("the NVIDIA driver supports CUDA 12.2, and this program was built with CUDA 13.0")
        );
        let none = |count| Error::NoDevice { index: 3, count }.to_string();
        assert_eq!(none(0), "no CUDA device 3: the driver finds none");
        assert_eq!(none(1), "no CUDA device 3: there is 0 alone");
        assert_eq!(none(2), "no CUDA device 3: there are 0 to 1");
    }
}
