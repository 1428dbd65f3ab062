//! The twins of the tensor-core products and of the warp exchanges, against plain loops. Loads and products have their
//! layouts of fragments independently of each other: a wrong one of either gives a wrong product.

#![cfg(unix)]

use darts_cuda::{Backend, Kernel, Memory, Program, args};
use darts_cuda_emulator::{Emulator, Order, in_emulated_orders};

static BF16: Kernel = Kernel::new("test_mma_bf16", 32);
static TF32: Kernel = Kernel::new("test_mma_tf32", 32);
static CONVERSIONS: Kernel = Kernel::new("test_conversions", 32);

args! {
    struct TestMmaArgs: 32 {
        a: u64,
        b: u64,
        c: u64,
        a_transposed: u32,
        b_transposed: u32,
    }
}

fn run(
    device: &Emulator,
    kernel: &'static Kernel,
    a: &[f32],
    b: &[f32],
    transposed: [bool; 2],
) -> darts_cuda::Result<Vec<f32>> {
    let c = device.uploaded(&[0.0f32; 256])?;
    let args = TestMmaArgs {
        a: device.uploaded(a)?.address,
        b: device.uploaded(b)?.address,
        c: c.address,
        a_transposed: transposed[0].into(),
        b_transposed: transposed[1].into(),
    };
    let mut program = Program::default();
    program.push(kernel, [1, 1, 1], 2 * 16 * 24 * 2, &args);
    device.run(&program)?;
    device.downloaded(c)
}

/// A 16×16 matrix of small integers, exact in every format.
fn matrix(seed: usize) -> Vec<f32> {
    (0..256).map(|i| ((i * 7 + i / 16 * 3 + seed * 5) % 17) as f32 - 8.0).collect()
}

fn transpose(m: &[f32]) -> Vec<f32> {
    (0..256).map(|i| m[i % 16 * 16 + i / 16]).collect()
}

/// a [16][16] · b [16][16], row-major.
fn product(a: &[f32], b: &[f32]) -> Vec<f32> {
    (0..256).map(|i| (0..16).map(|k| a[i / 16 * 16 + k] * b[k * 16 + i % 16]).sum()).collect()
}

#[test]
fn emulator_mma_bf16_matches_reference_for_every_way_to_load() {
    let (a, b) = (matrix(1), matrix(2));
    for a_transposed in [false, true] {
        for b_transposed in [false, true] {
            let stored_a = if a_transposed { transpose(&a) } else { a.clone() };
            let stored_b = if b_transposed { b.clone() } else { transpose(&b) };
            let transposed = [a_transposed, b_transposed];
            let found = in_emulated_orders(|device| run(device, &BF16, &stored_a, &stored_b, transposed).unwrap());
            assert_eq!(found, product(&a, &b), "transposed: {transposed:?}");
        }
    }
}

#[test]
fn emulator_mma_tf32_matches_reference_and_refuses_operands_that_are_not_rounded() {
    let (a, b) = (matrix(3), matrix(4));
    let found = in_emulated_orders(|device| run(device, &TF32, &a, &b, [false; 2]).unwrap());
    assert_eq!(found, product(&a, &b));
    let thirds: Vec<f32> = a.iter().map(|x| x / 3.0).collect();
    let error = run(&Emulator::new(Order::Forward), &TF32, &thirds, &b, [true, false]).unwrap_err().to_string();
    assert!(error.contains("an operand of mma_tf32 that did not come from to_tf32"), "{error}");
}

#[test]
fn emulator_conversions_and_exchanges_match_reference() {
    // 1 + 2⁻⁸ is halfway between two numbers of bfloat16 (2⁻⁷ apart), 1 + 2⁻¹¹ between two of tf32 (2⁻¹⁰ apart).
    let bf16 = [
        (1.0, 1.0),
        (1.0 + 1.0 / 256.0, 1.0),
        (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
        (-1.0 - 3.0 / 256.0, -1.0 - 4.0 / 256.0),
        (3.4e38, f32::INFINITY),
        (f32::INFINITY, f32::INFINITY),
        (1e-40, f32::from_bits(0x0001_0000)),
    ];
    let tf32 = [(1.0, 1.0), (1.0 + 1.0 / 2048.0, 1.0 + 2.0 / 2048.0), (-1.0 - 1.0 / 2048.0, -1.0 - 2.0 / 2048.0)];
    let mut values: Vec<f32> = bf16.iter().map(|(x, _)| *x).chain(tf32.iter().map(|(x, _)| *x)).collect();
    values.resize(31, 0.0);
    values.push(f32::NAN);
    let found = in_emulated_orders(|device| run(device, &CONVERSIONS, &values, &[], [false; 2]).unwrap());
    for (i, (value, expected)) in bf16.iter().enumerate() {
        assert_eq!(found[i], *expected, "{value} in bfloat16");
    }
    for (i, (value, expected)) in tf32.iter().enumerate() {
        assert_eq!(found[32 + bf16.len() + i], *expected, "{value} in tf32");
    }
    assert!(found[31].is_nan() && found[63].is_nan());
    for lane in 0..32 {
        assert_eq!(found[64 + lane], (lane ^ 5) as f32);
        assert_eq!(found[96 + lane], if lane < 28 { lane + 4 } else { lane } as f32);
        assert_eq!(found[128 + lane], 7.0);
        assert_eq!(found[160 + lane], 496.0);
        assert_eq!(found[192 + lane], 31.0);
    }
}
