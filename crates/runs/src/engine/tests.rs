//! The loop with a learner of six numbers: killed, stopped and damaged in every way, it must end in the same bytes.

use std::fs;
use std::path::Path;

use darts_cells::genotype::named;
use serde_json::json;

use super::*;
use crate::config::{DataConfig, SearchConfig};
use crate::folder::RunRecord;

const EPOCHS: usize = 3;

/// Where the toy fails as a killed process would: without saving anything.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    /// In the step with this number, counted over the whole run.
    at_step: Option<u64>,
    /// When a checkpoint is about to be written at this number of steps: the journals already have their lines.
    at_save: Option<u64>,
    /// In the validation of this epoch.
    at_validation: Option<usize>,
    /// The training loss is NaN from this step on.
    nan_at: Option<u64>,
}

struct Toy {
    w: Vec<f32>,
    updates: u64,
    at: (usize, usize),
    fault: Fault,
}

impl Toy {
    fn new(fault: Fault) -> Self {
        Self { w: (0..6).map(|i| i as f32 * 0.1).collect(), updates: 0, at: (0, 0), fault }
    }
}

/// A folder in memory where there is one: these tests sync thousands of files.
fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn killed() -> Error {
    Error::bad_file("toy", "killed")
}

impl Learner for Toy {
    fn epochs(&self) -> usize {
        EPOCHS
    }
    fn steps(&self, epoch: usize) -> usize {
        5 + epoch
    }
    fn start(&mut self, epoch: usize, step: usize) -> Result<()> {
        self.at = (epoch, step);
        Ok(())
    }
    fn step(&mut self) -> Result<StepOutcome> {
        let (epoch, step) = self.at;
        self.updates += 1;
        if self.fault.at_step == Some(self.updates) {
            return Err(killed());
        }
        for (i, w) in self.w.iter_mut().enumerate() {
            *w = (*w * 1.7 + (epoch * 31 + step * 7 + i) as f32 * 0.01).sin();
        }
        self.at.1 += 1;
        let nan = self.fault.nan_at.is_some_and(|at| self.updates >= at);
        Ok(StepOutcome {
            train_loss: if nan { f64::NAN } else { f64::from(self.w[0]).abs() + 0.1 },
            valid_loss: Some(0.5),
            correct: Some(3),
            examples: 4,
            learning_rate: 0.025,
            grad_norm: 1.0,
            waited: Duration::ZERO,
        })
    }
    fn end_epoch(&mut self, epoch: usize, watch: &mut Watch<'_>) -> Result<Option<EpochOutcome>> {
        if self.fault.at_validation == Some(epoch) {
            return Err(killed());
        }
        for done in 0..4 {
            if watch.evaluating("validation", done, 4) {
                return Ok(None);
            }
        }
        let alphas = Some(json!({ "epoch": epoch, "alphas": self.w }));
        Ok(Some(EpochOutcome { valid_loss: Some(1.0), valid_accuracy: Some(0.5), valid_perplexity: None, alphas }))
    }
    fn genotype(&self) -> Result<Genotype> {
        Ok(Genotype::Conv(named::conv("DARTS_V2")?))
    }
    fn state(&self) -> Result<State> {
        if self.fault.at_save == Some(self.updates) {
            return Err(killed());
        }
        Ok(State {
            counters: [("updates".to_string(), self.updates)].into(),
            vectors: vec![("w".into(), self.w.clone())],
        })
    }
    fn restore(&mut self, mut state: State) -> std::result::Result<(), String> {
        self.updates = *state.counters.get("updates").ok_or("it has no counter updates")?;
        self.w = state.take("w", 6)?;
        Ok(())
    }
    fn finish(&mut self, _watch: &mut Watch<'_>) -> Result<Option<Finish>> {
        Ok(Some(Finish {
            weights: self.w.iter().flat_map(|v| v.to_le_bytes()).collect(),
            test: Results::default(),
            parameters: 6,
            parameters_with_auxiliary: None,
            multiply_adds: 6,
        }))
    }
}

