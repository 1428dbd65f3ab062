//! Pools as plain loops with f64 sums: the oracle of the tests. Never optimized.

use super::{PoolKind, PoolShape};
use crate::images::{Images, Upstream, Write};

/// Flat indices of a window's real cells, in scan order.
fn cells(images: Images, shape: PoolShape, n: usize, (oy, ox): (usize, usize), c: usize) -> Vec<usize> {
    let mut cells = Vec::new();
    for ky in 0..shape.kernel {
        for kx in 0..shape.kernel {
            let (y, x) = (oy * shape.stride + ky, ox * shape.stride + kx);
            let real = |i: usize, size: usize| i >= shape.padding && i < size + shape.padding;
            if real(y, images.h) && real(x, images.w) {
                let (y, x) = (y - shape.padding, x - shape.padding);
                cells.push(((n * images.h + y) * images.w + x) * images.c + c);
            }
        }
    }
    cells
}

fn activated(x: f32, shape: PoolShape) -> f64 {
    if shape.relu { f64::from(x).max(0.0) } else { f64::from(x) }
}

/// Calls `action` with the flat index of every output and its cells.
fn outputs(images: Images, shape: PoolShape, mut action: impl FnMut(usize, Vec<usize>)) {
    let out = shape.output(images);
    for n in 0..out.n {
        for y in 0..out.h {
            for x in 0..out.w {
                for c in 0..out.c {
                    action(((n * out.h + y) * out.w + x) * out.c + c, cells(images, shape, n, (y, x), c));
                }
            }
        }
    }
}

/// As [`super::forward`].
pub fn forward(images: Images, x: &[f32], shape: PoolShape, z: &mut [f32], sums: Option<&mut [f64]>) {
    outputs(images, shape, |at, cells| {
        let values = cells.iter().map(|&i| activated(x[i], shape));
        z[at] = match shape.kind {
            PoolKind::Max => values.fold(f64::NEG_INFINITY, f64::max) as f32,
            PoolKind::Average => (values.sum::<f64>() / cells.len() as f64) as f32,
        };
    });
    if let Some(sums) = sums {
        sums.fill(0.0);
        for (i, &z) in z.iter().enumerate() {
            sums[i % images.c] += f64::from(z);
            sums[images.c + i % images.c] += f64::from(z) * f64::from(z);
        }
    }
}

/// As [`super::backward`].
pub fn backward(images: Images, x: &[f32], shape: PoolShape, upstream: Upstream, dx: &mut [f32], write: Write) {
    let mut sum: Vec<f64> = match write {
        Write::Overwrite => vec![0.0; dx.len()],
        Write::Accumulate => dx.iter().map(|&v| f64::from(v)).collect(),
    };
    let out = shape.output(images);
    outputs(images, shape, |at, cells| {
        let dz = upstream_at(upstream, out, at);
        let mut add = |i: usize, gradient: f64| {
            if !shape.relu || x[i] > 0.0 {
                sum[i] += gradient;
            }
        };
        match shape.kind {
            PoolKind::Average => cells.iter().for_each(|&i| add(i, dz / cells.len() as f64)),
            PoolKind::Max => {
                let mut winner = cells[0];
                for &i in &cells {
                    if activated(x[i], shape) > activated(x[winner], shape) {
                        winner = i;
                    }
                }
                add(winner, dz);
            }
        }
    });
    for (dx, sum) in dx.iter_mut().zip(sum) {
        *dx = sum as f32;
    }
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
