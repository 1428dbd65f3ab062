//! Heights, given the order: each column in turn moves towards its neighbours, by weighted least squares first and medians later, as far as the distances
//! within it allow (isotonic regression). Medians and heavy weights on long edges keep those straight.

use super::{Kind, Layered, PORT_GAP, Segment, straight::straighten};

/// Space between boxes that lie one above the other, and between a box and a lane.
const BOX_GAP: f64 = 11.0;
/// Space between two lanes.
const LANE_GAP: f64 = 10.0;

/// Heights of all items, and for each segment how far above or below the centre it leaves and enters.
pub(super) fn heights(layered: &Layered) -> (Vec<f64>, Vec<(f64, f64)>) {
    let mut y = vec![0.0; layered.items.len()];
    for column in &layered.columns {
        let offsets = offsets(layered, column);
        let middle = offsets.last().copied().unwrap_or(0.0) / 2.0;
        for (item, offset) in column.iter().zip(offsets) {
            y[*item] = offset - middle;
        }
    }
    let mut ports = vec![(0.0, 0.0); layered.segments.len()];
    for round in 0..6 {
        for sweep in 0..24 {
            for step in 0..layered.columns.len() {
                let column = if sweep % 2 == 0 { step } else { layered.columns.len() - 1 - step };
                fit_column(layered, &layered.columns[column], &ports, round >= 3, &mut y);
            }
        }
        ports = assign_ports(layered, &y);
    }
    for _ in 0..3 {
        straighten(layered, &ports, &mut y);
        ports = assign_ports(layered, &y);
    }
    (y, ports)
}

/// Least distances of a column's items from its first one.
pub(super) fn offsets(layered: &Layered, column: &[usize]) -> Vec<f64> {
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(column.len());
    for (place, item) in column.iter().enumerate() {
        if place > 0 {
            let (above, here) = (&layered.items[column[place - 1]], &layered.items[*item]);
            let gap = if above.kind == Kind::Lane && here.kind == Kind::Lane { LANE_GAP } else { BOX_GAP };
            offset += above.height / 2.0 + gap + here.height / 2.0;
        }
        offsets.push(offset);
    }
    offsets
}

/// Moves one column's items towards their neighbours as far as their order and distances allow: pool adjacent violators on y − offset, each block at the
/// weighted mean (or median) of what its items are drawn to.
fn fit_column(layered: &Layered, column: &[usize], ports: &[(f64, f64)], median: bool, y: &mut [f64]) {
    struct Block {
        pulls: Vec<(f64, f64)>,
        items: usize,
        level: f64,
    }
    let offsets = offsets(layered, column);
    let mut blocks: Vec<Block> = Vec::new();
    for (item, offset) in column.iter().zip(&offsets) {
        let mut pulls = Vec::new();
        for (segment, (leave, enter)) in layered.segments.iter().zip(ports) {
            if segment.from == *item {
                pulls.push((y[segment.to] + enter - leave - offset, segment.weight));
            } else if segment.to == *item {
                pulls.push((y[segment.from] + leave - enter - offset, segment.weight));
            }
        }
        if pulls.is_empty() {
            pulls.push((y[*item] - offset, 0.1));
        }
        let level = level(&mut pulls, median);
        blocks.push(Block { pulls, items: 1, level });
        while blocks.len() > 1 && blocks[blocks.len() - 2].level > blocks[blocks.len() - 1].level {
            let (Some(below), Some(above)) = (blocks.pop(), blocks.last_mut()) else { break };
            above.pulls.extend(below.pulls);
            above.items += below.items;
            above.level = self::level(&mut above.pulls, median);
        }
    }
    let mut place = 0;
    for block in blocks {
        for _ in 0..block.items {
            y[column[place]] = block.level + offsets[place];
            place += 1;
        }
    }
}

fn level(pulls: &mut [(f64, f64)], median: bool) -> f64 {
    let total: f64 = pulls.iter().map(|(_, weight)| weight).sum();
    if !median {
        return pulls.iter().map(|(value, weight)| value * weight).sum::<f64>() / total;
    }
    pulls.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut sum = 0.0;
    for (index, (value, weight)) in pulls.iter().enumerate() {
        sum += weight;
        if sum > total / 2.0 + 1e-9 {
            return *value;
        }
        if sum > total / 2.0 - 1e-9 {
            return (value + pulls.get(index + 1).unwrap_or(&(*value, 0.0)).0) / 2.0;
        }
    }
    0.0
}

/// Spreads the edges of a node along its side, in the order of where they come from or go to.
fn assign_ports(layered: &Layered, y: &[f64]) -> Vec<(f64, f64)> {
    let mut ports = vec![(0.0, 0.0); layered.segments.len()];
    for (item, _) in layered.items.iter().enumerate().filter(|(_, item)| item.kind == Kind::Node) {
        let side = |end: fn(&Segment) -> usize, other: fn(&Segment) -> usize| {
            let mut own: Vec<usize> =
                (0..layered.segments.len()).filter(|segment| end(&layered.segments[*segment]) == item).collect();
            own.sort_by(|a, b| y[other(&layered.segments[*a])].total_cmp(&y[other(&layered.segments[*b])]));
            own
        };
        let leaving = side(|segment| segment.from, |segment| segment.to);
        for (place, segment) in leaving.iter().enumerate() {
            ports[*segment].0 = (place as f64 - (leaving.len() - 1) as f64 / 2.0) * PORT_GAP;
        }
        let entering = side(|segment| segment.to, |segment| segment.from);
        for (place, segment) in entering.iter().enumerate() {
            ports[*segment].1 = (place as f64 - (entering.len() - 1) as f64 / 2.0) * PORT_GAP;
        }
    }
    ports
}
