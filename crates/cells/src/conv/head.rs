//! From a cell's output to logits: the classifier and the auxiliary head. Computes no loss.

use std::ops::Range;

use darts_ops::conv::{self, Branch, ConvShape};
use darts_ops::pool::{self, PoolKind, PoolShape};
use darts_ops::{Images, Slot, Upstream, UpstreamTerm, Write, head, mix};

use super::build::{Buffer, Builder, Geometry};
use super::convolution::{Activate, Arriving, Convolution};
use super::norm::Norm;
use super::pass::{Backward, Forward};
use super::preprocess::ConvNorm;
use crate::parameters::Init;

/// logits = W·x + b, over `[N, K]` features that may still have to be normalized and activated.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(super) features: usize,
    pub(super) classes: usize,
    pub(super) weight: Range<usize>,
    pub(super) bias: Range<usize>,
    /// W·x.
    pub(super) product: Buffer,
    pub(crate) logits: Buffer,
    pub(crate) d_logits: Buffer,
    ones: Slot,
}

impl Linear {
    pub(crate) fn new(builder: &mut Builder, name: &str, features: usize, classes: usize) -> Self {
        let logits = Geometry { h: 1, w: 1, c: classes };
        builder.multiply_adds += (features * classes) as u64;
        let init = Init::FanIn(features);
        Self {
            features,
            classes,
            weight: builder.parameters.push(format!("{name}.weight"), &[classes, features], init),
            bias: builder.parameters.push(format!("{name}.bias"), &[classes], init),
            product: builder.buffer(logits),
            logits: builder.buffer(logits),
            d_logits: builder.buffer(logits),
            ones: builder.channel_vector(classes),
        }
    }

    /// The samples of a batch as the pixels of one image, so that they share strips of the matrix kernel.
    fn images(&self, batch: usize) -> Images {
        Images { n: 1, h: 1, w: batch, c: self.features }
    }

    fn shape(&self, batch: usize) -> ConvShape {
        ConvShape { kernel: (1, 1), stride: (1, 1), output: (1, batch), c_in: self.features }
    }

    fn branch<'a>(&self, theta: &'a [f32]) -> [Branch<'a>; 1] {
        [Branch { offset: (0, 0), c_out: self.classes, weight: &theta[self.weight.clone()] }]
    }

    fn forward(&self, pass: &mut Forward, features: &Buffer, activate: Activate) {
        let theta = pass.input.theta;
        let ws = &mut *pass.ws;
        ws.channels.write(self.ones).fill(1.0);
        let (images, shape) = (self.images(ws.batch), self.shape(ws.batch));
        let (x, product, logits) = (ws.slot(features), ws.slot(&self.product), ws.slot(&self.logits));
        let (read, mut write) = ws.activations.split(&[x], &[product]);
        let activation = activate.resolve(&ws.channels);
        conv::forward(images, &read, activation, shape, &self.branch(theta), write[0], None);
        let (read, mut write) = ws.activations.split(&[product], &[logits]);
        let scale = ws.channels.read(self.ones);
        let term = mix::Term { z: read[0], scale, shift: Some(&theta[self.bias.clone()]), sample_scale: None };
        mix::forward(images.with_channels(self.classes), &[term], write[0], Write::Overwrite);
    }

    /// From `d_logits`: gradients of W and b, and that of the features before their activation, overwriting `d_features`.
    fn backward(
        &self,
        pass: &mut Backward,
        features: &Buffer,
        activate: Activate,
        d_features: &Buffer,
        sums: Option<&mut [f64]>,
    ) {
        let theta = pass.input.theta;
        pass.written[d_features.id] = true;
        let ws = &mut *pass.ws;
        let images = self.images(ws.batch);
        let slots = [ws.slot(features), ws.slot(&self.d_logits)];
        if let Some(flat) = pass.theta.as_deref_mut() {
            let gradient = ws.activations.read(slots[1]);
            let mut bias = vec![0.0; 2 * self.classes];
            let term = mix::ReduceTerm { z: gradient, sample_scale: None, sums: &mut bias };
            mix::reduce(images.with_channels(self.classes), gradient, &mut [term]);
            let target = &mut flat[self.bias.clone()];
            target.iter_mut().zip(&bias).for_each(|(d, &sum)| *d = sum as f32);
        }
        let target = ws.slot(d_features);
        let (read, write) = ws.activations.split(&slots, &[target]);
        let mut d_parts: Vec<Option<&mut [f32]>> = write.into_iter().map(Some).collect();
        let terms = [UpstreamTerm { grad: read[1], scale: None, sample_scale: None }];
        let mut d_weights = pass.theta.as_deref_mut().map(|flat| [&mut flat[self.weight.clone()]]);
        conv::backward(
            images,
            &read[..1],
            activate.resolve(&ws.channels),
            self.shape(ws.batch),
            &self.branch(theta),
            Upstream { terms: &terms, bn: None },
            d_weights.as_mut().map(|d| &mut d[..]),
            &mut d_parts,
            Write::Overwrite,
            sums,
        );
    }
}

