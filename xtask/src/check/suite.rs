//! The project's tests: doc tests, the examples (run, not only built), and everything else under nextest or cargo test.
//!
//! A test that cannot do its work here prints `SKIPPED: name: why` and passes. Under `--strict` that fails the check,
//! unless the line asks for `DARTS_DATA`: data sets cannot be had everywhere, tools can.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Context, Outcome};
use crate::workspace::{answers, cargo, last_lines, output, program, run, target_dir, typed};

/// Doc tests of every crate.
pub(super) fn documentation(_: &mut Context) -> Result<Outcome> {
    output(cargo().args(["test", "-q", "--release", "--locked", "--workspace", "--doc"]))?;
    Ok(Outcome::Passed)
}

/// Builds all examples and binaries, then runs every example in an empty folder, but for those that need a feature: a GPU's.
pub(super) fn examples(_: &mut Context) -> Result<Outcome> {
    run(cargo().args(["build", "-q", "--release", "--locked", "--workspace", "--examples", "--bins"]))?;
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let targets = metadata["packages"].as_array().into_iter().flatten().flat_map(|p| p["targets"].as_array());
    let free = |target: &&Value| target["required-features"].as_array().is_none_or(Vec::is_empty);
    let examples = targets.flatten().filter(|target| target["kind"][0] == "example").filter(free);
    for name in examples.filter_map(|target| target["name"].as_str()) {
        let folder = tempfile::tempdir().context("cannot make a folder to run an example in")?;
        let path = target_dir().join("release/examples").join(name);
        output(program(path).current_dir(folder.path())).with_context(|| format!("example {name}"))?;
        println!("  example {name} ran");
    }
    Ok(Outcome::Passed)
}

/// All other tests.
pub(super) fn all(context: &mut Context) -> Result<Outcome> {
    run(cargo().args(["build", "-q", "--release", "--locked", "--workspace", "--bins"]))?;
    let mut command = if answers(cargo().args(["nextest", "--version"])) { nextest() } else { libtest() };
    command.env("DARTS_BIN", built("darts")).env("XTASK_BIN", built("xtask"));
    let log = target_dir().join("check/tests.log");
    let succeeded = run_logged(&mut command, &log)?;
    let text = fs::read_to_string(&log).with_context(|| format!("cannot read {}", log.display()))?;
    if !succeeded {
        println!("{}", last_lines(&text, 200));
        bail!("`{}` failed; all of its output is in {}", typed(&command), log.display());
    }
    context.closing_lines = closing(&text);
    let skipped: Vec<&str> = text.lines().map(str::trim).filter(|line| must_run(line)).collect();
    if context.strict && !skipped.is_empty() {
        bail!("skipped under --strict:\n  {}", skipped.join("\n  "));
    }
    Ok(Outcome::Passed)
}

/// A program of this workspace that `cargo build --release` left. Not the running program's own path: cargo may have linked
/// that anew since it was started.
pub(super) fn built(name: &str) -> PathBuf {
    target_dir().join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

fn nextest() -> Command {
    let mut command = cargo();
    command.args(["nextest", "run", "--release", "--locked", "--workspace", "--no-fail-fast", "--hide-progress-bar"]);
    command.args(["--success-output", "immediate", "--failure-output", "immediate-final", "--color", "never"]);
    command
}

fn libtest() -> Command {
    let mut command = cargo();
    command.args(["test", "--release", "--locked", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    command.args(["--", "--show-output"]);
    command
}

/// Runs `command` with all it prints in the file `log`; shows the lines that a person waits for.
fn run_logged(command: &mut Command, log: &Path) -> Result<bool> {
    let folder = log.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", typed(command)))?;
    // The command's own ends of the pipe, which would keep it open for ever.
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("cannot read what the tests print")?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
        if is_worth_showing(&line) {
            println!("{line}");
        }
    }
    Ok(child.wait().context("cannot wait for the tests")?.success())
}

fn is_worth_showing(line: &str) -> bool {
    let line = line.trim_start();
    ["FAIL [", "SLOW [", "TIMEOUT [", "SKIPPED:", "error", "Starting "].iter().any(|start| line.starts_with(start))
}

/// The closing lines of the runner: nextest's summary alone where there is one (it shows those of every test's own process too).
fn closing(text: &str) -> Vec<String> {
    let starting = |start: &str| {
        let lines = text.lines().filter(|line| line.trim_start().starts_with(start));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let summary = starting("Summary [");
    if summary.is_empty() { starting("test result:") } else { summary }
}

fn must_run(line: &str) -> bool {
    line.starts_with("SKIPPED:") && !line.contains("DARTS_DATA")
}

#[cfg(test)]
mod tests {
    use super::{closing, must_run};

    #[test]
    fn closing_lines_of_both_runners_are_known() {
        let (result, pass) =
            ("test result: ok. 3 passed; 0 failed; 0 ignored", "        PASS [   0.004s] (1/2) xtask graph");
        let summary = "     Summary [   1.234s] 12 tests run: 12 passed, 0 skipped";
        assert_eq!(closing(&[pass, result, summary].join("\n")), [summary]);
        assert_eq!(closing(&[result, "running 3 tests", result].join("\n")), [result, result]);
    }

    #[test]
    fn a_test_may_skip_for_want_of_a_data_set_only() {
        assert!(must_run("SKIPPED: report renders: no chromium"));
        assert!(!must_run("SKIPPED: cifar records: set DARTS_DATA to where cifar-10-batches-bin/ is"));
    }
}
