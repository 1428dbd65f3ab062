//! Checks of what is written about the code: paths in ARCHITECTURE.md, crate docs and READMEs, rustdoc, and the README's
//! own commands, which are run.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::suite::built;
use super::{Context, Outcome};
use crate::workspace::{output, program, root, run, target_dir};

/// The crates that people import: each has an example in its crate docs, one in its README, and one to run.
const LIBRARIES: [&str; 5] = ["ops", "cells", "bilevel", "data", "runs"];

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Every path that ARCHITECTURE.md names exists.
pub(super) fn architecture(_: &mut Context) -> Result<Outcome> {
    let text = read(&root().join("ARCHITECTURE.md"))?;
    let missing: Vec<&str> = paths(&text).into_iter().filter(|path| !root().join(path).exists()).collect();
    if !missing.is_empty() {
        bail!("ARCHITECTURE.md names paths that do not exist: {}", missing.join(", "));
    }
    Ok(Outcome::Passed)
}

/// What stands in backquotes and looks like a path: it has a slash and nothing but a path's characters.
fn paths(text: &str) -> Vec<&str> {
    let is_path = |word: &&str| {
        let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
        plain && word.contains('/') && !word.starts_with("runs/")
    };
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(is_path).collect()
}

/// Every source file says what it is for; every library shows how it is used.
pub(super) fn crates(_: &mut Context) -> Result<Outcome> {
    let mut wrong = Vec::new();
    for file in output(program("git").args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"]))?.lines()
    {
        if root().join(file).exists() && !read(&root().join(file))?.starts_with("//!") {
            wrong.push(format!("{file} does not open with //!"));
        }
    }
    for name in LIBRARIES {
        let folder = root().join("crates").join(name);
        let docs = read(&folder.join("src/lib.rs"))?;
        if !docs.lines().take_while(|line| line.starts_with("//!")).any(|line| line.starts_with("//! ```")) {
            wrong.push(format!("the crate docs of {name} have no example"));
        }
        if !read(&folder.join("README.md"))?.contains("```rust") {
            wrong.push(format!("the README of {name} has no example"));
        }
        if !folder.join("examples").is_dir() {
            wrong.push(format!("{name} has no examples/"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n  "));
    }
    Ok(Outcome::Passed)
}

/// `cargo doc`, warnings denied.
pub(super) fn rustdoc(_: &mut Context) -> Result<Outcome> {
    let mut command = crate::workspace::cargo();
    command.args(["doc", "-q", "--release", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
    run(command.env("RUSTDOCFLAGS", "-D warnings"))?;
    Ok(Outcome::Passed)
}

/// Runs the commands that the README shows with their output, except this check itself.
pub(super) fn readme(_: &mut Context) -> Result<Outcome> {
    let text = read(&root().join("README.md"))?;
    let commands = commands(&text);
    if commands.is_empty() {
        bail!("README.md shows no command in a ```console block");
    }
    for (index, command) in commands.iter().enumerate().filter(|(_, command)| **command != "cargo xtask check") {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["cargo", "xtask", task, rest @ ..] = words.as_slice() else {
            bail!("README.md shows `{command}`: only `cargo xtask` commands are run as a newcomer would");
        };
        // A fresh folder, so that no stage counts as done already.
        let out = target_dir().join(format!("check/readme-{index}"));
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("cannot empty {}", out.display()))?;
        }
        let start = Instant::now();
        output(program(built("xtask")).arg(task).args(rest).arg("--out").arg(&out).env("DARTS_BIN", built("darts")))
            .with_context(|| format!("README.md shows `{command}`"))?;
        let report = out.join("report.html");
        if !report.is_file() {
            bail!("`{command}` left no {}", report.display());
        }
        println!("  {command}: {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(Outcome::Passed)
}

/// The lines `$ command` of the ```console blocks.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::{commands, paths};

    #[test]
    fn paths_are_told_from_other_code() {
        let text =
            "see `crates/ops/src/arena.rs` and `a/b`, not `Vec<f32>`, `runs/x`, `cargo xtask` or `--data DIR/x y`";
        assert_eq!(paths(text), ["crates/ops/src/arena.rs", "a/b"]);
    }

    #[test]
    fn commands_come_from_console_blocks_only() {
        let text =
            "```console\n$ cargo xtask check\nok\n```\n```sh\n$ no\n```\n```console\n$ cargo xtask a --quick\n```\n";
        assert_eq!(commands(text), ["cargo xtask check", "cargo xtask a --quick"]);
    }
}
