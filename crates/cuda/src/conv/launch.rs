//! Lays down a convolution's launches. Checks nothing but upstreams: `mod.rs` has the rest.

use super::{Activation, BRANCHES, Branch, ConvShape, OUTPUTS, Output, OutputBackward, PARTS, plan};
use crate::args;
use crate::channels::{pointer, vector};
use crate::fold::{self, Fold, Pending};
use crate::images::{Images, Write};
use crate::precision::Precision;
use crate::program::{Kernel, Program};
use crate::quads::{UpstreamArgs, magic};
use crate::view::View;

/// One for each precision.
pub(super) static FORWARD: [Kernel; 3] = [
    Kernel::new("conv_forward", THREADS),
    Kernel::new("conv_forward_tf32", THREADS),
    Kernel::new("conv_forward_bf16", THREADS),
];
pub(super) static WEIGHTS: [Kernel; 3] = [
    Kernel::new("conv_weights", THREADS),
    Kernel::new("conv_weights_tf32", THREADS),
    Kernel::new("conv_weights_bf16", THREADS),
];
pub(super) static INPUT: [Kernel; 3] = [
    Kernel::new("conv_input", THREADS),
    Kernel::new("conv_input_tf32", THREADS),
    Kernel::new("conv_input_bf16", THREADS),
];

const THREADS: u32 = 256;

args! {
    struct PartArgs: 32 {
        x: u64,
        du: u64,
        channels: u32,
        first: u32,
        quad: u32,
        pad: u32,
    }

    struct BranchArgs: 40 {
        weight: u64,
        partials: u64,
        offset_y: i32,
        offset_x: i32,
        c_out: u32,
        first: u32,
        split: u32,
        output: u32,
    }

    struct ConvArgs: 928 {
        n: u32,
        h: u32,
        w: u32,
        c_in: u32,
        out_h: u32,
        out_w: u32,
        kernel_y: u32,
        kernel_x: u32,
        stride_y: u32,
        stride_x: u32,
        parts: u32,
        branches: u32,
        activate: u32,
        wide_x: u32,
        wide_z: u32,
        pad: u32,
        widths: [u32; OUTPUTS],
        scale: u64,
        shift: u64,
        part: [PartArgs; PARTS],
        branch: [BranchArgs; BRANCHES],
    }

    struct ForwardArgs: 1016 {
        conv: ConvArgs,
        z: [u64; OUTPUTS],
        partials: [u64; OUTPUTS],
        pixels: u32,
        pitch: u32,
        chunk: u32,
        quads_magic: u32,
        split: u32,
        weights_at: u32,
    }

    struct WeightsArgs: 1472 {
        conv: ConvArgs,
        upstream: [UpstreamArgs; OUTPUTS],
        pixels: u32,
        tiles: u32,
        slots: u32,
        pitch: u32,
        chunk: u32,
        quads_magic: u32,
        split: u32,
        split_magic: u32,
    }

    struct InputArgs: 1480 {
        conv: ConvArgs,
        upstream: [UpstreamArgs; OUTPUTS],
        partials: u64,
        accumulate: u32,
        pixels: u32,
        tiles: u32,
        pitch: u32,
        chunk: u32,
        quads_magic: u32,
        split: u32,
        weights_at: u32,
    }
}

/// What convolutions read, and where the gradients of it go.
pub(super) struct Input<'a> {
    pub(super) images: Images,
    pub(super) parts: &'a [View],
    pub(super) d_parts: &'a [Option<View>],
    pub(super) activation: Activation,
    pub(super) shape: ConvShape,
    /// The branches of each output.
    pub(super) outputs: Vec<&'a [Branch]>,
}

