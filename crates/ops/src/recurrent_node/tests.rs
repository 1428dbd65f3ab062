//! The CPU kernel against the f64 reference on every instruction set of the machine, the reference against finite differences,
//! and the same bits for any number of threads.

use super::*;

const FUNCTIONS: [Function; 4] = [Function::Tanh, Function::Relu, Function::Sigmoid, Function::Identity];

/// Numbers in (−2, 2) from a multiplicative sequence, different for each seed.
fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32) * 4.0 - 2.0
    };
    (0..len).map(|_| next()).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[track_caller]
fn close(what: &str, actual: impl IntoIterator<Item = f32>, expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(0f64, |largest, value| largest.max(value.abs()));
    let actual: Vec<f32> = actual.into_iter().collect();
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs();
        assert!(error <= tolerance * largest.max(1e-3), "{what}[{i}]: {actual}, expected {expected}");
    }
}

/// A node with its inputs.
struct Case {
    shape: NodeShape,
    stride: usize,
    states: Vec<Vec<f32>>,
    gates: Vec<Vec<f32>>,
    mixes: Vec<Mix>,
    d_node: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Case {
    fn new(batch: usize, hidden: usize, mixes: Vec<Mix>) -> Self {
        let shape = NodeShape { batch, hidden };
        let stride = 2 * hidden + 5;
        let edges = mixes.len() as u64;
        Self {
            shape,
            stride,
            states: (0..edges).map(|e| values(shape.len(), 10 + e)).collect(),
            gates: (0..edges).map(|e| values(batch * stride, 20 + e)).collect(),
            mixes,
            d_node: values(shape.len(), 1),
            mean: values(hidden, 2),
            variance: values(hidden, 3).iter().map(|v| v.abs() + 0.1).collect(),
        }
    }

    fn edges(&self) -> Vec<Edge<'_>> {
        let inputs = self.states.iter().zip(&self.gates).zip(&self.mixes);
        inputs.map(|((state, gates), &mix)| Edge { state, gates, stride: self.stride, mix }).collect()
    }

    /// The gates without the gaps between their rows.
    fn dense(&self, gates: &[f32]) -> Vec<f32> {
        gates.chunks(self.stride).flat_map(|row| &row[..2 * self.shape.hidden]).copied().collect()
    }

    fn reference(&self) -> Vec<reference::Edge> {
        let inputs = self.states.iter().zip(&self.gates).zip(&self.mixes);
        inputs
            .map(|((state, gates), &mix)| reference::Edge { state: wide(state), gates: wide(&self.dense(gates)), mix })
            .collect()
    }

    /// State, 1/σ, running statistics; then gradients of states, gates and mixtures.
    fn run(&self, set: InstructionSet, kind: &reference::Normalization) -> Output {
        let NodeShape { batch: _, hidden } = self.shape;
        let mut node = vec![f32::NAN; self.shape.len()];
        let mut rstd = vec![f32::NAN; hidden];
        let (mut mean, mut variance) = (self.mean.clone(), self.variance.clone());
        let normalization = match kind {
            reference::Normalization::None => Normalization::None,
            reference::Normalization::Batch => {
                Normalization::Batch { rstd: &mut rstd, running: Some((&mut mean, &mut variance)) }
            }
            reference::Normalization::Running { .. } => {
                Normalization::Running { mean: &self.mean, variance: &self.variance, rstd: &mut rstd }
            }
        };
        forward_with(set, self.shape, &self.edges(), &mut node, normalization);
        let normalization = match kind {
            reference::Normalization::None => NormalizationBackward::None,
            reference::Normalization::Batch => NormalizationBackward::Batch { rstd: &rstd },
            reference::Normalization::Running { .. } => NormalizationBackward::Running { rstd: &rstd },
        };
        let mut d_node = self.d_node.clone();
        let mut d_states = vec![vec![1.0; self.shape.len()]; self.states.len()];
        let mut gates = self.gates.clone();
        let mut d_mixes = vec![[0.0; 4]; self.states.len()];
        let mut edges: Vec<EdgeBackward> = (self.states.iter().zip(&mut d_states))
            .zip(gates.iter_mut().zip(&mut d_mixes))
            .zip(&self.mixes)
            .map(|(((state, d_state), (gates, d_mix)), &mix)| EdgeBackward {
                state,
                d_state,
                gates,
                stride: self.stride,
                mix,
                d_mix: matches!(mix, Mix::Sum(_)).then_some(d_mix),
            })
            .collect();
        backward_with(set, self.shape, &mut edges, &node, &mut d_node, normalization);
        Output { node, mean, variance, d_states, gates, d_mixes }
    }
}

#[derive(PartialEq)]
struct Output {
    node: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    d_states: Vec<Vec<f32>>,
    gates: Vec<Vec<f32>>,
    d_mixes: Vec<[f64; 4]>,
}

