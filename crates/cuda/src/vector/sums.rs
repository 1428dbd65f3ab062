//! Sums over flat vectors, and the scalars that a step makes of them: clip coefficients, and the ε of the finite
//! difference. All stay in device memory.

use super::{Scalar, ScalarArg, same_length};
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

/// Elements of one partial sum.
pub const BLOCK: usize = 8192;

/// Numbers that [`gate`] looks at, and that [`combine`] adds.
const WITNESSES: usize = 16;

/// Shared memory of a sum over a block of 256 threads: one f64 a warp.
const SUM_BYTES: u32 = 8 * 8;

pub(super) static DOT_BLOCKS: Kernel = Kernel::new("vector_dot_blocks", 256);
pub(super) static DOT_FINISH: Kernel = Kernel::new("vector_dot_finish", 256);
pub(super) static CLIP_COEFFICIENT: Kernel = Kernel::new("vector_clip_coefficient", 32);
pub(super) static GATE: Kernel = Kernel::new("vector_gate", 32);
pub(super) static COMBINE: Kernel = Kernel::new("vector_combine", 32);
pub(super) static FINITE_DIFFERENCE: Kernel = Kernel::new("vector_finite_difference", 32);

crate::args! {
    struct DotArgs: 40 {
        x: u64,
        y: u64,
        partial: u64,
        result: u64,
        len: u32,
        root: u32,
    }

    struct ClipArgs: 24 {
        coefficient: u64,
        norm: u64,
        limit: f64,
    }

    struct GateArgs: 160 {
        out: u64,
        value: ScalarArg,
        count: u32,
        pad: u32,
        witnesses: [u64; WITNESSES],
    }

    struct CombineArgs: 272 {
        out: u64,
        count: u32,
        pad: u32,
        terms: [u64; WITNESSES],
        factors: [f64; WITNESSES],
    }

    struct FiniteDifferenceArgs: 72 {
        out: u64,
        norm: u64,
        clip: ScalarArg,
        virtual_clip: ScalarArg,
        xi: ScalarArg,
        radius: f64,
    }
}

/// Numbers of scratch that a sum over vectors of `len` elements takes.
pub const fn scratch_len(len: usize) -> usize {
    len.div_ceil(BLOCK)
}

/// `result ← Σ xᵢ·yᵢ`, in f64 over blocks of [`BLOCK`] elements.
///
/// # Panics
/// If lengths differ, `result` is not one number, or `scratch` is shorter than [`scratch_len`] of the length.
#[track_caller]
pub fn dot(program: &mut Program, result: View<f64>, x: View, y: View, scratch: View<f64>) {
    sum(program, result, x, y, scratch, 0);
}

/// `result ← √(Σ xᵢ²)`. Not finite exactly if an element is not.
///
/// # Panics
/// As [`dot`].
#[track_caller]
pub fn norm2(program: &mut Program, result: View<f64>, x: View, scratch: View<f64>) {
    sum(program, result, x, x, scratch, 1);
}

#[track_caller]
fn sum(program: &mut Program, result: View<f64>, x: View, y: View, scratch: View<f64>, root: u32) {
    let len = same_length("dot", &[x, y]);
    let count = blocks(x.len, BLOCK as u32);
    assert_eq!(result.len, 1, "dot: the result is one number");
    assert!(scratch.len >= count as usize, "dot: {} numbers of scratch instead of {count}", scratch.len);
    let (partial, result) = (scratch.address, result.address);
    let args = DotArgs { x: x.address, y: y.address, partial, result, len, root };
    program.push(&DOT_BLOCKS, [count, 1, 1], SUM_BYTES, &args);
    program.push(&DOT_FINISH, [1, 1, 1], SUM_BYTES, &DotArgs { len: count, ..args });
}

/// `coefficient ← min(1, limit/(norm + 1e-6))`, or NaN where the norm is not finite. Without a limit, 1 or NaN.
///
/// # Panics
/// If one of the views is not one number.
#[track_caller]
pub fn clip_coefficient(program: &mut Program, coefficient: View<f64>, norm: View<f64>, limit: Option<f64>) {
    assert_eq!((coefficient.len, norm.len), (1, 1), "clip_coefficient: one number each");
    let limit = limit.unwrap_or(f64::INFINITY);
    let args = ClipArgs { coefficient: coefficient.address, norm: norm.address, limit };
    program.push(&CLIP_COEFFICIENT, [1, 1, 1], 0, &args);
}

