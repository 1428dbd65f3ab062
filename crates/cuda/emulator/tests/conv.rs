//! Dense convolutions against `darts_ops::conv::reference`: strides, windows that are no squares, branches with offsets, inputs in
//! parts, every activation, every precision of the factors.

#![cfg(unix)]

mod common;

use common::{assert_close, assert_sums_close, device_images, numbers, rounded, shapes, upload};
use darts_cuda::fold::Pending;
use darts_cuda::{self as cuda, Backend, Memory, Precision, Program, View, conv};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::conv::{Activation, Branch, ConvShape, Gradients, Input, reference};
use darts_ops::{Affine, Images, Upstream, UpstreamTerm, Write};

/// A geometry with the offset and the channels of its branches.
#[derive(Debug, Clone)]
struct Geometry {
    kernel: (usize, usize),
    stride: (usize, usize),
    branches: Vec<((isize, isize), usize)>,
}

fn geometries() -> Vec<Geometry> {
    let case = |kernel, stride, branches: &[_]| Geometry { kernel, stride, branches: branches.to_vec() };
    vec![
        case((1, 1), (1, 1), &[((0, 0), 16)]),
        case((1, 1), (1, 1), &[((0, 0), 17)]),
        case((3, 3), (1, 1), &[((-1, -1), 5)]),
        case((3, 3), (2, 2), &[((-1, -1), 36)]),
        case((1, 1), (2, 2), &[((0, 0), 9), ((1, 1), 8)]),
        case((1, 1), (2, 2), &[((0, 0), 8), ((1, 1), 8)]),
        case((1, 7), (1, 2), &[((0, -3), 3)]),
        case((7, 1), (2, 1), &[((-3, 0), 40)]),
        case((2, 2), (1, 1), &[((0, 0), 20)]),
        case((1, 1), (3, 3), &[((0, 0), 4)]),
    ]
}

/// What a call reads.
struct Case {
    images: Images,
    shape: ConvShape,
    parts: Vec<Vec<f32>>,
    affine: [Vec<f32>; 2],
    outputs: Vec<OutputCase>,
    /// Parts without a gradient.
    without: Option<usize>,
    write: Write,
    precision: Precision,
}

/// What a call reads for one of its outputs.
struct OutputCase {
    out: Images,
    branches: Vec<((isize, isize), usize, Vec<f32>)>,
    grads: [Vec<f32>; 2],
    scale: Vec<f32>,
    sample_scale: Vec<f32>,
    bn: [Vec<f32>; 3],
}

impl OutputCase {
    /// Of the convolution of that number in its call.
    fn new(images: Images, shape: ConvShape, branches: &[((isize, isize), usize)], number: u64) -> Self {
        let seed = |seed: u64| seed + 100 * number;
        let branch =
            |(&(at, c), index): (&((isize, isize), usize), u64)| (at, c, numbers(c * shape.depth(), seed(index)));
        let branches: Vec<_> = branches.iter().zip(20..).map(branch).collect();
        let c = branches.iter().map(|branch| branch.1).sum();
        let out = Images { h: shape.output.0, w: shape.output.1, c, ..images };
        Self {
            out,
            branches,
            grads: [40, 41].map(|of| numbers(out.len(), seed(of))),
            scale: numbers(out.c, seed(42)),
            sample_scale: numbers(out.n, seed(43)),
            bn: [numbers(out.len(), seed(44)), numbers(out.c, seed(45)), numbers(out.c, seed(46))],
        }
    }

    /// The gradient at z as the products have it: summed over terms as the device does, and rounded.
    fn dz(&self, precision: Precision) -> Vec<f32> {
        let ([grad, other], [z, b, d], out) = (&self.grads, &self.bn, self.out);
        let value = |i: usize| {
            let (c, n) = (i % out.c, i / (out.len() / out.n));
            let dz = self.scale[c].mul_add(grad[i], b[c].mul_add(z[i], d[c]));
            rounded(self.sample_scale[n].mul_add(other[i], dz), precision)
        };
        (0..out.len()).map(value).collect()
    }
}

