//! A convolution followed by a norm whose value is then read by more than one kernel, so that it is stored: the two
//! inputs of a cell, and the stems.

use darts_ops::{Write, mix};

use super::build::{Buffer, Builder, Geometry, join};
use super::convolution::{Activate, Arriving, Convolution};
use super::norm::Norm;
use super::pass::{Backward, Forward};
use crate::error::Error;

#[derive(Clone, Debug)]
pub(crate) struct ConvNorm {
    pub(crate) conv: Convolution,
    pub(crate) norm: Norm,
    pub(crate) z: Buffer,
}

impl ConvNorm {
    pub(crate) fn new(builder: &mut Builder, conv: Convolution, norm_name: &str, affine: bool) -> Self {
        let norm = Norm::new(builder, norm_name, conv.output.c, affine);
        let z = builder.buffer(conv.output);
        Self { conv, norm, z }
    }

    /// ReLU, 1×1, BN: an input of a cell brought to its channels.
    pub(crate) fn relu_conv_bn(builder: &mut Builder, name: &str, input: Geometry, c: usize, affine: bool) -> Self {
        let conv = Convolution::new(builder, join(name, "op.1.weight"), input, c, (1, 1), (1, 1), (0, 0));
        Self::new(builder, conv, &join(name, "op.2"), affine)
    }

    /// ReLU, factorized reduce, BN: the input of a cell that comes from before a reduction.
    pub(crate) fn factorized_reduce(
        builder: &mut Builder,
        name: &str,
        input: Geometry,
        c: usize,
        affine: bool,
    ) -> Result<Self, Error> {
        let conv = Convolution::factorized_reduce(builder, name, input, c)?;
        Ok(Self::new(builder, conv, &join(name, "bn"), affine))
    }

    /// z and the coefficients of its norm.
    pub(crate) fn convolve(&self, pass: &mut Forward, parts: &[Buffer], activate: Activate) {
        let mut sums = pass.sums(self.norm.channels);
        self.conv.forward(pass, parts, activate, &self.z, sums.as_deref_mut());
        self.norm.forward(pass, sums.as_deref(), pass.ws.batch * self.z.shape.pixels());
    }

    /// `convolve`, and the normalized value in `out`.
    pub(crate) fn forward(&self, pass: &mut Forward, parts: &[Buffer], activate: Activate, out: &Buffer) {
        self.convolve(pass, parts, activate);
        let ws = &mut *pass.ws;
        let (images, z, out) = (ws.images(out.shape), ws.slot(&self.z), ws.slot(out));
        let (read, mut write) = ws.activations.split(&[z], &[out]);
        let affine = self.norm.affine(&ws.channels);
        let term = mix::Term { z: read[0], scale: affine.scale, shift: Some(affine.shift), sample_scale: None };
        mix::forward(images, &[term], write[0], Write::Overwrite);
    }

    /// From `gradient`, that of the normalized value, the weights' gradients and, added to `d_parts`, the input's, with its sums
    /// where `activate` is a norm's.
    pub(crate) fn backward(
        &self,
        pass: &mut Backward,
        parts: &[Buffer],
        activate: Activate,
        gradient: &Buffer,
        d_parts: &[Buffer],
        input_sums: Option<&mut [f64]>,
    ) {
        pass.ensure(gradient);
        let mut sums = vec![0.0; 2 * self.norm.channels];
        let ws = &*pass.ws;
        let z = ws.activations.read(ws.slot(&self.z));
        let term = mix::ReduceTerm { z, sample_scale: None, sums: &mut sums };
        mix::reduce(ws.images(self.z.shape), ws.activations.read(ws.slot(gradient)), &mut [term]);
        self.norm.backward(pass, &sums, 1.0, pass.ws.batch * self.z.shape.pixels());
        let arriving = self.arriving(pass, gradient);
        self.conv.backward(pass, parts, activate, arriving, d_parts, input_sums);
    }

    /// The same where only the next convolution read the value, which left `gradient`, that of the value, and `sums` =
    /// [Σ gradient | Σ gradient·z].
    pub(crate) fn backward_with_sums(
        &self,
        pass: &mut Backward,
        parts: &[Buffer],
        gradient: &Buffer,
        sums: &[f64],
        d_parts: &[Buffer],
    ) {
        self.norm.backward(pass, sums, 1.0, pass.ws.batch * self.z.shape.pixels());
        let arriving = self.arriving(pass, gradient);
        self.conv.backward(pass, parts, Activate::Nothing, arriving, d_parts, None);
    }

    /// How `gradient` reaches z, once the norm's backward has been done.
    pub(crate) fn arriving(&self, pass: &Backward, gradient: &Buffer) -> Arriving<'_> {
        Arriving { gradient: pass.ws.slot(gradient), norm: Some((&self.norm, &self.z)), mask: None }
    }
}
