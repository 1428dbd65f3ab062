//! Checks of the source by cargo's own tools: format, lints, licences, packages. Runs none of the project's code.

use anyhow::Result;

use super::{Context, Outcome};
use crate::workspace::{answers, cargo, output, run, target_dir};

/// `cargo fmt --check`.
pub(super) fn fmt(_: &mut Context) -> Result<Outcome> {
    run(cargo().args(["fmt", "--all", "--check", "--", "-l"]))?;
    Ok(Outcome::Passed)
}

/// Clippy over all targets, warnings denied. In the release profile, so that build scripts and macros are built once.
pub(super) fn clippy(_: &mut Context) -> Result<Outcome> {
    run(cargo().args([
        "clippy",
        "-q",
        "--locked",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    Ok(Outcome::Passed)
}

/// Licences, sources and bans of deny.toml.
pub(super) fn deny(_: &mut Context) -> Result<Outcome> {
    if !answers(cargo().args(["deny", "--version"])) {
        return Ok(Outcome::Skipped("cargo-deny is not installed (cargo install --locked cargo-deny)".into()));
    }
    run(cargo().args(["deny", "--locked", "--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    Ok(Outcome::Passed)
}

/// Every crate packs; under `--strict` each package is also built from its archive, which takes minutes.
pub(super) fn package(context: &mut Context) -> Result<Outcome> {
    let mut command = cargo();
    command.args(["package", "-q", "--locked", "--allow-dirty", "--workspace", "--exclude", "xtask"]);
    // Compiles the files of its neighbour, and is for this repository's tests alone.
    command.args(["--exclude", "darts-cuda-emulator"]);
    // Cargo takes packages of one name, version and target folder for the same, and would build those of an earlier run.
    let folder = tempfile::Builder::new().prefix("package-").tempdir_in(target_dir())?;
    if context.strict {
        command.arg("--target-dir").arg(folder.path());
    } else {
        command.arg("--no-verify");
    }
    output(&mut command)?;
    Ok(Outcome::Passed)
}
