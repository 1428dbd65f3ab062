//! The golden schedules: learning rates and path-dropout probabilities by epoch.

use std::collections::BTreeMap;
use std::path::Path;

use darts_bilevel::schedule::{Cosine, DropPath, Exponential};
use serde::Deserialize;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};
use super::file::read_json;

/// Both sides are f64 with a handful of roundings; the comparison is made in f32, where they may round apart.
const SCHEDULES: Tolerance = Tolerance { group: "schedules", relative: 2e-7 };

/// What the schedules of a file are given by; each needs some of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schedule {
    lr: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    gamma: Option<f64>,
    epochs: Option<u64>,
    values: Vec<f64>,
}

/// Checks a `schedules*.json`.
///
/// # Errors
/// A file that cannot be read or does not hold schedules.
pub fn schedules(path: &Path) -> Result<FileReport, VerifyError> {
    let file: BTreeMap<String, Schedule> = read_json(path)?;
    let mut report = FileReport::new(path);
    for (name, schedule) in &file {
        match schedule.function(name) {
            Ok(at) => {
                let found: Vec<f32> = (0..schedule.values.len()).map(|epoch| at(epoch as u64) as f32).collect();
                let expected: Vec<f32> = schedule.values.iter().map(|&value| value as f32).collect();
                report.compare(name, &found, &expected, SCHEDULES);
            }
            Err(reason) => report.fail(name, reason),
        }
    }
    Ok(report)
}

impl Schedule {
    /// The value by epoch, or what is wrong with the schedule.
    fn function(&self, name: &str) -> Result<Box<dyn Fn(u64) -> f64>, String> {
        let number = |key: &str, value: Option<f64>| value.ok_or_else(|| format!("\"{key}\" is missing"));
        let epochs = self.epochs.ok_or_else(|| "\"epochs\" is missing".to_owned())?;
        let lr = number("lr", self.lr);
        Ok(match name {
            "cosine" | "cosine_to_zero" => {
                let cosine = Cosine { initial: lr?, minimum: number("min", self.min)?, epochs };
                Box::new(move |epoch| cosine.at(epoch))
            }
            "exponential" => {
                let decay = Exponential { initial: lr?, gamma: number("gamma", self.gamma)? };
                Box::new(move |epoch| decay.at(epoch))
            }
            "drop_path" => {
                let drop = DropPath { maximum: number("max", self.max)?, epochs };
                Box::new(move |epoch| drop.at(epoch))
            }
            _ => return Err("not recognised: no such schedule".to_owned()),
        })
    }
}
