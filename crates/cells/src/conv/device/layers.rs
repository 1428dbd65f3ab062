//! Norms, dense convolutions, stems and heads: how each is laid down. The counterparts of the methods of the same names in the
//! files of the CPU's passes.

use darts_cuda::batch_norm::{self, NormBackward, Running, Statistics};
use darts_cuda::conv::{self, Activation, Branch, ConvShape, Output, OutputBackward};
use darts_cuda::pool::{self, PoolKind, PoolShape};
use darts_cuda::{Affine, BnTerm, Images, Upstream, UpstreamTerm, View, Write, fold, head, mix};

use super::lower::Lower;
use crate::conv::build::Buffer;
use crate::conv::convolution::{Activate, Convolution};
use crate::conv::head::{Auxiliary, Classifier, Linear};
use crate::conv::norm::Norm;
use crate::conv::preprocess::ConvNorm;
use crate::conv::stem::StemLayers;
use crate::device::DeviceStatistics;

/// A norm whose coefficients are to be computed, with [Σz | Σz²] where the pass normalizes by the batch.
pub(super) struct Normalized<'a> {
    pub(super) norm: &'a Norm,
    pub(super) sums: Option<View<f64>>,
    /// Elements of a channel.
    pub(super) count: usize,
}

/// Coefficients of all `norms`, in one launch.
pub(super) fn norms_forward(lower: &mut Lower, norms: &[Normalized]) {
    let gamma_beta = |norm: &Norm| match &norm.gamma_beta {
        Some([gamma, beta]) => [Some(lower.theta(gamma)), Some(lower.theta(beta))],
        None => [None; 2],
    };
    let running = |norm: &Norm, flat: View| norm.running.clone().map(|range| flat.slice(range));
    match lower.pass.statistics {
        DeviceStatistics::Batch { update } => {
            let entry = |of: &Normalized| {
                let Some(sums) = of.sums else {
                    unreachable!("a pass that normalizes by the batch asks kernels for sums")
                };
                let [gamma, beta] = gamma_beta(of.norm);
                let running = update.map(|flat| running(of.norm, flat));
                let coefficients = lower.channels(of.norm.coefficients);
                Statistics { sums, count: of.count, gamma, beta, running, coefficients }
            };
            let entries: Vec<Statistics> = norms.iter().map(entry).collect();
            batch_norm::statistics(lower.program, &entries);
        }
        DeviceStatistics::Running(flat) => {
            let entry = |of: &Normalized| {
                let [gamma, beta] = gamma_beta(of.norm);
                let coefficients = lower.channels(of.norm.coefficients);
                Running { running: running(of.norm, flat), gamma, beta, coefficients }
            };
            let entries: Vec<Running> = norms.iter().map(entry).collect();
            batch_norm::from_running(lower.program, &entries);
        }
    }
}

impl Norm {
    pub(super) fn device_affine(&self, lower: &Lower) -> Affine {
        batch_norm::affine(lower.channels(self.coefficients))
    }

    /// scale | b | d of the gradient that reaches z, after the backward.
    pub(super) fn device_upstream(&self, lower: &Lower) -> [View; 3] {
        batch_norm::upstream(lower.channels(self.upstream))
    }

    /// What [`batch_norm::backward`] is to do from `sums` = [Σg | Σg·z] of the gradient g at the normalized value.
    pub(super) fn device_backward(&self, lower: &Lower, sums: View<f64>, count: usize) -> batch_norm::Backward {
        let [d_gamma, d_beta] = match &self.gamma_beta {
            Some(ranges) => ranges.clone().map(|range| lower.d_theta(&range)),
            None => [None; 2],
        };
        let norm = NormBackward {
            coefficients: lower.channels(self.coefficients),
            upstream: lower.channels(self.upstream),
            d_gamma,
            d_beta,
        };
        let training = lower.by_batch();
        batch_norm::Backward { sums, count, norm: Some(norm), weight: None, training, d_weight: None }
    }
}

impl Activate<'_> {
    fn device(self, lower: &Lower) -> Activation {
        match self {
            Activate::Nothing => Activation::None,
            Activate::Relu => Activation::Relu,
            Activate::NormRelu(norm) => Activation::AffineRelu(norm.device_affine(lower)),
        }
    }
}

