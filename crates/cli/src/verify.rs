//! `darts verify`: this build on this machine against the golden values, as a table of the worst errors.

use darts_runs::verify::folder::{self, Outcome};
use darts_runs::verify::{FileReport, Place, with_place};

use crate::args::{Family, VerifyArgs};
use crate::failure::{Result, failed, print};
use crate::meant;

/// Failures of one file that are told one by one.
const TOLD: usize = 10;

pub(crate) fn run(typed: &VerifyArgs) -> Result<()> {
    let only = typed.only.map(|family| match family {
        Family::Conv => folder::Family::Conv,
        Family::Imagenet => folder::Family::ImageNet,
        Family::Recurrent => folder::Family::Recurrent,
    });
    let dir = meant::golden(typed.golden.as_deref());
    // A reader that goes away ends the printing, not the check: its verdict is the exit status.
    let mut printed = Ok(());
    let mut each = |outcome: &Outcome| {
        if printed.is_ok() {
            printed = report(outcome);
        }
    };
    let check = |place: &dyn Place| {
        print(&format!("{:40} {:24} {:>9} {:>9} {:>9}", "file", "results", "values", "error", "accepted"))?;
        folder::check_folder(&dir, only, place, &mut each).map_err(failed)
    };
    let summary = with_place(typed.device.unwrap_or_default(), check).map_err(failed)??;
    if printed.is_ok() {
        printed = print(&summary.to_string());
    }
    match (summary.failed, summary.files + summary.skipped) {
        (0, 0) => Err(failed(format!("no golden file of this family in {}", dir.display()))),
        (0, _) => printed,
        (failures, _) => Err(failed(format!("{failures} of {} golden files are not met", summary.files))),
    }
}

fn report(outcome: &Outcome) -> Result<()> {
    let name = outcome.path().file_name().unwrap_or_default().to_string_lossy();
    match outcome {
        Outcome::Checked(report) => checked(&name, report),
        Outcome::Failed { error, .. } => print(&format!("{name:40} FAILED: {error}")),
        Outcome::Skipped { reason, .. } => print(&format!("{name:40} skipped: {reason}")),
        _ => Ok(()),
    }
}

fn checked(name: &str, report: &FileReport) -> Result<()> {
    for group in &report.groups {
        let (values, worst, tolerance) = (group.values, group.worst, group.tolerance);
        print(&format!("{name:40} {:24} {values:>9} {worst:>9.1e} {tolerance:>9.0e}", group.group))?;
    }
    for failure in report.failures.iter().take(TOLD) {
        print(&format!("{name:40} FAILED: {}: {}", failure.key, failure.reason))?;
    }
    match report.failures.len().saturating_sub(TOLD) {
        0 => Ok(()),
        more => print(&format!("{name:40} FAILED: and {more} more")),
    }
}
