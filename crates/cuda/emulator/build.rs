//! Compiles the device code of darts-cuda, and the kernels of this crate's tests, with the host's C++ compiler.
//!
//! Every `.cu` file is a translation unit of its own, inside an anonymous namespace: as with nvcc, no name of one file
//! meets a name of another. Kernels register themselves in a table by static constructors, hence `whole-archive`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    let emulator = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let sources = emulator.parent().expect("the emulator lies in crates/cuda").join("src");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .flag("-Wall")
        .flag("-ffp-contract=off")
        .flag("-fno-exceptions")
        .flag("-fno-strict-aliasing")
        .flag("-Wno-unknown-pragmas")
        .flag_if_supported("-Wno-unused-function")
        .include(emulator.join("src"))
        .include(sources.join("device"))
        .link_lib_modifier("+whole-archive")
        .file(emulator.join("src/emulator.cpp"));
    let mut kernels = device_code(&sources);
    kernels.extend(device_files(&emulator.join("tests")));
    for path in kernels {
        build.file(unit(&path, &out));
        println!("cargo::rerun-if-changed={}", path.display());
    }
    for folder in [sources.clone(), emulator.join("src"), emulator.join("tests")] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    build.compile("darts_cuda_kernels");
}

/// The `.cu` files of all operations, in the order of their names.
fn device_code(sources: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in entries(sources).into_iter().filter(|path| path.is_dir()) {
        found.extend(device_files(&folder));
    }
    found
}

/// The `.cu` files of one folder.
fn device_files(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "cu")).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut paths: Vec<_> = read.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

/// Writes the translation unit of one `.cu` file.
fn unit(path: &Path, out: &Path) -> PathBuf {
    let name = |p: &Path| p.file_stem().expect("a file").to_string_lossy().into_owned();
    let unit = out.join(format!("{}_{}.cpp", name(path.parent().expect("a folder")), name(path)));
    let text =
        format!("#include \"prelude.cuh\"\n#include \"mma.cuh\"\nnamespace {{\n#include \"{}\"\n}}\n", path.display());
    fs::write(&unit, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", unit.display()));
    unit
}
