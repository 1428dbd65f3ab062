//! The same work in PyTorch, measured in turns with ours.
//!
//! Every measurement is a process of its own, so that its peak memory is that case's. The peer of a case is PyTorch's
//! fastest variant; one that fails, takes too long or computes something else than the default one is left out, and said
//! to be.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::cases::{self, CASES, Case};
use super::measure::{Measured, Settings};
use crate::workspace::{program, run as run_shown, target_dir, typed};

/// A measurement in PyTorch that takes longer is stopped (compiling a supernet can take very long).
const TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// One case, both sides.
pub(super) struct Comparison {
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

    /// Why variants were left out.
    pub(super) fn left_out(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().cloned()
    }

    /// Leaves out the variants that did not get the default one's first loss and gradient.
    fn leave_out_other_work(&mut self) {
        let Some((_, reference)) = self.peer.iter().find(|(variant, _)| *variant == "default").cloned() else { return };
        let name = self.name;
        self.peer.retain(|(variant, measured)| {
            let same = measured.same_work(&reference);
            if !same {
                let (found, expected) = (measured.first, reference.first);
                self.left_out.push(format!("{name}, {variant}: (loss, norm) {found:?}, not {expected:?}"));
            }
            same
        });
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
    pub(super) fn markdown(&self) -> String {
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
pub(super) const HEADER: &str = "\
| work | ours: median (spread) | PyTorch's best: median (spread) | ratio | peak memory, ours / PyTorch |
|---|---|---|---|---|";

/// Checks the PyTorch implementation on the golden files, then measures the wanted cases in turns.
///
/// # Errors
/// The implementation is out of tolerance, or our own side of a case fails.
pub(super) fn run(settings: &Settings, python: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Comparison>> {
    let check = || {
        let mut command = program(python);
        command.arg("bench/pytorch/check_golden.py");
        command
    };
    run_shown(&mut check())?;
    // On some CPUs the library gets gradients wrong in this layout: then it is no opponent, and the others are.
    let channels_last = run_shown(check().args(["--layout", "channels-last"]));
    if let Err(error) = &channels_last {
        eprintln!("left out: channels-last in every case: {error:#}");
    }
    println!("\n{HEADER}");
    let mut comparisons = Vec::new();
    for case in CASES.iter().filter(|case| wanted(case.name)) {
        let usable = |variant: &&str| *variant != "channels-last" || channels_last.is_ok();
        let variants = case.variants.iter().copied().filter(usable).collect();
        let comparison = compare(case, variants, settings, python)?;
        println!("{}", comparison.markdown());
        comparison.left_out().for_each(|reason| eprintln!("left out: {reason}"));
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

fn compare(case: &Case, mut variants: Vec<&'static str>, settings: &Settings, python: &Path) -> Result<Comparison> {
    let name = case.name;
    let mut comparison = Comparison { name, ours: Measured::default(), peer: Vec::new(), left_out: Vec::new() };
    for _ in 0..settings.rounds {
        comparison.ours.add(cases::measure(name, settings)?);
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
    comparison.leave_out_other_work();
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
pub(super) fn merge(path: &Path, comparisons: &[Comparison]) -> Result<()> {
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
        Measured { seconds: seconds.to_vec(), peak_bytes: 100, first: Some((2.0, norm)), ..Measured::default() }
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
    fn a_variant_that_does_other_work_is_no_peer() {
        let mut comparison = comparison("a", 1.0);
        comparison.peer[1].1.first = Some((2.0, 3.0));
        comparison.leave_out_other_work();
        assert_eq!(comparison.json().unwrap()["peer_variant"], "default");
        assert_eq!(comparison.left_out().count(), 1);
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
}