impl Input<'_> {
    /// Whether there is nothing to compute.
    pub(super) fn is_empty(&self) -> bool {
        let (h, w) = self.shape.output;
        self.images.is_empty() || self.outputs.is_empty() || h * w == 0
    }

    fn c_out(&self) -> Vec<usize> {
        self.outputs.iter().copied().flatten().map(|branch| branch.c_out).collect()
    }

    /// Quads of the parts' channels.
    fn quads(&self) -> usize {
        self.parts.iter().map(|part| (part.len / self.images.pixels()).div_ceil(4)).sum()
    }

    /// The arguments, for blocks of `split` output channels. `z` are the arrays of the outputs, where they are used.
    fn args(&self, split: usize, z: &[u64]) -> ConvArgs {
        let Self { images, parts, activation, shape, .. } = *self;
        let (activate, scale, shift) = match activation {
            Activation::None => (0, 0, 0),
            Activation::Relu => (1, 0, 0),
            Activation::AffineRelu(affine) => (1, affine.scale.address, affine.shift.address),
        };
        let mut part_args = [PartArgs { x: 0, du: 0, channels: 0, first: 0, quad: 0, pad: 0 }; PARTS];
        let (mut first, mut quad) = (0, 0);
        let mut wide_x = vector(0, [scale, shift]);
        for (index, (to, part)) in part_args.iter_mut().zip(parts).enumerate() {
            let channels = part.len / images.pixels();
            let du = pointer(self.d_parts.get(index).copied().flatten());
            *to = PartArgs {
                x: part.address,
                du,
                channels: channels as u32,
                first: first as u32,
                quad: quad as u32,
                pad: 0,
            };
            first += channels;
            quad += channels.div_ceil(4);
            wide_x &= vector(channels, [part.address, du]);
        }
        let mut branch_args =
            [BranchArgs { weight: 0, partials: 0, offset_y: 0, offset_x: 0, c_out: 0, first: 0, split: 0, output: 0 };
                BRANCHES];
        let mut widths = [0; OUTPUTS];
        let mut block = 0;
        let branches = self
            .outputs
            .iter()
            .enumerate()
            .flat_map(|(output, branches)| branches.iter().map(move |branch| (output, branch)));
        for (to, (output, branch)) in branch_args.iter_mut().zip(branches) {
            *to = BranchArgs {
                weight: branch.weight.address,
                partials: 0,
                offset_y: branch.offset.0 as i32,
                offset_x: branch.offset.1 as i32,
                c_out: branch.c_out as u32,
                first: widths[output],
                split: block as u32,
                output: output as u32,
            };
            widths[output] += branch.c_out as u32;
            block += branch.c_out.div_ceil(split);
        }
        let c_out = self.c_out();
        let wide_z = c_out.iter().all(|&c_out| vector(c_out, z.iter().copied()));
        ConvArgs {
            n: images.n as u32,
            h: images.h as u32,
            w: images.w as u32,
            c_in: images.c as u32,
            out_h: shape.output.0 as u32,
            out_w: shape.output.1 as u32,
            kernel_y: shape.kernel.0 as u32,
            kernel_x: shape.kernel.1 as u32,
            stride_y: shape.stride.0 as u32,
            stride_x: shape.stride.1 as u32,
            parts: parts.len() as u32,
            branches: c_out.len() as u32,
            activate,
            wide_x: wide_x.into(),
            wide_z: wide_z.into(),
            pad: 0,
            widths,
            scale,
            shift,
            part: part_args,
            branch: branch_args,
        }
    }

    /// The gradients that arrive at the outputs; quads only where no branch ends within one.
    fn upstreams(&self, outputs: &[OutputBackward]) -> [UpstreamArgs; OUTPUTS] {
        let of = |output: &OutputBackward| {
            let out = self.shape.output(self.images, output.branches);
            let mut args = UpstreamArgs::new("conv::backward", output.upstream, out);
            if output.branches.iter().any(|branch| !branch.c_out.is_multiple_of(4)) {
                args.wide = 0;
            }
            args
        };
        let mut all = [of(&outputs[0]); OUTPUTS];
        all.iter_mut().zip(outputs).for_each(|(to, output)| *to = of(output));
        all
    }
}

