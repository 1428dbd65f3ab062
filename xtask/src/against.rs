//! The same work in PyTorch, measured in turns with ours: a virtual environment, bench/pytorch/bench.py, and what came of it.
//!
//! Every measurement is a process of its own, so that its peak memory is that case's. Which of our functions does a case's
//! work is the caller's knowledge: it gives a command that prints the line of JSON that bench.py prints. The peer of a case is
//! PyTorch's fastest variant; one that fails, takes too long or computes something else than the default one is left out,
//! and said to be.

use std::env;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::workspace::{output, program, root, run as run_shown, target_dir, typed};

/// A measurement in PyTorch that takes longer is stopped (compiling a supernet can take very long).
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Relative difference of the first step's loss and gradient norm up to which two variants do the same work.
const SAME_WORK: f64 = 0.05;

/// The cases of the comparison, and the variants of each in PyTorch, the default first.
pub(crate) const CASES: [(&str, &[&str]); 9] = [
    ("conv-search-weight-step", &LAYOUTS),
    ("conv-search-alpha-first", &LAYOUTS),
    ("conv-search-alpha-second", &LAYOUTS),
    ("conv-evaluation-step", &LAYOUTS),
    ("recurrent-search-weight-step", &["default", "compile"]),
    ("recurrent-search-alpha-second", &["default", "compile"]),
    ("recurrent-training-step", &["default", "compile"]),
    ("cifar-loader", &["default", "tensors"]),
    ("imagenet-loader", &["default"]),
];

const LAYOUTS: [&str; 3] = ["default", "channels-last", "compile"];

/// How much to measure.
pub(crate) struct Settings {
    /// Times that ours and each variant take turns.
    pub(crate) rounds: usize,
    /// Timed steps of a process.
    pub(crate) steps: usize,
    /// Threads of both sides; a loader's workers.
    pub(crate) threads: usize,
    /// Names of [`CASES`]; all where it is empty.
    pub(crate) cases: Vec<String>,
    /// Images in subfolders, for imagenet-loader: without them it is left out.
    pub(crate) images: Option<PathBuf>,
}

/// What the processes of one side came to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Measured {
    seconds: Vec<f64>,
    peak_bytes: u64,
    /// What of it was there before any work: libraries. 0 where the process does not say.
    imported_bytes: u64,
    /// Loss and gradient norm of the first step, where the case has them.
    first: Option<(f64, f64)>,
}

impl Measured {
    /// From the last line that a process printed.
    fn parse(text: &str) -> Result<Self> {
        let line = text.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(line).with_context(|| format!("expected a line of JSON, got `{line}`"))?;
        let seconds: Vec<f64> = value["seconds"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let (Some(peak_bytes), false) = (value["peak_bytes"].as_u64(), seconds.is_empty()) else {
            bail!("expected `seconds` and `peak_bytes`, got `{line}`");
        };
        let imported_bytes = value["imported_bytes"].as_u64().unwrap_or(0);
        let first = value["loss"].as_f64().zip(value["gradient_norm"].as_f64());
        Ok(Self { seconds, peak_bytes, imported_bytes, first })
    }

    fn add(&mut self, other: Self) {
        self.seconds.extend(other.seconds);
        self.peak_bytes = self.peak_bytes.max(other.peak_bytes);
        self.imported_bytes = self.imported_bytes.max(other.imported_bytes);
        self.first = self.first.or(other.first);
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * share).round() as usize]
    }

    /// Whether both started from the same numbers and got the same ones, as far as they tell.
    fn same_work(&self, other: &Self) -> bool {
        let near = |a: f64, b: f64| (a - b).abs() <= SAME_WORK * b.abs();
        match (self.first, other.first) {
            (Some(a), Some(b)) => near(a.0, b.0) && near(a.1, b.1),
            _ => true,
        }
    }
}

/// One case, both sides.
pub(crate) struct Comparison {
    name: &'static str,
    ours: Measured,
    /// By variant, those that count.
    peer: Vec<(&'static str, Measured)>,
    /// Variants that do not, and why.
    left_out: Vec<String>,
}

impl Comparison {
    fn best(&self) -> Option<&(&'static str, Measured)> {
        self.peer.iter().min_by(|a, b| a.1.median().total_cmp(&b.1.median()))
    }

