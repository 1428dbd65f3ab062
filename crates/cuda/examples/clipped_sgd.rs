//! Gradient descent on ½‖w − target‖² with a clipped gradient, as a program that a device runs again and again. The device is
//! the emulator, so this runs anywhere; `driver::Device::open` opens a GPU in its place.

use darts_cuda::vector::{self, SgdStep};
use darts_cuda::{Backend, Memory, Program, View};
use darts_cuda_emulator::{Emulator, Order};

fn main() -> darts_cuda::Result<()> {
    let device = Emulator::new(Order::Forward);
    let target: Vec<f32> = (0..1000).map(|i| (i % 7) as f32 - 3.0).collect();
    let (w, target): (View, View) = (device.uploaded(&vec![0.0; 1000])?, device.uploaded(&target)?);
    let gradient: View = device.allocate(1000)?;
    let scratch: View<f64> = device.allocate(vector::scratch_len(1000))?;
    let [norm, coefficient, rate]: [View<f64>; 3] =
        [device.allocate(1)?, device.allocate(1)?, device.uploaded(&[0.5])?];

    let mut step = Program::default();
    vector::perturb_from(&mut step, gradient, w, -1.0, target);
    vector::norm2(&mut step, norm, gradient, scratch);
    vector::clip_coefficient(&mut step, coefficient, norm, Some(20.0));
    let sgd = SgdStep { momentum: 0.0, coefficient: coefficient.into(), weight_decay: 0.0, learning_rate: rate.into() };
    vector::sgd(&mut step, w, None, gradient, sgd);
    println!("a step is {} launches", step.launches.len());

    let step = device.record(&step)?;
    for number in 1..=12 {
        device.replay(&step)?;
        if number % 3 == 0 {
            let (norm, clip) = (device.downloaded(norm)?[0], device.downloaded(coefficient)?[0]);
            println!("step {number:2}: ‖gradient‖ {norm:6.2}, times {clip:.3}");
        }
        // What changes from step to step lies on the device: the launches stay the same.
        device.upload(rate, &[0.5 + 0.02 * f64::from(number)])?;
    }
    Ok(())
}
