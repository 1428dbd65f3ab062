//! Every operation at the sizes of the paper's searches: what it must move and compute, and how long it takes.
//!
//! "Must move" counts every tensor that the operation reads or writes once, as if the cache were perfect, and no scratch memory.

use std::error::Error;

use darts_cuda::augment::{self, Colours, Example, Source};
use darts_cuda::conv::{self, Activation, Branch, ConvShape};
use darts_cuda::fold::Pending;
use darts_cuda::matmul::{self, Matrix};
use darts_cuda::pool::{self, PoolKind, PoolShape};
use darts_cuda::sep_unit::{self, UnitBackward, UnitForward, UnitShape};
use darts_cuda::{
    Affine, BnTerm, Images, Memory, Precision, Program, Result, Upstream, UpstreamTerm, View, Write, batch_norm, head,
    mix, vector,
};
use serde_json::{Value, json};

use super::measure::{Bench, TIMINGS};

/// An operation that is laid down.
struct Case {
    name: String,
    program: Program,
    /// Bytes that it must move.
    bytes: f64,
    /// Fused multiply-adds that it must make.
    products: f64,
}

/// Times all cases whose names hold `text`, prints their table.
pub(crate) fn run(bench: &Bench, text: &str) -> std::result::Result<Value, Box<dyn Error>> {
    println!(
        "{:42} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6}",
        "operation", "blocks", "launches", "cold µs", "warm µs", "MB", "GB/s", "of copy", "MFMA", "TFMA/s", "bound"
    );
    let mut rows = Vec::new();
    for stage in [(32, 16), (16, 32), (8, 64)] {
        let (size, c) = stage;
        let images = Images { n: bench.batch(64), h: size, w: size, c };
        for case in convolutional(bench, images)?.iter().filter(|case| case.name.contains(text)) {
            rows.push(report(bench, case)?);
        }
    }
    let others = ends(bench)?.into_iter().chain(recurrent(bench)?).chain(vectors(bench)?).chain(images(bench)?);
    for case in others.filter(|case| case.name.contains(text)) {
        rows.push(report(bench, &case)?);
    }
    println!();
    Ok(Value::Array(rows))
}

fn report(bench: &Bench, case: &Case) -> Result<Value> {
    let Case { name, program, bytes, products } = case;
    let (cold, warm) = (bench.cold(program)?, bench.warm(program, TIMINGS)?);
    let bound = (bytes / bench.bandwidth).max(products / bench.arithmetic);
    let blocks = program.launches.iter().map(|launch| launch.grid.iter().product::<u32>()).max().unwrap_or(0);
    println!(
        "{name:42} {blocks:8} {:8} {:7.1} {:7.1} {:7.1} {:7.0} {:6.0}% {:7.0} {:6.2} {:5.0}%",
        program.launches.len(),
        cold * 1e6,
        warm * 1e6,
        bytes / 1e6,
        bytes / cold / 1e9,
        100.0 * bytes / cold / bench.bandwidth,
        products / 1e6,
        products / cold / 1e12,
        100.0 * bound / cold,
    );
    Ok(json!({
        "name": name, "launches": program.launches.len(), "blocks": blocks, "cold_seconds": cold, "warm_seconds": warm,
        "bytes": bytes, "products": products, "bound_seconds": bound,
    }))
}

fn bytes(views: &[usize]) -> f64 {
    4.0 * views.iter().sum::<usize>() as f64
}