/// The gradient that arrives at a kernel's output: of the node that its output went into, or of the output itself.
#[derive(Clone, Copy)]
pub(super) struct Arriving<'a> {
    pub(super) gradient: View,
    /// The norm between the output and where the gradient is taken, with that output.
    pub(super) norm: Option<(&'a Norm, &'a Buffer)>,
    pub(super) mask: Option<usize>,
}

impl Arriving<'_> {
    pub(super) fn term(&self, lower: &Lower) -> UpstreamTerm {
        let scale = self.norm.map(|(norm, _)| norm.device_upstream(lower)[0]);
        UpstreamTerm { grad: self.gradient, scale, sample_scale: lower.mask(self.mask) }
    }

    pub(super) fn bn(&self, lower: &Lower) -> Option<BnTerm> {
        let (norm, z) = self.norm?;
        let [_, b, d] = norm.device_upstream(lower);
        Some(BnTerm { z: lower.view(z), b, d })
    }
}

impl Convolution {
    fn device_shape(&self) -> ConvShape {
        let darts_ops::conv::ConvShape { kernel, stride, output, c_in } = self.shape;
        ConvShape { kernel, stride, output, c_in }
    }

    fn device_branches(&self, lower: &Lower) -> Vec<Branch> {
        let branches = self.branches.iter();
        branches.map(|b| Branch { offset: b.offset, c_out: b.c_out, weight: lower.theta(&b.weight) }).collect()
    }

    fn widths(&self) -> Vec<usize> {
        self.branches.iter().map(|branch| branch.c_out).collect()
    }

    /// Whether both are one geometry: they can go in one launch.
    fn is_like(&self, other: &Self) -> bool {
        let offsets = |of: &Self| -> Vec<_> { of.branches.iter().map(|branch| branch.offset).collect() };
        self.shape == other.shape && self.input == other.input && offsets(self) == offsets(other)
    }

    /// z of `parts`, and the sums [Σz | Σz²] where they are given.
    pub(super) fn lay_forward(
        &self,
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        z: &Buffer,
        sums: Option<View<f64>>,
    ) {
        Self::lay_forward_all(lower, parts, activate, &[(self, z, sums)]);
    }

    /// Weight gradients (where the pass wants them) and the input's, written to `d_parts` as `write` says. `sums` receives
    /// [Σdu | Σdu·x] for the norm of `Activate::NormRelu`.
    #[expect(clippy::too_many_arguments, reason = "the signature says what is read and what is written")]
    pub(super) fn lay_backward(
        &self,
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        arriving: Arriving,
        d_parts: &[View],
        write: Write,
        sums: Option<View<f64>>,
    ) {
        Self::lay_backward_all(lower, parts, activate, &[(self, arriving)], d_parts, write, sums);
    }

    /// [`lay_forward`](Self::lay_forward) of several that are [`alike`] and read the same.
    pub(super) fn lay_forward_all(
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        all: &[(&Self, &Buffer, Option<View<f64>>)],
    ) {
        for all in together(all, |(convolution, ..)| convolution) {
            let (precision, first) = (lower.pass.precision, all[0].0);
            let (images, shape) = (lower.images(first.input), first.device_shape());
            let widths: Vec<usize> = all.iter().flat_map(|(convolution, ..)| convolution.widths()).collect();
            let has_sums = all.iter().any(|(.., sums)| sums.is_some());
            let mark = lower.mark();
            let scratch = if has_sums { conv::forward_scratch_len(precision, images, shape, &widths) } else { 0 };
            let scratch = lower.take(scratch);
            let branches: Vec<Vec<Branch>> = all.iter().map(|(of, ..)| of.device_branches(lower)).collect();
            let output = |(&(_, z, sums), branches)| Output { branches, z: lower.view(z), sums };
            let outputs: Vec<Output> = all.iter().zip(branches.iter().map(Vec::as_slice)).map(output).collect();
            let (parts, activation) = (lower.views(parts), activate.device(lower));
            conv::forward(lower.program, precision, images, &parts, activation, shape, &outputs, scratch);
            lower.release(mark);
        }
    }

