//! Loops over pixels × channels as one flat run of floats, whatever C is. Refuses to use threads or to know what the
//! numbers mean.
//!
//! A flat run that begins at a pixel meets the same channel every C floats, so coefficients per channel become a
//! *pattern* whose period is a multiple of C and of the vector length: then no vector straddles a pattern's end and no C
//! needs a loop of its own. Runs that are no multiple of the period end in a plain loop.

use crate::simd::Lanes;

/// Vectors of a pattern that are handled at once.
const COLUMNS: usize = 2;

/// Floats of a run that stay in the first-level cache while several others stream past it.
pub(crate) const BLOCK: usize = 1024;

/// Period of patterns for C channels on an instruction set.
pub(crate) const fn period<L: Lanes>(c: usize) -> usize {
    common_multiple(c, COLUMNS * L::LANES)
}

/// The longest period for C channels on any instruction set.
pub(crate) const fn longest_period(c: usize) -> usize {
    common_multiple(c, COLUMNS * crate::simd::MAX_LANES)
}

const fn common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

/// `BLOCK` in whole periods, at least one.
pub(crate) const fn block_len(period: usize) -> usize {
    if period >= BLOCK { period } else { BLOCK / period * period }
}

/// pattern\[i\] += factor·values\[i mod C\].
#[inline(always)]
pub(crate) fn add_pattern(values: &[f32], factor: f32, pattern: &mut [f32]) {
    for pattern in pattern.chunks_exact_mut(values.len()) {
        for (pattern, &value) in pattern.iter_mut().zip(values) {
            *pattern += factor * value;
        }
    }
}

/// sums\[i mod C\] += pattern\[i\].
#[inline(always)]
pub(crate) fn fold(pattern: &[f32], sums: &mut [f64]) {
    for pattern in pattern.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(pattern) {
            *sum += f64::from(value);
        }
    }
}

/// to\[i\] += Σ_t a_t\[i mod period\]·z_t\[i\] for up to four runs z_t as long as `to`, which begins at a pixel. `patterns` holds the
/// a_t one after another.
#[inline(always)]
pub(crate) fn add_products<L: Lanes>(lanes: L, period: usize, patterns: &[f32], z: &[&[f32]], to: &mut [f32]) {
    assert!(period.is_multiple_of(COLUMNS * L::LANES), "channels: a period of {period}");
    assert!(patterns.len() == z.len() * period, "channels::add_products: patterns");
    for z in z {
        assert!(z.len() == to.len(), "channels::add_products: lengths");
    }
    let body = to.len() / period * period;
    let mut t = 0;
    while t < z.len() {
        // SAFETY: the asserts above.
        unsafe {
            let (patterns, z) = (&patterns[t * period..], &z[t..]);
            t += match (period / L::LANES, z.len()) {
                (8, _) => add_some::<L, 1, 8>(lanes, period, patterns, z, to),
                (4, 2..) => add_some::<L, 2, 4>(lanes, period, patterns, z, to),
                (4, _) => add_some::<L, 1, 4>(lanes, period, patterns, z, to),
                (_, 4..) => add_some::<L, 4, COLUMNS>(lanes, period, patterns, z, to),
                (_, 2..) => add_some::<L, 2, COLUMNS>(lanes, period, patterns, z, to),
                _ => add_some::<L, 1, COLUMNS>(lanes, period, patterns, z, to),
            };
        }
    }
    for (pattern, z) in patterns.chunks_exact(period).zip(z) {
        for ((to, a), z) in to[body..].iter_mut().zip(pattern).zip(&z[body..]) {
            *to += a * z;
        }
    }
}

/// The whole periods of the first T runs, V vectors at a time; returns T.
///
/// # Safety
/// T patterns of `period` floats, a multiple of V vectors, and T runs as long as `to`.
#[inline(always)]
unsafe fn add_some<L: Lanes, const T: usize, const V: usize>(
    lanes: L,
    period: usize,
    patterns: &[f32],
    z: &[&[f32]],
    to: &mut [f32],
) -> usize {
    let rows = to.len() / period;
    let (patterns, to) = (patterns.as_ptr(), to.as_mut_ptr());
    let mut column = 0;
    while column < period {
        // SAFETY: the caller's promise; column + V·LANES ≤ period.
        unsafe {
            let mut a = [[lanes.zero(); T]; V];
            for (v, a) in a.iter_mut().enumerate() {
                for (t, a) in a.iter_mut().enumerate() {
                    *a = lanes.load(patterns.add(t * period + column + v * L::LANES));
                }
            }
            for row in 0..rows {
                for (v, a) in a.iter().enumerate() {
                    let at = row * period + column + v * L::LANES;
                    let mut sum = lanes.load(to.add(at));
                    for (&a, z) in a.iter().zip(z) {
                        sum = lanes.mul_add(a, lanes.load(z.as_ptr().add(at)), sum);
                    }
                    lanes.store(to.add(at), sum);
                }
            }
        }
        column += V * L::LANES;
    }
    T
}

