//! The graph inside a cell, laid down node by node as on the CPU, but with everything that reads one node in as few launches as
//! there are dependent steps: first units and pools, then second units, with one launch for the norms after each.

use darts_cuda::sep_unit::{self, Skip, UnitBackward, UnitForward, UnitShape};
use darts_cuda::{Upstream, UpstreamTerm, View, Write, batch_norm, mix, pool};

use super::layers::{Arriving, Normalized, alike, device_pool, norms_forward};
use super::lower::Lower;
use crate::conv::build::Buffer;
use crate::conv::convolution::{Activate, Convolution};
use crate::conv::graph::Graph;
use crate::conv::norm::Norm;
use crate::conv::operation::{Kind, Operation, SharedPool, Unit};

/// Units that read one input.
struct Input<'a> {
    x: &'a Buffer,
    /// The norm that its activation comes after.
    norm: Option<&'a Norm>,
    units: Vec<&'a Unit>,
}

impl Graph {
    fn reading(&self, source: usize) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(move |o| o.source == source)
    }

    fn mixed_into(&self, target: usize) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(move |o| o.target == target && !matches!(o.kind, Kind::Zero))
    }

    /// Both units of every separable convolution that reads node `source`.
    fn separable_from(&self, source: usize) -> Vec<(&Operation, &Unit, &Unit)> {
        let units = self.reading(source).filter_map(|o| match &o.kind {
            Kind::Separable { first, second } => Some((o, first, second)),
            _ => None,
        });
        units.collect()
    }

    /// The pools of node `source`, each with the operations that take its output.
    fn pools_of(&self, source: usize) -> Vec<(&SharedPool, Vec<&Operation>)> {
        let pools = self.pools.iter().enumerate().filter(|(_, shared)| shared.source == source);
        let users = |index: usize| {
            let uses = move |o: &&Operation| matches!(o.kind, Kind::Pool { pool, .. } if pool == index);
            self.operations.iter().filter(uses).collect()
        };
        pools.map(|(index, shared)| (shared, users(index))).collect()
    }

    pub(super) fn lay_forward(&self, lower: &mut Lower) {
        let inputs: Vec<usize> = (0..self.inputs).collect();
        self.lay_send(lower, &inputs);
        for node in self.inputs..self.nodes.len() {
            self.lay_mix(lower, node);
            self.lay_send(lower, &[node]);
        }
    }

    /// Everything that reads the nodes `sources`, which have one shape, up to its outputs before mixing.
    fn lay_send(&self, lower: &mut Lower, sources: &[usize]) {
        let mark = lower.mark();
        let mut norms = Vec::new();
        for &source in sources {
            let units = self.reading(source).filter_map(Operation::first_unit).collect();
            norms.extend(units_forward(lower, &[Input { x: &self.nodes[source], norm: None, units }]));
        }
        norms.extend(self.lay_pools(lower, sources));
        for &source in sources {
            norms.extend(self.lay_dense(lower, source));
        }
        if !norms.is_empty() {
            norms_forward(lower, &norms);
        }
        lower.release(mark);
        let second: Vec<Input> = sources
            .iter()
            .flat_map(|&source| self.separable_from(source))
            .map(|(_, first, second)| Input { x: &first.z, norm: Some(&first.norm), units: vec![second] })
            .collect();
        let norms = units_forward(lower, &second);
        if !norms.is_empty() {
            norms_forward(lower, &norms);
        }
        lower.release(mark);
    }

    /// The pools of the nodes `sources`, and the norms that follow them.
    fn lay_pools(&self, lower: &mut Lower, sources: &[usize]) -> Vec<Normalized<'_>> {
        let images = lower.images(self.nodes[sources[0]].shape);
        let mut pools = Vec::new();
        let mut norms = Vec::new();
        let mut scratch_len = 0;
        for (source, (shared, users)) in sources.iter().flat_map(|&s| self.pools_of(s).into_iter().map(move |p| (s, p)))
        {
            let x = &self.nodes[source];
            let shape = device_pool(shared.shape);
            let count = lower.batch * shared.z.shape.pixels();
            let users: Vec<&Norm> = users.into_iter().filter_map(Operation::norm).collect();
            let sums = if users.is_empty() { None } else { lower.sums(x.shape.c) };
            scratch_len += sums.map_or(0, |_| pool::forward_scratch_len(images, shape));
            norms.extend(users.into_iter().map(|norm| Normalized { norm, sums, count }));
            pools.push(pool::Forward { x: lower.view(x), shape, z: lower.view(&shared.z), sums });
        }
        if !pools.is_empty() {
            let scratch = lower.take(scratch_len);
            pool::forward(lower.program, images, &pools, scratch);
        }
        norms
    }

    /// The dense operations out of node `source` that have one layer, in groups that are alike, and those of two.
    fn dense_from(&self, source: usize) -> (Vec<Vec<Dense<'_>>>, Vec<[Dense<'_>; 2]>) {
        let (mut single, mut double) = (Vec::new(), Vec::new());
        for operation in self.reading(source) {
            let Kind::Dense { layers, norm } = &operation.kind else { continue };
            let dense = |(convolution, z)| Dense { operation, convolution, z, norm };
            match &layers[..] {
                [(first, first_z), (second, second_z)] => {
                    double.push([dense((first, first_z)), dense((second, second_z))]);
                }
                [(one, z)] => single.push(dense((one, z))),
                _ => unreachable!("dense operations have one layer or two"),
            }
        }
        (alike(single, |dense| dense.convolution), double)
    }

    fn lay_dense(&self, lower: &mut Lower, source: usize) -> Vec<Normalized<'_>> {
        let x = [self.nodes[source]];
        let (groups, double) = self.dense_from(source);
        let mut norms = Vec::new();
        for group in groups {
            let outputs: Vec<_> =
                group.iter().map(|dense| (dense.convolution, dense.z, lower.sums(dense.z.shape.c))).collect();
            Convolution::lay_forward_all(lower, &x, Activate::Relu, &outputs);
            norms.extend(group.iter().zip(outputs).map(|(dense, (.., sums))| dense.normalized(lower, sums)));
        }
        for [first, second] in double {
            first.convolution.lay_forward(lower, &x, Activate::Relu, first.z, None);
            let sums = lower.sums(second.z.shape.c);
            second.convolution.lay_forward(lower, &[*first.z], Activate::Nothing, second.z, sums);
            norms.push(second.normalized(lower, sums));
        }
        norms
    }

    /// node = Σ over its operations of their weighted, normalized outputs.
    fn lay_mix(&self, lower: &mut Lower, target: usize) {
        let term = |o: &Operation| {
            let affine = o.norm().map(|norm| norm.device_affine(lower));
            mix::Term {
                z: lower.view(self.output(o)),
                scale: affine.map(|affine| affine.scale),
                shift: affine.map(|affine| affine.shift),
                weight: lower.weight(o.weight),
                sample_scale: lower.mask(o.mask),
            }
        };
        let terms: Vec<mix::Term> = self.mixed_into(target).map(term).collect();
        let node = &self.nodes[target];
        let (images, view) = (lower.images(node.shape), lower.view(node));
        mix::forward(lower.program, images, &terms, view, Write::Overwrite);
    }

    /// `wanted`: which inputs are to receive a gradient.
    pub(super) fn lay_backward(&self, lower: &mut Lower, wanted: [bool; 2]) {
        for node in (self.inputs..self.nodes.len()).rev() {
            self.lay_send_backward(lower, &[node]);
            self.lay_mix_backward(lower, node);
        }
        let inputs: Vec<usize> = (0..self.inputs).filter(|&input| wanted[input]).collect();
        self.lay_send_backward(lower, &inputs);
    }

    /// With the gradient of node `target` complete: gradients of its operations' weights, and the coefficients with which
    /// the gradient reaches each operation's z.
    fn lay_mix_backward(&self, lower: &mut Lower, target: usize) {
        let gradient = &self.gradients[target];
        lower.ensure(gradient);
        let wants_weights = lower.pass.gradients.weights.is_some();
        let wanted = |o: &&Operation| o.norm().is_some() || (wants_weights && o.weight.is_some());
        let operations: Vec<&Operation> = self.mixed_into(target).filter(wanted).collect();
        if operations.is_empty() {
            return;
        }
        let mark = lower.mark();
        let (images, c) = (lower.images(gradient.shape), gradient.shape.c);
        let sums: View<f64> = lower.take(operations.len() * 2 * c);
        let sums = |index: usize| sums.slice(index * 2 * c..(index + 1) * 2 * c);
        let scratch = lower.take(mix::reduce_scratch_len(images, operations.len()));
        let terms: Vec<mix::ReduceTerm> = operations
            .iter()
            .enumerate()
            .map(|(index, o)| mix::ReduceTerm {
                z: lower.view(self.output(o)),
                sample_scale: lower.mask(o.mask),
                sums: sums(index),
            })
            .collect();
        let dnode = lower.view(gradient);
        mix::reduce(lower.program, images, dnode, &terms, scratch);
        let count = lower.batch * gradient.shape.pixels();
        let backward = |(index, o): (usize, &&Operation)| {
            let (weight, d_weight) = (lower.weight(o.weight), lower.d_weight(o.weight));
            match o.norm() {
                Some(norm) => {
                    batch_norm::Backward { weight, d_weight, ..norm.device_backward(lower, sums(index), count) }
                }
                None => batch_norm::Backward {
                    sums: sums(index),
                    count,
                    norm: None,
                    weight,
                    training: lower.by_batch(),
                    d_weight,
                },
            }
        };
        let norms: Vec<batch_norm::Backward> = operations.iter().enumerate().map(backward).collect();
        batch_norm::backward(lower.program, &norms);
        lower.release(mark);
    }

    fn arrives<'g>(&self, lower: &Lower, operation: &Operation, norm: &'g Norm, z: &'g Buffer) -> Arriving<'g> {
        let gradient = lower.view(&self.gradients[operation.target]);
        Arriving { gradient, norm: Some((norm, z)), mask: operation.mask }
    }

    /// Adds to the gradients of the nodes `sources`, which have one shape, what comes back through everything that read them.
    fn lay_send_backward(&self, lower: &mut Lower, sources: &[usize]) {
        let mark = lower.mark();
        // Second units first: each leaves the gradient of its input in scratch memory.
        let mut second = Vec::new();
        let mut norms = Vec::new();
        for (operation, first, unit) in sources.iter().flat_map(|&source| self.separable_from(source)) {
            let sums = lower.take(2 * first.z.shape.c);
            second.push(Back {
                x: &first.z,
                norm: Some(&first.norm),
                units: vec![(unit, self.arrives(lower, operation, &unit.norm, &unit.z))],
                skips: Vec::new(),
                du: lower.take_like(&first.z),
                write: Write::Overwrite,
                sums: Some(sums),
            });
            let count = lower.batch * first.z.shape.pixels();
            norms.push(first.norm.device_backward(lower, sums, count));
        }
        units_backward(lower, &second);
        if !norms.is_empty() {
            batch_norm::backward(lower.program, &norms);
        }
        let mut gradients = second.iter().map(|back| back.du);
        for &source in sources {
            let mut units: Vec<(&Unit, Arriving)> = Vec::new();
            for operation in self.reading(source) {
                match &operation.kind {
                    Kind::Separable { first: unit, .. } => {
                        let Some(gradient) = gradients.next() else {
                            unreachable!("one for each separable convolution")
                        };
                        units.push((unit, Arriving { gradient, norm: Some((&unit.norm, &unit.z)), mask: None }));
                    }
                    Kind::Dilated(unit) => units.push((unit, self.arrives(lower, operation, &unit.norm, &unit.z))),
                    _ => {}
                }
            }
            if !units.is_empty() {
                let mut skips = self.skips_from(lower, source);
                skips.truncate(sep_unit::SKIPS);
                let (x, dx) = (&self.nodes[source], &self.gradients[source]);
                let write = lower.write_to(dx);
                let du = lower.view(dx);
                units_backward(lower, &[Back { x, norm: None, units, skips, du, write, sums: None }]);
            }
        }
        lower.release(mark);
        self.lay_pools_backward(lower, sources);
        for &source in sources {
            self.lay_identities_backward(lower, source);
            self.lay_dense_backward(lower, source);
        }
    }

    fn lay_pools_backward(&self, lower: &mut Lower, sources: &[usize]) {
        let pools = sources.iter().flat_map(|&source| self.pools_of(source));
        let pools: Vec<_> = pools.filter(|(_, users)| !users.is_empty()).collect();
        let Some(&first) = sources.first().filter(|_| !pools.is_empty()) else { return };
        let term = |o: &&Operation| {
            let upstream = o.norm().map(|norm| norm.device_upstream(lower));
            pool::Term {
                grad: lower.view(&self.gradients[o.target]),
                scale: upstream.map(|[scale, ..]| scale),
                sample_scale: lower.mask(o.mask),
                bn: upstream.map(|[_, b, d]| [b, d]),
            }
        };
        let terms: Vec<Vec<pool::Term>> = pools.iter().map(|(_, users)| users.iter().map(term).collect()).collect();
        let mut calls = Vec::with_capacity(pools.len());
        for ((shared, _), terms) in pools.iter().zip(&terms) {
            let (x, dx) = (&self.nodes[shared.source], &self.gradients[shared.source]);
            calls.push(pool::Backward {
                x: lower.view(x),
                shape: device_pool(shared.shape),
                z: lower.view(&shared.z),
                terms,
                dx: lower.view(dx),
                write: lower.write_to(dx),
            });
        }
        let images = lower.images(self.nodes[first].shape);
        pool::backward(lower.program, images, &calls);
    }

    /// What the identities that read node `source` bring back.
    fn skips_from(&self, lower: &Lower, source: usize) -> Vec<Skip> {
        let skip = |o: &Operation| Skip { grad: lower.view(&self.gradients[o.target]), weight: lower.weight(o.weight) };
        self.reading(source).filter(|o| o.is_identity()).map(skip).collect()
    }

    /// Adds what came back through identities to the gradient of node `source`, but for those that went with its units.
    fn lay_identities_backward(&self, lower: &mut Lower, source: usize) {
        let has_units = self.reading(source).any(|o| o.first_unit().is_some());
        let (skips, done) = (self.skips_from(lower, source), if has_units { sep_unit::SKIPS } else { 0 });
        let term =
            |&Skip { grad: z, weight }: &Skip| mix::Term { z, scale: None, shift: None, weight, sample_scale: None };
        let terms: Vec<mix::Term> = skips.iter().skip(done).map(term).collect();
        if terms.is_empty() {
            return;
        }
        let dx = &self.gradients[source];
        let write = lower.write_to(dx);
        let (images, view) = (lower.images(dx.shape), lower.view(dx));
        mix::forward(lower.program, images, &terms, view, write);
    }

    fn lay_dense_backward(&self, lower: &mut Lower, source: usize) {
        let (x, dx) = ([self.nodes[source]], &self.gradients[source]);
        let (groups, double) = self.dense_from(source);
        for group in groups {
            let outputs: Vec<_> = group.iter().map(|dense| (dense.convolution, dense.arriving(lower, self))).collect();
            let write = lower.write_to(dx);
            let view = lower.view(dx);
            Convolution::lay_backward_all(lower, &x, Activate::Relu, &outputs, &[view], write, None);
        }
        for [first, second] in double {
            let mark = lower.mark();
            let inner = lower.take_like(first.z);
            let arriving = second.arriving(lower, self);
            let convolution = second.convolution;
            convolution.lay_backward(lower, &[*first.z], Activate::Nothing, arriving, &[inner], Write::Overwrite, None);
            let arriving = Arriving { gradient: inner, norm: None, mask: None };
            let write = lower.write_to(dx);
            let view = lower.view(dx);
            first.convolution.lay_backward(lower, &x, Activate::Relu, arriving, &[view], write, None);
            lower.release(mark);
        }
    }
}

