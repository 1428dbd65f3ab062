//! The kernels of recurrent networks, and whole networks made of them, on the emulator against the CPU's.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod embedding;
mod golden;
mod matmul;
mod network;
mod node;
mod plan;
mod regularizer;
mod tied_decoder;

/// Numbers in (−1, 1), different for each seed.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Panics unless every number is within `tolerance` of the expected one, relative to the largest of those.
#[track_caller]
fn close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    let largest = expected.iter().fold(1e-3f32, |largest, value| largest.max(value.abs()));
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual - expected).abs();
        assert!(error <= tolerance * largest, "{what}[{i}]: {actual}, expected {expected}");
    }
}
