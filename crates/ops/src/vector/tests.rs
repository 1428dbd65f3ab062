//! The kernels against plain f64 loops, at lengths around the block size, and their independence of the number of
//! threads.

use candle_core::{DType, Device, Tensor};

use super::{AdamStep, BLOCK, Error, SgdStep, Vector, reference};

/// Empty, single, odd, and around one and several blocks.
const LENGTHS: [usize; 7] = [0, 1, 17, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5];

const SGD: SgdStep = SgdStep { momentum: 0.9, coefficient: 0.7, weight_decay: 0.05, learning_rate: 0.3 };

/// Numbers in (−1, 1) that depend on the seed alone.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32) / ((1u64 << 23) as f32) - 1.0
        })
        .collect()
}

fn vector(len: usize, seed: u64) -> Vector {
    Vector::from_vec(values(len, seed), &Device::Cpu).unwrap()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Every element within `4·2⁻²⁴·(1 + |expected|)`: a few roundings of numbers of that size.
#[track_caller]
fn assert_close(what: &str, found: &Vector, expected: &[f64]) {
    let found = found.to_vec().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let tolerance = 4.0 * 2f64.powi(-24) * (1.0 + e.abs());
        assert!((f64::from(f) - e).abs() <= tolerance, "{what}[{i}]: {f} instead of {e}");
    }
}

#[test]
fn linear_kernels_match_reference() {
    for len in LENGTHS {
        let (a, b, c) = (wide(&values(len, 1)), wide(&values(len, 2)), wide(&values(len, 3)));
        let expect = |f: &dyn Fn(usize) -> f64| (0..len).map(f).collect::<Vec<_>>();

        let mut x = vector(len, 1);
        x.axpy(0.25, &vector(len, 2)).unwrap();
        assert_close("axpy", &x, &expect(&|i| a[i] + 0.25 * b[i]));

        let mut x = vector(len, 1);
        x.scale(-1.5).unwrap();
        assert_close("scale", &x, &expect(&|i| -1.5 * a[i]));

        let mut x = vector(len, 1);
        x.add_scaled_difference(0.5, &vector(len, 2), &vector(len, 3)).unwrap();
        assert_close("add_scaled_difference", &x, &expect(&|i| a[i] + 0.5 * (b[i] - c[i])));

        let mut x = vector(len, 1);
        x.perturb_from(&vector(len, 2), -0.125, &vector(len, 3)).unwrap();
        assert_close("perturb_from", &x, &expect(&|i| b[i] - 0.125 * c[i]));

        let mut x = vector(len, 1);
        x.average_towards(0.25, &vector(len, 2)).unwrap();
        assert_close("average_towards", &x, &expect(&|i| a[i] + 0.25 * (b[i] - a[i])));

        x.fill(3.5).unwrap();
        assert_close("fill", &x, &vec![3.5; len]);
        x.copy_from(&vector(len, 2)).unwrap();
        assert_eq!(x.to_vec().unwrap(), values(len, 2));
        x.copy_from_slice(&values(len, 3)).unwrap();
        assert_eq!(x.to_vec().unwrap(), values(len, 3));
    }
}

#[test]
fn sums_match_reference() {
    for len in LENGTHS {
        let (a, b) = (vector(len, 1), vector(len, 2));
        let (wa, wb) = (wide(&values(len, 1)), wide(&values(len, 2)));
        let tolerance = 1e-12 * (1.0 + len as f64);
        assert!((a.dot(&b).unwrap() - reference::dot(&wa, &wb)).abs() <= tolerance);
        assert!((a.norm2().unwrap() - reference::dot(&wa, &wa).sqrt()).abs() <= tolerance);
    }
}

#[test]
fn norm_of_large_elements_does_not_overflow() {
    let x = Vector::from_slice(&[3e38, -3e38], &Device::Cpu).unwrap();
    let expected = f64::from(3e38f32) * 2f64.sqrt();
    assert!((x.norm2().unwrap() / expected - 1.0).abs() < 1e-15);
    let x = Vector::from_slice(&[1.0, f32::NAN], &Device::Cpu).unwrap();
    assert!(x.norm2().unwrap().is_nan());
}

