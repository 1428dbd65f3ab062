//! Whole passes, forward and backward: as one graph, launched one by one, and every launch by itself.

use std::collections::BTreeMap;
use std::error::Error;

use darts_cells::conv::{
    ConvNetwork, DeviceConv, DeviceConvGradients, DeviceConvPass, DeviceConvPlan, DeviceStatistics, LossConfig,
    NetworkConfig,
};
use darts_cells::genotype::named;
use darts_cells::recurrent::{
    self, DeviceGradients, DevicePass, DeviceRecurrent, Masks, Mode, RecurrentConfig, RecurrentNetwork,
};
use darts_cells::relaxation::Relaxation;
use darts_cells::space::{ConvSpace, RecurrentSpace};
use darts_cuda::{Launch, Memory, Precision, Program};
use serde_json::{Value, json};

use super::measure::{Bench, arbitrary};

/// Timings of a whole pass, and of one launch.
const PASSES: usize = 51;
const LAUNCHES: usize = 5;
/// Rows of the table of launches.
const ROWS: usize = 40;

/// A pass that is laid down, with its numbers in place; memory lives as long as the device.
struct Pass {
    name: String,
    program: Program,
}

/// Times the passes of the searches and of the network that is trained afterwards.
pub(crate) fn run(bench: &Bench, text: &str) -> Result<Value, Box<dyn Error>> {
    let search = ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig::cifar_search(10))?;
    let found = named::conv("DARTS_V2")?;
    let evaluation = ConvNetwork::discrete(&found, &NetworkConfig::cifar_evaluation(10))?;
    let words =
        RecurrentNetwork::supernet(&RecurrentSpace::darts(), &RecurrentConfig { vocabulary: 10_000, hidden: 300 })?;
    let mut passes = Vec::new();
    for precision in [Precision::F32, Precision::Bf16] {
        for (name, network, batch) in [("conv search", &search, 64), ("conv evaluation", &evaluation, 96)] {
            if name.contains(text) {
                passes.push(conv(bench, name, network, bench.batch(batch), precision)?);
            }
        }
        if "recurrent search".contains(text) {
            passes.push(recurrent(bench, "recurrent search", &words, precision)?);
        }
    }
    let results = passes.iter().map(|pass| report(bench, pass)).collect::<Result<Vec<_>, _>>()?;
    Ok(Value::Array(results))
}

fn conv(
    bench: &Bench,
    name: &str,
    network: &ConvNetwork,
    batch: usize,
    precision: Precision,
) -> Result<Pass, Box<dyn Error>> {
    let device = bench.device;
    let (theta, statistics) = network.initialize(1);
    let space = ConvSpace::darts();
    let mut weights = vec![0.0; network.operation_weights()];
    if !weights.is_empty() {
        let alphas = arbitrary(weights.len());
        Relaxation::Softmax.forward(&alphas, space.operations(), &mut weights)?;
    }
    let (h, w) = network.config().image;
    let classes = network.config().classes as u32;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i * 7 % classes).collect();
    let masks = match network.droppable().len() {
        0 => None,
        droppable => Some(device.uploaded(&vec![1.0f32; droppable * batch])?),
    };
    let pass = DeviceConvPass {
        images: bench.filled(batch * h * w * 3)?,
        labels: device.uploaded(&labels)?,
        theta: device.uploaded(&theta)?,
        weights: device.uploaded(&weights)?,
        masks,
        statistics: DeviceStatistics::Batch { update: Some(device.uploaded(&statistics)?) },
        loss: LossConfig::default(),
        gradients: DeviceConvGradients {
            theta: Some(device.allocate(theta.len())?),
            weights: if weights.is_empty() { None } else { Some(device.allocate(weights.len())?) },
            images: None,
        },
        precision,
    };
    let on_device = DeviceConv::new(device, DeviceConvPlan::new(network.clone(), &[batch], &[]))?;
    let mut program = Program::default();
    on_device.lay_down(&mut program, batch, &pass, device.allocate(2)?)?;
    Ok(Pass { name: format!("{name}, batch {batch}, {precision:?}"), program })
}

