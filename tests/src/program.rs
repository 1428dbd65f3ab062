//! What the end-to-end tests share: `darts` and `cargo xtask`, run as a person would run them.
//!
//! The binaries are those that `DARTS_BIN` and `XTASK_BIN` name, or else cargo's release builds, made now if need be.
//! Nothing here knows the crates behind them.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Arguments of a search on generated images that takes a second or two.
pub const SMALL_SEARCH: &[&str] = &[
    "search",
    "synthetic-images",
    "--image-size=8",
    "--train-images=96",
    "--test-images=16",
    "--batch-size=8",
    "--epochs=2",
    "--init-channels=4",
    "--layers=3",
    "--nodes=2",
];

/// Arguments of a search on generated text that takes a second or two.
pub const SMALL_TEXT_SEARCH: &[&str] = &[
    "search",
    "synthetic-text",
    "--train-tokens=400",
    "--valid-tokens=120",
    "--batch-size=8",
    "--bptt=9",
    "--epochs=2",
    "--units=12",
    "--nodes=3",
    "--dropout=0.2",
    "--dropout-words=0.1",
];

/// A small search of either kind of network.
pub const SMALL_SEARCHES: [&[&str]; 2] = [SMALL_SEARCH, SMALL_TEXT_SEARCH];

/// The `darts` under test.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_or_built("DARTS_BIN", "darts-cli", "darts"))
}

/// The program behind `cargo xtask`.
///
/// # Panics
/// If it cannot be built.
pub fn xtask_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| named_or_built("XTASK_BIN", "xtask", "xtask"))
}

/// What the environment names, else `package`'s binary, built beside the running test (which is in TARGET/release/deps/).
fn named_or_built(variable: &str, package: &str, name: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return PathBuf::from(path);
    }
    let test = env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("a test lies in TARGET/release/deps/");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "-q", "--release", "--locked", "-p", package]).env("CARGO_TARGET_DIR", target);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    assert!(output.status.success(), "{package} does not build: {}", String::from_utf8_lossy(&output.stderr));
    target.join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// `darts ARGUMENTS`, in an environment that says nothing about where data is.
pub fn darts<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    clean(binary(), arguments)
}

/// `cargo xtask ARGUMENTS` with the `darts` under test, in such an environment.
pub fn xtask<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = clean(xtask_binary(), arguments);
    command.env("DARTS_BIN", binary());
    command
}

fn clean<S: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    for variable in ["DARTS_DATA", "DARTS_MIRROR", "DARTS_GOLDEN_DIR", "DARTS_SIMD"] {
        command.env_remove(variable);
    }
    command
}

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit status; `None` after a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Checks that it ended well, and gives what it printed.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// Checks that it refused as a program should: with this exit status, in one to three lines that name each of `named`,
    /// and without the marks of a panic.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn expect_refusal(&self, code: i32, named: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines = self.stderr.lines().count();
        assert!((1..=3).contains(&lines), "{lines} lines on stderr: {}", self.stderr);
        for mark in ["panicked", "RUST_BACKTRACE", "stack backtrace", "bug in darts", "Os {", "Error {"] {
            assert!(!self.stderr.contains(mark), "{mark}: {}", self.stderr);
        }
        for name in named {
            assert!(self.stderr.contains(name), "{name:?} is not named: {}", self.stderr);
        }
    }
}

/// Runs `darts ARGUMENTS` to its end.
///
/// # Panics
/// If it cannot be started.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    darts(arguments).output().expect("the binary starts").into()
}

/// Starts `darts ARGUMENTS` with its output collected.
///
/// # Panics
/// If it cannot be started.
pub fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Child {
    darts(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// A small search on images into `out`, with more arguments.
pub fn small_search<'a>(out: &'a Path, more: &'a [&'a str]) -> Vec<&'a OsStr> {
    into_folder(SMALL_SEARCH, out, more)
}

/// A command line of `darts` with a run folder and more arguments.
pub fn into_folder<'a>(arguments: &'a [&'a str], out: &'a Path, more: &'a [&'a str]) -> Vec<&'a OsStr> {
    let words = arguments.iter().chain(more).chain(&["--out"]);
    words.map(OsStr::new).chain([out.as_os_str()]).collect()
}

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not within a minute.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not happen within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends `signal` (a name without SIG) to a child.
///
/// # Panics
/// If there is no `kill` to send it with.
pub fn signal(child: &Child, signal: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args(["-s", signal, &id]).status().expect("kill starts");
    assert!(status.success(), "kill -s {signal} {id}");
}

/// The files that the same seed makes the same, byte for byte.
pub const SAME_BYTES: [&str; 3] = ["genotype.json", "alphas.jsonl", "weights.safetensors"];

/// Checks that two runs left the same results.
///
/// # Panics
/// If a file is missing or differs.
#[track_caller]
pub fn assert_same_results(one: &Path, other: &Path) {
    for file in SAME_BYTES {
        let read =
            |dir: &Path| std::fs::read(dir.join(file)).unwrap_or_else(|e| panic!("{file} in {}: {e}", dir.display()));
        assert!(read(one) == read(other), "{file} differs between {} and {}", one.display(), other.display());
    }
}
