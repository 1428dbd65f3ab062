//! What the tests of several operations share: arbitrary numbers, shapes that break careless loops, comparisons that print
//! the failing element. Refuses to compute anything a kernel computes.
#![allow(dead_code, reason = "every test file has its own copy and uses what it needs")]

use darts_cuda::{Memory, Precision, View};
use darts_cuda_emulator::TestDevice;
use darts_ops::Images;

/// `len` numbers in (−1, 1), different for every `seed`.
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 + 0.5) / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Odd sizes, H ≠ W, batches of 1, channels below, at and beside the packs of four.
pub(crate) fn shapes() -> Vec<Images> {
    [(2, 5, 7, 1), (1, 6, 3, 17), (2, 4, 5, 36), (3, 9, 8, 16), (1, 1, 1, 3)]
        .map(|(n, h, w, c)| Images { n, h, w, c })
        .to_vec()
}

/// The shape as darts-cuda has it.
pub(crate) fn device_images(images: Images) -> darts_cuda::Images {
    darts_cuda::Images { n: images.n, h: images.h, w: images.w, c: images.c }
}

/// A factor's number as the tensor cores get it: to bfloat16 ties go to even, to tf32 away from zero.
pub(crate) fn rounded(value: f32, precision: Precision) -> f32 {
    let bits = value.to_bits();
    f32::from_bits(match precision {
        Precision::F32 => bits,
        Precision::Tf32 => (bits + 0x1000) & !0x1fff,
        Precision::Bf16 => (bits + 0x7fff + (bits >> 16 & 1)) & !0xffff,
    })
}

/// The numbers on the device.
pub(crate) fn upload(device: &TestDevice, values: &[f32]) -> View {
    device.uploaded(values).unwrap()
}

/// Elementwise |got − want| ≤ tolerance·(1 + |want|): absolute for numbers around 1 that cancel, relative above.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (f64::from(got), f64::from(want));
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}[{i}]: got {got}, want {want}");
    }
}

/// [`assert_close`] for f64 sums of about `terms` numbers of size 1, added up in f32 within a block.
#[track_caller]
pub(crate) fn assert_sums_close(got: &[f64], want: &[f64], terms: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let tolerance = 1e-6 * (terms as f64).sqrt();
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}[{i}]: got {got}, want {want}");
    }
}