/// What the edges of a cell do that leave one node, as many as four, in a normal cell and, with stride 2, in a reduction cell.
fn convolutional(bench: &Bench, images: Images) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for edges in [4, 1] {
        // Both kinds of separable edges, then both kinds of dilated ones.
        let of = |stride: usize| {
            let shape =
                move |(kernel, dilation)| UnitShape { kernel, stride, dilation, c_in: images.c, c_out: images.c };
            [(3, 1), (5, 1), (3, 2), (5, 2)]
                .into_iter()
                .flat_map(move |kind| vec![shape(kind); edges])
                .collect::<Vec<_>>()
        };
        let (all, second) = (of(1), of(1).into_iter().take(2 * edges).collect::<Vec<_>>());
        cases.push(units_forward(bench, "first units", images, &all, true)?);
        cases.push(units_forward(bench, "second units", images, &second, false)?);
        cases.push(units_backward(bench, "first units", images, &all, true)?);
        cases.push(units_backward(bench, "second units", images, &second, false)?);
    }
    for (kernel, dilation) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
        let shape = UnitShape { kernel, stride: 1, dilation, c_in: images.c, c_out: images.c };
        let name = format!("k{kernel} d{dilation}");
        cases.push(units_forward(bench, &name, images, &[shape; 4], true)?);
        cases.push(units_backward(bench, &name, images, &[shape; 4], true)?);
    }
    if images.h > 8 {
        let shapes: Vec<UnitShape> = [(3, 1), (5, 1), (3, 2), (5, 2)]
            .into_iter()
            .flat_map(|(kernel, dilation)| {
                [UnitShape { kernel, stride: 2, dilation, c_in: images.c, c_out: images.c }; 4]
            })
            .collect();
        cases.push(units_forward(bench, "first units, stride 2", images, &shapes, true)?);
        cases.push(units_backward(bench, "first units, stride 2", images, &shapes, true)?);
        cases.extend(pools(bench, images, 2)?);
    }
    cases.extend(pools(bench, images, 1)?);
    // A node of two edges and one of five; seven candidates each that compute something.
    for edges in [2, 5] {
        cases.extend(mixes(bench, images, 7 * edges)?);
    }
    cases.extend(norms(bench, images, 16)?);
    // The preprocessing of the concatenated output of a cell, for one cell and for two, and after a reduction.
    let parts = [images.c; 4];
    let pointwise = ConvShape { kernel: (1, 1), stride: (1, 1), output: (images.h, images.w), c_in: 4 * images.c };
    for readers in [1, 2] {
        cases.extend(convolution(bench, "1×1", images, &parts, pointwise, (readers, &[((0, 0), images.c)]))?);
    }
    if images.h > 8 {
        let reduce = ConvShape { stride: (2, 2), output: (images.h / 2, images.w / 2), ..pointwise };
        let branches = [((0, 0), images.c), ((1, 1), images.c)];
        cases.extend(convolution(bench, "factorized reduce", images, &parts, reduce, (1, &branches))?);
        // What the four edges out of an input of a reduction cell do that skip.
        let edge = ConvShape { c_in: images.c, ..reduce };
        let branches = [((0, 0), images.c / 2), ((1, 1), images.c / 2)];
        cases.extend(convolution(bench, "factorized reduce", images, &[images.c], edge, (4, &branches))?);
    }
    Ok(cases)
}

fn size(images: Images) -> String {
    format!("C={} {}×{}", images.c, images.h, images.w)
}

/// Units that read one input, or each its own through a norm.
fn units_forward(bench: &Bench, what: &str, images: Images, shapes: &[UnitShape], shared: bool) -> Result<Case> {
    let x = bench.filled(images.len())?;
    let affine = Affine { scale: bench.filled(images.c)?, shift: bench.filled(images.c)? };
    let mut units = Vec::new();
    let (mut moved, mut products) = (if shared { images.len() } else { 0 }, 0);
    for &shape in shapes {
        let out = shape.output(images);
        units.push((
            if shared { x } else { bench.filled(images.len())? },
            UnitForward {
                shape,
                depthwise: bench.filled(shape.depthwise_len())?,
                pointwise: bench.filled(shape.pointwise_len())?,
                z: bench.device.allocate(out.len())?,
                sums: Some(bench.device.allocate(2 * out.c)?),
            },
        ));
        moved += out.len() + shape.depthwise_len() + shape.pointwise_len() + if shared { 0 } else { images.len() };
        products += out.pixels() * shape.c_in * (shape.kernel * shape.kernel + shape.c_out);
    }
    let scratch = bench.device.allocate(sep_unit::forward_scratch_len(images, shapes.iter().copied()))?;
    let mut program = Program::default();
    let units_alone: Vec<UnitForward> = units.iter().map(|(_, unit)| *unit).collect();
    let inputs: Vec<sep_unit::Forward> = match shared {
        true => vec![sep_unit::Forward { x, affine: None, units: &units_alone }],
        false => units
            .iter()
            .map(|(x, unit)| sep_unit::Forward { x: *x, affine: Some(affine), units: std::slice::from_ref(unit) })
            .collect(),
    };
    sep_unit::forward_all(&mut program, bench.precision(), images, &inputs, scratch);
    let name = format!("{} {what} ×{} forward", size(images), shapes.len());
    Ok(Case { name, program, bytes: bytes(&[moved]), products: products as f64 })
}

