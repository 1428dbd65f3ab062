//! docs/cuda-kernels.md says of every kernel what ptxas said: its registers, and that nothing spills.
//!
//! With UPDATE_EXPECT=1 the table is written anew, which is how a change of a kernel is taken in. Another nvcc than the
//! table's counts otherwise: then only spills and the list of kernels are compared.

#![cfg(feature = "cuda")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use darts_cuda::driver::{RESOURCES, Resources, toolkit};
use darts_cuda::kernels;

/// The architectures that the table has: the oldest one, and that of the H100.
const ARCHITECTURES: [u32; 2] = [80, 90];

const BEGIN: &str = "<!-- kernels: begin -->\n";
const END: &str = "<!-- kernels: end -->";

fn page() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cuda-kernels.md")
}

/// A kernel's resources on each of [`ARCHITECTURES`], where it was compiled for it.
fn by_kernel() -> BTreeMap<(&'static str, &'static str), [Option<Resources>; 2]> {
    let mut rows: BTreeMap<_, [Option<Resources>; 2]> = BTreeMap::new();
    for &resources in RESOURCES {
        let row = rows.entry((resources.operation, resources.kernel)).or_default();
        if let Some(column) = ARCHITECTURES.iter().position(|&architecture| architecture == resources.architecture) {
            row[column] = Some(resources);
        }
    }
    rows
}

fn table() -> String {
    let (major, minor) = toolkit();
    let mut text = format!(
        "nvcc of CUDA {major}.{minor}:\n\n| operation | kernel | threads | registers, 8.0 | 9.0 | spilled bytes, 8.0 | 9.0 |\n|---|---|---|---|---|---|---|\n"
    );
    for ((operation, kernel), [old, new]) in by_kernel() {
        let threads = kernels::all().find(|k| k.name == kernel).map_or(0, |kernel| kernel.threads);
        let number = |resources: Option<Resources>, of: fn(Resources) -> u32| {
            resources.map_or("–".into(), |resources| of(resources).to_string())
        };
        let [a, b] = [old, new].map(|resources| number(resources, |r| r.registers));
        let [c, d] = [old, new].map(|resources| number(resources, |r| r.spill_bytes));
        let _ = writeln!(text, "| {operation} | {kernel} | {threads} | {a} | {b} | {c} | {d} |");
    }
    text
}

#[test]
fn every_kernel_of_the_list_was_compiled_and_no_other() {
    let listed: Vec<&str> = {
        let mut names: Vec<_> = kernels::all().map(|kernel| kernel.name).collect();
        names.sort_unstable();
        names
    };
    let mut compiled: Vec<&str> = by_kernel().into_keys().map(|(_, kernel)| kernel).collect();
    compiled.sort_unstable();
    assert_eq!(compiled, listed);
}

#[test]
fn nothing_spills() {
    let spilling: Vec<_> = RESOURCES.iter().filter(|resources| resources.spill_bytes > 0).collect();
    assert!(spilling.is_empty(), "{spilling:#?}");
}

#[test]
fn the_table_in_the_docs_is_what_the_compiler_says() {
    let text = fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the page has the mark before the table");
    let (old, after) = rest.split_once(END).expect("the page has the mark after the table");
    let new = table();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(page(), format!("{before}{BEGIN}{new}{END}{after}")).unwrap();
        return;
    }
    if old.lines().next() != new.lines().next() || new.contains('–') {
        println!("not compared: the table is of another nvcc, or not every architecture was compiled for");
        return;
    }
    let differing: Vec<&str> = new.lines().filter(|line| !old.lines().any(|other| other == *line)).collect();
    assert!(
        old == new,
        "docs/cuda-kernels.md is not what nvcc says; UPDATE_EXPECT=1 with this test writes it anew:\n{}",
        differing.join("\n")
    );
}
