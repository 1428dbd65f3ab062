//! The paper's search network by itself: one training pass forward and backward, timed, without any run around it.
//!
//! `cargo run --release -p darts-cells --example supernet_pass -- [BATCH [REPEATS]]`

use std::time::Instant;

use darts_cells::conv::{ConvNetwork, ForwardInput, Gradients, LossConfig, NetworkConfig, Statistics};
use darts_cells::relaxation::Relaxation;
use darts_cells::space::ConvSpace;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let batch: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let repeats: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;

    let space = ConvSpace::darts();
    let network = ConvNetwork::supernet(&space, &NetworkConfig::cifar_search(10))?;
    let (theta, mut statistics) = network.initialize(0);
    let alphas = space.initial_alphas(0);
    let mut weights = vec![0.0; network.operation_weights()];
    Relaxation::Softmax.forward(&alphas, space.operations(), &mut weights)?;
    let images: Vec<f32> = (0..batch * 32 * 32 * 3).map(|i| (i as f32 * 0.7).sin()).collect();
    let labels: Vec<u32> = (0..batch as u32).map(|i| i % 10).collect();
    let input = ForwardInput { images: &images, batch, theta: &theta, weights: &weights, active: None, masks: None };
    let mut d_theta = vec![0.0; theta.len()];
    let mut d_weights = vec![0.0; weights.len()];

    let mut ws = network.workspace(batch);
    println!("{} parameters, workspace {:.2} GB", network.parameters().len(), ws.bytes() as f64 / 1e9);
    for _ in 0..repeats {
        let start = Instant::now();
        network.forward(&mut ws, &input, Statistics::Batch { update: Some(&mut statistics) })?;
        let loss = network.loss(&mut ws, &labels, LossConfig::default())?;
        let forward = start.elapsed().as_secs_f64();
        let gradients = Gradients { theta: Some(&mut d_theta), weights: Some(&mut d_weights), images: None };
        network.backward(&mut ws, &input, gradients)?;
        let both = start.elapsed().as_secs_f64();
        let gradients = Gradients { theta: None, weights: Some(&mut d_weights), images: None };
        network.backward(&mut ws, &input, gradients)?;
        let alpha = start.elapsed().as_secs_f64() - both;
        println!(
            "loss {:.4}, forward {forward:.3} s, backward {:.3} s, backward of alpha alone {alpha:.3} s",
            loss.loss,
            both - forward
        );
    }
    Ok(())
}
