//! The directed acyclic graph inside a cell: nodes, and the operations between them, evaluated node by node.
//!
//! All operations out of a node read the same input. So when node j is known, one stage computes the first unit of every
//! candidate on every edge out of j, one stage their second units, one the pools (shared by all edges); and when all
//! sources of node i are done, one pass over their outputs mixes them into it:
//!
//! ```text
//! node_i = Σ over edges j → i, operations o of  w_o · mask_o[n] · BN_o(z_o)
//! ```
//!
//! The backward pass goes through the nodes in the opposite order. When the gradient of node i is complete, one pass over
//! it and all z_o gives S₀ = Σ dnode and S₁ = Σ dnode·z per channel; from these come the gradient of w_o, those of BN, and
//! the coefficients with which the kernels form dz_o while they read: no tensor of a BN is ever stored. The outputs of first units
//! of separable convolutions, a third of a cell's activations, are not stored either: backward computes them again, for one
//! source at a time.

use darts_ops::sep_unit::{self, UnitBackward, UnitForward};
use darts_ops::{BnTerm, Slot, Upstream, UpstreamTerm, Write, mix, pool};

use super::build::{Buffer, Builder};
use super::convolution::{Activate, Arriving};
use super::norm::Norm;
use super::operation::{Kind, Operation, Placement, SharedPool, Unit};
use super::pass::{Backward, Forward, Workspace, disjoint};
use crate::error::Error;
use crate::primitive::Primitive;

#[derive(Clone, Debug)]
pub(crate) struct Graph {
    /// Inputs first, then the intermediate nodes, each after its sources.
    pub(crate) nodes: Vec<Buffer>,
    pub(crate) gradients: Vec<Buffer>,
    pub(super) inputs: usize,
    pub(super) operations: Vec<Operation>,
    pub(super) pools: Vec<SharedPool>,
}

/// One operation to be placed in a graph.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) primitive: Primitive,
    pub(crate) source: usize,
    pub(crate) target: usize,
    pub(crate) weight: Option<usize>,
}

impl Graph {
    /// A graph over `inputs` of one shape, whose other nodes have the shape that `stride` makes of it; operations out of the
    /// inputs have that stride. `affine` chooses the discrete form of the operations; `masks` counts those that path
    /// dropout can drop.
    pub(crate) fn new(
        builder: &mut Builder,
        inputs: Vec<Buffer>,
        stride: usize,
        entries: &[Entry],
        affine: bool,
        masks: Option<&mut usize>,
    ) -> Result<Self, Error> {
        let input_shape = inputs[0].shape;
        let shape = input_shape.strided(stride);
        let last = entries.iter().map(|e| e.target).max().unwrap_or(0);
        let input_count = inputs.len();
        let mut nodes = inputs;
        nodes.extend((input_count..=last).map(|_| builder.buffer(shape)));
        let gradients: Vec<Buffer> = nodes.iter().map(|node| builder.buffer(node.shape)).collect();
        let mut pools = Vec::new();
        let mut operations: Vec<Operation> = Vec::with_capacity(entries.len());
        for entry in entries {
            let siblings = operations.iter().filter(|o| o.source == entry.source);
            let place = Placement {
                name: &entry.name,
                source: entry.source,
                target: entry.target,
                stride: if entry.source < input_count { stride } else { 1 },
                weight: entry.weight,
                separable_before: siblings.filter(|o| matches!(o.kind, Kind::Separable { .. })).count(),
            };
            let source = nodes[entry.source].shape;
            operations.push(Operation::new(builder, &mut pools, entry.primitive, &place, source, affine)?);
        }
        if let Some(next) = masks {
            for operation in operations.iter_mut().filter(|o| !o.is_identity()) {
                operation.mask = Some(*next);
                *next += 1;
            }
        }
        let graph = Self { nodes, gradients, inputs: input_count, operations, pools };
        for source in 0..graph.nodes.len() {
            builder.need_temporaries(graph.separable(source, |_| true).map(|(_, first, _)| first.z.shape.len()));
            builder.need_temporaries(graph.from(source, |_| true).filter_map(Operation::inner_length));
        }
        Ok(graph)
    }

