//! The device that a test runs on: the emulator, or a GPU that is asked for.

#[cfg(feature = "cuda")]
use std::{cell::OnceCell, rc::Rc};

#[cfg(feature = "cuda")]
use darts_cuda::driver::{Device, Options};
use darts_cuda::{Backend, Program, Recording, Result};

use crate::{Emulator, Order};

/// The emulator; with the feature `cuda` and DARTS_TEST_GPU the GPU of that number, and the same tests are the GPU's.
///
/// On a GPU, memory starts as NaN too. An order is the driver's affair there: what [`crate::in_all_orders`] compares is a run
/// of launches with a run of the same launches as a graph.
pub struct TestDevice {
    device: Kind,
}

#[cfg(feature = "cuda")]
thread_local! {
    /// The GPU of a test, which is opened once: that takes longer than most tests. A test is a thread.
    static GPU: OnceCell<Rc<Device>> = const { OnceCell::new() };
}

enum Kind {
    Emulator(Emulator),
    #[cfg(feature = "cuda")]
    Gpu {
        device: Rc<Device>,
        /// Whether programs are run as graphs.
        graphs: bool,
    },
}

impl TestDevice {
    /// A device that runs threads and blocks in that order, where it has a say in it.
    ///
    /// # Panics
    /// If DARTS_TEST_GPU asks for a GPU that cannot be had.
    #[must_use]
    pub fn new(order: Order) -> Self {
        #[cfg(feature = "cuda")]
        if let Some(index) = Self::gpu() {
            let open = || Rc::new(Device::open(index, Options::default()).unwrap_or_else(|error| panic!("{error}")));
            let device = GPU.with(|gpu| gpu.get_or_init(open).clone());
            return Self { device: Kind::Gpu { device, graphs: order != Order::Forward } };
        }
        Self { device: Kind::Emulator(Emulator::new(order)) }
    }

    /// The number in DARTS_TEST_GPU, where this program has the code for a GPU.
    ///
    /// # Panics
    /// If it is no number.
    #[must_use]
    pub fn gpu() -> Option<usize> {
        let text = std::env::var("DARTS_TEST_GPU").ok().filter(|_| cfg!(feature = "cuda"))?;
        Some(text.parse().unwrap_or_else(|_| panic!("DARTS_TEST_GPU is {text}, expected a number")))
    }

    /// Whether it is the emulator: what only that can find is tested on it alone.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        matches!(self.device, Kind::Emulator(_))
    }

    fn backend(&self) -> &dyn Backend {
        match &self.device {
            Kind::Emulator(device) => device,
            #[cfg(feature = "cuda")]
            Kind::Gpu { device, .. } => &**device,
        }
    }
}

impl Backend for TestDevice {
    fn allocate_bytes(&self, bytes: usize) -> Result<u64> {
        let address = self.backend().allocate_bytes(bytes)?;
        if !self.is_emulated() {
            self.backend().upload_bytes(address, &vec![crate::memory::POISON; bytes])?;
        }
        Ok(address)
    }

    fn upload_bytes(&self, to: u64, from: &[u8]) -> Result<()> {
        self.backend().upload_bytes(to, from)
    }

    fn upload_bytes_ahead(&self, to: u64, from: &[u8]) -> Result<()> {
        self.backend().upload_bytes_ahead(to, from)
    }

    fn is_idle(&self) -> Result<bool> {
        self.backend().is_idle()
    }

    fn download_bytes(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.backend().download_bytes(from, to)
    }

    fn run(&self, program: &Program) -> Result<()> {
        match &self.device {
            Kind::Emulator(device) => device.run(program),
            #[cfg(feature = "cuda")]
            Kind::Gpu { device, graphs: false } => device.run(program),
            #[cfg(feature = "cuda")]
            Kind::Gpu { device, graphs: true } => {
                let recording = device.record(program)?;
                device.replay(&recording)?;
                device.synchronize()
            }
        }
    }

    fn record(&self, program: &Program) -> Result<Recording> {
        self.backend().record(program)
    }

    fn replay(&self, recording: &Recording) -> Result<()> {
        self.backend().replay(recording)
    }

    fn synchronize(&self) -> Result<()> {
        self.backend().synchronize()
    }
}