fn units_backward(bench: &Bench, what: &str, images: Images, shapes: &[UnitShape], shared: bool) -> Result<Case> {
    let x = bench.filled(images.len())?;
    let affine = Affine { scale: bench.filled(images.c)?, shift: bench.filled(images.c)? };
    let out = shapes[0].output(images);
    let per_channel = bench.filled(out.c)?;
    // Four edges go to four nodes, whatever they do.
    let nodes = shapes.len().min(4);
    let gradients: Vec<View> = (0..nodes).map(|_| bench.filled(out.len())).collect::<Result<_>>()?;
    let upstream =
        |unit: usize| [UpstreamTerm { grad: gradients[unit % nodes], scale: Some(per_channel), sample_scale: None }];
    let terms: Vec<[UpstreamTerm; 1]> = (0..shapes.len()).map(upstream).collect();
    let mut inputs = Vec::new();
    let mut units = Vec::new();
    let (mut moved, mut products) = (nodes * out.len(), 0);
    for (shape, terms) in shapes.iter().zip(&terms) {
        units.push(UnitBackward {
            shape: *shape,
            depthwise: bench.filled(shape.depthwise_len())?,
            pointwise: bench.filled(shape.pointwise_len())?,
            upstream: Upstream {
                terms,
                bn: Some(BnTerm { z: bench.filled(out.len())?, b: per_channel, d: per_channel }),
            },
            weights: Some((bench.filled(shape.depthwise_len())?, bench.filled(shape.pointwise_len())?)),
        });
        moved += out.len() + 2 * shape.depthwise_len() + 2 * shape.pointwise_len();
        products += out.pixels() * shape.c_in * (3 * shape.kernel * shape.kernel + 2 * shape.c_out);
    }
    let groups: Vec<&[UnitBackward]> = if shared { vec![&units] } else { units.chunks(1).collect() };
    for group in &groups {
        let (x, sums) =
            if shared { (x, None) } else { (bench.filled(images.len())?, Some(bench.device.allocate(2 * images.c)?)) };
        let du = bench.filled(images.len())?;
        let affine = (!shared).then_some(affine);
        inputs.push(sep_unit::Backward { x, affine, units: group, skips: &[], du, write: Write::Overwrite, sums });
        moved += 2 * images.len();
    }
    let grouped: Vec<Vec<UnitShape>> =
        groups.iter().map(|group| group.iter().map(|unit| unit.shape).collect()).collect();
    let grouped: Vec<&[UnitShape]> = grouped.iter().map(Vec::as_slice).collect();
    let scratch = bench.device.allocate(sep_unit::backward_scratch_len(images, &grouped))?;
    let partials = sep_unit::backward_partials_len(images, grouped.iter().copied().flatten().copied());
    let mut pending = Pending::new(bench.device.allocate(partials)?);
    let mut program = Program::default();
    sep_unit::backward_all(&mut program, bench.precision(), images, &inputs, scratch, &mut pending);
    pending.fold(&mut program);
    let name = format!("{} {what} ×{} backward", size(images), shapes.len());
    Ok(Case { name, program, bytes: bytes(&[moved]), products: products as f64 })
}

/// The two pools of a node that four edges leave.
fn pools(bench: &Bench, images: Images, stride: usize) -> Result<[Case; 2]> {
    let shape = |kind| PoolShape { kind, kernel: 3, stride, padding: 1, relu: false };
    let shapes = [shape(PoolKind::Max), shape(PoolKind::Average)];
    let out = shapes[0].output(images);
    let (x, dx) = (bench.filled(images.len())?, bench.filled(images.len())?);
    let per_channel = bench.filled(images.c)?;
    let gradients: Vec<View> = (0..4).map(|_| bench.filled(out.len())).collect::<Result<_>>()?;
    let term = |&grad: &View| pool::Term {
        grad,
        scale: Some(per_channel),
        sample_scale: None,
        bn: Some([per_channel, per_channel]),
    };
    let terms: Vec<pool::Term> = gradients.iter().map(term).collect();
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for (index, shape) in shapes.into_iter().enumerate() {
        let z = bench.filled(out.len())?;
        forward.push(pool::Forward { x, shape, z, sums: Some(bench.device.allocate(2 * images.c)?) });
        let write = if index == 0 { Write::Overwrite } else { Write::Accumulate };
        backward.push(pool::Backward { x, shape, z, terms: &terms, dx, write });
    }
    let scratch = bench.device.allocate(2 * pool::forward_scratch_len(images, shapes[0]))?;
    let (mut program, mut back) = (Program::default(), Program::default());
    pool::forward(&mut program, images, &forward, scratch);
    pool::backward(&mut back, images, &backward);
    let name = |way: &str| format!("{} pools, stride {stride}, {way}", size(images));
    Ok([
        Case { name: name("forward"), program, bytes: bytes(&[images.len(), 2 * out.len()]), products: 0.0 },
        Case { name: name("backward"), program: back, bytes: bytes(&[2 * images.len(), 6 * out.len()]), products: 0.0 },
    ])
}

