//! Compiles the device code of darts-cuda, and the kernels of this crate's tests, with the host's C++ compiler.
//!
//! Every `.cu` file is a translation unit of its own, inside an anonymous namespace: as with nvcc, no name of one file
//! meets a name of another. Kernels register themselves in a table by static constructors, hence `whole-archive`. Objects
//! are kept by a hash of all that they are made of: a change of one kernel compiles that kernel.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

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
        .link_lib_modifier("+whole-archive");

    let mut headers: Vec<PathBuf> = files(&emulator.join("src"), &["h"]);
    let mut units = vec![emulator.join("src/emulator.cpp")];
    for folder in folders(&sources).into_iter().chain([emulator.join("tests")]) {
        headers.extend(files(&folder, &["cuh"]));
        units.extend(files(&folder, &["cu"]).iter().map(|path| unit(path, &out)));
        for path in files(&folder, &["cu", "cuh"]) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    // A new operation is entered in `kernels.rs`, a new test's kernel lies in `tests`.
    for path in [sources.join("kernels.rs"), sources.join("device"), emulator.join("src"), emulator.join("tests")] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    units.push(emulator.join("src/fake_driver.cpp"));
    let mut objects = objects(&build, &headers, units, &out);
    fake_driver(&build, &objects, &out);
    objects.pop();
    for object in objects {
        build.object(object);
    }
    build.compile("darts_cuda_kernels");
}

/// Links everything to a driver's library of its own, in a folder of its own.
fn fake_driver(build: &cc::Build, objects: &[PathBuf], out: &Path) {
    let folder = out.join("driver");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
    let mut command = build.get_compiler().to_command();
    // Its own emulator, not that of the program which loads it.
    command.args(["-shared", "-Wl,-Bsymbolic"]).args(objects).arg("-o").arg(folder.join("libcuda.so"));
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "the C++ compiler failed to link the fake driver");
    println!("cargo::rustc-env=DARTS_FAKE_DRIVER={}", folder.display());
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let mut paths: Vec<_> = read.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    entries(parent).into_iter().filter(|path| path.is_dir()).collect()
}

fn files(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let wanted = |path: &PathBuf| path.extension().is_some_and(|own| extensions.iter().any(|e| own == *e));
    entries(folder).into_iter().filter(wanted).collect()
}

/// Writes the translation unit of one `.cu` file.
fn unit(path: &Path, out: &Path) -> PathBuf {
    let name = |p: &Path| p.file_stem().expect("a file").to_string_lossy().into_owned();
    let unit = out.join(format!("{}_{}.cpp", name(path.parent().expect("a folder")), name(path)));
    let text = format!(
        "#include \"prelude.cuh\"\n#include \"mma.cuh\"\nnamespace {{\n#include \"{0}\"\n}}\n// {1:016x}\n",
        path.display(),
        hash(&[path.to_owned()])
    );
    if fs::read_to_string(&unit).is_ok_and(|old| old == text) {
        return unit;
    }
    fs::write(&unit, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", unit.display()));
    unit
}

/// The object of each unit, compiled where it is not there yet.
fn objects(build: &cc::Build, headers: &[PathBuf], units: Vec<PathBuf>, out: &Path) -> Vec<PathBuf> {
    let compiler = build.get_compiler();
    let mut common = DefaultHasher::new();
    (hash(headers), format!("{:?}", compiler.to_command())).hash(&mut common);
    let common = common.finish();
    let object = |unit: &PathBuf| {
        let name = unit.file_stem().expect("a file").to_string_lossy();
        out.join(format!("{name}-{:016x}.o", common ^ hash(std::slice::from_ref(unit))))
    };
    let objects: Vec<PathBuf> = units.iter().map(object).collect();
    let missing = units.into_iter().zip(objects.clone()).filter(|(_, object)| !object.exists()).collect::<Vec<_>>();
    let (work, failed) = (Mutex::new(missing), Mutex::new(Vec::new()));
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((unit, object)) = { work.lock().expect("no thread panics").pop() } {
                    // Under another name first: an interrupted build leaves no half-written object.
                    let partial = object.with_extension("partial");
                    let mut command = compiler.to_command();
                    let compiled = command.arg("-c").arg(&unit).arg("-o").arg(&partial).status();
                    if !(compiled.is_ok_and(|status| status.success()) && fs::rename(&partial, &object).is_ok()) {
                        failed.lock().expect("no thread panics").push(unit);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panicked");
    assert!(failed.is_empty(), "the C++ compiler failed on {failed:?}");
    objects
}

fn hash(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        let text = fs::read(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        (path, text).hash(&mut hasher);
    }
    hasher.finish()
}
