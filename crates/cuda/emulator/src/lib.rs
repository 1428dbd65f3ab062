//! Runs the device code of darts-cuda on the CPU, to test it where there is no GPU.
//!
//! [`Emulator`] is a [`darts_cuda::Backend`]: memory is host memory, a launch runs its blocks one after the other on the
//! calling thread, a fiber for each thread of a block. It is strict where a GPU is not:
//!
//! * Memory starts as NaN, shared memory too. Buffers end at a page that faults, and what lies before and between is
//!   checked after every launch.
//! * Barriers and warp exchanges must be met by all their threads at one line. A kernel that returns before one is a fault.
//! * [`in_all_orders`] runs a test with threads and blocks in forward, reverse and random order, and the results must be
//!   the same bits: a missing barrier or a sum in the order of arrival does not survive that.
//!
//! What it cannot see: bank conflicts, weak memory ordering, stale caches, anything about speed.

#![cfg(unix)]

mod memory;
mod native;
mod orders;
mod test_device;

use std::cell::RefCell;

use darts_cuda::{Backend, Error, Launch, Program, Result};

use crate::memory::Allocations;
pub use crate::native::{Entry, entries};
pub use crate::orders::{Bits, Disagreement, ORDERS, compare_orders, in_all_orders, in_emulated_orders};
pub use crate::test_device::TestDevice;

/// The folder of a `libcuda.so` that is this emulator. With it in LD_LIBRARY_PATH a program that looks for NVIDIA's driver
/// finds a device that computes on the CPU; `src/fake_driver.cpp` says what DARTS_FAKE_CUDA sets.
pub fn fake_driver() -> &'static str {
    env!("DARTS_FAKE_DRIVER")
}

/// Which thread of a block, and which block of a grid, runs first.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Order {
    /// The first that can.
    Forward,
    /// The last that can.
    Reverse,
    /// Any that can, drawn anew at every turn from this seed.
    Random(u64),
}

/// A device that is the CPU.
pub struct Emulator {
    order: Order,
    allocations: RefCell<Allocations>,
}

impl Emulator {
    /// A device that runs threads and blocks in that order.
    pub fn new(order: Order) -> Self {
        Self { order, allocations: RefCell::default() }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let kernel = launch.kernel;
        let entry = native::find(kernel.name).ok_or_else(|| Error::UnknownKernel(kernel.name.into()))?;
        let unfit = |what: &str, device: u32, host: usize| {
            let reason = format!("{what}: {device} in the device code, {host} in the launch");
            Err(Error::Launch { kernel: kernel.name, reason })
        };
        if entry.threads != kernel.threads {
            return unfit("threads of a block", entry.threads, kernel.threads as usize);
        }
        if entry.args_bytes as usize != launch.args.len() {
            return unfit("bytes of arguments", entry.args_bytes, launch.args.len());
        }
        let allocations = self.allocations.borrow();
        native::launch(&entry, launch, self.order).map_err(|fault| {
            let what = match fault.address {
                Some(address) => allocations.describe(address, fault.wrote),
                None => fault.message,
            };
            Error::Fault { kernel: kernel.name, block: fault.block, thread: fault.thread, what }
        })?;
        match allocations.overwritten() {
            None => Ok(()),
            Some(what) => Err(Error::Launch { kernel: kernel.name, reason: what }),
        }
    }
}

impl Backend for Emulator {
    fn allocate_bytes(&self, bytes: usize) -> Result<u64> {
        self.allocations.borrow_mut().allocate(bytes)
    }

    fn upload_bytes(&self, to: u64, from: &[u8]) -> Result<()> {
        self.allocations.borrow_mut().bytes_mut(to, from.len())?.copy_from_slice(from);
        Ok(())
    }

    fn download_bytes(&self, from: u64, to: &mut [u8]) -> Result<()> {
        to.copy_from_slice(self.allocations.borrow().bytes(from, to.len())?);
        Ok(())
    }

    fn run(&self, program: &Program) -> Result<()> {
        program.launches.iter().try_for_each(|launch| self.launch(launch))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}
