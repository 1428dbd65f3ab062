//! One node of a recurrent cell: gates, activations, their mixture, the highway update and the batch norm in one pass over the
//! columns of all incoming edges (Liu et al. 2019, section 2.1 and appendix A.1.2). The products that make the gates are not
//! here, and neither are dropout masks: they are on the products' input.
//!
//! ```text
//! u[b,i] = Σ_e W_e·s_e + σ(c_e)·(m_e(h_e) − W_e·s_e)      m_e = Σ_k w_ek·f_k,   W_e = Σ_k w_ek
//! s[b,i] = (u[b,i] − μ[i])·rstd[i]                        (or s = u)
//! ```
//! Axes: b a row of the batch B, i a unit of H, e an incoming edge with source state s_e `[B, H]` and gates (c_e, h_e) `[B, 2H]`,
//! k one of the four activations of [`Function`].

mod cpu;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use crate::profile::{self, Work};
use crate::simd::InstructionSet;

/// An activation f.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// tanh, within 1.6 ulp.
    Tanh,
    /// max(0, ·); its derivative at 0 is 0.
    Relu,
    /// 1/(1 + e^−x), within 2.2 ulp.
    Sigmoid,
    /// x.
    Identity,
}

/// What an edge makes of h.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Mix {
    /// One activation, of weight 1.
    One(Function),
    /// w_k of tanh, relu, sigmoid, identity.
    Sum([f32; 4]),
}

/// Size of a node's state.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct NodeShape {
    /// B.
    pub batch: usize,
    /// H.
    pub hidden: usize,
}

/// An incoming edge.
#[derive(Copy, Clone, Debug)]
pub struct Edge<'a> {
    /// s_e `[B, H]`.
    pub state: &'a [f32],
    /// c_e of row b at `b · stride`, h_e right after it.
    pub gates: &'a [f32],
    /// Floats from one row of gates to the next.
    pub stride: usize,
    /// m_e.
    pub mix: Mix,
}

/// An incoming edge, on the way back.
#[derive(Debug)]
pub struct EdgeBackward<'a> {
    /// s_e `[B, H]`.
    pub state: &'a [f32],
    /// Gradient with respect to s_e, accumulated.
    pub d_state: &'a mut [f32],
    /// Laid out as in [`Edge`]: the gates, overwritten with the gradients with respect to them.
    pub gates: &'a mut [f32],
    /// Floats from one row of gates to the next.
    pub stride: usize,
    /// m_e.
    pub mix: Mix,
    /// Gradient with respect to w_k of tanh, relu, sigmoid, identity, accumulated; of a [`Mix::Sum`] only.
    pub d_mix: Option<&'a mut [f64; 4]>,
}

/// Batch norm without affine, forward.
#[derive(Debug)]
pub enum Normalization<'a> {
    /// s = u.
    None,
    /// With the batch's own mean and biased variance.
    Batch {
        /// 1/√(variance + ε) `[H]`, overwritten.
        rstd: &'a mut [f32],
        /// Running mean and (unbiased) variance `[H]`: running ← 0.9·running + 0.1·batch.
        running: Option<(&'a mut [f32], &'a mut [f32])>,
    },
    /// With given mean and variance `[H]`.
    Running {
        /// Mean.
        mean: &'a [f32],
        /// Variance.
        variance: &'a [f32],
        /// 1/√(variance + ε) `[H]`, overwritten.
        rstd: &'a mut [f32],
    },
}

/// Batch norm without affine, backward; `rstd` as the forward pass wrote it.
#[derive(Copy, Clone, Debug)]
pub enum NormalizationBackward<'a> {
    /// s = u.
    None,
    /// The statistics were the batch's own.
    Batch {
        /// 1/√(variance + ε) `[H]`.
        rstd: &'a [f32],
    },
    /// The statistics were constants.
    Running {
        /// 1/√(variance + ε) `[H]`.
        rstd: &'a [f32],
    },
}

