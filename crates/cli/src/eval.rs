//! `darts eval`: the error of a trained network on the data that it was trained for.

use darts_runs::Split;
use serde_json::json;

use crate::args::{EvalArgs, SplitArg};
use crate::failure::{Result, print};
use crate::terminal::Terminal;
use crate::{interrupt, meant};

pub(crate) fn run(typed: &EvalArgs) -> Result<()> {
    let (split, name) = match typed.split {
        SplitArg::Valid => (Split::Valid, "valid"),
        SplitArg::Test => (Split::Test, "test"),
    };
    interrupt::listen()?;
    let mut terminal = Terminal::new(typed.machine.quiet);
    let mut options = meant::machine(&typed.machine);
    options.max_bad_images = typed.max_bad_images;
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
