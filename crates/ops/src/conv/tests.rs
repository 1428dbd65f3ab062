//! Kernels against the reference on every instruction set, the reference against finite differences.

use super::*;
use crate::images::{BnTerm, UpstreamTerm};
use crate::testing::{assert_close, assert_same_for_any_threads, assert_sums_close, numbers, shapes};

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
        case((1, 7), (1, 2), &[((0, -3), 3)]),
        case((7, 1), (2, 1), &[((-3, 0), 40)]),
        case((2, 2), (1, 1), &[((0, 0), 20)]),
    ]
}

struct Case {
    images: Images,
    shape: ConvShape,
    parts: Vec<Vec<f32>>,
    affine: [Vec<f32>; 2],
    branches: Vec<((isize, isize), usize, Vec<f32>)>,
}

impl Case {
    fn new(images: Images, geometry: &Geometry) -> Self {
        let output = (images.h.div_ceil(geometry.stride.0), images.w.div_ceil(geometry.stride.1));
        let shape = ConvShape { kernel: geometry.kernel, stride: geometry.stride, output, c_in: images.c };
        let weight = |c_out, seed| numbers(c_out * shape.depth(), seed);
        let branches = geometry.branches.iter().zip(20..).map(|(&(at, c), seed)| (at, c, weight(c, seed))).collect();
        // Three parts of different widths where there are channels enough.
        let split = if images.c >= 3 { vec![images.c / 3, 1, images.c - images.c / 3 - 1] } else { vec![images.c] };
        let part = |(c, seed): (&usize, u64)| numbers(images.pixels() * c, seed);
        let affine = [30, 31].map(|seed| numbers(images.c, seed));
        Self { images, shape, parts: split.iter().zip(1..).map(part).collect(), affine, branches }
    }

    fn activations(&self) -> [Activation<'_>; 3] {
        let affine = Affine { scale: &self.affine[0], shift: &self.affine[1] };
        [Activation::None, Activation::Relu, Activation::AffineRelu(affine)]
    }

    fn branches(&self) -> Vec<Branch<'_>> {
        self.branches.iter().map(|(offset, c_out, weight)| Branch { offset: *offset, c_out: *c_out, weight }).collect()
    }

    fn out(&self) -> Images {
        let c = self.branches.iter().map(|(_, c, _)| c).sum();
        Images { h: self.shape.output.0, w: self.shape.output.1, c, ..self.images }
    }

    /// z and its sums.
    fn forward(&self, activation: Activation, set: Option<InstructionSet>) -> (Vec<f32>, Vec<f64>) {
        let (mut z, mut sums) = (vec![f32::NAN; self.out().len()], vec![f64::NAN; 2 * self.out().c]);
        let parts: Vec<&[f32]> = self.parts.iter().map(|part| &**part).collect();
        let input = Input { images: self.images, parts: &parts, activation };
        match set {
            Some(set) => forward_on(set, input, self.shape, &self.branches(), &mut z, Some(&mut sums)),
            None => reference::forward(input, self.shape, &self.branches(), &mut z, Some(&mut sums)),
        }
        (z, sums)
    }

    /// Gradients of the weights, of the parts (of all but the `without`th), and sums.
    fn backward(
        &self,
        activation: Activation,
        upstream: Upstream,
        write: Write,
        without: Option<usize>,
        set: Option<InstructionSet>,
    ) -> (Vec<Vec<f32>>, Vec<Vec<f32>>, Vec<f64>) {
        let mut weights: Vec<Vec<f32>> = self.branches.iter().map(|(_, _, w)| vec![f32::NAN; w.len()]).collect();
        let mut du: Vec<Vec<f32>> = self.parts.iter().map(|part| numbers(part.len(), 77)).collect();
        let mut sums = vec![f64::NAN; 2 * self.images.c];
        let parts: Vec<&[f32]> = self.parts.iter().map(|part| &**part).collect();
        let input = Input { images: self.images, parts: &parts, activation };
        let mut d_weights: Vec<&mut [f32]> = weights.iter_mut().map(|w| &mut w[..]).collect();
        let wanted = |(i, du): (usize, _)| (Some(i) != without).then_some(du);
        let mut d_parts: Vec<_> = du.iter_mut().map(|du| &mut du[..]).enumerate().map(wanted).collect();
        let gradients = Gradients { weights: Some(&mut d_weights), parts: &mut d_parts, write, sums: Some(&mut sums) };
        match set {
            Some(set) => backward_on(set, input, self.shape, &self.branches(), upstream, gradients),
            None => reference::backward(input, self.shape, &self.branches(), upstream, gradients),
        }
        (weights, du, sums)
    }
}

#[test]
fn forward_matches_reference() {
    for images in shapes() {
        for geometry in geometries() {
            let case = Case::new(images, &geometry);
            for activation in case.activations() {
                let (want, want_sums) = case.forward(activation, None);
                let depth = case.shape.depth();
                for set in InstructionSet::available() {
                    let what = format!("{images:?} {geometry:?} {activation:?} {}", set.name());
                    let (z, sums) = case.forward(activation, Some(set));
                    // Sums of `depth` products of size 1 in f32.
                    assert_close(&z, &want, 1e-6 * (depth as f64).sqrt(), &what);
                    assert_sums_close(&sums, &want_sums, depth * case.out().image_pixels(), &what);
                }
            }
        }
    }
}