/// sums_t\[i mod period\] += d\[i\]·z_t\[i\] for up to four runs z_t as long as d, which begins at a pixel. `sums` holds the sums_t one
/// after another.
#[inline(always)]
pub(crate) fn dot_products<L: Lanes>(lanes: L, period: usize, d: &[f32], z: &[&[f32]], sums: &mut [f32]) {
    assert!(period.is_multiple_of(COLUMNS * L::LANES), "channels: a period of {period}");
    assert!(sums.len() == z.len() * period, "channels::dot_products: sums");
    for z in z {
        assert!(z.len() == d.len(), "channels::dot_products: lengths");
    }
    let body = d.len() / period * period;
    let mut t = 0;
    while t < z.len() {
        // SAFETY: the asserts above.
        unsafe {
            let (sums, z) = (&mut sums[t * period..], &z[t..]);
            t += match (period / L::LANES, z.len()) {
                (8, _) => dot_some::<L, 1, 8>(lanes, period, d, z, sums),
                (4, 2..) => dot_some::<L, 2, 4>(lanes, period, d, z, sums),
                (4, _) => dot_some::<L, 1, 4>(lanes, period, d, z, sums),
                (_, 4..) => dot_some::<L, 4, COLUMNS>(lanes, period, d, z, sums),
                (_, 2..) => dot_some::<L, 2, COLUMNS>(lanes, period, d, z, sums),
                _ => dot_some::<L, 1, COLUMNS>(lanes, period, d, z, sums),
            };
        }
    }
    for (z, sums) in z.iter().zip(sums.chunks_exact_mut(period)) {
        for ((sum, d), z) in sums.iter_mut().zip(&d[body..]).zip(&z[body..]) {
            *sum += d * z;
        }
    }
}

/// The whole periods of the first T runs, V vectors at a time; returns T.
///
/// # Safety
/// T sums of `period` floats, a multiple of V vectors, and T runs as long as d.
#[inline(always)]
unsafe fn dot_some<L: Lanes, const T: usize, const V: usize>(
    lanes: L,
    period: usize,
    d: &[f32],
    z: &[&[f32]],
    sums: &mut [f32],
) -> usize {
    let rows = d.len() / period;
    let (d, sums) = (d.as_ptr(), sums.as_mut_ptr());
    let mut column = 0;
    while column < period {
        let mut total = [[lanes.zero(); T]; V];
        // SAFETY: the caller's promise; column + V·LANES ≤ period.
        unsafe {
            for row in 0..rows {
                for (v, total) in total.iter_mut().enumerate() {
                    let at = row * period + column + v * L::LANES;
                    let d = lanes.load(d.add(at));
                    for (total, z) in total.iter_mut().zip(z) {
                        *total = lanes.mul_add(d, lanes.load(z.as_ptr().add(at)), *total);
                    }
                }
            }
            for (v, total) in total.iter().enumerate() {
                for (t, &total) in total.iter().enumerate() {
                    let to = sums.add(t * period + column + v * L::LANES);
                    lanes.store(to, lanes.add(lanes.load(to), total));
                }
            }
        }
        column += V * L::LANES;
    }
    T
}

/// sums\[i mod period\] += d\[i\] for a run that begins at a pixel.
#[inline(always)]
pub(crate) fn add_run<L: Lanes>(lanes: L, d: &[f32], sums: &mut [f32]) {
    let period = sums.len();
    let rows = d.len() / period;
    assert!(period.is_multiple_of(COLUMNS * L::LANES), "channels: a period of {period}");
    let pointer = sums.as_mut_ptr();
    for column in (0..period).step_by(COLUMNS * L::LANES) {
        // SAFETY: d has at least rows·period floats, `sums` period; column + COLUMNS·LANES ≤ period.
        unsafe {
            let mut total = [lanes.zero(); COLUMNS];
            for row in 0..rows {
                for (v, total) in total.iter_mut().enumerate() {
                    *total = lanes.add(*total, lanes.load(d.as_ptr().add(row * period + column + v * L::LANES)));
                }
            }
            for (v, &total) in total.iter().enumerate() {
                let to = pointer.add(column + v * L::LANES);
                lanes.store(to, lanes.add(lanes.load(to), total));
            }
        }
    }
    for (sum, d) in sums.iter_mut().zip(&d[rows * period..]) {
        *sum += d;
    }
}

/// Per-channel f64 sums of every chunk, side by side, added up in the order of the chunks (`out` overwritten).
pub(crate) fn add_up(chunks: &[f64], out: &mut [f64]) {
    out.fill(0.0);
    for chunk in chunks.chunks_exact(out.len()) {
        for (out, value) in out.iter_mut().zip(chunk) {
            *out += value;
        }
    }
}
