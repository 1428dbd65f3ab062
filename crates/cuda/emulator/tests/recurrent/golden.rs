//! Recurrent networks on the emulator against the golden files: one training pass with all gradients, one evaluation pass.

use std::path::{Path, PathBuf};

use darts_cells::genotype::RecurrentGenotype;
use darts_cells::parameters::Table;
use darts_cells::primitive::Activation;
use darts_cells::recurrent::{
    DeviceGradients, DevicePass, DeviceRecurrent, DeviceStatistics, LossConfig, Masks, Mode, RecurrentConfig,
    RecurrentNetwork,
};
use darts_cells::relaxation::Relaxation;
use darts_cells::space::RecurrentSpace;
use darts_cuda::{Memory, Precision, View};
use darts_cuda_emulator::{Order, TestDevice};
use safetensors::SafeTensors;
use serde_json::Value;

use crate::close;

/// A golden file.
struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    fn meta(&self, key: &str) -> Option<Value> {
        let (_, metadata) = SafeTensors::read_metadata(&self.bytes).unwrap();
        let text = metadata.metadata().as_ref()?.get(key)?;
        Some(serde_json::from_str(text).unwrap())
    }

    fn number(&self, key: &str) -> f64 {
        self.meta(key).unwrap().as_f64().unwrap()
    }

    fn floats(&self, key: &str) -> Vec<f32> {
        self.find(key).unwrap_or_else(|| panic!("{} has no {key}", self.name))
    }

    fn find(&self, key: &str) -> Option<Vec<f32>> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(key).ok()?;
        assert_eq!(tensor.dtype(), safetensors::Dtype::F32, "{key}");
        Some(tensor.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    fn words(&self, key: &str) -> Vec<u32> {
        let tensors = self.tensors();
        let tensor = tensors.tensor(key).unwrap();
        assert_eq!(tensor.dtype(), safetensors::Dtype::I64, "{key}");
        tensor.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes) as u32).collect()
    }

    /// All tensors of a table, one after the other.
    fn table(&self, prefix: &str, table: &Table) -> Vec<f32> {
        table.entries().iter().flat_map(|entry| self.floats(&format!("{prefix}/{}", entry.name))).collect()
    }
}

fn files() -> Vec<PathBuf> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/golden");
    let folder = std::env::var_os("DARTS_GOLDEN_DIR").map_or_else(|| PathBuf::from(own), PathBuf::from);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("rnn_") && name.ends_with(".safetensors")
    });
    files.sort();
    files
}

