//! Training a discrete network from scratch, for any task: SGD with momentum, clipped gradients, a schedule by epochs.

use std::path::PathBuf;
use std::time::Instant;

use darts_bilevel::Stateful;
use darts_bilevel::clip;
use darts_bilevel::optimizer::{Sgd, SgdConfig};
use darts_cells::genotype::Genotype;
use darts_ops::vector::Vector;

use crate::checkpoint::State;
use crate::config::{RunKind, TrainConfig};
use crate::engine::{EpochOutcome, Finish, Learner, Outcome, StepOutcome, Watch};
use crate::error::Result;
use crate::metrics::Results;
use crate::options::RunOptions;
use crate::progress::Progress;
use crate::run::{Identity, OpenRun};
use crate::state;
use crate::task::image::train::ImageTraining;
use crate::task::{Size, TrainTask};

/// A training in a folder that belongs to this process until it is dropped.
pub struct TrainRun {
    run: OpenRun<Trainer<ImageTraining>>,
}

impl TrainRun {
    /// Takes the folder `dir` for a training with this configuration: a new one, or, with
    /// [`RunOptions::resume`], the one that is there.
    ///
    /// # Errors
    /// As [`SearchRun::open_or_create`](crate::SearchRun::open_or_create).
    pub fn open_or_create(dir: impl Into<PathBuf>, config: TrainConfig, options: RunOptions) -> Result<Self> {
        config.validate()?;
        let identity = Identity { kind: RunKind::Train, task: config.data.task(), seed: config.seed, config: &config };
        let dir = dir.into();
        let run = OpenRun::open(dir.clone(), identity, options, |options| {
            let task = ImageTraining::open(&config, options, dir)?;
            let record = task.record();
            let w = Vector::from_vec(task.initial(), &options.device.open()?)?;
            let sgd = SgdConfig { momentum: config.momentum, weight_decay: config.weight_decay };
            Ok((Trainer::new(task, w, sgd, Some(config.grad_clip), config.epochs)?, record))
        })?;
        Ok(Self { run })
    }

    /// Trains to the end, or until `progress` or [`RunOptions::max_steps`] stops it. A finished run is only read. The test
    /// set is read once, after the last epoch, and not at all by a run that holds training data out.
    ///
    /// # Errors
    /// As [`SearchRun::run`](crate::SearchRun::run).
    pub fn run(self, progress: &mut dyn Progress) -> Result<Outcome> {
        self.run.run(progress)
    }
}

/// The training of a discrete network, as something that learns step by step.
pub(crate) struct Trainer<T> {
    task: T,
    weights: Weights,
    gradient: Vector,
    clip: Option<f64>,
    epochs: usize,
    at: (usize, usize),
}

/// The weights and their optimizer: the whole of the learned state.
struct Weights {
    w: Vector,
    sgd: Sgd,
    steps: u64,
}

impl Stateful for Weights {
    fn vectors(&self) -> Vec<(&'static str, &Vector)> {
        std::iter::once(("weights", &self.w)).chain(self.sgd.vectors()).collect()
    }

    fn vectors_mut(&mut self) -> Vec<(&'static str, &mut Vector)> {
        std::iter::once(("weights", &mut self.w)).chain(self.sgd.vectors_mut()).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        std::iter::once(("steps", self.steps)).chain(self.sgd.counters()).collect()
    }

    fn counters_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        std::iter::once(("steps", &mut self.steps)).chain(self.sgd.counters_mut()).collect()
    }
}

impl<T: TrainTask> Trainer<T> {
    pub(crate) fn new(task: T, w: Vector, sgd: SgdConfig, clip: Option<f64>, epochs: usize) -> Result<Self> {
        let (len, device) = (w.len(), w.device().clone());
        let weights = Weights { sgd: Sgd::new(sgd, len, &device)?, w, steps: 0 };
        Ok(Self { task, weights, gradient: Vector::zeros(len, &device)?, clip, epochs, at: (0, 0) })
    }
}

impl<T: TrainTask> Learner for Trainer<T> {
    fn epochs(&self) -> usize {
        self.epochs
    }

    fn steps(&self, epoch: usize) -> usize {
        self.task.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.at = (epoch, step);
        self.task.start(epoch, step, self.weights.steps)
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let begin = Instant::now();
        let batch = self.task.next()?;
        let waited = begin.elapsed();
        let learning_rate = self.task.learning_rate(self.at.0, &batch);
        let Weights { w, sgd, steps } = &mut self.weights;
        let train_loss = self.task.evaluate(w, &batch, self.at, &mut self.gradient)?;
        let grad_norm = self.gradient.norm2()?;
        // What is not finite is not applied: the engine stops at it, and the weights stay those of the last good step.
        if train_loss.is_finite() && grad_norm.is_finite() {
            sgd.step(w, &self.gradient, clip::coefficient(grad_norm, self.clip), learning_rate)?;
        }
        *steps += 1;
        self.at.1 += 1;
        let seen = self.task.seen();
        Ok(StepOutcome {
            train_loss,
            valid_loss: None,
            correct: seen.correct,
            examples: seen.examples,
            learning_rate,
            grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, _epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let Some(scores) = self.task.validate(&self.weights.w, watch)? else { return Ok(None) };
        Ok(Some(EpochOutcome {
            valid_loss: scores.map(|s| s.loss),
            valid_accuracy: scores.and_then(|s| s.accuracy),
            valid_perplexity: scores.and_then(|s| s.perplexity),
            alphas: None,
        }))
    }

    fn genotype(&self) -> Result<Genotype> {
        Ok(self.task.genotype())
    }

    fn state(&self) -> Result<State> {
        state::collect(&self.weights, self.task.state())
    }

    fn restore(&mut self, state: State) -> std::result::Result<(), String> {
        let own = state::restore(&mut self.weights, state, &self.task.state())?;
        self.task.restore(own);
        Ok(())
    }

    fn finish(&mut self, watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        let Some(test) = self.task.test(&self.weights.w, watch)? else { return Ok(None) };
        let Size { parameters, parameters_with_auxiliary, multiply_adds } = self.task.size();
        Ok(Some(Finish {
            weights: self.task.weights(&self.weights.w.to_vec()?)?,
            test: Results {
                test_loss: test.map(|s| s.loss),
                test_accuracy: test.and_then(|s| s.accuracy),
                test_error: test.and_then(|s| s.accuracy).map(|accuracy| 1.0 - accuracy),
                test_top5_error: test.and_then(|s| s.top5_error),
                test_perplexity: test.and_then(|s| s.perplexity),
                ..Results::default()
            },
            parameters,
            parameters_with_auxiliary,
            multiply_adds,
        }))
    }
}
