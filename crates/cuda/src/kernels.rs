//! The list of all kernels, operation by operation. Every entry of the device code is in it: the emulator's tests
//! compare the two.

use crate::program::Kernel;
use crate::{
    augment, batch_norm, conv, elementwise, embedding, fill, fold, head, hidden_state, matmul, mix, pool,
    recurrent_node, regularizer, relaxation, sep_unit, tied_decoder, vector,
};

/// All kernels, a slice for each operation.
pub static ALL: &[&[&Kernel]] = &[
    augment::KERNELS,
    batch_norm::KERNELS,
    conv::KERNELS,
    elementwise::KERNELS,
    embedding::KERNELS,
    fill::KERNELS,
    fold::KERNELS,
    head::KERNELS,
    hidden_state::KERNELS,
    matmul::KERNELS,
    mix::KERNELS,
    pool::KERNELS,
    recurrent_node::KERNELS,
    regularizer::KERNELS,
    relaxation::KERNELS,
    sep_unit::KERNELS,
    tied_decoder::KERNELS,
    vector::KERNELS,
];

/// All kernels, one after the other.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    ALL.iter().flat_map(|kernels| kernels.iter().copied())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = super::all().map(|kernel| kernel.name).collect();
        assert_eq!(names.len(), super::all().count());
    }
}
