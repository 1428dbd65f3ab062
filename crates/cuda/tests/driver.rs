//! The backend over NVIDIA's driver, on a driver that is the emulator: copies, graphs, errors. Each test runs its body in a
//! child process of its own, whose loader finds the fake driver first.

#![cfg(all(unix, feature = "cuda"))]

use std::process::Command;

use darts_cuda::driver::{Device, Options};
use darts_cuda::vector::{self, AdamState, AdamStep, Scalar, SgdStep};
use darts_cuda::{Backend, Error, Memory, Program, View};
use darts_cuda_emulator::fake_driver;

/// Runs `body` in a child process with that scene. Only there is it called.
#[track_caller]
fn with_fake_driver(test: &str, scene: &str, body: impl FnOnce()) {
    if std::env::var_os("DARTS_FAKE_CUDA").is_some() {
        return body();
    }
    let program = std::env::current_exe().unwrap();
    let child = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", fake_driver())
        .env("DARTS_FAKE_CUDA", scene)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{test} with {scene:?}:\n{text}");
}

fn open() -> Device {
    Device::open(0, Options::default()).unwrap()
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 101) % 201) as f32 / 100.0 - 1.0).collect()
}

/// Three steps of SGD with a clipped gradient and of Adam, with the learning rate uploaded before each.
fn three_steps(device: &Device) -> darts_cuda::Result<Vec<f32>> {
    let len = 5000;
    let (w, buffer) = (device.uploaded(&values(len, 1))?, device.uploaded(&values(len, 2))?);
    let (gradient, point) = (device.uploaded(&values(len, 3))?, device.uploaded(&values(len, 4))?);
    let moments = device.uploaded(&vec![0.0; 2 * len])?;
    let scalars: View<f64> = device.allocate(4)?;
    let [norm, coefficient, rate] = [0, 1, 2].map(|i| scalars.slice(i..i + 1));
    let scratch: View<f64> = device.allocate(vector::scratch_len(len) + 2)?;
    let state = AdamState {
        first_moment: moments.slice(0..len),
        second_moment: moments.slice(len..2 * len),
        steps: device.uploaded(&[0u64])?,
        scratch: scratch.slice(0..2),
    };
    let mut program = Program::default();
    vector::norm2(&mut program, norm, gradient, scratch.slice(2..scratch.len));
    vector::clip_coefficient(&mut program, coefficient, norm, Some(5.0));
    let learning_rate = Scalar::At(rate);
    let sgd = SgdStep { momentum: 0.9, coefficient: coefficient.into(), weight_decay: 0.1, learning_rate };
    vector::sgd(&mut program, w, Some(buffer), gradient, sgd);
    let gate = norm.into();
    let adam = AdamStep { learning_rate, beta1: 0.5, beta2: 0.9, epsilon: 1e-8, weight_decay: 0.0, gate };
    vector::adam(&mut program, point, state, gradient, adam);
    let recording = device.record(&program)?;
    for step in 0..3 {
        device.upload(rate, &[0.1 / f64::from(step + 1)])?;
        device.replay(&recording)?;
    }
    let mut all = device.downloaded(w)?;
    all.extend(device.downloaded(buffer)?);
    all.extend(device.downloaded(point)?);
    assert_eq!(device.downloaded(state.steps)?, [3]);
    Ok(all)
}

