//! A pass on the device as data: kernels, launches, programs. Runs nothing; a [`crate::Backend`] does.

use crate::pod::{self, Pod};

/// Bytes of arguments that a kernel may take (a limit of every CUDA version that is supported).
pub const ARGS_LIMIT: usize = 4096;

/// Bytes of shared memory that a block may have on the largest device that is supported.
pub const SHARED_LIMIT: u32 = 227 * 1024;

/// An entry of the device code, by the name that it has there.
#[derive(Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its name: unique in the whole device code.
    pub name: &'static str,
    /// Threads of a block, as the device code has it: a multiple of 32.
    pub threads: u32,
}

impl Kernel {
    /// The entry `name`, with `threads` threads to a block.
    ///
    /// # Panics
    /// At compile time, if `threads` is no multiple of 32 between 32 and 1024.
    pub const fn new(name: &'static str, threads: u32) -> Self {
        assert!(threads.is_multiple_of(32) && threads >= 32 && threads <= 1024, "threads of a block");
        Self { name, threads }
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone)]
pub struct Launch {
    /// What runs.
    pub kernel: &'static Kernel,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Dynamic shared memory of each block, in bytes.
    pub shared_bytes: u32,
    /// The kernel's one argument, byte for byte.
    pub args: Box<[u8]>,
}

/// Launches, to be run in their order.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// The launches.
    pub launches: Vec<Launch>,
}

impl Program {
    /// Adds a launch. A grid without blocks has no work to do: it adds nothing.
    ///
    /// # Panics
    /// If a limit of the device is broken: 4096 bytes of arguments, 65535 blocks along y or z, 227 KiB of shared
    /// memory. Who lays a program down splits its work so that they hold.
    #[track_caller]
    pub fn push<T: Pod>(&mut self, kernel: &'static Kernel, grid: [u32; 3], shared_bytes: u32, args: &T) {
        let name = kernel.name;
        assert!(size_of::<T>() <= ARGS_LIMIT, "{name}: {} bytes of arguments", size_of::<T>());
        assert!(shared_bytes <= SHARED_LIMIT, "{name}: {shared_bytes} bytes of shared memory");
        assert!(grid[0] <= i32::MAX as u32 && grid[1] <= 65535 && grid[2] <= 65535, "{name}: a grid of {grid:?}");
        if grid.contains(&0) {
            return;
        }
        let args = pod::bytes(std::slice::from_ref(args)).into();
        self.launches.push(Launch { kernel, grid, shared_bytes, args });
    }

    /// Adds the launches of another program.
    pub fn append(&mut self, mut other: Program) {
        self.launches.append(&mut other.launches);
    }
}

/// Blocks of `per_block` that `work` items take.
///
/// # Panics
/// If they are more than a grid has along x.
#[track_caller]
pub fn blocks(work: usize, per_block: u32) -> u32 {
    u32::try_from(work.div_ceil(per_block as usize)).expect("fewer than 2³² blocks")
}

#[cfg(test)]
mod tests {
    use super::{Kernel, Program, blocks};

    static KERNEL: Kernel = Kernel::new("some_kernel", 64);

    #[test]
    fn a_launch_keeps_the_bytes_of_its_arguments_and_an_empty_grid_is_no_launch() {
        let mut program = Program::default();
        program.push(&KERNEL, [2, 1, 1], 16, &[1u32, 0x0203_0405]);
        program.push(&KERNEL, [0, 1, 1], 0, &[1u32]);
        assert_eq!(program.launches.len(), 1);
        assert_eq!(*program.launches[0].args, [1, 0, 0, 0, 5, 4, 3, 2]);
        let mut twice = program.clone();
        twice.append(program);
        assert_eq!(twice.launches.len(), 2);
    }

    #[test]
    #[should_panic(expected = "some_kernel: a grid of [1, 65536, 1]")]
    fn a_grid_beyond_the_limit_panics() {
        Program::default().push(&KERNEL, [1, 65536, 1], 0, &0u32);
    }

    #[test]
    fn the_last_block_may_be_partly_empty() {
        assert_eq!((blocks(0, 256), blocks(1, 256), blocks(256, 256), blocks(257, 256)), (0, 1, 1, 2));
    }
}
