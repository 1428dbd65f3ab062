//! The search: its state in device memory, and the program of a step.

use darts_cuda::vector::{self, FiniteDifference, Scalar};
use darts_cuda::{Backend, Memory as _, Precision, Program, Recording, View};

use super::memory::{Memory, Workspace};
use super::report::{DeviceReport, Numbers, Record};
use super::step::{adam_step, sgd_step};
use super::{DeviceGradients, DeviceProblem, Evaluation};
use crate::error::{Error, Quantity, StepError};
use crate::problem::Pass;
use crate::search::{SearchConfig, Strategy};
use crate::second_order::SecondOrder;
use crate::state;
use crate::step::Step;

/// The state of Algorithm 1 on one device. Every method that takes a device takes that one.
///
/// `B` says where a batch lies ([`DeviceProblem::Batch`]).
pub struct DeviceSearch<B> {
    config: SearchConfig,
    precision: Precision,
    memory: Memory,
    steps: u64,
    /// The steps that were met, by their training and validation batch.
    recordings: Vec<(B, B, Recording)>,
    /// The step that was launched and whose report was not read yet.
    launched: Option<Step>,
}

impl<B: Clone + PartialEq> DeviceSearch<B> {
    /// A search that starts from the weights `w` and the architecture `alpha`. Matrix products round their factors to `precision`,
    /// but for those of the finite difference, which are f32.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of range, [`Error::Device`] where there is no memory for the vectors.
    pub fn new(
        device: &dyn Backend,
        w: &[f32],
        alpha: &[f32],
        config: SearchConfig,
        precision: Precision,
    ) -> Result<Self, Error> {
        config.validate()?;
        let memory = Memory::new(device, w, alpha, &config)?;
        Ok(Self { config, precision, memory, steps: 0, recordings: Vec::new(), launched: None })
    }

    /// Bytes of device memory that a search over so many weights and architecture parameters takes, but for a few numbers.
    pub fn bytes(weights: usize, alphas: usize, config: &SearchConfig) -> u64 {
        let second_order = usize::from(config.strategy != Strategy::FirstOrder);
        let of_weights = 2 + usize::from(config.sgd.momentum != 0.0) + second_order;
        (4 * (weights * of_weights + alphas * (4 + 3 * second_order))) as u64
    }

    /// One step of Algorithm 1, α and then weights: [`launch`](Self::launch), then [`report`](Self::report).
    ///
    /// # Errors
    /// See [`StepError`].
    pub fn step<P: DeviceProblem<Batch = B> + ?Sized>(
        &mut self,
        device: &dyn Backend,
        problem: &P,
        train: &B,
        valid: &B,
        learning_rate: f64,
    ) -> Result<DeviceReport, StepError<P::Error>> {
        self.launch(device, problem, train, valid, learning_rate)?;
        self.report(device)
    }

    /// Asks the device for a step and does not wait for it. What the batches hold must have been uploaded before.
    ///
    /// # Errors
    /// [`StepError::NonFinite`] for a learning rate that is no number, [`StepError::Problem`], [`StepError::Device`].
    pub fn launch<P: DeviceProblem<Batch = B> + ?Sized>(
        &mut self,
        device: &dyn Backend,
        problem: &P,
        train: &B,
        valid: &B,
        learning_rate: f64,
    ) -> Result<(), StepError<P::Error>> {
        let step = Step { number: self.steps, learning_rate };
        step.finite(Quantity::LearningRate, Pass::Validation, learning_rate)?;
        let known = self.recordings.iter().position(|(t, v, _)| (t, v) == (train, valid));
        let index = match known {
            Some(index) => index,
            None => {
                let program = self.program(problem, train, valid)?;
                self.recordings.push((train.clone(), valid.clone(), device.record(&program)?));
                self.recordings.len() - 1
            }
        };
        device.upload(self.memory.record.learning_rate(), &[learning_rate])?;
        device.replay(&self.recordings[index].2)?;
        self.launched = Some(step);
        Ok(())
    }

