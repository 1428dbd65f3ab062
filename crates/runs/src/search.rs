//! Searching: Algorithm 1 of the paper over the epochs of a run, for any task.

use std::path::PathBuf;
use std::time::Instant;

use darts_bilevel::optimizer::{AdamConfig, SgdConfig};
use darts_bilevel::{self as bilevel, Pass, SecondOrder, StepError, Strategy};
use darts_cells::genotype::Genotype;
use darts_ops::vector::Vector;

use crate::checkpoint::State;
use crate::config::{Order, RunKind, SearchConfig, SearchSettings, TextSearchConfig};
#[cfg(feature = "cuda")]
use crate::device::search::DeviceSearcher;
use crate::engine::{EpochOutcome, Finish, Learner, Outcome, StepOutcome, Watch};
use crate::error::{Error, Result};
use crate::metrics::Results;
use crate::options::{Computer, RunOptions};
use crate::progress::Progress;
use crate::run::{Found, Identity, Made, OpenRun};
use crate::state;
use crate::task::SearchTask;
#[cfg(feature = "cuda")]
use crate::task::image::device::search::DeviceImageSearch;
use crate::task::image::search::ImageSearch;
use crate::task::text::data::Text;
#[cfg(feature = "cuda")]
use crate::task::text::device::search::DeviceTextSearch;
use crate::task::text::search::TextSearch;

/// A search in a folder that belongs to this process until it is dropped.
///
/// ```no_run
/// use darts_runs::{Outcome, RunOptions, SearchConfig, SearchRun};
///
/// let run = SearchRun::open_or_create("runs/first", SearchConfig::quick(), RunOptions::default())?;
/// if let Outcome::Finished(summary) = run.run(&mut ())? {
///     println!("{:?}", summary.genotype);
/// }
/// # Ok::<(), darts_runs::Error>(())
/// ```
pub struct SearchRun {
    run: OpenRun,
}

impl SearchRun {
    /// Takes the folder `dir` for a search with this configuration: a new one, or, with
    /// [`RunOptions::resume`], the one that is there.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range; [`Error::Locked`], [`Error::Exists`], [`Error::OtherRun`],
    /// [`Error::ConfigDiffers`], [`Error::DataDiffers`] when the folder is not free for it; [`Error::Data`] when the data
    /// is not there. Nothing in the folder is changed then.
    pub fn open_or_create(
        dir: impl Into<PathBuf>,
        config: impl Into<SearchSettings>,
        options: RunOptions,
    ) -> Result<Self> {
        let run = match config.into() {
            SearchSettings::Images(config) => on_images(dir.into(), &config, options),
            SearchSettings::Text(config) => on_text(dir.into(), &config, options),
        };
        Ok(Self { run: run? })
    }

    /// Searches to the end, or until `progress` or [`RunOptions::max_steps`] stops it. A finished run is only read.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when a loss is no number any more, [`Error::NoUsableCheckpoint`], or what the folder or the
    /// data refuse in mid-run. What was saved before is intact.
    pub fn run(self, progress: &mut dyn Progress) -> Result<Outcome> {
        self.run.run(progress)
    }
}

fn on_images(dir: PathBuf, config: &SearchConfig, options: RunOptions) -> Result<OpenRun> {
    config.validate()?;
    let identity = Identity { kind: RunKind::Search, task: config.data.task(), seed: config.seed, config };
    OpenRun::open(dir, identity, options, |options, _, computer| {
        let (settings, epochs) = (image_settings(config), config.epochs);
        let (learner, found): (Box<dyn Learner>, _) = match computer {
            Computer::Cpu(device) => {
                let task = ImageSearch::open(config, options)?;
                let (found, start) = (task.record(), task.initial());
                (Box::new(Searcher::new(task, start, settings, epochs, &device)?), found)
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let task = DeviceImageSearch::open(config, options, &device)?;
                let (found, (w, alphas)) = (task.record(), task.initial());
                let start = (&w[..], &alphas[..]);
                (Box::new(DeviceSearcher::new(device, task, start, settings, epochs, options.precision)?), found)
            }
        };
        Ok(Made { learner, found: Found::Images(found), file: None })
    })
}

fn on_text(dir: PathBuf, config: &TextSearchConfig, options: RunOptions) -> Result<OpenRun> {
    config.validate()?;
    let identity = Identity { kind: RunKind::Search, task: config.data.task(), seed: config.seed, config };
    OpenRun::open(dir, identity, options, |options, folder, computer| {
        let text = Text::of_run(&config.data, options.data_dir.as_deref(), folder)?.limited(config.train_limit);
        let (found, file) = (Found::Text(text.record()), Some(text.tokenizer_file()?));
        let (settings, epochs) = (text_settings(config), config.epochs);
        let learner: Box<dyn Learner> = match computer {
            Computer::Cpu(device) => {
                let task = TextSearch::new(config, text)?;
                let start = task.initial();
                Box::new(Searcher::new(task, start, settings, epochs, &device)?)
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let task = DeviceTextSearch::new(config, text, &device, options.precision)?;
                let (w, alphas) = task.initial();
                Box::new(DeviceSearcher::new(device, task, (&w, &alphas), settings, epochs, options.precision)?)
            }
        };
        Ok(Made { learner, found, file })
    })
}