#[test]
fn sgd_steps_match_reference() {
    for len in LENGTHS {
        let (mut w, mut buffer, g) = (vector(len, 1), vector(len, 2), vector(len, 3));
        let (ww, wb, wg) = (wide(&values(len, 1)), wide(&values(len, 2)), wide(&values(len, 3)));
        let zeros = vec![0.0; len];

        let (expected_w, expected_buffer) = reference::sgd(&ww, &wb, &wg, SGD);
        let mut point = Vector::zeros(len, &Device::Cpu).unwrap();
        point.virtual_step_from(&w, Some(&buffer), &g, SGD).unwrap();
        assert_close("virtual step with momentum", &point, &expected_w);
        assert_eq!(w.to_vec().unwrap(), values(len, 1), "a virtual step moved the weights");
        w.sgd_step(Some(&mut buffer), &g, SGD).unwrap();
        assert_close("weights with momentum", &w, &expected_w);
        assert_close("buffer", &buffer, &expected_buffer);

        let (expected_w, _) = reference::sgd(&ww, &zeros, &wg, SGD);
        let mut w = vector(len, 1);
        point.virtual_step_from(&w, None, &g, SGD).unwrap();
        assert_close("virtual step", &point, &expected_w);
        w.sgd_step(None, &g, SGD).unwrap();
        assert_close("weights", &w, &expected_w);
    }
}

#[test]
fn adam_steps_match_reference() {
    for len in LENGTHS {
        let (mut w, mut m, mut v) = (vector(len, 1), vector(len, 2), vector(len, 3));
        v.write(|v| v.iter_mut().for_each(|v| *v = v.abs() + 0.01)).unwrap();
        let (ww, wm, wv) = (wide(&w.to_vec().unwrap()), wide(&m.to_vec().unwrap()), wide(&v.to_vec().unwrap()));
        let step = AdamStep { learning_rate: 0.1, beta1: 0.5, beta2: 0.99, epsilon: 1e-3, weight_decay: 0.1, step: 3 };
        let (ew, em, ev) = reference::adam(&ww, &wm, &wv, &wide(&values(len, 4)), step);
        w.adam_step(&mut m, &mut v, &vector(len, 4), step).unwrap();
        assert_close("first moment", &m, &em);
        assert_close("second moment", &v, &ev);
        assert_close("weights", &w, &ew);
    }
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let len = 5 * BLOCK + 3;
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut w, mut buffer, g) = (vector(len, 1), vector(len, 2), vector(len, 3));
            w.sgd_step(Some(&mut buffer), &g, SGD).unwrap();
            w.axpy(0.1, &g).unwrap();
            let bits: Vec<u32> = w.to_vec().unwrap().iter().map(|x| x.to_bits()).collect();
            (bits, w.norm2().unwrap().to_bits(), w.dot(&g).unwrap().to_bits())
        })
    };
    let one = run(1);
    for threads in [2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn mismatched_lengths_are_an_error_that_names_them() {
    let mut a = vector(3, 1);
    let error = a.axpy(1.0, &vector(4, 2)).unwrap_err();
    assert_eq!(error.to_string(), "Vector::axpy: expected a vector of 3 elements, got one of 4");
    assert_eq!(a.to_vec().unwrap(), values(3, 1));
    assert!(matches!(
        a.sgd_step(Some(&mut vector(2, 1)), &vector(3, 1), SGD),
        Err(Error::Length { expected: 3, found: 2, .. })
    ));
}

#[test]
fn from_tensor_copies_and_takes_flat_f32_alone() {
    let tensor = Tensor::new(&[1f32, 2.0, 3.0, 4.0], &Device::Cpu).unwrap();
    let middle = tensor.narrow(0, 1, 2).unwrap();
    let mut v = Vector::from_tensor(&middle).unwrap();
    v.fill(9.0).unwrap();
    assert_eq!(v.to_vec().unwrap(), [9.0, 9.0]);
    assert_eq!(tensor.to_vec1::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let square = tensor.reshape((2, 2)).unwrap();
    assert!(matches!(Vector::from_tensor(&square), Err(Error::NotFlat { .. })));
    let double = tensor.to_dtype(DType::F64).unwrap();
    assert!(matches!(Vector::from_tensor(&double), Err(Error::NotFlat { .. })));
}

#[test]
fn a_clone_of_the_tensor_sees_the_vector_change() {
    let mut v = vector(5, 1);
    let shared = v.tensor().clone();
    v.fill(2.0).unwrap();
    assert_eq!(shared.to_vec1::<f32>().unwrap(), [2.0; 5]);
    let mut copy = v.try_clone().unwrap();
    copy.fill(1.0).unwrap();
    assert_eq!(shared.to_vec1::<f32>().unwrap(), [2.0; 5]);
}
