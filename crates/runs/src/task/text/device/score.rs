//! Evaluation of a language model on a text on a device: the twin of [`Model::scores`](crate::task::text::score::Model::scores).

use darts_cells::recurrent::{
    DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, DeviceStatistics, LossConfig, Masks, Mode,
    RecurrentNetwork,
};
use darts_cuda::{Backend, Memory, Precision, Program, Recording, View};
use darts_data::text::Columns;

use super::clear;
use crate::engine::Watch;
use crate::error::Result;
use crate::task::Scores;

/// A text, and a network that reads it.
pub(crate) struct Scorer {
    columns: Columns,
    steps: usize,
    network: DeviceRecurrent,
    sequence: DeviceSequence,
    hidden: View,
    results: View<f64>,
    /// Programs, by the model and the length of the sequence.
    recordings: Vec<(Model, DeviceSequence, Recording)>,
}

/// All numbers of a network, in device memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) theta: View,
    /// Operation weights of a supernet; none for a discrete network.
    pub(crate) weights: View,
    /// Running statistics of a supernet; none for a discrete network.
    pub(crate) statistics: View,
    /// What the factors of matrix products are rounded to.
    pub(crate) precision: Precision,
}

impl Scorer {
    /// For all of `text`, in at most so many columns and in sequences of `steps`.
    pub(crate) fn new(
        device: &dyn Backend,
        network: &RecurrentNetwork,
        text: &[u32],
        columns: usize,
        steps: usize,
    ) -> Result<Self> {
        let columns = Columns::new(text, columns.min(text.len() / 2).max(1))?;
        let (batch, steps) = (columns.columns(), steps.min(columns.rows() - 1));
        let network = DeviceRecurrent::new(device, network.clone(), batch, steps, Mode::Inference)?;
        Ok(Self {
            sequence: network.sequence(device)?,
            hidden: device.allocate(batch * network.network().config().hidden)?,
            results: device.allocate(2)?,
            recordings: Vec::new(),
            columns,
            steps,
            network,
        })
    }

    /// Bytes of device memory that a scorer of `tokens` takes, but for a few numbers.
    pub(crate) fn bytes(network: &RecurrentNetwork, tokens: usize, columns: usize, steps: usize) -> u64 {
        let columns = columns.min(tokens / 2).max(1);
        let steps = steps.min((tokens / columns).saturating_sub(1)).max(1);
        DeviceRecurrent::bytes(network, columns, steps, Mode::Inference)
    }

    /// Scores, which `watch` is told of as `what`; None when it asked to stop.
    pub(crate) fn scores(
        &mut self,
        device: &dyn Backend,
        model: Model,
        what: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Option<Scores>> {
        let Self { columns, steps, network, sequence, hidden, results, recordings } = self;
        clear(device, *hidden)?;
        let (mut sum, mut tokens) = (0.0, 0);
        let of = (columns.rows() - 1) * columns.columns();
        for stretch in columns.evaluation(*steps) {
            network.upload(device, sequence, stretch.inputs, stretch.targets, &Masks::default())?;
            let known = recordings.iter().position(|(m, s, _)| (m, s) == (&model, sequence));
            let index = match known {
                Some(index) => index,
                None => {
                    let pass = DevicePass {
                        theta: model.theta,
                        weights: model.weights,
                        hidden: *hidden,
                        next_hidden: Some(*hidden),
                        statistics: DeviceStatistics::Running(model.statistics),
                        loss: LossConfig::default(),
                        gradients: DeviceGradients::default(),
                        precision: model.precision,
                    };
                    let mut program = Program::default();
                    network.lay_down(&mut program, sequence, &pass, *results)?;
                    recordings.push((model, *sequence, device.record(&program)?));
                    recordings.len() - 1
                }
            };
            device.replay(&recordings[index].2)?;
            let mut values = [0.0; 2];
            device.download(*results, &mut values)?;
            sum += values[1] * stretch.targets.len() as f64;
            tokens += stretch.targets.len();
            if watch.evaluating(what, tokens, of) {
                return Ok(None);
            }
        }
        let loss = sum / tokens as f64;
        Ok(Some(Scores { loss, perplexity: Some(loss.exp()), examples: tokens, ..Scores::default() }))
    }
}
