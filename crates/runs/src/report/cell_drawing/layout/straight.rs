//! The last touch: removes the small bends that are left when every item has moved by itself, by moving what hangs straight together as one.

use super::{Layered, Segment, heights::offsets};

/// How far a segment climbs.
fn climb(segment: &Segment, (leave, enter): (f64, f64), y: &[f64]) -> f64 {
    y[segment.to] + enter - y[segment.from] - leave
}

/// Removes small bends: for each segment that is not level, moves what hangs straight on one of its ends until it is, where there is room and the whole
/// gets calmer by it.
pub(super) fn straighten(layered: &Layered, ports: &[(f64, f64)], y: &mut [f64]) {
    for _ in 0..4 {
        for index in 0..layered.segments.len() {
            let segment = layered.segments[index];
            for (item, sign) in [(segment.to, -1.0), (segment.from, 1.0)] {
                let step = sign * climb(&segment, ports[index], y);
                if step.abs() < 0.05 {
                    continue;
                }
                for reach in [Reach::Alone, Reach::Right, Reach::Left, Reach::All] {
                    let group = straight_group(layered, ports, y, item, index, reach);
                    if try_move(layered, ports, y, &group, step) {
                        break;
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Reach {
    Alone,
    Right,
    Left,
    All,
}

/// The items that hang straight together with `item`, without `segment`, on the asked side of it.
fn straight_group(
    layered: &Layered,
    ports: &[(f64, f64)],
    y: &[f64],
    item: usize,
    segment: usize,
    reach: Reach,
) -> Vec<bool> {
    let mut group = vec![false; layered.items.len()];
    group[item] = true;
    if reach == Reach::Alone {
        return group;
    }
    let column = layered.items[item].column;
    let mut open = vec![item];
    while let Some(item) = open.pop() {
        for (other, part) in layered.segments.iter().enumerate() {
            if other == segment || (part.from != item && part.to != item) || climb(part, ports[other], y).abs() > 0.05 {
                continue;
            }
            let next = if part.from == item { part.to } else { part.from };
            let inside = match reach {
                Reach::Right => layered.items[next].column >= column,
                Reach::Left => layered.items[next].column <= column,
                Reach::Alone | Reach::All => true,
            };
            if inside && !group[next] {
                group[next] = true;
                open.push(next);
            }
        }
    }
    group
}

/// Moves a group if its distances allow it and its edges are shorter and straighter after it.
fn try_move(layered: &Layered, ports: &[(f64, f64)], y: &mut [f64], group: &[bool], step: f64) -> bool {
    /// What a bend costs, however small, in units of climbed height.
    const BEND: f64 = 8.0;
    for column in &layered.columns {
        let offsets = offsets(layered, column);
        for place in 1..column.len() {
            let (above, below) = (column[place - 1], column[place]);
            let distance =
                y[below] - y[above] + step * (f64::from(u8::from(group[below])) - f64::from(u8::from(group[above])));
            if group[above] != group[below] && distance < offsets[place] - offsets[place - 1] - 1e-6 {
                return false;
            }
        }
    }
    let cost = |y: &[f64]| -> f64 {
        layered
            .segments
            .iter()
            .zip(ports)
            .filter(|(segment, _)| group[segment.from] != group[segment.to])
            .map(|(segment, ports)| {
                let climb = climb(segment, *ports, y).abs();
                segment.weight * climb + if climb > 0.05 { BEND } else { 0.0 }
            })
            .sum()
    };
    let before = cost(y);
    let shift =
        |y: &mut [f64], step: f64| y.iter_mut().zip(group).filter(|(_, inside)| **inside).for_each(|(y, _)| *y += step);
    shift(y, step);
    if cost(y) < before - 1e-6 {
        return true;
    }
    shift(y, -step);
    false
}
