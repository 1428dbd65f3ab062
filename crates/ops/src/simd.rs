//! Choice of the instruction set, and the few vector operations that kernels are written in. Refuses to know what a
//! kernel computes.
//!
//! A kernel is a type that implements the crate-private `Kernel` for every `Lanes`; `InstructionSet::run` compiles it
//! once per instruction set (through `pulp`) and picks the copy at run time. Everything below `Kernel::run` has to be
//! `#[inline(always)]`: a function that is not inlined is compiled for the baseline of the target.

use crate::error::Error;
use std::sync::OnceLock;

/// Instruction sets that the CPU kernels are compiled for.
///
/// ```
/// use darts_ops::simd::InstructionSet;
/// assert!(InstructionSet::available().contains(&InstructionSet::selected()));
/// ```
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum InstructionSet {
    /// What every machine of the target has, four lanes; products and sums are rounded separately.
    Portable,
    /// AVX2 and FMA, eight lanes.
    Avx2,
    /// AVX-512 (F, BW, CD, DQ, VL), sixteen lanes.
    Avx512,
}

/// Environment variable that overrides the choice.
const VARIABLE: &str = "DARTS_SIMD";

impl InstructionSet {
    /// All of them, slowest first.
    const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// Name, as `DARTS_SIMD` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The sets that this machine has, slowest first.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|set| set.is_available()).collect()
    }

    /// The set that kernels use unless one is passed explicitly: what `DARTS_SIMD` names, else the fastest of the
    /// machine. An unusable `DARTS_SIMD` counts as absent here: a program reports it at its start, with
    /// [`InstructionSet::from_environment`]. The variable is read once.
    pub fn selected() -> Self {
        static SELECTED: OnceLock<InstructionSet> = OnceLock::new();
        *SELECTED.get_or_init(|| Self::from_environment().ok().flatten().unwrap_or_else(Self::fastest))
    }

    /// The set named by the environment variable `DARTS_SIMD`: `portable`, `avx2` or `avx512`; `None` if it is unset.
    ///
    /// # Errors
    /// If the variable names no instruction set, or one that the machine lacks.
    pub fn from_environment() -> Result<Option<Self>, Error> {
        match std::env::var_os(VARIABLE) {
            None => Ok(None),
            Some(value) => Self::from_name(&value.to_string_lossy()).map(Some),
        }
    }

    /// The set called `name`.
    ///
    /// # Errors
    /// If there is none of that name, or the machine lacks it.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        let set = Self::ALL
            .into_iter()
            .find(|set| set.name() == name)
            .ok_or_else(|| Error::UnknownInstructionSet { value: name.to_owned() })?;
        if set.is_available() {
            Ok(set)
        } else {
            let names: Vec<_> = Self::available().into_iter().map(Self::name).collect();
            Err(Error::MissingInstructionSet { name: set.name(), available: names.join(", ") })
        }
    }

    fn fastest() -> Self {
        if Self::Avx512.is_available() {
            Self::Avx512
        } else if Self::Avx2.is_available() {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => pulp::x86::V3::try_new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => pulp::x86::V4::try_new().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Runs `kernel` compiled for this set; for the portable one where the machine lacks the set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[cfg(target_arch = "x86_64")]
        {
            if self == Self::Avx512
                && let Some(lanes) = pulp::x86::V4::try_new()
            {
                return lanes.vectorize(Bound { kernel, lanes });
            }
            if self == Self::Avx2
                && let Some(lanes) = pulp::x86::V3::try_new()
            {
                return lanes.vectorize(Bound { kernel, lanes });
            }
        }
        kernel.run(pulp::Scalar128b)
    }
}

/// A computation that can be compiled for every instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; must be `#[inline(always)]`.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// A kernel with its instruction set, as pulp wants it.
#[cfg(target_arch = "x86_64")]
struct Bound<K, L> {
    kernel: K,
    lanes: L,
}

#[cfg(target_arch = "x86_64")]
impl<K: Kernel, L: Lanes> pulp::NullaryFnOnce for Bound<K, L> {
    type Output = K::Output;

    #[inline(always)]
    fn call(self) -> K::Output {
        self.kernel.run(self.lanes)
    }
}

