//! `darts eval`: how good a trained network is on the data that it was trained for: error of images, perplexity of text.

use darts_runs::{RunOptions, RunRecord, Split};
use serde_json::json;

use crate::args::{EvalArgs, SplitArg};
use crate::failure::{Result, print, usage};
use crate::terminal::Terminal;
use crate::{interrupt, meant};

pub(crate) fn run(typed: &EvalArgs) -> Result<()> {
    let record = RunRecord::read(&typed.run_dir)?;
    let options = meant::machine(&typed.machine);
    interrupt::listen()?;
    if record.is_text() {
        if record.task == "text" && typed.machine.data.is_none() {
            return Err(usage("this run is on a text of its own: say where it is, --data FILE|DIR"));
        }
        return text(typed, &options);
    }
    images(typed, &options)
}

fn split(typed: &EvalArgs) -> (Split, &'static str) {
    match typed.split {
        SplitArg::Valid => (Split::Valid, "valid"),
        SplitArg::Test => (Split::Test, "test"),
    }
}

fn images(typed: &EvalArgs, options: &RunOptions) -> Result<()> {
    let (split, name) = split(typed);
    let mut terminal = Terminal::new(typed.machine.quiet);
    let options = RunOptions { max_bad_images: typed.max_bad_images, ..options.clone() };
    let result = darts_runs::evaluate(&typed.run_dir, split, &options, &mut terminal)?;
    drop(terminal);
    if typed.json {
        return print(
            &json!({
                "split": name,
                "loss": result.loss,
                "accuracy": result.accuracy,
                "error": result.error_percent / 100.0,
                "top5_error": result.top5_error_percent / 100.0,
                "examples": result.examples,
            })
            .to_string(),
        );
    }
    print(&format!(
        "{name}: error {:.2} %, top-5 error {:.2} %, loss {:.4}, {} images",
        result.error_percent, result.top5_error_percent, result.loss, result.examples
    ))
}

fn text(typed: &EvalArgs, options: &RunOptions) -> Result<()> {
    let (split, name) = split(typed);
    let mut terminal = Terminal::new(typed.machine.quiet);
    let result = darts_runs::evaluate_text(&typed.run_dir, split, options, &mut terminal)?;
    drop(terminal);
    if typed.json {
        return print(
            &json!({
                "split": name,
                "loss": result.loss,
                "perplexity": result.perplexity,
                "bits_per_token": result.bits_per_token,
                "tokens": result.tokens,
                "unknown": result.unknown,
            })
            .to_string(),
        );
    }
    print(&format!(
        "{name}: perplexity {:.2}, {:.4} bits per token, loss {:.4}, {} tokens, {} unknown",
        result.perplexity, result.bits_per_token, result.loss, result.tokens, result.unknown
    ))
}
