//! Nodes of every kind against `darts_ops::recurrent_node`.

use darts_cuda::recurrent_node::{self, Edge, EdgeBackward, Masked, Mix, NodeShape, d_mix_len};
use darts_cuda::recurrent_node::{Normalization, NormalizationBackward};
use darts_cuda::{Backend, Memory, Program, View, Write};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::recurrent_node as reference;

use crate::{close, values};

/// What an edge makes of h: one activation, or a mixture by its weights.
#[derive(Copy, Clone)]
enum Kind {
    One(recurrent_node::Function, reference::Function),
    Sum([f32; 4]),
}

#[derive(Copy, Clone, Debug, PartialEq)]
enum Norm {
    None,
    Batch { update: bool },
    Running,
}

struct Case {
    batch: usize,
    hidden: usize,
    stride: usize,
    kinds: Vec<Kind>,
    norm: Norm,
    write: Write,
}

/// Everything that a node's two passes write.
struct Output {
    node: Vec<f32>,
    masked: Vec<f32>,
    statistics: Vec<f32>,
    d_states: Vec<f32>,
    gates: Vec<f32>,
    d_weights: Vec<f32>,
}

impl Output {
    fn parts(&self) -> Vec<Vec<f32>> {
        let Self { node, masked, statistics, d_states, gates, d_weights } = self;
        [node, masked, statistics, d_states, gates, d_weights].map(Clone::clone).into()
    }
}

/// The order of a search space's columns: one contributes nothing, the others are not in the order of a mixture.
const COLUMNS: [Option<recurrent_node::Function>; 5] = {
    use recurrent_node::Function::{Identity, Relu, Sigmoid, Tanh};
    [None, Some(Sigmoid), Some(Tanh), Some(Identity), Some(Relu)]
};
/// Where a mixture's weight stands among them.
const PLACES: [usize; 4] = [2, 4, 1, 3];

impl Case {
    fn len(&self) -> usize {
        self.batch * self.hidden
    }

    fn states(&self) -> Vec<Vec<f32>> {
        (0..self.kinds.len() as u64).map(|e| values(self.len(), 10 + e)).collect()
    }

    fn gates(&self) -> Vec<Vec<f32>> {
        let wide = |e| values(self.batch * self.stride, 20 + e).iter().map(|value| 3.0 * value).collect();
        (0..self.kinds.len() as u64).map(wide).collect()
    }

    fn statistics(&self) -> Vec<f32> {
        [values(self.hidden, 1), values(self.hidden, 2).iter().map(|v| v.abs() + 0.2).collect()].concat()
    }