    /// [`lay_backward`](Self::lay_backward) of several that are [`alike`] and read the same.
    pub(super) fn lay_backward_all(
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        all: &[(&Self, Arriving)],
        d_parts: &[View],
        mut write: Write,
        sums: Option<View<f64>>,
    ) {
        let d_parts: Vec<Option<View>> = d_parts.iter().copied().map(Some).collect();
        for all in together(all, |(convolution, _)| convolution) {
            let (precision, first) = (lower.pass.precision, all[0].0);
            let (images, shape) = (lower.images(first.input), first.device_shape());
            let widths: Vec<usize> = all.iter().flat_map(|(convolution, _)| convolution.widths()).collect();
            let mark = lower.mark();
            let scratch = lower.take(conv::backward_scratch_len(precision, images, shape, &widths));
            let branches: Vec<Vec<Branch>> = all.iter().map(|(of, _)| of.device_branches(lower)).collect();
            let terms: Vec<_> = all.iter().map(|(_, arriving)| [arriving.term(lower)]).collect();
            let weights = |of: &Self| of.branches.iter().map(|branch| lower.d_theta(&branch.weight)).collect();
            let weights: Vec<Option<Vec<View>>> = all.iter().map(|(of, _)| weights(of)).collect();
            let mut outputs = Vec::with_capacity(all.len());
            for (index, (_, arriving)) in all.iter().enumerate() {
                outputs.push(OutputBackward {
                    branches: &branches[index],
                    upstream: Upstream { terms: &terms[index], bn: arriving.bn(lower) },
                    weights: weights[index].as_deref(),
                });
            }
            let (parts, activation) = (lower.views(parts), activate.device(lower));
            conv::backward(
                lower.program,
                precision,
                images,
                &parts,
                activation,
                shape,
                &outputs,
                &d_parts,
                write,
                sums,
                scratch,
                &mut lower.pending,
            );
            lower.release(mark);
            write = Write::Accumulate;
        }
    }
}

/// Groups of convolutions of one geometry, each of which can go in one launch where it reads one input.
pub(super) fn alike<T>(all: impl IntoIterator<Item = T>, convolution: impl Fn(&T) -> &Convolution) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    for one in all {
        match groups.iter_mut().find(|group| convolution(&group[0]).is_like(convolution(&one))) {
            Some(group) => group.push(one),
            None => groups.push(vec![one]),
        }
    }
    groups
}

/// The convolutions of a call, as many at a time as one has room for.
fn together<T>(all: &[T], convolution: impl Fn(&T) -> &Convolution) -> impl Iterator<Item = &[T]> {
    let branches = all.iter().map(|one| convolution(one).branches.len()).max().unwrap_or(1).max(1);
    all.chunks(conv::OUTPUTS.min(conv::BRANCHES / branches).max(1))
}

impl ConvNorm {
    fn count(&self, lower: &Lower) -> usize {
        lower.batch * self.z.shape.pixels()
    }

    /// z of all that read `parts`, and the coefficients of their norms.
    fn lay_convolve_all(lower: &mut Lower, parts: &[Buffer], activate: Activate, all: &[&Self]) {
        let mark = lower.mark();
        let mut norms = Vec::with_capacity(all.len());
        for group in alike(all.iter().copied(), |layer| &layer.conv) {
            let outputs: Vec<_> =
                group.iter().map(|layer| (&layer.conv, &layer.z, lower.sums(layer.norm.channels))).collect();
            Convolution::lay_forward_all(lower, parts, activate, &outputs);
            for (layer, (.., sums)) in group.into_iter().zip(outputs) {
                norms.push(Normalized { norm: &layer.norm, sums, count: layer.count(lower) });
            }
        }
        norms_forward(lower, &norms);
        lower.release(mark);
    }

    fn lay_convolve(&self, lower: &mut Lower, parts: &[Buffer], activate: Activate) {
        Self::lay_convolve_all(lower, parts, activate, &[self]);
    }

    /// z of all that read `parts`, and their normalized values.
    pub(super) fn lay_forward_all(lower: &mut Lower, parts: &[Buffer], activate: Activate, all: &[(&Self, &Buffer)]) {
        let layers: Vec<&Self> = all.iter().map(|(layer, _)| *layer).collect();
        Self::lay_convolve_all(lower, parts, activate, &layers);
        for (layer, out) in all {
            let Affine { scale, shift } = layer.norm.device_affine(lower);
            let z = lower.view(&layer.z);
            let term = mix::Term { z, scale: Some(scale), shift: Some(shift), weight: None, sample_scale: None };
            let (images, out) = (lower.images(out.shape), lower.view(out));
            mix::forward(lower.program, images, &[term], out, Write::Overwrite);
        }
    }

