//! The convolutional golden files against this machine: single operations, the supernet, discrete networks.

use darts_cells::conv::{
    ConvNetwork, ConvOperation, ForwardInput, Gradients, LossConfig, NetworkConfig, SingleOperation, Statistics, Stem,
};
use darts_cells::genotype::ConvGenotype;
use darts_cells::parameters::Table;
use darts_cells::primitive::Primitive;
use darts_cells::relaxation::Relaxation;
use darts_cells::space::ConvSpace;

use super::VerifyError;
use super::compare::Tolerance;
use super::file::{Golden, four, to_channels_first, to_channels_last};

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
pub fn operations(mut golden: Golden) -> Result<super::FileReport, VerifyError> {
    let mut cases: Vec<String> =
        golden.names().iter().filter_map(|name| Some(name.strip_suffix("/input")?.to_owned())).collect();
    cases.dedup();
    for case in cases {
        operation(&mut golden, &case)?;
    }
    Ok(golden.finish())
}

fn operation(golden: &mut Golden, case: &str) -> Result<(), VerifyError> {
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
    let mut ws = operation.workspace(n);

    let output = operation.forward(&mut ws, &pass, Statistics::Running(&before));
    golden.compare(&key("output_eval"), &to_channels_first(output, shape_out), VALUES)?;
    let mut after = before;
    let output = operation.forward(&mut ws, &pass, Statistics::Batch { update: Some(&mut after) });
    golden.compare(&key("output"), &to_channels_first(output, shape_out), VALUES)?;
    let mut d_theta = vec![f32::NAN; theta.len()];
    let mut d_input = vec![f32::NAN; images.len()];
    let gradients = Gradients { theta: Some(&mut d_theta), weights: None, images: Some(&mut d_input) };
    operation.backward(&mut ws, &pass, &to_channels_last(&d_output), gradients);
    golden.compare(&key("grad_input"), &to_channels_first(&d_input, [n, h, w, c]), GRADIENTS)?;
    compare_table(golden, &key("grad"), operation.parameters(), &d_theta, GRADIENTS, |_| true)?;
    compare_table(golden, &key("state_after"), operation.statistics(), &after, VALUES, |_| true)
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
pub fn supernet(mut golden: Golden) -> Result<super::FileReport, VerifyError> {
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
    let mut statistics = load(golden_, "state", network.statistics())?;
    let pass = ForwardInput { images: &images, batch: n, theta: &theta, weights: &weights, active: None, masks: None };
    let mut ws = network.workspace(n);

    network.forward(&mut ws, &pass, Statistics::Batch { update: Some(&mut statistics) })?;
    golden_.compare("logits", network.logits(&ws), VALUES)?;
    let loss = network.loss(&mut ws, &labels, LossConfig::default())?.loss;
    golden_.compare("loss", &[loss as f32], VALUES)?;
    let mut d_theta = vec![f32::NAN; theta.len()];
    let mut d_weights = vec![f32::NAN; weights.len()];
    let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), images: None };
    network.backward(&mut ws, &pass, gradients)?;
    let mut d_alphas = vec![0.0; alphas.len()];
    Relaxation::Softmax.backward(&weights, &d_weights, columns, &mut d_alphas)?;
    let (d_normal, d_reduce) = d_alphas.split_at(alphas.len() / 2);
    golden_.compare("grad/alphas_normal", d_normal, GRADIENTS)?;
    golden_.compare("grad/alphas_reduce", d_reduce, GRADIENTS)?;
    compare_table(golden_, "grad", network.parameters(), &d_theta, GRADIENTS, |_| true)?;
    compare_table(golden_, "state_after", network.statistics(), &statistics, VALUES, |_| true)?;

    network.forward(&mut ws, &pass, Statistics::Running(&statistics))?;
    golden_.compare("logits_eval_after", network.logits(&ws), VALUES)?;
    Ok(golden.finish())
}

/// A discrete network: one training pass with gradients, one evaluation pass with the statistics from before.
pub fn discrete(mut golden: Golden, imagenet: bool) -> Result<super::FileReport, VerifyError> {
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
    let mut ws = network.workspace(n);

    network.forward(&mut ws, &evaluation, Statistics::Running(&before))?;
    golden_.compare("logits_eval", network.logits(&ws), VALUES)?;
    let mut after = before;
    network.forward(&mut ws, &training, Statistics::Batch { update: Some(&mut after) })?;
    golden_.compare("logits", network.logits(&ws), VALUES)?;
    if let Some(logits) = network.auxiliary_logits(&ws) {
        golden_.compare("logits_aux", logits, VALUES)?;
    }
    let loss = network.loss(&mut ws, &labels, loss_config)?.loss;
    golden_.compare("loss", &[loss as f32], VALUES)?;
    let mut d_theta = vec![f32::NAN; theta.len()];
    network.backward(&mut ws, &training, Gradients { theta: Some(&mut d_theta), ..Gradients::default() })?;
    let stored = |name: &str| !omitted.iter().any(|omitted| omitted == name);
    compare_table(golden_, "grad", network.parameters(), &d_theta, GRADIENTS, stored)?;
    compare_table(golden_, "state_after", network.statistics(), &after, VALUES, |_| true)?;
    Ok(golden.finish())
}
