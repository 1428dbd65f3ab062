//! Runs a test in several orders of threads and blocks, and compares the results bit for bit.

use std::fmt;

use crate::{Emulator, Order, TestDevice};

/// The orders that [`in_all_orders`] runs.
pub const ORDERS: [Order; 4] = [Order::Forward, Order::Reverse, Order::Random(1), Order::Random(2)];

/// A result whose bits can be compared.
pub trait Bits {
    /// Calls `f` with the bits of every number, in order.
    fn for_each(&self, f: &mut dyn FnMut(u64));
}

macro_rules! bits {
    ($($t:ty: $value:ident => $bits:expr),* $(,)?) => {$(
        impl Bits for $t {
            fn for_each(&self, f: &mut dyn FnMut(u64)) {
                let $value = *self;
                f($bits);
            }
        }
    )*};
}

bits!(f32: x => x.to_bits().into(), f64: x => x.to_bits(), u8: x => x.into(), u16: x => x.into(), u32: x => x.into(), u64: x => x);

impl<T: Bits> Bits for Vec<T> {
    fn for_each(&self, f: &mut dyn FnMut(u64)) {
        self.iter().for_each(|x| x.for_each(f));
    }
}

impl<T: Bits, const N: usize> Bits for [T; N] {
    fn for_each(&self, f: &mut dyn FnMut(u64)) {
        self.iter().for_each(|x| x.for_each(f));
    }
}

impl<A: Bits, B: Bits> Bits for (A, B) {
    fn for_each(&self, f: &mut dyn FnMut(u64)) {
        self.0.for_each(f);
        self.1.for_each(f);
    }
}

impl<A: Bits, B: Bits, C: Bits> Bits for (A, B, C) {
    fn for_each(&self, f: &mut dyn FnMut(u64)) {
        self.0.for_each(f);
        self.1.for_each(f);
        self.2.for_each(f);
    }
}

/// Two orders whose results differ.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The order that differs from [`Order::Forward`].
    pub order: Order,
    /// Index of the first number that does, all results taken one after the other.
    pub index: usize,
    /// Its bits in forward order; none where there is no such number.
    pub forward: Option<u64>,
    /// Its bits in the other order.
    pub other: Option<u64>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, index, forward, other } = self;
        write!(f, "result {index} depends on the order of threads or blocks: ")?;
        write!(f, "bits {forward:x?} in forward order, {other:x?} in {order:?}")
    }
}

/// Runs `test` on a fresh device for each of `orders`, which `device` makes.
fn compare<D, R: Bits>(
    orders: &[Order],
    device: impl Fn(Order) -> D,
    mut test: impl FnMut(&D) -> R,
) -> Result<R, Disagreement> {
    let bits = |result: &R| {
        let mut bits = Vec::new();
        result.for_each(&mut |x| bits.push(x));
        bits
    };
    let result = test(&device(orders[0]));
    let expected = bits(&result);
    for &order in &orders[1..] {
        let found = bits(&test(&device(order)));
        let differs = |&i: &usize| expected.get(i) != found.get(i);
        if let Some(index) = (0..expected.len().max(found.len())).find(differs) {
            let (forward, other) = (expected.get(index).copied(), found.get(index).copied());
            return Err(Disagreement { order, index, forward, other });
        }
    }
    Ok(result)
}

/// Runs `test` on a fresh emulator for each of [`ORDERS`]: it uploads, runs programs and returns what it downloads.
///
/// # Errors
/// The first [`Disagreement`].
pub fn compare_orders<R: Bits>(test: impl FnMut(&Emulator) -> R) -> Result<R, Disagreement> {
    compare(&ORDERS, Emulator::new, test)
}

/// [`compare_orders`] for tests of what the emulator alone has: the result, which is the same bits in every order.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn in_emulated_orders<R: Bits>(test: impl FnMut(&Emulator) -> R) -> R {
    compare_orders(test).unwrap_or_else(|disagreement| panic!("{disagreement}"))
}

/// The result of a test of kernels, which is the same bits in every order. On a GPU ([`TestDevice`]): launched one by one, as
/// graphs, and launched again.
///
/// # Panics
/// If it is not.
#[track_caller]
pub fn in_all_orders<R: Bits>(test: impl FnMut(&TestDevice) -> R) -> R {
    let orders: &[Order] = match TestDevice::gpu() {
        Some(_) => &[Order::Forward, Order::Reverse, Order::Forward],
        None => &ORDERS,
    };
    compare(orders, TestDevice::new, test).unwrap_or_else(|disagreement| panic!("{disagreement}"))
}
