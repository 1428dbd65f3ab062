//! Which buffers share memory, and how many launches a pass takes.

use darts_cuda::{Precision, Program, View};

use super::lower::Lower;
use super::places::Uses;
use super::{DeviceConvGradients, DeviceConvPlan, Purpose};
use crate::conv::{ConvNetwork, NetworkConfig, Stem};
use crate::device::DeviceStatistics;
use crate::genotype::named;
use crate::space::ConvSpace;

fn tiny() -> NetworkConfig {
    NetworkConfig { init_channels: 4, layers: 4, image: (8, 12), ..NetworkConfig::cifar_search(5) }
}

fn networks() -> Vec<ConvNetwork> {
    let discrete = |name, config| ConvNetwork::discrete(&named::conv(name).unwrap(), &config).unwrap();
    vec![
        ConvNetwork::supernet(&ConvSpace::darts(), &tiny()).unwrap(),
        ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig { init_channels: 16, ..tiny() }).unwrap(),
        discrete("DARTS_V2", NetworkConfig { image: (32, 32), auxiliary: true, ..tiny() }),
        // Kernels of seven rows, and convolutions of two layers.
        discrete("NASNet", tiny()),
        discrete("AmoebaNet", NetworkConfig { image: (32, 64), stem: Stem::ImageNet, ..tiny() }),
    ]
}

#[test]
fn buffers_that_share_memory_are_never_in_use_together() {
    let batch = 3;
    for network in networks() {
        for purpose in [Purpose::Training, Purpose::Evaluation] {
            let together = network.plan(purpose, &[batch, batch - 1]).places;
            let apart = network.apart(batch);
            for precision in Precision::ALL {
                let most = network.imagined(batch, purpose, precision);
                let statistics = View::at(1 << 20, network.statistics().len());
                let statistics = match purpose {
                    Purpose::Training => vec![
                        DeviceStatistics::Batch { update: None },
                        DeviceStatistics::Batch { update: Some(statistics) },
                        DeviceStatistics::Running(statistics),
                    ],
                    Purpose::Evaluation => vec![DeviceStatistics::Running(statistics)],
                };
                let gradients = (0..8).map(|wanted| DeviceConvGradients {
                    theta: most.gradients.theta.filter(|_| wanted & 1 != 0),
                    weights: most.gradients.weights.filter(|_| wanted & 2 != 0),
                    images: most.gradients.images.filter(|_| wanted & 4 != 0),
                });
                for (gradients, statistics) in gradients.flat_map(|g| statistics.iter().map(move |&s| (g, s))) {
                    for (batch, masks) in [(batch, true), (batch - 1, false)] {
                        let masks = masks.then(|| View::at(1 << 20, network.droppable().len() * batch));
                        let labels = View::at(1 << 20, batch);
                        let images = View::at(1 << 20, network.images.shape.len() * batch);
                        let gradients = DeviceConvGradients { images: gradients.images.map(|_| images), ..gradients };
                        let pass = super::DeviceConvPass { images, labels, masks, statistics, gradients, ..most };
                        // Panics where a buffer has no place, or scratch memory does not suffice.
                        network.look(&together, batch, &pass, &mut Uses::default());
                        let mut uses = Uses::default();
                        network.look(&apart, batch, &pass, &mut uses);
                        assert_eq!(together.conflict(&uses), None, "{purpose:?} of {:?}, {pass:?}", network.config());
                    }
                }
            }
        }
    }
}

#[test]
fn the_papers_search_takes_two_gigabytes_and_its_evaluation_of_eight_batches_no_more() {
    let network = ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig::cifar_search(10)).unwrap();
    let plan = DeviceConvPlan::new(network, &[64, 40], &[]);
    let training = plan.bytes();
    // The goal is 3 GB for all that a first-order search takes; a context of CUDA has half a gigabyte.
    assert!((1.9e9..2.2e9).contains(&(training as f64)), "{training} bytes");
    let evaluation = plan.with_evaluation(&[512, 424]).bytes();
    assert!(evaluation - training < 1 << 20, "{evaluation} bytes");
}

#[test]
fn the_papers_search_step_takes_few_launches() {
    let network = ConvNetwork::supernet(&ConvSpace::darts(), &NetworkConfig::cifar_search(10)).unwrap();
    let places = network.plan(Purpose::Training, &[64]).places;
    let outputs = [View::at(1 << 20, 640), View::none()];
    let most = network.imagined(64, Purpose::Training, Precision::F32).gradients;
    let launches = |gradients| {
        let pass = super::DeviceConvPass { gradients, ..network.imagined(64, Purpose::Training, Precision::F32) };
        let mut program = Program::default();
        let mut lower = Lower::new(&places, 64, pass, network.elsewhere(&pass, outputs, 64), &mut program);
        network.lay_down(&mut lower, View::at(1 << 20, 2));
        program.launches.len()
    };
    // Of eight cells with four nodes each: a node's operations go together, so do the two inputs', and all that reads an output.
    let (weights, alpha) = (
        launches(DeviceConvGradients { weights: None, images: None, ..most }),
        launches(DeviceConvGradients { theta: None, images: None, ..most }),
    );
    assert!(weights <= 606 && alpha <= 556, "{weights} launches for the weights, {alpha} for α");
}
