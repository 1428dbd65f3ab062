//! Weighted sums and their reductions against `darts_ops::mix::reference`.

#![cfg(unix)]

mod common;

use common::{assert_close, assert_sums_close, device_images, numbers, shapes, upload};
use darts_cuda::{Backend, Memory, Program, View, Write, mix};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::Images;
use darts_ops::mix::reference;

struct Case {
    images: Images,
    z: Vec<Vec<f32>>,
    scale: Vec<Vec<f32>>,
    weight: Vec<f32>,
    sample_scale: Vec<f32>,
}

impl Case {
    fn new(images: Images, count: usize) -> Self {
        let many = |len, seed: u64| (0..count as u64).map(|t| numbers(len, seed + t)).collect();
        let (z, scale) = (many(images.len(), 10), many(images.c, 200));
        Self { images, z, scale, weight: numbers(count, 8), sample_scale: numbers(images.n, 7) }
    }

    fn shift(&self, t: usize) -> Option<&[f32]> {
        t.is_multiple_of(2).then(|| &*self.scale[(t + 1) % self.scale.len()])
    }

    fn has_scale(t: usize) -> bool {
        t % 4 != 3
    }

    fn has_weight(t: usize) -> bool {
        t % 5 != 2
    }

    fn has_sample_scale(t: usize) -> bool {
        t % 3 == 1
    }

    fn expected(&self, start: &[f32], write: darts_ops::Write) -> Vec<f32> {
        let product = |values: Option<&[f32]>, t: usize, otherwise: f32| -> Vec<f32> {
            let weight = if Self::has_weight(t) { self.weight[t] } else { 1.0 };
            let values = values.map_or_else(|| vec![otherwise; self.images.c], <[f32]>::to_vec);
            values.iter().map(|value| value * weight).collect()
        };
        let scales: Vec<_> =
            (0..self.z.len()).map(|t| product(Self::has_scale(t).then_some(&self.scale[t]), t, 1.0)).collect();
        let shifts: Vec<_> = (0..self.z.len()).map(|t| product(self.shift(t), t, 0.0)).collect();
        let term = |t: usize| darts_ops::mix::Term {
            z: &self.z[t],
            scale: &scales[t],
            shift: Some(&shifts[t]),
            sample_scale: Self::has_sample_scale(t).then_some(&self.sample_scale),
        };
        let terms: Vec<_> = (0..self.z.len()).map(term).collect();
        let mut node = start.to_vec();
        reference::forward(self.images, &terms, &mut node, write);
        node
    }

    fn forward(&self, device: &TestDevice, start: &[f32], write: Write) -> Vec<f32> {
        let (sample_scale, weights) = (upload(device, &self.sample_scale), upload(device, &self.weight));
        let term = |t: usize| mix::Term {
            z: upload(device, &self.z[t]),
            scale: Self::has_scale(t).then(|| upload(device, &self.scale[t])),
            shift: self.shift(t).map(|shift| upload(device, shift)),
            weight: Self::has_weight(t).then(|| weights.slice(t..t + 1)),
            sample_scale: Self::has_sample_scale(t).then_some(sample_scale),
        };
        let terms: Vec<_> = (0..self.z.len()).map(term).collect();
        let node = upload(device, start);
        let mut program = Program::default();
        mix::forward(&mut program, device_images(self.images), &terms, node, write);
        device.run(&program).unwrap();
        device.downloaded(node).unwrap()
    }

    fn reduce(&self, device: &TestDevice, dnode: &[f32]) -> Vec<Vec<f64>> {
        let images = device_images(self.images);
        let sample_scale = upload(device, &self.sample_scale);
        let term = |t: usize| mix::ReduceTerm {
            z: upload(device, &self.z[t]),
            sample_scale: Self::has_sample_scale(t).then_some(sample_scale),
            sums: device.allocate(2 * images.c).unwrap(),
        };
        let terms: Vec<_> = (0..self.z.len()).map(term).collect();
        let scratch: View = device.allocate(mix::reduce_scratch_len(images, terms.len())).unwrap();
        let mut program = Program::default();
        mix::reduce(&mut program, images, upload(device, dnode), &terms, scratch);
        device.run(&program).unwrap();
        terms.iter().map(|term| device.downloaded(term.sums).unwrap()).collect()
    }

