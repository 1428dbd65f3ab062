//! `cargo xtask fetch`: gets datasets into `DARTS_DATA`, else `datasets/`. How is darts-data's business; this shows it.

use std::env;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use darts_data::fetch::{FetchOptions, Fetched, Progress, fetch};
use darts_data::manifest::Manifest;
use indicatif::{ProgressBar, ProgressStyle};

use crate::imagenet;
use crate::workspace::root;

/// Without a terminal, a line for what was received at most this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Options of `cargo xtask fetch`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Datasets, or `all`; imagenet is only checked, for a person has to get it
    #[arg(required = true, value_name = "DATASET")]
    datasets: Vec<String>,
    /// Look only here: a folder that holds the archive or the unpacked dataset, or a URL
    #[arg(long, value_name = "DIR|URL")]
    from: Option<String>,
}

/// Gets the datasets, one after another.
///
/// # Errors
/// A dataset has no manifest, or cannot be had: the error says where it was looked for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let names: Vec<&str> = match args.datasets.as_slice() {
        [all] if all == "all" => Manifest::names().collect(),
        some => some.iter().map(String::as_str).collect(),
    };
    let (imagenet, others): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| *name == "imagenet");
    let manifests: Vec<Manifest> = others.into_iter().map(manifest).collect::<Result<_>>()?;
    for manifest in &manifests {
        get(manifest, &folder(None), args.from.as_deref())?;
    }
    match imagenet.first() {
        Some(_) => imagenet::verify(&args.from.as_ref().map_or_else(|| folder(None), PathBuf::from)),
        None => Ok(()),
    }
}

/// The folder where a dataset is: as it was named, or after it was downloaded.
///
/// # Errors
/// It cannot be had.
pub(crate) fn dataset(name: &str, data: Option<&Path>) -> Result<PathBuf> {
    let manifest = manifest(name)?;
    let folder = folder(data);
    if let Ok(found) = manifest.locate(&folder) {
        return Ok(found);
    }
    get(&manifest, &folder, None)
}

fn manifest(name: &str) -> Result<Manifest> {
    if !Manifest::names().any(|known| known == name) {
        bail!("no dataset {name}: there are {}, imagenet", Manifest::names().collect::<Vec<_>>().join(", "));
    }
    Ok(Manifest::named(name)?)
}

/// Where datasets are.
pub(crate) fn folder(typed: Option<&Path>) -> PathBuf {
    let typed = typed.map(Path::to_path_buf).or_else(|| env::var_os("DARTS_DATA").map(PathBuf::from));
    typed.unwrap_or_else(|| root().join("datasets"))
}

fn get(manifest: &Manifest, folder: &Path, from: Option<&str>) -> Result<PathBuf> {
    let mirror = env::var("DARTS_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    let options = FetchOptions { from: from.map(str::to_owned), mirror, ..FetchOptions::default() };
    let mut shown = Shown::new();
    let fetched = fetch(manifest, folder, &options, &mut |progress| shown.show(&progress));
    shown.clear();
    match fetched.with_context(|| format!("cannot fetch {}", manifest.name))? {
        Fetched::AlreadyThere(path) => {
            println!("{}: complete in {}", manifest.name, path.display());
            Ok(path)
        }
        Fetched::New(path) => {
            println!("{}: now in {}", manifest.name, path.display());
            Ok(path)
        }
    }
}

/// A bar on a terminal, lines elsewhere; on stderr.
struct Shown {
    bar: Option<ProgressBar>,
    last: Option<Instant>,
}

impl Shown {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::no_length();
            if let Ok(style) =
                ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, last: None }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::Trying { place } => self.line(&format!("from {place}")),
            Progress::Resuming { from } => self.line(&format!("going on after {from} bytes")),
            Progress::Restarting => self.line("the server does not continue downloads: from the beginning"),
            Progress::Retrying { reason } => self.line(&format!("{reason}; trying again")),
            Progress::Received { bytes, total } => self.received(*bytes, *total),
            Progress::Checking => self.line("checking the sha256"),
            Progress::Unchecked => self.line("no checksum is known: taken as it is"),
            Progress::SetAside { to } => self.line(&format!("what was incomplete is now {}", to.display())),
            _ => {}
        }
    }

    fn received(&mut self, bytes: u64, total: Option<u64>) {
        if let Some(bar) = &self.bar {
            total.inspect(|&total| bar.set_length(total));
            bar.set_position(bytes);
        } else if self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last = Some(Instant::now());
            let of = total.map_or_else(String::new, |total| format!(" of {:.1}", total as f64 / 1e6));
            eprintln!("{:.1}{of} MB", bytes as f64 / 1e6);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