fn recurrent(
    bench: &Bench,
    name: &str,
    network: &RecurrentNetwork,
    precision: Precision,
) -> Result<Pass, Box<dyn Error>> {
    let (device, batch, steps) = (bench.device, bench.batch(256), 35);
    let (theta, statistics) = network.initialize(1);
    let mut weights = vec![0.0; network.operation_weights()];
    let alphas = arbitrary(weights.len());
    Relaxation::Softmax.forward(&alphas, RecurrentSpace::darts().operations(), &mut weights)?;
    let RecurrentConfig { vocabulary, hidden } = *network.config();
    let words: Vec<u32> = (0..(batch * steps) as u32).map(|i| i.wrapping_mul(7919) % vocabulary as u32).collect();
    let mut on_device = DeviceRecurrent::new(device, network.clone(), batch, steps, Mode::Training)?;
    let mut sequence = on_device.sequence(device)?;
    let keep = vec![1.0f32; vocabulary.max(batch * hidden)];
    let state = Some(&keep[..batch * hidden]);
    let masks = Masks {
        x: state,
        h: state,
        embedding_locked: state,
        output_locked: state,
        embedding_rows: Some(&keep[..vocabulary]),
    };
    on_device.upload(device, &mut sequence, &words, &words, &masks)?;
    let state = bench.filled(batch * hidden)?;
    let pass = DevicePass {
        theta: device.uploaded(&theta)?,
        weights: device.uploaded(&weights)?,
        hidden: state,
        next_hidden: Some(state),
        statistics: DeviceStatistics::Batch { update: Some(device.uploaded(&statistics)?) },
        loss: recurrent::LossConfig { activation: 0.0, temporal: 1e-3 },
        gradients: DeviceGradients {
            theta: Some(device.allocate(theta.len())?),
            weights: Some(device.allocate(weights.len())?),
            hidden: None,
        },
        precision,
    };
    let program = on_device.program(&sequence, &pass)?.clone();
    Ok(Pass { name: format!("{name}, {batch} × {steps}, {precision:?}"), program })
}

/// Launches of one kernel with one grid.
#[derive(Default)]
struct Row {
    count: usize,
    seconds: f64,
}

fn report(bench: &Bench, pass: &Pass) -> Result<Value, Box<dyn Error>> {
    let graph = bench.graph(&pass.program, PASSES)?;
    let launched = bench.launched(&pass.program, PASSES)?;
    let mut rows: BTreeMap<(&str, [u32; 3], u32), Row> = BTreeMap::new();
    for launch in &pass.program.launches {
        let Launch { kernel, grid, shared_bytes, .. } = launch;
        let row = rows.entry((kernel.name, *grid, *shared_bytes)).or_default();
        row.count += 1;
        // One of each kind of launch is timed for all of them, but for those few that take long.
        if row.count > 4 {
            row.seconds *= row.count as f64 / (row.count - 1) as f64;
            continue;
        }
        let mut copies = Program::default();
        copies.launches.push(launch.clone());
        row.seconds += bench.warm(&copies, LAUNCHES)?;
    }
    let total: f64 = rows.values().map(|row| row.seconds).sum();
    println!("{}: {} launches", pass.name, pass.program.launches.len());
    println!(
        "  as a graph {:.3} ms, launched one by one {:.3} ms, the launches alone {:.3} ms",
        graph * 1e3,
        launched * 1e3,
        total * 1e3
    );
    let mut kernels: BTreeMap<&str, Row> = BTreeMap::new();
    for ((kernel, ..), row) in &rows {
        let sum = kernels.entry(kernel).or_default();
        sum.count += row.count;
        sum.seconds += row.seconds;
    }
    let mut kernels: Vec<(&str, Row)> = kernels.into_iter().collect();
    kernels.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    println!("  {:26} {:>6} {:>10} {:>6}", "kernel", "times", "µs in all", "share");
    for (kernel, Row { count, seconds }) in &kernels {
        println!("  {kernel:26} {count:6} {:10.1} {:5.1}%", seconds * 1e6, 100.0 * seconds / total);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    println!("  {:26} {:>18} {:>8} {:>6} {:>9} {:>10}", "launch", "grid", "shared", "times", "µs each", "µs in all");
    for ((kernel, [x, y, z], shared), Row { count, seconds }) in rows.iter().take(ROWS) {
        let grid = format!("{x}×{y}×{z}");
        let each = seconds * 1e6 / *count as f64;
        println!("  {kernel:26} {grid:>18} {shared:8} {count:6} {each:9.2} {:10.1}", seconds * 1e6);
    }
    println!();
    let row = |((kernel, grid, shared), Row { count, seconds }): &((&str, [u32; 3], u32), Row)| json!({ "kernel": kernel, "grid": grid, "shared_bytes": shared, "count": count, "seconds": seconds });
    Ok(json!({
        "name": pass.name,
        "launches": pass.program.launches.len(),
        "graph_seconds": graph,
        "launched_seconds": launched,
        "kernels_seconds": total,
        "by_launch": rows.iter().map(row).collect::<Vec<_>>(),
    }))
}
