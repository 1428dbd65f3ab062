//! The weights of a training on a device and their optimizer: the twin of [`Weights`](crate::weights::Weights), with a step that is
//! one program.

use candle_core::Device as Processor;
use darts_bilevel::device::{DeviceGradients, DeviceProblem, Evaluation, sgd_step};
use darts_bilevel::optimizer::{NonMonotonic, SgdConfig};
use darts_bilevel::{Pass, Stateful};
use darts_cuda::vector::{self, AveragedState};
use darts_cuda::{Backend, Memory, Precision, Program, Recording, View};

use crate::checkpoint::State;
use crate::error::Result;
use crate::state::{self, Named};
use crate::weights::AverageAfter;

/// Numbers that a step writes down: loss and measure, norm of the gradient, clip coefficient, what closes the step, learning rate.
const NUMBERS: usize = 6;

/// What a step saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Report {
    pub(crate) loss: f64,
    /// What the problem wrote beside the loss.
    pub(crate) measure: f64,
    /// Before clipping.
    pub(crate) grad_norm: f64,
}

impl Report {
    /// Whether the step was applied.
    pub(crate) fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// Averaged SGD, and what decides when it takes over.
struct Averaging {
    trigger: NonMonotonic,
    state: AveragedState,
}

/// The whole of a training's learned state, in device memory.
pub(crate) struct DeviceWeights<B> {
    w: View,
    sgd: SgdConfig,
    clip: f64,
    precision: Precision,
    /// None without momentum.
    momentum: Option<View>,
    averaging: Option<Averaging>,
    steps: u64,
    gradient: View,
    sums: View<f64>,
    numbers: View<f64>,
    /// The steps that were met, by their batch and whether they average.
    recordings: Vec<(B, bool, Recording)>,
}

impl<B: Clone + PartialEq> DeviceWeights<B> {
    /// Weights `w` at the beginning of a training whose gradients are clipped at `clip`.
    pub(crate) fn new(
        device: &dyn Backend,
        w: &[f32],
        sgd: SgdConfig,
        average: Option<AverageAfter>,
        clip: f64,
        precision: Precision,
    ) -> Result<Self> {
        sgd.validate()?;
        let zeros = || device.uploaded(&vec![0.0f32; w.len()]);
        let averaging = match average {
            Some(AverageAfter { nonmono, epochs }) => Some(Averaging {
                trigger: NonMonotonic::new(nonmono, epochs, &Processor::Cpu)?,
                state: AveragedState { average: zeros()?, steps: device.uploaded(&[0])?, scratch: device.allocate(1)? },
            }),
            None => None,
        };
        Ok(Self {
            w: device.uploaded(w)?,
            sgd,
            clip,
            precision,
            momentum: if sgd.momentum == 0.0 { None } else { Some(zeros()?) },
            averaging,
            steps: 0,
            gradient: device.allocate(w.len())?,
            sums: device.allocate(vector::scratch_len(w.len()))?,
            numbers: device.allocate(NUMBERS)?,
            recordings: Vec::new(),
        })
    }

    /// Bytes of device memory that so many weights take, but for a few numbers.
    pub(crate) fn bytes(weights: usize, sgd: SgdConfig, averages: bool) -> u64 {
        let vectors = 2 + usize::from(sgd.momentum != 0.0) + usize::from(averages);
        (4 * weights * vectors) as u64
    }

    /// The weights that are evaluated and saved: the average, where there is one.
    pub(crate) fn evaluated(&self, device: &dyn Backend) -> Result<View> {
        let Some(Averaging { state, .. }) = &self.averaging else { return Ok(self.w) };
        let averaged = device.downloaded(state.steps)?[0] > 0;
        Ok(if averaged { state.average } else { self.w })
    }

    /// Steps done.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Asks the device for a step on `batch` and does not wait for it.
    pub(crate) fn launch<P: DeviceProblem<Batch = B, Error = darts_cells::Error>>(
        &mut self,
        device: &dyn Backend,
        problem: &P,
        batch: &B,
        learning_rate: f64,
    ) -> Result<()> {
        let averages = self.averaging.as_ref().is_some_and(|averaging| averaging.trigger.has_gone_off());
        let known = self.recordings.iter().position(|(b, a, _)| (b, a) == (batch, &averages));
        let index = match known {
            Some(index) => index,
            None => {
                let program = self.program(problem, batch, averages)?;
                self.recordings.push((batch.clone(), averages, device.record(&program)?));
                self.recordings.len() - 1
            }
        };
        device.upload(self.number(5), &[learning_rate])?;
        Ok(device.replay(&self.recordings[index].2)?)
    }

    /// Waits for the step that was launched; what is not finite was not applied.
    pub(crate) fn report(&mut self, device: &dyn Backend) -> Result<Report> {
        let mut numbers = [0.0; NUMBERS];
        device.download(self.numbers, &mut numbers)?;
        self.steps += 1;
        let [loss, measure, grad_norm, ..] = numbers;
        Ok(Report { loss, measure, grad_norm })
    }