/// Global average pool, then linear.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    pub(crate) linear: Linear,
    pub(super) pooled: Buffer,
    pub(super) d_pooled: Buffer,
}

impl Classifier {
    pub(crate) fn new(builder: &mut Builder, features: usize, classes: usize) -> Self {
        let pooled = Geometry { h: 1, w: 1, c: features };
        Self {
            linear: Linear::new(builder, "classifier", features, classes),
            pooled: builder.buffer(pooled),
            d_pooled: builder.buffer(pooled),
        }
    }

    pub(crate) fn forward(&self, pass: &mut Forward, parts: &[Buffer]) {
        let ws = &mut *pass.ws;
        let read: Vec<Slot> = parts.iter().map(|part| ws.slot(part)).collect();
        let pooled = ws.slot(&self.pooled);
        let images = ws.images(parts[0].shape);
        let (read, mut write) = ws.activations.split(&read, &[pooled]);
        head::global_average_pool(images, &read, write[0]);
        self.linear.forward(pass, &self.pooled, Activate::Nothing);
    }

    pub(crate) fn backward(&self, pass: &mut Backward, d_parts: &[Buffer]) {
        self.linear.backward(pass, &self.pooled, Activate::Nothing, &self.d_pooled, None);
        for part in d_parts {
            pass.ensure(part);
        }
        let ws = &mut *pass.ws;
        let write: Vec<Slot> = d_parts.iter().map(|part| ws.slot(part)).collect();
        let pooled = ws.slot(&self.d_pooled);
        let images = ws.images(d_parts[0].shape);
        let (read, mut write) = ws.activations.split(&[pooled], &write);
        head::global_average_pool_backward(images, read[0], &mut write, Write::Accumulate);
    }
}

/// ReLU, average pool 5×5, 1×1 → 128, BN, ReLU, 2×2 → 768, (CIFAR: BN,) ReLU, linear.
#[derive(Clone, Debug)]
pub(crate) struct Auxiliary {
    pub(super) pool: PoolShape,
    pub(super) pooled: Vec<Buffer>,
    pub(super) d_pooled: Vec<Buffer>,
    pub(super) narrow: ConvNorm,
    pub(super) d_narrow: Buffer,
    pub(super) wide: Convolution,
    pub(super) wide_norm: Option<Norm>,
    pub(super) wide_z: Buffer,
    pub(super) d_wide: Buffer,
    pub(crate) linear: Linear,
}

impl Auxiliary {
    pub(crate) const POOL: usize = 5;

