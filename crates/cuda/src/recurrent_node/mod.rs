//! One node of a recurrent cell: gates, activations, their mixture, the highway update and the batch norm in one launch (Liu et
//! al. 2019, section 2.1 and appendix A.1.2). The products that make the gates are not here; the next product's input, the
//! state under its dropout mask, is written along with the state.
//!
//! ```text
//! u[b,i] = Σ_e W_e·s_e + σ(c_e)·(m_e(h_e) − W_e·s_e)      m_e = Σ_k w_ek·f_k,   W_e = Σ_k w_ek
//! s[b,i] = (u[b,i] − μ[i])·rstd[i]                        (or s = u)
//! ```
//! Axes: b a row of the batch B, i a unit of H, e an incoming edge with source state s_e `[B, H]` and gates (c_e, h_e) `[B, 2H]`,
//! k one of the four activations of [`Function`].

mod mixture;

use self::mixture::{MIXES, MIXES_BACKWARD};
pub use self::mixture::{MOST_OPERATIONS, d_mix_len, mixes, mixes_backward};
use crate::args;
use crate::images::Write;
use crate::program::{Kernel, Program, blocks};
use crate::view::View;

static FORWARD: Kernel = Kernel::new("recurrent_node_forward", THREADS);
static FORWARD_MANY: Kernel = Kernel::new("recurrent_node_forward_many", THREADS);
static BACKWARD: Kernel = Kernel::new("recurrent_node_backward", THREADS);
static BACKWARD_MANY: Kernel = Kernel::new("recurrent_node_backward_many", THREADS);

/// The kernels of this module.
pub const KERNELS: &[&Kernel] = &[&FORWARD, &FORWARD_MANY, &BACKWARD, &BACKWARD_MANY, &MIXES, &MIXES_BACKWARD];

/// The most edges that a node may have.
pub const MOST_EDGES: usize = MANY;

const THREADS: u32 = 512;
/// Units of a block.
const COLUMNS: u32 = 8;
/// Edges of the kernels with small arguments, and of those with large ones.
const FEW: usize = 8;
const MANY: usize = 64;

args! {
    struct EdgeArgs: 48 {
        state: u64,
        d_state: u64,
        gates: u64,
        mix: u64,
        d_mix: u64,
        stride: u32,
        kind: u16,
        write: u16,
    }

    struct NodeArgs: 72 {
        node: u64,
        d_node: u64,
        rstd: u64,
        running_mean: u64,
        running_variance: u64,
        mask: u64,
        masked: u64,
        batch: u32,
        hidden: u32,
        edges: u32,
        normalization: u32,
    }

    struct FewArgs: 456 {
        node: NodeArgs,
        edge: [EdgeArgs; FEW],
    }

    struct ManyArgs: 3144 {
        node: NodeArgs,
        edge: [EdgeArgs; MANY],
    }
}

/// An activation f.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Function {
    /// tanh.
    Tanh,
    /// max(0, ·); its derivative at 0 is 0.
    Relu,
    /// 1/(1 + e^−x).
    Sigmoid,
    /// x.
    Identity,
}

/// What an edge makes of h.
#[derive(Copy, Clone, Debug, PartialEq)]
pub enum Mix {
    /// One activation, of weight 1.
    One(Function),
    /// w_k of tanh, relu, sigmoid, identity, `[4]`, aligned to 16 bytes.
    Sum(View),
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
pub struct Edge {
    /// s_e `[B, H]`.
    pub state: View,
    /// c_e of row b at `b · stride`, h_e right after it.
    pub gates: View,
    /// Floats from one row of gates to the next.
    pub stride: usize,
    /// m_e.
    pub mix: Mix,
}

/// An incoming edge, on the way back.
#[derive(Copy, Clone, Debug)]
pub struct EdgeBackward {
    /// s_e `[B, H]`.
    pub state: View,
    /// Gradient with respect to s_e.
    pub d_state: View,
    /// Whether it is overwritten or accumulated.
    pub write: Write,
    /// Laid out as in [`Edge`]: the gates, overwritten with the gradients with respect to them.
    pub gates: View,
    /// Floats from one row of gates to the next.
    pub stride: usize,
    /// m_e.
    pub mix: Mix,
    /// Gradient with respect to w_k of tanh, relu, sigmoid, identity in [`d_mix_len`] parts, overwritten or accumulated, for
    /// [`mixes_backward`] to add up; of a [`Mix::Sum`] only.
    pub d_mix: Option<(View<f64>, Write)>,
}

/// Batch norm without affine, forward.
#[derive(Copy, Clone, Debug)]
pub enum Normalization {
    /// s = u.
    None,
    /// With the batch's own mean and biased variance.
    Batch {
        /// 1/√(variance + ε) `[H]`, overwritten.
        rstd: View,
        /// Running mean and (unbiased) variance `[H]`: running ← 0.9·running + 0.1·batch.
        running: Option<(View, View)>,
    },
    /// With given mean and variance `[H]`.
    Running {
        /// Mean.
        mean: View,
        /// Variance.
        variance: View,
        /// 1/√(variance + ε) `[H]`, overwritten.
        rstd: View,
    },
}

/// Batch norm without affine, backward; `rstd` as the forward pass wrote it.
#[derive(Copy, Clone, Debug)]
pub enum NormalizationBackward {
    /// s = u.
    None,
    /// The statistics were the batch's own.
    Batch {
        /// 1/√(variance + ε) `[H]`.
        rstd: View,
    },
    /// The statistics were constants.
    Running {
        /// 1/√(variance + ε) `[H]`.
        rstd: View,
    },
}

/// A state under a mask, for the next product.
#[derive(Copy, Clone, Debug)]
pub struct Masked {
    /// `[B, H]`.
    pub mask: View,
    /// s·mask `[B, H]`, overwritten.
    pub out: View,
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