impl NodeShape {
    /// Floats of a state.
    pub const fn len(self) -> usize {
        self.batch * self.hidden
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Panics unless a state has B·H floats and the gates B rows.
    fn check_edge(self, state: &[f32], gates: &[f32], stride: usize) {
        assert_eq!(state.len(), self.len(), "recurrent_node: state of an edge for {self:?}");
        let row = 2 * self.hidden;
        let needed = if self.batch == 0 { 0 } else { (self.batch - 1) * stride + row };
        assert!(
            stride >= row && gates.len() >= needed,
            "recurrent_node: {} floats of gates, a row every {stride}, for {self:?}",
            gates.len()
        );
    }

    fn check_columns(self, columns: &[f32]) {
        assert_eq!(columns.len(), self.hidden, "recurrent_node: statistics for {self:?}");
    }
}

/// Computes a node's state from its incoming edges; `node` \[B, H\] is overwritten.
///
/// # Panics
/// If a slice does not fit `shape`, there is no edge, or the statistics are to be a batch's own and the batch has fewer than two
/// rows.
pub fn forward(shape: NodeShape, edges: &[Edge], node: &mut [f32], normalization: Normalization) {
    forward_with(InstructionSet::selected(), shape, edges, node, normalization);
}

/// [`forward`] on a given instruction set.
///
/// # Panics
/// As [`forward`].
pub fn forward_with(
    set: InstructionSet,
    shape: NodeShape,
    edges: &[Edge],
    node: &mut [f32],
    normalization: Normalization,
) {
    assert!(!edges.is_empty(), "recurrent_node: a node without edges");
    for edge in edges {
        shape.check_edge(edge.state, edge.gates, edge.stride);
    }
    assert_eq!(node.len(), shape.len(), "recurrent_node: node for {shape:?}");
    match &normalization {
        Normalization::None => {}
        Normalization::Batch { rstd, running } => {
            assert!(shape.batch >= 2, "recurrent_node: statistics of a batch of {}", shape.batch);
            shape.check_columns(rstd);
            if let Some((mean, variance)) = running {
                shape.check_columns(mean);
                shape.check_columns(variance);
            }
        }
        Normalization::Running { mean, variance, rstd } => {
            [*mean, *variance, &**rstd].into_iter().for_each(|columns| shape.check_columns(columns));
        }
    }
    // An edge's state and both gates; activations are counted as one operation.
    let _span = profile::span("recurrent_node forward", || Work {
        flops: edges.len() * shape.len() * 6,
        floats: (3 * edges.len() + 1) * shape.len(),
    });
    cpu::forward(set, shape, edges, node, normalization);
}

/// Gradients with respect to a node's edges. `node` \[B, H\] is the state that [`forward`] wrote; `d_node` \[B, H\], the gradient with
/// respect to it, is overwritten with the gradient with respect to u.
///
/// # Panics
/// If a slice does not fit `shape`.
pub fn backward(
    shape: NodeShape,
    edges: &mut [EdgeBackward],
    node: &[f32],
    d_node: &mut [f32],
    normalization: NormalizationBackward,
) {
    backward_with(InstructionSet::selected(), shape, edges, node, d_node, normalization);
}

/// [`backward`] on a given instruction set.
///
/// # Panics
/// As [`backward`].
pub fn backward_with(
    set: InstructionSet,
    shape: NodeShape,
    edges: &mut [EdgeBackward],
    node: &[f32],
    d_node: &mut [f32],
    normalization: NormalizationBackward,
) {
    for edge in edges.iter() {
        shape.check_edge(edge.state, edge.gates, edge.stride);
        assert_eq!(edge.d_state.len(), shape.len(), "recurrent_node: gradient of a state for {shape:?}");
    }
    assert_eq!(node.len(), shape.len(), "recurrent_node: node for {shape:?}");
    assert_eq!(d_node.len(), shape.len(), "recurrent_node: gradient of the node for {shape:?}");
    match normalization {
        NormalizationBackward::None => {}
        NormalizationBackward::Batch { rstd } | NormalizationBackward::Running { rstd } => shape.check_columns(rstd),
    }
    let _span = profile::span("recurrent_node backward", || Work {
        flops: edges.len() * shape.len() * 12,
        floats: (7 * edges.len() + 3) * shape.len(),
    });
    cpu::backward(set, shape, edges, node, d_node, normalization);
}