    /// `stride` of the pool: 3 on CIFAR, 2 on ImageNet; `last_norm`: whether a BN follows the 2×2 convolution.
    pub(crate) fn new(builder: &mut Builder, parts: &[Buffer], classes: usize, stride: usize, last_norm: bool) -> Self {
        let pool = PoolShape { kind: PoolKind::Average, kernel: Self::POOL, stride, padding: 0, relu: true };
        let part = parts[0].shape;
        let size = |n: usize| (n - Self::POOL) / stride + 1;
        let pooled_part = Geometry { h: size(part.h), w: size(part.w), c: part.c };
        let name = |leaf: &str| format!("auxiliary_head.features.{leaf}");
        let pooled: Vec<Buffer> = parts.iter().map(|_| builder.buffer(pooled_part)).collect();
        let d_pooled = parts.iter().map(|_| builder.buffer(pooled_part)).collect();
        let input = pooled_part.with_channels(part.c * parts.len());
        let conv = Convolution::new(builder, name("2.weight"), input, 128, (1, 1), (1, 1), (0, 0));
        let narrow = ConvNorm::new(builder, conv, &name("3"), true);
        let wide = Convolution::new(builder, name("5.weight"), narrow.z.shape, 768, (2, 2), (1, 1), (0, 0));
        let wide_norm = last_norm.then(|| Norm::new(builder, &name("6"), 768, true));
        Self {
            pool,
            pooled,
            d_pooled,
            d_narrow: builder.buffer(narrow.z.shape),
            narrow,
            wide_z: builder.buffer(wide.output),
            d_wide: builder.buffer(wide.output),
            wide,
            wide_norm,
            linear: Linear::new(builder, "auxiliary_head.classifier", 768, classes),
        }
    }

    /// What the features go through before the linear layer.
    pub(super) fn activate(&self) -> Activate<'_> {
        self.wide_norm.as_ref().map_or(Activate::Relu, Activate::NormRelu)
    }

    pub(crate) fn forward(&self, pass: &mut Forward, parts: &[Buffer]) {
        for (part, pooled) in parts.iter().zip(&self.pooled) {
            let ws = &mut *pass.ws;
            let (images, slots) = (ws.images(part.shape), [ws.slot(part), ws.slot(pooled)]);
            let (read, mut write) = ws.activations.split(&slots[..1], &slots[1..]);
            pool::forward(images, read[0], self.pool, write[0], None);
        }
        self.narrow.convolve(pass, &self.pooled, Activate::Nothing);
        let mut sums = self.wide_norm.as_ref().and_then(|norm| pass.sums(norm.channels));
        let activate = Activate::NormRelu(&self.narrow.norm);
        self.wide.forward(pass, &[self.narrow.z], activate, &self.wide_z, sums.as_deref_mut());
        if let Some(norm) = &self.wide_norm {
            norm.forward(pass, sums.as_deref(), pass.ws.batch);
        }
        self.linear.forward(pass, &self.wide_z, self.activate());
    }

    /// From `d_logits` of the linear layer, added to `d_parts`.
    pub(crate) fn backward(&self, pass: &mut Backward, parts: &[Buffer], d_parts: &[Buffer]) {
        let mut sums = vec![0.0; 2 * self.wide_z.shape.c];
        let wants_sums = self.wide_norm.is_some();
        self.linear.backward(pass, &self.wide_z, self.activate(), &self.d_wide, wants_sums.then_some(&mut sums));
        if let Some(norm) = &self.wide_norm {
            norm.backward(pass, &sums, 1.0, pass.ws.batch);
        }
        let arriving = Arriving {
            gradient: pass.ws.slot(&self.d_wide),
            norm: self.wide_norm.as_ref().map(|norm| (norm, &self.wide_z)),
            mask: None,
        };
        let mut sums = vec![0.0; 2 * self.narrow.norm.channels];
        let activate = Activate::NormRelu(&self.narrow.norm);
        self.wide.backward(pass, &[self.narrow.z], activate, arriving, &[self.d_narrow], Some(&mut sums));
        self.narrow.backward_with_sums(pass, &self.pooled, &self.d_narrow, &sums, &self.d_pooled);
        for ((part, d_part), d_pooled) in parts.iter().zip(d_parts).zip(&self.d_pooled) {
            let write_mode = pass.write_to(d_part);
            let ws = &mut *pass.ws;
            let (images, slots) = (ws.images(part.shape), [ws.slot(part), ws.slot(d_pooled), ws.slot(d_part)]);
            let (read, mut write) = ws.activations.split(&slots[..2], &slots[2..]);
            let terms = [UpstreamTerm { grad: read[1], scale: None, sample_scale: None }];
            let upstream = Upstream { terms: &terms, bn: None };
            pool::backward(images, read[0], self.pool, upstream, write[0], write_mode);
        }
    }
}