    pub(super) fn lay_forward(&self, lower: &mut Lower, parts: &[Buffer], activate: Activate, out: &Buffer) {
        Self::lay_forward_all(lower, parts, activate, &[(self, out)]);
    }

    /// From the gradients of the normalized values of all that read `parts`, the weights' gradients and, added to `d_parts`, the
    /// input's, with its sums where `activate` is a norm's.
    pub(super) fn lay_backward_all(
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        all: &[(&Self, &Buffer)],
        d_parts: &[Buffer],
        input_sums: Option<View<f64>>,
    ) {
        let mark = lower.mark();
        let mut of_all = Vec::with_capacity(all.len());
        for &(layer, gradient) in all {
            lower.ensure(gradient);
            let sums = lower.take(2 * layer.norm.channels);
            let images = lower.images(layer.z.shape);
            let scratch = lower.take(mix::reduce_scratch_len(images, 1));
            let (z, dnode) = (lower.view(&layer.z), lower.view(gradient));
            mix::reduce(lower.program, images, dnode, &[mix::ReduceTerm { z, sample_scale: None, sums }], scratch);
            of_all.push((layer, gradient, sums));
        }
        Self::backward_rest(lower, parts, activate, &of_all, d_parts, input_sums);
        lower.release(mark);
    }

    /// [`lay_backward_all`](Self::lay_backward_all) of one.
    pub(super) fn lay_backward(
        &self,
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        gradient: &Buffer,
        d_parts: &[Buffer],
        input_sums: Option<View<f64>>,
    ) {
        Self::lay_backward_all(lower, parts, activate, &[(self, gradient)], d_parts, input_sums);
    }

    /// The same where only the next convolution read the value, which left `gradient`, that of the value, and `sums` =
    /// [Σ gradient | Σ gradient·z].
    fn lay_backward_with_sums(
        &self,
        lower: &mut Lower,
        parts: &[Buffer],
        gradient: &Buffer,
        sums: View<f64>,
        d_parts: &[Buffer],
    ) {
        Self::backward_rest(lower, parts, Activate::Nothing, &[(self, gradient, sums)], d_parts, None);
    }

    /// Each with the gradient of its normalized value, and that one's sums.
    fn backward_rest(
        lower: &mut Lower,
        parts: &[Buffer],
        activate: Activate,
        all: &[(&Self, &Buffer, View<f64>)],
        d_parts: &[Buffer],
        input_sums: Option<View<f64>>,
    ) {
        let norms: Vec<batch_norm::Backward> =
            all.iter().map(|(layer, _, sums)| layer.norm.device_backward(lower, *sums, layer.count(lower))).collect();
        batch_norm::backward(lower.program, &norms);
        for group in alike(all, |(layer, ..)| &layer.conv) {
            let mut outputs = Vec::with_capacity(group.len());
            for (layer, gradient, _) in group {
                let norm = Some((&layer.norm, &layer.z));
                outputs.push((&layer.conv, Arriving { gradient: lower.view(gradient), norm, mask: None }));
            }
            let write = lower.write_to_all(d_parts);
            let views = lower.views(d_parts);
            Convolution::lay_backward_all(lower, parts, activate, &outputs, &views, write, input_sums);
        }
    }
}

impl StemLayers {
    pub(super) fn lay_forward(&self, lower: &mut Lower, images: &Buffer) {
        match self {
            Self::Cifar { layer, output } => layer.lay_forward(lower, &[*images], Activate::Nothing, &output.parts[0]),
            Self::ImageNet { first, second, s0, third, s1, .. } => {
                first.lay_convolve(lower, &[*images], Activate::Nothing);
                second.lay_forward(lower, &[first.z], Activate::NormRelu(&first.norm), &s0.parts[0]);
                third.lay_forward(lower, &s0.parts, Activate::Relu, &s1.parts[0]);
            }
        }
    }

