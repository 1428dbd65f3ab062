//! The backend that is a GPU, by NVIDIA's driver interface. The driver's library is looked up when the first device is
//! opened, so a program with this code in it starts on a machine without a driver and says what is missing.
//!
//! One stream does everything in the order in which it is asked for, and a second one copies what is wanted ahead of its turn.
//! Uploads go through a ring of page-locked memory and return as soon as their bytes are in it; launches return at once; a
//! download waits. A recorded program is one graph,
//! unless the device was opened without graphs: then the same launches are made one by one.

mod ahead;
mod code;
mod failure;
mod staging;
mod timing;

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute, CUdeviceptr};
use cudarc::driver::{CudaContext, CudaGraph, CudaStream, result};

use crate::backend::{Backend, Recording};
use crate::error::{Error, Result};
use crate::program::{Launch, Program};

use ahead::Ahead;
pub use code::{RESOURCES, Resources, toolkit};
use failure::Failed;
use staging::Ring;

/// The oldest compute capability that the device code is compiled for.
const OLDEST: (u32, u32) = (8, 0);

/// Settings of a [`Device`].
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether recorded programs are graphs.
    pub graphs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { graphs: true }
    }
}

/// A GPU. All memory that was allocated on it is freed when it is dropped.
pub struct Device {
    // Fields are dropped in this order: what lives on the device before its context.
    code: code::Code,
    ring: Mutex<Ring>,
    /// Made by the first copy ahead of its turn.
    ahead: Mutex<Option<Ahead>>,
    allocations: Mutex<HashMap<CUdeviceptr, usize>>,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    options: Options,
    name: String,
    shared_limit: u32,
}

/// A recorded program.
struct Graph(CudaGraph);

// SAFETY: handles of the driver, which may be used from any thread that the context is bound to, by one at a time: a recording
// is no `Sync`.
unsafe impl Send for Graph {}

impl Device {
    /// The device with this number, from 0, as the driver counts them.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::NoDevice`], [`Error::DriverTooOld`], [`Error::DeviceTooOld`], and what the driver says.
    pub fn open(index: usize, options: Options) -> Result<Self> {
        let count = device_count()?;
        if index >= count {
            return Err(Error::NoDevice { index, count });
        }
        let context = CudaContext::new(index).in_call("opening the device")?;
        // SAFETY: one stream does everything but copies ahead of their turn, which `Ahead` orders by an event of its own.
        unsafe { context.disable_event_tracking() };
        let name = context.name().in_call("asking for the device's name")?;
        let attribute = |which| context.attribute(which).in_call("asking for the device's attributes");
        let (major, minor) = context.compute_capability().in_call("asking for the compute capability")?;
        let capability = (major as u32, minor as u32);
        if capability < OLDEST {
            return Err(Error::DeviceTooOld { name, capability });
        }
        let limit = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_limit = attribute(limit)? as u32;
        let stream = context.new_stream().in_call("making a stream")?;
        let code = code::Code::load(shared_limit)?;
        let ring = Mutex::new(Ring::new(&context)?);
        let allocations = Mutex::default();
        let ahead = Mutex::default();
        Ok(Self { code, ring, ahead, allocations, stream, context, options, name, shared_limit })
    }

    /// What the maker calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes free now, and bytes in all.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().in_call("asking for free memory")
    }

    /// Bytes that were allocated, all in all: none are freed before the device is dropped.
    pub fn allocated_bytes(&self) -> u64 {
        lock(&self.allocations).values().map(|&bytes| bytes as u64).sum()
    }

    /// What the driver supports: major and minor version of CUDA.
    ///
    /// # Errors
    /// [`Error::NoDriver`], and what the driver says.
    pub fn driver_version(&self) -> Result<(u32, u32)> {
        driver_version()
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().in_call("using the device")?;
        // Errors of what was dropped before would else be those of an unrelated call.
        self.context.check_err().in_call("freeing what lay on the device")
    }

    /// Lets what is asked for from here on find what was copied ahead of its turn.
    fn join(&self) -> Result<()> {
        lock(&self.ahead).as_mut().map_or(Ok(()), |ahead| ahead.join(&self.stream))
    }

    /// Checks that the bytes lie in one allocation: what the driver itself checks for none but whole pages.
    fn within(&self, address: u64, bytes: usize) -> Result<()> {
        let allocations = lock(&self.allocations);
        let end = address + bytes as u64;
        let holds = |(&start, &len): (&u64, &usize)| start <= address && end <= start + len as u64;
        if allocations.iter().any(holds) { Ok(()) } else { Err(Error::NotAllocated { address, bytes }) }
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let (kernel, [x, y, z]) = (launch.kernel, launch.grid);
        let function = self.code.function(kernel.name)?;
        if launch.shared_bytes > self.shared_limit {
            let (needed, limit) = (launch.shared_bytes, self.shared_limit);
            let reason = format!("{needed} bytes of shared memory for a block, and {} has {limit}", self.name);
            return Err(Error::Launch { kernel: kernel.name, reason });
        }
        // The driver reads the arguments as the struct that they are: 16 bytes are as aligned as any of them is.
        let mut args = [0u128; crate::program::ARGS_LIMIT / 16];
        let args: *mut u8 = args.as_mut_ptr().cast();
        let mut params: [*mut c_void; 1] = [args.cast()];
        // SAFETY: `args` holds 4096 bytes, and a program's arguments are no more (Program::push). The function is of a
        // module that is loaded for as long as `self`; it takes one argument of this size (the emulator's tests compare
        // both sides), which the driver copies before it returns. What addresses in it point to is checked where the
        // program is laid down and under the emulator, and by the device.
        unsafe {
            std::ptr::copy_nonoverlapping(launch.args.as_ptr(), args, launch.args.len());
            let threads = (kernel.threads, 1, 1);
            let stream = self.stream.cu_stream();
            result::launch_kernel(function, (x, y, z), threads, launch.shared_bytes, stream, &mut params)
        }
        .in_call(kernel.name)
    }

    /// The program's launches as one graph.
    fn graph(&self, program: &Program) -> Result<CudaGraph> {
        const OPERATION: &str = "recording a program";
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).in_call(OPERATION)?;
        let launched = program.launches.iter().try_for_each(|launch| self.launch(launch));
        // The capture is ended in any case, or the stream would stay in it.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        launched?;
        let graph = graph.in_call(OPERATION)?;
        let graph = graph.ok_or(Error::Driver { operation: OPERATION, what: "nothing was recorded".into() })?;
        let mut nodes = 0;
        // SAFETY: a graph that is alive; without an array, the number of its nodes is asked for.
        unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut nodes) }
            .result()
            .in_call(OPERATION)?;
        if nodes != program.launches.len() {
            let what = format!("{} launches became a graph of {nodes}", program.launches.len());
            return Err(Error::Driver { operation: OPERATION, what });
        }
        graph.upload().in_call(OPERATION)?;
        Ok(graph)
    }
}