    /// Waits for the step that was launched and says what it saw; it completes the step.
    ///
    /// What is not finite was not applied: of a step that fails, α keeps its bytes where its own half failed, and the weights keep
    /// theirs in any case.
    ///
    /// # Errors
    /// [`StepError::NonFinite`] for the first number that is none, [`StepError::Device`].
    ///
    /// # Panics
    /// If no step was launched.
    pub fn report<E: std::error::Error + 'static>(
        &mut self,
        device: &dyn Backend,
    ) -> Result<DeviceReport, StepError<E>> {
        let step = self.launched.take().expect("a step is launched before its report is read");
        let mut numbers = Numbers { record: self.memory.record, values: [0.0; Record::LEN] };
        device.download(self.memory.record.all, &mut numbers.values)?;
        let report = numbers.report(step, self.memory.second_order.is_some())?;
        self.steps += 1;
        Ok(report)
    }

    /// The program of a step on such batches.
    ///
    /// # Errors
    /// [`StepError::Problem`].
    pub fn program<P: DeviceProblem<Batch = B> + ?Sized>(
        &self,
        problem: &P,
        train: &B,
        valid: &B,
    ) -> Result<Program, StepError<P::Error>> {
        let mut layout = Layout { search: self, problem, train, valid, program: Program::default() };
        for (pass, batch) in [(Pass::Weight, train), (Pass::Validation, valid)] {
            let failed = |source| StepError::Problem { pass, step: self.steps, source };
            problem.prepare(&mut layout.program, batch).map_err(failed)?;
        }
        match (&self.config.strategy, self.memory.second_order) {
            (Strategy::SecondOrder(settings), Some(workspace)) => layout.second_order(settings, workspace)?,
            _ => layout.first_order()?,
        }
        layout.weight_step()?;
        Ok(layout.program)
    }

    /// The settings.
    pub fn config(&self) -> &SearchConfig {
        &self.config
    }

    /// The weights `w`, in device memory.
    pub fn weights(&self) -> View {
        self.memory.w
    }

    /// The architecture parameters `α`, in device memory.
    pub fn alphas(&self) -> View {
        self.memory.alpha
    }

    /// The weights' momentum buffer; none without momentum.
    pub fn momentum(&self) -> Option<View> {
        self.memory.momentum
    }

    /// The gradient that the last α step handed to Adam, without L2; zeros before the first.
    pub fn alpha_gradient(&self) -> View {
        self.memory.alpha_gradient
    }

    /// Of that gradient, `∇α L_val` alone, without the implicit term of the second order.
    pub fn direct_alpha_gradient(&self) -> View {
        self.memory.second_order.map_or(self.memory.alpha_gradient, |workspace| workspace.direct)
    }

    /// Steps completed.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Every vector of the state, read back: those of [`Search`](crate::Search), under the same names and in the same order.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn vectors(&self, device: &dyn Backend) -> Result<Vec<(&'static str, Vec<f32>)>, Error> {
        self.memory.vectors().into_iter().map(|(name, view)| Ok((name, device.downloaded(view)?))).collect()
    }

    /// Every counter of the state, as those.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn counters(&self, device: &dyn Backend) -> Result<Vec<(&'static str, u64)>, Error> {
        let mut adam = [0];
        device.download(self.memory.adam.steps, &mut adam)?;
        Ok(vec![("search.steps", self.steps), ("adam.steps", adam[0])])
    }

    /// Puts a saved state in place of the present one, whether it was saved here or by [`Search`](crate::Search).
    ///
    /// # Errors
    /// As [`Stateful::restore`](crate::Stateful::restore), which changes nothing then, and [`Error::Device`].
    pub fn restore(
        &mut self,
        device: &dyn Backend,
        vectors: &[(&str, &[f32])],
        counters: &[(&str, u64)],
    ) -> Result<(), Error> {
        let own = self.memory.vectors();
        let lengths: Vec<_> = own.iter().map(|(name, view)| (*name, view.len)).collect();
        state::check(&lengths, &["search.steps", "adam.steps"], vectors, counters)?;
        for (name, view) in own {
            device.upload(view, state::find(vectors, name)?)?;
        }
        device.upload(self.memory.adam.steps, &[state::find(counters, "adam.steps")?])?;
        self.steps = state::find(counters, "search.steps")?;
        Ok(())
    }
}

/// A step as it is laid down.
struct Layout<'a, B, P: ?Sized> {
    search: &'a DeviceSearch<B>,
    problem: &'a P,
    train: &'a B,
    valid: &'a B,
    program: Program,
}

