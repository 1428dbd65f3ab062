//! Lays down the forward pass of units. Checks nothing: `mod.rs` has.

use super::plan::{self, Kind};
use super::{Forward, KINDS, UNITS, UnitForward, UnitShape, launches};
use crate::args;
use crate::channels::{pointer, vector};
use crate::fold::{self, Fold};
use crate::images::{Affine, Images};
use crate::precision::Precision;
use crate::program::{Kernel, Program};
use crate::view::View;

pub(super) static KERNEL: Kernel = Kernel::new("sep_unit_forward", 256);
pub(super) static ROUNDED: Kernel = Kernel::new("sep_unit_forward_rounded", 256);
pub(super) static LARGE: Kernel = Kernel::new("sep_unit_forward_large", 256);

const WIDE_X: u32 = 1;
const WIDE_Z: u32 = 2;

args! {
    struct UnitArgs: 64 {
        x: u64,
        scale: u64,
        shift: u64,
        depthwise: u64,
        pointwise: u64,
        z: u64,
        partials: u64,
        wide: u32,
        pad: u32,
    }

    struct ForwardArgs: 1848 {
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

/// Floats of the partial sums of a unit, whatever else its launch has.
pub(super) fn partials_len(images: Images, shape: UnitShape) -> usize {
    if images.is_empty() {
        return 0;
    }
    let tiles =
        plan::Launch::all().filter_map(|launch| plan::forward(images, shape, launch)).map(|plan| plan.kind.tiles);
    tiles.max().unwrap_or(0) as usize * 2 * shape.c_out
}

pub(super) fn push(program: &mut Program, precision: Precision, images: Images, inputs: &[Forward], scratch: View) {
    let units: Vec<(&Forward, &UnitForward)> =
        inputs.iter().flat_map(|input| input.units.iter().map(move |unit| (input, unit))).collect();
    let shapes: Vec<UnitShape> = units.iter().map(|(_, unit)| unit.shape).collect();
    let mut folds = fold::join_last(program, units.iter().map(|(_, unit)| (unit.z, unit.sums)), scratch);
    let mut used = 0;
    for launch in launches(&shapes) {
        let mut args = Vec::new();
        let mut kinds = Vec::new();
        let mut floats = 0;
        let of = |same: &Vec<usize>, launch| plan::forward(images, shapes[same[0]], launch);
        let small = shapes[launch[0][0]].is_small();
        let (plans, tensor) = plan::of_launch(&launch, small && plan::wants_tensor(precision), of);
        let one_x = |same: &Vec<usize>| {
            let first = units[same[0]].0;
            let reads_it = |input: &Forward| input.x == first.x && affine(input.affine) == affine(first.affine);
            same.iter().all(|&unit| reads_it(units[unit].0))
        };
        let per_block = plan::share_x(&plans, &launch, one_x);
        let mut blocks = 0;
        for ((same, plan), per_block) in launch.iter().zip(plans).zip(per_block) {
            let mut kind = plan.kind;
            kind.first_unit = args.len() as u32;
            kind.units = same.len() as u32;
            kind.per_block = per_block;
            kind.first_block = blocks;
            blocks += kind.tiles * kind.splits * kind.units.div_ceil(per_block);
            floats = floats.max(plan.floats);
            for &unit in same {
                let (input, unit) = units[unit];
                let partials = unit.sums.map(|sums| {
                    let partials = scratch.slice(used..used + kind.tiles as usize * sums.len);
                    used += partials.len;
                    folds.push(Fold { partials, sums });
                    partials
                });
                args.push(unit_args(input, unit, partials));
            }
            kinds.push(kind);
        }
        let mut all = ForwardArgs {
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
        let kernel = match (small, tensor) {
            (false, _) => &LARGE,
            (true, false) => &KERNEL,
            (true, true) => &ROUNDED,
        };
        program.push(kernel, [blocks, 1, 1], 4 * floats as u32, &all);
    }
    fold::partials(program, &folds);
}

/// Addresses of an affine; zeros if there is none.
pub(super) fn affine(affine: Option<Affine>) -> (u64, u64) {
    affine.map_or((0, 0), |affine| (affine.scale.address, affine.shift.address))
}

fn unit_args(input: &Forward, unit: &UnitForward, partials: Option<View>) -> UnitArgs {
    let (scale, shift) = affine(input.affine);
    let wide_x = vector(unit.shape.c_in, [input.x.address, scale, shift]);
    let wide_z = vector(unit.shape.c_out, [unit.z.address]);
    UnitArgs {
        x: input.x.address,
        scale,
        shift,
        depthwise: unit.depthwise.address,
        pointwise: unit.pointwise.address,
        z: unit.z.address,
        partials: pointer(partials),
        wide: if wide_x { WIDE_X } else { 0 } | if wide_z { WIDE_Z } else { 0 },
        pad: 0,
    }
}
