//! What a search or a training says when it ends, and how it is continued when it was stopped.

use std::env;

use darts_runs::{Outcome, StopReason, Stopped, Summary};

use crate::failure::{Failure, Result, failed, print};
use crate::terminal::Terminal;

/// Prints how a run ended: its results on stdout, or how to go on with it.
///
/// # Errors
/// [`Failure::Interrupted`] where Ctrl-C ended it.
pub(crate) fn report(outcome: &Outcome, terminal: &Terminal) -> Result<()> {
    match outcome {
        Outcome::Finished(summary) => print(&results(summary)?),
        Outcome::Stopped(stopped) => match stopped.reason {
            StopReason::Requested => {
                terminal.line(&how_to_go_on(stopped));
                Err(Failure::Interrupted)
            }
            StopReason::MaxSteps => {
                terminal.line(&how_to_go_on(stopped));
                Ok(())
            }
            StopReason::UntilEpoch => {
                terminal.line(&format!("stopped where --until-epoch says, after epoch {}", stopped.epoch));
                Ok(())
            }
        },
    }
}

/// One JSON object: `summary.json` as it is in the folder.
fn results(summary: &Summary) -> Result<String> {
    serde_json::to_string(summary).map_err(failed)
}

fn how_to_go_on(stopped: &Stopped) -> String {
    let mut words: Vec<String> = env::args().map(|word| quoted(&word)).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".into());
    }
    let (step, checkpoint) = (stopped.step, stopped.checkpoint.display());
    format!("stopped after step {step}, saved in {checkpoint}; go on with:\n  {}", words.join(" "))
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_where_a_shell_would_take_them_apart() {
        assert_eq!(quoted("--out=runs/a_1"), "--out=runs/a_1");
        assert_eq!(quoted("my run"), "'my run'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
