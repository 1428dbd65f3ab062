//! Passes of the networks on a GPU: whether they agree with the CPU's, how long a step takes as a graph and launch by launch,
//! and which kernels take the time.
//!
//! ```text
//! cargo run --release -p darts-cells --features cuda,gpu --example device_step -- [search|evaluation|imagenet] [batch]
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use darts_cells::conv::{
    ConvNetwork, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceStatistics, ForwardInput, Gradients,
    LossConfig, NetworkConfig, Statistics,
};
use darts_cells::genotype::named;
use darts_cells::space::ConvSpace;
use darts_cuda::driver::{Device, Options};
use darts_cuda::{Backend, Memory, Program, View};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Numbers in (−1, 1).
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn network(what: &str) -> Result<ConvNetwork> {
    Ok(match what {
        "search" => ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig::cifar_search(10))?,
        "evaluation" => ConvNetwork::discrete(&named::conv("DARTS_V2")?, &NetworkConfig::cifar_evaluation(10))?,
        "imagenet" => ConvNetwork::discrete(&named::conv("DARTS_V2")?, &NetworkConfig::imagenet(1000))?,
        _ => return Err(format!("expected search, evaluation or imagenet, got {what}").into()),
    })
}

/// A network on the device with the vectors of a training step.
struct Step {
    conv: DeviceConv,
    pass: DeviceConvPass,
    results: View<f64>,
    batch: usize,
}

impl Step {
    fn new(device: &Device, network: ConvNetwork, batch: usize) -> Result<Self> {
        let (theta, statistics) = network.initialize(0);
        let (h, w) = network.config().image;
        let weights = vec![0.125f32; network.operation_weights()];
        let labels: Vec<u32> = (0..batch as u32).map(|i| i % network.config().classes as u32).collect();
        let pass = DeviceConvPass {
            images: device.uploaded(&numbers(batch * h * w * 3, 1))?,
            labels: device.uploaded(&labels)?,
            theta: device.uploaded(&theta)?,
            weights: device.uploaded(&weights)?,
            masks: None,
            statistics: DeviceStatistics::Batch { update: Some(device.uploaded(&statistics)?) },
            loss: LossConfig::default(),
            gradients: DeviceConvGradients {
                theta: Some(device.allocate(theta.len())?),
                weights: (!weights.is_empty()).then_some(device.allocate(weights.len())?),
                images: None,
            },
        };
        Ok(Self { conv: DeviceConv::new(device, network, &[batch])?, pass, results: device.allocate(2)?, batch })
    }

    fn program(&self, backward: bool) -> Result<Program> {
        let mut program = Program::default();
        let gradients = if backward { self.pass.gradients } else { DeviceConvGradients::default() };
        self.conv.lay_down(&mut program, self.batch, &DeviceConvPass { gradients, ..self.pass }, self.results)?;
        Ok(program)
    }

