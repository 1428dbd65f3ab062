//! Training a discrete network from scratch, for any task: SGD with clipped gradients, at the learning rate of the task.

use std::path::PathBuf;
use std::time::Instant;

use darts_bilevel::clip;
use darts_bilevel::optimizer::SgdConfig;
use darts_cells::genotype::Genotype;
use darts_ops::vector::Vector;

use crate::checkpoint::State;
use crate::config::{RunKind, TextTrainConfig, TrainConfig, TrainSettings};
#[cfg(feature = "cuda")]
use crate::device::train::{DeviceTrainer, Settings};
use crate::engine::{EpochOutcome, Finish, Learner, Outcome, StepOutcome, Watch};
use crate::error::Result;
use crate::metrics::Results;
use crate::options::{Computer, RunOptions};
use crate::progress::Progress;
use crate::run::{Found, Identity, Made, OpenRun};
use crate::state;
#[cfg(feature = "cuda")]
use crate::task::image::device::train::DeviceImageTraining;
use crate::task::image::train::ImageTraining;
use crate::task::text::data::Text;
#[cfg(feature = "cuda")]
use crate::task::text::device::train::DeviceTextTraining;
use crate::task::text::train::TextTraining;
use crate::task::{Scores, TrainTask};
use crate::weights::{AverageAfter, Weights};

/// A training in a folder that belongs to this process until it is dropped.
pub struct TrainRun {
    run: OpenRun,
}

impl TrainRun {
    /// Takes the folder `dir` for a training with this configuration: a new one, or, with
    /// [`RunOptions::resume`], the one that is there.
    ///
    /// # Errors
    /// As [`SearchRun::open_or_create`](crate::SearchRun::open_or_create).
    pub fn open_or_create(
        dir: impl Into<PathBuf>,
        config: impl Into<TrainSettings>,
        options: RunOptions,
    ) -> Result<Self> {
        let run = match config.into() {
            TrainSettings::Images(config) => on_images(dir.into(), &config, options),
            TrainSettings::Text(config) => on_text(dir.into(), &config, options),
        };
        Ok(Self { run: run? })
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

fn on_images(dir: PathBuf, config: &TrainConfig, options: RunOptions) -> Result<OpenRun> {
    config.validate()?;
    let identity = Identity { kind: RunKind::Train, task: config.data.task(), seed: config.seed, config };
    OpenRun::open(dir, identity, options, |options, folder, computer| {
        let (dir, sgd) =
            (folder.dir().to_path_buf(), SgdConfig { momentum: config.momentum, weight_decay: config.weight_decay });
        let (learner, found): (Box<dyn Learner>, _) = match computer {
            Computer::Cpu(device) => {
                let task = ImageTraining::open(config, options, dir)?;
                let (found, w) = (task.record(), Vector::from_vec(task.initial(), &device)?);
                let weights = Weights::new(w, sgd, None)?;
                (Box::new(Trainer::new(task, weights, config.grad_clip, config.epochs)?), found)
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let task = DeviceImageTraining::open(config, options, dir, &device)?;
                let (found, w) = (task.record(), task.initial());
                let (clip, epochs, precision) = (config.grad_clip, config.epochs, options.precision);
                let settings = Settings { sgd, average: None, clip, epochs, precision };
                (Box::new(DeviceTrainer::new(device, task, &w, settings)?), found)
            }
        };
        Ok(Made { learner, found: Found::Images(found), file: None })
    })
}

fn on_text(dir: PathBuf, config: &TextTrainConfig, options: RunOptions) -> Result<OpenRun> {
    config.validate()?;
    let identity = Identity { kind: RunKind::Train, task: config.data.task(), seed: config.seed, config };
    OpenRun::open(dir, identity, options, |options, folder, computer| {
        let text = Text::of_run(&config.data, options.data_dir.as_deref(), folder)?.limited(config.train_limit);
        let (found, file) = (Found::Text(text.record()), Some(text.tokenizer_file()?));
        let sgd = SgdConfig { momentum: 0.0, weight_decay: config.weight_decay };
        let average = Some(AverageAfter { nonmono: config.nonmono, epochs: config.epochs });
        let learner: Box<dyn Learner> = match computer {
            Computer::Cpu(device) => {
                let task = TextTraining::new(config, text)?;
                let weights = Weights::new(Vector::from_vec(task.initial(), &device)?, sgd, average)?;
                Box::new(Trainer::new(task, weights, config.grad_clip, config.epochs)?)
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let task = DeviceTextTraining::new(config, text, &device, options.precision)?;
                let (w, clip, epochs, precision) = (task.initial(), config.grad_clip, config.epochs, options.precision);
                Box::new(DeviceTrainer::new(device, task, &w, Settings { sgd, average, clip, epochs, precision })?)
            }
        };
        Ok(Made { learner, found, file })
    })
}

/// What a summary says of the test data, where they were looked at.
pub(crate) fn test_results(scores: Option<Scores>) -> Results {
    Results {
        test_loss: scores.map(|s| s.loss),
        test_accuracy: scores.and_then(|s| s.accuracy),
        test_error: scores.and_then(|s| s.accuracy).map(|accuracy| 1.0 - accuracy),
        test_top5_error: scores.and_then(|s| s.top5_error),
        test_perplexity: scores.and_then(|s| s.perplexity),
        ..Results::default()
    }
}

/// The training of a discrete network, as something that learns step by step.
pub(crate) struct Trainer<T> {
    task: T,
    weights: Weights,
    gradient: Vector,
    clip: f64,
    epochs: usize,
    at: (usize, usize),
}

impl<T: TrainTask> Trainer<T> {
    pub(crate) fn new(task: T, weights: Weights, clip: f64, epochs: usize) -> Result<Self> {
        let gradient = Vector::zeros(weights.current().len(), weights.current().device())?;
        Ok(Self { task, weights, gradient, clip, epochs, at: (0, 0) })
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
        self.task.start(epoch, step, self.weights.steps())
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let begin = Instant::now();
        let batch = self.task.next()?;
        let waited = begin.elapsed();
        let learning_rate = self.task.learning_rate(self.at.0, &batch);
        let loss = self.task.evaluate(self.weights.current(), &batch, self.at, &mut self.gradient)?;
        let grad_norm = self.gradient.norm2()?;
        // What is not finite is not applied: the engine stops at it, and the weights stay those of the last good step.
        let finite = loss.is_finite() && grad_norm.is_finite();
        let coefficient = finite.then(|| clip::coefficient(grad_norm, Some(self.clip)));
        self.weights.step(&self.gradient, coefficient, learning_rate)?;
        self.at.1 += 1;
        let seen = self.task.seen();
        Ok(StepOutcome {
            train_loss: if finite { seen.likelihood.unwrap_or(loss) } else { loss },
            valid_loss: None,
            correct: seen.correct,
            examples: seen.examples,
            learning_rate,
            grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, _epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let Some(scores) = self.task.validate(self.weights.evaluated(), watch)? else { return Ok(None) };
        self.weights.end_epoch(scores.map(|s| s.loss))?;
        Ok(Some(EpochOutcome::new(scores, None)))
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
        let Some(test) = self.task.test(self.weights.evaluated(), watch)? else { return Ok(None) };
        let weights = self.task.weights(&self.weights.evaluated().to_vec()?)?;
        Ok(Some(Finish::new(weights, test_results(test), self.task.size())))
    }
}
