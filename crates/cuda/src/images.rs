//! What kernels over images take and give, with the names and meanings of darts-ops: shapes, the affine before an
//! activation, the gradient that arrives at an output. Refuses to compute.
//!
//! Axes everywhere: N images, H rows, W columns, C channels, contiguous in that order.

use crate::view::View;

/// Shape of a batch of images `[N, H, W, C]`.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Images {
    /// Images in the batch, N.
    pub n: usize,
    /// Rows, H.
    pub h: usize,
    /// Columns, W.
    pub w: usize,
    /// Channels, C.
    pub c: usize,
}

impl Images {
    /// Pixels of the whole batch, N·H·W.
    pub const fn pixels(self) -> usize {
        self.n * self.h * self.w
    }

    /// Pixels of one image, H·W.
    pub const fn image_pixels(self) -> usize {
        self.h * self.w
    }

    /// Floats of the whole batch.
    pub const fn len(self) -> usize {
        self.pixels() * self.c
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Floats of one image.
    pub const fn image_len(self) -> usize {
        self.image_pixels() * self.c
    }

    /// The same images with `c` channels.
    pub const fn with_channels(self, c: usize) -> Self {
        Self { c, ..self }
    }

    /// What a stride leaves: ⌈H/s⌉ × ⌈W/s⌉.
    ///
    /// # Panics
    /// If `stride` is 0.
    pub const fn strided(self, stride: usize) -> Self {
        Self { h: self.h.div_ceil(stride), w: self.w.div_ceil(stride), ..self }
    }
}

/// Per-channel affine before an activation: x̃ = relu(scale·x + shift).
#[derive(Debug, Copy, Clone)]
pub struct Affine {
    /// a `[C]`.
    pub scale: View,
    /// b `[C]`.
    pub shift: View,
}

/// Gradient that arrives at a kernel's output z, formed on the fly:
///
/// dz\[n,p,c\] = Σ_t s_t\[n\]·scale_t\[c\]·grad_t\[n,p,c\] + b\[c\]·z\[n,p,c\] + d\[c\]
///
/// This is the backward of a batch norm of z whose output enters a weighted sum; without `bn` it is a plain sum of
/// gradients.
#[derive(Debug, Copy, Clone)]
pub struct Upstream<'a> {
    /// The gradients.
    pub terms: &'a [UpstreamTerm],
    /// What batch statistics add.
    pub bn: Option<BnTerm>,
}

/// One gradient of an [`Upstream`].
#[derive(Debug, Copy, Clone)]
pub struct UpstreamTerm {
    /// grad_t `[N, H, W, C]` of z.
    pub grad: View,
    /// scale_t `[C]`; none: 1.
    pub scale: Option<View>,
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<View>,
}

/// The part of an [`Upstream`] that comes from batch statistics.
#[derive(Debug, Copy, Clone)]
pub struct BnTerm {
    /// z `[N, H, W, C]`, the output that the kernel's forward wrote.
    pub z: View,
    /// b `[C]`.
    pub b: View,
    /// d `[C]`.
    pub d: View,
}

/// What a kernel does with the former contents of an output.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Write {
    /// The result replaces them.
    Overwrite,
    /// The result is added to them.
    Accumulate,
}

impl Write {
    /// As device code has it: 0 overwrites, 1 accumulates.
    pub const fn flag(self) -> u32 {
        match self {
            Self::Overwrite => 0,
            Self::Accumulate => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Images;

    #[test]
    fn strides_round_odd_sizes_up() {
        let images = Images { n: 2, h: 7, w: 4, c: 3 };
        assert_eq!(images.strided(2), Images { n: 2, h: 4, w: 2, c: 3 });
        assert_eq!((images.pixels(), images.len(), images.image_len()), (56, 168, 84));
    }
}