/// `out ← value`, or NaN where one of the `witnesses` is not finite: a coefficient with which nothing is applied.
///
/// # Panics
/// If a view is not one number, or there are more than 16 witnesses.
#[track_caller]
pub fn gate(program: &mut Program, out: View<f64>, value: impl Into<Scalar>, witnesses: &[View<f64>]) {
    assert!(witnesses.len() <= WITNESSES, "gate: {} witnesses, at most {WITNESSES}", witnesses.len());
    assert!(out.len == 1 && witnesses.iter().all(|witness| witness.len == 1), "gate: one number each");
    let mut args = GateArgs {
        out: out.address,
        value: value.into().into(),
        count: witnesses.len() as u32,
        pad: 0,
        witnesses: [0; WITNESSES],
    };
    args.witnesses.iter_mut().zip(witnesses).for_each(|(place, witness)| *place = witness.address);
    program.push(&GATE, [1, 1, 1], 0, &args);
}

/// `out ← Σ factor·term` of numbers, in their order; `out` may be one of them.
///
/// # Panics
/// If a view is not one number, or there are more than 16 terms.
#[track_caller]
pub fn combine(program: &mut Program, out: View<f64>, terms: &[(f64, View<f64>)]) {
    assert!(terms.len() <= WITNESSES, "combine: {} terms, at most {WITNESSES}", terms.len());
    assert!(out.len == 1 && terms.iter().all(|(_, term)| term.len == 1), "combine: one number each");
    let mut args = CombineArgs {
        out: out.address,
        count: terms.len() as u32,
        pad: 0,
        terms: [0; WITNESSES],
        factors: [0.0; WITNESSES],
    };
    for (i, (factor, term)) in terms.iter().enumerate() {
        (args.factors[i], args.terms[i]) = (*factor, term.address);
    }
    program.push(&COMBINE, [1, 1, 1], 0, &args);
}

/// What the finite difference of a second-order step is made with, in four f64 of device memory.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct FiniteDifference {
    /// ε, which is infinite where the direction is zero; then the three factors are 0.
    pub epsilon: View<f64>,
    /// ε·clip: `w⁺ = w + plus·v`.
    pub plus: View<f64>,
    /// −ε·clip: `w⁻ = w + minus·v`.
    pub minus: View<f64>,
    /// −ξ·virtual_clip/(2ε): the factor of `∇α L(w⁺) − ∇α L(w⁻)` in the gradient.
    pub factor: View<f64>,
}

impl FiniteDifference {
    /// The four numbers of `view`.
    ///
    /// # Panics
    /// If it has not four.
    #[track_caller]
    pub fn at(view: View<f64>) -> Self {
        assert_eq!(view.len, 4, "FiniteDifference: four numbers");
        let [epsilon, plus, minus, factor] = [0, 1, 2, 3].map(|i| view.slice(i..i + 1));
        Self { epsilon, plus, minus, factor }
    }
}

/// ε = radius/(clip·norm) and what follows from it, where `norm` is that of the direction v, `clip` its clip coefficient,
/// `virtual_clip` that of the virtual step and `xi` that step's length.
///
/// # Panics
/// If a view is not one number.
#[track_caller]
pub fn finite_difference(
    program: &mut Program,
    out: FiniteDifference,
    radius: f64,
    norm: View<f64>,
    clip: impl Into<Scalar>,
    virtual_clip: impl Into<Scalar>,
    xi: impl Into<Scalar>,
) {
    assert_eq!(norm.len, 1, "finite_difference: the norm is one number");
    let (clip, virtual_clip, xi) = (clip.into().into(), virtual_clip.into().into(), xi.into().into());
    let args = FiniteDifferenceArgs { out: out.epsilon.address, norm: norm.address, clip, virtual_clip, xi, radius };
    program.push(&FINITE_DIFFERENCE, [1, 1, 1], 0, &args);
}
