//! Lays down the backward pass of units through the depthwise convolutions, to the gradient of what they read. Checks nothing:
//! `mod.rs` has.

use super::backward::gradient_len;
use super::forward::affine;
use super::plan::{Tile, Window, pitch, tile_bytes, tiles};
use super::{Backward, SKIPS, Skip, UNITS, UnitShape};
use crate::args;
use crate::channels::{pointer, vector};
use crate::fold::{self, Fold};
use crate::images::{Images, Write};
use crate::program::{Kernel, Program};
use crate::quads::{Filling, SHARED_FLOATS, THREADS, magic, pieces, tile4_rounds};
use crate::view::View;

pub(super) static KERNEL: Kernel = Kernel::new("sep_unit_input", 256);

/// Blocks that registers allow on a multiprocessor, and the floats of shared memory that leave room for as many.
const RESIDENT: usize = 3;
const SHARED_OF_BLOCK: usize = 75 * 256;

const ACCUMULATE: u32 = 1;
const WIDE: u32 = 2;

args! {
    struct UnitArgs: 64 {
        g: u64,
        depthwise: u64,
        kernel: u32,
        stride: u32,
        dilation: u32,
        padding: u32,
        out_h: u32,
        out_w: u32,
        in_h: u32,
        in_w: u32,
        plane: u32,
        in_h_magic: u32,
        across_magic: u32,
        patch_rows_magic: u32,
    }

    struct InputOf: 64 {
        x: u64,
        scale: u64,
        shift: u64,
        du: u64,
        partials: u64,
        first: u32,
        count: u32,
        flags: u32,
        first_skip: u32,
        skips: u32,
        pad: u32,
    }

    struct SkipArgs: 16 {
        grad: u64,
        weight: u64,
    }

    struct InputArgs: 2648 {
        n: u32,
        h: u32,
        w: u32,
        c: u32,
        tile_n: u32,
        tile_h: u32,
        tile_w: u32,
        tiles_y: u32,
        tiles_x: u32,
        pixels: u32,
        pitch: u32,
        chunk: u32,
        quads_magic: u32,
        columns_magic: u32,
        chunk_magic: u32,
        tile_h_magic: u32,
        tiles_x_magic: u32,
        tiles_y_magic: u32,
        rows_at: u32,
        depthwise_at: u32,
        next_at: u32,
        next_taps_at: u32,
        input: [InputOf; UNITS],
        unit: [UnitArgs; UNITS],
        skip: [SkipArgs; SKIPS],
    }
}

const NO_UNIT: UnitArgs = UnitArgs {
    g: 0,
    depthwise: 0,
    kernel: 0,
    stride: 0,
    dilation: 0,
    padding: 0,
    out_h: 0,
    out_w: 0,
    in_h: 0,
    in_w: 0,
    plane: 0,
    in_h_magic: 0,
    across_magic: 0,
    patch_rows_magic: 0,
};

const NO_INPUT: InputOf = InputOf {
    x: 0,
    scale: 0,
    shift: 0,
    du: 0,
    partials: 0,
    first: 0,
    count: 0,
    flags: 0,
    first_skip: 0,
    skips: 0,
    pad: 0,
};

/// How images are cut.
#[derive(Debug, Copy, Clone)]
pub(super) struct Cut {
    pub(super) tile: Tile,
    pub(super) chunk: usize,
    pitch: usize,
    rows_at: usize,
    depthwise_at: usize,
    /// A second set of planes, and of taps behind the first; 0: there is none.
    next_at: usize,
    next_taps_at: usize,
    pub(super) floats: usize,
}

