//! How long the kernels take on a GPU, and how far that is from what the memory and the arithmetic of the GPU allow: every kernel at
//! the sizes of the paper's searches, then whole passes of the networks, launch by launch and as one graph.
//!
//! ```text
//! cargo run --release -p darts-cuda --features cuda --example kernel_times -- [--device N] [--json FILE] [--only kernels|passes] \
//!     [--case TEXT] [--batch N] [--once] [--precision f32|tf32|bf16]
//! ```

mod cases;
mod measure;
mod passes;

use std::error::Error;
use std::path::PathBuf;

use darts_cuda::Precision;
use darts_cuda::driver::{Device, Options};
use serde_json::{Value, json};

use measure::{Bench, Settings};

struct Arguments {
    device: usize,
    json: Option<PathBuf>,
    kernels: bool,
    passes: bool,
    /// Only operations and passes whose names hold this.
    case: String,
    settings: Settings,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            device: 0,
            json: None,
            kernels: true,
            passes: true,
            case: String::new(),
            settings: Settings::default(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
            match word.as_str() {
                "--device" => parsed.device = value()?.parse().map_err(|_| "--device wants a number".to_owned())?,
                "--json" => parsed.json = Some(value()?.into()),
                "--batch" => {
                    let batch = value()?.parse().ok().filter(|&batch| batch > 1);
                    parsed.settings.batch = Some(batch.ok_or("--batch wants a number of 2 or more")?);
                }
                "--case" => parsed.case = value()?,
                "--precision" => {
                    parsed.settings.precision = match value()?.as_str() {
                        "f32" => Precision::F32,
                        "tf32" => Precision::Tf32,
                        "bf16" => Precision::Bf16,
                        other => return Err(format!("--precision {other}: expected f32, tf32 or bf16")),
                    }
                }
                "--once" => parsed.settings.once = true,
                "--only" => match value()?.as_str() {
                    "kernels" => parsed.passes = false,
                    "passes" => parsed.kernels = false,
                    other => return Err(format!("--only {other}: expected kernels or passes")),
                },
                _ => return Err(format!("unknown argument {word}")),
            }
        }
        Ok(parsed)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let device = Device::open(arguments.device, Options::default())?;
    let bench = Bench::new(&device, arguments.settings)?;
    let (major, minor) = device.driver_version()?;
    println!("{}, driver for CUDA {major}.{minor}", device.name());
    println!(
        "copy: {:.2} TB/s; products: {:.1} TFMA/s; a launch that does nothing: {:.2} µs in a graph\n",
        bench.bandwidth / 1e12,
        bench.arithmetic / 1e12,
        bench.empty_launch * 1e6
    );
    let kernels = if arguments.kernels { cases::run(&bench, &arguments.case)? } else { Value::Null };
    let passes = if arguments.passes { passes::run(&bench, &arguments.case)? } else { Value::Null };
    if let Some(path) = arguments.json {
        let report = json!({
            "device": device.name(),
            "driver": format!("{major}.{minor}"),
            "bandwidth": bench.bandwidth,
            "arithmetic": bench.arithmetic,
            "empty_launch": bench.empty_launch,
            "kernels": kernels,
            "passes": passes,
        });
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}