/// Of an output: z, its sums, gradients of the weights.
type OfOutput = (Vec<f32>, Vec<f64>, Vec<Vec<f32>>);

#[derive(Debug, Copy, Clone)]
enum Activate {
    Nothing,
    Relu,
    AffineRelu,
}

/// And of the input: gradients of the parts, and their sums.
type Results = (Vec<OfOutput>, (Vec<Vec<f32>>, Vec<f64>));

impl Case {
    fn new(images: Images, geometry: &Geometry, split: &[usize], write: Write) -> Self {
        let output = (images.h.div_ceil(geometry.stride.0), images.w.div_ceil(geometry.stride.1));
        let shape = ConvShape { kernel: geometry.kernel, stride: geometry.stride, output, c_in: images.c };
        Self {
            images,
            shape,
            parts: split.iter().zip(1..).map(|(c, seed)| numbers(images.pixels() * c, seed)).collect(),
            affine: [30, 31].map(|seed| numbers(images.c, seed)),
            outputs: vec![OutputCase::new(images, shape, &geometry.branches, 0)],
            without: (split.len() > 2).then_some(1),
            write,
            precision: Precision::F32,
        }
    }

    /// The same with so many outputs, each a channel wider than the one before.
    fn with_outputs(self, outputs: usize) -> Self {
        let first: Vec<_> = self.outputs[0].branches.iter().map(|&(at, c, _)| (at, c)).collect();
        let output = |number: usize| {
            let branches: Vec<_> = first.iter().map(|&(at, c)| (at, c + number)).collect();
            OutputCase::new(self.images, self.shape, &branches, number as u64)
        };
        Self { outputs: (0..outputs).map(output).collect(), ..self }
    }

    /// What lies where a part's gradient goes.
    fn former(&self, part: usize) -> Vec<f32> {
        numbers(self.parts[part].len(), 50 + part as u64)
    }

    /// What the input goes through, at concatenated channel c.
    fn activated(&self, activate: Activate, x: f32, c: usize) -> f32 {
        match activate {
            Activate::Nothing => x,
            Activate::Relu => x.max(0.0),
            Activate::AffineRelu => self.affine[0][c].mul_add(x, self.affine[1][c]).max(0.0),
        }
    }

    /// The parts as the products have them: activated and rounded.
    fn activated_parts(&self, activate: Activate) -> Vec<Vec<f32>> {
        let mut first = 0;
        let part = |part: &Vec<f32>| {
            let channels = part.len() / self.images.pixels();
            let (c, values) = (first, part.iter().enumerate());
            first += channels;
            values.map(|(i, &x)| rounded(self.activated(activate, x, c + i % channels), self.precision)).collect()
        };
        self.parts.iter().map(part).collect()
    }

