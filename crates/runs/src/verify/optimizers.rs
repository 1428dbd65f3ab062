//! The golden optimizers: given gradients in, the parameters (and averages) after each step out.

use std::collections::BTreeSet;

use darts_bilevel::optimizer::{AdamConfig, AveragedSgdConfig, SgdConfig};
use serde::Deserialize;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};
use super::file::Golden;
use super::place::{Optimizer, Place};

/// float32 reaches 2.3e-7.
const OPTIMIZERS: Tolerance = Tolerance { group: "optimizers", relative: 1e-6 };

/// What an optimizer of a file is given by; each needs some of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    lr: f64,
    weight_decay: f64,
    steps: usize,
    momentum: Option<f64>,
    betas: Option<(f64, f64)>,
    eps: Option<f64>,
    t0: Option<u64>,
    lambd: Option<f64>,
}

/// The optimizer of that name with these settings.
fn configured(name: &str, settings: &Settings) -> Result<Optimizer, String> {
    let weight_decay = settings.weight_decay;
    let missing = |key: &str| format!("setting \"{key}\" is missing");
    match name {
        "sgd" | "sgd_momentum" => {
            let config = SgdConfig { momentum: settings.momentum.unwrap_or(0.0), weight_decay };
            Ok(Optimizer::Sgd(config, settings.lr))
        }
        "adam" | "adam_eps" => Ok(Optimizer::Adam(AdamConfig {
            learning_rate: settings.lr,
            betas: settings.betas.ok_or_else(|| missing("betas"))?,
            epsilon: settings.eps.ok_or_else(|| missing("eps"))?,
            weight_decay,
        })),
        "asgd" | "asgd_t0" => {
            if settings.lambd.is_some_and(|lambd| lambd != 0.0) {
                return Err("lambd is not 0: averaged SGD here has a constant learning rate".to_owned());
            }
            let config = AveragedSgdConfig { weight_decay, start: settings.t0.ok_or_else(|| missing("t0"))? };
            Ok(Optimizer::Averaged(config, settings.lr))
        }
        _ => Err("not recognised: no such optimizer".to_owned()),
    }
}

/// Checks an `optimizers*.safetensors`.
///
/// # Errors
/// A file that does not hold what its metadata says.
pub fn optimizers(mut golden: Golden, place: &dyn Place) -> Result<FileReport, VerifyError> {
    let names: BTreeSet<String> =
        golden.names().iter().filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
    for name in &names {
        optimizer(&mut golden, name, place)?;
    }
    Ok(golden.finish())
}

fn optimizer(golden: &mut Golden, name: &str, place: &dyn Place) -> Result<(), VerifyError> {
    let settings: Settings = golden.meta(name)?;
    let parameters = golden.tensor(&format!("{name}/param"))?.data;
    let gradients = (0..settings.steps)
        .map(|i| Ok(golden.tensor(&format!("{name}/grad{i}"))?.data))
        .collect::<Result<Vec<_>, VerifyError>>()?;
    let found = configured(name, &settings).and_then(|optimizer| place.optimize(optimizer, &parameters, &gradients));
    let found = found.map_err(|reason| golden.invalid(format!("{name}: {reason}")))?;
    for (i, (parameters, average)) in found.iter().enumerate() {
        golden.compare(&format!("{name}/param{i}"), parameters, OPTIMIZERS)?;
        if let Some(average) = average {
            golden.compare(&format!("{name}/averaged{i}"), average, OPTIMIZERS)?;
        }
    }
    Ok(())
}
