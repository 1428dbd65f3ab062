//! Cuts fit every device at every shape.

use super::{ConvShape, plan};
use crate::images::Images;
use crate::precision::Precision;
use crate::quads::SHARED_FLOATS;

#[test]
fn every_shape_has_a_cut_that_fits_shared_memory() {
    for (n, h, w) in [(1, 1, 1), (3, 7, 5), (64, 32, 32), (2, 224, 224), (1, 7, 300)] {
        for c in [1, 3, 17, 64, 144, 1024] {
            for (kernel, stride) in
                [((1, 1), (1, 1)), ((3, 3), (2, 2)), ((1, 7), (1, 2)), ((2, 2), (1, 1)), ((7, 7), (3, 3))]
            {
                let images = Images { n, h, w, c };
                let shape = ConvShape { kernel, stride, output: (h.div_ceil(stride.0), w.div_ceil(stride.1)), c_in: c };
                for c_out in [&[1][..], &[16], &[24, 24], &[768], &[17, 5]] {
                    for precision in Precision::ALL {
                        let forward = plan::forward(precision, images, shape, c_out);
                        let input = plan::input(precision, images, shape, c_out);
                        let weights = plan::weights(precision, images, shape, c_out);
                        let floats = [forward.floats, input.floats, weights.floats];
                        assert!(
                            floats.iter().all(|&floats| floats <= SHARED_FLOATS),
                            "{images:?} {shape:?}: {floats:?}"
                        );
                        assert!(weights.chunk * weights.split <= 16 * 256, "{weights:?}");
                    }
                }
            }
        }
    }
}
