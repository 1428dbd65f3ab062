//! The candidate operations of a cell: what each owns (weights, norms, outputs) and how it is built from its primitive.
//!
//! How operations are evaluated, together with all others that read the same node, is [`graph`](super::graph)'s subject.

use std::ops::Range;

use darts_ops::pool::{PoolKind, PoolShape};
use darts_ops::sep_unit::UnitShape;
use darts_ops::{Arena, Slot};

use super::build::{Buffer, Builder, Geometry, join};
use super::convolution::Convolution;
use super::norm::Norm;
use crate::error::Error;
use crate::primitive::Primitive;

/// ReLU → depthwise → pointwise → BN. `z` is the pointwise output, before its norm.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) shape: UnitShape,
    pub(crate) depthwise: Range<usize>,
    pub(crate) pointwise: Range<usize>,
    pub(crate) norm: Norm,
    pub(crate) z: Buffer,
}

/// What an operation computes from its source node. Wherever there is a `norm`, the operation's output is its affine of `z`.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has a few hundred of them, most of the largest kind")]
pub(crate) enum Kind {
    /// No output at all; in a mixture it only takes its share of the softmax.
    Zero,
    Identity,
    /// The pool itself is shared by all edges out of the node (`Graph::pools`); the norm, in search, is the edge's own.
    Pool {
        pool: usize,
        norm: Option<Norm>,
    },
    Dilated(Unit),
    /// The first unit's z is not kept: backward computes it again.
    Separable {
        first: Unit,
        second: Unit,
    },
    /// Dense convolutions one after the other, the first one activated by a ReLU: factorized reduce, 1×7 then 7×1.
    Dense {
        layers: Vec<(Convolution, Buffer)>,
        norm: Norm,
    },
}

/// One candidate on one edge.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) kind: Kind,
    /// Index of its weight among the network's operation weights; `None` in a discrete network: 1.
    pub(crate) weight: Option<usize>,
    /// Index of its path-dropout mask; `None`: never dropped.
    pub(crate) mask: Option<usize>,
    /// w·scale | w·shift, written by the forward pass.
    mixing: Slot,
}

/// What tells one operation from another when it is built.
pub(crate) struct Placement<'a> {
    pub(crate) name: &'a str,
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) stride: usize,
    pub(crate) weight: Option<usize>,
    /// How many separable convolutions out of the same source were built before.
    pub(crate) separable_before: usize,
}

/// A pool that every edge out of `source` shares.
#[derive(Clone, Debug)]
pub(crate) struct SharedPool {
    pub(crate) source: usize,
    pub(crate) shape: PoolShape,
    pub(crate) z: Buffer,
}

impl Unit {
    fn new(
        builder: &mut Builder,
        names: [String; 3],
        input: Geometry,
        (kernel, stride, dilation): (usize, usize, usize),
        affine: bool,
        transient: Option<usize>,
    ) -> Self {
        let [depthwise, pointwise, norm] = names;
        let output = input.strided(stride);
        let c = input.c;
        builder.multiply_adds += (output.pixels() * c * (kernel * kernel + c)) as u64;
        Self {
            shape: UnitShape { kernel, stride, dilation, c_in: c, c_out: c },
            depthwise: builder.conv_weight(depthwise, [c, 1, kernel, kernel]),
            pointwise: builder.conv_weight(pointwise, [c, c, 1, 1]),
            norm: Norm::new(builder, &norm, c, affine),
            z: match transient {
                Some(index) => builder.transient(index, output),
                None => builder.buffer(output),
            },
        }
    }
}

