//! The `darts` command. Arguments in, runs out: what was typed (`args`) is turned into what is meant (`meant`), and handed
//! to darts-runs. One file per subcommand; nothing is computed here.

mod args;
mod derive;
mod eval;
mod failure;
mod genotypes;
mod interrupt;
mod meant;
mod outcome;
mod plot;
mod predict;
mod profile;
mod search;
mod terminal;
mod train;
mod verify;

use std::io::{self, Write as _};
use std::process::ExitCode;

use args::{Command, CommandLine};
use clap::Parser as _;
use darts_ops::simd::InstructionSet;
use failure::{Result, usage};

fn main() -> ExitCode {
    // A panic is a bug of ours. It is said in one line, whatever RUST_BACKTRACE is.
    std::panic::set_hook(Box::new(|info| {
        let at = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let what = info.payload_as_str().unwrap_or("no message").lines().next().unwrap_or_default();
        let _ = writeln!(io::stderr(), "error: this is a bug in darts{at}: {what}");
    }));
    let typed = match CommandLine::try_parse() {
        Ok(typed) => typed,
        Err(error) if !error.use_stderr() => {
            // Help and version, on stdout; whoever asked may have stopped reading.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "{}", failure::command_line(&error));
            return ExitCode::from(2);
        }
    };
    let result = instruction_set().and_then(|()| dispatch(&typed.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Refuses a `DARTS_SIMD` that the kernels would ignore.
fn instruction_set() -> Result<()> {
    match InstructionSet::from_environment() {
        Ok(_) => Ok(()),
        Err(error) => Err(usage(format!("DARTS_SIMD: {error}"))),
    }
}

fn dispatch(command: &Command) -> Result<()> {
    match command {
        Command::Search(args) => search::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Derive(args) => derive::run(args),
        Command::Genotypes(args) => genotypes::run(args),
        Command::Plot(args) => plot::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Verify(args) => verify::run(args),
    }
}
