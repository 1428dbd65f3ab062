//! Cuts fit every device at every shape, and leave few threads idle at the shapes of the search.

use super::{UnitShape, input, launches, plan};
use crate::images::Images;
use crate::quads::SHARED_FLOATS;

fn shape(kernel: usize, stride: usize, dilation: usize, c: usize) -> UnitShape {
    UnitShape { kernel, stride, dilation, c_in: c, c_out: c }
}

#[test]
fn every_shape_has_a_cut_that_fits_shared_memory() {
    let sizes = [(1, 1, 1), (3, 7, 5), (64, 32, 32), (2, 224, 224), (1, 7, 300)];
    for (n, h, w) in sizes {
        for c in [1, 16, 17, 36, 144, 384, 1000] {
            for (kernel, stride, dilation) in
                [(1, 1, 1), (3, 1, 1), (5, 1, 2), (5, 2, 1), (7, 2, 2), (9, 3, 1), (7, 1, 3)]
            {
                let (images, shape) = (Images { n, h, w, c }, shape(kernel, stride, dilation, c));
                for launch in plan::Launch::all() {
                    let cuts = [plan::forward, plan::backward, plan::alone];
                    let plans = cuts.map(|cut| cut(images, shape, launch));
                    let of_input = input::cut(images, &[shape], launch.together).floats;
                    let mut floats = plans.iter().flatten().map(|plan| plan.floats).chain([of_input]);
                    assert!(floats.all(|floats| floats <= SHARED_FLOATS), "{images:?} {shape:?} {launch:?}");
                    assert!(launch.tensor || plans.iter().all(Option::is_some));
                }
            }
        }
    }
}

#[test]
fn launches_hold_every_unit_once_and_no_more_than_there_is_room_for() {
    let units: Vec<UnitShape> = (0..45).map(|i| shape(1 + 2 * (i % 6), 1, 1, 4)).collect();
    let launches = launches(&units);
    let mut seen: Vec<usize> = launches.iter().flatten().flatten().copied().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..45).collect::<Vec<_>>());
    for launch in &launches {
        assert!(launch.len() <= super::KINDS && launch.iter().map(Vec::len).sum::<usize>() <= super::UNITS);
        assert!(launch.iter().all(|same| same.iter().all(|&unit| units[unit] == units[same[0]])));
    }
}

#[test]
fn cuts_of_the_search_leave_few_threads_idle() {
    for (side, c) in [(32, 16), (16, 32), (8, 64)] {
        let images = Images { n: 64, h: side, w: side, c };
        for (kernel, dilation) in [(3, 1), (5, 1), (3, 2), (5, 2)] {
            let shape = shape(kernel, 1, dilation, c);
            // Shares of eight pixels and four channels forward, patches of sixteen pixels backward.
            let launch = plan::Launch { together: 16, tensor: false };
            let forward = plan::forward(images, shape, launch).unwrap().kind;
            assert!(forward.pixels * forward.split / 32 >= 128, "{forward:?}");
            let backward = plan::backward(images, shape, launch).unwrap().kind;
            assert!(backward.pixels * backward.chunk / 16 >= 128, "{backward:?}");
            // Those that the kernels know as constants.
            if (kernel, dilation) == (3, 1) {
                let pitches = [forward, backward].map(|kind| (kind.pitch, kind.weights_pitch));
                let known = [[(256, 24), (260, 24)], [(144, 40), (132, 40)], [(72, 72), (68, 72)]];
                assert!(known.contains(&pitches), "{pitches:?}");
            }
        }
    }
}
