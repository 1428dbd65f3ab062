//! Where CUDA's compiler is: used by this crate's build script, and by the repository's tasks, which say what is missing before
//! a build begins. Runs nothing but `nvcc --version`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest CUDA whose nvcc will do, by its major version.
pub(crate) const OLDEST: u32 = 12;

/// The folder in the repository that `cargo xtask cuda-toolkit` fills.
pub(crate) const TOOLKIT: &str = "cuda-toolkit";

/// A compiler that is new enough.
pub(crate) struct Nvcc {
    /// The program.
    pub(crate) path: PathBuf,
    /// The CUDA that it is of, major and minor version.
    pub(crate) version: (u32, u32),
}

/// The first nvcc that is new enough of: NVCC, CUDA_HOME, PATH, /usr/local/cuda, the repository's own.
///
/// # Errors
/// There is none: what was found instead, and what to do.
pub(crate) fn find(repository: Option<&Path>) -> Result<Nvcc, String> {
    let executable = format!("nvcc{}", env::consts::EXE_SUFFIX);
    let in_toolkit = |folder: &Path| folder.join("bin").join(&executable);
    let mut candidates: Vec<PathBuf> = env::var_os("NVCC").into_iter().map(PathBuf::from).collect();
    candidates.extend(env::var_os("CUDA_HOME").map(|home| in_toolkit(Path::new(&home))));
    if let Some(path) = env::var_os("PATH") {
        candidates.extend(env::split_paths(&path).map(|folder| folder.join(&executable)));
    }
    candidates.push(in_toolkit(Path::new("/usr/local/cuda")));
    candidates.extend(repository.map(|root| in_toolkit(&root.join(TOOLKIT))));
    let mut seen = Vec::new();
    for path in candidates.into_iter().filter(|path| path.is_file()) {
        match version(&path) {
            Some(version) if version.0 >= OLDEST => return Ok(Nvcc { path, version }),
            Some((major, minor)) => seen.push(format!("{} is of CUDA {major}.{minor}", path.display())),
            None => seen.push(format!("{} does not say its version", path.display())),
        }
    }
    let seen = if seen.is_empty() { String::new() } else { format!(" ({})", seen.join(", ")) };
    Err(format!("no nvcc of CUDA {OLDEST} or later{seen}: run `cargo xtask cuda-toolkit`, or set NVCC or CUDA_HOME"))
}

/// From `… release 13.0, V13.0.88`.
fn version(nvcc: &Path) -> Option<(u32, u32)> {
    let output = Command::new(nvcc).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.split_once("release ")?.1.split_once(',')?.0.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
