//! The Python that is measured against: a virtual environment with PyTorch in the target folder. Measures nothing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace::{output, program, root, run as run_shown, target_dir};

/// A Python that has PyTorch: the one that `DARTS_BENCH_PYTHON` names, else that of target/pytorch-venv, which is made from
/// bench/pytorch/requirements.txt where it is missing or those changed.
///
/// # Errors
/// There is no `python3`, or the requirements cannot be installed.
pub(super) fn python() -> Result<PathBuf> {
    if let Some(python) = env::var_os("DARTS_BENCH_PYTHON").map(PathBuf::from) {
        output(program(&python).args(["-c", "import torch, torchvision, safetensors"]))
            .with_context(|| format!("DARTS_BENCH_PYTHON names {}, which lacks PyTorch", python.display()))?;
        return Ok(python);
    }
    let folder = target_dir().join("pytorch-venv");
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let requirements = root().join("bench/pytorch/requirements.txt");
    let wanted = fs::read(&requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let installed = folder.join("installed.txt");
    if !fs::read(&installed).is_ok_and(|found| found == wanted) {
        run_shown(program("python3").args(["-m", "venv"]).arg(&folder))?;
        run_shown(program(&python).args(["-m", "pip", "install", "-r"]).arg(&requirements))?;
        fs::write(&installed, wanted).with_context(|| format!("cannot write {}", installed.display()))?;
    }
    Ok(python)
}

/// The versions of what is measured against, in words.
///
/// # Errors
/// They cannot be imported.
pub(super) fn versions(python: &Path) -> Result<String> {
    let script = "import platform, torch, torchvision; \
                  print(f'PyTorch {torch.__version__}, torchvision {torchvision.__version__}, Python {platform.python_version()}')";
    Ok(output(program(python).args(["-c", script]))?.trim().to_owned())
}
