//! Dense convolutions of a network: preprocess, factorized reduce, stems, 1×7 and 7×1, the auxiliary head.

use std::ops::Range;

use darts_ops::conv::{self, Activation, Branch, ConvShape};
use darts_ops::{BnTerm, Slot, Upstream, UpstreamTerm};

use super::build::{Buffer, Builder, Geometry, join};
use super::norm::Norm;
use super::pass::{Backward, Forward};
use crate::error::Error;

#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    pub(crate) input: Geometry,
    pub(crate) output: Geometry,
    pub(super) shape: ConvShape,
    pub(super) branches: Vec<BranchPlan>,
}

#[derive(Clone, Debug)]
pub(super) struct BranchPlan {
    pub(super) weight: Range<usize>,
    pub(super) c_out: usize,
    pub(super) offset: (isize, isize),
}

/// What a convolution's input goes through before it is convolved.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activate<'a> {
    Nothing,
    Relu,
    /// The norm's affine, then ReLU.
    NormRelu(&'a Norm),
}

/// The gradient that arrives at a kernel's output: of the node that its output went into, or of the output itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arriving<'a> {
    pub(crate) gradient: Slot,
    /// The norm between the output and where the gradient is taken, with that output.
    pub(crate) norm: Option<(&'a Norm, &'a Buffer)>,
    pub(crate) mask: Option<usize>,
}

impl Convolution {
    /// `padding` zeros on every side; output ⌊(H + 2·padding − kernel)/stride⌋ + 1.
    pub(crate) fn new(
        builder: &mut Builder,
        name: String,
        input: Geometry,
        c_out: usize,
        kernel: (usize, usize),
        stride: (usize, usize),
        padding: (usize, usize),
    ) -> Self {
        let size = |n: usize, k: usize, s: usize, p: usize| (n + 2 * p).saturating_sub(k) / s + 1;
        let output = Geometry {
            h: size(input.h, kernel.0, stride.0, padding.0),
            w: size(input.w, kernel.1, stride.1, padding.1),
            c: c_out,
        };
        let weight = builder.conv_weight(name, [c_out, input.c, kernel.0, kernel.1]);
        let offset = (-(padding.0 as isize), -(padding.1 as isize));
        let branches = vec![BranchPlan { weight, c_out, offset }];
        Self::with_branches(builder, input, output, kernel, stride, branches)
    }

    /// Two 1×1 convolutions of stride 2, the second one on the input without its first row and column.
    ///
    /// # Errors
    /// Where height or width is odd: the two halves would have different sizes.
    pub(crate) fn factorized_reduce(
        builder: &mut Builder,
        name: &str,
        input: Geometry,
        c_out: usize,
    ) -> Result<Self, Error> {
        if !input.h.is_multiple_of(2) || !input.w.is_multiple_of(2) {
            return Err(Error::Argument {
                operation: "factorized reduce",
                what: "the size of its input, in pixels,",
                value: format!("{}x{}", input.h, input.w),
                expected: "even height and width".to_owned(),
            });
        }
        let half = c_out / 2;
        let branches = [("conv_1", half, 0), ("conv_2", c_out - half, 1)]
            .map(|(leaf, c_out, shift)| BranchPlan {
                weight: builder.conv_weight(join(name, &format!("{leaf}.weight")), [c_out, input.c, 1, 1]),
                c_out,
                offset: (shift, shift),
            })
            .into();
        let output = input.strided(2).with_channels(c_out);
        Ok(Self::with_branches(builder, input, output, (1, 1), (2, 2), branches))
    }

    fn with_branches(
        builder: &mut Builder,
        input: Geometry,
        output: Geometry,
        kernel: (usize, usize),
        stride: (usize, usize),
        branches: Vec<BranchPlan>,
    ) -> Self {
        builder.multiply_adds += (output.len() * kernel.0 * kernel.1 * input.c) as u64;
        let shape = ConvShape { kernel, stride, output: (output.h, output.w), c_in: input.c };
        Self { input, output, shape, branches }
    }

