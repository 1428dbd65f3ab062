//! The convolutional golden files against this machine: single operations, the supernet, discrete networks.

use darts_cells::conv::{ConvNetwork, ConvOperation, ForwardInput, LossConfig, NetworkConfig, SingleOperation, Stem};
use darts_cells::genotype::ConvGenotype;
use darts_cells::parameters::Table;
use darts_cells::primitive::Primitive;
use darts_cells::relaxation::Relaxation;
use darts_cells::space::ConvSpace;

use super::VerifyError;
use super::compare::Tolerance;
use super::file::{Golden, four, to_channels_first, to_channels_last};
use super::place::Place;

/// Outputs, logits, losses, norms, statistics, weights and α after a step.
pub(super) const VALUES: Tolerance = Tolerance { group: "values", relative: 2e-5 };
/// Gradients and momentum.
pub(super) const GRADIENTS: Tolerance = Tolerance { group: "gradients", relative: 5e-5 };

/// Reads `prefix/<name>` of every entry into a flat vector.
pub(super) fn load(golden: &mut Golden, prefix: &str, table: &Table) -> Result<Vec<f32>, VerifyError> {
    let mut flat = vec![0.0; table.len()];
    for entry in table.entries() {
        let name = format!("{prefix}/{}", entry.name);
        let tensor = golden.tensor(&name)?;
        if tensor.data.len() != entry.len() {
            return Err(golden.invalid(format!("tensor '{name}' is {:?}, expected {:?}", tensor.shape, entry.shape)));
        }
        flat[entry.range()].copy_from_slice(&tensor.data);
    }
    Ok(flat)
}

/// Compares `prefix/<name>` of every entry that `wanted` accepts with a flat vector.
pub(super) fn compare_table(
    golden: &mut Golden,
    prefix: &str,
    table: &Table,
    flat: &[f32],
    tolerance: Tolerance,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), VerifyError> {
    for entry in table.entries().iter().filter(|entry| wanted(&entry.name)) {
        golden.compare(&format!("{prefix}/{}", entry.name), &flat[entry.range()], tolerance)?;
    }
    Ok(())
}

/// Every operation × stride × affine that the file holds.
pub fn operations(mut golden: Golden, place: &dyn Place) -> Result<super::FileReport, VerifyError> {
    let mut cases: Vec<String> =
        golden.names().iter().filter_map(|name| Some(name.strip_suffix("/input")?.to_owned())).collect();
    cases.dedup();
    for case in cases {
        operation(&mut golden, &case, place)?;
    }
    Ok(golden.finish())
}

fn operation(golden: &mut Golden, case: &str, place: &dyn Place) -> Result<(), VerifyError> {
    let unknown = || VerifyError::Invalid { path: case.into(), reason: "no such operation".to_owned() };
    let key = |leaf: &str| format!("{case}/{leaf}");
    let mut fields = case.split('/');
    let name = fields.next().ok_or_else(unknown)?;
    let mut stride = 1;
    let mut affine = false;
    for field in fields {
        match (field.strip_prefix("stride"), field.strip_prefix("affine")) {
            (Some(value), _) => stride = value.parse().map_err(|_| unknown())?,
            (_, Some(value)) => affine = value == "1",
            _ => return Err(unknown()),
        }
    }
    let input = golden.tensor(&key("input"))?;
    let d_output = golden.tensor(&key("grad_output"))?;
    let [n, c, h, w] = four(&input.shape);
    let c_out = four(&d_output.shape)[1];
    let kind = match name {
        "factorized_reduce" => SingleOperation::FactorizedReduce { c_out },
        "relu_conv_bn_1x1" => SingleOperation::ReluConvBn { c_out },
        name => SingleOperation::Candidate { primitive: Primitive::from_name(name)?, stride },
    };
    let operation = ConvOperation::new(kind, (h, w), c, affine)?;
    let theta = load(golden, &key("state"), operation.parameters())?;
    let before = load(golden, &key("state"), operation.statistics())?;
    let images = to_channels_last(&input);
    let pass = ForwardInput { images: &images, batch: n, theta: &theta, weights: &[], active: None, masks: None };
    let [h_out, w_out, c_out] = operation.output_shape();
    let shape_out = [n, h_out, w_out, c_out];

    let output = place.operation_evaluation(&operation, &pass, &before)?;
    golden.compare(&key("output_eval"), &to_channels_first(&output, shape_out), VALUES)?;
    let found = place.operation_training(&operation, &pass, &to_channels_last(&d_output), &before)?;
    golden.compare(&key("output"), &to_channels_first(&found.output, shape_out), VALUES)?;
    golden.compare(&key("grad_input"), &to_channels_first(&found.d_input, [n, h, w, c]), GRADIENTS)?;
    compare_table(golden, &key("grad"), operation.parameters(), &found.d_theta, GRADIENTS, |_| true)?;
    compare_table(golden, &key("state_after"), operation.statistics(), &found.statistics, VALUES, |_| true)
}

