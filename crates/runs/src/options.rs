//! What may change between two invocations of the same run without changing its result: places, threads, when to save and
//! when to stop. None of it is stored in the configuration or compared on resume.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use darts_cuda::Precision;

use crate::error::{Error, Result};

/// Where datasets are when nobody says.
pub(crate) const DEFAULT_DATA_DIR: &str = "datasets";

/// Where a run computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// A CUDA device by its number.
    Cuda(usize),
}

impl Device {
    /// The first GPU where this build has code for it and the machine has one, else the processor.
    pub fn preferred() -> Self {
        #[cfg(feature = "cuda")]
        if darts_cuda::driver::device_count().is_ok_and(|count| count > 0) {
            return Self::Cuda(0);
        }
        Self::Cpu
    }

    /// Whether a run can compute there.
    ///
    /// # Errors
    /// [`Error::Device`], with what is missing and what to do.
    pub fn check(self) -> Result<()> {
        RunOptions { device: self, ..RunOptions::default() }.computer().map(|_| ())
    }
}

/// A device that was opened.
pub(crate) enum Computer {
    /// The processor.
    Cpu(candle_core::Device),
    /// A GPU.
    #[cfg(feature = "cuda")]
    Gpu(Box<darts_cuda::driver::Device>),
}

impl Computer {
    /// What the maker calls the GPU, where it is one.
    pub(crate) fn gpu_name(&self) -> Option<String> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Gpu(device) => Some(device.name().into()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let index = match text {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| Error::Config {
            field: "device",
            value: text.into(),
            expected: "cpu, cuda or cuda:I".into(),
        })
    }
}

/// How to carry out a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// The dataset's own folder, or the parent that holds it. Generated data needs none.
    pub data_dir: Option<PathBuf>,
    /// Where to compute.
    pub device: Device,
    /// Worker threads; all cores where not given. The result is the same for any number.
    pub threads: Option<usize>,
    /// Continue what is in the folder instead of refusing it.
    pub resume: bool,
    /// Stop cleanly after so many steps of this invocation.
    pub max_steps: Option<u64>,
    /// Stop cleanly when so many epochs of the run are done.
    pub until_epoch: Option<usize>,
    /// Unreadable images that a training may leave out of its batches before it is an error. They are listed in the run's
    /// `bad-images.txt`.
    pub max_bad_images: usize,
    /// Save every so many steps, besides at the end of each epoch; 200 where not given.
    pub checkpoint_every: Option<u64>,
    /// On a GPU: what the factors of matrix products are rounded to. f32 differs from the processor in the order of sums alone.
    pub precision: Precision,
    /// On a GPU: launch the kernels of a step one by one rather than as a graph.
    pub no_graph: bool,
}

impl RunOptions {
    /// Steps between checkpoints where the caller does not say.
    pub const CHECKPOINT_EVERY: u64 = 200;

    /// Checks what can be checked without touching anything.
    pub(crate) fn validate(&self) -> Result<()> {
        let positive = |field, value: Option<u64>| match value {
            Some(0) => Err(Error::Config { field, value: "0".into(), expected: "at least 1".into() }),
            _ => Ok(()),
        };
        positive("threads", self.threads.map(|n| n as u64))?;
        positive("max_steps", self.max_steps)?;
        positive("until_epoch", self.until_epoch.map(|n| n as u64))?;
        positive("checkpoint_every", self.checkpoint_every)?;
        if self.precision != Precision::F32 && self.device == Device::Cpu {
            let value = format!("{:?}", self.precision).to_lowercase();
            return Err(Error::Config { field: "precision", value, expected: "f32 on the processor".into() });
        }
        Ok(())
    }

    /// Threads that read images for a GPU, which leaves the processor nothing else to do.
    #[cfg(feature = "cuda")]
    pub(crate) fn readers(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Device`], with what is missing and what to do.
    pub(crate) fn computer(&self) -> Result<Computer> {
        match self.device {
            Device::Cpu => Ok(Computer::Cpu(candle_core::Device::Cpu)),
            Device::Cuda(index) => self.gpu(index),
        }
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(&self, _: usize) -> Result<Computer> {
        let only = "this build computes on the processor only";
        let reason = match darts_cuda::driver_is_present() {
            true => format!("{only}; one with `--features cuda` has code for GPUs"),
            false => format!("{only}, and this machine has no NVIDIA driver; use --device cpu"),
        };
        Err(Error::Device { device: self.device.to_string(), reason })
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, index: usize) -> Result<Computer> {
        let options = darts_cuda::driver::Options { graphs: !self.no_graph };
        match darts_cuda::driver::Device::open(index, options) {
            Ok(device) => Ok(Computer::Gpu(Box::new(device))),
            Err(error) => Err(Error::Device { device: self.device.to_string(), reason: error.to_string() }),
        }
    }

    /// Runs `work` on a pool of the wanted number of threads.
    pub(crate) fn on_threads<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads.unwrap_or(0))
            .thread_name(|i| format!("darts-{i}"))
            .build()
            .map_err(|e| Error::Threads { threads: self.threads.unwrap_or(0), reason: e.to_string() })?;
        pool.install(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_and_printed() {
        for text in ["cpu", "cuda:0", "cuda:3"] {
            assert_eq!(text.parse::<Device>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for text in ["gpu", "cuda:", "cuda:-1", "CPU", ""] {
            assert!(text.parse::<Device>().unwrap_err().to_string().starts_with("device = "), "{text}");
        }
    }

    #[test]
    fn a_zero_that_would_never_work_is_refused() {
        let options = RunOptions { threads: Some(0), ..RunOptions::default() };
        assert!(options.validate().unwrap_err().to_string().starts_with("threads = 0"));
        let options = RunOptions { checkpoint_every: Some(0), ..RunOptions::default() };
        assert!(options.validate().is_err());
        let options = RunOptions { precision: Precision::Bf16, ..RunOptions::default() };
        let text = options.validate().unwrap_err().to_string();
        assert_eq!(text, "precision = bf16 is not possible: expected f32 on the processor");
    }
}
