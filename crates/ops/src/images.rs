//! What kernels over images take and give: shapes, the affine before an activation, the gradient that arrives at an
//! output. Refuses to compute.
//!
//! Axes everywhere: N images, H rows, W columns, C channels, contiguous in that order.

use crate::ahead::Run;

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
pub struct Affine<'a> {
    /// a `[C]`.
    pub scale: &'a [f32],
    /// b `[C]`.
    pub shift: &'a [f32],
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
    pub terms: &'a [UpstreamTerm<'a>],
    /// What batch statistics add.
    pub bn: Option<BnTerm<'a>>,
}

/// One gradient of an [`Upstream`].
#[derive(Debug, Copy, Clone)]
pub struct UpstreamTerm<'a> {
    /// grad_t `[N, H, W, C]` of z.
    pub grad: &'a [f32],
    /// scale_t `[C]`; none: 1.
    pub scale: Option<&'a [f32]>,
    /// s_t `[N]`; none: 1.
    pub sample_scale: Option<&'a [f32]>,
}

/// The part of an [`Upstream`] that comes from batch statistics.
#[derive(Debug, Copy, Clone)]
pub struct BnTerm<'a> {
    /// z `[N, H, W, C]`, the output that the kernel's forward wrote.
    pub z: &'a [f32],
    /// b `[C]`.
    pub b: &'a [f32],
    /// d `[C]`.
    pub d: &'a [f32],
}

/// What a kernel does with the former contents of an output.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Write {
    /// The result replaces them.
    Overwrite,
    /// The result is added to them.
    Accumulate,
}

impl Upstream<'_> {
    /// Floats of the arrays as large as z that it is formed from.
    pub(crate) fn floats(&self) -> usize {
        let terms: usize = self.terms.iter().map(|term| term.grad.len()).sum();
        terms + self.bn.map_or(0, |bn| bn.z.len())
    }

    /// What it is formed from, of one image of a z of shape `images`; nothing past the last.
    pub(crate) fn runs(&self, images: Images, image: usize) -> impl Iterator<Item = Run> {
        let floats = image * images.image_len()..(image + 1) * images.image_len();
        let arrays = self.terms.iter().map(|term| term.grad).chain(self.bn.map(|bn| bn.z));
        arrays.filter_map(move |array| array.get(floats.clone())).map(Run::from)
    }

    /// Panics unless every slice fits a z of shape `images`; `operation` names the kernel in the message.
    pub(crate) fn check(&self, operation: &str, images: Images) {
        for term in self.terms {
            assert_eq!(term.grad.len(), images.len(), "{operation}: gradient for a z of {images:?}");
            if let Some(scale) = term.scale {
                assert_eq!(scale.len(), images.c, "{operation}: scale of a gradient");
            }
            if let Some(scale) = term.sample_scale {
                assert_eq!(scale.len(), images.n, "{operation}: sample scale of a gradient");
            }
        }
        if let Some(bn) = self.bn {
            assert_eq!(bn.z.len(), images.len(), "{operation}: z of the batch norm for a z of {images:?}");
            assert_eq!(bn.b.len(), images.c, "{operation}: b of the batch norm");
            assert_eq!(bn.d.len(), images.c, "{operation}: d of the batch norm");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_round_odd_sizes_up() {
        let images = Images { n: 2, h: 7, w: 4, c: 3 };
        assert_eq!(images.strided(2), Images { n: 2, h: 4, w: 2, c: 3 });
        assert_eq!((images.pixels(), images.len(), images.image_len()), (56, 168, 84));
    }
}
