//! A device of darts-cuda as a place that computes golden results. Every pass has its buffers for itself: they stay as long as
//! the device does.

use darts_bilevel::device::{DeviceSearch, adam_step, sgd_step};
use darts_bilevel::optimizer::SgdConfig;
use darts_cells::conv::{
    ConvNetwork, ConvOperation, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceOperation,
    DeviceOperationPass, DeviceStatistics, ForwardInput, LossConfig as ConvLoss, OperationGradients,
};
use darts_cells::recurrent::{
    self, DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, LossConfig, Masks, Mode, RecurrentNetwork,
};
use darts_cuda::vector::{self, AdamState, AveragedState};
use darts_cuda::{Backend, Memory as _, Precision, Program, View};

use super::VerifyError;
use super::place::{
    ConvResults, ConvSearch, Labelled, LanguageResults, LanguageSearch, LanguageStart, OperationResults, Optimized,
    Optimizer, Place, RecurrentResults, SearchResults, SearchStart, Words,
};
use crate::language::LanguageState;
use crate::language::device::DeviceLanguage;
use crate::supernet::device::{DeviceImages, DeviceSupernet};

/// A device, as a place.
#[derive(Clone, Copy)]
pub struct OnDevice<'a>(pub &'a dyn Backend);

impl OnDevice<'_> {
    fn optimized(
        &self,
        optimizer: Optimizer,
        parameters: &[f32],
        gradients: &[Vec<f32>],
    ) -> darts_cuda::Result<Vec<Optimized>> {
        let (device, len) = (self.0, parameters.len());
        let w = device.uploaded(parameters)?;
        let gradient: View = device.allocate(len)?;
        let zeros = || device.uploaded(&vec![0.0f32; len]);
        let (steps, scratch) = (device.uploaded(&[0u64])?, device.allocate(2)?);
        let mut program = Program::default();
        let mut average = None;
        match optimizer {
            Optimizer::Sgd(config, rate) => {
                let buffer = if config.momentum == 0.0 { None } else { Some(zeros()?) };
                vector::sgd(&mut program, w, buffer, gradient, sgd_step(config, 1.0, rate));
            }
            Optimizer::Adam(config) => {
                let state = AdamState { first_moment: zeros()?, second_moment: zeros()?, steps, scratch };
                vector::adam(&mut program, w, state, gradient, adam_step(config, 1.0));
            }
            Optimizer::Averaged(config, rate) => {
                let view = device.uploaded(parameters)?;
                average = Some(view);
                let state = AveragedState { average: view, steps, scratch: scratch.slice(0..1) };
                let sgd = SgdConfig { momentum: 0.0, weight_decay: config.weight_decay };
                vector::averaged_sgd(&mut program, w, state, gradient, sgd_step(sgd, 1.0, rate), config.start);
            }
        }
        let mut results = Vec::with_capacity(gradients.len());
        for values in gradients {
            device.upload(gradient, values)?;
            device.run(&program)?;
            results.push((device.downloaded(w)?, average.map(|view| device.downloaded(view)).transpose()?));
        }
        Ok(results)
    }

    fn conv_pass(
        &self,
        input: &ForwardInput,
        labels: &[u32],
        loss: ConvLoss,
        statistics: DeviceStatistics,
        gradients: DeviceConvGradients,
    ) -> Result<DeviceConvPass, VerifyError> {
        Ok(DeviceConvPass {
            images: self.0.uploaded(input.images)?,
            labels: self.0.uploaded(labels)?,
            theta: self.0.uploaded(input.theta)?,
            weights: self.0.uploaded(input.weights)?,
            masks: input.masks.map(|masks| self.0.uploaded(masks)).transpose()?,
            statistics,
            loss,
            gradients,
            precision: Precision::F32,
        })
    }

    fn run_conv(&self, conv: &DeviceConv, pass: &DeviceConvPass, batch: usize) -> Result<f64, VerifyError> {
        let results: View<f64> = self.0.allocate(2)?;
        let mut program = Program::default();
        conv.lay_down(&mut program, batch, pass, results)?;
        self.0.run(&program)?;
        Ok(self.0.downloaded(results)?[0])
    }

    fn sequence(
        &self,
        network: &DeviceRecurrent,
        input: &recurrent::Input,
        targets: &[u32],
    ) -> Result<DeviceSequence, VerifyError> {
        let mut sequence = network.sequence(self.0)?;
        network.upload(self.0, &mut sequence, input.tokens, targets, &input.masks)?;
        Ok(sequence)
    }
}

