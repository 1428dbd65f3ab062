//! The shipped convolution kernels at the sizes of the paper's search network (16 channels, batch 64), each with the operations
//! and the memory traffic that its definition asks for. Refuses sizes of its own: what is measured is what a search runs.

use crate::conv::{self, Activation, Branch, ConvShape};
use crate::head;
use crate::images::{Affine, BnTerm, Images, Upstream, UpstreamTerm, Write};
use crate::mix::{self, ReduceTerm, Term};
use crate::pool::{self, PoolKind, PoolShape};
use crate::profile;
use crate::sep_unit::{self, UnitBackward, UnitForward, UnitShape};
use std::time::{Duration, Instant};

/// One kernel's measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelResult {
    /// Kernel and size.
    pub name: String,
    /// How often it was called.
    pub calls: usize,
    /// Median seconds of a call.
    pub seconds: f64,
    /// Seconds of the fastest call: what the kernel takes when nothing else disturbs it.
    pub fastest: f64,
    /// Operations of a call (a multiply-add is two).
    pub flops: f64,
    /// Bytes that a call has to read and write at least, with every array met once.
    pub bytes: f64,
}

impl KernelResult {
    /// Operations per second of the fastest call, in 10⁹.
    pub fn gflops(&self) -> f64 {
        self.flops / self.fastest / 1e9
    }

    /// Bytes per second of the fastest call, in 10⁹.
    pub fn gigabytes_per_second(&self) -> f64 {
        self.bytes / self.fastest / 1e9
    }
}

/// Every kernel of the convolutional search at the paper's sizes, batch 64, on the threads of the current rayon pool. Takes some
/// seconds.
pub fn kernel_benches() -> Vec<KernelResult> {
    run(64, Duration::from_millis(150))
}

/// The benches at batch `n`, each called for about `time`.
pub(super) fn run(n: usize, time: Duration) -> Vec<KernelResult> {
    let mut bench = Bench { time, results: Vec::new() };
    for (size, c) in [(32, 16), (16, 32), (8, 64)] {
        let images = Images { n, h: size, w: size, c };
        for (kernel, dilation) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
            bench.sep_unit(images, UnitShape { kernel, stride: 1, dilation, c_in: c, c_out: c });
        }
        bench.pools(images);
        bench.mix(images, 35);
    }
    // Preprocess: four nodes of the cell before to C channels; stem; the reduction's other input.
    let images = Images { n, h: 32, w: 32, c: 64 };
    bench.conv("conv 1×1", images, 4, 1, &[((0, 0), 16)], 1);
    bench.conv("conv 1×1", Images { n, h: 16, w: 16, c: 128 }, 4, 1, &[((0, 0), 32)], 1);
    bench.conv("conv 1×1", Images { n, h: 8, w: 8, c: 256 }, 4, 1, &[((0, 0), 64)], 1);
    bench.conv("factorized reduce", images, 4, 1, &[((0, 0), 16), ((1, 1), 16)], 2);
    bench.conv("stem 3×3", Images { n, h: 32, w: 32, c: 3 }, 1, 3, &[((-1, -1), 48)], 1);
    bench.head(Images { n, h: 8, w: 8, c: 64 });
    bench.results
}

struct Bench {
    time: Duration,
    results: Vec<KernelResult>,
}

