//! `cargo xtask cuda-toolkit`: CUDA's compiler and headers for a machine that has none, from the wheels of their maker on PyPI,
//! in a folder of this repository. Nothing of the system is changed; a driver is not in them.
//!
//! The wheels are pinned and checked against their hashes, and pip fetches them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{answers, output, program, root};

#[path = "../../crates/cuda/nvcc.rs"]
pub(crate) mod nvcc;

/// Options of `cargo xtask cuda-toolkit`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also where the system has an nvcc that would do
    #[arg(long)]
    force: bool,
}

/// Packages, versions, and the sha256 of their wheels for x86-64 and for 64-bit Arm.
const WHEELS: [(&str, &str, [&str; 2]); 5] = [
    (
        "nvidia-cuda-nvcc",
        "13.0.88",
        [
            "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
            "c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f",
        ],
    ),
    (
        "nvidia-cuda-crt",
        "13.0.88",
        [
            "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
            "ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003",
        ],
    ),
    (
        "nvidia-nvvm",
        "13.0.88",
        [
            "c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0",
            "c4376a291d72d22a315d9d2f69bdae8f8cd83a627f75bad395cee49a0fe65dc1",
        ],
    ),
    (
        "nvidia-cuda-runtime",
        "13.0.96",
        [
            "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
        ],
    ),
    (
        "nvidia-cuda-cccl",
        "13.0.85",
        [
            "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
            "6f0203e29fed809ee2b7fe9b1344df66ecab990c37d6a2e0e189b26d6c97ed7c",
        ],
    ),
];

/// Where the wheels put what is in them.
const IN_WHEELS: &str = "nvidia/cu13";

/// Brings the toolkit, unless there is one.
///
/// # Errors
/// Python or pip is missing, the wheels cannot be had or are not the pinned ones, or the folder cannot be written.
pub(crate) fn run(args: &Args) -> Result<()> {
    let found = nvcc::find(Some(root()));
    if let (Ok(nvcc), false) = (&found, args.force) {
        let (major, minor) = nvcc.version;
        println!("nvcc of CUDA {major}.{minor} is at {}: nothing to do", nvcc.path.display());
        return Ok(());
    }
    let to = root().join(nvcc::TOOLKIT);
    let requirements = requirements();
    if !answers(program("python3").args(["-m", "pip", "--version"])) {
        bail!("the toolkit comes through pip: install Python 3 with pip (Debian: apt-get install python3-pip)");
    }
    println!("fetching {} packages, about 100 MB", WHEELS.len());
    let partial =
        tempfile::Builder::new().prefix(".cuda-toolkit-").tempdir_in(root()).context("cannot make a folder")?;
    let list = partial.path().join("requirements.txt");
    fs::write(&list, &requirements).with_context(|| format!("cannot write {}", list.display()))?;
    let mut pip = program("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]);
    pip.args(["--disable-pip-version-check", "--root-user-action=ignore", "--target"])
        .arg(partial.path().join("wheels"));
    output(pip.arg("-r").arg(&list)).context("pip could not install CUDA's wheels")?;
    let unpacked = partial.path().join("wheels").join(IN_WHEELS);
    lay_out(&unpacked)?;
    if to.exists() {
        fs::remove_dir_all(&to).with_context(|| format!("cannot empty {}", to.display()))?;
    }
    fs::rename(&unpacked, &to).with_context(|| format!("cannot make {}", to.display()))?;
    let nvcc = nvcc::find(Some(root())).map_err(anyhow::Error::msg)?;
    println!("CUDA {}.{} is at {}", nvcc.version.0, nvcc.version.1, nvcc.path.display());
    Ok(())
}

/// What pip is to fetch, and the only bytes that it may take for it.
fn requirements() -> String {
    let line = |(name, version, hashes): &(&str, &str, [&str; 2])| {
        let hashes = hashes.map(|hash| format!(" --hash=sha256:{hash}")).concat();
        format!("{name}=={version}{hashes}\n")
    };
    WHEELS.iter().map(line).collect()
}

/// The folders as an installed CUDA has them: bin/, include/, nvvm/, lib64/, programs executable.
fn lay_out(folder: &Path) -> Result<()> {
    let libraries = folder.join("lib");
    fs::rename(&libraries, folder.join("lib64")).with_context(|| format!("there is no {}", libraries.display()))?;
    #[cfg(unix)]
    for programs in ["bin", "nvvm/bin"] {
        use std::os::unix::fs::PermissionsExt as _;
        let programs = folder.join(programs);
        for entry in fs::read_dir(&programs).with_context(|| format!("there is no {}", programs.display()))? {
            let path = entry?.path();
            if path.is_file() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .with_context(|| format!("cannot make {} executable", path.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{WHEELS, requirements};

    #[test]
    fn every_wheel_is_pinned_to_whole_hashes() {
        let text = requirements();
        assert_eq!(text.lines().count(), WHEELS.len());
        for line in text.lines() {
            let hashes: Vec<&str> = line.split("--hash=sha256:").skip(1).map(str::trim).collect();
            assert_eq!(hashes.len(), 2, "{line}");
            assert!(
                hashes.iter().all(|hash| hash.len() == 64 && hash.chars().all(|c| c.is_ascii_hexdigit())),
                "{line}"
            );
        }
    }
}