#[test]
fn emulator_driver_replays_a_graph_to_the_same_bits_as_launches() {
    with_fake_driver("emulator_driver_replays_a_graph_to_the_same_bits_as_launches", "devices=1", || {
        let graphs = three_steps(&open()).unwrap();
        let launches = three_steps(&Device::open(0, Options { graphs: false }).unwrap()).unwrap();
        assert!(graphs.iter().zip(&launches).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert!(graphs.iter().all(|x| x.is_finite()));
        let device = open();
        let mut program = Program::default();
        vector::fill(&mut program, device.allocate(4).unwrap(), 1.0);
        assert!(device.record(&program).unwrap().is_graph());
        assert!(!device.record(&Program::default()).unwrap().is_graph());
    });
}

#[test]
fn emulator_driver_uploads_more_than_its_ring_before_anything_is_waited_for() {
    with_fake_driver("emulator_driver_uploads_more_than_its_ring_before_anything_is_waited_for", "devices=1", || {
        let device = open();
        // 3 MB each: they lie across the parts of the ring, which comes round three times.
        let len = 3 * 262_144 + 1;
        let all: Vec<View> = (0..17).map(|i| device.uploaded(&vec![i as f32; len]).unwrap()).collect();
        for (i, view) in all.into_iter().enumerate() {
            assert!(device.downloaded(view).unwrap().iter().all(|&x| x == i as f32), "upload {i}");
        }
        let elapsed = device.time(|| Ok(())).unwrap();
        assert!(elapsed.as_secs_f64() < 1.0);
    });
}

#[test]
fn emulator_driver_copies_ahead_of_the_turn_and_what_follows_finds_it() {
    with_fake_driver("emulator_driver_copies_ahead_of_the_turn_and_what_follows_finds_it", "devices=1", || {
        let device = open();
        // More than the ring of copies ahead holds.
        let len = 5_000_000;
        let [sum, first, second] = [0, 1, 2].map(|_| device.uploaded(&vec![0.0f32; len]).unwrap());
        let adding = |term: View| {
            let mut program = Program::default();
            vector::axpy(&mut program, sum, 1.0, term);
            device.record(&program).unwrap()
        };
        let (add_first, add_second) = (adding(first), adding(second));
        device.synchronize().unwrap();
        device.upload_ahead(first, &vec![1.0; len]).unwrap();
        device.replay(&add_first).unwrap();
        // While that waits to be done.
        device.upload_ahead(second, &vec![2.0; len]).unwrap();
        assert!(!device.is_idle().unwrap(), "it was asked for a program");
        assert!(device.is_idle().unwrap());
        device.replay(&add_second).unwrap();
        assert!(device.downloaded(sum).unwrap().iter().all(|&x| x == 3.0));
        device.upload_ahead(first, &vec![4.0; len]).unwrap();
        assert!(device.downloaded(first).unwrap().iter().all(|&x| x == 4.0));
    });
}

/// What opening a device says in that scene.
#[track_caller]
fn assert_refused(test: &str, scene: &str, expected: &str) {
    with_fake_driver(test, scene, || {
        let error = Device::open(0, Options::default()).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    });
}

#[test]
fn emulator_driver_without_a_device() {
    assert_refused("emulator_driver_without_a_device", "devices=0", "no CUDA device 0: the driver finds none");
}

#[test]
fn emulator_driver_with_a_device_that_is_too_old() {
    let expected = "fake device has compute capability 7.5, and 8.0 or later is needed";
    assert_refused("emulator_driver_with_a_device_that_is_too_old", "capability=75", expected);
}

#[test]
fn emulator_driver_that_is_too_old() {
    let expected = "the NVIDIA driver supports CUDA 11.8, and this program was built with CUDA ";
    assert_refused("emulator_driver_that_is_too_old", "version=11080", expected);
}

#[test]
fn emulator_driver_says_how_much_memory_was_missing() {
    with_fake_driver("emulator_driver_says_how_much_memory_was_missing", "memory=40000000", || {
        let device = open();
        let kept: View = device.allocate(5_000_000).unwrap();
        let Err(Error::OutOfMemory { needed, free, total }) = device.allocate::<f32>(6_000_000) else {
            panic!("memory that there is not");
        };
        assert_eq!((needed, free, total), (24_000_000, 20_000_000, 40_000_000));
        assert!(matches!(
            device.upload(View::at(kept.address, 5_000_001), &vec![0.0; 5_000_001]),
            Err(Error::NotAllocated { .. })
        ));
        drop(device);
        assert_eq!(open().memory().unwrap(), (40_000_000, 40_000_000), "a device that is dropped frees its memory");
    });
}

#[test]
fn emulator_driver_says_that_the_device_is_lost_and_drops_it_quietly() {
    with_fake_driver("emulator_driver_says_that_the_device_is_lost_and_drops_it_quietly", "fail_launch=7", || {
        let device = open();
        let error = three_steps(&device).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
        assert!(error.to_string().starts_with("the GPU failed (CUDA_ERROR_LAUNCH_FAILED, unspecified launch failure)"));
        assert!(matches!(device.synchronize(), Err(Error::DeviceLost { .. })), "once lost, always lost");
    });
}

#[test]
fn emulator_driver_that_is_not_there_is_said_in_one_line() {
    let program = std::env::current_exe().unwrap();
    // Only where there is no real driver either: a machine with a GPU has one.
    match Device::open(0, Options::default()) {
        Err(Error::NoDriver) => {
            let text = Error::NoDriver.to_string();
            assert_eq!(text, "no NVIDIA driver was found (libcuda.so.1): install one, or use --device cpu");
        }
        _ => println!("skipped {}: this machine has a driver", program.display()),
    }
}
