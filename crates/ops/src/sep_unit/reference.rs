//! The unit as plain loops with f64 accumulation: the oracle of the other implementations. Refuses to be fast.

use super::{UnitBackward, UnitForward, UnitShape};
use crate::images::{Affine, Images, Upstream, Write};

/// a·x + b of one channel's value; x without an affine.
fn pre_activation(affine: Option<Affine>, channel: usize, x: f32) -> f64 {
    match affine {
        Some(Affine { scale, shift }) => f64::from(scale[channel]) * f64::from(x) + f64::from(shift[channel]),
        None => f64::from(x),
    }
}

/// dz of [`Upstream`], of one element.
fn upstream_gradient(upstream: &Upstream, images: Images, index: usize) -> f64 {
    let (n, c) = (index / images.image_len(), index % images.c);
    let terms = upstream.terms.iter().map(|term| {
        let scale = term.scale.map_or(1.0, |scale| f64::from(scale[c]));
        let sample_scale = term.sample_scale.map_or(1.0, |scale| f64::from(scale[n]));
        sample_scale * scale * f64::from(term.grad[index])
    });
    let bn = upstream.bn.map_or(0.0, |bn| f64::from(bn.b[c]) * f64::from(bn.z[index]) + f64::from(bn.d[c]));
    terms.sum::<f64>() + bn
}

/// Calls `visit(tap, input pixel)` for the taps of output pixel (row, column) that fall inside the image.
fn taps(images: Images, shape: UnitShape, row: usize, column: usize, mut visit: impl FnMut(usize, usize)) {
    let padding = shape.padding();
    for tap in 0..shape.kernel * shape.kernel {
        let y = (row * shape.stride + tap / shape.kernel * shape.dilation).wrapping_sub(padding);
        let x = (column * shape.stride + tap % shape.kernel * shape.dilation).wrapping_sub(padding);
        if y < images.h && x < images.w {
            visit(tap, y * images.w + x);
        }
    }
}

/// DW(activated) of one unit, `[N, H', W', C_in]`.
fn depthwise(images: Images, activated: &[f64], shape: UnitShape, weight: &[f32]) -> Vec<f64> {
    let (c, out) = (images.c, images.strided(shape.stride));
    let mut y = vec![0.0; out.len()];
    for (pixel, y) in y.chunks_exact_mut(c).enumerate() {
        let image = &activated[pixel / out.image_pixels() * images.image_len()..];
        let (row, column) = (pixel % out.image_pixels() / out.w, pixel % out.w);
        taps(images, shape, row, column, |tap, input| {
            for channel in 0..c {
                let weight = f64::from(weight[channel * shape.kernel * shape.kernel + tap]);
                y[channel] += weight * image[input * c + channel];
            }
        });
    }
    y
}

/// As [`super::forward`].
pub fn forward(images: Images, x: &[f32], affine: Option<Affine>, units: &mut [UnitForward]) {
    let activated: Vec<f64> =
        x.iter().enumerate().map(|(i, &x)| pre_activation(affine, i % images.c, x).max(0.0)).collect();
    for unit in units {
        let UnitShape { c_in, c_out, .. } = unit.shape;
        let y = depthwise(images, &activated, unit.shape, unit.depthwise);
        for (y, z) in y.chunks_exact(c_in).zip(unit.z.chunks_exact_mut(c_out)) {
            for (weights, z) in unit.pointwise.chunks_exact(c_in).zip(z) {
                *z = weights.iter().zip(y).map(|(&weight, y)| f64::from(weight) * y).sum::<f64>() as f32;
            }
        }
        if let Some(sums) = unit.sums.as_deref_mut() {
            sums.fill(0.0);
            for (i, &z) in unit.z.iter().enumerate() {
                sums[i % c_out] += f64::from(z);
                sums[c_out + i % c_out] += f64::from(z) * f64::from(z);
            }
        }
    }
}

/// As [`super::backward`].
pub fn backward(
    images: Images,
    x: &[f32],
    affine: Option<Affine>,
    units: &mut [UnitBackward],
    du: &mut [f32],
    write: Write,
    sums: Option<&mut [f64]>,
) {
    let c = images.c;
    let before: Vec<f64> = x.iter().enumerate().map(|(i, &x)| pre_activation(affine, i % c, x)).collect();
    let activated: Vec<f64> = before.iter().map(|value| value.max(0.0)).collect();
    let mut d_activated = vec![0.0; images.len()];
    for unit in units {
        let shape = unit.shape;
        let (taps_per_channel, c_out) = (shape.kernel * shape.kernel, shape.c_out);
        let out = images.strided(shape.stride);
        let z_images = out.with_channels(c_out);
        let y = depthwise(images, &activated, shape, unit.depthwise);
        let (mut d_depthwise, mut d_pointwise) = (vec![0.0; c * taps_per_channel], vec![0.0; c_out * c]);
        for pixel in 0..out.pixels() {
            let mut dy = vec![0.0; c];
            for o in 0..c_out {
                let dz = upstream_gradient(&unit.upstream, z_images, pixel * c_out + o);
                for i in 0..c {
                    dy[i] += dz * f64::from(unit.pointwise[o * c + i]);
                    d_pointwise[o * c + i] += dz * y[pixel * c + i];
                }
            }
            let image = pixel / out.image_pixels() * images.image_len();
            let (row, column) = (pixel % out.image_pixels() / out.w, pixel % out.w);
            taps(images, shape, row, column, |tap, input| {
                for i in 0..c {
                    let at = image + input * c + i;
                    d_activated[at] += dy[i] * f64::from(unit.depthwise[i * taps_per_channel + tap]);
                    d_depthwise[i * taps_per_channel + tap] += dy[i] * activated[at];
                }
            });
        }
        if let Some((depthwise, pointwise)) = &mut unit.weights {
            depthwise.iter_mut().zip(d_depthwise).for_each(|(to, value)| *to = value as f32);
            pointwise.iter_mut().zip(d_pointwise).for_each(|(to, value)| *to = value as f32);
        }
    }
    for (i, du) in du.iter_mut().enumerate() {
        let former = if write == Write::Accumulate { f64::from(*du) } else { 0.0 };
        let here = if before[i] > 0.0 { d_activated[i] } else { 0.0 };
        *du = (former + here) as f32;
    }
    if let Some(sums) = sums {
        sums.fill(0.0);
        for (i, (&du, &x)) in du.iter().zip(x).enumerate() {
            sums[i % c] += f64::from(du);
            sums[c + i % c] += f64::from(du) * f64::from(x);
        }
    }
}