/// A node's sum, and the sums for its backward.
fn mixes(bench: &Bench, images: Images, count: usize) -> Result<[Case; 2]> {
    let per_channel = bench.filled(images.c)?;
    let (mut terms, mut reduced) = (Vec::new(), Vec::new());
    for index in 0..count {
        let z = bench.filled(images.len())?;
        let weight = Some(per_channel.slice(index % images.c..index % images.c + 1));
        terms.push(mix::Term { z, scale: Some(per_channel), shift: Some(per_channel), weight, sample_scale: None });
        reduced.push(mix::ReduceTerm { z, sample_scale: None, sums: bench.device.allocate(2 * images.c)? });
    }
    let node = bench.filled(images.len())?;
    let scratch = bench.device.allocate(mix::reduce_scratch_len(images, count))?;
    let (mut forward, mut reduce) = (Program::default(), Program::default());
    mix::forward(&mut forward, images, &terms, node, Write::Overwrite);
    mix::reduce(&mut reduce, images, node, &reduced, scratch);
    let (moved, products) = (bytes(&[(count + 1) * images.len()]), (count * images.len()) as f64);
    let name = |way: &str| format!("{} mix of {count}, {way}", size(images));
    Ok([
        Case { name: name("forward"), program: forward, bytes: moved, products },
        Case { name: name("reduce"), program: reduce, bytes: moved, products: 2.0 * products },
    ])
}

fn norms(bench: &Bench, images: Images, count: usize) -> Result<[Case; 2]> {
    let c = images.c;
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let sums = bench.device.uploaded(&vec![1.0f64; 2 * c])?;
        let coefficients = bench.filled(4 * c)?;
        let running = Some([bench.filled(c)?, bench.filled(c)?]);
        let elements = images.pixels();
        forward.push(batch_norm::Statistics { sums, count: elements, gamma: None, beta: None, running, coefficients });
        let upstream = bench.filled(3 * c)?;
        backward.push(batch_norm::Backward {
            sums,
            count: elements,
            norm: Some(batch_norm::NormBackward { coefficients, upstream, d_gamma: None, d_beta: None }),
            weight: Some(bench.filled(1)?),
            training: true,
            d_weight: Some(bench.filled(1)?),
        });
    }
    let (mut program, mut back) = (Program::default(), Program::default());
    batch_norm::statistics(&mut program, &forward);
    batch_norm::backward(&mut back, &backward);
    let name = |way: &str| format!("{} norms ×{count}, {way}", size(images));
    Ok([
        Case { name: name("statistics"), program, bytes: bytes(&[12 * c * count]), products: 0.0 },
        Case { name: name("backward"), program: back, bytes: bytes(&[11 * c * count]), products: 0.0 },
    ])
}

/// Convolutions of one geometry: how many, and the offset and channels of each branch.
type Convolutions<'a> = (usize, &'a [((isize, isize), usize)]);