/// Stops after a number of questions.
#[derive(Default)]
struct StopAfter {
    questions: std::sync::atomic::AtomicU64,
    most: Option<u64>,
    warnings: Vec<String>,
}

impl Progress for StopAfter {
    fn message(&mut self, level: Level, text: &str) {
        assert_eq!(level, Level::Warning);
        self.warnings.push(text.into());
    }
    fn should_stop(&self) -> bool {
        let asked = self.questions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.most.is_some_and(|most| asked >= most)
    }
}

fn run(dir: &Path, options: &RunOptions, fault: Fault, progress: &mut dyn Progress) -> Result<Outcome> {
    let config = SearchConfig::for_data(DataConfig::synthetic_images());
    let mut folder = RunFolder::open(dir.into(), RunKind::Search, "synthetic-images", &config, true)?;
    let json = serde_json::to_value(&config).unwrap();
    folder.begin(RunRecord::now(RunKind::Search, "synthetic-images", json, 0, "cpu".into(), 1))?;
    drive(RunKind::Search, &folder, &mut Toy::new(fault), options, progress)
}

fn options() -> RunOptions {
    RunOptions { checkpoint_every: Some(2), ..RunOptions::default() }
}

fn results(dir: &Path) -> Vec<Vec<u8>> {
    [ALPHAS, WEIGHTS, GENOTYPE].iter().map(|name| fs::read(dir.join(name)).unwrap()).collect()
}

/// The lines of metrics.jsonl without their times.
fn timeless(dir: &Path) -> Vec<Metric> {
    let mut lines = read_metrics(dir).unwrap();
    for line in &mut lines {
        match line {
            Metric::Step(step) => step.seconds = 0.0,
            Metric::Epoch(epoch) => {
                (epoch.seconds, epoch.step_seconds, epoch.images_per_second) = (0.0, 0.0, None);
            }
        }
    }
    lines
}

fn uninterrupted() -> (tempfile::TempDir, Vec<Vec<u8>>, Vec<Metric>) {
    let dir = tempdir();
    assert!(matches!(run(dir.path(), &options(), Fault::default(), &mut ()).unwrap(), Outcome::Finished(_)));
    let (bytes, lines) = (results(dir.path()), timeless(dir.path()));
    (dir, bytes, lines)
}

#[test]
fn killed_at_every_step_save_and_validation_it_ends_in_the_bytes_of_an_uninterrupted_run() {
    let (_whole, bytes, lines) = uninterrupted();
    let steps = 5 + 6 + 7;
    let faults = (1..=steps)
        .flat_map(|n| [Fault { at_step: Some(n), ..Fault::default() }, Fault { at_save: Some(n), ..Fault::default() }])
        .chain((0..EPOCHS).map(|e| Fault { at_validation: Some(e), ..Fault::default() }));
    for fault in faults {
        let dir = tempdir();
        // at_save of a step where nothing is saved never fires; then the run simply ends.
        if let Err(error) = run(dir.path(), &options(), fault, &mut ()) {
            assert!(error.to_string().contains("killed"), "{error}");
        }
        assert!(matches!(run(dir.path(), &options(), Fault::default(), &mut ()).unwrap(), Outcome::Finished(_)));
        assert_eq!(results(dir.path()), bytes, "{fault:?}");
        assert_eq!(timeless(dir.path()), lines, "{fault:?}");
    }
}

#[test]
fn stopped_at_every_question_it_ends_in_the_bytes_of_an_uninterrupted_run() {
    let (_whole, bytes, lines) = uninterrupted();
    for most in 0..60 {
        let dir = tempdir();
        let mut progress = StopAfter { most: Some(most), ..StopAfter::default() };
        let first = run(dir.path(), &options(), Fault::default(), &mut progress).unwrap();
        if let Outcome::Stopped(stopped) = first {
            assert_eq!(stopped.reason, StopReason::Requested);
            assert!(stopped.checkpoint.exists());
        }
        assert!(matches!(run(dir.path(), &options(), Fault::default(), &mut ()).unwrap(), Outcome::Finished(_)));
        assert_eq!(
            (results(dir.path()), timeless(dir.path())),
            (bytes.clone(), lines.clone()),
            "after {most} questions"
        );
    }
}

