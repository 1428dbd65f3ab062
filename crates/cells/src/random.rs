//! Numbers drawn by ChaCha and keyed by what they are for, so that no draw depends on another: the same (seed, purpose, name)
//! gives the same numbers in any order, on any thread. There is no generator that carries state from one use to the next.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use sha2::{Digest, Sha256};

/// The generator of (seed, purpose, name): ChaCha8 keyed with the SHA-256 of the three.
fn keyed(seed: u64, purpose: &str, name: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    for part in [purpose, name] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// Fills `out` with U(−bound, bound): the centres of 2²⁴ equal steps, so that the mean is exactly 0.
pub(crate) fn uniform(seed: u64, purpose: &str, name: &str, bound: f64, out: &mut [f32]) {
    let mut generator = keyed(seed, purpose, name);
    for value in out {
        let unit = (f64::from(generator.next_u32() >> 8) + 0.5) / f64::from(1 << 24);
        *value = (bound * (2.0 * unit - 1.0)) as f32;
    }
}

/// `count` numbers of N(0, deviation²), by the Box–Muller transform in f64.
pub(crate) fn normal(seed: u64, purpose: &str, name: &str, count: usize, deviation: f64) -> Vec<f32> {
    let mut generator = keyed(seed, purpose, name);
    // (0, 1], so that the logarithm is finite.
    let mut unit = || ((generator.next_u64() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    let draw = |_| {
        let radius = (-2.0 * unit().ln()).sqrt();
        (deviation * radius * (std::f64::consts::TAU * unit()).cos()) as f32
    };
    (0..count).map(draw).collect()
}