/// Dense convolutions of one concatenated input, with their norms' sums, and both gradients, in every precision.
fn convolution(
    bench: &Bench,
    what: &str,
    images: Images,
    parts: &[usize],
    shape: ConvShape,
    (count, branches): Convolutions,
) -> Result<Vec<Case>> {
    let whole = images.with_channels(parts.iter().sum());
    let widths: Vec<usize> = branches.iter().map(|branch| branch.1).collect();
    let out = Images { n: images.n, h: shape.output.0, w: shape.output.1, c: widths.iter().sum() };
    let widths = widths.repeat(count);
    let views: Vec<View> = parts.iter().map(|c| bench.filled(images.pixels() * c)).collect::<Result<_>>()?;
    let d_parts: Vec<Option<View>> =
        parts.iter().map(|c| bench.filled(images.pixels() * c).map(Some)).collect::<Result<_>>()?;
    let per_channel = bench.filled(out.c)?;
    let (mut weights, mut d_weights, mut terms, mut z) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let of_branches = |&(offset, c_out): &((isize, isize), usize)| {
            Ok(Branch { offset, c_out, weight: bench.filled(c_out * shape.depth())? })
        };
        weights.push(branches.iter().map(of_branches).collect::<Result<Vec<Branch>>>()?);
        let filled = |&(_, c_out): &(_, usize)| bench.filled(c_out * shape.depth());
        d_weights.push(branches.iter().map(filled).collect::<Result<Vec<View>>>()?);
        z.push((bench.filled(out.len())?, bench.device.allocate(2 * out.c)?));
        terms.push([UpstreamTerm { grad: bench.filled(out.len())?, scale: Some(per_channel), sample_scale: None }]);
    }
    let products = (count * out.len() * shape.depth()) as f64;
    let mut cases = Vec::new();
    for precision in Precision::ALL {
        let (mut forward, mut backward) = (Program::default(), Program::default());
        let scratch = bench.device.allocate(conv::forward_scratch_len(precision, whole, shape, &widths))?;
        let relu = Activation::Relu;
        let output = |(branches, &(z, sums))| conv::Output { branches, z, sums: Some(sums) };
        let outputs: Vec<_> = weights.iter().map(Vec::as_slice).zip(&z).map(output).collect();
        conv::forward(&mut forward, precision, whole, &views, relu, shape, &outputs, scratch);
        let partials = conv::backward_partials_len(precision, whole, shape, &widths);
        let mut pending = Pending::new(bench.device.allocate(partials)?);
        let mut outputs = Vec::with_capacity(count);
        for index in 0..count {
            let bn = Some(BnTerm { z: z[index].0, b: per_channel, d: per_channel });
            outputs.push(conv::OutputBackward {
                branches: &weights[index],
                upstream: Upstream { terms: &terms[index], bn },
                weights: Some(&d_weights[index]),
            });
        }
        conv::backward(
            &mut backward,
            precision,
            whole,
            &views,
            relu,
            shape,
            &outputs,
            &d_parts,
            Write::Overwrite,
            None,
            View::none(),
            &mut pending,
        );
        pending.fold(&mut backward);
        let times = if count > 1 { format!(" ×{count}") } else { String::new() };
        let name = |way: &str| format!("{} {what} {}→{}{times}, {way}, {precision:?}", size(images), whole.c, out.c);
        let moved = [whole.len(), count * out.len()];
        cases.push(Case { name: name("forward"), program: forward, bytes: bytes(&moved), products });
        cases.push(Case {
            name: name("backward"),
            program: backward,
            bytes: bytes(&moved.map(|floats| 2 * floats)),
            products: 2.0 * products,
        });
    }
    Ok(cases)
}

/// The stem and the head of the search network.
fn ends(bench: &Bench) -> Result<Vec<Case>> {
    let images = Images { n: bench.batch(64), h: 32, w: 32, c: 3 };
    let (shape, offset) = ConvShape::padded(images, 3, 1);
    let mut cases: Vec<Case> = convolution(bench, "stem 3×3", images, &[3], shape, (1, &[(offset, 48)]))?;
    let last = Images { n: bench.batch(64), h: 8, w: 8, c: 64 };
    let parts: Vec<View> = (0..4).map(|_| bench.filled(last.len())).collect::<Result<_>>()?;
    let pooled = bench.filled(bench.batch(64) * 256)?;
    let (mut forward, mut backward) = (Program::default(), Program::default());
    head::global_average_pool(&mut forward, last, &parts, pooled);
    head::global_average_pool_backward(&mut backward, last, pooled, &parts, Write::Overwrite);
    let moved = bytes(&[4 * last.len(), pooled.len]);
    cases.push(Case { name: "global average pool, forward".into(), program: forward, bytes: moved, products: 0.0 });
    cases.push(Case { name: "global average pool, backward".into(), program: backward, bytes: moved, products: 0.0 });
    let samples = Images { n: 1, h: 1, w: 64, c: 256 };
    let linear = ConvShape { kernel: (1, 1), stride: (1, 1), output: (1, 64), c_in: 256 };
    cases.extend(convolution(bench, "classifier", samples, &[256], linear, (1, &[((0, 0), 10)]))?);
    Ok(cases)
}

