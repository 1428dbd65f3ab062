//! exp, tanh and the logistic function for vector loops: no branch and no table, so that a loop over a slice compiles to
//! vector instructions of the set that its kernel runs with. Refuses to be exact: the errors are stated at each function,
//! and the tests hold them to it over all magnitudes.
//!
//! A kernel calls these on scalars inside `Kernel::run`; everything is inlined, and the compiler vectorizes the loop. NaN goes
//! in and comes out.

use crate::simd::Lanes;

/// `a · b + c`: one rounding where the instruction set has an instruction for it, else two.
#[inline(always)]
pub(crate) fn mul_add<L: Lanes>(a: f32, b: f32, c: f32) -> f32 {
    // The sets with more than four lanes are those with fused multiply-add; elsewhere `f32::mul_add` is a call of the C library.
    if L::LANES > 4 { a.mul_add(b, c) } else { a * b + c }
}

/// Below this, exp is held at its value here, 1.6e-38: smaller results would be subnormal numbers.
const LOWEST: f32 = -87.0;

/// e^x for x ≤ 0: x = n·ln 2 + r with |r| ≤ ln 2 / 2, a polynomial of degree 7 in r (Cephes), the exponent added as bits. Error
/// ≤ 1.1 ulp for x ≥ −87; constant below.
#[inline(always)]
pub(crate) fn exp_nonpositive<L: Lanes>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts: the first has so few digits that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // 1.5 · 2²³: adding it rounds to an integer, which then stands in the lowest bits.
    const TO_INTEGER: f32 = 12_582_912.0;
    // A comparison rather than `max`, which would turn NaN into a number.
    let x = if x < LOWEST { LOWEST } else { x };
    let shifted = mul_add::<L>(x, LOG2_E, TO_INTEGER);
    let n = shifted - TO_INTEGER;
    let r = mul_add::<L>(-n, LN2_HIGH, x);
    let r = mul_add::<L>(-n, LN2_LOW, r);
    let p = mul_add::<L>(1.987_569_1e-4, r, 1.398_2e-3);
    let p = mul_add::<L>(p, r, 8.333_452e-3);
    let p = mul_add::<L>(p, r, 4.166_579_6e-2);
    let p = mul_add::<L>(p, r, 0.166_666_65);
    let p = mul_add::<L>(p, r, 0.5);
    let y = mul_add::<L>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    y * power
}

/// 1/(1 + e^−x), as e^−|x| and one division. Error ≤ 2.2 ulp for x ≥ −87; 1.6e-38 below.
#[inline(always)]
pub(crate) fn sigmoid<L: Lanes>(x: f32) -> f32 {
    let e = exp_nonpositive::<L>(-x.abs());
    let numerator = if x < 0.0 { e } else { 1.0 };
    numerator / (1.0 + e)
}

/// tanh x: a polynomial of degree 11 where |x| < 0.625 (Cephes), else (1 − e)/(1 + e) with e = e^−2|x|. Error ≤ 1.6 ulp.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(x: f32) -> f32 {
    let magnitude = x.abs();
    let e = exp_nonpositive::<L>(-2.0 * magnitude);
    let far = ((1.0 - e) / (1.0 + e)).copysign(x);
    let z = x * x;
    let p = mul_add::<L>(-5.704_988_7e-3, z, 2.063_909e-2);
    let p = mul_add::<L>(p, z, -5.373_971_6e-2);
    let p = mul_add::<L>(p, z, 0.133_314_43);
    let p = mul_add::<L>(p, z, -0.333_332_8);
    let near = mul_add::<L>(p * z, x, x);
    if magnitude < 0.625 { near } else { far }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{InstructionSet, Kernel};

    #[derive(Copy, Clone, Debug)]
    enum Which {
        Exp,
        Sigmoid,
        Tanh,
    }

    struct Apply<'a> {
        which: Which,
        values: &'a mut [f32],
    }

    impl Kernel for Apply<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, _: L) {
            match self.which {
                Which::Exp => self.values.iter_mut().for_each(|x| *x = exp_nonpositive::<L>(*x)),
                Which::Sigmoid => self.values.iter_mut().for_each(|x| *x = sigmoid::<L>(*x)),
                Which::Tanh => self.values.iter_mut().for_each(|x| *x = tanh::<L>(*x)),
            }
        }
    }

    /// Distance from `actual` to the exact value, in units of the last place of the exact value.
    fn ulps(actual: f32, exact: f64) -> f64 {
        let near = (exact as f32).abs();
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(actual) - exact).abs() / ulp
    }

    /// One float in 499 of all magnitudes up to `largest`, of one sign.
    fn sample(sign: f32, largest: f32) -> Vec<f32> {
        let smallest = f32::MIN_POSITIVE.to_bits();
        (smallest..largest.to_bits()).step_by(499).map(|bits| sign * f32::from_bits(bits)).collect()
    }

    #[test]
    fn errors_are_within_the_stated_ulps_of_f64() {
        for set in InstructionSet::available() {
            for (which, sign, largest, bound) in [
                (Which::Exp, -1.0, 87.0, 1.1),
                (Which::Sigmoid, -1.0, 87.0, 2.2),
                (Which::Sigmoid, 1.0, 1e30, 2.2),
                (Which::Tanh, -1.0, 1e30, 1.6),
                (Which::Tanh, 1.0, 1e30, 1.6),
            ] {
                let points = sample(sign, largest);
                let mut values = points.clone();
                set.run(Apply { which, values: &mut values });
                let mut worst = (0.0, 0.0);
                for (&x, &actual) in points.iter().zip(&values) {
                    let x = f64::from(x);
                    let exact = match which {
                        Which::Exp => x.exp(),
                        Which::Sigmoid => 1.0 / (1.0 + (-x).exp()),
                        Which::Tanh => x.tanh(),
                    };
                    let error = ulps(actual, exact);
                    if error > worst.0 {
                        worst = (error, x);
                    }
                }
                println!("{which:?} {} sign {sign}: {:.3} ulp at {}", set.name(), worst.0, worst.1);
                assert!(worst.0 <= bound, "{which:?} on {}: {} ulp at {}", set.name(), worst.0, worst.1);
            }
        }
    }

    #[test]
    fn special_values_match_their_limits() {
        for set in InstructionSet::available() {
            let apply = |which, x: f32| {
                let mut values = [x; 33];
                set.run(Apply { which, values: &mut values });
                values[32]
            };
            assert_eq!(apply(Which::Exp, 0.0), 1.0);
            assert_eq!(apply(Which::Sigmoid, 0.0), 0.5);
            assert_eq!(apply(Which::Sigmoid, f32::INFINITY), 1.0);
            assert!(apply(Which::Sigmoid, f32::NEG_INFINITY) < 1e-37);
            assert_eq!(apply(Which::Tanh, 0.0).to_bits(), 0);
            assert_eq!(apply(Which::Tanh, f32::INFINITY), 1.0);
            assert_eq!(apply(Which::Tanh, f32::NEG_INFINITY), -1.0);
            for which in [Which::Exp, Which::Sigmoid, Which::Tanh] {
                assert!(apply(which, f32::NAN).is_nan(), "{which:?}");
            }
        }
    }
}