    /// The reference's results from factors that were rounded before.
    fn by_reference(&self, activate: Activate) -> Results {
        let parts: Vec<&[f32]> = self.parts.iter().map(Vec::as_slice).collect();
        let activation = match activate {
            Activate::Nothing => Activation::None,
            Activate::Relu => Activation::Relu,
            Activate::AffineRelu => Activation::AffineRelu(Affine { scale: &self.affine[0], shift: &self.affine[1] }),
        };
        let activated = self.activated_parts(activate);
        let activated: Vec<&[f32]> = activated.iter().map(Vec::as_slice).collect();
        let factor = Input { images: self.images, parts: &activated, activation: Activation::None };
        // Where u > 0, and what the sums are of, was never rounded.
        let input = Input { images: self.images, parts: &parts, activation };
        let mut d_parts: Vec<Vec<f32>> = (0..parts.len()).map(|part| self.former(part)).collect();
        let mut du_sums = vec![0.0; 2 * self.images.c];
        let mut write = self.write;
        let mut of_outputs = Vec::new();
        for output in &self.outputs {
            let weights: Vec<Vec<f32>> = output
                .branches
                .iter()
                .map(|(_, _, weight)| weight.iter().map(|&w| rounded(w, self.precision)).collect())
                .collect();
            let branches: Vec<Branch> = output
                .branches
                .iter()
                .zip(&weights)
                .map(|(&(offset, c_out, _), weight)| Branch { offset, c_out, weight })
                .collect();
            let (mut z, mut sums) = (vec![0.0; output.out.len()], vec![0.0; 2 * output.out.c]);
            reference::forward(factor, self.shape, &branches, &mut z, Some(&mut sums));

            let dz = output.dz(self.precision);
            let terms = [UpstreamTerm { grad: &dz, scale: None, sample_scale: None }];
            let upstream = Upstream { terms: &terms, bn: None };
            let mut d_weights: Vec<Vec<f32>> = weights.iter().map(|weight| vec![0.0; weight.len()]).collect();
            let mut to: Vec<&mut [f32]> = d_weights.iter_mut().map(Vec::as_mut_slice).collect();
            let gradients = Gradients { weights: Some(&mut to), parts: &mut [], write: self.write, sums: None };
            reference::backward(factor, self.shape, &branches, upstream, gradients);
            of_outputs.push((z, sums, d_weights));

            let mut d_to: Vec<Option<&mut [f32]>> = d_parts
                .iter_mut()
                .enumerate()
                .map(|(part, d_part)| (Some(part) != self.without).then_some(d_part.as_mut_slice()))
                .collect();
            // The last leaves the sums of all.
            let gradients = Gradients { weights: None, parts: &mut d_to, write, sums: Some(&mut du_sums) };
            reference::backward(input, self.shape, &branches, upstream, gradients);
            write = Write::Accumulate;
        }
        (of_outputs, (d_parts, du_sums))
    }

    fn on_device(&self, device: &TestDevice, activate: Activate) -> Results {
        let up = |values: &[f32]| upload(device, values);
        let images = device_images(self.images);
        let parts: Vec<View> = self.parts.iter().map(|part| up(part)).collect();
        let [scale, shift] = self.affine.each_ref().map(|values| up(values));
        let activation = match activate {
            Activate::Nothing => conv::Activation::None,
            Activate::Relu => conv::Activation::Relu,
            Activate::AffineRelu => conv::Activation::AffineRelu(cuda::Affine { scale, shift }),
        };
        let ConvShape { kernel, stride, output, c_in } = self.shape;
        let shape = conv::ConvShape { kernel, stride, output, c_in };
        let branches: Vec<Vec<conv::Branch>> = self
            .outputs
            .iter()
            .map(|output| {
                let branches = output.branches.iter();
                branches
                    .map(|(offset, c, weight)| conv::Branch { offset: *offset, c_out: *c, weight: up(weight) })
                    .collect()
            })
            .collect();
        let c_out: Vec<usize> = branches.iter().flatten().map(|branch| branch.c_out).collect();
        let (precision, mut program) = (self.precision, Program::default());
        let outputs: Vec<conv::Output> = self
            .outputs
            .iter()
            .zip(&branches)
            .map(|(output, branches)| conv::Output {
                branches,
                z: device.allocate(output.out.len()).unwrap(),
                sums: Some(device.allocate(2 * output.out.c).unwrap()),
            })
            .collect();
        let scratch = device.allocate(conv::forward_scratch_len(precision, images, shape, &c_out)).unwrap();
        conv::forward(&mut program, precision, images, &parts, activation, shape, &outputs, scratch);

        let terms: Vec<[cuda::UpstreamTerm; 2]> = self
            .outputs
            .iter()
            .map(|output| {
                let [grad, other] = output.grads.each_ref().map(|values| up(values));
                [
                    cuda::UpstreamTerm { grad, scale: Some(up(&output.scale)), sample_scale: None },
                    cuda::UpstreamTerm { grad: other, scale: None, sample_scale: Some(up(&output.sample_scale)) },
                ]
            })
            .collect();
        let weights: Vec<Vec<View>> = branches
            .iter()
            .map(|branches| branches.iter().map(|branch| device.allocate(branch.weight.len).unwrap()).collect())
            .collect();
        let mut backward = Vec::new();
        for (index, output) in self.outputs.iter().enumerate() {
            let [z, b, d] = output.bn.each_ref().map(|values| up(values));
            backward.push(conv::OutputBackward {
                branches: &branches[index],
                upstream: cuda::Upstream { terms: &terms[index], bn: Some(cuda::BnTerm { z, b, d }) },
                weights: Some(&weights[index]),
            });
        }
        // What is overwritten may hold anything before.
        let d_all: Vec<View> = (0..parts.len())
            .map(|part| match self.write {
                Write::Overwrite if Some(part) != self.without => device.allocate(parts[part].len).unwrap(),
                _ => up(&self.former(part)),
            })
            .collect();
        let d_parts: Vec<Option<View>> =
            d_all.iter().enumerate().map(|(part, &view)| (Some(part) != self.without).then_some(view)).collect();
        let du_sums = device.allocate(2 * images.c).unwrap();
        let write = match self.write {
            Write::Overwrite => cuda::Write::Overwrite,
            Write::Accumulate => cuda::Write::Accumulate,
        };
        let scratch = device.allocate(conv::backward_scratch_len(precision, images, shape, &c_out)).unwrap();
        let partials = conv::backward_partials_len(precision, images, shape, &c_out);
        let mut pending = Pending::new(device.allocate(partials).unwrap());
        conv::backward(
            &mut program,
            precision,
            images,
            &parts,
            activation,
            shape,
            &backward,
            &d_parts,
            write,
            Some(du_sums),
            scratch,
            &mut pending,
        );
        pending.fold(&mut program);
        device.run(&program).unwrap();
        let down =
            |views: &[View]| -> Vec<Vec<f32>> { views.iter().map(|&view| device.downloaded(view).unwrap()).collect() };
        let of_output = |(output, weights): (&conv::Output, &Vec<View>)| {
            let sums = device.downloaded(output.sums.unwrap()).unwrap();
            (device.downloaded(output.z).unwrap(), sums, down(weights))
        };
        let of_outputs = outputs.iter().zip(&weights).map(of_output).collect();
        (of_outputs, (down(&d_all), device.downloaded(du_sums).unwrap()))
    }