/// A search of a supernet on a device.
struct SearchOnDevice<'a> {
    device: &'a dyn Backend,
    problem: DeviceSupernet,
    search: DeviceSearch<DeviceImages>,
}

impl ConvSearch for SearchOnDevice<'_> {
    fn step(&mut self, train: Labelled, valid: Labelled, learning_rate: f64) -> Result<SearchResults, String> {
        let device = self.device;
        let text = |e: darts_cuda::Error| e.to_string();
        let upload = |batch: Labelled| {
            Ok(DeviceImages { images: device.uploaded(batch.images)?, labels: device.uploaded(batch.labels)? })
        };
        let (train, valid) = (upload(train).map_err(text)?, upload(valid).map_err(text)?);
        let report = self.search.step(device, &self.problem, &train, &valid, learning_rate);
        let report = report.map_err(|e| e.to_string())?;
        let read = |view: View| device.downloaded(view).map_err(text);
        let theta = read(self.search.weights())?;
        Ok(SearchResults {
            report: report.step,
            alpha_gradient: read(self.search.alpha_gradient())?,
            alphas: read(self.search.alphas())?,
            momentum: self.search.momentum().map_or_else(|| Ok(vec![0.0; theta.len()]), read)?,
            theta,
            statistics: read(self.problem.statistics())?,
        })
    }
}

/// A search of a recurrent supernet on a device.
struct LanguageOnDevice<'a> {
    device: &'a dyn Backend,
    problem: DeviceLanguage,
    search: DeviceSearch<DeviceSequence>,
}

impl LanguageSearch for LanguageOnDevice<'_> {
    fn state(&self) -> Result<LanguageState, String> {
        let read = |view: View| self.device.downloaded(view).map_err(|e| e.to_string());
        let DeviceLanguage { train, valid, statistics, .. } = self.problem;
        Ok(LanguageState { train: read(train)?, valid: read(valid)?, statistics: read(statistics)? })
    }

    fn step(&mut self, train: &Words, valid: &Words, learning_rate: f64) -> Result<LanguageResults, String> {
        let (device, network) = (self.device, &self.problem.network);
        let send = |words: &Words| -> Result<DeviceSequence, String> {
            let mut sequence = network.sequence(device).map_err(|e| e.to_string())?;
            let sent = network.upload(device, &mut sequence, &words.tokens, &words.targets, &Masks::default());
            sent.map(|()| sequence).map_err(|e| e.to_string())
        };
        let (train, valid) = (send(train)?, send(valid)?);
        let report = self.search.step(device, &self.problem, &train, &valid, learning_rate);
        let report = report.map_err(|e| e.to_string())?;
        let read = |view: View| device.downloaded(view).map_err(|e| e.to_string());
        let state = self.state()?;
        Ok(LanguageResults {
            search: SearchResults {
                report: report.step,
                alpha_gradient: read(self.search.alpha_gradient())?,
                alphas: read(self.search.alphas())?,
                theta: read(self.search.weights())?,
                momentum: Vec::new(),
                statistics: state.statistics.clone(),
            },
            direct_alpha_gradient: read(self.search.direct_alpha_gradient())?,
            nll: report.measure,
            state,
        })
    }
}

