//! With the feature `cuda`: compiles the device code by nvcc, for every architecture that is supported, and notes what the
//! compiler says of each kernel's registers and spills. Without it: nothing.
//!
//! nvcc is taken from NVCC, CUDA_HOME, PATH, /usr/local/cuda, or the folder that `cargo xtask cuda-toolkit` makes.
//! CUDA_COMPUTE_CAP (`90`, or `80,90`) compiles for these architectures alone.

mod nvcc;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Compute capabilities that get code of their own. Later ones run the PTX of the last.
const ARCHITECTURES: &[&str] = &["80", "86", "89", "90"];

fn main() {
    for name in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // The device code, and the list that every new operation is entered in; not all of src, whose Rust changes more often.
    for path in ["build.rs", "nvcc.rs", "src/device", "src/kernels.rs"] {
        println!("cargo::rerun-if-changed={path}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    if let Err(message) = compile() {
        println!("cargo::error={message}");
        exit(1);
    }
}

fn compile() -> Result<(), String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo did not say where the crate is")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo did not say where to write")?);
    let nvcc::Nvcc { path: nvcc, version } = nvcc::find(root.ancestors().nth(2))?;
    let architectures = architectures()?;
    let sources = device_code(&root.join("src"))?;
    for (_, path) in &sources {
        for file in [path.clone()].into_iter().chain(headers_beside(path)?) {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    let logs: Vec<Mutex<Result<String, String>>> = sources.iter().map(|_| Mutex::new(Ok(String::new()))).collect();
    let next = AtomicUsize::new(0);
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1usize);
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(sources.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((operation, path)) = sources.get(index) else { break };
                    let log = run_nvcc(&nvcc, &architectures, &root, path, &fatbin(&out, operation, path));
                    if let Ok(mut slot) = logs[index].lock() {
                        *slot = log;
                    }
                }
            });
        }
    });
    let mut modules = String::from("pub(super) static MODULES: &[(&[&str], &[u8])] = &[\n");
    let mut resources = String::from("pub static RESOURCES: &[Resources] = &[\n");
    for ((operation, path), log) in sources.iter().zip(logs) {
        let log = log.into_inner().map_err(|_| "a compiler's thread panicked")??;
        let fatbin = fatbin(&out, operation, path);
        let (kernels, rows) = parse_resources(operation, &log)?;
        let _ = writeln!(modules, "    (&{kernels:?}, include_bytes!({:?})),", fatbin.display().to_string());
        resources.push_str(&rows);
    }
    let (major, minor) = version;
    let generated = format!(
        "/// Version of the nvcc that compiled the device code.\npub(super) const TOOLKIT: (u32, u32) = ({major}, {minor});\n\
         {modules}];\n/// What each kernel takes of a multiprocessor, by name and architecture.\n{resources}];\n"
    );
    fs::write(out.join("device_code.rs"), generated)
        .map_err(|error| format!("cannot write to {}: {error}", out.display()))
}

fn architectures() -> Result<Vec<String>, String> {
    let Some(chosen) = env::var("CUDA_COMPUTE_CAP").ok().filter(|text| !text.is_empty()) else {
        return Ok(ARCHITECTURES.iter().map(|&architecture| architecture.to_owned()).collect());
    };
    let chosen: Vec<String> = chosen.split(',').map(|text| text.trim().replace('.', "")).collect();
    match chosen.iter().find(|text| text.parse::<u32>().map_or(true, |number| number < 80)) {
        Some(wrong) => Err(format!("CUDA_COMPUTE_CAP: expected 80 or later, such as 90 or 80,90, got {wrong}")),
        None => Ok(chosen),
    }
}

/// The `.cu` files of each operation, with its name, in the order of their paths.
fn device_code(sources: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let mut found = Vec::new();
    for folder in entries(sources)?.into_iter().filter(|path| path.is_dir()) {
        let Some(name) = folder.file_name() else { continue };
        let files = entries(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "cu"));
        found.extend(files.map(|file| (name.to_string_lossy().into_owned(), file)));
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(|error| error.to_string())).collect()
}

/// Where the code of a source goes.
fn fatbin(out: &Path, operation: &str, source: &Path) -> PathBuf {
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    out.join(format!("{operation}_{name}.fatbin"))
}

/// The `.cuh` files in the folder of a source.
fn headers_beside(source: &Path) -> Result<Vec<PathBuf>, String> {
    let paths = entries(source.parent().unwrap_or(source))?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "cuh")).collect())
}

/// Compiles one file; returns what the compiler said.
fn run_nvcc(nvcc: &Path, architectures: &[String], root: &Path, source: &Path, to: &Path) -> Result<String, String> {
    let mut command = Command::new(nvcc);
    // Without contraction the device rounds as the emulator does; where a fused product is meant, it is written.
    command.args(["-std=c++17", "-O3", "--fmad=false", "-fatbin", "--threads", "0", "-Xptxas", "-v"]);
    for architecture in architectures {
        command.arg(format!("-gencode=arch=compute_{architecture},code=sm_{architecture}"));
    }
    if let Some(last) = architectures.last() {
        command.arg(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    }
    command.arg("-I").arg(root.join("src/device")).arg("-o").arg(to).arg(source);
    let output = command.output().map_err(|error| format!("cannot run {}: {error}", nvcc.display()))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if output.status.success() {
        return Ok(log);
    }
    for line in log.lines().filter(|line| !line.starts_with("ptxas info")) {
        println!("cargo::warning={line}");
    }
    Err(format!("nvcc failed on {}", source.display()))
}

/// From ptxas: `Compiling entry function 'K' for 'sm_80'`, `B bytes stack frame, S bytes spill stores, L bytes spill loads`,
/// `Used R registers`. Returns the names of the kernels, and the rows of the table of their resources.
fn parse_resources(operation: &str, log: &str) -> Result<(Vec<String>, String), String> {
    let number = |text: &str| text.split_whitespace().next_back().and_then(|word| word.parse::<u32>().ok());
    let mut rows = Vec::new();
    let mut entry: Option<(String, u32)> = None;
    let (mut own, mut spills) = (false, 0);
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let (name, rest) = rest.split_once('\'').ok_or("ptxas says its lines otherwise than expected")?;
            let architecture = rest.rsplit_once("sm_").and_then(|(_, rest)| rest.trim_end_matches('\'').parse().ok());
            entry = architecture.map(|architecture| (name.to_owned(), architecture));
            spills = 0;
        } else if let Some((_, function)) = line.split_once("Function properties for ") {
            own = entry.as_ref().is_some_and(|(name, _)| name == function.trim());
        } else if let (true, Some((before, _))) = (own, line.split_once(" bytes spill stores")) {
            let loads = line.split_once(" bytes spill loads").and_then(|(before, _)| number(before));
            spills = number(before).unwrap_or_default() + loads.unwrap_or_default();
        } else if let (Some((name, architecture)), Some((before, _))) = (&entry, line.split_once(" registers")) {
            let registers = number(before).ok_or("ptxas says its lines otherwise than expected")?;
            rows.push((name.clone(), *architecture, registers, spills));
            entry = None;
        }
    }
    rows.sort();
    let mut text = String::new();
    let mut kernels: Vec<String> = rows.iter().map(|row| row.0.clone()).collect();
    kernels.dedup();
    for (kernel, architecture, registers, spill_bytes) in rows {
        let _ = writeln!(
            text,
            "    Resources {{ operation: {operation:?}, kernel: {kernel:?}, architecture: {architecture}, \
             registers: {registers}, spill_bytes: {spill_bytes} }},"
        );
    }
    Ok((kernels, text))
}