    /// `d_images`: where the images' gradient is to go, if it is wanted.
    pub(super) fn lay_backward(&self, lower: &mut Lower, images: &Buffer, d_images: &[Buffer]) {
        match self {
            Self::Cifar { layer, output } => {
                layer.lay_backward(lower, &[*images], Activate::Nothing, &output.gradients[0], d_images, None);
            }
            Self::ImageNet { first, d_first, second, s0, third, s1 } => {
                third.lay_backward(lower, &s0.parts, Activate::Relu, &s1.gradients[0], &s0.gradients, None);
                let mark = lower.mark();
                let sums = lower.take(2 * first.norm.channels);
                let activate = Activate::NormRelu(&first.norm);
                second.lay_backward(lower, &[first.z], activate, &s0.gradients[0], &[*d_first], Some(sums));
                first.lay_backward_with_sums(lower, &[*images], d_first, sums, d_images);
                lower.release(mark);
            }
        }
    }
}

impl Linear {
    /// The samples of a batch as the pixels of one image.
    fn device_images(&self, batch: usize) -> Images {
        Images { n: 1, h: 1, w: batch, c: self.features }
    }

    fn device_shape(&self, batch: usize) -> ConvShape {
        ConvShape { kernel: (1, 1), stride: (1, 1), output: (1, batch), c_in: self.features }
    }

    fn device_branch(&self, lower: &Lower) -> [Branch; 1] {
        [Branch { offset: (0, 0), c_out: self.classes, weight: lower.theta(&self.weight) }]
    }

    fn lay_forward(&self, lower: &mut Lower, features: &Buffer, activate: Activate) {
        let (images, shape) = (self.device_images(lower.batch), self.device_shape(lower.batch));
        let precision = lower.pass.precision;
        let (x, product, logits) = (lower.view(features), lower.view(&self.product), lower.view(&self.logits));
        let (activation, branch) = (activate.device(lower), self.device_branch(lower));
        let output = [Output { branches: &branch, z: product, sums: None }];
        conv::forward(lower.program, precision, images, &[x], activation, shape, &output, View::none());
        let shift = Some(lower.theta(&self.bias));
        let term = mix::Term { z: product, scale: None, shift, weight: None, sample_scale: None };
        mix::forward(lower.program, images.with_channels(self.classes), &[term], logits, Write::Overwrite);
    }

    /// From `d_logits`: gradients of W and b, and that of the features before their activation, overwriting `d_features`.
    fn lay_backward(
        &self,
        lower: &mut Lower,
        features: &Buffer,
        activate: Activate,
        d_features: &Buffer,
        sums: Option<View<f64>>,
    ) {
        let (images, shape) = (self.device_images(lower.batch), self.device_shape(lower.batch));
        let precision = lower.pass.precision;
        let gradient = lower.view(&self.d_logits);
        if let Some(sums) = lower.d_theta(&self.bias) {
            fold::weights(lower.program, &[fold::FoldWeights { partials: gradient, sums }]);
        }
        let mark = lower.mark();
        let scratch = lower.take(conv::backward_scratch_len(precision, images, shape, &[self.classes]));
        let d_weights = lower.d_theta(&self.weight).map(|view| [view]);
        let terms = [UpstreamTerm { grad: gradient, scale: None, sample_scale: None }];
        let (x, d_x) = (lower.view(features), lower.view(d_features));
        let (activation, branch) = (activate.device(lower), self.device_branch(lower));
        let output = OutputBackward {
            branches: &branch,
            upstream: Upstream { terms: &terms, bn: None },
            weights: d_weights.as_ref().map(|d| &d[..]),
        };
        conv::backward(
            lower.program,
            precision,
            images,
            &[x],
            activation,
            shape,
            &[output],
            &[Some(d_x)],
            Write::Overwrite,
            sums,
            scratch,
            &mut lower.pending,
        );
        lower.release(mark);
    }
}

impl Classifier {
    pub(super) fn lay_forward(&self, lower: &mut Lower, parts: &[Buffer]) {
        let images = lower.images(parts[0].shape);
        let (parts, pooled) = (lower.views(parts), lower.view(&self.pooled));
        head::global_average_pool(lower.program, images, &parts, pooled);
        self.linear.lay_forward(lower, &self.pooled, Activate::Nothing);
    }

