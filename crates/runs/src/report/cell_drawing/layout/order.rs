//! The order of items within their columns: barycentre sweeps and swaps of neighbours from several starts, fewest crossings first.
//!
//! Cells are small, so crossings are counted pair by pair; for graphs of hundreds of edges this would be too slow.

use super::Layered;

/// Starts of the search for a good order; the result is the best of them.
const STARTS: u64 = 24;

/// Places of items within their columns.
fn positions(layered: &Layered) -> Vec<usize> {
    let mut position = vec![0; layered.items.len()];
    for column in &layered.columns {
        for (place, item) in column.iter().enumerate() {
            position[*item] = place;
        }
    }
    position
}

/// Crossings first, then how far edges climb: crossings of a pair of neighbouring columns are counted pair by pair, for the cells here are small.
fn cost(layered: &Layered) -> f64 {
    let position = positions(layered);
    let mut cost = 0.0;
    for (index, a) in layered.segments.iter().enumerate() {
        let column = layered.items[a.from].column;
        for b in layered.segments[index + 1..].iter().filter(|b| layered.items[b.from].column == column) {
            let before = position[a.from].cmp(&position[b.from]);
            let after = position[a.to].cmp(&position[b.to]);
            if before.is_lt() && after.is_gt() || before.is_gt() && after.is_lt() {
                cost += 1.0;
            }
        }
        let middle =
            |item: usize| position[item] as f64 - layered.columns[layered.items[item].column].len() as f64 / 2.0;
        cost += 1e-3 * (middle(a.from) - middle(a.to)).abs();
    }
    cost
}

/// Orders all columns, in the same way every time.
pub(super) fn order(layered: &mut Layered) {
    let mut best = (f64::INFINITY, layered.columns.clone());
    for start in 0..STARTS {
        let mut state = start.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for column in &mut layered.columns {
            column.sort_unstable();
            if start > 0 {
                shuffle(column, &mut state);
            }
        }
        for sweep in 0..8 {
            sweep_columns(layered, sweep % 2 == 0);
        }
        let cost = swap_neighbours(layered);
        // A later start must be clearly better, so that ties keep the plainest order.
        if cost < best.0 - 1e-9 {
            best = (cost, layered.columns.clone());
        }
    }
    layered.columns = best.1;
    // Upside down has as many crossings: take the way up that has the first input on top.
    let position = positions(layered);
    if layered.items[1].column == 0 && position[0] > position[1] {
        layered.columns.iter_mut().for_each(|column| column.reverse());
    }
}

/// A fixed sequence of shuffles (splitmix64), so that a cell is always drawn the same way.
fn shuffle(column: &mut [usize], state: &mut u64) {
    for last in (1..column.len()).rev() {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        column.swap(last, ((mixed ^ (mixed >> 31)) % (last as u64 + 1)) as usize);
    }
}

fn sweep_columns(layered: &mut Layered, forward: bool) {
    let count = layered.columns.len();
    for step in 1..count {
        let column = if forward { step } else { count - 1 - step };
        let position = positions(layered);
        let mean = |item: usize| {
            let near: Vec<f64> = layered
                .segments
                .iter()
                .filter_map(|segment| match forward {
                    true => (segment.to == item).then(|| position[segment.from] as f64),
                    false => (segment.from == item).then(|| position[segment.to] as f64),
                })
                .collect();
            if near.is_empty() { position[item] as f64 } else { near.iter().sum::<f64>() / near.len() as f64 }
        };
        let mut keyed: Vec<(f64, usize)> = layered.columns[column].iter().map(|item| (mean(*item), *item)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        layered.columns[column] = keyed.into_iter().map(|(_, item)| item).collect();
    }
}

/// Swaps neighbours (and items two apart) as long as that helps.
fn swap_neighbours(layered: &mut Layered) -> f64 {
    let mut best = cost(layered);
    for _ in 0..20 {
        let before = best;
        for column in 0..layered.columns.len() {
            for distance in 1..=2 {
                for place in distance..layered.columns[column].len() {
                    layered.columns[column].swap(place - distance, place);
                    let cost = cost(layered);
                    if cost < best - 1e-9 {
                        best = cost;
                    } else {
                        layered.columns[column].swap(place - distance, place);
                    }
                }
            }
        }
        if best >= before - 1e-9 {
            break;
        }
    }
    best
}
