//! The golden optimizers: given gradients in, the parameters (and averages) after each step out.

use std::collections::BTreeSet;

use candle_core::Device;
use darts_bilevel::optimizer::{Adam, AdamConfig, AveragedSgd, AveragedSgdConfig, Sgd, SgdConfig};
use darts_ops::vector::Vector;
use serde::Deserialize;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};
use super::file::Golden;

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

/// Any of the optimizers, with one way to make a step.
enum Optimizer {
    Sgd(Sgd, f64),
    Adam(Adam),
    Averaged(AveragedSgd, f64),
}

impl Optimizer {
    fn new(name: &str, settings: &Settings, len: usize) -> Result<Self, String> {
        let (weight_decay, device) = (settings.weight_decay, &Device::Cpu);
        let missing = |key: &str| format!("setting \"{key}\" is missing");
        let failed = |error: darts_bilevel::Error| error.to_string();
        match name {
            "sgd" | "sgd_momentum" => {
                let config = SgdConfig { momentum: settings.momentum.unwrap_or(0.0), weight_decay };
                Ok(Self::Sgd(Sgd::new(config, len, device).map_err(failed)?, settings.lr))
            }
            "adam" | "adam_eps" => {
                let config = AdamConfig {
                    learning_rate: settings.lr,
                    betas: settings.betas.ok_or_else(|| missing("betas"))?,
                    epsilon: settings.eps.ok_or_else(|| missing("eps"))?,
                    weight_decay,
                };
                Ok(Self::Adam(Adam::new(config, len, device).map_err(failed)?))
            }
            "asgd" | "asgd_t0" => {
                if settings.lambd.is_some_and(|lambd| lambd != 0.0) {
                    return Err("lambd is not 0: averaged SGD here has a constant learning rate".to_owned());
                }
                let config = AveragedSgdConfig { weight_decay, start: settings.t0.ok_or_else(|| missing("t0"))? };
                Ok(Self::Averaged(AveragedSgd::new(config, len, device).map_err(failed)?, settings.lr))
            }
            _ => Err("not recognised: no such optimizer".to_owned()),
        }
    }

    fn step(&mut self, parameters: &mut Vector, gradient: &Vector) -> Result<(), darts_ops::vector::Error> {
        match self {
            Self::Sgd(sgd, lr) => sgd.step(parameters, gradient, 1.0, *lr),
            Self::Adam(adam) => adam.step(parameters, gradient),
            Self::Averaged(sgd, lr) => sgd.step(parameters, gradient, 1.0, *lr),
        }
    }
}

/// Checks an `optimizers*.safetensors`.
///
/// # Errors
/// A file that does not hold what its metadata says.
pub fn optimizers(mut golden: Golden) -> Result<FileReport, VerifyError> {
    let names: BTreeSet<String> =
        golden.names().iter().filter_map(|name| Some(name.split_once('/')?.0.to_owned())).collect();
    for name in &names {
        optimizer(&mut golden, name)?;
    }
    Ok(golden.finish())
}

fn optimizer(golden: &mut Golden, name: &str) -> Result<(), VerifyError> {
    let settings: Settings = golden.meta(name)?;
    let mut parameters = vector(golden, &format!("{name}/param"))?;
    let mut optimizer =
        Optimizer::new(name, &settings, parameters.len()).map_err(|e| golden.invalid(format!("{name}: {e}")))?;
    for i in 0..settings.steps {
        let gradient = vector(golden, &format!("{name}/grad{i}"))?;
        optimizer.step(&mut parameters, &gradient)?;
        golden.compare(&format!("{name}/param{i}"), &parameters.to_vec()?, OPTIMIZERS)?;
        if let Optimizer::Averaged(averaged, _) = &optimizer {
            golden.compare(&format!("{name}/averaged{i}"), &averaged.average().to_vec()?, OPTIMIZERS)?;
        }
    }
    Ok(())
}

fn vector(golden: &mut Golden, name: &str) -> Result<Vector, VerifyError> {
    Ok(Vector::from_vec(golden.tensor(name)?.data, &Device::Cpu)?)
}