    pub(super) fn lay_backward(&self, lower: &mut Lower, d_parts: &[Buffer]) {
        self.linear.lay_backward(lower, &self.pooled, Activate::Nothing, &self.d_pooled, None);
        let write = lower.write_to_all(d_parts);
        let images = lower.images(d_parts[0].shape);
        let (views, pooled) = (lower.views(d_parts), lower.view(&self.d_pooled));
        head::global_average_pool_backward(lower.program, images, pooled, &views, write);
    }
}

pub(super) fn device_pool(shape: darts_ops::pool::PoolShape) -> PoolShape {
    let darts_ops::pool::PoolShape { kind, kernel, stride, padding, relu } = shape;
    let kind = match kind {
        darts_ops::pool::PoolKind::Max => PoolKind::Max,
        darts_ops::pool::PoolKind::Average => PoolKind::Average,
    };
    PoolShape { kind, kernel, stride, padding, relu }
}

impl Auxiliary {
    pub(super) fn lay_forward(&self, lower: &mut Lower, parts: &[Buffer]) {
        let shape = device_pool(self.pool);
        let pools = parts.iter().zip(&self.pooled);
        let pools: Vec<pool::Forward> = pools
            .map(|(part, pooled)| pool::Forward { x: lower.view(part), shape, z: lower.view(pooled), sums: None })
            .collect();
        let images = lower.images(parts[0].shape);
        pool::forward(lower.program, images, &pools, View::none());
        self.narrow.lay_convolve(lower, &self.pooled, Activate::Nothing);
        let mark = lower.mark();
        let sums = self.wide_norm.as_ref().and_then(|norm| lower.sums(norm.channels));
        let activate = Activate::NormRelu(&self.narrow.norm);
        self.wide.lay_forward(lower, &[self.narrow.z], activate, &self.wide_z, sums);
        if let Some(norm) = &self.wide_norm {
            norms_forward(lower, &[Normalized { norm, sums, count: lower.batch }]);
        }
        lower.release(mark);
        self.linear.lay_forward(lower, &self.wide_z, self.activate());
    }

    /// From `d_logits` of the linear layer, added to `d_parts`.
    pub(super) fn lay_backward(&self, lower: &mut Lower, parts: &[Buffer], d_parts: &[Buffer]) {
        let mark = lower.mark();
        let sums = self.wide_norm.as_ref().map(|norm| lower.take(2 * norm.channels));
        self.linear.lay_backward(lower, &self.wide_z, self.activate(), &self.d_wide, sums);
        if let (Some(norm), Some(sums)) = (&self.wide_norm, sums) {
            let backward = norm.device_backward(lower, sums, lower.batch);
            batch_norm::backward(lower.program, &[backward]);
        }
        let arriving = Arriving {
            gradient: lower.view(&self.d_wide),
            norm: self.wide_norm.as_ref().map(|norm| (norm, &self.wide_z)),
            mask: None,
        };
        let sums = lower.take(2 * self.narrow.norm.channels);
        let activate = Activate::NormRelu(&self.narrow.norm);
        let write = lower.write_to(&self.d_narrow);
        let d_narrow = lower.view(&self.d_narrow);
        self.wide.lay_backward(lower, &[self.narrow.z], activate, arriving, &[d_narrow], write, Some(sums));
        self.narrow.lay_backward_with_sums(lower, &self.pooled, &self.d_narrow, sums, &self.d_pooled);
        lower.release(mark);
        let terms: Vec<[pool::Term; 1]> = self
            .d_pooled
            .iter()
            .map(|grad| [pool::Term { grad: lower.view(grad), scale: None, sample_scale: None, bn: None }])
            .collect();
        let mut pools = Vec::with_capacity(parts.len());
        for (((part, d_part), pooled), terms) in parts.iter().zip(d_parts).zip(&self.pooled).zip(&terms) {
            pools.push(pool::Backward {
                x: lower.view(part),
                shape: device_pool(self.pool),
                z: lower.view(pooled),
                terms,
                dx: lower.view(d_part),
                write: lower.write_to(d_part),
            });
        }
        let images = lower.images(parts[0].shape);
        pool::backward(lower.program, images, &pools);
    }
}