/// A layer of a dense operation.
struct Dense<'a> {
    operation: &'a Operation,
    convolution: &'a Convolution,
    z: &'a Buffer,
    /// The operation's norm, which follows its last layer.
    norm: &'a Norm,
}

impl<'a> Dense<'a> {
    fn normalized(&self, lower: &Lower, sums: Option<View<f64>>) -> Normalized<'a> {
        Normalized { norm: self.norm, sums, count: lower.batch * self.z.shape.pixels() }
    }

    fn arriving(&self, lower: &Lower, graph: &Graph) -> Arriving<'a> {
        graph.arrives(lower, self.operation, self.norm, self.z)
    }
}

fn device_unit(unit: &Unit) -> UnitShape {
    let darts_ops::sep_unit::UnitShape { kernel, stride, dilation, c_in, c_out } = unit.shape;
    UnitShape { kernel, stride, dilation, c_in, c_out }
}

/// z of all units of `inputs`, which have one shape, and the norms that follow, with their sums. The caller releases what is taken.
fn units_forward<'a>(lower: &mut Lower, inputs: &[Input<'a>]) -> Vec<Normalized<'a>> {
    let Some(shape) = inputs.iter().find(|input| !input.units.is_empty()).map(|input| input.x.shape) else {
        return Vec::new();
    };
    let images = lower.images(shape);
    let mut norms = Vec::new();
    let mut calls: Vec<Vec<UnitForward>> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let mut units = Vec::with_capacity(input.units.len());
        for unit in &input.units {
            let sums = lower.sums(unit.shape.c_out);
            norms.push(Normalized { norm: &unit.norm, sums, count: lower.batch * unit.z.shape.pixels() });
            units.push(UnitForward {
                shape: device_unit(unit),
                depthwise: lower.theta(&unit.depthwise),
                pointwise: lower.theta(&unit.pointwise),
                z: lower.view(&unit.z),
                sums,
            });
        }
        calls.push(units);
    }
    let with_sums = calls.iter().flatten().filter(|unit| unit.sums.is_some()).map(|unit| unit.shape);
    let scratch = lower.take(sep_unit::forward_scratch_len(images, with_sums));
    let calls: Vec<sep_unit::Forward> = inputs
        .iter()
        .zip(&calls)
        .map(|(input, units)| sep_unit::Forward {
            x: lower.view(input.x),
            affine: input.norm.map(|norm| norm.device_affine(lower)),
            units,
        })
        .collect();
    sep_unit::forward_all(lower.program, lower.pass.precision, images, &calls, scratch);
    norms
}

