//! What a run was made with: the machine, the version, the commit and the memory it took. Asked of the operating system;
//! whatever it does not tell is "unknown", never a guess, and never a failed run.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that this binary was built from, or "unknown" where it was built from a package.
pub const COMMIT: &str = env!("DARTS_COMMIT");

/// The machine a run is made on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hardware {
    /// The processor's name.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// The widest vector instructions that the processor has.
    pub instruction_set: String,
    /// Main memory, bytes.
    pub memory_bytes: u64,
    /// The operating system and its version.
    pub os: String,
    /// The GPU, of a run that computes on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Hardware {
    /// Asks the machine.
    pub fn detect() -> Self {
        let unknown = || "unknown".to_string();
        let (cpu, memory_bytes) = processor_and_memory().unwrap_or_default();
        Self {
            cpu: Some(cpu).filter(|name| !name.is_empty()).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instruction_set: instruction_set().into(),
            memory_bytes,
            os: sysinfo::System::long_os_version().unwrap_or_else(|_| unknown()),
            gpu: None,
        }
    }
}

/// Refuses what needs more memory than this machine has, before the allocator ends the process over it; `remedy` are the
/// settings to lower.
pub(crate) fn refuse_beyond_memory(needed: u64, batch: usize, remedy: &'static str) -> Result<()> {
    let available = Hardware::detect().memory_bytes;
    // 0: the operating system does not tell.
    if available == 0 || needed <= available {
        return Ok(());
    }
    Err(Error::Memory { batch, needed: needed as f64 / 1e9, available: available as f64 / 1e9, remedy })
}

fn processor_and_memory() -> std::result::Result<(String, u64), sysinfo::Error> {
    let mut system = sysinfo::System::new()?;
    system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
    system.refresh_memory();
    let cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_string()).unwrap_or_default();
    Ok((cpu, system.total_memory()))
}

fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(target_arch = "aarch64")]
    {
        "NEON"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "portable"
    }
}

/// The largest resident memory that this process has had, bytes; 0 where the system does not tell.
pub fn peak_memory_bytes() -> u64 {
    #[cfg(unix)]
    {
        let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) else { return 0 };
        let unit = if cfg!(any(target_os = "macos", target_os = "ios")) { 1 } else { 1024 };
        u64::try_from(usage.max_rss()).unwrap_or(0) * unit
    }
    #[cfg(not(unix))]
    {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_core_and_memory_and_this_process_uses_some_of_it() {
        let hardware = Hardware::detect();
        assert!(hardware.cores >= 1 && !hardware.cpu.is_empty());
        assert!(hardware.memory_bytes > 1 << 20);
        if cfg!(unix) {
            let peak = peak_memory_bytes();
            assert!(peak > 1 << 20 && peak < hardware.memory_bytes, "{peak}");
        }
    }
}