impl Operation {
    /// Builds `primitive` at `place`, reading an activation of shape `input`.
    ///
    /// `affine` chooses the discrete form (BN with γ and β, bare pools) over the search form.
    pub(crate) fn new(
        builder: &mut Builder,
        pools: &mut Vec<SharedPool>,
        primitive: Primitive,
        place: &Placement,
        input: Geometry,
        affine: bool,
    ) -> Result<Self, Error> {
        let &Placement { name, stride, source, separable_before, .. } = place;
        let n = |leaf: &str| join(name, leaf);
        let (outer, inner) = (["op.1.weight", "op.2.weight", "op.3"], ["op.5.weight", "op.6.weight", "op.7"]);
        let separable = |builder: &mut Builder, kernel| Kind::Separable {
            first: Unit::new(builder, outer.map(n), input, (kernel, stride, 1), affine, Some(separable_before)),
            second: Unit::new(builder, inner.map(n), input.strided(stride), (kernel, 1, 1), affine, None),
        };
        let dilated = |builder: &mut Builder, kernel| {
            Kind::Dilated(Unit::new(builder, outer.map(n), input, (kernel, stride, 2), affine, None))
        };
        let mut pool = |builder: &mut Builder, kind| {
            let shape = PoolShape { kind, kernel: 3, stride, padding: 1, relu: false };
            let norm = (!affine).then(|| Norm::new(builder, &n("1"), input.c, false));
            let known = pools.iter().position(|p| p.source == source && p.shape == shape);
            let pool = known.unwrap_or_else(|| {
                pools.push(SharedPool { source, shape, z: builder.buffer(input.strided(stride)) });
                pools.len() - 1
            });
            Kind::Pool { pool, norm }
        };
        let kind = match primitive {
            Primitive::None => Kind::Zero,
            Primitive::MaxPool3x3 => pool(builder, PoolKind::Max),
            Primitive::AvgPool3x3 => pool(builder, PoolKind::Average),
            Primitive::SkipConnect if stride == 1 => Kind::Identity,
            Primitive::SkipConnect => {
                let conv = Convolution::factorized_reduce(builder, name, input, input.c)?;
                let z = builder.buffer(conv.output);
                Kind::Dense { layers: vec![(conv, z)], norm: Norm::new(builder, &n("bn"), input.c, affine) }
            }
            Primitive::SepConv3x3 => separable(builder, 3),
            Primitive::SepConv5x5 => separable(builder, 5),
            Primitive::SepConv7x7 => separable(builder, 7),
            Primitive::DilConv3x3 => dilated(builder, 3),
            Primitive::DilConv5x5 => dilated(builder, 5),
            Primitive::Conv7x1_1x7 => {
                let row = Convolution::new(builder, n("1.weight"), input, input.c, (1, 7), (1, stride), (0, 3));
                let row_z = builder.buffer(row.output);
                let column = Convolution::new(builder, n("2.weight"), row.output, input.c, (7, 1), (stride, 1), (3, 0));
                let column_z = builder.buffer(column.output);
                Kind::Dense {
                    layers: vec![(row, row_z), (column, column_z)],
                    norm: Norm::new(builder, &n("3"), input.c, affine),
                }
            }
        };
        let mixing = builder.channel_vector(2 * input.c);
        Ok(Self { source, target: place.target, kind, weight: place.weight, mask: None, mixing })
    }

    pub(crate) fn norm(&self) -> Option<&Norm> {
        match &self.kind {
            Kind::Zero | Kind::Identity => None,
            Kind::Pool { norm, .. } => norm.as_ref(),
            Kind::Dilated(unit) => Some(&unit.norm),
            Kind::Separable { second, .. } => Some(&second.norm),
            Kind::Dense { norm, .. } => Some(norm),
        }
    }

    /// The unit that reads the source node, if the operation is made of units.
    pub(crate) fn first_unit(&self) -> Option<&Unit> {
        match &self.kind {
            Kind::Dilated(unit) | Kind::Separable { first: unit, .. } => Some(unit),
            _ => None,
        }
    }

    pub(crate) fn is_identity(&self) -> bool {
        matches!(self.kind, Kind::Identity)
    }
}

impl Operation {
    /// Scale and shift with which z enters the node: w·(BN's affine), or w and 0 where there is no norm.
    pub(crate) fn write_mixing(&self, channels: &mut Arena, weight: f32) {
        let Some(norm) = self.norm() else {
            let mixing = channels.write(self.mixing);
            let (scale, shift) = mixing.split_at_mut(mixing.len() / 2);
            scale.fill(weight);
            shift.fill(0.0);
            return;
        };
        let (read, mut write) = channels.split(&[norm.coefficient_slot()], &[self.mixing]);
        let affine = &read[0][2 * norm.channels..];
        write[0].iter_mut().zip(affine).for_each(|(m, &a)| *m = weight * a);
    }

    pub(crate) fn mixing<'a>(&self, channels: &'a Arena) -> (&'a [f32], &'a [f32]) {
        let mixing = channels.read(self.mixing);
        mixing.split_at(mixing.len() / 2)
    }

    /// ∂loss/∂w = Σ_c scale·S₁ + shift·S₀ with `sums` = [S₀ | S₁].
    pub(crate) fn weight_gradient(&self, channels: &Arena, sums: &[f64]) -> f32 {
        let (s0, s1) = sums.split_at(sums.len() / 2);
        let Some(norm) = self.norm() else { return s1.iter().sum::<f64>() as f32 };
        let affine = norm.affine(channels);
        let terms = s0.iter().zip(s1).zip(affine.scale.iter().zip(affine.shift));
        terms.map(|((s0, s1), (&a, &b))| f64::from(a) * s1 + f64::from(b) * s0).sum::<f64>() as f32
    }

    /// Length of the activation between two dense layers.
    pub(crate) fn inner_length(&self) -> Option<usize> {
        match &self.kind {
            Kind::Dense { layers, .. } if layers.len() == 2 => Some(layers[0].1.shape.len()),
            _ => None,
        }
    }
}
