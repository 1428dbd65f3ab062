//! Sets floats to one value: gradients before the first contribution, where nothing overwrites them.

use crate::args;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FILL: Kernel = Kernel::new("fill_floats", 256);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FILL];

/// Floats that a thread writes.
const FLOATS: u32 = 4;

args! {
    struct FillArgs: 24 {
        out: u64,
        len: u64,
        value: f32,
        pad: u32,
    }
}

/// out ← value.
pub fn fill(program: &mut Program, out: View, value: f32) {
    let args = FillArgs { out: out.address, len: out.len as u64, value, pad: 0 };
    program.push(&FILL, [blocks(out.len, FLOATS * FILL.threads), 1, 1], 0, &args);
}