/// The search space and network that a file's metadata describes.
pub(super) fn search_network(golden: &mut Golden, input: &str) -> Result<ConvNetwork, VerifyError> {
    let primitives: Vec<String> = golden.meta("primitives")?;
    let primitives = primitives.iter().map(|name| Primitive::from_name(name)).collect::<Result<_, _>>()?;
    let space = ConvSpace { nodes: golden.meta("steps")?, primitives };
    if golden.meta::<usize>("multiplier")? != space.nodes {
        return Err(golden.invalid("multiplier is not the number of nodes: a cell's output concatenates all of them"));
    }
    let [_, _, h, w] = four(&golden.tensor(input)?.shape);
    let config = NetworkConfig {
        init_channels: golden.meta("init_channels")?,
        layers: golden.meta("layers")?,
        classes: golden.meta("classes")?,
        image: (h, w),
        stem: Stem::Cifar { multiplier: golden.meta("stem_multiplier")? },
        auxiliary: false,
    };
    Ok(ConvNetwork::supernet(&space, &config)?)
}

/// One training pass of the search network with all gradients, then an evaluation pass.
pub fn supernet(mut golden: Golden, place: &dyn Place) -> Result<super::FileReport, VerifyError> {
    let golden_ = &mut golden;
    let network = search_network(golden_, "input")?;
    let input = golden_.tensor("input")?;
    let labels = golden_.labels("target")?;
    let n = input.shape[0];
    let images = to_channels_last(&input);
    let normal = golden_.tensor("alphas_normal")?;
    let reduce = golden_.tensor("alphas_reduce")?;
    let columns = normal.shape[1];
    let alphas = [normal.data, reduce.data].concat();
    let mut weights = vec![0.0; alphas.len()];
    Relaxation::Softmax.forward(&alphas, columns, &mut weights)?;
    let theta = load(golden_, "state", network.parameters())?;
    let statistics = load(golden_, "state", network.statistics())?;
    let pass = ForwardInput { images: &images, batch: n, theta: &theta, weights: &weights, active: None, masks: None };

    let found = place.conv_training(&network, &pass, &labels, LossConfig::default(), &statistics)?;
    golden_.compare("logits", &found.logits, VALUES)?;
    golden_.compare("loss", &[found.loss as f32], VALUES)?;
    let mut d_alphas = vec![0.0; alphas.len()];
    Relaxation::Softmax.backward(&weights, &found.d_weights, columns, &mut d_alphas)?;
    let (d_normal, d_reduce) = d_alphas.split_at(alphas.len() / 2);
    golden_.compare("grad/alphas_normal", d_normal, GRADIENTS)?;
    golden_.compare("grad/alphas_reduce", d_reduce, GRADIENTS)?;
    compare_table(golden_, "grad", network.parameters(), &found.d_theta, GRADIENTS, |_| true)?;
    compare_table(golden_, "state_after", network.statistics(), &found.statistics, VALUES, |_| true)?;

    let logits = place.conv_evaluation(&network, &pass, &found.statistics)?;
    golden_.compare("logits_eval_after", &logits, VALUES)?;
    Ok(golden.finish())
}

/// A discrete network: one training pass with gradients, one evaluation pass with the statistics from before.
pub fn discrete(mut golden: Golden, imagenet: bool, place: &dyn Place) -> Result<super::FileReport, VerifyError> {
    let golden_ = &mut golden;
    let genotype: ConvGenotype = golden_.meta("genotype")?;
    let input = golden_.tensor("input")?;
    let labels = golden_.labels("target")?;
    let [n, _, h, w] = four(&input.shape);
    let stem = if imagenet { Stem::ImageNet } else { Stem::Cifar { multiplier: golden_.meta("stem_multiplier")? } };
    let config = NetworkConfig {
        init_channels: golden_.meta("init_channels")?,
        layers: golden_.meta("layers")?,
        classes: golden_.meta("classes")?,
        image: (h, w),
        stem,
        auxiliary: golden_.meta("auxiliary")?,
    };
    let loss_config = LossConfig {
        label_smoothing: golden_.meta("label_smoothing")?,
        auxiliary_weight: golden_.meta("auxiliary_weight")?,
    };
    let omitted: Vec<String> = golden_.meta("grad_omitted")?;
    let network = ConvNetwork::discrete(&genotype, &config)?;
    let theta = load(golden_, "state", network.parameters())?;
    let before = load(golden_, "state", network.statistics())?;
    let masks = if golden_.optional_meta::<f64>("drop_path_prob")?.is_some() {
        let mut masks = Vec::new();
        for (cell, position) in network.droppable() {
            masks.extend(golden_.tensor(&format!("mask/cells.{cell}.{position}"))?.data);
        }
        Some(masks)
    } else {
        None
    };
    let images = to_channels_last(&input);
    let evaluation = ForwardInput { images: &images, batch: n, theta: &theta, weights: &[], active: None, masks: None };
    let training = ForwardInput { masks: masks.as_deref(), ..evaluation };

    golden_.compare("logits_eval", &place.conv_evaluation(&network, &evaluation, &before)?, VALUES)?;
    let found = place.conv_training(&network, &training, &labels, loss_config, &before)?;
    golden_.compare("logits", &found.logits, VALUES)?;
    if let Some(logits) = &found.auxiliary {
        golden_.compare("logits_aux", logits, VALUES)?;
    }
    golden_.compare("loss", &[found.loss as f32], VALUES)?;
    let stored = |name: &str| !omitted.iter().any(|omitted| omitted == name);
    compare_table(golden_, "grad", network.parameters(), &found.d_theta, GRADIENTS, stored)?;
    compare_table(golden_, "state_after", network.statistics(), &found.statistics, VALUES, |_| true)?;
    Ok(golden.finish())
}
