//! The CUDA build: every kernel of darts-cuda compiled by nvcc for 8.0 and 9.0, their registers and spills as the docs say, and the
//! backend and whole runs on a driver that is the emulator. In a target folder of its own, so that the rest is not built twice.

use anyhow::Result;

use super::{Context, Outcome};
use crate::cuda_toolkit::nvcc;
use crate::workspace::{cargo, output, root, target_dir};

/// Clippy of darts-cuda, darts-runs and darts-cli with the feature `cuda`, and the tests that need it.
pub(super) fn kernels(_: &mut Context) -> Result<Outcome> {
    if let Err(missing) = nvcc::find(Some(root())) {
        return Ok(Outcome::Skipped(missing));
    }
    for (package, task) in [
        ("darts-cuda", &["clippy", "--all-targets"][..]),
        ("darts-cuda", &["test", "--tests"]),
        ("darts-runs", &["clippy", "--lib", "--test", "device"]),
        ("darts-runs", &["test", "--test", "device"]),
        ("darts-cli", &["clippy", "--all-targets"]),
        ("darts-cli", &["test", "--test", "device"]),
    ] {
        let mut command = cargo();
        command.args(&task[..1]).args(["-q", "--release", "--locked", "-p", package, "--features", "cuda"]);
        command.args(&task[1..]).arg("--target-dir").arg(target_dir().join("cuda")).env("CUDA_COMPUTE_CAP", "80,90");
        if task[0] == "clippy" {
            command.args(["--", "-D", "warnings"]);
        }
        output(&mut command)?;
    }
    Ok(Outcome::Passed)
}