/// The cheapest cut for units of these windows, which see x with stride 1, and so many inputs.
///
/// # Panics
/// If none fits: a kernel of hundreds of rows.
pub(super) fn cut(images: Images, shapes: &[UnitShape], inputs: usize) -> Cut {
    let windows: Vec<Window> = shapes.iter().map(|shape| Window::new(shape.kernel, 1, shape.dilation)).collect();
    let taps = shapes.iter().map(|shape| shape.kernel * shape.kernel).max().unwrap_or(0);
    let cuts = tiles(images).filter_map(|tile| {
        let plane = windows.iter().map(|window| window.input(tile).2).max().unwrap_or(0);
        let pitch = pitch(tile.pixels(), tile.w);
        let of = |chunk: usize, sets: usize| {
            let planes = chunk * plane.max(pitch);
            let rows_at = sets * planes;
            let depthwise_at = rows_at + chunk * pitch;
            let taps = (chunk * taps).next_multiple_of(4);
            let (next_at, next_taps_at) = if sets > 1 { (planes, taps) } else { (0, 0) };
            Cut { tile, chunk, pitch, rows_at, depthwise_at, next_at, next_taps_at, floats: depthwise_at + sets * taps }
        };
        let fits = |cut: &Cut| cut.floats <= SHARED_FLOATS;
        // Two sets, unless they leave room for fewer blocks.
        let fit = pieces(images.c, 64).filter_map(|chunk| {
            let two = Some(of(chunk, 2)).filter(|cut| cut.floats <= SHARED_OF_BLOCK);
            two.or_else(|| Some(of(chunk, 1)).filter(fits))
        });
        fit.take(2).map(|cut| (cost_of(images, &windows, inputs, cut), cut)).min_by_key(|&(cost, _)| cost)
    });
    match cuts.min_by_key(|&(cost, _)| cost) {
        Some((_, cut)) => cut,
        None => panic!("sep_unit::backward: {shapes:?} do not fit shared memory"),
    }
}

fn cost_of(images: Images, windows: &[Window], inputs: usize, cut: Cut) -> usize {
    let Cut { tile, chunk, .. } = cut;
    let unit = |window: &Window| {
        let (h, w, _) = window.input(tile);
        let patches = (chunk * window.patches(tile)).div_ceil(THREADS);
        let instructions = tile4_rounds(tile.n * h * w, chunk) * 100 + patches * (window.patch_cost() + 48) + 400;
        (instructions, tile_bytes(images, (tile.n, h, w), chunk))
    };
    let units: Vec<(usize, usize)> = windows.iter().map(unit).collect();
    let instructions = units.iter().map(|unit| unit.0).sum::<usize>() + tile4_rounds(tile.pixels(), chunk) * 250 + 400;
    let own = 2 * tile_bytes(images, (tile.n, tile.h, tile.w), chunk);
    let bytes = units.iter().map(|unit| unit.1).sum::<usize>() + own;
    let filling = Filling { together: inputs.clamp(1, UNITS), resident: RESIDENT };
    filling.cost_in_rounds(tile.count(images) * images.c.div_ceil(chunk), cut.floats, instructions, bytes)
}

/// Floats of the partial sums of one of so many inputs, when the units of all of them have these shapes.
pub(super) fn partials_len(images: Images, units: impl Iterator<Item = UnitShape>, inputs: usize) -> usize {
    if images.is_empty() {
        return 0;
    }
    cut(images, &distinct(units), inputs).tile.count(images) * 2 * images.c
}

/// The shapes, each once.
fn distinct(units: impl Iterator<Item = UnitShape>) -> Vec<UnitShape> {
    let mut shapes: Vec<UnitShape> = Vec::new();
    for shape in units {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Units of an input that go in one launch; its first part follows `write`, its last leaves the sums.
struct Part<'a> {
    input: &'a Backward<'a>,
    units: Vec<UnitArgs>,
    write: Write,
    last: bool,
}

impl Part<'_> {
    /// Skip connections are added with the last.
    fn skips(&self) -> &[Skip] {
        if self.last { self.input.skips } else { &[] }
    }
}

/// `scratch` from `used` on is free; the gradients of the depthwise outputs are at its beginning.
pub(super) fn push(program: &mut Program, images: Images, inputs: &[Backward], scratch: View, used: usize) {
    let shapes = distinct(inputs.iter().flat_map(|input| input.units.iter().map(|unit| unit.shape)));
    let cut = cut(images, &shapes, inputs.len());
    let mut parts: Vec<Part> = Vec::new();
    let mut at = 0;
    for input in inputs {
        let units: Vec<UnitArgs> = input
            .units
            .iter()
            .map(|unit| {
                let len = unit.shape.output(images).with_channels(images.c).len();
                let g = scratch.slice(at..at + len);
                at += gradient_len(images, unit.shape);
                unit_args(images, unit.shape, g, unit.depthwise, cut.tile)
            })
            .collect();
        let count = units.len().div_ceil(UNITS).max(1);
        for index in 0..count {
            let here = units.iter().skip(index * UNITS).take(UNITS).copied().collect();
            let write = if index == 0 { input.write } else { Write::Accumulate };
            parts.push(Part { input, units: here, write, last: index + 1 == count });
        }
    }
    let mut folds = Vec::new();
    let mut used = used;
    let mut rest = &parts[..];
    while !rest.is_empty() {
        // As many inputs as fit; two parts of one input are two launches.
        let (mut count, mut units, mut skips) = (0, 0, 0);
        while count < rest.len().min(UNITS)
            && units + rest[count].units.len() <= UNITS
            && skips + rest[count].skips().len() <= SKIPS
        {
            units += rest[count].units.len();
            skips += rest[count].skips().len();
            count += 1;
            if !rest[count - 1].last {
                break;
            }
        }
        let (here, later) = rest.split_at(count);
        rest = later;
        push_launch(program, images, here, &cut, |sums: View<f64>| {
            let partials = scratch.slice(used..used + cut.tile.count(images) * sums.len);
            used += partials.len;
            folds.push(Fold { partials, sums });
            partials
        });
    }
    fold::partials(program, &folds);
}