#[test]
fn backward_matches_reference() {
    for images in shapes() {
        for geometry in geometries() {
            let case = Case::new(images, &geometry);
            let out = case.out();
            let [grad, z] = [2, 3].map(|seed| numbers(out.len(), seed));
            let [scale, b, d] = [5, 6, 7].map(|seed| numbers(out.c, seed));
            let sample_scale = numbers(out.n, 8);
            let terms = [UpstreamTerm { grad: &grad, scale: Some(&scale), sample_scale: Some(&sample_scale) }];
            let upstream = Upstream { terms: &terms, bn: Some(BnTerm { z: &z, b: &b, d: &d }) };
            let without = [None, Some(0), Some(1)];
            let writes = [Write::Overwrite, Write::Accumulate, Write::Overwrite];
            for ((activation, write), without) in case.activations().into_iter().zip(writes).zip(without) {
                let want = case.backward(activation, upstream, write, without, None);
                for set in InstructionSet::available() {
                    let what = format!("{images:?} {geometry:?} {activation:?} {write:?} {}", set.name());
                    let got = case.backward(activation, upstream, write, without, Some(set));
                    let pixels = out.pixels() as f64;
                    for (got, want) in got.0.iter().zip(&want.0) {
                        assert_close(got, want, 2e-6 * pixels.sqrt(), &format!("weights {what}"));
                    }
                    let products = (out.c * case.shape.kernel.0 * case.shape.kernel.1) as f64;
                    for (got, want) in got.1.iter().zip(&want.1) {
                        assert_close(got, want, 2e-6 * products.sqrt(), &format!("parts {what}"));
                    }
                    assert_sums_close(&got.2, &want.2, 4 * images.image_pixels() * products as usize, &what);
                }
            }
        }
    }
}

#[test]
fn reference_backward_matches_finite_differences() {
    let images = Images { n: 2, h: 3, w: 4, c: 3 };
    for geometry in geometries() {
        let mut case = Case::new(images, &geometry);
        // u on a grid that keeps a distance from 0 larger than the step.
        for part in &mut case.parts {
            part.iter_mut().for_each(|x| *x = (*x * 4.0).round() / 4.0 + 0.125);
        }
        case.affine = [vec![1.0, 0.5, -2.0], vec![0.0, 0.5, 1.0]];
        let g = numbers(case.out().len(), 3);
        for kind in 0..3 {
            let loss = |case: &Case| {
                let z = case.forward(case.activations()[kind], None).0;
                z.iter().zip(&g).map(|(&z, &g)| f64::from(z) * f64::from(g)).sum::<f64>()
            };
            let terms = [UpstreamTerm { grad: &g, scale: None, sample_scale: None }];
            let upstream = Upstream { terms: &terms, bn: None };
            let (weights, du, _) = case.backward(case.activations()[kind], upstream, Write::Overwrite, None, None);
            let mut channel = 0;
            for (part, du) in du.iter().enumerate() {
                let channels = du.len() / images.pixels();
                for (i, &du) in du.iter().enumerate() {
                    let c = channel + i % channels;
                    // The gradient is that of u = a·x + b.
                    let scale = if kind == 2 { case.affine[0][c] } else { 1.0 };
                    let x = case.parts[part][i];
                    case.parts[part][i] = x + 0.03125;
                    let plus = loss(&case);
                    case.parts[part][i] = x - 0.03125;
                    let difference = (plus - loss(&case)) / 0.0625;
                    case.parts[part][i] = x;
                    let got = f64::from(scale * du);
                    assert!((difference - got).abs() < 1e-4, "{geometry:?} part {part} [{i}]: {got}, {difference}");
                }
                channel += channels;
            }
            for (branch, gradient) in weights.iter().enumerate() {
                for i in (0..gradient.len()).step_by(7) {
                    let w = case.branches[branch].2[i];
                    case.branches[branch].2[i] = w + 0.25;
                    let plus = loss(&case);
                    case.branches[branch].2[i] = w - 0.25;
                    let difference = (plus - loss(&case)) / 0.5;
                    case.branches[branch].2[i] = w;
                    let got = f64::from(gradient[i]);
                    assert!((difference - got).abs() < 1e-4, "{geometry:?} weight {i}: {got}, {difference}");
                }
            }
        }
    }
}

#[test]
fn padded_shapes_halve_odd_sizes_upwards() {
    let images = Images { n: 1, h: 7, w: 4, c: 3 };
    let (shape, offset) = ConvShape::padded(images, 3, 2);
    assert_eq!((shape.output, offset, shape.depth()), ((4, 2), (-1, -1), 27));
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let images = Images { n: 35, h: 5, w: 4, c: 17 };
    for geometry in geometries() {
        let case = Case::new(images, &geometry);
        let g = numbers(case.out().len(), 3);
        let set = Some(InstructionSet::selected());
        assert_same_for_any_threads("conv", || {
            let terms = [UpstreamTerm { grad: &g, scale: None, sample_scale: None }];
            let upstream = Upstream { terms: &terms, bn: None };
            let gradients = case.backward(Activation::Relu, upstream, Write::Overwrite, None, set);
            (case.forward(Activation::Relu, set), gradients)
        });
    }
}