fn cases() -> Vec<Case> {
    let mixture = |e: usize| Mix::Sum([0.3, -0.2 + 0.1 * e as f32, 0.15, 0.4]);
    let mut cases = Vec::new();
    for (batch, hidden) in [(5, 1), (4, 12), (9, 33), (35, 64), (17, 75)] {
        cases.push(Case::new(batch, hidden, (0..3).map(mixture).collect()));
        cases.push(Case::new(batch, hidden, FUNCTIONS.map(Mix::One).to_vec()));
    }
    cases
}

fn norms(case: &Case) -> [reference::Normalization; 3] {
    [
        reference::Normalization::None,
        reference::Normalization::Batch,
        reference::Normalization::Running { mean: wide(&case.mean), variance: wide(&case.variance) },
    ]
}

#[test]
fn every_instruction_set_matches_reference() {
    for case in cases() {
        for kind in norms(&case) {
            let edges = case.reference();
            let (node, mean, variance) = reference::forward(case.shape, &edges, &kind);
            let gradients = reference::backward(case.shape, &edges, &wide(&case.d_node), &kind);
            for set in InstructionSet::available() {
                let output = case.run(set, &kind);
                let name = format!("{:?} on {}", case.shape, set.name());
                let tolerance = 5e-6;
                close(&format!("node of {name}"), output.node, &node, tolerance);
                for (e, d_state) in output.d_states.iter().enumerate() {
                    let added = d_state.iter().map(|value| value - 1.0);
                    close(&format!("d_state {e} of {name}"), added, &gradients.states[e], tolerance);
                    let d_gates = case.dense(&output.gates[e]);
                    close(&format!("d_gates {e} of {name}"), d_gates, &gradients.gates[e], tolerance);
                    if matches!(case.mixes[e], Mix::Sum(_)) {
                        let d_mix = output.d_mixes[e].map(|value| value as f32);
                        close(&format!("d_mix {e} of {name}"), d_mix, &gradients.mixes[e], tolerance);
                    }
                }
                if matches!(kind, reference::Normalization::Batch) {
                    let batch = case.shape.batch as f64;
                    let blend = |old: &[f32], new: &[f64], factor: f64| -> Vec<f64> {
                        old.iter().zip(new).map(|(&old, new)| 0.9 * f64::from(old) + 0.1 * factor * new).collect()
                    };
                    close("running mean", output.mean, &blend(&case.mean, &mean, 1.0), 1e-6);
                    let expected = blend(&case.variance, &variance, batch / (batch - 1.0));
                    close("running variance", output.variance, &expected, 1e-6);
                }
            }
        }
    }
}

#[test]
fn reference_matches_finite_differences() {
    let case = Case::new(4, 3, vec![Mix::Sum([0.3, 0.2, 0.15, 0.4]), Mix::One(Function::Tanh), Mix::Sum([0.1; 4])]);
    for kind in norms(&case) {
        let edges = case.reference();
        let d_node = wide(&case.d_node);
        let objective = |edges: &[reference::Edge]| -> f64 {
            let (node, ..) = reference::forward(case.shape, edges, &kind);
            node.iter().zip(&d_node).map(|(node, g)| node * g).sum()
        };
        let gradients = reference::backward(case.shape, &edges, &d_node, &kind);
        let check = |what: &str, analytic: f64, change: &dyn Fn(&mut [reference::Edge], f64)| {
            let step = 1e-5;
            let moved = |by: f64| {
                let mut edges = edges.clone();
                change(&mut edges, by);
                objective(&edges)
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * step);
            assert!(
                (numeric - analytic).abs() < 1e-6 * analytic.abs().max(1.0),
                "{what}: {analytic}, numeric {numeric}"
            );
        };
        for e in 0..edges.len() {
            for i in 0..edges[e].state.len() {
                check("state", gradients.states[e][i], &|edges, by| edges[e].state[i] += by);
            }
            for i in 0..edges[e].gates.len() {
                check("gate", gradients.gates[e][i], &|edges, by| edges[e].gates[i] += by);
            }
        }
        // Weights are f32, so they are moved by a power of two; the objective is not linear in them under a batch norm.
        for k in 0..4 {
            let step = 1.0 / 4096.0;
            let moved = |by: f32| {
                let mut edges = edges.clone();
                if let Mix::Sum(weights) = &mut edges[0].mix {
                    weights[k] += by;
                }
                objective(&edges)
            };
            let numeric = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
            let analytic = gradients.mixes[0][k];
            assert!((numeric - analytic).abs() < 1e-3 * analytic.abs().max(1.0), "weight {k}: {analytic}, {numeric}");
        }
    }
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let case = Case::new(19, 130, vec![Mix::Sum([0.3, 0.2, 0.15, 0.4]), Mix::Sum([0.1; 4])]);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| case.run(InstructionSet::selected(), &reference::Normalization::Batch))
    };
    let one = run(1);
    for threads in [2, 3, 5] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
#[should_panic(expected = "statistics of a batch of 1")]
fn batch_statistics_of_one_row_are_refused() {
    let case = Case::new(1, 4, vec![Mix::One(Function::Tanh)]);
    case.run(InstructionSet::Portable, &reference::Normalization::Batch);
}
