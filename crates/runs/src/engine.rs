//! The loop that every run is: steps, epochs, checkpoints, lines of metrics, stopping and going on. What a step computes is
//! the [`Learner`]'s business; whether it is a search or a training, of images or of text, is not known here.
//!
//! Invariants, on which "killed at any moment and resumed, same bytes" rests:
//! * A learner's state after a step is a function of its state before and of the position alone.
//! * A checkpoint is written after the journals that it knows are durable, so a journal is never shorter than the newest
//!   usable checkpoint says; resuming cuts it to that length.
//! * `genotype.json` and `weights.safetensors` are functions of the learner's state, and `summary.json` is written last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use darts_cells::genotype::Genotype;
use serde_json::Value;

use crate::checkpoint::{self, Checkpoint, Position, State};
use crate::config::RunKind;
use crate::error::{Error, Result, one_line};
use crate::folder::{CHECKPOINTS, GENOTYPE, Journal, RunFolder, WEIGHTS, atomic};
use crate::hardware::peak_memory_bytes;
use crate::metrics::{ALPHAS, EpochMetrics, METRICS, Metric, Results, SUMMARY, StepMetrics, Summary, read_metrics};
use crate::options::RunOptions;
use crate::progress::{Level, Progress, Started, StepEvent};
use crate::report::{self, cell_drawing};
use crate::task::{Scores, Size};
use crate::tensorboard;

/// Step lines of an epoch, at most about so many.
const LINES_PER_EPOCH: usize = 50;

/// What one step measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepOutcome {
    /// Loss of the weight step, a mean over `examples`.
    pub(crate) train_loss: f64,
    /// Loss of the α step.
    pub(crate) valid_loss: Option<f64>,
    /// Examples of the weight step that were right, where that means something.
    pub(crate) correct: Option<u64>,
    /// Examples of the weight step.
    pub(crate) examples: u64,
    /// Learning rate of the weights.
    pub(crate) learning_rate: f64,
    /// Norm of the weights' gradient before clipping.
    pub(crate) grad_norm: f64,
    /// How long the step waited for its data.
    pub(crate) waited: Duration,
}

/// What the end of an epoch found.
#[derive(Clone, Debug, Default)]
pub(crate) struct EpochOutcome {
    /// Mean loss on the validation data, where there is some.
    pub(crate) valid_loss: Option<f64>,
    /// Accuracy on the validation data, where that means something.
    pub(crate) valid_accuracy: Option<f64>,
    /// e to the validation loss, for language models.
    pub(crate) valid_perplexity: Option<f64>,
    /// A line of `alphas.jsonl`, in a search.
    pub(crate) alphas: Option<Value>,
}

impl EpochOutcome {
    /// Of the scores on the validation data, where there is some, and in a search of a line of `alphas.jsonl`.
    pub(crate) fn new(scores: Option<Scores>, alphas: Option<Value>) -> Self {
        Self {
            valid_loss: scores.map(|s| s.loss),
            valid_accuracy: scores.and_then(|s| s.accuracy),
            valid_perplexity: scores.and_then(|s| s.perplexity),
            alphas,
        }
    }
}

/// What a run leaves behind, besides its metrics.
pub(crate) struct Finish {
    /// The contents of `weights.safetensors`.
    pub(crate) weights: Vec<u8>,
    /// Test results, where the run is one that may see the test set.
    pub(crate) test: Results,
    /// Parameters without an auxiliary head and α.
    pub(crate) parameters: u64,
    /// Parameters with the auxiliary head.
    pub(crate) parameters_with_auxiliary: Option<u64>,
    /// Multiply-adds for one example.
    pub(crate) multiply_adds: u64,
}

impl Finish {
    /// Of a network of that size.
    pub(crate) fn new(weights: Vec<u8>, test: Results, size: Size) -> Self {
        let Size { parameters, parameters_with_auxiliary, multiply_adds } = size;
        Self { weights, test, parameters, parameters_with_auxiliary, multiply_adds }
    }
}