/// Most lanes of any instruction set: a buffer padded to a multiple of it is padded for all of them.
pub(crate) const MAX_LANES: usize = 16;
/// Most lanes of any set's short vectors.
pub(crate) const MAX_SHORT_LANES: usize = 8;

/// `count` rounded up to a multiple of `multiple`.
#[inline(always)]
pub(crate) const fn round_up(count: usize, multiple: usize) -> usize {
    count.div_ceil(multiple) * multiple
}

/// `count` floats padded so that whole vectors, and a short one at the end where [`Lanes::Short`] has a shorter one, make them
/// up.
#[inline(always)]
pub(crate) const fn padded<L: Lanes>(count: usize) -> usize {
    round_up(count, L::Short::LANES)
}

/// The body for every whole vector of `$len` padded floats, `$at` being where it begins, and once more with the short one's lanes
/// where that is what is left. A macro, since `$lanes` has another type then.
macro_rules! for_vectors {
    ($lanes:ident: $L:ty, $len:expr, $at:ident => $body:expr) => {{
        let len = $len;
        let whole = len / <$L>::LANES * <$L>::LANES;
        for $at in (0..whole).step_by(<$L>::LANES) {
            $body
        }
        if <$L as $crate::simd::Lanes>::Short::LANES < <$L>::LANES && whole < len {
            let ($lanes, $at) = ($crate::simd::Lanes::short($lanes), whole);
            $body
        }
    }};
}
pub(crate) use for_vectors;

