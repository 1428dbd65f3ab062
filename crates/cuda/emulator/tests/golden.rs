//! All golden files, computed on the emulator through what `darts verify --device cuda` calls.

use std::path::PathBuf;

use darts_cuda_emulator::{Emulator, Order};
use darts_runs::verify::OnDevice;
use darts_runs::verify::folder::{Outcome, check_folder};

#[test]
fn emulator_meets_all_golden_files() {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/golden");
    let folder = std::env::var_os("DARTS_GOLDEN_DIR").map_or_else(|| PathBuf::from(own), PathBuf::from);
    let device = Emulator::new(Order::Forward);
    let mut failures = Vec::new();
    let mut each = |outcome: &Outcome| match outcome {
        Outcome::Checked(report) if !report.passed() => {
            failures.push(format!("{}: {:?}", report.path.display(), report.failures.first()));
        }
        Outcome::Failed { path, error } => failures.push(format!("{}: {error}", path.display())),
        _ => {}
    };
    let summary = check_folder(&folder, None, &OnDevice(&device), &mut each).unwrap();
    assert!(failures.is_empty(), "{failures:#?}");
    assert!(summary.values > 0 && summary.skipped == 0, "{summary}");
}