/// Something that learns step by step, epoch by epoch.
pub(crate) trait Learner: Send {
    /// Epochs of the run.
    fn epochs(&self) -> usize;
    /// Steps of an epoch.
    fn steps(&self, epoch: usize) -> usize;
    /// Prepares for the steps of `epoch` from `step` on.
    fn start(&mut self, epoch: usize, step: usize) -> Result<()>;
    /// Does the next step.
    fn step(&mut self) -> Result<StepOutcome>;
    /// Validates after the last step of `epoch`; None when `watch` asked to stop. It changes state only where it gives an
    /// outcome, and then by that alone.
    fn end_epoch(&mut self, epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>>;
    /// The cell so far.
    fn genotype(&self) -> Result<Genotype>;
    /// Everything that the next step depends on.
    fn state(&self) -> Result<State>;
    /// Takes up a state; the reason in words when it does not fit.
    fn restore(&mut self, state: State) -> std::result::Result<(), String>;
    /// Bytes allocated on a GPU, where it computes on one.
    fn device_bytes(&self) -> Option<u64> {
        None
    }
    /// What to leave behind after the last epoch; None when `watch` asked to stop. It changes no state.
    fn finish(&mut self, watch: &mut Watch<'_>) -> Result<Option<Finish>>;
}

/// Lets a long evaluation report itself, and be stopped.
pub(crate) struct Watch<'a> {
    progress: &'a mut dyn Progress,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(progress: &'a mut dyn Progress) -> Self {
        Self { progress }
    }

    /// Reports, and returns true when the evaluation should be abandoned.
    pub(crate) fn evaluating(&mut self, what: &str, done: usize, of: usize) -> bool {
        self.progress.evaluating(what, done, of);
        self.progress.should_stop()
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one value a run, taken apart at once")]
pub enum Outcome {
    /// It is finished.
    Finished(Summary),
    /// It was stopped and can be resumed.
    Stopped(Stopped),
}

/// Where a run was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Why.
    pub reason: StopReason,
    /// Steps done since the run began.
    pub step: u64,
    /// The epoch it was in, from 0.
    pub epoch: usize,
    /// The checkpoint that it will go on from.
    pub checkpoint: PathBuf,
}

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// [`Progress::should_stop`] said so.
    Requested,
    /// [`RunOptions::max_steps`] steps were done.
    MaxSteps,
    /// [`RunOptions::until_epoch`] epochs were done.
    UntilEpoch,
}

/// Drives `learner` to its end, or until it is told to stop.
pub(crate) fn drive<L: Learner + ?Sized>(
    kind: RunKind,
    folder: &RunFolder,
    learner: &mut L,
    options: &RunOptions,
    progress: &mut dyn Progress,
) -> Result<Outcome> {
    let found = checkpoint::latest(&folder.path(CHECKPOINTS), |text| progress.message(Level::Warning, text))?;
    let (position, lengths, last_checkpoint) = match found {
        None => (Position::default(), BTreeMap::new(), None),
        Some((checkpoint, path)) => {
            checkpoint::set_aside_newer(&folder.path(CHECKPOINTS), &path)?;
            learner.restore(checkpoint.state).map_err(|reason| Error::bad_file(&path, reason))?;
            (checkpoint.position, checkpoint.journals, Some(path))
        }
    };
    let journal = |name: &str| Journal::open(folder.path(name), lengths.get(name).copied().unwrap_or(0));
    let total = (0..learner.epochs()).map(|epoch| learner.steps(epoch) as u64).sum();
    let mut engine = Engine {
        kind,
        folder,
        options,
        metrics: journal(METRICS)?,
        alphas: journal(ALPHAS)?,
        events: journal(tensorboard::FILE)?,
        learner,
        progress,
        position,
        last_checkpoint,
        total,
        steps_here: 0,
        since: Instant::now(),
    };
    engine.run()
}

struct Engine<'a, L: ?Sized> {
    kind: RunKind,
    folder: &'a RunFolder,
    options: &'a RunOptions,
    metrics: Journal,
    alphas: Journal,
    events: Journal,
    learner: &'a mut L,
    progress: &'a mut dyn Progress,
    position: Position,
    last_checkpoint: Option<PathBuf>,
    total: u64,
    steps_here: u64,
    since: Instant,
}