    fn from<'g>(
        &'g self,
        source: usize,
        active: impl Fn(&Operation) -> bool + 'g,
    ) -> impl Iterator<Item = &'g Operation> {
        self.operations.iter().filter(move |o| o.source == source && active(o))
    }

    fn into<'g>(
        &'g self,
        target: usize,
        active: impl Fn(&Operation) -> bool + 'g,
    ) -> impl Iterator<Item = &'g Operation> {
        let some = |o: &&Operation| !matches!(o.kind, Kind::Zero);
        self.operations.iter().filter(move |o| o.target == target && active(o)).filter(some)
    }

    fn separable<'g>(
        &'g self,
        source: usize,
        active: impl Fn(&Operation) -> bool + 'g,
    ) -> impl Iterator<Item = (&'g Operation, &'g Unit, &'g Unit)> {
        self.from(source, active).filter_map(|o| match &o.kind {
            Kind::Separable { first, second } => Some((o, first, second)),
            _ => None,
        })
    }

    /// The tensor that `operation` contributes to its target through its mixing coefficients.
    pub(super) fn output<'g>(&'g self, operation: &'g Operation) -> &'g Buffer {
        match &operation.kind {
            Kind::Zero | Kind::Identity => &self.nodes[operation.source],
            Kind::Pool { pool, .. } => &self.pools[*pool].z,
            Kind::Dilated(unit) | Kind::Separable { second: unit, .. } => &unit.z,
            Kind::Dense { layers, .. } => &layers[layers.len() - 1].1,
        }
    }

    /// Computes all intermediate nodes from the inputs.
    pub(crate) fn forward(&self, pass: &mut Forward) {
        for node in 0..self.nodes.len() {
            if node >= self.inputs {
                self.mix(pass, node);
            }
            self.send(pass, node);
        }
    }

    /// Everything that reads node `source`, up to its outputs before mixing.
    fn send(&self, pass: &mut Forward, source: usize) {
        let input = pass.input;
        let active = move |o: &Operation| input.is_active(o.weight);
        let x = &self.nodes[source];
        let first: Vec<&Unit> = self.from(source, active).filter_map(Operation::first_unit).collect();
        units_and_norms_forward(pass, x, None, &first);
        for (_, first, second) in self.separable(source, active) {
            units_and_norms_forward(pass, &first.z, Some(&first.norm), &[second]);
        }
        for (index, shared) in self.pools.iter().enumerate().filter(|(_, p)| p.source == source) {
            let norms: Vec<Option<&Norm>> = self.pool_users(index, active).map(Operation::norm).collect();
            if norms.is_empty() {
                continue;
            }
            let c = x.shape.c;
            let mut sums = norms[0].and_then(|_| pass.sums(c));
            let ws = &mut *pass.ws;
            let (images, slots) = (ws.images(x.shape), (ws.slot(x), ws.slot(&shared.z)));
            let (read, mut write) = ws.activations.split(&[slots.0], &[slots.1]);
            pool::forward(images, read[0], shared.shape, write[0], sums.as_deref_mut());
            let count = pass.ws.batch * shared.z.shape.pixels();
            for norm in norms.into_iter().flatten() {
                norm.forward(pass, sums.as_deref(), count);
            }
        }
        for operation in self.from(source, active) {
            let Kind::Dense { layers, norm } = &operation.kind else { continue };
            let mut input = *x;
            let mut activate = Activate::Relu;
            let mut sums = None;
            for (conv, z) in layers {
                sums = pass.sums(z.shape.c);
                conv.forward(pass, &[input], activate, z, sums.as_deref_mut());
                (input, activate) = (*z, Activate::Nothing);
            }
            norm.forward(pass, sums.as_deref(), pass.ws.batch * input.shape.pixels());
        }
    }

    fn pool_users<'g>(
        &'g self,
        index: usize,
        active: impl Fn(&Operation) -> bool + 'g,
    ) -> impl Iterator<Item = &'g Operation> {
        let uses = move |o: &&Operation| matches!(o.kind, Kind::Pool { pool, .. } if pool == index);
        self.operations.iter().filter(move |o| active(o)).filter(uses)
    }

    /// node = Σ over its operations of their weighted, normalized outputs.
    fn mix(&self, pass: &mut Forward, target: usize) {
        let input = pass.input;
        let operations: Vec<&Operation> = self.into(target, |o| input.is_active(o.weight)).collect();
        for operation in &operations {
            operation.write_mixing(&mut pass.ws.channels, input.weight(operation.weight));
        }
        let ws = &mut *pass.ws;
        let read: Vec<Slot> = operations.iter().map(|o| ws.slot(self.output(o))).collect();
        let node = &self.nodes[target];
        let (images, slot) = (ws.images(node.shape), ws.slot(node));
        let (read, mut write) = ws.activations.split(&read, &[slot]);
        let terms: Vec<mix::Term> = operations
            .iter()
            .zip(read)
            .map(|(o, z)| {
                let (scale, shift) = o.mixing(&ws.channels);
                mix::Term { z, scale, shift: Some(shift), sample_scale: input.mask(o.mask) }
            })
            .collect();
        mix::forward(images, &terms, write[0], Write::Overwrite);
    }

    /// Gradients of all weights and of the inputs, from those of the intermediate nodes. Where nothing wants the gradient of an input,
    /// everything that reads it is passed over: its weights' gradients are not wanted either.
    pub(crate) fn backward(&self, pass: &mut Backward, wanted: [bool; 2]) {
        for node in (0..self.nodes.len()).rev() {
            if wanted.get(node) != Some(&false) {
                self.send_backward(pass, node);
            }
            if node >= self.inputs {
                self.mix_backward(pass, node);
            }
        }
    }

    /// With the gradient of node `target` complete: gradients of its operations' weights, and the coefficients with which
    /// the gradient reaches each operation's z.
    fn mix_backward(&self, pass: &mut Backward, target: usize) {
        let input = pass.input;
        let gradient = &self.gradients[target];
        pass.ensure(gradient);
        let wants_weights = pass.weights.is_some();
        let operations: Vec<&Operation> = self
            .into(target, |o| {
                input.is_active(o.weight) && (o.norm().is_some() || (wants_weights && o.weight.is_some()))
            })
            .collect();
        let c = gradient.shape.c;
        let mut sums = vec![0.0; operations.len() * 2 * c];
        let ws = &*pass.ws;
        let mut terms: Vec<mix::ReduceTerm> = operations
            .iter()
            .zip(sums.chunks_exact_mut(2 * c))
            .map(|(o, sums)| mix::ReduceTerm {
                z: ws.activations.read(ws.slot(self.output(o))),
                sample_scale: input.mask(o.mask),
                sums,
            })
            .collect();
        let dnode = ws.activations.read(ws.slot(gradient));
        mix::reduce(ws.images(gradient.shape), dnode, &mut terms);
        let count = pass.ws.batch * gradient.shape.pixels();
        for (operation, sums) in operations.iter().zip(sums.chunks_exact(2 * c)) {
            if let (Some(weights), Some(index)) = (pass.weights.as_deref_mut(), operation.weight) {
                // All cells of a kind share their weights.
                weights[index] += operation.weight_gradient(&pass.ws.channels, sums);
            }
            if let Some(norm) = operation.norm() {
                norm.backward(pass, sums, input.weight(operation.weight), count);
            }
        }
    }

    /// Adds to the gradient of node `source` what comes back through everything that read it.
    fn send_backward(&self, pass: &mut Backward, source: usize) {
        let input = pass.input;
        let active = move |o: &Operation| input.is_active(o.weight);
        let x = &self.nodes[source];
        let dx = &self.gradients[source];
        let temporaries: Vec<Slot> = pass.temporaries.iter().map(|&t| pass.ws.scaled(t)).collect();

        let again: Vec<&Unit> = self.separable(source, active).map(|(_, first, _)| first).collect();
        units_forward(pass.ws, input.theta, x, None, &again, &mut vec![None; again.len()]);
        // Second units first: each leaves the gradient of its input in a temporary.
        for ((operation, first, second), &slot) in self.separable(source, active).zip(&temporaries) {
            let du = pass.ws.exact(slot, &first.z);
            let mut sums = vec![0.0; 2 * first.z.shape.c];
            let arriving = self.arriving(pass, operation, (&second.norm, &second.z));
            let units = [(second, arriving)];
            units_backward(pass, &first.z, Some(&first.norm), &units, du, Write::Overwrite, Some(&mut sums));
            first.norm.backward(pass, &sums, 1.0, pass.ws.batch * first.z.shape.pixels());
        }
        let mut separable = temporaries.iter();
        let mut first: Vec<(&Unit, Arriving)> = Vec::new();
        for operation in self.from(source, active) {
            match &operation.kind {
                Kind::Separable { first: unit, .. } => {
                    let Some(&slot) = separable.next() else { unreachable!("planned for every separable operation") };
                    let gradient = pass.ws.exact(slot, &unit.z);
                    first.push((unit, Arriving { gradient, norm: Some((&unit.norm, &unit.z)), mask: None }));
                }
                Kind::Dilated(unit) => first.push((unit, self.arriving(pass, operation, (&unit.norm, &unit.z)))),
                _ => {}
            }
        }
        if !first.is_empty() {
            let write = pass.write_to(dx);
            let slot = pass.ws.slot(dx);
            units_backward(pass, x, None, &first, slot, write, None);
        }
        self.pools_backward(pass, source);
        self.identities_backward(pass, source);
        for operation in self.from(source, active) {
            let Kind::Dense { layers, norm } = &operation.kind else { continue };
            let last = &layers[layers.len() - 1];
            let mut arriving = self.arriving(pass, operation, (norm, &last.1));
            if let [(row, row_z), (column, _)] = &layers[..] {
                let inner = pass.ws.exact(temporaries[0], row_z);
                column.backward_to_slots(
                    pass,
                    &[*row_z],
                    Activate::Nothing,
                    arriving,
                    &[inner],
                    Write::Overwrite,
                    None,
                );
                arriving = Arriving { gradient: inner, norm: None, mask: None };
                row.backward(pass, &[*x], Activate::Relu, arriving, &[*dx], None);
            } else {
                last.0.backward(pass, &[*x], Activate::Relu, arriving, &[*dx], None);
            }
        }
    }

    fn arriving<'g>(&self, pass: &Backward, operation: &Operation, norm: (&'g Norm, &'g Buffer)) -> Arriving<'g> {
        let gradient = pass.ws.slot(&self.gradients[operation.target]);
        Arriving { gradient, norm: Some(norm), mask: operation.mask }
    }

    fn pools_backward(&self, pass: &mut Backward, source: usize) {
        let input = pass.input;
        let dx = &self.gradients[source];
        for (index, shared) in self.pools.iter().enumerate().filter(|(_, p)| p.source == source) {
            let users: Vec<&Operation> = self.pool_users(index, |o| input.is_active(o.weight)).collect();
            if users.is_empty() {
                continue;
            }
            let c = shared.z.shape.c;
            let write_mode = pass.write_to(dx);
            let ws = &mut *pass.ws;
            let norms: Vec<&Norm> = users.iter().filter_map(|o| o.norm()).collect();
            // Each edge has a norm of its own over the same z: their terms in z and their constants add up.
            let mut bn = vec![0.0; 2 * c];
            for norm in &norms {
                let [_, b, d] = norm.upstream(&ws.channels);
                bn.iter_mut().zip(b.iter().chain(d)).for_each(|(sum, &v)| *sum += v);
            }
            let mut read = vec![ws.slot(&self.nodes[source]), ws.slot(&shared.z)];
            read.extend(users.iter().map(|o| ws.slot(&self.gradients[o.target])));
            let (images, slot) = (ws.images(dx.shape), ws.slot(dx));
            let (read, mut write) = ws.activations.split(&read, &[slot]);
            let terms: Vec<UpstreamTerm> = users
                .iter()
                .zip(&read[2..])
                .map(|(o, grad)| UpstreamTerm {
                    grad,
                    scale: o.norm().map(|norm| norm.upstream(&ws.channels)[0]),
                    sample_scale: input.mask(o.mask),
                })
                .collect();
            let (b, d) = bn.split_at(c);
            let bn = (!norms.is_empty()).then_some(BnTerm { z: read[1], b, d });
            pool::backward(images, read[0], shared.shape, Upstream { terms: &terms, bn }, write[0], write_mode);
        }
    }

    fn identities_backward(&self, pass: &mut Backward, source: usize) {
        let input = pass.input;
        let dx = &self.gradients[source];
        let users: Vec<&Operation> = self.from(source, |o| o.is_identity() && input.is_active(o.weight)).collect();
        if users.is_empty() {
            return;
        }
        let write_mode = pass.write_to(dx);
        let ws = &mut *pass.ws;
        let read: Vec<Slot> = users.iter().map(|o| ws.slot(&self.gradients[o.target])).collect();
        let (images, slot) = (ws.images(dx.shape), ws.slot(dx));
        let (read, mut write) = ws.activations.split(&read, &[slot]);
        let terms: Vec<mix::Term> = users
            .iter()
            .zip(read)
            .map(|(o, z)| mix::Term { z, scale: o.mixing(&ws.channels).0, shift: None, sample_scale: None })
            .collect();
        mix::forward(images, &terms, write[0], write_mode);
    }
}