    fn check(&self, activate: Activate) {
        let (outputs, (d_parts, du_sums)) = self.by_reference(activate);
        let got = in_all_orders(|device| self.on_device(device, activate));
        let case = format!("{:?}, {:?}, {activate:?}, {:?}", self.images, self.shape, self.precision);
        let what = |what: &str| format!("{what}, {case}");
        for ((got, want), of) in got.0.iter().zip(&outputs).zip(&self.outputs) {
            assert_close(&got.0, &want.0, 1e-5, &what("z"));
            // Sums are of z as it is stored, the reference's of z before it is rounded.
            assert_sums_close(&got.1, &want.1, 4 * of.out.pixels(), &what("sums"));
            for (got, want) in got.2.iter().zip(&want.2) {
                assert_close(got, want, 1e-5, &what("weights"));
            }
        }
        for (got, want) in got.1.0.iter().zip(&d_parts) {
            assert_close(got, want, 1e-5, &what("parts"));
        }
        assert_sums_close(&got.1.1, &du_sums, 4 * self.images.pixels(), &what("sums of du"));
    }
}

const ACTIVATES: [Activate; 3] = [Activate::Nothing, Activate::Relu, Activate::AffineRelu];

#[test]
fn emulator_conv_matches_reference_for_parts_of_any_width() {
    for (index, images) in shapes().into_iter().enumerate() {
        let c = images.c;
        let split = if c >= 3 { vec![c / 3, 1, c - c / 3 - 1] } else { vec![c] };
        for (number, geometry) in geometries().iter().enumerate() {
            let write = if number % 2 == 0 { Write::Accumulate } else { Write::Overwrite };
            Case::new(images, geometry, &split, write).check(ACTIVATES[(index + number) % 3]);
        }
    }
}

#[test]
fn emulator_conv_matches_reference_for_parts_of_whole_vectors() {
    let images = Images { n: 2, h: 7, w: 6, c: 24 };
    for (number, geometry) in geometries().iter().enumerate() {
        for split in [&[8, 4, 12][..], &[24]] {
            Case::new(images, geometry, split, Write::Accumulate).check(ACTIVATES[number % 3]);
        }
    }
}

