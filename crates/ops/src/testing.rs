//! What the tests of several kernels share: arbitrary numbers, shapes that break careless loops, comparisons that print
//! the failing element. Refuses to compute anything a kernel computes.

use crate::images::Images;

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

/// Odd sizes, H ≠ W, batches of 1, channel counts below, at and beside vector lengths.
pub(crate) fn shapes() -> Vec<Images> {
    [(2, 5, 7, 1), (1, 6, 3, 17), (3, 4, 5, 36), (2, 9, 8, 16), (1, 1, 1, 3), (2, 7, 4, 64)]
        .map(|(n, h, w, c)| Images { n, h, w, c })
        .to_vec()
}

/// Elementwise |got − want| ≤ tolerance·(1 + |want|): absolute for numbers around 1 that cancel, relative above.
pub(crate) fn assert_close(got: &[f32], want: &[f32], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (f64::from(got), f64::from(want));
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}[{i}]: got {got}, want {want}");
    }
}

/// [`assert_close`] for f64 sums of about `terms` numbers of size 1, added up in f32 within an image.
pub(crate) fn assert_sums_close(got: &[f64], want: &[f64], terms: usize, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let tolerance = 1e-6 * (terms as f64).sqrt();
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{what}[{i}]: got {got}, want {want}");
    }
}

/// Runs `action` in pools of 1, 2 and 3 threads and asserts that the results are the same.
pub(crate) fn assert_same_for_any_threads<R: PartialEq + Send>(what: &str, action: impl Fn() -> R + Sync) {
    let results = [1, 2, 3].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap_or_else(|error| panic!("{what}: no pool of {threads} threads: {error}")).install(&action)
    });
    assert!(results[0] == results[1] && results[0] == results[2], "{what} depends on the number of threads");
}