    fn branches<'a>(&self, theta: &'a [f32]) -> Vec<Branch<'a>> {
        let branch = |b: &BranchPlan| Branch { offset: b.offset, c_out: b.c_out, weight: &theta[b.weight.clone()] };
        self.branches.iter().map(branch).collect()
    }

    /// z of `parts`, and the sums [Σz | Σz²] where the pass normalizes by the batch. `parts` are per-sample slots.
    pub(crate) fn forward(
        &self,
        pass: &mut Forward,
        parts: &[Buffer],
        activate: Activate,
        z: &Buffer,
        sums: Option<&mut [f64]>,
    ) {
        let ws = &mut *pass.ws;
        let read: Vec<Slot> = parts.iter().map(|part| ws.slot(part)).collect();
        let images = ws.images(self.input);
        let (read, mut write) = {
            let z = ws.slot(z);
            ws.activations.split(&read, &[z])
        };
        let activation = activate.resolve(&ws.channels);
        conv::forward(images, &read, activation, self.shape, &self.branches(pass.input.theta), write[0], sums);
    }

    /// Weight gradients (where the pass wants them) and, added to `d_parts`, the input's.
    ///
    /// `sums` receives [Σdu | Σdu·x] for the norm of `Activate::NormRelu`.
    pub(crate) fn backward(
        &self,
        pass: &mut Backward,
        parts: &[Buffer],
        activate: Activate,
        arriving: Arriving,
        d_parts: &[Buffer],
        sums: Option<&mut [f64]>,
    ) {
        // The parts of one input are first written together: one flag tells for all of them.
        for part in d_parts {
            pass.ensure(part);
        }
        let slots: Vec<Slot> = d_parts.iter().map(|part| pass.ws.slot(part)).collect();
        self.backward_to_slots(pass, parts, activate, arriving, &slots, darts_ops::Write::Accumulate, sums);
    }

    /// The same into temporaries.
    #[expect(clippy::too_many_arguments, reason = "the signature says what is read and what is written")]
    pub(crate) fn backward_to_slots(
        &self,
        pass: &mut Backward,
        parts: &[Buffer],
        activate: Activate,
        arriving: Arriving,
        d_parts: &[Slot],
        write_mode: darts_ops::Write,
        sums: Option<&mut [f64]>,
    ) {
        let images = pass.ws.images(self.input);
        let mut read: Vec<Slot> = parts.iter().map(|part| pass.ws.slot(part)).collect();
        read.extend(arriving.slots(pass));
        let theta = pass.input.theta;
        let mask = pass.input.mask(arriving.mask);
        let ranges: Vec<Range<usize>> = self.branches.iter().map(|b| b.weight.clone()).collect();
        let ws = &mut *pass.ws;
        let (read, write) = ws.activations.split(&read, d_parts);
        let (parts, read) = read.split_at(parts.len());
        let mut d_parts: Vec<Option<&mut [f32]>> = write.into_iter().map(Some).collect();
        let terms = [arriving.term(read, &ws.channels, mask)];
        let upstream = Upstream { terms: &terms, bn: arriving.bn(read, &ws.channels) };
        let mut d_weights = pass.theta.as_deref_mut().map(|flat| super::pass::disjoint(flat, &ranges));
        conv::backward(
            images,
            parts,
            activate.resolve(&ws.channels),
            self.shape,
            &self.branches(theta),
            upstream,
            d_weights.as_deref_mut(),
            &mut d_parts,
            write_mode,
            sums,
        );
    }
}

impl Activate<'_> {
    pub(crate) fn resolve(self, channels: &darts_ops::Arena) -> Activation<'_> {
        match self {
            Activate::Nothing => Activation::None,
            Activate::Relu => Activation::Relu,
            Activate::NormRelu(norm) => Activation::AffineRelu(norm.affine(channels)),
        }
    }
}

impl<'a> Arriving<'a> {
    /// Slots to read, in the order that `term` and `bn` expect them: the gradient, then z.
    pub(crate) fn slots(&self, pass: &Backward) -> Vec<Slot> {
        let z = self.norm.map(|(_, z)| pass.ws.slot(z));
        std::iter::once(self.gradient).chain(z).collect()
    }

    pub(crate) fn term<'r>(
        &self,
        read: &[&'r [f32]],
        channels: &'r darts_ops::Arena,
        sample_scale: Option<&'r [f32]>,
    ) -> UpstreamTerm<'r> {
        let scale = self.norm.map(|(norm, _)| norm.upstream(channels)[0]);
        UpstreamTerm { grad: read[0], scale, sample_scale }
    }

    pub(crate) fn bn<'r>(&self, read: &[&'r [f32]], channels: &'r darts_ops::Arena) -> Option<BnTerm<'r>> {
        let (norm, _) = self.norm?;
        let [_, b, d] = norm.upstream(channels);
        Some(BnTerm { z: read[1], b, d })
    }
}
