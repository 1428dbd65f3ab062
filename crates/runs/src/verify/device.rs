//! A device of darts-cuda as a place that computes golden results. Every pass has its buffers for itself: they stay as long as
//! the device does.

use darts_cells::conv::{
    ConvNetwork, ConvOperation, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceOperation, DeviceOperationPass,
    DeviceStatistics, ForwardInput, LossConfig as ConvLoss, OperationGradients,
};
use darts_cells::recurrent::{
    self, DeviceGradients, DevicePass, DeviceRecurrent, DeviceSequence, LossConfig, Mode, RecurrentNetwork,
};
use darts_cuda::{Backend, Memory as _, Precision, Program, View};

use super::VerifyError;
use super::place::{ConvResults, OperationResults, Place, RecurrentResults};

/// A device, as a place.
#[derive(Clone, Copy)]
pub struct OnDevice<'a>(pub &'a dyn Backend);

impl OnDevice<'_> {
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

impl Place for OnDevice<'_> {
    fn conv_evaluation(
        &self,
        network: &ConvNetwork,
        input: &ForwardInput,
        statistics: &[f32],
    ) -> Result<Vec<f32>, VerifyError> {
        let conv = DeviceConv::new(self.0, network.clone(), &[input.batch])?;
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
        let conv = DeviceConv::new(device, network.clone(), &[input.batch])?;
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
