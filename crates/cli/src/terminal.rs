//! What a person sees of a run, on stderr: bars with the time left on a terminal, plain lines elsewhere, nothing but
//! warnings under `--quiet`.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use darts_runs::config::RunKind;
use darts_runs::{EpochMetrics, Level, Progress, Started, StepEvent};
use indicatif::{ProgressBar, ProgressStyle};

use crate::interrupt;

/// Without a terminal, a line for steps at most this often.
const LINE_EVERY: Duration = Duration::from_secs(30);

enum Style {
    Quiet,
    Lines { last: Instant },
    Bars { steps: ProgressBar, other: Option<ProgressBar> },
}

/// Shows a run's progress, and stops it on Ctrl-C.
pub(crate) struct Terminal {
    style: Style,
    epochs: usize,
    is_stopping: bool,
}

impl Terminal {
    /// Bars, lines or nothing, by what stderr is.
    pub(crate) fn new(quiet: bool) -> Self {
        let style = if quiet {
            Style::Quiet
        } else if io::stderr().is_terminal() {
            Style::Bars { steps: ProgressBar::hidden(), other: None }
        } else {
            Style::Lines { last: Instant::now() }
        };
        Self { style, epochs: 0, is_stopping: false }
    }

    /// Prints a line above the bars, unless quiet.
    pub(crate) fn line(&self, text: &str) {
        match &self.style {
            Style::Quiet => {}
            Style::Lines { .. } => to_stderr(text),
            Style::Bars { steps, .. } => steps.suspend(|| to_stderr(text)),
        }
    }

    fn acknowledge_interrupt(&mut self) {
        if !self.is_stopping && interrupt::asked() {
            self.is_stopping = true;
            self.line("stopping after this step; Ctrl-C again ends at once");
        }
    }
}

/// Nothing can be done where stderr is closed.
fn to_stderr(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn bar(len: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(len);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn percent(fraction: f64) -> String {
    format!("{:.2} %", 100.0 * fraction)
}

/// The figures of a step, in the order in which a person reads them.
fn step_figures(event: &StepEvent<'_>) -> String {
    let metrics = event.metrics;
    let mut text = format!("loss {:.4}", metrics.train_loss);
    if let Some(loss) = metrics.valid_loss {
        text += &format!(", valid {loss:.4}");
    }
    if let Some(accuracy) = metrics.train_accuracy {
        text += &format!(", accuracy {}", percent(accuracy));
    }
    text
}

impl Progress for Terminal {
    fn started(&mut self, event: &Started) {
        self.epochs = event.epochs;
        let what = match event.kind {
            RunKind::Search => "search",
            RunKind::Train => "training",
        };
        let verb = if event.done > 0 { format!("goes on at step {} of", event.done) } else { "has".into() };
        let (epochs, steps) = (event.epochs, event.steps);
        self.line(&format!("{what} in {} {verb} {steps} steps, {epochs} epochs", event.dir.display()));
        if let Style::Bars { steps, .. } = &mut self.style {
            *steps = bar(event.steps, "{bar:24} {pos}/{len} {msg} · {eta} left");
            steps.set_position(event.done);
            steps.reset_eta();
        }
    }

    fn step(&mut self, event: &StepEvent<'_>) {
        self.acknowledge_interrupt();
        let place = format!("epoch {}/{}", event.metrics.epoch + 1, event.epochs);
        match &mut self.style {
            Style::Quiet => {}
            Style::Lines { last } => {
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    let (step, steps) = (event.step, event.steps);
                    to_stderr(&format!("{place}, step {step}/{steps}: {}", step_figures(event)));
                }
            }
            Style::Bars { steps, other } => {
                if let Some(other) = other.take() {
                    other.finish_and_clear();
                }
                steps.set_message(format!("{place} · {}", step_figures(event)));
                steps.set_position(event.done);
            }
        }
    }

    fn evaluating(&mut self, what: &str, done: usize, of: usize) {
        self.acknowledge_interrupt();
        if let Style::Bars { other, .. } = &mut self.style {
            let other = other.get_or_insert_with(|| bar(of as u64, "{bar:24} {pos}/{len} {msg}"));
            other.set_message(what.to_owned());
            other.set_position(done as u64);
            if done >= of {
                other.finish_and_clear();
            }
        }
    }

    fn epoch(&mut self, metrics: &EpochMetrics) {
        let mut text = format!("epoch {}/{}: loss {:.4}", metrics.epoch + 1, self.epochs, metrics.train_loss);
        if let Some(accuracy) = metrics.train_accuracy {
            text += &format!(", accuracy {}", percent(accuracy));
        }
        if let Some(accuracy) = metrics.valid_accuracy {
            text += &format!(", validation {}", percent(accuracy));
        }
        if let Some(perplexity) = metrics.valid_perplexity {
            let train = metrics.train_loss.exp();
            text += &format!(", perplexity {train:.2}, validation perplexity {perplexity:.2}");
        }
        text += &format!(", {:.0} s", metrics.seconds);
        // Less is no news.
        if let Some(share) = metrics.waited_share().filter(|&share| share >= 0.01) {
            text += &format!(", waiting for data {:.0} %", 100.0 * share);
        }
        self.line(&text);
    }

    fn message(&mut self, level: Level, text: &str) {
        match (level, &self.style) {
            (Level::Info, _) => self.line(text),
            (Level::Warning, Style::Bars { steps, .. }) => steps.suspend(|| to_stderr(&format!("warning: {text}"))),
            (Level::Warning, _) => to_stderr(&format!("warning: {text}")),
        }
    }

    fn should_stop(&self) -> bool {
        interrupt::asked()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Style::Bars { steps, other } = &self.style {
            steps.finish_and_clear();
            if let Some(other) = other {
                other.finish_and_clear();
            }
        }
    }
}