pub(crate) fn text_settings(config: &TextSearchConfig) -> bilevel::SearchConfig {
    let second = SecondOrder { radius: config.radius, ..SecondOrder::clipped(config.grad_clip) };
    bilevel::SearchConfig {
        strategy: match config.order {
            Order::First => Strategy::FirstOrder,
            Order::Second => Strategy::SecondOrder(second),
        },
        sgd: SgdConfig { momentum: 0.0, weight_decay: config.weight_decay },
        clip: Some(config.grad_clip),
        adam: AdamConfig {
            learning_rate: config.alpha_learning_rate,
            betas: (config.alpha_beta1, config.alpha_beta2),
            weight_decay: config.alpha_weight_decay,
            ..AdamConfig::penn_treebank_alphas()
        },
    }
}

pub(crate) fn image_settings(config: &SearchConfig) -> bilevel::SearchConfig {
    bilevel::SearchConfig {
        strategy: match config.order {
            Order::First => Strategy::FirstOrder,
            Order::Second => Strategy::SecondOrder(SecondOrder { radius: config.radius, ..SecondOrder::default() }),
        },
        sgd: SgdConfig { momentum: config.momentum, weight_decay: config.weight_decay },
        clip: Some(config.grad_clip),
        adam: AdamConfig {
            learning_rate: config.alpha_learning_rate,
            betas: (config.alpha_beta1, config.alpha_beta2),
            weight_decay: config.alpha_weight_decay,
            ..AdamConfig::cifar10_alphas()
        },
    }
}

/// The search for a cell, as something that learns step by step.
pub(crate) struct Searcher<T> {
    task: T,
    search: bilevel::Search,
    epochs: usize,
    epoch: usize,
}

impl<T: SearchTask> Searcher<T> {
    pub(crate) fn new(
        task: T,
        (w, alphas): (Vec<f32>, Vec<f32>),
        settings: bilevel::SearchConfig,
        epochs: usize,
        device: &candle_core::Device,
    ) -> Result<Self> {
        let search = bilevel::Search::new(Vector::from_vec(w, device)?, Vector::from_vec(alphas, device)?, settings)?;
        Ok(Self { task, search, epochs, epoch: 0 })
    }

    fn alphas(&self) -> Result<Vec<f32>> {
        Ok(self.search.alphas().to_vec()?)
    }
}

impl<T: SearchTask> Learner for Searcher<T> {
    fn epochs(&self) -> usize {
        self.epochs
    }

    fn steps(&self, epoch: usize) -> usize {
        self.task.steps(epoch)
    }

    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.epoch = epoch;
        self.task.start(epoch, step, self.search.steps())
    }

    fn step(&mut self) -> Result<StepOutcome> {
        let begin = Instant::now();
        let (train, valid) = self.task.next()?;
        let waited = begin.elapsed();
        let learning_rate = self.task.learning_rate(self.epoch, &train);
        let report = self.search.step(&mut self.task, &train, &valid, learning_rate).map_err(step_error)?;
        let seen = self.task.seen();
        Ok(StepOutcome {
            train_loss: seen.likelihood.unwrap_or(report.train_loss),
            valid_loss: Some(report.valid_loss),
            correct: seen.correct,
            examples: seen.examples,
            learning_rate,
            grad_norm: report.grad_norm,
            waited,
        })
    }

    fn end_epoch(&mut self, epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        let alphas = self.alphas()?;
        let Some(scores) = self.task.validate(self.search.weights(), self.search.alphas(), watch)? else {
            return Ok(None);
        };
        Ok(Some(EpochOutcome::new(Some(scores), Some(self.task.alphas_line(epoch, &alphas)))))
    }

    fn genotype(&self) -> Result<Genotype> {
        self.task.genotype(&self.alphas()?)
    }

    fn state(&self) -> Result<State> {
        state::collect(&self.search, self.task.state())
    }

    fn restore(&mut self, state: State) -> std::result::Result<(), String> {
        let own = state::restore(&mut self.search, state, &self.task.state())?;
        self.task.restore(own);
        Ok(())
    }

    fn finish(&mut self, _watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        let weights = self.task.weights(&self.search.weights().to_vec()?, &self.alphas()?)?;
        Ok(Some(Finish::new(weights, Results::default(), self.task.size())))
    }
}

/// The engine knows the epoch, the step of the whole run and the last checkpoint, and fills them in.
pub(crate) fn step_error<E: std::error::Error + Into<Error> + 'static>(error: StepError<E>) -> Error {
    match error {
        StepError::NonFinite { quantity, pass, learning_rate, value, .. } => Error::NonFinite {
            which: match (quantity, pass) {
                (bilevel::Quantity::Loss, Pass::Validation) => "validation loss".into(),
                (bilevel::Quantity::Loss, Pass::Weight) => "training loss".into(),
                (bilevel::Quantity::Loss, pass) => format!("training loss of the {pass} pass"),
                (quantity, _) => quantity.to_string(),
            },
            value,
            epoch: 0,
            step: 0,
            learning_rate,
            checkpoint: None,
        },
        StepError::Problem { source, .. } => source.into(),
        StepError::Vector(error) => error.into(),
        #[cfg(feature = "cuda")]
        StepError::Device(error) => error.into(),
        // The enum may grow; whatever comes has a message.
        other => Error::Step(crate::error::one_line(&other.to_string())),
    }
}
