//! The list of kernels in Rust and the entries of the device code are the same.

#![cfg(unix)]

use std::collections::BTreeMap;

use darts_cuda::kernels;
use darts_cuda_emulator::entries;

#[test]
fn emulator_has_every_kernel_of_the_list_and_no_other() {
    let listed: BTreeMap<_, _> = kernels::all().map(|kernel| (kernel.name, kernel.threads)).collect();
    let tests = |name: &str| name.starts_with("planted_") || name.starts_with("test_");
    let compiled: BTreeMap<_, _> =
        entries().iter().map(|entry| (entry.name, entry.threads)).filter(|(name, _)| !tests(name)).collect();
    assert_eq!(compiled, listed);
}