    fn run(&self, device: &TestDevice) -> Output {
        let (shape, count) = (NodeShape { batch: self.batch, hidden: self.hidden }, self.kinds.len());
        let up = |values: &[f32]| device.uploaded(values).unwrap();
        let room = |len| -> View { device.allocate(len).unwrap() };
        let states: Vec<View> = self.states().iter().map(|state| up(state)).collect();
        let gates: Vec<View> = self.gates().iter().map(|gates| up(gates)).collect();
        let weights: Vec<f32> = self
            .kinds
            .iter()
            .flat_map(|kind| {
                let mut row = [7.0; 5];
                if let Kind::Sum(weights) = kind {
                    PLACES.iter().zip(weights).for_each(|(&place, &weight)| row[place] = weight);
                }
                row
            })
            .collect();
        let (weights, mixes) = (up(&weights), room(4 * count));
        let mut program = Program::default();
        recurrent_node::mixes(&mut program, &COLUMNS, weights, mixes);
        let mix = |e: usize| match self.kinds[e] {
            Kind::One(function, _) => Mix::One(function),
            Kind::Sum(_) => Mix::Sum(mixes.slice(4 * e..4 * e + 4)),
        };

        let (node, masked, rstd) = (room(self.len()), room(self.len()), room(self.hidden));
        let statistics = up(&self.statistics());
        let (mean, variance) = (statistics.slice(0..self.hidden), statistics.slice(self.hidden..2 * self.hidden));
        let edges: Vec<Edge> =
            (0..count).map(|e| Edge { state: states[e], gates: gates[e], stride: self.stride, mix: mix(e) }).collect();
        let (forward, backward) = match self.norm {
            Norm::None => (Normalization::None, NormalizationBackward::None),
            Norm::Batch { update } => {
                let running = update.then_some((mean, variance));
                (Normalization::Batch { rstd, running }, NormalizationBackward::Batch { rstd })
            }
            Norm::Running => (Normalization::Running { mean, variance, rstd }, NormalizationBackward::Running { rstd }),
        };
        let mask = Masked { mask: up(&values(self.len(), 5)), out: masked };
        recurrent_node::forward(&mut program, shape, &edges, node, forward, Some(mask));

        let d_node = up(&values(self.len(), 6));
        let d_states: Vec<View> = (0..count).map(|_| up(&vec![1.0; self.len()])).collect();
        let one = d_mix_len(self.hidden);
        // What was there must be replaced or added to.
        let d_mixes = device.uploaded(&vec![2.0f64; one * count]).unwrap();
        let edges: Vec<EdgeBackward> = (0..count)
            .map(|e| EdgeBackward {
                state: states[e],
                d_state: d_states[e],
                write: self.write,
                gates: gates[e],
                stride: self.stride,
                mix: mix(e),
                d_mix: matches!(self.kinds[e], Kind::Sum(_))
                    .then(|| (d_mixes.slice(e * one..(e + 1) * one), self.write)),
            })
            .collect();
        recurrent_node::backward(&mut program, shape, &edges, node, d_node, backward);
        let d_weights = room(count * COLUMNS.len());
        recurrent_node::mixes_backward(&mut program, self.hidden, &COLUMNS, d_mixes, d_weights);
        device.run(&program).unwrap();
        let down = |view: View| device.downloaded(view).unwrap();
        assert_eq!(down(d_node), values(self.len(), 6), "the gradient of the node stays");
        let all = |views: &[View]| views.iter().flat_map(|&view| down(view)).collect();
        Output {
            node: down(node),
            masked: down(masked),
            statistics: down(statistics),
            d_states: all(&d_states),
            gates: all(&gates),
            d_weights: down(d_weights),
        }
    }

    fn expected(&self) -> Output {
        let (shape, count) = (reference::NodeShape { batch: self.batch, hidden: self.hidden }, self.kinds.len());
        let (states, mut gates) = (self.states(), self.gates());
        let mix = |e: usize| match self.kinds[e] {
            Kind::One(_, function) => reference::Mix::One(function),
            Kind::Sum(weights) => reference::Mix::Sum(weights),
        };
        let mut node = vec![0.0; self.len()];
        let mut rstd = vec![0.0; self.hidden];
        let mut statistics = self.statistics();
        let (mean, variance) = statistics.split_at_mut(self.hidden);
        let edges: Vec<reference::Edge> = (0..count)
            .map(|e| reference::Edge { state: &states[e], gates: &gates[e], stride: self.stride, mix: mix(e) })
            .collect();
        let normalization = match self.norm {
            Norm::None => reference::Normalization::None,
            Norm::Batch { update } => {
                reference::Normalization::Batch { rstd: &mut rstd, running: update.then_some((mean, variance)) }
            }
            Norm::Running => reference::Normalization::Running { mean, variance, rstd: &mut rstd },
        };
        reference::forward(shape, &edges, &mut node, normalization);
        let masked = node.iter().zip(values(self.len(), 5)).map(|(node, mask)| node * mask).collect();

        // The reference leaves the gradient of u in place of it, which nobody reads.
        let mut d_node = values(self.len(), 6);
        let mut d_states = vec![vec![1.0; self.len()]; count];
        let blocks = (d_mix_len(self.hidden) / 4) as f64;
        let mut d_mixes = vec![[2.0 * blocks; 4]; count];
        if self.write == Write::Overwrite {
            d_states.iter_mut().for_each(|d_state| d_state.fill(0.0));
            d_mixes.iter_mut().zip(&self.kinds).for_each(|(d_mix, kind)| {
                if matches!(kind, Kind::Sum(_)) {
                    d_mix.fill(0.0);
                }
            });
        }
        let mut edges: Vec<reference::EdgeBackward> = (states.iter().zip(&mut d_states))
            .zip(gates.iter_mut().zip(&mut d_mixes))
            .enumerate()
            .map(|(e, ((state, d_state), (gates, d_mix)))| reference::EdgeBackward {
                state,
                d_state,
                gates,
                stride: self.stride,
                mix: mix(e),
                d_mix: matches!(self.kinds[e], Kind::Sum(_)).then_some(d_mix),
            })
            .collect();
        let normalization = match self.norm {
            Norm::None => reference::NormalizationBackward::None,
            Norm::Batch { .. } => reference::NormalizationBackward::Batch { rstd: &rstd },
            Norm::Running => reference::NormalizationBackward::Running { rstd: &rstd },
        };
        reference::backward(shape, &mut edges, &node, &mut d_node, normalization);
        let mut d_weights = vec![0.0; count * COLUMNS.len()];
        for (row, d_mix) in d_weights.chunks_mut(COLUMNS.len()).zip(&d_mixes) {
            PLACES.iter().zip(d_mix).for_each(|(&place, &d_mix)| row[place] = d_mix as f32);
        }
        Output { node, masked, statistics, d_states: d_states.concat(), gates: gates.concat(), d_weights }
    }

