//! How a command ends other than well: the exit status, and at most three lines on stderr. Decides no command's outcome.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Why a command did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong: exit 2.
    Usage(String),
    /// What was asked for failed: exit 1.
    Failed(anyhow::Error),
    /// The user stopped it, and what it says was printed: exit 130.
    Interrupted,
    /// Whoever read stdout went away: exit 0, without a word.
    NobodyReads,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A wrong command line.
pub(crate) fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage(message.into())
}

/// A failure with this message.
pub(crate) fn failed(message: impl Display) -> Failure {
    Failure::Failed(anyhow::anyhow!("{message}"))
}

impl From<darts_runs::Error> for Failure {
    fn from(error: darts_runs::Error) -> Self {
        match error {
            darts_runs::Error::Config { field, value, expected } => {
                Self::Usage(format!("--{} {value} is not possible: expected {expected}", field.replace('_', "-")))
            }
            // Its message holds what its source says.
            other => failed(other),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// Prints what there is to say, and gives the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Usage(message) => {
                error_line(message);
                ExitCode::from(2)
            }
            Self::Failed(error) => {
                error_line(&format!("{error:#}"));
                ExitCode::FAILURE
            }
            Self::Interrupted => ExitCode::from(130),
            Self::NobodyReads => ExitCode::SUCCESS,
        }
    }
}

fn error_line(message: &str) {
    // Nothing can be done where stderr is closed.
    let _ = writeln!(io::stderr(), "error: {}", one_line(message));
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What clap says of a wrong command line, in at most three lines: what is wrong, a tip, where to read more.
pub(crate) fn command_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraphs: Vec<String> =
        text.split("\n\n").map(one_line).filter(|p| !p.is_empty() && !p.starts_with("Usage:")).collect();
    let mut lines: Vec<String> = paragraphs.into_iter().filter(|p| !p.starts_with("For more information")).collect();
    if let [.., first, last] = lines.as_slice() {
        // What is left over belongs to the sentence before it: "[possible values: …]".
        if !last.starts_with("tip:") {
            lines = vec![format!("{first} {last}")];
        }
    }
    lines.truncate(2);
    let program = text.split_once("Usage: ").map_or("darts", |(_, usage)| usage);
    let program: Vec<&str> =
        program.split_whitespace().take_while(|w| w.chars().all(|c| c.is_ascii_lowercase())).collect();
    lines.push(format!("see '{} --help'", if program.is_empty() { "darts".into() } else { program.join(" ") }));
    lines.join("\n")
}

/// Prints a line of results.
///
/// # Errors
/// [`Failure::NobodyReads`] where the reader went away; otherwise why it could not be written.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::NobodyReads,
        _ => failed(format!("cannot write to stdout: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::command_line;
    use crate::args::CommandLine;

    fn said(line: &str) -> String {
        command_line(&CommandLine::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn a_wrong_command_line_takes_three_lines_at_most_and_names_what_is_wrong() {
        let cases = [
            ("darts search cifar10", "--out"),
            ("darts search cifar11 --out x", "cifar11"),
            ("darts search cifar10 --out x --epoch 3", "--epoch"),
            ("darts search cifar10 --out x --epochs three", "three"),
            ("darts search cifar10 --out x --order third", "third"),
            ("darts search cifar10 --out x --device gpu", "cpu, cuda or cuda:I"),
            ("darts search cifar10 --out x --threads 0", "1..=1024"),
            ("darts sreach", "search"),
            ("darts", "subcommand"),
            ("darts plot", "GENOTYPE"),
        ];
        for (line, named) in cases {
            let said = said(line);
            assert!(said.contains(named), "{line}: {said}");
            assert!(said.lines().count() <= 3, "{line}: {said}");
            assert!(said.lines().last().unwrap().starts_with("see 'darts"), "{line}: {said}");
        }
    }
}
