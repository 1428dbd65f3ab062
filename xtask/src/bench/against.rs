//! The same work in PyTorch, measured in turns with ours.
//!
//! Every measurement is a process of its own, so that its peak memory is that case's. The peer of a case is PyTorch's
//! fastest variant; one that fails, takes too long or computes something else than the default one is left out, and said
//! to be.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::cases::{self, CASES, Case};
use super::measure::{Measured, Settings};
use super::results::Entry;
use crate::workspace::{program, run as run_shown, target_dir, typed};

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

    /// The result; nothing where no variant counts.
    pub(super) fn entry(&self, machine: &str) -> Option<Entry> {
        let (variant, peer) = self.best()?;
        let spread = |side: &Measured| [side.quantile(0.0), side.quantile(1.0)];
        Some(Entry {
            name: self.name.to_owned(),
            ours_s: self.ours.median(),
            peer_s: peer.median(),
            ratio: peer.median() / self.ours.median(),
            ours_bytes: self.ours.peak_bytes,
            peer_bytes: peer.peak_bytes,
            peer_imported_bytes: peer.imported_bytes,
            peer_variant: (*variant).to_owned(),
            peer_variants_s: self.peer.iter().map(|(variant, m)| ((*variant).to_owned(), m.median())).collect(),
            ours_spread_s: spread(&self.ours),
            peer_spread_s: spread(peer),
            left_out: self.left_out.clone(),
            machine: machine.to_owned(),
        })
    }
}

/// Checks the PyTorch implementation on the golden files, then measures the wanted cases in turns. `done` is called after
/// each, so that a long measurement that is interrupted loses only the case under way.
///
/// # Errors
/// The implementation is out of tolerance, or our own side of a case fails.
pub(super) fn run(
    settings: &Settings,
    python: &Path,
    wanted: &dyn Fn(&str) -> bool,
    done: &mut dyn FnMut(&Comparison) -> Result<()>,
) -> Result<()> {
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
    for case in CASES.iter().filter(|case| wanted(case.name) && !case.variants.is_empty()) {
        let wanted = |variant: &str| settings.variants.is_empty() || settings.variants.iter().any(|v| v == variant);
        let usable = |variant: &&str| wanted(variant) && (*variant != "channels-last" || channels_last.is_ok());
        let variants = case.variants.iter().copied().filter(usable).collect();
        let comparison = compare(case, variants, settings, python)?;
        comparison.left_out.iter().for_each(|reason| eprintln!("left out: {reason}"));
        done(&comparison)?;
    }
    Ok(())
}

fn compare(case: &Case, mut variants: Vec<&'static str>, settings: &Settings, python: &Path) -> Result<Comparison> {
    let name = case.name;
    let mut comparison = Comparison { name, ours: Measured::default(), peer: Vec::new(), left_out: Vec::new() };
    for _ in 0..settings.rounds {
        comparison.ours.add(cases::measure(name, settings)?);
        variants.retain(|&variant| {
            let result = limited(&mut peer_command(python, name, variant, settings), settings.time_limit);
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
        let entry = comparison("a", 2.5).entry("m").unwrap();
        assert_eq!((entry.peer_variant.as_str(), entry.peer_s, entry.ratio), ("channels-last", 5.0, 2.0));
        assert_eq!(entry.peer_variants_s["default"], 8.0);
    }

    #[test]
    fn a_variant_that_does_other_work_is_no_peer() {
        let mut comparison = comparison("a", 1.0);
        comparison.peer[1].1.first = Some((2.0, 3.0));
        comparison.leave_out_other_work();
        let entry = comparison.entry("m").unwrap();
        assert_eq!((entry.peer_variant.as_str(), entry.left_out.len()), ("default", 1));
    }
}