fn check(path: &Path) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let golden = Golden { bytes: std::fs::read(path).unwrap(), name };
    let config =
        RecurrentConfig { vocabulary: golden.number("ntoken") as usize, hidden: golden.number("nhid") as usize };
    let (network, operations) = match golden.meta("genotype") {
        Some(genotype) => {
            let genotype: RecurrentGenotype = serde_json::from_value(genotype).unwrap();
            (RecurrentNetwork::discrete(&genotype, &config).unwrap(), 1)
        }
        None => {
            let activations: Vec<Activation> = serde_json::from_value(golden.meta("primitives").unwrap()).unwrap();
            let space = RecurrentSpace { nodes: golden.number("steps") as usize, activations };
            (RecurrentNetwork::supernet(&space, &config).unwrap(), space.operations())
        }
    };
    // As the files' README has them.
    let search = network.operation_weights() > 0;
    let tolerance = if search { 1e-5 } else { 5e-6 };
    let compare =
        |key: &str, found: &[f32]| close(&format!("{} {key}", golden.name), found, &golden.floats(key), tolerance);

    let (tokens, targets) = (golden.words("input"), golden.words("target"));
    let steps = golden.tensors().tensor("input").unwrap().shape()[0];
    let batch = tokens.len() / steps;
    let alphas = golden.find("alphas").unwrap_or_default();
    let mut weights = vec![0.0; alphas.len()];
    Relaxation::Softmax.forward(&alphas, operations, &mut weights).unwrap();
    let mask = |name: &str| golden.find(&format!("mask/{name}"));
    let (x, h, rows) = (mask("x"), mask("h"), mask("embedding_rows"));
    let (embedding, output) = (mask("embedding_locked"), mask("output_locked"));
    let masks = Masks {
        x: x.as_deref(),
        h: h.as_deref(),
        embedding_locked: embedding.as_deref(),
        output_locked: output.as_deref(),
        embedding_rows: rows.as_deref(),
    };

    let device = TestDevice::new(Order::Forward);
    let up = |values: &[f32]| device.uploaded(values).unwrap();
    let down = |view: View| device.downloaded(view).unwrap();
    let room = |len| -> View { device.allocate(len).unwrap() };
    let theta = up(&golden.table("state", network.parameters()));
    let statistics = up(&golden.table("state", network.statistics()));
    let incoming = golden.floats("hidden");
    let (hidden, d_hidden, log_prob) = (up(&incoming), room(incoming.len()), room(tokens.len() * config.vocabulary));
    let (d_theta, d_weights) = (room(theta.len), room(weights.len()));

    let evaluation = DevicePass {
        theta,
        weights: up(&weights),
        hidden,
        next_hidden: Some(hidden),
        statistics: DeviceStatistics::Running(statistics),
        loss: LossConfig::default(),
        gradients: DeviceGradients::default(),
        precision: Precision::F32,
    };
    let mut inference = DeviceRecurrent::new(&device, network.clone(), batch, steps, Mode::Inference).unwrap();
    let mut sequence = inference.sequence(&device).unwrap();
    inference.upload(&device, &mut sequence, &tokens, &targets, &Masks::default()).unwrap();
    inference.evaluate(&device, &sequence, &evaluation).unwrap();
    inference.log_probabilities(&device, theta, log_prob).unwrap();
    compare("log_prob_eval", &down(log_prob));
    compare("hidden_next_eval", &down(hidden));

    device.upload(hidden, &incoming).unwrap();
    let loss = LossConfig {
        activation: golden.number("activation_regularization"),
        temporal: golden.number("temporal_activation_regularization"),
    };
    let training = DevicePass {
        statistics: DeviceStatistics::Batch { update: search.then_some(statistics) },
        loss,
        gradients: DeviceGradients {
            theta: Some(d_theta),
            weights: search.then_some(d_weights),
            hidden: Some(d_hidden),
        },
        ..evaluation
    };
    let mut network_on_device = DeviceRecurrent::new(&device, network, batch, steps, Mode::Training).unwrap();
    network_on_device.upload(&device, &mut sequence, &tokens, &targets, &masks).unwrap();
    network_on_device.evaluate(&device, &sequence, &training).unwrap();
    network_on_device.log_probabilities(&device, theta, log_prob).unwrap();
    let network = network_on_device.network();
    compare("log_prob", &down(log_prob));
    compare("hidden_next", &down(hidden));
    let loss = network_on_device.loss(&device).unwrap();
    compare("nll", &[loss.nll as f32]);
    compare("loss", &[loss.loss as f32]);
    compare("grad/hidden", &down(d_hidden));
    let d_theta = down(d_theta);
    for entry in network.parameters().entries() {
        compare(&format!("grad/{}", entry.name), &d_theta[entry.range()]);
    }
    let after = down(statistics);
    for entry in network.statistics().entries() {
        compare(&format!("state_after/{}", entry.name), &after[entry.range()]);
    }
    if search {
        let mut d_alphas = vec![f32::NAN; alphas.len()];
        Relaxation::Softmax.backward(&weights, &down(d_weights), operations, &mut d_alphas).unwrap();
        compare("grad/alphas", &d_alphas);
    }
}

#[test]
fn emulator_networks_match_golden() {
    let files = files();
    if files.is_empty() {
        println!("skipped: the folder of golden files has no rnn_*.safetensors");
    }
    files.iter().for_each(|path| check(path));
}
