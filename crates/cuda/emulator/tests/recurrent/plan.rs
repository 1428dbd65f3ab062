//! What the passes of the paper's networks take of a device: memory and launches. Nothing is run.

use std::cell::Cell;

use darts_cells::genotype::named;
use darts_cells::recurrent::{
    DeviceGradients, DevicePass, DeviceRecurrent, DeviceStatistics, LossConfig, Mode, OwnedMasks, RecurrentConfig,
    RecurrentNetwork,
};
use darts_cells::space::RecurrentSpace;
use darts_cuda::{Backend, Memory, Precision, Program, Result};

use crate::network::masks;

/// A device with room for anything and the patience to do nothing.
#[derive(Default)]
struct Idle {
    allocated: Cell<u64>,
}

impl Backend for Idle {
    fn allocate_bytes(&self, bytes: usize) -> Result<u64> {
        let address = 0x1000 + self.allocated.get();
        self.allocated.set(self.allocated.get() + bytes.next_multiple_of(256) as u64);
        Ok(address)
    }

    fn upload_bytes(&self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download_bytes(&self, _: u64, _: &mut [u8]) -> Result<()> {
        Ok(())
    }

    fn run(&self, _: &Program) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
}

/// Launches of a training pass with all gradients and masks, and bytes of device memory with θ, its gradient and two hidden states.
fn training(network: RecurrentNetwork, batch: usize, steps: usize) -> (usize, u64) {
    let device = Idle::default();
    let RecurrentConfig { vocabulary, hidden } = *network.config();
    let mut on_device = DeviceRecurrent::new(&device, network, batch, steps, Mode::Training).unwrap();
    let room = |len| device.allocate(len).unwrap();
    let network = on_device.network();
    let (parameters, weights) = (network.parameter_count(), network.operation_weights());
    let pass = DevicePass {
        theta: room(parameters),
        weights: room(weights),
        hidden: room(batch * hidden),
        next_hidden: Some(room(batch * hidden)),
        statistics: DeviceStatistics::Batch { update: Some(room(network.statistics().len())) },
        loss: LossConfig { activation: 1.0, temporal: 1.0 },
        gradients: DeviceGradients { theta: Some(room(parameters)), weights: Some(room(weights)), hidden: None },
        precision: Precision::F32,
    };
    let state = || Some(vec![1.0; batch * hidden]);
    let dropout = OwnedMasks {
        x: state(),
        h: state(),
        embedding_locked: state(),
        output_locked: state(),
        embedding_rows: Some(vec![1.0; vocabulary]),
    };
    let words = vec![0; batch * steps];
    let mut sequence = on_device.sequence(&device).unwrap();
    on_device.upload(&device, &mut sequence, &words, &words, &masks(&dropout)).unwrap();
    (on_device.program(&sequence, &pass).unwrap().launches.len(), device.allocated.get())
}

#[test]
fn the_search_and_the_trainings_of_the_paper_fit_any_card() {
    let search = RecurrentNetwork::supernet(&RecurrentSpace::darts(), &RecurrentConfig::search(10_000)).unwrap();
    let discrete = |config| RecurrentNetwork::discrete(&named::recurrent("DARTS_V2").unwrap(), &config).unwrap();
    let cases = [
        ("search", search, 256, 35, 1_400_000_000),
        ("Penn Treebank", discrete(RecurrentConfig::penn_treebank(10_000)), 64, 55, 1_000_000_000),
        ("WikiText-2", discrete(RecurrentConfig::wikitext2(33_278)), 64, 55, 1_000_000_000),
    ];
    for (name, network, batch, steps, most) in cases {
        let (launches, bytes) = training(network, batch, steps);
        println!("{name}: {launches} launches, {:.2} GB", bytes as f64 / 1e9);
        // Every launch waits for the one before: at 2 µs each they must not outweigh the arithmetic.
        assert!(launches < 70 * steps + 200, "{name}: {launches} launches");
        assert!(bytes < most, "{name}: {bytes} bytes");
    }
}