/// Products of the recurrent search, at its batch of 256 and width of 300.
fn recurrent(bench: &Bench) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let sizes = [
        ("a state's gates", 256, 300, 600, (false, false)),
        ("a state's input", 256, 600, 300, (false, true)),
        ("a matrix over all steps", 300, 8960, 600, (true, false)),
        ("words of a chunk", 640, 300, 10_000, (false, true)),
    ];
    for (what, m, k, n, (a_transposed, b_transposed)) in sizes {
        let (a, b, out) = (bench.filled(m * k)?, bench.filled(k * n)?, bench.filled(m * n)?);
        let scratch = bench.device.allocate(matmul::scratch_len(m, k, n))?;
        let a = if a_transposed { Matrix::new(a, k, m).transposed() } else { Matrix::new(a, m, k) };
        let b = if b_transposed { Matrix::new(b, n, k).transposed() } else { Matrix::new(b, k, n) };
        for precision in Precision::ALL {
            let mut program = Program::default();
            matmul::multiply(&mut program, precision, a, b, Matrix::new(out, m, n), Write::Overwrite, None, scratch);
            let name = format!("{what} {m}×{k}×{n}, {precision:?}");
            let bytes = bytes(&[m * k, k * n, m * n]);
            cases.push(Case { name, program, bytes, products: (m * k * n) as f64 });
        }
    }
    Ok(cases)
}

/// What an optimizer does to all weights of the search network.
fn vectors(bench: &Bench) -> Result<Vec<Case>> {
    let len = 1_930_618;
    let (w, v, g) = (bench.filled(len)?, bench.filled(len)?, bench.filled(len)?);
    let rate = bench.device.uploaded(&[1e-3f64])?;
    let (mut sgd, mut norm) = (Program::default(), Program::default());
    let step =
        vector::SgdStep { momentum: 0.9, coefficient: 1.0.into(), weight_decay: 3e-4, learning_rate: rate.into() };
    vector::sgd(&mut sgd, w, Some(v), g, step);
    let scratch = bench.device.allocate(vector::scratch_len(len))?;
    vector::norm2(&mut norm, bench.device.allocate(1)?, g, scratch);
    Ok(vec![
        Case { name: "SGD of 1.93 M weights".into(), program: sgd, bytes: bytes(&[5 * len]), products: 0.0 },
        Case { name: "norm of 1.93 M weights".into(), program: norm, bytes: bytes(&[len]), products: 0.0 },
    ])
}

/// What is done to the bytes of a batch: crops, mirrors and cutouts of the paper's search, colours of ImageNet's training.
fn images(bench: &Bench) -> Result<[Case; 2]> {
    let device = bench.device;
    let (batch, side, stored) = (bench.batch(64), 32, 1000);
    let image = side * side * 3;
    let source = Source {
        pixels: device.uploaded(&vec![100u8; stored * image])?,
        labels: device.allocate(stored)?,
        table: bench.filled(256 * 3)?,
        height: side,
        width: side,
    };
    let example = |n: usize| Example {
        index: (n * 7919 % stored) as u32,
        down: n as i32 % 9 - 4,
        right: n as i32 / 9 % 9 - 4,
        flip: n as u32 % 2,
        cutout: [8, 24, 4, 20],
    };
    let examples: Vec<Example> = (0..batch).map(example).collect();
    let mut crops = Program::default();
    augment::augment(
        &mut crops,
        source,
        device.uploaded(&examples)?,
        bench.filled(batch * image)?,
        device.allocate(batch)?,
    );
    let (count, pixels) = (bench.batch(128), 224 * 224 * 3);
    let kinds = [Colours::BRIGHTNESS, Colours::CONTRAST, Colours::SATURATION, Colours::HUE];
    let changes = Colours { kinds, amounts: [1.2, 0.8, 1.1, 0.3] };
    let mut colours = Program::default();
    let bytes_of_all = device.uploaded(&vec![100u8; count * pixels])?;
    augment::colour(&mut colours, bytes_of_all, device.uploaded(&vec![changes; count])?);
    let name = format!("{batch} images {side}×{side} cropped, mirrored, cut out");
    Ok([
        Case { name, program: crops, bytes: (5 * batch * image) as f64, products: 0.0 },
        Case {
            name: format!("colours of {count} images 224×224"),
            program: colours,
            bytes: (2 * count * pixels) as f64,
            products: 0.0,
        },
    ])
}
