//! The emulator can fail: each test runs a kernel well, then the same kernel with a fault planted in it, and the fault
//! must be found and named.

#![cfg(unix)]

use darts_cuda::{Backend, Error, Kernel, Memory, Program, View, args};
use darts_cuda_emulator::{Emulator, ORDERS, compare_orders};

args! {
    struct PlantedArgs: 24 {
        x: u64,
        y: u64,
        len: u32,
        fault: u32,
    }
}

/// One launch over 64 inputs and 64 outputs.
fn run(
    device: &Emulator,
    kernel: &'static Kernel,
    grid: u32,
    shared_bytes: u32,
    fault: u32,
) -> Result<Vec<f32>, Error> {
    let x: Vec<f32> = (0..64).map(|i| 1.0 + 1e-7 * (i * i) as f32 + if i == 9 { 1e8 } else { 0.0 }).collect();
    let x = device.uploaded(&x)?;
    let y: View = device.uploaded(&[0.0; 64])?;
    let mut program = Program::default();
    let args = PlantedArgs { x: x.address, y: y.address, len: 64, fault };
    program.push(kernel, [grid, 1, 1], shared_bytes, &args);
    device.run(&program)?;
    device.downloaded(y)
}

/// What every order says of a launch with a fault; without it, all orders agree.
fn message(kernel: &'static Kernel, shared_bytes: u32, fault: u32) -> Vec<String> {
    compare_orders(|device| run(device, kernel, 1, shared_bytes, 0).unwrap()).unwrap();
    let failed = |order| run(&Emulator::new(order), kernel, 1, shared_bytes, fault).unwrap_err().to_string();
    ORDERS.into_iter().map(failed).collect()
}

#[test]
fn emulator_finds_a_missing_barrier() {
    static KERNEL: Kernel = Kernel::new("planted_missing_barrier", 64);
    let with = |fault| compare_orders(|device| run(device, &KERNEL, 1, 64 * 4, fault).unwrap());
    let reversed = with(0).unwrap();
    assert_eq!(reversed[54], 1e8, "the element that is told apart");
    let disagreement = with(1).unwrap_err();
    assert!(disagreement.to_string().contains("depends on the order of threads"), "{disagreement}");
}

#[test]
fn emulator_finds_a_read_out_of_bounds() {
    static KERNEL: Kernel = Kernel::new("planted_out_of_bounds_read", 64);
    for message in message(&KERNEL, 0, 1) {
        assert_eq!(
            message,
            "planted_out_of_bounds_read: block (0, 0, 0), thread 63: it read 0 bytes past the end of a buffer of 256 bytes"
        );
    }
}

#[test]
fn emulator_finds_a_write_before_the_start() {
    static KERNEL: Kernel = Kernel::new("planted_write_before_start", 64);
    for message in message(&KERNEL, 0, 1) {
        assert_eq!(message, "planted_write_before_start: it wrote before the start of a buffer of 256 bytes");
    }
}

#[test]
fn emulator_finds_a_sum_that_depends_on_the_order_of_blocks() {
    static KERNEL: Kernel = Kernel::new("planted_order_dependent_sum", 32);
    let with = |fault| compare_orders(|device| run(device, &KERNEL, 64, 0, fault).unwrap());
    with(0).unwrap();
    assert_eq!(with(1).unwrap_err().index, 0);
}

#[test]
fn emulator_finds_barriers_that_do_not_match() {
    static KERNEL: Kernel = Kernel::new("planted_mismatch", 64);
    for message in message(&KERNEL, 0, 1) {
        assert!(message.contains("it is at the barrier of tests/planted_faults.cu:"), "{message}");
    }
}

#[test]
fn emulator_finds_a_return_before_a_barrier() {
    static KERNEL: Kernel = Kernel::new("planted_mismatch", 64);
    for message in message(&KERNEL, 0, 2) {
        assert!(message.contains("waits for thread 40, which has returned"), "{message}");
    }
}

#[test]
fn emulator_finds_warps_that_are_not_whole() {
    static KERNEL: Kernel = Kernel::new("planted_mismatch", 64);
    for message in message(&KERNEL, 0, 3) {
        assert!(message.contains("waits for thread 3, which has returned"), "{message}");
    }
    for message in message(&KERNEL, 0, 4) {
        assert!(message.contains("of its warp at warp_xor of "), "{message}");
    }
}

#[test]
fn emulator_finds_shared_memory_that_is_overrun_or_not_initialized() {
    static OVERRUN: Kernel = Kernel::new("planted_shared_overrun", 64);
    for message in message(&OVERRUN, 64 * 4, 1) {
        assert_eq!(
            message,
            "planted_shared_overrun: block (0, 0, 0), thread 63: it read 0 bytes past the end of shared memory"
        );
    }
    static UNINITIALIZED: Kernel = Kernel::new("planted_uninitialized_shared", 64);
    let sum = |fault| run(&Emulator::new(ORDERS[0]), &UNINITIALIZED, 1, 64 * 4, fault).unwrap()[0];
    assert_eq!(sum(0), 64.0);
    assert!(sum(1).is_nan());
}

#[test]
fn emulator_finds_copies_that_nobody_waits_for() {
    static KERNEL: Kernel = Kernel::new("planted_copy", 32);
    let y = |fault| run(&Emulator::new(ORDERS[0]), &KERNEL, 1, 64 * 4, fault).unwrap();
    assert_eq!((y(0)[9], &y(0)[60..]), (1e8, &[0.0; 4][..]));
    assert!(y(1).iter().all(|y| y.is_nan()));
    for message in message(&KERNEL, 64 * 4, 2) {
        assert!(message.contains("it returns while copies to shared memory are under way"), "{message}");
    }
}

#[test]
fn emulator_finds_an_unaligned_access() {
    static KERNEL: Kernel = Kernel::new("planted_unaligned_load", 32);
    for message in message(&KERNEL, 0, 1) {
        assert!(message.contains("an access of 16 bytes at the unaligned address"), "{message}");
    }
}

#[test]
fn emulator_refuses_a_launch_that_does_not_fit_its_kernel() {
    static THREADS: Kernel = Kernel::new("planted_mismatch", 96);
    let error = run(&Emulator::new(ORDERS[0]), &THREADS, 1, 0, 0).unwrap_err();
    assert_eq!(error.to_string(), "planted_mismatch: threads of a block: 64 in the device code, 96 in the launch");
    static UNKNOWN: Kernel = Kernel::new("nobody", 64);
    assert!(matches!(run(&Emulator::new(ORDERS[0]), &UNKNOWN, 1, 0, 0), Err(Error::UnknownKernel(_))));
    let device = Emulator::new(ORDERS[0]);
    let view: View = device.allocate(4).unwrap();
    assert!(matches!(device.upload(view, &[0.0; 3]), Err(Error::CopyLength { host: 12, device: 16 })));
    assert!(matches!(device.downloaded(View::<f32>::at(64, 1)), Err(Error::NotAllocated { .. })));
    assert!(device.downloaded(view).unwrap().iter().all(|x| x.is_nan()), "memory starts as NaN");
}
