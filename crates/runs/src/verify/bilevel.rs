//! The golden search steps against this machine: several steps of Algorithm 1 on a convolutional supernet, first and second
//! order. The problem and the search are those that a run uses.

use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{SearchConfig, SecondOrder, Strategy};
use darts_cells::conv::ConvNetwork;

use super::VerifyError;
use super::compare::{FileReport, Tolerance};
use super::conv::{GRADIENTS, VALUES, compare_table, load, search_network};
use super::file::{Golden, to_channels_last};
use super::place::{Labelled, Place, SearchResults, SearchStart};

/// The finite difference of the second order magnifies rounding: float32 reaches 2.4e-5.
const SECOND_ORDER: Tolerance = Tolerance { group: "second-order α gradients", relative: 2e-4 };

/// Images and classes of a file.
struct Batch {
    images: Vec<f32>,
    labels: Vec<u32>,
}

impl Batch {
    fn read(golden: &mut Golden, step: usize, split: &str) -> Result<Self, VerifyError> {
        Ok(Self {
            images: to_channels_last(&golden.tensor(&format!("step{step}/input_{split}"))?),
            labels: golden.labels(&format!("step{step}/target_{split}"))?,
        })
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled { images: &self.images, labels: &self.labels }
    }
}

/// Checks a `bilevel_conv_*.safetensors`.
///
/// # Errors
/// A file that does not hold what its metadata says.
pub fn conv(mut golden: Golden, place: &dyn Place) -> Result<FileReport, VerifyError> {
    let file = &mut golden;
    let network = search_network(file, "step0/input_train")?;
    let rates: Vec<f64> = file.meta("lrs")?;
    let kept: Vec<String> = file.meta("weights_kept")?;
    let order: u32 = file.meta("order")?;
    let batches = (0..rates.len())
        .map(|step| Ok((Batch::read(file, step, "train")?, Batch::read(file, step, "valid")?)))
        .collect::<Result<Vec<_>, VerifyError>>()?;
    let sizes = batches.iter().flat_map(|(train, valid)| [train.labels.len(), valid.labels.len()]).collect();

    let normal = file.tensor("alphas_normal")?;
    let reduce = file.tensor("alphas_reduce")?;
    let columns = *normal.shape.last().ok_or_else(|| file.invalid("alphas_normal is a scalar, expected a matrix"))?;
    let start = SearchStart {
        columns,
        batches: sizes,
        theta: load(file, "state", network.parameters())?,
        alphas: [normal.data, reduce.data].concat(),
        statistics: load(file, "state", network.statistics())?,
        config: config(file, order)?,
        network: network.clone(),
    };
    let mut search = place.conv_search(start).map_err(|reason| file.invalid(reason))?;

    for (step, ((train, valid), rate)) in batches.iter().zip(&rates).enumerate() {
        let found = search
            .step(train.labelled(), valid.labelled(), *rate)
            .map_err(|reason| file.invalid(format!("step {step} cannot be computed: {reason}")))?;
        let last = step + 1 == rates.len();
        compare_step(file, step, &found, &network, order)?;
        let wanted = |name: &str| last || kept.iter().any(|prefix| name.starts_with(prefix.as_str()));
        let table = network.parameters();
        compare_table(file, &format!("step{step}/after"), table, &found.theta, VALUES, wanted)?;
        if last {
            compare_table(file, &format!("step{step}/momentum"), table, &found.momentum, GRADIENTS, |_| true)?;
        }
    }
    Ok(golden.finish())
}

/// The search that the metadata describes.
fn config(file: &Golden, order: u32) -> Result<SearchConfig, VerifyError> {
    let strategy = match order {
        1 => Strategy::FirstOrder,
        2 => Strategy::SecondOrder(SecondOrder { radius: file.meta("hvp_r")?, ..SecondOrder::default() }),
        other => return Err(file.invalid(format!("order is {other}, expected 1 or 2"))),
    };
    Ok(SearchConfig {
        strategy,
        sgd: SgdConfig { momentum: file.meta("momentum")?, weight_decay: file.meta("weight_decay")? },
        clip: Some(file.meta("grad_clip")?),
        adam: AdamConfig {
            learning_rate: file.meta("arch_lr")?,
            betas: file.meta("arch_betas")?,
            epsilon: file.optional_meta("arch_eps")?.unwrap_or(1e-8),
            weight_decay: file.meta("arch_weight_decay")?,
        },
    })
}

/// Everything of a step but the weights and their momentum.
fn compare_step(
    file: &mut Golden,
    step: usize,
    found: &SearchResults,
    network: &ConvNetwork,
    order: u32,
) -> Result<(), VerifyError> {
    let key = |name: &str| format!("step{step}/{name}");
    let gradients = if order == 1 { GRADIENTS } else { SECOND_ORDER };
    compare_alphas(file, &key("grad"), &found.alpha_gradient, gradients)?;
    compare_alphas(file, &key("after"), &found.alphas, VALUES)?;
    file.compare(&key("train_loss"), &[found.report.train_loss as f32], VALUES)?;
    file.compare(&key("grad_norm"), &[found.report.grad_norm as f32], VALUES)?;
    compare_table(file, &key("running"), network.statistics(), &found.statistics, VALUES, |_| true)
}

fn compare_alphas(file: &mut Golden, prefix: &str, flat: &[f32], tolerance: Tolerance) -> Result<(), VerifyError> {
    let (normal, reduce) = flat.split_at(flat.len() / 2);
    file.compare(&format!("{prefix}/alphas_normal"), normal, tolerance)?;
    file.compare(&format!("{prefix}/alphas_reduce"), reduce, tolerance)
}