/// Units that read one input, with the gradients that arrive at their outputs, and where the input's gradient goes.
struct Back<'a> {
    x: &'a Buffer,
    norm: Option<&'a Norm>,
    units: Vec<(&'a Unit, Arriving<'a>)>,
    skips: Vec<Skip>,
    du: View,
    write: Write,
    sums: Option<View<f64>>,
}

/// Gradients of the weights of all units, and of what they read; the inputs have one shape.
fn units_backward(lower: &mut Lower, inputs: &[Back]) {
    let Some(shape) = inputs.first().map(|input| input.x.shape) else { return };
    let images = lower.images(shape);
    let shapes: Vec<Vec<UnitShape>> =
        inputs.iter().map(|input| input.units.iter().map(|(unit, _)| device_unit(unit)).collect()).collect();
    let shapes: Vec<&[UnitShape]> = shapes.iter().map(Vec::as_slice).collect();
    let mark = lower.mark();
    let scratch = lower.take(sep_unit::backward_scratch_len(images, &shapes));
    let terms: Vec<Vec<[UpstreamTerm; 1]>> =
        inputs.iter().map(|input| input.units.iter().map(|(_, arriving)| [arriving.term(lower)]).collect()).collect();
    let units: Vec<Vec<UnitBackward>> = inputs
        .iter()
        .zip(&terms)
        .map(|(input, terms)| {
            let units = input.units.iter().zip(terms);
            units
                .map(|((unit, arriving), terms)| UnitBackward {
                    shape: device_unit(unit),
                    depthwise: lower.theta(&unit.depthwise),
                    pointwise: lower.theta(&unit.pointwise),
                    upstream: Upstream { terms, bn: arriving.bn(lower) },
                    weights: lower.d_theta(&unit.depthwise).zip(lower.d_theta(&unit.pointwise)),
                })
                .collect()
        })
        .collect();
    let calls: Vec<sep_unit::Backward> = inputs
        .iter()
        .zip(&units)
        .map(|(input, units)| sep_unit::Backward {
            x: lower.view(input.x),
            affine: input.norm.map(|norm| norm.device_affine(lower)),
            units,
            skips: &input.skips,
            du: input.du,
            write: input.write,
            sums: input.sums,
        })
        .collect();
    sep_unit::backward_all(lower.program, lower.pass.precision, images, &calls, scratch, &mut lower.pending);
    lower.release(mark);
}