impl<L: Learner + ?Sized> Engine<'_, L> {
    fn run(&mut self) -> Result<Outcome> {
        self.progress.started(&Started {
            kind: self.kind,
            dir: self.folder.dir().to_path_buf(),
            epochs: self.learner.epochs(),
            steps: self.total,
            done: self.position.total,
        });
        self.report();
        if self.events.len() == 0 {
            self.events.append(&tensorboard::header(wall_time()))?;
        }
        while self.position.epoch < self.learner.epochs() {
            if self.options.until_epoch.is_some_and(|until| self.position.epoch >= until) {
                return self.stop(StopReason::UntilEpoch);
            }
            if let Some(reason) = self.epoch()? {
                return self.stop(reason);
            }
        }
        match self.finish()? {
            Some(summary) => Ok(Outcome::Finished(summary)),
            None => self.stop(StopReason::Requested),
        }
    }

    /// The rest of the epoch under way; a reason when it was not finished.
    fn epoch(&mut self) -> Result<Option<StopReason>> {
        let (epoch, steps) = (self.position.epoch, self.learner.steps(self.position.epoch));
        let every = self.options.checkpoint_every.unwrap_or(RunOptions::CHECKPOINT_EVERY);
        if self.position.step < steps {
            if let Some(reason) = self.stop_reason() {
                return Ok(Some(reason));
            }
            self.learner.start(epoch, self.position.step)?;
        }
        self.since = Instant::now();
        while self.position.step < steps {
            if let Some(reason) = self.stop_reason() {
                return Ok(Some(reason));
            }
            let outcome = self.learner.step().map_err(|error| self.located(error))?;
            self.after_step(&outcome, steps)?;
            if self.position.total.is_multiple_of(every) && self.position.step < steps {
                self.save()?;
            }
        }
        if self.progress.should_stop() {
            return Ok(Some(StopReason::Requested));
        }
        let step_seconds = self.position.epoch_seconds;
        let Some(outcome) = self.learner.end_epoch(epoch, &mut Watch::new(self.progress))? else {
            return Ok(Some(StopReason::Requested));
        };
        self.after_epoch(outcome, step_seconds)?;
        Ok(None)
    }

    fn stop_reason(&self) -> Option<StopReason> {
        if self.progress.should_stop() {
            return Some(StopReason::Requested);
        }
        self.options.max_steps.is_some_and(|most| self.steps_here >= most).then_some(StopReason::MaxSteps)
    }

    fn after_step(&mut self, outcome: &StepOutcome, steps: usize) -> Result<()> {
        let seconds = self.tick();
        let position = &mut self.position;
        position.step += 1;
        position.total += 1;
        self.steps_here += 1;
        self.check_finite("training loss", Some(outcome.train_loss), outcome.learning_rate)?;
        self.check_finite("validation loss", outcome.valid_loss, outcome.learning_rate)?;
        self.check_finite("gradient norm", Some(outcome.grad_norm), outcome.learning_rate)?;
        let position = &mut self.position;
        position.loss_sum += outcome.train_loss * outcome.examples as f64;
        position.correct += outcome.correct.unwrap_or(0);
        position.examples += outcome.examples;
        position.learning_rate = outcome.learning_rate;
        position.waited_seconds += outcome.waited.as_secs_f64();
        let metrics = StepMetrics {
            epoch: position.epoch,
            step: position.total,
            train_loss: outcome.train_loss,
            train_accuracy: outcome.correct.map(|correct| correct as f64 / outcome.examples as f64),
            valid_loss: outcome.valid_loss,
            lr: outcome.learning_rate,
            grad_norm: Some(outcome.grad_norm),
            seconds,
        };
        if position.step.is_multiple_of(steps.div_ceil(LINES_PER_EPOCH)) || position.step == steps {
            let mut scalars = vec![("train/loss", metrics.train_loss), ("learning_rate", metrics.lr)];
            scalars.extend(metrics.train_accuracy.map(|v| ("train/accuracy", v)));
            scalars.extend(metrics.valid_loss.map(|v| ("architecture/loss", v)));
            scalars.extend(metrics.grad_norm.map(|v| ("train/gradient_norm", v)));
            self.events.append(&tensorboard::scalars(wall_time(), metrics.step, &scalars))?;
            append_line(&mut self.metrics, &Metric::Step(metrics.clone()))?;
        }
        self.progress.step(&StepEvent {
            epochs: self.learner.epochs(),
            step: self.position.step,
            steps,
            done: self.position.total,
            total: self.total,
            metrics: &metrics,
        });
        Ok(())
    }

    fn after_epoch(&mut self, outcome: EpochOutcome, step_seconds: f64) -> Result<()> {
        self.tick();
        let lr = self.position.learning_rate;
        self.check_finite("validation loss", outcome.valid_loss, lr)?;
        let position = &self.position;
        let examples = position.examples as f64;
        let genotype = self.learner.genotype()?;
        let is_language = outcome.valid_perplexity.is_some();
        let per_second = Some(examples / step_seconds).filter(|rate| rate.is_finite());
        let metrics = EpochMetrics {
            epoch: position.epoch,
            train_loss: position.loss_sum / examples,
            train_accuracy: (!is_language).then(|| position.correct as f64 / examples),
            valid_loss: outcome.valid_loss,
            valid_accuracy: outcome.valid_accuracy,
            valid_perplexity: outcome.valid_perplexity,
            lr,
            genotype: (self.kind == RunKind::Search).then(|| genotype.clone()),
            seconds: position.epoch_seconds,
            step_seconds,
            waited_seconds: position.waited_seconds,
            images_per_second: per_second.filter(|_| !is_language),
            tokens_per_second: per_second.filter(|_| is_language),
        };
        let mut scalars = vec![("epoch/train_loss", metrics.train_loss)];
        scalars.extend(metrics.train_accuracy.map(|v| ("epoch/train_accuracy", v)));
        scalars.extend(metrics.valid_loss.map(|v| ("epoch/valid_loss", v)));
        scalars.extend(metrics.valid_accuracy.map(|v| ("epoch/valid_accuracy", v)));
        scalars.extend(metrics.valid_perplexity.map(|v| ("epoch/valid_perplexity", v)));
        self.events.append(&tensorboard::scalars(wall_time(), position.total, &scalars))?;
        append_line(&mut self.metrics, &Metric::Epoch(metrics.clone()))?;
        if let Some(alphas) = &outcome.alphas {
            append_line(&mut self.alphas, alphas)?;
        }
        self.position = Position {
            epoch: position.epoch + 1,
            total: position.total,
            seconds: position.seconds,
            peak_memory_bytes: position.peak_memory_bytes,
            peak_device_bytes: position.peak_device_bytes,
            ..Position::default()
        };
        self.save()?;
        self.show(&genotype)?;
        self.since = Instant::now();
        self.progress.epoch(&metrics);
        Ok(())
    }

    /// A learner does not know where the run is: fills that in.
    fn located(&self, error: Error) -> Error {
        match error {
            Error::NonFinite { which, value, learning_rate, .. } => Error::NonFinite {
                which,
                value,
                epoch: self.position.epoch,
                step: self.position.total + 1,
                learning_rate,
                checkpoint: self.last_checkpoint.clone(),
            },
            other => other,
        }
    }

    fn check_finite(&self, which: &'static str, value: Option<f64>, learning_rate: f64) -> Result<()> {
        match value {
            Some(value) if !value.is_finite() => Err(Error::NonFinite {
                which: which.into(),
                value,
                epoch: self.position.epoch,
                step: self.position.total,
                learning_rate,
                checkpoint: self.last_checkpoint.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Wall seconds since the last call, added to the run's.
    fn tick(&mut self) -> f64 {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        self.position.epoch_seconds += seconds;
        self.position.seconds += seconds;
        seconds
    }

    /// Takes in what memory this process has had.
    fn note_peaks(&mut self) {
        let Position { peak_memory_bytes: memory, peak_device_bytes: device, .. } = &mut self.position;
        *memory = (*memory).max(peak_memory_bytes());
        // None is less than any.
        *device = (*device).max(self.learner.device_bytes());
    }

    fn save(&mut self) -> Result<()> {
        for journal in [&self.metrics, &self.alphas, &self.events] {
            journal.sync()?;
        }
        self.note_peaks();
        let journals = [&self.metrics, &self.alphas, &self.events].map(|journal| (journal.name(), journal.len()));
        let checkpoint =
            Checkpoint { position: self.position.clone(), journals: journals.into(), state: self.learner.state()? };
        self.last_checkpoint = Some(checkpoint::write(&self.folder.path(CHECKPOINTS), &checkpoint)?);
        Ok(())
    }

    /// What people look at: the genotype, the drawings, the report.
    fn show(&mut self, genotype: &Genotype) -> Result<()> {
        atomic::write(&self.folder.path(GENOTYPE), genotype.to_json()?.as_bytes())?;
        for drawing in cell_drawing::drawings(genotype, None) {
            atomic::write(&self.folder.path(&format!("{}.svg", drawing.stem)), drawing.svg.as_bytes())?;
        }
        self.report();
        Ok(())
    }

    /// Renews the report. It is a view of the other files, so a run goes on without it.
    fn report(&mut self) {
        if let Err(error) = report::write_run(self.folder.dir()) {
            self.progress.message(Level::Warning, &one_line(&error.to_string()));
        }
    }

    fn stop(&mut self, reason: StopReason) -> Result<Outcome> {
        self.tick();
        self.save()?;
        let genotype = self.learner.genotype()?;
        self.show(&genotype)?;
        Ok(Outcome::Stopped(Stopped {
            reason,
            step: self.position.total,
            epoch: self.position.epoch,
            checkpoint: self.last_checkpoint.clone().unwrap_or_default(),
        }))
    }

    fn finish(&mut self) -> Result<Option<Summary>> {
        self.since = Instant::now();
        let Some(finish) = self.learner.finish(&mut Watch::new(self.progress))? else { return Ok(None) };
        self.tick();
        let genotype = self.learner.genotype()?;
        atomic::write(&self.folder.path(WEIGHTS), &finish.weights)?;
        let lines = read_metrics(self.folder.dir())?;
        let epoch = |line| if let Metric::Epoch(epoch) = line { Some(epoch) } else { None };
        let epochs: Vec<EpochMetrics> = lines.into_iter().filter_map(epoch).collect();
        let last = epochs.last().ok_or_else(|| Error::bad_file(self.metrics.path(), "it has no epoch line"))?;
        if let Some(text) = limit(&epochs, self.learner.device_bytes().is_some()) {
            self.progress.message(Level::Info, &text);
        }
        self.note_peaks();
        let summary = Summary {
            kind: self.kind,
            genotype: genotype.clone(),
            epochs: self.learner.epochs(),
            steps: self.position.total,
            train_loss: last.train_loss,
            train_accuracy: last.train_accuracy,
            results: Results {
                valid_loss: last.valid_loss,
                valid_accuracy: last.valid_accuracy,
                valid_error: last.valid_accuracy.map(|accuracy| 1.0 - accuracy),
                valid_perplexity: last.valid_perplexity,
                ..finish.test
            },
            parameters: finish.parameters,
            parameters_with_auxiliary: finish.parameters_with_auxiliary,
            multiply_adds: finish.multiply_adds,
            wall_seconds: self.position.seconds,
            peak_memory_bytes: self.position.peak_memory_bytes,
            peak_device_bytes: self.position.peak_device_bytes,
        };
        self.show(&genotype)?;
        self.folder.write_json(SUMMARY, &summary)?;
        self.report();
        Ok(Some(summary))
    }
}

/// What a run's steps waited for: their data, or what computes. None where that is no news: a processor that seldom waits.
fn limit(epochs: &[EpochMetrics], on_gpu: bool) -> Option<String> {
    /// A share of waiting that more computing power would not take away.
    const OFTEN: f64 = 0.05;
    let sum = |of: fn(&EpochMetrics) -> f64| epochs.iter().map(of).sum::<f64>();
    let share = sum(|epoch| epoch.waited_seconds) / sum(|epoch| epoch.step_seconds);
    if !share.is_finite() || (share <= OFTEN && !on_gpu) {
        return None;
    }
    let who = if on_gpu { "the GPU" } else { "the steps" };
    let of_images = epochs.iter().all(|epoch| epoch.valid_perplexity.is_none());
    let limit = match (share > OFTEN, of_images) {
        (false, _) => "the GPU is the limit",
        (true, true) => "reading and decoding them on the processor is the limit",
        (true, false) => "preparing it on the processor is the limit",
    };
    let what = if of_images { "images" } else { "text" };
    Some(format!("{who} waited for {what} {:.1} % of the time: {limit}", 100.0 * share))
}

fn append_line(journal: &mut Journal, value: &impl serde::Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).map_err(|e| Error::bad_file(journal.path(), e))?;
    line.push(b'\n');
    journal.append(&line)
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests;
