//! The `darts` binary as a task uses it: built or named, run, waited for through a Ctrl-C. Knows no stage and no data set.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cuda_toolkit::nvcc;
use crate::workspace::{cargo, program, root, run, target_dir, typed};

/// How often a waiting task looks whether the binary has ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The user stopped a run; what was done is saved.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; the same command goes on from here")
    }
}

impl std::error::Error for Interrupted {}

/// A binary to drive.
pub(crate) struct Darts {
    path: PathBuf,
}

impl Darts {
    /// The binary that `DARTS_BIN` names, else the one that cargo builds now for that device: for a GPU with the feature
    /// `cuda`, in a target folder of its own, so that neither build throws the other away.
    ///
    /// # Errors
    /// It does not build, or there is no file of that name; a GPU is asked for, and there is no driver or no compiler for it.
    pub(crate) fn get(device: Option<&str>) -> Result<Self> {
        if let Some(path) = env::var_os("DARTS_BIN").map(PathBuf::from) {
            if !path.is_file() {
                bail!("DARTS_BIN names {}, where there is no file", path.display());
            }
            let path = path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))?;
            return Ok(Self { path });
        }
        let mut build = cargo();
        build.args(["build", "-q", "--release", "--locked", "-p", "darts-cli"]);
        let mut target = target_dir();
        if device.is_some_and(|device| device.starts_with("cuda")) {
            // Both are looked for before minutes go into a build.
            if !darts_cuda::driver_is_present() {
                bail!("--device cuda: {}", darts_cuda::Error::NoDriver);
            }
            nvcc::find(Some(root())).map_err(anyhow::Error::msg)?;
            target = target.join("cuda");
            build.args(["--features", "cuda", "--target-dir"]).arg(&target);
        } else {
            // With xtask, which is built already: alone, the binary's libraries would be compiled once more with fewer features.
            build.args(["-p", "xtask"]);
        }
        run(&mut build)?;
        Ok(Self { path: target.join("release").join(format!("darts{}", env::consts::EXE_SUFFIX)) })
    }

    /// `darts ARGUMENTS`, to be run in the root.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = program(&self.path);
        command.args(arguments);
        command
    }
}

/// Runs `command` with its results thrown away and its progress shown, calling `meanwhile` again and again until it ends.
///
/// # Errors
/// [`Interrupted`] where it was stopped by Ctrl-C; otherwise that it failed (why is on stderr already).
pub(crate) fn watch(command: &mut Command, mut meanwhile: impl FnMut()) -> Result<()> {
    let name = typed(command);
    let mut child = command.stdout(Stdio::null()).spawn().with_context(|| format!("cannot start `{name}`"))?;
    let status = loop {
        match child.try_wait().with_context(|| format!("cannot wait for `{name}`"))? {
            Some(status) => break status,
            None => thread::sleep(LOOK_EVERY),
        }
        meanwhile();
    };
    match status.code() {
        Some(0) => Ok(()),
        Some(130) => Err(Interrupted.into()),
        _ => bail!("`{name}` failed ({status})"),
    }
}

/// Leaves Ctrl-C to the binary, which saves and exits; this process only waits for it.
///
/// # Errors
/// The operating system refuses a handler.
pub(crate) fn leave_interrupts_to_the_binary() -> Result<()> {
    ctrlc::set_handler(|| {}).context("cannot listen for Ctrl-C")
}