#[test]
fn max_steps_are_those_of_one_invocation() {
    let (_whole, bytes, lines) = uninterrupted();
    let dir = tempdir();
    let limited = RunOptions { max_steps: Some(4), ..options() };
    let mut stops = Vec::new();
    while let Outcome::Stopped(stopped) = run(dir.path(), &limited, Fault::default(), &mut ()).unwrap() {
        assert_eq!(stopped.reason, StopReason::MaxSteps);
        stops.push(stopped.step);
    }
    assert_eq!(stops, [4, 8, 12, 16]);
    assert_eq!((results(dir.path()), timeless(dir.path())), (bytes, lines));
}

#[test]
fn a_damaged_newest_checkpoint_is_named_and_costs_no_bytes() {
    let (_whole, bytes, lines) = uninterrupted();
    let dir = tempdir();
    run(dir.path(), &options(), Fault { at_step: Some(11), ..Fault::default() }, &mut ()).unwrap_err();
    let newest = checkpoint::list(&dir.path().join(CHECKPOINTS)).unwrap().pop().unwrap();
    let half = fs::read(&newest).unwrap();
    fs::write(&newest, &half[..half.len() / 2]).unwrap();
    let mut progress = StopAfter::default();
    run(dir.path(), &options(), Fault::default(), &mut progress).unwrap();
    assert_eq!(progress.warnings.len(), 1);
    assert!(progress.warnings[0].contains(&newest.display().to_string()));
    assert!(newest.with_extension("damaged").exists());
    assert_eq!(checkpoint::list(&dir.path().join(CHECKPOINTS)).unwrap().len(), 2);
    assert_eq!((results(dir.path()), timeless(dir.path())), (bytes, lines));
}

#[test]
fn a_loss_that_is_no_number_names_step_rate_and_last_good_checkpoint() {
    let dir = tempdir();
    let error = run(dir.path(), &options(), Fault { nan_at: Some(9), ..Fault::default() }, &mut ()).unwrap_err();
    let text = error.to_string();
    let good = checkpoint::list(&dir.path().join(CHECKPOINTS)).unwrap().pop().unwrap();
    for part in ["training loss became NaN", "step 9", "0.025", &good.display().to_string()] {
        assert!(text.contains(part), "{text}");
    }
    assert!(good.to_string_lossy().contains("step-0000000008"), "{}", good.display());
}

#[test]
fn a_journal_that_vanishes_in_mid_run_stops_it_with_what_was_saved_intact() {
    struct Remove(PathBuf);
    impl Progress for Remove {
        fn step(&mut self, event: &StepEvent<'_>) {
            if event.done == 7 {
                fs::remove_file(&self.0).unwrap();
            }
        }
    }
    let dir = tempdir();
    let mut progress = Remove(dir.path().join(METRICS));
    let error = run(dir.path(), &options(), Fault::default(), &mut progress).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl vanished") && !error.contains('\n'), "{error}");
    assert_eq!(checkpoint::list(&dir.path().join(CHECKPOINTS)).unwrap().len(), 2);
}

#[test]
fn what_a_run_waited_for_is_said_where_it_is_news() {
    let epoch = |waited_seconds, valid_perplexity| EpochMetrics {
        step_seconds: 100.0,
        waited_seconds,
        valid_perplexity,
        ..EpochMetrics::default()
    };
    let images = [epoch(50.0, None), epoch(20.0, None)];
    assert_eq!(
        limit(&images, true).unwrap(),
        "the GPU waited for images 35.0 % of the time: reading and decoding them on the processor is the limit"
    );
    let quick = [epoch(0.2, None)];
    assert_eq!(limit(&quick, true).unwrap(), "the GPU waited for images 0.2 % of the time: the GPU is the limit");
    assert_eq!(limit(&quick, false), None);
    assert_eq!(limit(&[EpochMetrics::default()], true), None);
    let text = [epoch(10.0, Some(80.0))];
    assert_eq!(
        limit(&text, false).unwrap(),
        "the steps waited for text 10.0 % of the time: preparing it on the processor is the limit"
    );
}