impl Place for OnDevice<'_> {
    fn language_search<'a>(&'a self, start: LanguageStart) -> Result<Box<dyn LanguageSearch + 'a>, String> {
        let LanguageStart { network, columns, sizes, theta, alphas, statistics, config } = start;
        let problem = DeviceLanguage::new(self.0, network, columns, sizes, &statistics);
        let problem = problem.map_err(|e| e.to_string())?;
        let search = DeviceSearch::new(self.0, &theta, &alphas, config, Precision::F32).map_err(|e| e.to_string())?;
        Ok(Box::new(LanguageOnDevice { device: self.0, problem, search }))
    }

    fn conv_search<'a>(&'a self, start: SearchStart) -> Result<Box<dyn ConvSearch + 'a>, String> {
        let SearchStart { network, columns, batches, theta, alphas, statistics, config } = start;
        let problem = DeviceSupernet::new(self.0, DeviceConvPlan::new(network, &batches, &[]), columns, &statistics);
        let problem = problem.map_err(|e| e.to_string())?;
        let search = DeviceSearch::new(self.0, &theta, &alphas, config, Precision::F32).map_err(|e| e.to_string())?;
        Ok(Box::new(SearchOnDevice { device: self.0, problem, search }))
    }

    fn optimize(
        &self,
        optimizer: Optimizer,
        parameters: &[f32],
        gradients: &[Vec<f32>],
    ) -> Result<Vec<Optimized>, String> {
        self.optimized(optimizer, parameters, gradients).map_err(|e| e.to_string())
    }

    fn conv_evaluation(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError> {
        let conv = DeviceConv::new(self.0, DeviceConvPlan::new(network.clone(), &[input.batch], &[]))?;
        let labels = vec![0; input.batch];
        let statistics = DeviceStatistics::Running(self.0.uploaded(statistics)?);
        let pass = self.conv_pass(input, &labels, ConvLoss::default(), statistics, DeviceConvGradients::default())?;
        self.run_conv(&conv, &pass, input.batch)?;
        Ok(self.0.downloaded(conv.logits(input.batch))?)
    }

    fn conv_training(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        labels: &[u32],
        loss: ConvLoss,
        statistics: &[f32],
    ) -> Result<ConvResults, VerifyError> {
        let device = self.0;
        let conv = DeviceConv::new(device, DeviceConvPlan::new(network.clone(), &[input.batch], &[]))?;
        let (d_theta, d_weights) = (device.allocate(input.theta.len())?, device.allocate(input.weights.len())?);
        let running = device.uploaded(statistics)?;
        let statistics = DeviceStatistics::Batch { update: Some(running) };
        let weights = (!input.weights.is_empty()).then_some(d_weights);
        let gradients = DeviceConvGradients { theta: Some(d_theta), weights, images: None };
        let pass = self.conv_pass(input, labels, loss, statistics, gradients)?;
        let loss = self.run_conv(&conv, &pass, input.batch)?;
        Ok(ConvResults {
            logits: device.downloaded(conv.logits(input.batch))?,
            auxiliary: conv.auxiliary_logits(input.batch).map(|view| device.downloaded(view)).transpose()?,
            loss,
            d_theta: device.downloaded(d_theta)?,
            d_weights: device.downloaded(d_weights)?,
            statistics: device.downloaded(running)?,
        })
    }

    fn operation_evaluation(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError> {
        let device = self.0;
        let operation = DeviceOperation::new(device, operation.clone(), input.batch)?;
        let pass = DeviceOperationPass {
            input: device.uploaded(input.images)?,
            theta: device.uploaded(input.theta)?,
            statistics: DeviceStatistics::Running(device.uploaded(statistics)?),
            gradients: None,
        };
        let mut program = Program::default();
        operation.lay_down(&mut program, &pass)?;
        device.run(&program)?;
        Ok(device.downloaded(operation.output())?)
    }

    fn operation_training(
        &self,
        operation: &ConvOperation,
        input: &ForwardInput,
        d_output: &[f32],
        statistics: &[f32],
    ) -> Result<OperationResults, VerifyError> {
        let device = self.0;
        let operation = DeviceOperation::new(device, operation.clone(), input.batch)?;
        let running = device.uploaded(statistics)?;
        let gradients = OperationGradients {
            output: device.uploaded(d_output)?,
            theta: device.allocate(input.theta.len())?,
            input: device.allocate(input.images.len())?,
        };
        let pass = DeviceOperationPass {
            input: device.uploaded(input.images)?,
            theta: device.uploaded(input.theta)?,
            statistics: DeviceStatistics::Batch { update: Some(running) },
            gradients: Some(gradients),
        };
        let mut program = Program::default();
        operation.lay_down(&mut program, &pass)?;
        device.run(&program)?;
        Ok(OperationResults {
            output: device.downloaded(operation.output())?,
            d_theta: device.downloaded(gradients.theta)?,
            d_input: device.downloaded(gradients.input)?,
            statistics: device.downloaded(running)?,
        })
    }

    fn recurrent_evaluation(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        statistics: &[f32],
    ) -> Result<(Vec<f32>, Vec<f32>), VerifyError> {
        let device = self.0;
        let steps = input.tokens.len() / input.batch;
        let mut network = DeviceRecurrent::new(device, network.clone(), input.batch, steps, Mode::Inference)?;
        let sequence = self.sequence(&network, input, targets)?;
        let (hidden, theta) = (device.uploaded(input.hidden)?, device.uploaded(input.theta)?);
        let pass = DevicePass {
            theta,
            weights: device.uploaded(input.weights)?,
            hidden,
            next_hidden: Some(hidden),
            statistics: DeviceStatistics::Running(device.uploaded(statistics)?),
            loss: LossConfig::default(),
            gradients: DeviceGradients::default(),
            precision: Precision::F32,
        };
        network.evaluate(device, &sequence, &pass)?;
        let out = device.allocate(targets.len() * network.network().config().vocabulary)?;
        network.log_probabilities(device, theta, out)?;
        Ok((device.downloaded(out)?, device.downloaded(hidden)?))
    }

    fn recurrent_training(
        &self,
        network: &RecurrentNetwork,
        input: &recurrent::Input,
        targets: &[u32],
        loss: &LossConfig,
        statistics: &[f32],
    ) -> Result<RecurrentResults, VerifyError> {
        let device = self.0;
        let steps = input.tokens.len() / input.batch;
        let mut network = DeviceRecurrent::new(device, network.clone(), input.batch, steps, Mode::Training)?;
        let sequence = self.sequence(&network, input, targets)?;
        let (hidden, theta) = (device.uploaded(input.hidden)?, device.uploaded(input.theta)?);
        let running = device.uploaded(statistics)?;
        let (d_theta, d_weights) = (device.allocate(input.theta.len())?, device.allocate(input.weights.len())?);
        let d_hidden = device.allocate(input.hidden.len())?;
        let next = device.allocate(input.hidden.len())?;
        let gradients = DeviceGradients {
            theta: Some(d_theta),
            weights: (!input.weights.is_empty()).then_some(d_weights),
            hidden: Some(d_hidden),
        };
        let pass = DevicePass {
            theta,
            weights: device.uploaded(input.weights)?,
            hidden,
            next_hidden: Some(next),
            statistics: DeviceStatistics::Batch { update: (!statistics.is_empty()).then_some(running) },
            loss: *loss,
            gradients,
            precision: Precision::F32,
        };
        network.evaluate(device, &sequence, &pass)?;
        let out = device.allocate(targets.len() * network.network().config().vocabulary)?;
        network.log_probabilities(device, theta, out)?;
        Ok(RecurrentResults {
            log_probabilities: device.downloaded(out)?,
            hidden: device.downloaded(next)?,
            loss: network.loss(device)?,
            d_theta: device.downloaded(d_theta)?,
            d_weights: device.downloaded(d_weights)?,
            d_hidden: device.downloaded(d_hidden)?,
            statistics: device.downloaded(running)?,
        })
    }
}
