//! The compiled device code: loaded onto a device, and what the compiler said of it.

use std::collections::HashMap;
use std::ffi::CString;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute, CUmodule, CUresult};

use super::failure::{self, Failed};
use crate::error::{Error, Result};
use crate::kernels;

/// What a kernel takes of a multiprocessor, as ptxas says. Shared memory is not in it: it is all dynamic, a launch's affair.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Resources {
    /// The folder that it is in.
    pub operation: &'static str,
    /// Its name.
    pub kernel: &'static str,
    /// The compute capability that it was compiled for, times ten.
    pub architecture: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that do not fit in registers and are stored and loaded again: 0 in a good kernel.
    pub spill_bytes: u32,
}

mod compiled {
    use super::Resources;
    include!(concat!(env!("OUT_DIR"), "/device_code.rs"));
}

pub use compiled::RESOURCES;

/// The oldest driver, by the major version of the CUDA that it supports.
pub(super) const OLDEST_DRIVER: u32 = 12;

/// Version of the nvcc that compiled the device code.
pub const fn toolkit() -> (u32, u32) {
    compiled::TOOLKIT
}

/// The device code on a device: unloaded when dropped.
pub(super) struct Code {
    functions: HashMap<&'static str, CUfunction>,
    modules: Vec<CUmodule>,
}

// SAFETY: handles of the driver, which may be used from any thread that the context is bound to.
unsafe impl Send for Code {}
// SAFETY: as above; they are never changed.
unsafe impl Sync for Code {}

impl Code {
    /// Loads all modules into the bound context, and every kernel of them at once: the driver would else load a kernel
    /// when it is first launched, which it may not while a graph is recorded.
    pub(super) fn load(shared_limit: u32) -> Result<Self> {
        let mut code = Self { functions: HashMap::new(), modules: Vec::new() };
        for (_, image) in compiled::MODULES {
            code.modules.push(load_module(image)?);
        }
        for kernel in kernels::all() {
            let function = code.find(kernel.name)?;
            let allow = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let registers = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
            // SAFETY: a function of a loaded module. The second call loads it.
            unsafe {
                result::function::set_function_attribute(function, allow, shared_limit as i32).in_call(kernel.name)?;
                result::function::get_function_attribute(function, registers).in_call(kernel.name)?;
            }
            code.functions.insert(kernel.name, function);
        }
        Ok(code)
    }

    fn find(&self, name: &str) -> Result<CUfunction> {
        let unknown = || Error::UnknownKernel(name.into());
        // Asked of no other module: CUDA's checking tools count every call that fails.
        let module = compiled::MODULES.iter().position(|(kernels, _)| kernels.contains(&name)).ok_or_else(unknown)?;
        // SAFETY: a loaded module.
        let function =
            unsafe { result::module::get_function(self.modules[module], CString::new(name).map_err(|_| unknown())?) };
        function.in_call("looking up a kernel")
    }

    /// The kernel of that name.
    pub(super) fn function(&self, name: &str) -> Result<CUfunction> {
        self.functions.get(name).copied().ok_or_else(|| Error::UnknownKernel(name.into()))
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        for &module in &self.modules {
            // SAFETY: loaded in `load`, unloaded here alone. Where the device is lost there is nobody to tell.
            let _ = unsafe { sys::cuModuleUnload(module) };
        }
    }
}

fn load_module(image: &[u8]) -> Result<CUmodule> {
    // The driver reads whole words of it.
    let mut aligned = vec![0u128; image.len().div_ceil(16)];
    // SAFETY: `aligned` has room for the image, and the driver copies what it loads.
    let loaded = unsafe {
        std::ptr::copy_nonoverlapping(image.as_ptr(), aligned.as_mut_ptr().cast(), image.len());
        result::module::load_data(aligned.as_ptr().cast())
    };
    loaded.map_err(|error| {
        let supported = super::driver_version().unwrap_or_default();
        let unreadable = matches!(
            error.0,
            CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
                | CUresult::CUDA_ERROR_INVALID_IMAGE
                | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
                | CUresult::CUDA_ERROR_INVALID_SOURCE
        );
        if unreadable && supported < toolkit() {
            return Error::DriverTooOld { supported, needed: toolkit() };
        }
        failure::error("loading the device code", error)
    })
}