/// Arbitrary numbers around 0.
fn numbers(len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn size(images: Images) -> String {
    format!("C {} {}×{}", images.c, images.h, images.w)
}

impl Bench {
    /// Calls `action` once to warm up, then until the time is over, at least three times.
    fn measure(&mut self, name: String, mut action: impl FnMut()) {
        profile::start();
        action();
        let (flops, bytes) = profile::stop().iter().fold((0.0, 0.0), |(f, b), e| (f + e.flops, b + e.bytes));
        let mut seconds = Vec::new();
        let begin = Instant::now();
        while seconds.len() < 3 || begin.elapsed() < self.time {
            let start = Instant::now();
            action();
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2].max(1e-9);
        let (calls, fastest) = (seconds.len(), seconds[0].max(1e-9));
        self.results.push(KernelResult { name, calls, seconds: median, fastest, flops, bytes });
    }

    fn sep_unit(&mut self, images: Images, shape: UnitShape) {
        let UnitShape { kernel, dilation, .. } = shape;
        let (c, len) = (images.c, images.len());
        let [x, grad] = [(); 2].map(|()| numbers(len));
        let coefficients = numbers(c);
        let (depthwise, pointwise) = (numbers(shape.depthwise_len()), numbers(shape.pointwise_len()));
        let (mut z, mut du, mut sums) = (vec![0.0; len], vec![0.0; len], vec![0.0; 2 * c]);
        let affine = Some(Affine { scale: &coefficients, shift: &coefficients });
        let name = format!("sep_unit {kernel}×{kernel} dilation {dilation}, {}", size(images));
        self.measure(format!("{name}, forward"), || {
            let unit =
                UnitForward { shape, depthwise: &depthwise, pointwise: &pointwise, z: &mut z, sums: Some(&mut sums) };
            sep_unit::forward(images, &x, affine, &mut [unit]);
        });
        let (mut d_depthwise, mut d_pointwise) = (depthwise.clone(), pointwise.clone());
        self.measure(format!("{name}, backward"), || {
            let terms = [UpstreamTerm { grad: &grad, scale: Some(&coefficients), sample_scale: None }];
            let bn = BnTerm { z: &z, b: &coefficients, d: &coefficients };
            let unit = UnitBackward {
                shape,
                depthwise: &depthwise,
                pointwise: &pointwise,
                upstream: Upstream { terms: &terms, bn: Some(bn) },
                weights: Some((&mut d_depthwise, &mut d_pointwise)),
            };
            sep_unit::backward(images, &x, affine, &mut [unit], &mut du, Write::Overwrite, Some(&mut sums));
        });
    }

    fn pools(&mut self, images: Images) {
        let len = images.len();
        let [x, grad] = [(); 2].map(|()| numbers(len));
        let (mut z, mut dx, mut sums) = (vec![0.0; len], vec![0.0; len], vec![0.0; 2 * images.c]);
        for (kind, what) in [(PoolKind::Max, "max"), (PoolKind::Average, "average")] {
            let shape = PoolShape::three_by_three(kind, 1);
            let name = format!("{what} pool 3×3, {}", size(images));
            self.measure(format!("{name}, forward"), || {
                pool::forward(images, &x, shape, &mut z, Some(&mut sums));
            });
            self.measure(format!("{name}, backward"), || {
                let terms = [UpstreamTerm { grad: &grad, scale: None, sample_scale: None }];
                let upstream = Upstream { terms: &terms, bn: None };
                pool::backward(images, &x, shape, upstream, &mut dx, Write::Overwrite);
            });
        }
    }

    fn mix(&mut self, images: Images, count: usize) {
        let len = images.len();
        let z: Vec<Vec<f32>> = (0..count).map(|_| numbers(len)).collect();
        let coefficients = numbers(images.c);
        let mut node = vec![0.0; len];
        let name = format!("mix of {count}, {}", size(images));
        self.measure(format!("{name}, forward"), || {
            let term = |z| Term { z, scale: &coefficients, shift: Some(&coefficients), sample_scale: None };
            let terms: Vec<Term> = z.iter().map(|z| term(&z[..])).collect();
            mix::forward(images, &terms, &mut node, Write::Overwrite);
        });
        let mut sums = vec![vec![0.0; 2 * images.c]; count];
        self.measure(format!("{name}, reduce"), || {
            let terms = z.iter().zip(&mut sums).map(|(z, sums)| ReduceTerm { z, sample_scale: None, sums });
            mix::reduce(images, &node, &mut terms.collect::<Vec<_>>());
        });
    }

    /// A convolution of `parts` equal parts, square kernel.
    fn conv(
        &mut self,
        what: &str,
        images: Images,
        parts: usize,
        kernel: usize,
        branches: &[((isize, isize), usize)],
        stride: usize,
    ) {
        let (shape, _) = ConvShape::padded(images, kernel, stride);
        let c_out: usize = branches.iter().map(|&(_, c)| c).sum();
        let out = images.strided(stride).with_channels(c_out);
        let x: Vec<Vec<f32>> = (0..parts).map(|_| numbers(images.len() / parts)).collect();
        let x: Vec<&[f32]> = x.iter().map(|x| &x[..]).collect();
        let weights: Vec<Vec<f32>> = branches.iter().map(|&(_, c)| numbers(c * shape.depth())).collect();
        let branches: Vec<Branch> = (branches.iter().zip(&weights))
            .map(|(&(offset, c_out), weight)| Branch { offset, c_out, weight })
            .collect();
        let grad = numbers(out.len());
        let coefficients = numbers(c_out);
        let (mut z, mut sums) = (vec![0.0; out.len()], vec![0.0; 2 * c_out]);
        let name = format!("{what}, {} → {c_out}", size(images));
        self.measure(format!("{name}, forward"), || {
            conv::forward(images, &x, Activation::Relu, shape, &branches, &mut z, Some(&mut sums));
        });
        let mut d_weights = weights.clone();
        let mut d_x: Vec<Vec<f32>> = x.iter().map(|x| vec![0.0; x.len()]).collect();
        self.measure(format!("{name}, backward"), || {
            let terms = [UpstreamTerm { grad: &grad, scale: Some(&coefficients), sample_scale: None }];
            let bn = BnTerm { z: &z, b: &coefficients, d: &coefficients };
            let upstream = Upstream { terms: &terms, bn: Some(bn) };
            let mut d_weights: Vec<&mut [f32]> = d_weights.iter_mut().map(|d| &mut d[..]).collect();
            let mut d_parts: Vec<_> = d_x.iter_mut().map(|d| Some(&mut d[..])).collect();
            let weights = Some(&mut d_weights[..]);
            let relu = Activation::Relu;
            conv::backward(images, &x, relu, shape, &branches, upstream, weights, &mut d_parts, Write::Overwrite, None);
        });
    }

    fn head(&mut self, images: Images) {
        let x = numbers(images.len());
        let mut out = vec![0.0; images.n * images.c];
        let name = format!("global average pool, {}", size(images));
        self.measure(name, || {
            head::global_average_pool(images, &[&x], &mut out);
        });
    }
}
