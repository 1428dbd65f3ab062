//! What the factors of matrix products are rounded to. Sums are f32 whatever it is, and so is what lies in memory.

/// Precision of the factors of matrix products.
#[derive(Debug, Copy, Clone, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not rounded: CUDA cores.
    #[default]
    F32,
    /// 10 bits of mantissa: tensor cores.
    Tf32,
    /// bfloat16, 7 bits of mantissa: tensor cores at their full rate.
    Bf16,
}

impl Precision {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];
}