    fn expected_sums(&self, dnode: &[f32]) -> Vec<Vec<f64>> {
        let mut sums = vec![vec![f64::NAN; 2 * self.images.c]; self.z.len()];
        let mut terms: Vec<_> = sums
            .iter_mut()
            .enumerate()
            .map(|(t, sums)| darts_ops::mix::ReduceTerm {
                z: &self.z[t],
                sample_scale: Self::has_sample_scale(t).then_some(&self.sample_scale),
                sums,
            })
            .collect();
        reference::reduce(self.images, dnode, &mut terms);
        drop(terms);
        sums
    }
}

#[test]
fn emulator_mix_forward_matches_reference() {
    for images in shapes() {
        for count in [0, 1, 6] {
            let case = Case::new(images, count);
            let start = numbers(images.len(), 5);
            for (write, of_reference) in
                [(Write::Overwrite, darts_ops::Write::Overwrite), (Write::Accumulate, darts_ops::Write::Accumulate)]
            {
                let start = if write == Write::Overwrite { vec![f32::NAN; start.len()] } else { start.clone() };
                let node = in_all_orders(|device| case.forward(device, &start, write));
                let want = case.expected(&start, of_reference);
                assert_close(&node, &want, 2e-6, &format!("node {images:?} {count} {write:?}"));
            }
        }
    }
}

#[test]
fn emulator_mix_of_so_many_images_that_they_fill_a_device_matches_reference() {
    for c in [4, 5] {
        let images = Images { n: 257, h: 1, w: 3, c };
        let case = Case::new(images, 6);
        let start = numbers(images.len(), 5);
        let node = in_all_orders(|device| case.forward(device, &start, Write::Accumulate));
        assert_close(&node, &case.expected(&start, darts_ops::Write::Accumulate), 2e-6, &format!("node {images:?}"));
    }
}

#[test]
fn emulator_mix_of_more_terms_than_a_launch_has_matches_reference() {
    let images = Images { n: 2, h: 2, w: 3, c: 4 };
    let case = Case::new(images, 70);
    let start = vec![f32::NAN; images.len()];
    let node = in_all_orders(|device| case.forward(device, &start, Write::Overwrite));
    assert_close(&node, &case.expected(&start, darts_ops::Write::Overwrite), 1e-5, "node of 70 terms");
    let dnode = numbers(images.len(), 3);
    let sums = in_all_orders(|device| case.reduce(device, &dnode));
    for (got, want) in sums.iter().zip(&case.expected_sums(&dnode)) {
        assert_sums_close(got, want, images.pixels(), "sums of 70 terms");
    }
}

#[test]
fn emulator_mix_of_more_channels_than_a_block_has_threads_matches_reference() {
    let images = Images { n: 2, h: 1, w: 2, c: 301 };
    let case = Case::new(images, 2);
    let start = vec![f32::NAN; images.len()];
    let node = in_all_orders(|device| case.forward(device, &start, Write::Overwrite));
    assert_close(&node, &case.expected(&start, darts_ops::Write::Overwrite), 2e-6, "node of 301 channels");
    let dnode = numbers(images.len(), 3);
    let sums = in_all_orders(|device| case.reduce(device, &dnode));
    for (got, want) in sums.iter().zip(&case.expected_sums(&dnode)) {
        assert_sums_close(got, want, images.pixels(), "sums of 301 channels");
    }
}

#[test]
fn emulator_mix_reduce_matches_reference() {
    // The last shape takes several blocks to an image.
    let large = Images { n: 2, h: 21, w: 26, c: 16 };
    for images in shapes().into_iter().chain([large]) {
        for count in [1, 5] {
            let case = Case::new(images, count);
            let dnode = numbers(images.len(), 3);
            let sums = in_all_orders(|device| case.reduce(device, &dnode));
            for (got, want) in sums.iter().zip(&case.expected_sums(&dnode)) {
                assert_sums_close(got, want, images.image_pixels(), &format!("sums {images:?} {count}"));
            }
        }
    }
}