/// z of `units`, all of which read `x`, with its norm's affine where it has one; then their own norms.
fn units_and_norms_forward(pass: &mut Forward, x: &Buffer, norm: Option<&Norm>, units: &[&Unit]) {
    let mut sums: Vec<Option<Vec<f64>>> = units.iter().map(|u| pass.sums(u.shape.c_out)).collect();
    units_forward(pass.ws, pass.input.theta, x, norm, units, &mut sums);
    for (unit, sums) in units.iter().zip(&sums) {
        unit.norm.forward(pass, sums.as_deref(), pass.ws.batch * unit.z.shape.pixels());
    }
}

/// z of `units`, all of which read `x`, with its norm's affine where it has one; [Σz | Σz²] of each where there is room for it.
fn units_forward(
    ws: &mut Workspace,
    theta: &[f32],
    x: &Buffer,
    norm: Option<&Norm>,
    units: &[&Unit],
    sums: &mut [Option<Vec<f64>>],
) {
    let (images, x) = (ws.images(x.shape), ws.slot(x));
    let write: Vec<Slot> = units.iter().map(|u| ws.slot(&u.z)).collect();
    let (read, write) = ws.activations.split(&[x], &write);
    let mut calls: Vec<UnitForward> = units
        .iter()
        .zip(write)
        .zip(sums)
        .map(|((unit, z), sums)| UnitForward {
            shape: unit.shape,
            depthwise: &theta[unit.depthwise.clone()],
            pointwise: &theta[unit.pointwise.clone()],
            z,
            sums: sums.as_deref_mut(),
        })
        .collect();
    sep_unit::forward(images, read[0], norm.map(|n| n.affine(&ws.channels)), &mut calls);
}