    /// The entry of docs/benchmarks.json; nothing where no variant counts.
    fn json(&self) -> Option<Value> {
        let (variant, peer) = self.best()?;
        let spread = |side: &Measured| json!([side.quantile(0.0), side.quantile(1.0)]);
        let medians: serde_json::Map<_, _> =
            self.peer.iter().map(|(v, m)| ((*v).to_owned(), m.median().into())).collect();
        Some(json!({
            "name": self.name,
            "ours_s": self.ours.median(),
            "peer_s": peer.median(),
            "ratio": peer.median() / self.ours.median(),
            "ours_bytes": self.ours.peak_bytes,
            "peer_bytes": peer.peak_bytes,
            "peer_imported_bytes": peer.imported_bytes,
            "peer_variant": variant,
            "peer_variants_s": medians,
            "ours_spread_s": spread(&self.ours),
            "peer_spread_s": spread(peer),
            "left_out": self.left_out,
        }))
    }

    /// The row of the table under [`HEADER`].
    pub(crate) fn markdown(&self) -> String {
        let Some((variant, peer)) = self.best() else {
            return format!("| {} | {} | – | – | – |", self.name, milliseconds(&self.ours));
        };
        format!(
            "| {} | {} | {} ({variant}) | {:.2} × | {:.2} / {:.2} GB |",
            self.name,
            milliseconds(&self.ours),
            milliseconds(peer),
            peer.median() / self.ours.median(),
            self.ours.peak_bytes as f64 / 1e9,
            peer.peak_bytes as f64 / 1e9,
        )
    }
}

/// Median, smallest and largest.
fn milliseconds(side: &Measured) -> String {
    let [median, least, most] = [0.5, 0.0, 1.0].map(|share| 1e3 * side.quantile(share));
    format!("{median:.1} ms ({least:.1}–{most:.1})")
}

/// The head of a table of comparisons.
pub(crate) const HEADER: &str = "\
| work | ours: median (spread) | PyTorch's best: median (spread) | ratio | peak memory, ours / PyTorch |
|---|---|---|---|---|";

/// Checks the PyTorch implementation on the golden files, then measures the cases in turns. `ours` gives the command that
/// does a case's work here with so many threads and steps, and prints `{"seconds": […], "peak_bytes": …}`; a case
/// that it gives none for is left out.
///
/// # Errors
/// There is no environment, the implementation is out of tolerance, or one of our commands fails.
pub(crate) fn run(settings: &Settings, ours: &dyn Fn(&str, &Settings) -> Option<Command>) -> Result<Vec<Comparison>> {
    let python = python()?;
    run_shown(program(&python).arg("bench/pytorch/check_golden.py"))?;
    // On some CPUs the library gets gradients wrong in this layout: then it is no opponent, and the others are.
    let channels_last =
        run_shown(program(&python).args(["bench/pytorch/check_golden.py", "--layout", "channels-last"]));
    if let Err(error) = &channels_last {
        eprintln!("left out: channels-last in every case: {error:#}");
    }
    println!("\n{HEADER}");
    let mut comparisons = Vec::new();
    for (name, variants) in CASES {
        let wanted = settings.cases.is_empty() || settings.cases.iter().any(|case| case == name);
        if !wanted || (name == "imagenet-loader" && settings.images.is_none()) || ours(name, settings).is_none() {
            continue;
        }
        let usable = |variant: &&str| *variant != "channels-last" || channels_last.is_ok();
        let variants = variants.iter().copied().filter(usable).collect();
        let comparison = compare(name, variants, settings, &python, ours)?;
        println!("{}", comparison.markdown());
        comparison.left_out.iter().for_each(|reason| eprintln!("left out: {reason}"));
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

fn compare(
    name: &'static str,
    mut variants: Vec<&'static str>,
    settings: &Settings,
    python: &Path,
    ours: &dyn Fn(&str, &Settings) -> Option<Command>,
) -> Result<Comparison> {
    let mut comparison = Comparison { name, ours: Measured::default(), peer: Vec::new(), left_out: Vec::new() };
    for _ in 0..settings.rounds {
        if let Some(mut command) = ours(name, settings) {
            comparison.ours.add(Measured::parse(&output(&mut command)?).with_context(|| typed(&command))?);
        }
        variants.retain(|&variant| {
            let result = limited(&mut peer_command(python, name, variant, settings), TIME_LIMIT);
            match result.and_then(|text| Measured::parse(&text)) {
                Ok(measured) => match comparison.peer.iter_mut().find(|(known, _)| *known == variant) {
                    Some((_, sum)) => sum.add(measured),
                    None => comparison.peer.push((variant, measured)),
                },
                Err(error) => {
                    comparison.left_out.push(format!("{name}, {variant}: {error:#}"));
                    comparison.peer.retain(|(known, _)| *known != variant);
                    return false;
                }
            }
            true
        });
    }
    if let Some(reference) = comparison.peer.iter().find(|(variant, _)| *variant == "default").cloned() {
        comparison.peer.retain(|(variant, measured)| {
            let same = measured.same_work(&reference.1);
            if !same {
                let (found, expected) = (measured.first, reference.1.first);
                comparison.left_out.push(format!("{name}, {variant}: (loss, norm) {found:?}, not {expected:?}"));
            }
            same
        });
    }
    Ok(comparison)
}

fn peer_command(python: &Path, name: &str, variant: &str, settings: &Settings) -> Command {
    let mut command = program(python);
    command.args(["bench/pytorch/bench.py", "--case", name, "--variant", variant]);
    command.args(["--threads", &settings.threads.to_string(), "--steps", &settings.steps.to_string()]);
    if let Some(images) = settings.images.as_ref().filter(|_| name == "imagenet-loader") {
        command.arg("--data").arg(images);
    }
    // Compiled code is found again in the next round.
    command.env("TORCHINDUCTOR_CACHE_DIR", target_dir().join("pytorch-inductor"));
    command
}

/// A Python that has PyTorch: the one that `DARTS_BENCH_PYTHON` names, else that of target/pytorch-venv, which is made from
/// bench/pytorch/requirements.txt where it is missing or those changed.
///
/// # Errors
/// There is no `python3`, or the requirements cannot be installed.
fn python() -> Result<PathBuf> {
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

/// What `command` prints on stdout, if it ends well and in time; its stderr is shown.
fn limited(command: &mut Command, limit: Duration) -> Result<String> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", typed(command)))?;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("stopped after {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    };
    if !status.success() {
        bail!("failed ({status})");
    }
    // One line of JSON fits a pipe: nothing blocks while nobody reads.
    let mut text = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut text)?;
    }
    Ok(text)
}

/// Replaces the entries of these comparisons in a list like docs/benchmarks.json and keeps the others.
///
/// # Errors
/// The file is there but holds no list, or cannot be written.
pub(crate) fn merge(path: &Path, comparisons: &[Comparison]) -> Result<()> {
    let mut entries: Vec<Value> = match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).with_context(|| format!("{} holds no list of results", path.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    for entry in comparisons.iter().filter_map(Comparison::json) {
        match entries.iter_mut().find(|old| old["name"] == entry["name"]) {
            Some(old) => *old = entry,
            None => entries.push(entry),
        }
    }
    let text = serde_json::to_string_pretty(&entries).context("cannot format the results")? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(seconds: &[f64], norm: f64) -> Measured {
        Measured { seconds: seconds.to_vec(), peak_bytes: 100, imported_bytes: 0, first: Some((2.0, norm)) }
    }

    fn comparison(name: &'static str, ours: f64) -> Comparison {
        let peer =
            vec![("default", measured(&[9.0, 8.0, 7.0], 1.0)), ("channels-last", measured(&[4.0, 5.0, 6.0], 1.0))];
        Comparison { name, ours: measured(&[ours], 1.0), peer, left_out: Vec::new() }
    }

    #[test]
    fn the_peer_is_the_fastest_variant() {
        let entry = comparison("a", 2.5).json().unwrap();
        assert_eq!(entry["peer_variant"], "channels-last");
        assert_eq!((entry["peer_s"].as_f64(), entry["ratio"].as_f64()), (Some(5.0), Some(2.0)));
    }

    #[test]
    fn a_variant_with_another_gradient_does_other_work() {
        assert!(measured(&[1.0], 1.001).same_work(&measured(&[1.0], 1.0)));
        assert!(!measured(&[1.0], 1.2).same_work(&measured(&[1.0], 1.0)));
        assert!(!measured(&[1.0], f64::NAN).same_work(&measured(&[1.0], 1.0)));
    }

    #[test]
    fn merging_replaces_entries_of_the_same_name_and_keeps_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("benchmarks.json");
        merge(&path, &[comparison("a", 1.0), comparison("b", 1.0)]).unwrap();
        merge(&path, &[comparison("b", 2.0)]).unwrap();
        let entries: Vec<Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let ours: Vec<_> = entries.iter().map(|e| (e["name"].as_str(), e["ours_s"].as_f64())).collect();
        assert_eq!(ours, [(Some("a"), Some(1.0)), (Some("b"), Some(2.0))]);
    }

    #[test]
    fn a_line_without_seconds_is_refused() {
        assert!(Measured::parse("{\"seconds\": [], \"peak_bytes\": 1}").is_err());
        let line = "chatter\n{\"seconds\": [0.5], \"peak_bytes\": 7, \"loss\": 1.0, \"gradient_norm\": 2.0}";
        let expected = Measured { seconds: vec![0.5], peak_bytes: 7, imported_bytes: 0, first: Some((1.0, 2.0)) };
        assert_eq!(Measured::parse(line).unwrap(), expected);
    }
}