impl<B: Clone + PartialEq, P: DeviceProblem<Batch = B> + ?Sized> Layout<'_, B, P> {
    fn record(&self) -> Record {
        self.search.memory.record
    }

    fn evaluate(
        &mut self,
        (pass, second): (Pass, bool),
        w: View,
        gradients: DeviceGradients,
    ) -> Result<(), StepError<P::Error>> {
        let evaluation = Evaluation {
            pass,
            w,
            alpha: self.search.memory.alpha,
            gradients,
            precision: if pass == Pass::Perturbed { Precision::F32 } else { self.search.precision },
            results: self.record().results(pass, second),
        };
        let batch = if pass == Pass::Validation { self.valid } else { self.train };
        self.problem.lay_down(&mut self.program, &evaluation, batch).map_err(|source| StepError::Problem {
            pass,
            step: self.search.steps,
            source,
        })
    }

    /// Norm and clip coefficient of the gradient with respect to `w`.
    fn clip(&mut self, pass: Pass, limit: Option<f64>) {
        let (record, memory) = (self.record(), &self.search.memory);
        vector::norm2(&mut self.program, record.norm(pass), memory.gradient, memory.sums);
        vector::clip_coefficient(&mut self.program, record.clip(pass), record.norm(pass), limit);
    }

    /// `∇α L_val(w, α)`, and Adam's step.
    fn first_order(&mut self) -> Result<(), StepError<P::Error>> {
        let Memory { w, alpha_gradient, .. } = self.search.memory;
        let gradients = DeviceGradients { w: None, alpha: Some(alpha_gradient) };
        self.evaluate((Pass::Validation, false), w, gradients)?;
        self.adam(&[self.record().loss(Pass::Validation, false)]);
        Ok(())
    }

    /// The gradient through a virtual step of the weights, as `crate::second_order` has it, and Adam's step.
    fn second_order(&mut self, settings: &SecondOrder, workspace: Workspace) -> Result<(), StepError<P::Error>> {
        let Memory { w, momentum, gradient, alpha_gradient, .. } = self.search.memory;
        let Workspace { point, plus, minus, direct } = workspace;
        let record = self.record();
        let xi = settings.xi.map_or(Scalar::At(record.learning_rate()), Scalar::Constant);
        let of_weights = DeviceGradients { w: Some(gradient), alpha: None };

        self.evaluate((Pass::Virtual, false), w, of_weights)?;
        self.clip(Pass::Virtual, settings.clip_virtual);
        let virtual_clip = record.clip(Pass::Virtual);
        let step = sgd_step(self.search.config.sgd, virtual_clip, xi);
        vector::virtual_step(&mut self.program, point, w, momentum, gradient, step);

        self.evaluate((Pass::Validation, false), point, DeviceGradients { alpha: Some(direct), ..of_weights })?;
        self.clip(Pass::Validation, settings.clip_direction);
        let difference = FiniteDifference::at(record.finite_difference());
        let (norm, clip) = (record.norm(Pass::Validation), record.clip(Pass::Validation));
        vector::finite_difference(&mut self.program, difference, settings.radius, norm, clip, virtual_clip, xi);

        // Without a direction ε is infinite and the three factors are 0: both points are w itself, and nothing is added.
        for (second, factor, into) in [(false, difference.plus, plus), (true, difference.minus, minus)] {
            vector::perturb_from(&mut self.program, point, w, factor, gradient);
            self.evaluate((Pass::Perturbed, second), point, DeviceGradients { w: None, alpha: Some(into) })?;
        }
        vector::copy(&mut self.program, alpha_gradient, direct);
        vector::add_scaled_difference(&mut self.program, alpha_gradient, difference.factor, plus, minus);
        self.adam(&[
            record.loss(Pass::Virtual, false),
            record.norm(Pass::Virtual),
            record.loss(Pass::Validation, false),
            record.norm(Pass::Validation),
            record.loss(Pass::Perturbed, false),
            record.loss(Pass::Perturbed, true),
        ]);
        Ok(())
    }

    /// α's step, where its gradient and all of `witnesses` are finite.
    fn adam(&mut self, witnesses: &[View<f64>]) {
        let (memory, config) = (&self.search.memory, self.search.config.adam);
        let norm = memory.record.alpha_norm();
        vector::norm2(&mut self.program, norm, memory.alpha_gradient, memory.sums);
        vector::gate(&mut self.program, memory.alpha_gate, norm, witnesses);
        let step = adam_step(config, memory.alpha_gate);
        vector::adam(&mut self.program, memory.alpha, memory.adam, memory.alpha_gradient, step);
    }

    /// The weight half of a step, at the new α; not made where the α half failed.
    fn weight_step(&mut self) -> Result<(), StepError<P::Error>> {
        let Memory { w, momentum, gradient, alpha_gate, weight_gate, record, .. } = self.search.memory;
        self.evaluate((Pass::Weight, false), w, DeviceGradients { w: Some(gradient), alpha: None })?;
        self.clip(Pass::Weight, self.search.config.clip);
        let witnesses = [alpha_gate, record.loss(Pass::Weight, false)];
        vector::gate(&mut self.program, weight_gate, record.clip(Pass::Weight), &witnesses);
        let step = sgd_step(self.search.config.sgd, weight_gate, record.learning_rate());
        vector::sgd(&mut self.program, w, momentum, gradient, step);
        Ok(())
    }
}
