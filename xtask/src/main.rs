//! `cargo xtask`: the tasks of this repository, one file per task.
//!
//! It drives the `darts` binary and cargo as a person would; nothing that a run needs lives only here.

mod check;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of this repository", max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI checks, cheapest first
    Check(check::Args),
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().task {
        Task::Check(args) => check::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
