//! `cargo xtask`: the tasks of this repository, one file per task.
//!
//! It drives the `darts` binary and cargo as a person would; nothing that a run needs lives only here.

mod bench;
mod check;
mod cuda_toolkit;
mod darts;
mod fetch;
mod imagenet;
mod pipeline;
mod reproduce_cifar;
mod reproduce_ptb;
mod stages;
mod transfer_imagenet;
mod transfer_wikitext2;
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
    /// Time kernels and whole steps beside the machine's ceiling
    Bench(bench::Args),
    /// Everything that CI checks, cheapest first
    Check(check::Args),
    /// Bring CUDA's compiler and headers to a machine that has none
    CudaToolkit(cuda_toolkit::Args),
    /// Download, check and unpack datasets
    Fetch(fetch::Args),
    /// Search, select, train and test on CIFAR-10, with a report
    ReproduceCifar(reproduce_cifar::Args),
    /// Search, select, train and test on Penn Treebank, with a report
    ReproducePtb(reproduce_ptb::Args),
    /// Train a cell on ImageNet, or on smaller versions of it, with a report
    TransferImagenet(transfer_imagenet::Args),
    /// Train the cell searched on Penn Treebank on WikiText-2, with a report
    TransferWikitext2(transfer_wikitext2::Args),
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().task {
        Task::Bench(args) => bench::run(&args),
        Task::Check(args) => check::run(&args),
        Task::CudaToolkit(args) => cuda_toolkit::run(&args),
        Task::Fetch(args) => fetch::run(&args),
        Task::ReproduceCifar(args) => reproduce_cifar::run(&args),
        Task::ReproducePtb(args) => reproduce_ptb::run(&args),
        Task::TransferImagenet(args) => transfer_imagenet::run(&args),
        Task::TransferWikitext2(args) => transfer_wikitext2::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is::<darts::Interrupted>() {
                eprintln!("{error}");
                return ExitCode::from(130);
            }
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