fn unit_args(images: Images, shape: UnitShape, g: View, depthwise: View, tile: Tile) -> UnitArgs {
    let out = shape.output(images);
    let window = Window::new(shape.kernel, 1, shape.dilation);
    let (in_h, in_w, plane) = window.input(tile);
    UnitArgs {
        g: g.address,
        depthwise: depthwise.address,
        kernel: shape.kernel as u32,
        stride: shape.stride as u32,
        dilation: shape.dilation as u32,
        padding: shape.padding() as u32,
        out_h: out.h as u32,
        out_w: out.w as u32,
        in_h: in_h as u32,
        in_w: in_w as u32,
        plane: plane as u32,
        in_h_magic: magic(in_h),
        across_magic: magic(in_w / 4),
        patch_rows_magic: magic(window.patch_rows(tile.h)),
    }
}

fn push_launch(
    program: &mut Program,
    images: Images,
    parts: &[Part],
    cut: &Cut,
    mut partials: impl FnMut(View<f64>) -> View,
) {
    let (tiles_y, tiles_x) = cut.tile.across(images);
    let mut args = InputArgs {
        n: images.n as u32,
        h: images.h as u32,
        w: images.w as u32,
        c: images.c as u32,
        tile_n: cut.tile.n as u32,
        tile_h: cut.tile.h as u32,
        tile_w: cut.tile.w as u32,
        tiles_y: tiles_y as u32,
        tiles_x: tiles_x as u32,
        pixels: cut.tile.pixels() as u32,
        pitch: cut.pitch as u32,
        chunk: cut.chunk as u32,
        quads_magic: magic(cut.chunk / 4),
        columns_magic: magic(cut.tile.w / 4),
        chunk_magic: magic(cut.chunk),
        tile_h_magic: magic(cut.tile.h),
        tiles_x_magic: magic(tiles_x),
        tiles_y_magic: magic(tiles_y),
        rows_at: cut.rows_at as u32,
        depthwise_at: cut.depthwise_at as u32,
        next_at: cut.next_at as u32,
        next_taps_at: cut.next_taps_at as u32,
        input: [NO_INPUT; UNITS],
        unit: [NO_UNIT; UNITS],
        skip: [SkipArgs { grad: 0, weight: 0 }; SKIPS],
    };
    let (mut first, mut first_skip) = (0, 0);
    for (to, part) in args.input.iter_mut().zip(parts) {
        let (input, count) = (part.input, part.units.len());
        args.unit[first..first + count].copy_from_slice(&part.units);
        let (scale, shift) = affine(input.affine);
        let addresses = [input.x.address, scale, shift, input.du.address];
        let skips = part.skips();
        for (to, skip) in args.skip[first_skip..].iter_mut().zip(skips) {
            *to = SkipArgs { grad: skip.grad.address, weight: pointer(skip.weight) };
        }
        let read = part.units.iter().map(|unit| unit.g).chain(skips.iter().map(|skip| skip.grad.address));
        let wide = vector(images.c, addresses.into_iter().chain(read));
        let accumulate = part.write == Write::Accumulate;
        *to = InputOf {
            x: input.x.address,
            scale,
            shift,
            du: input.du.address,
            partials: pointer(input.sums.filter(|_| part.last).map(&mut partials)),
            first: first as u32,
            count: count as u32,
            flags: if accumulate { ACCUMULATE } else { 0 } | if wide { WIDE } else { 0 },
            first_skip: first_skip as u32,
            skips: skips.len() as u32,
            pad: 0,
        };
        first += count;
        first_skip += skips.len();
    }
    let grid = [cut.tile.count(images) as u32, images.c.div_ceil(cut.chunk) as u32, parts.len() as u32];
    program.push(&KERNEL, grid, 4 * cut.floats as u32, &args);
}