/// Vectors of f32 of one instruction set. A value of the type is the proof that the machine has the set.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// A vector.
    type V: Copy;
    /// Vectors of half the length where they take half the time, else the same: for the end of channels that fill no whole vector.
    type Short: Lanes;
    /// Floats in a vector.
    const LANES: usize;
    /// Whether there are 32 vector registers rather than 16.
    const MANY_REGISTERS: bool;

    /// The short vectors.
    fn short(self) -> Self::Short;
    /// All lanes `value`.
    fn splat(self, value: f32) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once where the machine has an instruction for it, else twice.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of both; which one where either is NaN depends on the set.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `max(value, 0)`; NaN stays NaN.
    fn relu(self, value: Self::V) -> Self::V;
    /// `value` in the lanes where `condition > 0`, else 0.
    fn where_positive(self, condition: Self::V, value: Self::V) -> Self::V;
    /// The larger of both; NaN if either is.
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V;
    /// `then` in the lanes where `a > b`, else `otherwise`.
    fn where_greater(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// `value` in the lanes where `a = b`, else 0.
    fn where_equal(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// The first `count < LANES` floats at `pointer`, then zeros.
    ///
    /// # Safety
    /// `count` floats are readable at `pointer`.
    unsafe fn load_first(self, pointer: *const f32, count: usize) -> Self::V;

    /// Floats in a vector, where a macro leaves the type unnamed.
    #[inline(always)]
    fn count(self) -> usize {
        Self::LANES
    }

    /// All lanes 0.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// The vector at `pointer`, which need not be aligned.
    ///
    /// # Safety
    /// `LANES` floats are readable at `pointer`.
    #[inline(always)]
    unsafe fn load(self, pointer: *const f32) -> Self::V {
        // SAFETY: the caller vouches for LANES floats; V is LANES floats without padding, and unaligned reads need no alignment.
        unsafe { pointer.cast::<Self::V>().read_unaligned() }
    }

    /// Writes `value` at `pointer`, which need not be aligned.
    ///
    /// # Safety
    /// `LANES` floats are writable at `pointer`.
    #[inline(always)]
    unsafe fn store(self, pointer: *mut f32, value: Self::V) {
        // SAFETY: as for `load`.
        unsafe { pointer.cast::<Self::V>().write_unaligned(value) }
    }

    /// Writes the first `count < LANES` lanes of `value` at `pointer` (masked stores are slow on some machines).
    ///
    /// # Safety
    /// `count` floats are writable at `pointer`.
    #[inline(always)]
    unsafe fn store_first(self, pointer: *mut f32, value: Self::V, count: usize) {
        let from = (&raw const value).cast::<f32>();
        let mut done = 0;
        // SAFETY: the pieces of 8, 4, 2 and 1 floats add up to `count` (its binary digits), which is less than the LANES floats
        // readable at `from` and which the caller vouches for at `pointer`.
        unsafe {
            if count & 8 != 0 {
                pointer.cast::<[f32; 8]>().write_unaligned(from.cast::<[f32; 8]>().read_unaligned());
                done += 8;
            }
            if count & 4 != 0 {
                let piece = from.add(done).cast::<[f32; 4]>().read_unaligned();
                pointer.add(done).cast::<[f32; 4]>().write_unaligned(piece);
                done += 4;
            }
            if count & 2 != 0 {
                let piece = from.add(done).cast::<[f32; 2]>().read_unaligned();
                pointer.add(done).cast::<[f32; 2]>().write_unaligned(piece);
                done += 2;
            }
            if count & 1 != 0 {
                *pointer.add(done) = *from.add(done);
            }
        }
    }

    /// A vector of which `count` floats are there: all of them if `count ≥ LANES`, else the first `count`, then zeros.
    ///
    /// # Safety
    /// `min(count, LANES)` floats are readable at `pointer`.
    #[inline(always)]
    unsafe fn load_up_to(self, pointer: *const f32, count: usize) -> Self::V {
        // SAFETY: the caller's promise is that of the function called.
        unsafe { if count >= Self::LANES { self.load(pointer) } else { self.load_first(pointer, count) } }
    }

    /// Writes all lanes if `count ≥ LANES`, else the first `count`.
    ///
    /// # Safety
    /// `min(count, LANES)` floats are writable at `pointer`.
    #[inline(always)]
    unsafe fn store_up_to(self, pointer: *mut f32, value: Self::V, count: usize) {
        // SAFETY: the caller's promise is that of the function called.
        unsafe {
            if count >= Self::LANES { self.store(pointer, value) } else { self.store_first(pointer, value, count) }
        }
    }
}

/// Operations that are pulp's own for every instruction set.
macro_rules! from_pulp {
    () => {
        type V = <Self as pulp::Simd>::f32s;
        const LANES: usize = <Self as pulp::Simd>::F32_LANES;
        const MANY_REGISTERS: bool = <Self as pulp::Simd>::REGISTER_COUNT >= 32;

        #[inline(always)]
        fn splat(self, value: f32) -> Self::V {
            pulp::Simd::splat_f32s(self, value)
        }
        #[inline(always)]
        fn add(self, a: Self::V, b: Self::V) -> Self::V {
            pulp::Simd::add_f32s(self, a, b)
        }
        #[inline(always)]
        fn mul(self, a: Self::V, b: Self::V) -> Self::V {
            pulp::Simd::mul_f32s(self, a, b)
        }
        #[inline(always)]
        fn max(self, a: Self::V, b: Self::V) -> Self::V {
            pulp::Simd::max_f32s(self, a, b)
        }
        #[inline(always)]
        fn where_positive(self, condition: Self::V, value: Self::V) -> Self::V {
            let zero = pulp::Simd::splat_f32s(self, 0.0);
            let positive = pulp::Simd::greater_than_f32s(self, condition, zero);
            pulp::Simd::select_f32s(self, positive, value, zero)
        }
        #[inline(always)]
        fn where_greater(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
            pulp::Simd::select_f32s(self, pulp::Simd::greater_than_f32s(self, a, b), then, otherwise)
        }
        #[inline(always)]
        fn where_equal(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V {
            let equal = pulp::Simd::equal_f32s(self, a, b);
            pulp::Simd::select_f32s(self, equal, value, pulp::Simd::splat_f32s(self, 0.0))
        }
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! for_x86 {
    ($set:ty, $short:ty, |$self:ident| $value:expr) => {
        impl Lanes for $set {
            type Short = $short;

            from_pulp!();

            #[inline(always)]
            fn short(self) -> $short {
                let $self = self;
                $value
            }

            #[inline(always)]
            fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                pulp::Simd::mul_add_e_f32s(self, a, b, c)
            }
            #[inline(always)]
            fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
                // The instruction returns its second operand where either is NaN.
                let larger = pulp::Simd::max_f32s(self, a, b);
                pulp::Simd::select_f32s(self, pulp::Simd::equal_f32s(self, a, a), larger, a)
            }
            #[inline(always)]
            fn relu(self, value: Self::V) -> Self::V {
                // As above.
                pulp::Simd::max_f32s(self, pulp::Simd::splat_f32s(self, 0.0), value)
            }
            #[inline(always)]
            unsafe fn load_first(self, pointer: *const f32, count: usize) -> Self::V {
                let mask = pulp::Simd::mask_between_m32s(self, 0, count as u32);
                // SAFETY: a masked load touches the first `count` floats only, which the caller vouches for.
                unsafe { pulp::Simd::mask_load_ptr_f32s(self, mask, pointer) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
for_x86!(pulp::x86::V3, pulp::x86::V3, |set| set);
#[cfg(target_arch = "x86_64")]
for_x86!(pulp::x86::V4, pulp::x86::V3, |set| *set);

impl Lanes for pulp::Scalar128b {
    type Short = Self;

    from_pulp!();

    #[inline(always)]
    fn short(self) -> Self {
        self
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // pulp's own calls the C library's fma where the baseline has no such instruction.
        pulp::Simd::add_f32s(self, pulp::Simd::mul_f32s(self, a, b), c)
    }
    #[inline(always)]
    fn max_or_nan(self, a: Self::V, b: Self::V) -> Self::V {
        let (a, b): ([f32; 4], [f32; 4]) = (pulp::cast(a), pulp::cast(b));
        pulp::cast(std::array::from_fn::<f32, 4, _>(|i| if a[i] > b[i] || a[i].is_nan() { a[i] } else { b[i] }))
    }
    #[inline(always)]
    fn relu(self, value: Self::V) -> Self::V {
        let lanes: [f32; 4] = pulp::cast(value);
        pulp::cast(lanes.map(|value| if value < 0.0 { 0.0 } else { value }))
    }
    #[inline(always)]
    unsafe fn load_first(self, pointer: *const f32, count: usize) -> Self::V {
        let mut value = self.zero();
        let to = (&raw mut value).cast::<f32>();
        for lane in 0..count.min(Self::LANES) {
            // SAFETY: `lane` is below `count`, which the caller vouches for, and below LANES, the floats of `value`.
            unsafe { *to.add(lane) = *pointer.add(lane) }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_exist() {
        let message = InstructionSet::from_name("sse9").unwrap_err().to_string();
        assert!(message.contains("sse9") && message.contains("portable, avx2 or avx512"), "{message}");
    }

    #[test]
    fn portable_is_always_there() {
        assert_eq!(InstructionSet::available()[0], InstructionSet::Portable);
        assert_eq!(InstructionSet::from_name("portable").unwrap(), InstructionSet::Portable);
    }

    /// Loads `count` floats, doubles them, stores `count` floats.
    struct Double<'a> {
        from: &'a [f32],
        to: &'a mut [f32],
    }

    impl Kernel for Double<'_> {
        type Output = usize;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> usize {
            let count = self.from.len().min(self.to.len()).min(L::LANES);
            // SAFETY: both slices have at least `count` floats.
            unsafe {
                let value = lanes.load_up_to(self.from.as_ptr(), count);
                let twice = lanes.mul_add(value, lanes.splat(2.0), lanes.zero());
                lanes.store_up_to(self.to.as_mut_ptr(), twice, count);
            }
            count
        }
    }

    #[test]
    fn partial_loads_and_stores_match_a_plain_loop() {
        for set in InstructionSet::available() {
            for count in 0..=MAX_LANES {
                let from: Vec<f32> = (1..=count).map(|i| i as f32).collect();
                let mut to = vec![-1.0; MAX_LANES + 1];
                let done = set.run(Double { from: &from, to: &mut to });
                let expected: Vec<f32> = (0..to.len()).map(|i| if i < done { 2.0 * from[i] } else { -1.0 }).collect();
                assert_eq!(to, expected, "{} lanes of {}", count, set.name());
            }
        }
    }
}
