//! Comparing results with golden values: relative to the stored tensor's largest magnitude, with the worst error of each
//! group kept for the table and the worst element of each failure for the message.

use std::path::{Path, PathBuf};

/// How far a result may be from the stored one, relative to the stored tensor's largest magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// What kind of result it is, as the table names it.
    pub group: &'static str,
    /// Largest accepted error.
    pub relative: f64,
}

/// A stored result that was not met.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Name of the tensor, or of the case.
    pub key: String,
    /// What is wrong, with the worst element.
    pub reason: String,
}

/// The worst error of one group of results.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupError {
    /// What kind of results.
    pub group: &'static str,
    /// Results compared.
    pub values: usize,
    /// Largest relative error.
    pub worst: f64,
    /// The tensor that had it.
    pub key: String,
    /// What was accepted.
    pub tolerance: f64,
}

/// What the check of one file came to.
#[derive(Clone, Debug)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Numbers compared.
    pub values: usize,
    /// Per kind of result, in the order they were met.
    pub groups: Vec<GroupError>,
    /// Everything that was out of tolerance, missing or not recognised.
    pub failures: Vec<Failure>,
}

impl FileReport {
    /// Nothing compared yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), values: 0, groups: Vec::new(), failures: Vec::new() }
    }

    /// Whether everything was as stored.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    /// Compares `actual` with `expected`: |a − e| ≤ tolerance · max|e| for each element, exactly where all e are 0.
    pub fn compare(&mut self, key: &str, actual: &[f32], expected: &[f32], tolerance: Tolerance) {
        self.values += expected.len();
        if actual.len() != expected.len() {
            let reason = format!("{} numbers, expected {}", actual.len(), expected.len());
            return self.fail(key, reason);
        }
        let scale = expected.iter().fold(0.0f64, |m, &e| m.max(f64::from(e.abs())));
        let error = |(&a, &e): (&f32, &f32)| {
            let difference = (f64::from(a) - f64::from(e)).abs();
            match (difference.is_nan(), difference == 0.0) {
                (true, _) => f64::INFINITY,
                (_, true) => 0.0,
                _ => difference / scale,
            }
        };
        let errors = actual.iter().zip(expected).map(error).enumerate();
        let worst = errors.fold((0, 0.0), |worst, (i, e)| if e > worst.1 { (i, e) } else { worst });
        let (index, error) = worst;
        self.note(key, expected.len(), error, tolerance);
        if error > tolerance.relative {
            let (a, e) = (actual[index], expected[index]);
            let relative = tolerance.relative;
            self.fail(
                key,
                format!("element {index} is {a:e}, expected {e:e}: error {error:.1e}, tolerance {relative:.0e}"),
            );
        }
    }

    fn note(&mut self, key: &str, values: usize, error: f64, tolerance: Tolerance) {
        let index = self.groups.iter().position(|g| g.group == tolerance.group).unwrap_or_else(|| {
            self.groups.push(GroupError {
                group: tolerance.group,
                values: 0,
                worst: 0.0,
                key: key.to_owned(),
                tolerance: tolerance.relative,
            });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        group.values += values;
        if error > group.worst {
            group.worst = error;
            key.clone_into(&mut group.key);
        }
    }

    /// Counts an exact comparison of something that is no tensor.
    pub fn exact(&mut self, key: &str, values: usize, difference: Option<String>) {
        self.values += values;
        self.note(key, values, 0.0, Tolerance { group: "exact", relative: 0.0 });
        if let Some(difference) = difference {
            self.fail(key, difference);
        }
    }

    /// Notes that something went wrong.
    pub fn fail(&mut self, key: &str, reason: String) {
        self.failures.push(Failure { key: key.to_owned(), reason });
    }

    /// Notes names that nothing understood.
    pub fn unrecognised(&mut self, names: Vec<String>) {
        for name in names {
            self.fail(&name, "not recognised: nothing in this program computes it".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance { group: "outputs", relative: 1e-5 };

    fn report(actual: &[f32], expected: &[f32]) -> FileReport {
        let mut report = FileReport::new(Path::new("x"));
        report.compare("key", actual, expected, TOLERANCE);
        report
    }

    #[test]
    fn error_is_relative_to_the_largest_stored_magnitude() {
        assert!(report(&[0.0005, 100.0], &[0.0, 100.0]).passed());
        assert!(!report(&[0.002, 100.0], &[0.0, 100.0]).passed());
    }

    #[test]
    fn zeros_must_be_met_exactly() {
        assert!(report(&[0.0, -0.0], &[0.0, 0.0]).passed());
        assert!(!report(&[1e-30, 0.0], &[0.0, 0.0]).passed());
    }

    #[test]
    fn nan_and_missing_elements_fail_and_are_named() {
        let report_nan = report(&[1.0, f32::NAN], &[1.0, 2.0]);
        assert!(report_nan.failures[0].reason.contains("element 1 is NaN"), "{:?}", report_nan.failures);
        assert!(!report(&[1.0], &[1.0, 2.0]).passed());
    }
}