    /// Takes in the validation loss of an epoch that is over.
    pub(crate) fn end_epoch(&mut self, valid_loss: Option<f64>) -> Result<()> {
        if let (Some(averaging), Some(loss)) = (&mut self.averaging, valid_loss) {
            averaging.trigger.observe(loss)?;
        }
        Ok(())
    }

    fn number(&self, index: usize) -> View<f64> {
        self.numbers.slice(index..index + 1)
    }

    fn program<P: DeviceProblem<Batch = B, Error = darts_cells::Error>>(
        &self,
        problem: &P,
        batch: &B,
        averages: bool,
    ) -> Result<Program> {
        let mut program = Program::default();
        problem.prepare(&mut program, batch)?;
        let evaluation = Evaluation {
            pass: Pass::Weight,
            w: self.w,
            alpha: View::none(),
            gradients: DeviceGradients { w: Some(self.gradient), alpha: None },
            precision: self.precision,
            results: self.numbers.slice(0..2),
        };
        problem.lay_down(&mut program, &evaluation, batch)?;
        let [loss, _, norm, clip, gate, rate] = [0, 1, 2, 3, 4, 5].map(|index| self.number(index));
        vector::norm2(&mut program, norm, self.gradient, self.sums);
        vector::clip_coefficient(&mut program, clip, norm, Some(self.clip));
        vector::gate(&mut program, gate, clip, &[loss]);
        let step = sgd_step(self.sgd, gate, rate);
        match &self.averaging {
            Some(Averaging { state, .. }) if averages => {
                vector::averaged_sgd(&mut program, self.w, *state, self.gradient, step, 0);
            }
            _ => vector::sgd(&mut program, self.w, self.momentum, self.gradient, step),
        }
        Ok(program)
    }

    /// The vectors of the state that are in device memory, under the names that they have on the processor.
    fn views(&self) -> (Vec<Named>, Vec<Named>) {
        let mut before = vec![("weights", self.w)];
        before.extend(self.momentum.map(|momentum| ("sgd.momentum", momentum)));
        let average = self.averaging.as_ref().map(|averaging| ("averaged_sgd.average", averaging.state.average));
        (before, average.into_iter().collect())
    }

    /// The state, with a task's, as a checkpoint of the processor has it.
    pub(crate) fn state(&self, device: &dyn Backend, task: &[Named]) -> Result<State> {
        let read = |views: &[Named]| -> Result<Vec<(&'static str, Vec<f32>)>> {
            views.iter().map(|&(name, view)| Ok((name, device.downloaded(view)?))).collect()
        };
        let (before, after) = self.views();
        let (mut vectors, mut counters) = (read(&before)?, vec![("steps", self.steps)]);
        if let Some(Averaging { trigger, state }) = &self.averaging {
            for (name, vector) in trigger.vectors() {
                vectors.push((name, vector.to_vec()?));
            }
            counters.extend(trigger.counters());
            counters.push(("averaged_sgd.steps", device.downloaded(state.steps)?[0]));
        }
        vectors.extend(read(&after)?);
        Ok(state::gather(vectors, counters, state::read_views(device, task)?))
    }

    /// Takes up a state, the task's part of it as well.
    ///
    /// # Errors
    /// A reason in words; nothing is changed then, unless the device failed.
    pub(crate) fn restore(
        &mut self,
        device: &dyn Backend,
        mut state: State,
        task: &[Named],
    ) -> std::result::Result<(), String> {
        let failed = |error: darts_cuda::Error| error.to_string();
        let of_task = state::take_views(&mut state, task)?;
        let (before, after) = self.views();
        let own: Vec<Named> = before.into_iter().chain(after).collect();
        let mut vectors = Vec::with_capacity(own.len());
        for &(name, view) in &own {
            vectors.push(state.take(name, view.len)?);
        }
        let mut counter = |name: &str| state.counters.remove(name).ok_or_else(|| format!("it has no counter {name}"));
        let steps = counter("steps")?;
        if let Some(Averaging { trigger, state: averaged }) = &mut self.averaging {
            let averaged_steps = counter("averaged_sgd.steps")?;
            let (vectors, counters) = state::borrowed(&state);
            trigger.restore(&vectors, &counters).map_err(|error| error.to_string())?;
            device.upload(averaged.steps, &[averaged_steps]).map_err(failed)?;
        } else if let Some(name) = state.counters.keys().next() {
            return Err(format!("its counter {name} is unknown"));
        } else if let Some((name, _)) = state.vectors.first() {
            return Err(format!("its vector {name} is unknown"));
        }
        for ((_, view), values) in own.into_iter().zip(&vectors) {
            device.upload(view, values).map_err(failed)?;
        }
        state::write_views(device, task, &of_task)?;
        self.steps = steps;
        Ok(())
    }
}
