//! Dense convolution as plain loops with f64 sums: the oracle of the tests. Never optimized.

use super::{Activation, Branch, ConvShape, Gradients, Input};
use crate::images::{Images, Upstream, Write};

/// The concatenated input before the activation, and after it, at a pixel that may lie outside (then 0).
struct Unfolded<'a> {
    input: Input<'a>,
}

impl Unfolded<'_> {
    /// Part, and flat index in it, of channel `c` at a pixel.
    fn locate(&self, pixel: usize, mut c: usize) -> (usize, usize) {
        for (part, values) in self.input.parts.iter().enumerate() {
            let channels = values.len() / self.input.images.pixels();
            if c < channels {
                return (part, pixel * channels + c);
            }
            c -= channels;
        }
        unreachable!("the channel is below the parts' sum");
    }

    fn x(&self, pixel: usize, c: usize) -> f64 {
        let (part, index) = self.locate(pixel, c);
        f64::from(self.input.parts[part][index])
    }

    fn u(&self, pixel: usize, c: usize) -> f64 {
        match self.input.activation {
            Activation::None | Activation::Relu => self.x(pixel, c),
            Activation::AffineRelu(affine) => {
                f64::from(affine.scale[c]) * self.x(pixel, c) + f64::from(affine.shift[c])
            }
        }
    }

    fn passes(&self, pixel: usize, c: usize) -> bool {
        matches!(self.input.activation, Activation::None) || self.u(pixel, c) > 0.0
    }
}

/// Calls `action(output index, weight index, input pixel, input channel)` for every product of a branch whose channels begin at
/// `first`.
fn products(
    images: Images,
    out: Images,
    shape: ConvShape,
    branch: &Branch,
    first: usize,
    mut action: impl FnMut(usize, usize, usize, usize),
) {
    let inside = |i: isize, size: usize| usize::try_from(i).ok().filter(|&i| i < size);
    for n in 0..out.n {
        for oy in 0..out.h {
            for ox in 0..out.w {
                for ky in 0..shape.kernel.0 {
                    for kx in 0..shape.kernel.1 {
                        let y = inside((oy * shape.stride.0 + ky) as isize + branch.offset.0, images.h);
                        let x = inside((ox * shape.stride.1 + kx) as isize + branch.offset.1, images.w);
                        let (Some(y), Some(x)) = (y, x) else { continue };
                        let pixel = (n * images.h + y) * images.w + x;
                        for o in 0..branch.c_out {
                            for i in 0..images.c {
                                let at = ((n * out.h + oy) * out.w + ox) * out.c + first + o;
                                let weight = ((o * images.c + i) * shape.kernel.0 + ky) * shape.kernel.1 + kx;
                                action(at, weight, pixel, i);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// As [`super::forward_on`].
pub fn forward(input: Input, shape: ConvShape, branches: &[Branch], z: &mut [f32], sums: Option<&mut [f64]>) {
    let unfolded = Unfolded { input };
    let out = out(input.images, shape, branches);
    let mut total = vec![0.0; z.len()];
    let mut first = 0;
    for branch in branches {
        products(input.images, out, shape, branch, first, |at, weight, pixel, i| {
            if unfolded.passes(pixel, i) {
                total[at] += f64::from(branch.weight[weight]) * unfolded.u(pixel, i);
            }
        });
        first += branch.c_out;
    }
    for (z, total) in z.iter_mut().zip(&total) {
        *z = *total as f32;
    }
    if let Some(sums) = sums {
        sums.fill(0.0);
        for (i, z) in total.iter().enumerate() {
            sums[i % out.c] += z;
            sums[out.c + i % out.c] += z * z;
        }
    }
}

/// As [`super::backward_on`].
pub fn backward(input: Input, shape: ConvShape, branches: &[Branch], upstream: Upstream, gradients: Gradients) {
    let unfolded = Unfolded { input };
    let out = out(input.images, shape, branches);
    let Gradients { mut weights, parts, write, sums } = gradients;
    let mut du: Vec<Vec<f64>> = input.parts.iter().map(|part| vec![0.0; part.len()]).collect();
    if write == Write::Accumulate {
        for (du, part) in du.iter_mut().zip(&*parts) {
            if let Some(part) = part {
                du.iter_mut().zip(&**part).for_each(|(du, &part)| *du = f64::from(part));
            }
        }
    }
    let mut first = 0;
    for (index, branch) in branches.iter().enumerate() {
        let mut d_weight = vec![0.0; branch.weight.len()];
        products(input.images, out, shape, branch, first, |at, weight, pixel, i| {
            if unfolded.passes(pixel, i) {
                let dz = upstream_at(upstream, out, at);
                d_weight[weight] += dz * unfolded.u(pixel, i);
                let (part, index) = unfolded.locate(pixel, i);
                du[part][index] += dz * f64::from(branch.weight[weight]);
            }
        });
        if let Some(weights) = &mut weights {
            weights[index].iter_mut().zip(d_weight).for_each(|(to, value)| *to = value as f32);
        }
        first += branch.c_out;
    }
    let c = input.images.c;
    let mut totals = vec![0.0; 2 * c];
    let mut channel = 0;
    for (index, x) in input.parts.iter().enumerate() {
        let channels = x.len() / input.images.pixels();
        if let Some(Some(part)) = parts.get_mut(index) {
            for (i, (part, du)) in part.iter_mut().zip(&du[index]).enumerate() {
                *part = *du as f32;
                totals[channel + i % channels] += du;
                totals[c + channel + i % channels] += du * f64::from(x[i]);
            }
        }
        channel += channels;
    }
    if let Some(sums) = sums {
        sums.copy_from_slice(&totals);
    }
}

fn out(images: Images, shape: ConvShape, branches: &[Branch]) -> Images {
    let c = branches.iter().map(|branch| branch.c_out).sum();
    Images { n: images.n, h: shape.output.0, w: shape.output.1, c }
}

/// dz at flat index `at` of a z of shape `out`.
fn upstream_at(upstream: Upstream, out: Images, at: usize) -> f64 {
    let (n, c) = (at / out.image_len(), at % out.c);
    let terms = upstream.terms.iter().map(|term| {
        let scale = term.scale.map_or(1.0, |s| f64::from(s[c]));
        term.sample_scale.map_or(1.0, |s| f64::from(s[n])) * scale * f64::from(term.grad[at])
    });
    let bn = upstream.bn.map_or(0.0, |bn| f64::from(bn.b[c]) * f64::from(bn.z[at]) + f64::from(bn.d[c]));
    terms.sum::<f64>() + bn
}
