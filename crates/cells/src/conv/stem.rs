//! What turns images into the two inputs of the first cell.

use super::build::{Buffer, Builder, Geometry};
use super::cell::State;
use super::convolution::{Activate, Convolution};
use super::pass::{Backward, Forward};
use super::preprocess::ConvNorm;

#[derive(Clone, Debug)]
pub(crate) enum StemLayers {
    /// 3×3, BN; the value is both inputs.
    Cifar { layer: ConvNorm, output: State },
    /// 3×3/2, BN, ReLU, 3×3/2, BN: input 0; ReLU, 3×3/2, BN: input 1.
    ImageNet {
        first: Box<ConvNorm>,
        d_first: Buffer,
        second: Box<ConvNorm>,
        s0: State,
        third: Box<ConvNorm>,
        s1: State,
    },
}

impl StemLayers {
    pub(crate) fn cifar(builder: &mut Builder, images: Geometry, c: usize) -> Self {
        let conv = Convolution::new(builder, "stem.0.weight".into(), images, c, (3, 3), (1, 1), (1, 1));
        let layer = ConvNorm::new(builder, conv, "stem.1", true);
        let value = builder.buffer(layer.z.shape);
        Self::Cifar { layer, output: State::single(builder, value) }
    }

    pub(crate) fn imagenet(builder: &mut Builder, images: Geometry, c: usize) -> Self {
        let mut layer = |name: &str, norm: &str, input: Geometry, c: usize| {
            let conv = Convolution::new(builder, format!("{name}.weight"), input, c, (3, 3), (2, 2), (1, 1));
            Box::new(ConvNorm::new(builder, conv, norm, true))
        };
        let first = layer("stem0.0", "stem0.1", images, c / 2);
        let second = layer("stem0.3", "stem0.4", first.z.shape, c);
        let third = layer("stem1.1", "stem1.2", second.z.shape, c);
        let d_first = builder.buffer(first.z.shape);
        let [s0, s1] = [second.z.shape, third.z.shape].map(|shape| {
            let value = builder.buffer(shape);
            State::single(builder, value)
        });
        Self::ImageNet { first, d_first, second, s0, third, s1 }
    }

    pub(crate) fn outputs(&self) -> [State; 2] {
        match self {
            Self::Cifar { output, .. } => [output.clone(), output.clone()],
            Self::ImageNet { s0, s1, .. } => [s0.clone(), s1.clone()],
        }
    }

    pub(crate) fn forward(&self, pass: &mut Forward, images: &Buffer) {
        match self {
            Self::Cifar { layer, output } => layer.forward(pass, &[*images], Activate::Nothing, &output.parts[0]),
            Self::ImageNet { first, second, s0, third, s1, .. } => {
                first.convolve(pass, &[*images], Activate::Nothing);
                second.forward(pass, &[first.z], Activate::NormRelu(&first.norm), &s0.parts[0]);
                third.forward(pass, &s0.parts, Activate::Relu, &s1.parts[0]);
            }
        }
    }

    /// `d_images`: where the images' gradient is to go, if it is wanted.
    pub(crate) fn backward(&self, pass: &mut Backward, images: &Buffer, d_images: &[Buffer]) {
        match self {
            Self::Cifar { layer, output } => {
                layer.backward(pass, &[*images], Activate::Nothing, &output.gradients[0], d_images, None);
            }
            Self::ImageNet { first, d_first, second, s0, third, s1 } => {
                third.backward(pass, &s0.parts, Activate::Relu, &s1.gradients[0], &s0.gradients, None);
                let activate = Activate::NormRelu(&first.norm);
                let mut sums = vec![0.0; 2 * first.norm.channels];
                second.backward(pass, &[first.z], activate, &s0.gradients[0], &[*d_first], Some(&mut sums));
                first.backward_with_sums(pass, &[*images], d_first, &sums, d_images);
            }
        }
    }
}