pub(super) fn forward(program: &mut Program, precision: Precision, input: &Input, outputs: &[Output], scratch: View) {
    let c_out = input.c_out();
    let cut = plan::forward(precision, input.images, input.shape, &c_out);
    let mut folds = fold::join_last(program, outputs.iter().map(|output| (output.z, output.sums)), scratch);
    let (mut z, mut partials, mut used) = ([0; OUTPUTS], [0; OUTPUTS], 0);
    for (index, output) in outputs.iter().enumerate() {
        z[index] = output.z.address;
        if let Some(sums) = output.sums {
            let of_output = scratch.slice(used..used + cut.partials * sums.len);
            used += of_output.len;
            partials[index] = of_output.address;
            folds.push(Fold { partials: of_output, sums });
        }
    }
    let args = ForwardArgs {
        conv: input.args(cut.split, &z[..outputs.len()]),
        z,
        partials,
        pixels: cut.pixels as u32,
        pitch: cut.pitch as u32,
        chunk: cut.chunk as u32,
        quads_magic: magic(cut.chunk / 4),
        split: cut.split as u32,
        weights_at: cut.weights_at as u32,
    };
    let grid = [cut.tiles as u32, plan::splits(&c_out, cut.split) as u32, 1];
    program.push(&FORWARD[precision as usize], grid, 4 * cut.floats as u32, &args);
    fold::partials(program, &folds);
}

pub(super) fn weights(
    program: &mut Program,
    precision: Precision,
    input: &Input,
    outputs: &[OutputBackward],
    pending: &mut Pending,
) {
    let c_out = input.c_out();
    let cut = plan::weights(precision, input.images, input.shape, &c_out);
    let mut conv = input.args(cut.split, &[]);
    let gradients = outputs.iter().filter_map(|output| output.weights).flatten();
    for (branch, &sums) in conv.branch.iter_mut().zip(gradients) {
        branch.partials = pending.partials(cut.slots, sums).address;
    }
    let args = WeightsArgs {
        conv,
        upstream: input.upstreams(outputs),
        pixels: cut.pixels as u32,
        tiles: cut.tiles as u32,
        slots: cut.slots as u32,
        pitch: cut.pitch as u32,
        chunk: cut.chunk as u32,
        quads_magic: magic(cut.chunk / 4),
        split: cut.split as u32,
        split_magic: magic(cut.split / 4),
    };
    let rows = 4 * input.quads() * input.shape.kernel.0 * input.shape.kernel.1;
    let grid = [cut.slots as u32, rows.div_ceil(cut.chunk) as u32, plan::splits(&c_out, cut.split) as u32];
    program.push(&WEIGHTS[precision as usize], grid, 4 * cut.floats as u32, &args);
}

pub(super) fn input(
    program: &mut Program,
    precision: Precision,
    input: &Input,
    outputs: &[OutputBackward],
    write: Write,
    sums: Option<View<f64>>,
    scratch: View,
) {
    let cut = plan::input(precision, input.images, input.shape, &input.c_out());
    let partials = sums.map(|sums| scratch.slice(0..cut.partials * sums.len));
    let args = InputArgs {
        conv: input.args(cut.split, &[]),
        upstream: input.upstreams(outputs),
        partials: pointer(partials),
        accumulate: write.flag(),
        pixels: cut.pixels as u32,
        tiles: cut.tiles as u32,
        pitch: cut.pitch as u32,
        chunk: cut.chunk as u32,
        quads_magic: magic(cut.chunk / 4),
        split: cut.split as u32,
        weights_at: cut.weights_at as u32,
    };
    let (y, x) = input.shape.stride;
    let grid = [cut.tiles as u32, (4 * input.quads()).div_ceil(cut.split) as u32, (y * x) as u32];
    program.push(&INPUT[precision as usize], grid, 4 * cut.floats as u32, &args);
    if let Some((partials, sums)) = partials.zip(sums) {
        fold::partials(program, &[Fold { partials, sums }]);
    }
}