    #[track_caller]
    fn check_edge(self, state: View, gates: View, stride: usize) {
        assert_eq!(state.len, self.len(), "recurrent_node: state of an edge for {self:?}");
        let row = 2 * self.hidden;
        let needed = if self.batch == 0 { 0 } else { (self.batch - 1) * stride + row };
        assert!(
            stride >= row && gates.len >= needed,
            "recurrent_node: {} floats of gates, a row every {stride}, for {self:?}",
            gates.len
        );
    }

    #[track_caller]
    fn check_columns(self, columns: &[View]) {
        assert!(columns.iter().all(|view| view.len == self.hidden), "recurrent_node: statistics for {self:?}");
    }

    /// A grid with all units.
    fn grid(self) -> [u32; 3] {
        [if self.batch == 0 { 0 } else { blocks(self.hidden, COLUMNS) }, 1, 1]
    }

    fn args(self, node: View, edges: usize) -> NodeArgs {
        NodeArgs {
            node: node.address,
            d_node: 0,
            rstd: 0,
            running_mean: 0,
            running_variance: 0,
            mask: 0,
            masked: 0,
            batch: self.batch as u32,
            hidden: self.hidden as u32,
            edges: edges as u32,
            normalization: 0,
        }
    }
}

/// Computes a node's state from its incoming edges; `node` \[B, H\] is overwritten, and so is `masked` where it is wanted.
///
/// # Panics
/// If a view does not fit `shape`, there is no edge or more than [`MOST_EDGES`], or the statistics are to be a batch's own and the
/// batch has fewer than two rows.
#[track_caller]
pub fn forward(
    program: &mut Program,
    shape: NodeShape,
    edges: &[Edge],
    node: View,
    normalization: Normalization,
    masked: Option<Masked>,
) {
    assert!(!edges.is_empty(), "recurrent_node: a node without edges");
    assert_eq!(node.len, shape.len(), "recurrent_node: node for {shape:?}");
    let mut args = shape.args(node, edges.len());
    match normalization {
        Normalization::None => {}
        Normalization::Batch { rstd, running } => {
            assert!(shape.batch >= 2, "recurrent_node: statistics of a batch of {}", shape.batch);
            shape.check_columns(&[rstd]);
            (args.normalization, args.rstd) = (1, rstd.address);
            if let Some((mean, variance)) = running {
                shape.check_columns(&[mean, variance]);
                (args.running_mean, args.running_variance) = (mean.address, variance.address);
            }
        }
        Normalization::Running { mean, variance, rstd } => {
            shape.check_columns(&[mean, variance, rstd]);
            (args.normalization, args.rstd) = (2, rstd.address);
            (args.running_mean, args.running_variance) = (mean.address, variance.address);
        }
    }
    if let Some(Masked { mask, out }) = masked {
        assert!(mask.len == shape.len() && out.len == shape.len(), "recurrent_node: mask for {shape:?}");
        (args.mask, args.masked) = (mask.address, out.address);
    }
    let edges: Vec<EdgeArgs> = edges
        .iter()
        .map(|edge| {
            shape.check_edge(edge.state, edge.gates, edge.stride);
            edge_args(edge.state, edge.gates, edge.stride, edge.mix)
        })
        .collect();
    push(program, [&FORWARD, &FORWARD_MANY], shape, args, &edges, 1, sums_bytes());
}

/// Gradients with respect to a node's edges. `node` \[B, H\] is the state that [`forward`] wrote, `d_node` \[B, H\] the gradient with
/// respect to it; both stay.
///
/// # Panics
/// If a view does not fit `shape`, there are more than [`MOST_EDGES`] edges, or two of them come from one state: they are computed
/// side by side, and what each adds to its state's gradient must be alone there.
#[track_caller]
pub fn backward(
    program: &mut Program,
    shape: NodeShape,
    edges: &[EdgeBackward],
    node: View,
    d_node: View,
    normalization: NormalizationBackward,
) {
    assert_eq!(node.len, shape.len(), "recurrent_node: node for {shape:?}");
    assert_eq!(d_node.len, shape.len(), "recurrent_node: gradient of the node for {shape:?}");
    let mut args = shape.args(node, edges.len());
    args.d_node = d_node.address;
    match normalization {
        NormalizationBackward::None => {}
        NormalizationBackward::Batch { rstd } | NormalizationBackward::Running { rstd } => {
            shape.check_columns(&[rstd]);
            args.rstd = rstd.address;
            args.normalization = if matches!(normalization, NormalizationBackward::Batch { .. }) { 1 } else { 2 };
        }
    }
    let edges: Vec<EdgeArgs> = edges
        .iter()
        .map(|edge| {
            shape.check_edge(edge.state, edge.gates, edge.stride);
            assert_eq!(edge.d_state.len, shape.len(), "recurrent_node: gradient of a state for {shape:?}");
            let mut args = edge_args(edge.state, edge.gates, edge.stride, edge.mix);
            args.d_state = edge.d_state.address;
            args.write = edge.write.flag() as u16;
            if let Some((d_mix, write)) = edge.d_mix {
                assert!(matches!(edge.mix, Mix::Sum(_)), "recurrent_node: gradient of one activation's weight");
                assert_eq!(d_mix.len, d_mix_len(shape.hidden), "recurrent_node: gradient of a mixture for {shape:?}");
                args.d_mix = d_mix.address;
                args.write |= (write.flag() as u16) << 1;
            }
            args
        })
        .collect();
    let mut written: Vec<u64> = edges.iter().map(|edge| edge.d_state).chain([args.d_node]).collect();
    written.sort_unstable();
    assert!(written.windows(2).all(|pair| pair[0] != pair[1]), "recurrent_node: a gradient that two edges add to");
    let side_by_side = edges.len() as u32;
    push(program, [&BACKWARD, &BACKWARD_MANY], shape, args, &edges, side_by_side, sums_bytes());
}

/// Shared memory of two sums of all threads.
const fn sums_bytes() -> u32 {
    2 * THREADS * size_of::<f64>() as u32
}

fn edge_args(state: View, gates: View, stride: usize, mix: Mix) -> EdgeArgs {
    let (kind, mix) = match mix {
        Mix::One(function) => (position(function), 0),
        Mix::Sum(weights) => {
            assert!(weights.len == 4 && weights.address.is_multiple_of(16), "recurrent_node: weights of a mixture");
            (4, weights.address)
        }
    };
    EdgeArgs {
        state: state.address,
        d_state: 0,
        gates: gates.address,
        mix,
        d_mix: 0,
        stride: stride as u32,
        kind: kind.into(),
        write: 0,
    }
}

/// The position of a function in a [`Mix::Sum`].
const fn position(function: Function) -> u8 {
    match function {
        Function::Tanh => 0,
        Function::Relu => 1,
        Function::Sigmoid => 2,
        Function::Identity => 3,
    }
}

/// Launches the first kernel, or the second if there are too many edges for it, with so many blocks for the same columns.
#[track_caller]
fn push(
    program: &mut Program,
    [few, many]: [&'static Kernel; 2],
    shape: NodeShape,
    node: NodeArgs,
    edges: &[EdgeArgs],
    blocks: u32,
    shared_bytes: u32,
) {
    let none = EdgeArgs { state: 0, d_state: 0, gates: 0, mix: 0, d_mix: 0, stride: 0, kind: 0, write: 0 };
    let count = edges.len();
    assert!(count <= MANY, "recurrent_node: {count} edges, at most {MANY}");
    let [columns, ..] = shape.grid();
    let grid = [columns, blocks, 1];
    if count <= FEW {
        let mut edge = [none; FEW];
        edge[..count].copy_from_slice(edges);
        program.push(few, grid, shared_bytes, &FewArgs { node, edge });
    } else {
        let mut edge = [none; MANY];
        edge[..count].copy_from_slice(edges);
        program.push(many, grid, shared_bytes, &ManyArgs { node, edge });
    }
}
