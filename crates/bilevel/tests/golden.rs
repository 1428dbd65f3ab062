//! Optimizers and schedules against golden values: every key of the files is compared, an unknown one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use candle_core::Device;
use darts_bilevel::optimizer::{Adam, AdamConfig, AveragedSgd, AveragedSgdConfig, Sgd, SgdConfig};
use darts_bilevel::schedule::{Cosine, DropPath, Exponential};
use darts_ops::vector::Vector;
use safetensors::SafeTensors;
use serde_json::Value;

/// Relative to the stored tensor's largest magnitude (float32 reaches 2.3e-7).
const OPTIMIZERS: f64 = 1e-6;

fn golden(name: &str) -> PathBuf {
    let folder = std::env::var_os("DARTS_GOLDEN_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"), PathBuf::from);
    folder.join(name)
}

/// One optimizer's tensors, by name within it, and which of them were used.
struct Case<'a> {
    name: &'a str,
    settings: Value,
    tensors: BTreeMap<String, Vec<f32>>,
    used: BTreeSet<String>,
}

impl Case<'_> {
    fn number(&self, key: &str) -> f64 {
        self.settings[key].as_f64().unwrap_or_else(|| panic!("{}: no number {key} in {}", self.name, self.settings))
    }

    fn vector(&mut self, key: &str) -> Vector {
        self.used.insert(key.to_owned());
        let values = self.tensors.get(key).unwrap_or_else(|| panic!("{}: no tensor {key}", self.name));
        Vector::from_slice(values, &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn compare(&mut self, key: &str, found: &Vector) {
        let expected = self.vector(key).to_vec().unwrap();
        let scale = expected.iter().fold(0.0f64, |m, &e| m.max(f64::from(e).abs()));
        for (i, (&f, &e)) in found.to_vec().unwrap().iter().zip(&expected).enumerate() {
            let error = (f64::from(f) - f64::from(e)).abs();
            assert!(error <= OPTIMIZERS * scale, "{}/{key}[{i}]: {f} instead of {e}", self.name);
        }
    }

    /// Steps through the file: `step` makes one step of the parameters and returns the average where there is one.
    fn run(&mut self, mut step: impl FnMut(&mut Vector, &Vector) -> Option<Vector>) {
        let mut parameters = self.vector("param");
        for i in 0..self.number("steps") as usize {
            let gradient = self.vector(&format!("grad{i}"));
            let average = step(&mut parameters, &gradient);
            self.compare(&format!("param{i}"), &parameters);
            if let Some(average) = average {
                self.compare(&format!("averaged{i}"), &average);
            }
        }
    }
}

#[test]
fn optimizers_match_golden() {
    let bytes = std::fs::read(golden("optimizers.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let settings = header.metadata().as_ref().expect("metadata");
    let mut tensors: BTreeMap<&str, BTreeMap<String, Vec<f32>>> = BTreeMap::new();
    for name in file.names() {
        let (case, key) = name.split_once('/').unwrap_or_else(|| panic!("unknown tensor {name}"));
        let data = file.tensor(name).unwrap().data();
        let values = data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        tensors.entry(case).or_default().insert(key.to_owned(), values);
    }
    assert_eq!(
        settings.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        tensors.keys().copied().collect::<BTreeSet<_>>()
    );
    for (name, tensors) in tensors {
        let mut case =
            Case { name, settings: serde_json::from_str(&settings[name]).unwrap(), tensors, used: BTreeSet::new() };
        run_case(&mut case);
        let all: BTreeSet<_> = case.tensors.keys().cloned().collect();
        assert_eq!(case.used, all, "{name}: not every tensor was compared");
    }
}

fn run_case(case: &mut Case<'_>) {
    let (len, device) = (case.vector("param").len(), Device::Cpu);
    let (lr, weight_decay) = (case.number("lr"), case.number("weight_decay"));
    match case.name {
        "sgd" | "sgd_momentum" => {
            let momentum = if case.name == "sgd" { 0.0 } else { case.number("momentum") };
            let mut sgd = Sgd::new(SgdConfig { momentum, weight_decay }, len, &device).unwrap();
            case.run(|w, g| {
                sgd.step(w, g, 1.0, lr).unwrap();
                None
            });
        }
        "adam" | "adam_eps" => {
            let beta = |i: usize| case.settings["betas"][i].as_f64().expect("two betas");
            let config =
                AdamConfig { learning_rate: lr, betas: (beta(0), beta(1)), epsilon: case.number("eps"), weight_decay };
            let mut adam = Adam::new(config, len, &device).unwrap();
            case.run(|w, g| {
                adam.step(w, g).unwrap();
                None
            });
        }
        "asgd" | "asgd_t0" => {
            assert_eq!(case.number("lambd"), 0.0, "{}: averaged SGD here has a constant rate", case.name);
            let config = AveragedSgdConfig { weight_decay, start: case.number("t0") as u64 };
            let mut averaged = AveragedSgd::new(config, len, &device).unwrap();
            case.run(|w, g| {
                averaged.step(w, g, 1.0, lr).unwrap();
                Some(averaged.average().try_clone().unwrap())
            });
        }
        other => panic!("unknown optimizer {other}"),
    }
}

#[test]
fn schedules_match_golden() {
    let text = std::fs::read_to_string(golden("schedules.json")).unwrap();
    let Value::Object(schedules) = serde_json::from_str(&text).unwrap() else { panic!("expected an object") };
    for (name, schedule) in &schedules {
        let number = |key: &str| schedule[key].as_f64().unwrap_or_else(|| panic!("{name}: no number {key}"));
        let count = |key: &str| schedule[key].as_u64().unwrap_or_else(|| panic!("{name}: no count {key}"));
        let at: Box<dyn Fn(u64) -> f64> = match name.as_str() {
            "cosine" => {
                let cosine = Cosine { initial: number("lr"), minimum: number("min"), epochs: count("epochs") };
                Box::new(move |epoch| cosine.at(epoch))
            }
            "cosine_to_zero" => {
                assert_eq!(number("min"), 0.0);
                let cosine = Cosine::to_zero(number("lr"), count("epochs"));
                Box::new(move |epoch| cosine.at(epoch))
            }
            "exponential" => {
                let decay = Exponential { initial: number("lr"), gamma: number("gamma") };
                Box::new(move |epoch| decay.at(epoch))
            }
            "drop_path" => {
                let drop = DropPath { maximum: number("max"), epochs: count("epochs") };
                Box::new(move |epoch| drop.at(epoch))
            }
            other => panic!("unknown schedule {other}"),
        };
        let values = schedule["values"].as_array().expect("values");
        assert!(!values.is_empty(), "{name}");
        for (epoch, value) in values.iter().enumerate() {
            let expected = value.as_f64().expect("a number");
            let found = at(epoch as u64);
            // f64 on both sides, a handful of roundings of numbers up to the first value.
            assert!((found - expected).abs() <= 1e-12 * largest(values), "{name}[{epoch}]: {found} for {expected}");
        }
    }
}

/// The largest magnitude of a list of numbers.
fn largest(values: &[Value]) -> f64 {
    values.iter().filter_map(Value::as_f64).fold(0.0, |m, v| m.max(v.abs()))
}
