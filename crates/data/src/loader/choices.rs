//! Batches without their pixels: which examples they hold and what is drawn for each, for a device that has the pixels and
//! makes the batches itself. It refuses what a device cannot make of images at the network's size: other scales, other colours.

use std::sync::Arc;

use super::workers::Shared;
use crate::transform::{Augment, Draw};

/// An example of a batch, and what happens to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Its index in the loader's dataset.
    pub index: usize,
    /// What was drawn for it.
    pub draw: Draw,
}

/// The choices of an epoch's batches, or of a random stream's, in order.
pub struct Choices {
    shared: Arc<Shared>,
    augment: Augment,
    next: u64,
    chosen: Vec<u32>,
}

impl Choices {
    /// Those from step `next` on; None where images are scaled or coloured on the way.
    pub(super) fn new(shared: Arc<Shared>, next: u64) -> Option<Self> {
        let augment = shared.plan.augment(&shared.source.augment);
        augment.only_moves().then_some(Self { shared, augment, next, chosen: Vec::new() })
    }
}

impl Iterator for Choices {
    type Item = Vec<Choice>;

    fn next(&mut self) -> Option<Vec<Choice>> {
        let Self { shared, augment, next, chosen } = self;
        if shared.end.is_some_and(|end| *next >= end) {
            return None;
        }
        let (step, dataset) = (*next, &shared.source.dataset);
        let members = shared.plan.members(dataset.len(), shared.batch_size, step, chosen);
        *next += 1;
        let choice = |member| {
            let (index, key) = shared.plan.example(member, step, chosen);
            Choice { index, draw: augment.draw(dataset.image_size(), &mut key.generator()) }
        };
        Some(members.map(choice).collect())
    }
}
