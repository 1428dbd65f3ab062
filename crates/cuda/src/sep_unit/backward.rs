//! Lays down the backward pass of units up to the depthwise convolution: its output's gradient, and those of the weights.
//! Checks nothing but upstreams: `mod.rs` has the rest.

use super::forward::affine;
use super::plan::{self, Kind};
use super::{Backward, KINDS, UNITS, UnitBackward, UnitShape, launches};
use crate::args;
use crate::channels::{pointer, vector};
use crate::fold::Pending;
use crate::images::Images;
use crate::precision::Precision;
use crate::program::{Kernel, Program};
use crate::quads::{UpstreamArgs, magic};
use crate::view::View;

pub(super) static KERNEL: Kernel = Kernel::new("sep_unit_backward", 256);
pub(super) static ROUNDED: Kernel = Kernel::new("sep_unit_backward_rounded", 256);
pub(super) static LARGE: Kernel = Kernel::new("sep_unit_backward_large", 256);
pub(super) static ALONE: Kernel = Kernel::new("sep_unit_backward_alone", 256);
pub(super) static ALONE_ROUNDED: Kernel = Kernel::new("sep_unit_backward_alone_rounded", 256);

args! {
    struct UnitArgs: 200 {
        x: u64,
        scale: u64,
        shift: u64,
        depthwise: u64,
        pointwise: u64,
        g: u64,
        d_depthwise: u64,
        d_pointwise: u64,
        upstream: UpstreamArgs,
        wide: u32,
        pad: u32,
    }

    struct BackwardArgs: 4024 {
        n: u32,
        h: u32,
        w: u32,
        kinds: u32,
        bfloat: u32,
        pad: u32,
        kind: [Kind; KINDS],
        unit: [UnitArgs; UNITS],
    }
}

/// Floats of the depthwise output's gradient; they come first in scratch memory, unit after unit.
pub(super) fn gradient_len(images: Images, shape: UnitShape) -> usize {
    shape.output(images).with_channels(shape.c_in).len().next_multiple_of(4)
}

/// Floats of the partial gradients of a unit's weights, whatever else its launch has.
pub(super) fn partials_len(images: Images, shape: UnitShape) -> usize {
    if images.is_empty() {
        return 0;
    }
    let plans = plan::Launch::all().filter_map(|launch| plan::backward(images, shape, launch));
    let splits = plans.map(|plan| plan.kind.splits).max().unwrap_or(0) as usize;
    splits * (shape.depthwise_len() + shape.pointwise_len())
}

/// Returns how many floats of `scratch` are used. The gradients of the depthwise outputs are the first in it.
pub(super) fn push(
    program: &mut Program,
    precision: Precision,
    images: Images,
    inputs: &[Backward],
    scratch: View,
    pending: &mut Pending,
) -> usize {
    const OPERATION: &str = "sep_unit::backward";
    let units: Vec<(&Backward, &UnitBackward)> =
        inputs.iter().flat_map(|input| input.units.iter().map(move |unit| (input, unit))).collect();
    let shapes: Vec<UnitShape> = units.iter().map(|(_, unit)| unit.shape).collect();
    let mut gradients = Vec::with_capacity(units.len());
    let mut used = 0;
    for &shape in &shapes {
        let len = shape.output(images).with_channels(shape.c_in).len();
        gradients.push(scratch.slice(used..used + len));
        used += gradient_len(images, shape);
    }
    for launch in launches(&shapes) {
        let mut args = Vec::new();
        let mut kinds = Vec::new();
        let (mut blocks, mut floats) = (0, 0);
        let weights = launch.iter().flatten().any(|&unit| units[unit].1.weights.is_some());
        let of = |same: &Vec<usize>, launch| {
            let plan = if weights { plan::backward } else { plan::alone };
            plan(images, shapes[same[0]], launch)
        };
        let small = shapes[launch[0][0]].is_small();
        let (plans, tensor) = plan::of_launch(&launch, small && plan::wants_tensor(precision), of);
        let splits = plan::share_tiles(&plans, &launch, weights);
        for ((same, plan), splits) in launch.iter().zip(plans).zip(splits) {
            let mut kind = plan.kind;
            (kind.splits, kind.splits_magic) = (splits, magic(splits as usize));
            kind.first_unit = args.len() as u32;
            kind.units = same.len() as u32;
            kind.first_block = blocks;
            blocks += kind.splits * kind.chunks * kind.units;
            floats = floats.max(plan.floats);
            for &index in same {
                let (input, unit) = units[index];
                let shape = unit.shape;
                let partials = unit.weights.map(|weights| {
                    let mut of = |sums: View| pending.partials(kind.splits as usize, sums);
                    (of(weights.0), of(weights.1))
                });
                let (scale, shift) = affine(input.affine);
                let g = gradients[index];
                args.push(UnitArgs {
                    x: input.x.address,
                    scale,
                    shift,
                    depthwise: unit.depthwise.address,
                    pointwise: unit.pointwise.address,
                    g: g.address,
                    d_depthwise: pointer(partials.map(|partials| partials.0)),
                    d_pointwise: pointer(partials.map(|partials| partials.1)),
                    upstream: UpstreamArgs::new(OPERATION, unit.upstream, shape.output(images)),
                    wide: vector(shape.c_in, [input.x.address, scale, shift, g.address]).into(),
                    pad: 0,
                });
            }
            kinds.push(kind);
        }
        let mut all = BackwardArgs {
            n: images.n as u32,
            h: images.h as u32,
            w: images.w as u32,
            kinds: kinds.len() as u32,
            bfloat: (precision == Precision::Bf16).into(),
            pad: 0,
            kind: [kinds[0]; KINDS],
            unit: [args[0]; UNITS],
        };
        all.kind[..kinds.len()].copy_from_slice(&kinds);
        all.unit[..args.len()].copy_from_slice(&args);
        let kernel = match (weights, small, tensor) {
            (false, _, false) => &ALONE,
            (false, _, true) => &ALONE_ROUNDED,
            (true, false, _) => &LARGE,
            (true, true, false) => &KERNEL,
            (true, true, true) => &ROUNDED,
        };
        program.push(kernel, [blocks, 1, 1], 4 * floats as u32, &all);
    }
    used
}