    /// Largest differences from the CPU's pass, relative to the largest number of each vector.
    fn compare(&self, device: &Device) -> Result<()> {
        let network = self.conv.network();
        let (theta, _) = network.initialize(0);
        let (h, w) = network.config().image;
        let images = numbers(self.batch * h * w * 3, 1);
        let weights = vec![0.125f32; network.operation_weights()];
        let labels: Vec<u32> = (0..self.batch as u32).map(|i| i % network.config().classes as u32).collect();
        let input = ForwardInput {
            images: &images,
            batch: self.batch,
            theta: &theta,
            weights: &weights,
            active: None,
            masks: None,
        };
        let mut ws = network.workspace(self.batch);
        network.forward(&mut ws, &input, Statistics::Batch { update: None })?;
        let logits = network.logits(&ws).to_vec();
        let loss = network.loss(&mut ws, &labels, self.pass.loss)?;
        let (mut d_theta, mut d_weights) = (vec![0.0; theta.len()], vec![0.0; weights.len()]);
        let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), images: None };
        network.backward(&mut ws, &input, gradients)?;
        device.run(&self.program(true)?)?;
        let difference = |what: &str, found: &[f32], want: &[f32]| {
            let most = want.iter().fold(1e-30f32, |most, x| most.max(x.abs()));
            let apart = found
                .iter()
                .zip(want)
                .fold(0.0f32, |most, (a, b)| if a.is_finite() { most.max((a - b).abs()) } else { f32::INFINITY });
            println!("  {what}: {:.2e} of the largest, {most:.3e}", apart / most);
        };
        difference("logits", &device.downloaded(self.conv.logits(self.batch))?, &logits);
        let results = device.downloaded(self.results)?;
        println!("  loss {} and {}", results[0], loss.loss);
        if let Some(view) = self.pass.gradients.theta {
            difference("gradient of theta", &device.downloaded(view)?, &d_theta);
        }
        if let Some(view) = self.pass.gradients.weights {
            difference("gradient of the operation weights", &device.downloaded(view)?, &d_weights);
        }
        Ok(())
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "search".into());
    let batch: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let device = Device::open(0, Options::default())?;
    println!("{}, {what}, batch {batch}", device.name());
    let small = Step::new(&device, network(&what)?, 8.min(batch))?;
    println!("against the CPU, batch {}:", small.batch);
    small.compare(&device)?;
    let step = Step::new(&device, network(&what)?, batch)?;
    println!("{:.2} GB of buffers", DeviceConv::bytes(step.conv.network(), &[batch]) as f64 / 1e9);
    for (name, backward) in [("forward", false), ("forward and backward", true)] {
        let program = step.program(backward)?;
        let start = Instant::now();
        let graph = device.record(&program)?;
        println!(
            "{name}: {} launches, recorded in {:.1} ms",
            program.launches.len(),
            start.elapsed().as_secs_f64() * 1e3
        );
        let sample = |run: &dyn Fn() -> darts_cuda::Result<()>| -> Result<f64> {
            (0..3).try_for_each(|_| run())?;
            Ok(median((0..20).map(|_| device.time(run)).collect::<darts_cuda::Result<_>>()?))
        };
        let replayed = sample(&|| device.replay(&graph))?;
        let launched = sample(&|| device.run(&program))?;
        println!("  as a graph {replayed:.3} ms, launch by launch {launched:.3} ms");
        if backward {
            profile(&device, &program)?;
        }
    }
    Ok(())
}

/// Time of every launch by itself, summed by kernel, and the longest launches.
fn profile(device: &Device, program: &Program) -> Result<()> {
    const REPEATS: u32 = 20;
    let mut all = Vec::with_capacity(program.launches.len());
    for launch in &program.launches {
        let one = Program { launches: vec![launch.clone(); REPEATS as usize] };
        let graph = device.record(&one)?;
        device.replay(&graph)?;
        let time = (0..3).map(|_| device.time(|| device.replay(&graph))).collect::<darts_cuda::Result<Vec<_>>>()?;
        all.push(median(time) / f64::from(REPEATS) * 1e3);
    }
    let mut kernels: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for (launch, time) in program.launches.iter().zip(&all) {
        let entry = kernels.entry(launch.kernel.name).or_default();
        *entry = (entry.0 + 1, entry.1 + time);
    }
    let total: f64 = all.iter().sum();
    let mut kernels: Vec<_> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    println!("  kernel by kernel, {:.3} ms in all:", total / 1e3);
    for (name, (count, time)) in kernels {
        println!(
            "  {name:26} {count:5} launches {:9.3} ms {:5.1} % {:8.2} us each",
            time / 1e3,
            100.0 * time / total,
            time / count as f64
        );
    }
    let mut longest: Vec<usize> = (0..all.len()).collect();
    longest.sort_by(|&a, &b| all[b].total_cmp(&all[a]));
    println!("  the longest launches:");
    for index in longest.into_iter().take(40) {
        let launch = &program.launches[index];
        let (name, grid, shared) = (launch.kernel.name, launch.grid, launch.shared_bytes);
        println!("  {index:5} {name:26} {:8.2} us, grid {grid:?}, {shared} bytes of shared memory", all[index]);
    }
    Ok(())
}