    #[track_caller]
    fn check(&self) {
        let found = in_all_orders(|device| self.run(device).parts());
        let names = ["node", "masked node", "statistics", "d_states", "gates", "d_weights"];
        for (name, (found, expected)) in names.iter().zip(found.iter().zip(self.expected().parts())) {
            let Self { batch, hidden, norm, .. } = self;
            close(&format!("{name} of {batch}×{hidden} {norm:?}"), found, &expected, 5e-6);
        }
    }
}

fn mixture(e: usize) -> Kind {
    Kind::Sum([0.3, -0.2 + 0.1 * e as f32, 0.15, 0.4])
}

fn functions() -> Vec<Kind> {
    use recurrent_node::Function as F;
    use reference::Function as R;
    [(F::Tanh, R::Tanh), (F::Relu, R::Relu), (F::Sigmoid, R::Sigmoid), (F::Identity, R::Identity)]
        .map(|(function, reference)| Kind::One(function, reference))
        .into()
}

#[test]
fn emulator_nodes_match_reference() {
    // Batches below, at and beyond the rows of a block; units around its columns.
    for (batch, hidden) in [(1, 1), (5, 17), (64, 8), (70, 36)] {
        let norms = [Norm::None, Norm::Batch { update: true }, Norm::Batch { update: false }, Norm::Running];
        for (i, norm) in
            norms.into_iter().enumerate().filter(|(_, norm)| batch > 1 || !matches!(norm, Norm::Batch { .. }))
        {
            let kinds = if i % 2 == 0 { functions() } else { (0..3).map(mixture).collect() };
            let write = if i < 2 { Write::Accumulate } else { Write::Overwrite };
            Case { batch, hidden, stride: 2 * hidden + 5, kinds, norm, write }.check();
        }
    }
}

#[test]
fn emulator_rows_beyond_four_of_a_thread_match_reference() {
    let norm = Norm::Batch { update: true };
    let kinds = (0..2).map(mixture).collect();
    Case { batch: 300, hidden: 3, stride: 6, kinds, norm, write: Write::Accumulate }.check();
}

#[test]
fn emulator_a_node_of_many_edges_matches_reference() {
    let kinds: Vec<Kind> = (0..8).map(mixture).chain(functions()).collect();
    let norm = Norm::Batch { update: true };
    Case { batch: 6, hidden: 9, stride: 18, kinds, norm, write: Write::Accumulate }.check();
}

#[test]
#[should_panic(expected = "statistics of a batch of 1")]
fn emulator_batch_statistics_of_one_row_are_refused() {
    let norm = Norm::Batch { update: false };
    Case { batch: 1, hidden: 2, stride: 4, kinds: functions(), norm, write: Write::Overwrite }.check();
}