/// Gradients of the weights of `units`, and `du`, that of what they all read.
fn units_backward(
    pass: &mut Backward,
    x: &Buffer,
    norm: Option<&Norm>,
    units: &[(&Unit, Arriving)],
    du: Slot,
    write_mode: Write,
    sums: Option<&mut [f64]>,
) {
    let input = pass.input;
    let images = pass.ws.images(x.shape);
    let mut read = vec![pass.ws.slot(x)];
    read.extend(units.iter().flat_map(|(_, arriving)| arriving.slots(pass)));
    let ws = &mut *pass.ws;
    let (read, mut write) = ws.activations.split(&read, &[du]);
    let arrivals = || units.iter().map(|(_, arriving)| arriving).zip(read[1..].chunks_exact(2));
    let terms: Vec<[UpstreamTerm; 1]> =
        arrivals().map(|(a, read)| [a.term(read, &ws.channels, input.mask(a.mask))]).collect();
    let ranges: Vec<_> = units.iter().flat_map(|(u, _)| [u.depthwise.clone(), u.pointwise.clone()]).collect();
    let mut gradients = pass.theta.as_deref_mut().map(|flat| disjoint(flat, &ranges).into_iter());
    let mut calls: Vec<UnitBackward> = units
        .iter()
        .zip(arrivals())
        .zip(&terms)
        .map(|(((unit, _), (arriving, read)), terms)| UnitBackward {
            shape: unit.shape,
            depthwise: &input.theta[unit.depthwise.clone()],
            pointwise: &input.theta[unit.pointwise.clone()],
            upstream: Upstream { terms, bn: arriving.bn(read, &ws.channels) },
            weights: gradients.as_mut().and_then(|g| g.next().zip(g.next())),
        })
        .collect();
    sep_unit::backward(images, read[0], norm.map(|n| n.affine(&ws.channels)), &mut calls, write[0], write_mode, sums);
}