impl Backend for Device {
    fn allocate_bytes(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the context is bound; the memory is freed when `self` is dropped, and not before.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => {
                lock(&self.allocations).insert(address, bytes);
                Ok(address)
            }
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.memory()?;
                Err(Error::OutOfMemory { needed: bytes, free, total })
            }
            Err(error) => Err(failure::error("allocating memory", error)),
        }
    }

    fn upload_bytes(&self, to: u64, from: &[u8]) -> Result<()> {
        self.within(to, from.len())?;
        self.bind()?;
        self.join()?;
        lock(&self.ring).upload(&self.stream, to, from)
    }

    fn upload_bytes_ahead(&self, to: u64, from: &[u8]) -> Result<()> {
        self.within(to, from.len())?;
        self.bind()?;
        let mut ahead = lock(&self.ahead);
        let ahead = match &mut *ahead {
            Some(ahead) => ahead,
            none => none.insert(Ahead::new(&self.context)?),
        };
        ahead.upload(to, from)
    }

    fn is_idle(&self) -> Result<bool> {
        self.bind()?;
        // SAFETY: a stream that is alive.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) }.result() {
            Ok(()) => Ok(true),
            Err(result::DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(failure::error("asking whether the device is done", error)),
        }
    }

    fn download_bytes(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.within(from, to.len())?;
        self.bind()?;
        self.join()?;
        // SAFETY: the bytes lie in one allocation, and `to` is not touched until the stream has been waited for.
        let copied = unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) };
        let waited = self.stream.synchronize();
        copied.and(waited).in_call("reading from the device")
    }

    fn run(&self, program: &Program) -> Result<()> {
        self.bind()?;
        self.join()?;
        program.launches.iter().try_for_each(|launch| self.launch(launch))
    }

    fn record(&self, program: &Program) -> Result<Recording> {
        self.bind()?;
        let graph = match self.options.graphs && !program.launches.is_empty() {
            true => Some(Box::new(Graph(self.graph(program)?)) as Box<dyn std::any::Any + Send>),
            false => None,
        };
        Ok(Recording { program: program.clone(), graph })
    }

    fn replay(&self, recording: &Recording) -> Result<()> {
        match recording.graph.as_ref().and_then(|graph| graph.downcast_ref::<Graph>()) {
            Some(Graph(graph)) => {
                self.bind()?;
                self.join()?;
                graph.launch().in_call("running a recorded program")
            }
            None => self.run(&recording.program),
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        self.join()?;
        self.stream.synchronize().in_call("waiting for the device")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Where the device is lost, so is its memory: there is nobody to tell.
        let _ = self.context.bind_to_thread();
        let _ = self.stream.synchronize();
        *lock(&self.ahead) = None;
        for &address in lock(&self.allocations).keys() {
            // SAFETY: allocated by `allocate_bytes`, freed here alone, and nothing that uses it runs any more.
            let _ = unsafe { result::free_sync(address) };
        }
    }
}

/// What another thread left behind when it panicked is whole: nothing here panics between two writes that belong together.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many devices the driver finds.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::DriverTooOld`], and what the driver says.
pub fn device_count() -> Result<usize> {
    let supported = driver_version()?;
    if supported.0 < code::OLDEST_DRIVER {
        return Err(Error::DriverTooOld { supported, needed: toolkit() });
    }
    match result::init() {
        Ok(()) => {}
        Err(result::DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        Err(error) => return Err(failure::error("starting the driver", error)),
    }
    Ok(result::device::get_count().in_call("counting devices")?.max(0) as usize)
}

/// What the driver supports: major and minor version of CUDA.
fn driver_version() -> Result<(u32, u32)> {
    if !crate::driver_is_present() {
        return Err(Error::NoDriver);
    }
    let mut version = 0;
    // SAFETY: writes one number; may be called before the driver is started.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().in_call("asking for the driver's version")?;
    let version = version.max(0) as u32;
    Ok((version / 1000, version % 1000 / 10))
}