#[test]
fn emulator_conv_matches_reference_where_a_call_has_several_outputs() {
    let cases = [(Images { n: 3, h: 6, w: 10, c: 12 }, &[12][..]), (Images { n: 2, h: 7, w: 5, c: 9 }, &[4, 1, 4])];
    for (images, split) in cases {
        for (number, geometry) in geometries().iter().enumerate() {
            let outputs = (conv::BRANCHES / geometry.branches.len()).min(conv::OUTPUTS) - number % 2;
            for (precision, write) in
                Precision::ALL.into_iter().zip([Write::Accumulate, Write::Overwrite].iter().cycle())
            {
                let case = Case::new(images, geometry, split, *write).with_outputs(outputs);
                Case { precision, ..case }.check(ACTIVATES[number % 3]);
            }
        }
    }
}

#[test]
fn emulator_conv_on_tensor_cores_matches_reference_of_rounded_factors() {
    for precision in [Precision::Tf32, Precision::Bf16] {
        for (index, images) in shapes().into_iter().enumerate() {
            let c = images.c;
            let split = if c >= 3 { vec![c / 3, 1, c - c / 3 - 1] } else { vec![c] };
            for (number, geometry) in geometries().iter().enumerate() {
                let write = if number % 2 == 0 { Write::Accumulate } else { Write::Overwrite };
                let case = Case { precision, ..Case::new(images, geometry, &split, write) };
                case.check(ACTIVATES[(index + number) % 3]);
            }
        }
    }
}

#[test]
fn emulator_conv_matches_reference_where_channels_and_pixels_take_several_blocks() {
    let case = |kernel, stride, offset, c_out| Geometry { kernel, stride, branches: vec![(offset, c_out)] };
    let cases = [
        (Images { n: 3, h: 16, w: 17, c: 3 }, case((3, 3), (1, 1), (-1, -1), 48)),
        (Images { n: 5, h: 2, w: 2, c: 130 }, case((2, 2), (1, 1), (0, 0), 150)),
        (Images { n: 2, h: 15, w: 15, c: 64 }, case((1, 1), (1, 1), (0, 0), 16)),
        // A classifier's: more columns than threads share out evenly.
        (Images { n: 1, h: 1, w: 6, c: 768 }, case((1, 1), (1, 1), (0, 0), 5)),
    ];
    for (images, geometry) in cases {
        for precision in Precision::ALL {
            let case = Case::new(images, &geometry, &[images.c], Write::Overwrite);
            Case { precision, ..case }.check(Activate::AffineRelu);
        }
    }
}

#[test]
fn emulator_conv_without_gradients_of_parts_leaves_their_sums_at_zero() {
    let images = Images { n: 2, h: 3, w: 4, c: 5 };
    let shape = conv::ConvShape { kernel: (1, 1), stride: (1, 1), output: (3, 4), c_in: 5 };
    let sums = in_all_orders(|device| {
        let floats = |len: usize, seed| upload(device, &numbers(len, seed));
        let branch = conv::Branch { offset: (0, 0), c_out: 6, weight: floats(30, 1) };
        let terms = [cuda::UpstreamTerm { grad: floats(2 * 12 * 6, 2), scale: None, sample_scale: None }];
        let sums = device.allocate(10).unwrap();
        let precision = Precision::F32;
        let scratch = conv::backward_scratch_len(precision, device_images(images), shape, &[6]);
        let scratch = device.allocate(scratch).unwrap();
        let mut program = Program::default();
        let upstream = cuda::Upstream { terms: &terms, bn: None };
        let (x, relu) = ([floats(images.len(), 3)], conv::Activation::Relu);
        let write = cuda::Write::Overwrite;
        let images = device_images(images);
        conv::backward(
            &mut program,
            precision,
            images,
            &x,
            relu,
            shape,
            &[conv::OutputBackward { branches: &[branch], upstream, weights: None }],
            &[],
            write,
            Some(sums),
            scratch,
            &mut Pending::new(View::none()),
        );
        device.run(&program).unwrap();
        device.downloaded(sums).unwrap()
    });
    assert_eq!(sums, [0.0; 10]);
}
