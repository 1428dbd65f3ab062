//! Lookup and its gradient against `darts_ops::embedding`, which adds in the same order: the same bits.

use darts_cuda::embedding::{Lookup, backward, forward, occurrences};
use darts_cuda::{Backend, Memory, Program, View};
use darts_cuda_emulator::in_all_orders;
use darts_ops::embedding as reference;

use crate::values;

#[track_caller]
fn check(tokens: &[u32], vocabulary: usize, batch: usize, hidden: usize, rows: bool, masks: usize) {
    let (table, gradient) = (values(vocabulary * hidden, 1), values(tokens.len() * hidden, 2));
    let row_mask = rows.then(|| values(vocabulary, 3));
    let locked: Vec<Vec<f32>> = (0..masks as u64).map(|mask| values(batch * hidden, 4 + mask)).collect();
    let found = in_all_orders(|device| {
        let up = |values: &[f32]| device.uploaded(values).unwrap();
        let views: Vec<View> = locked.iter().map(|mask| up(mask)).collect();
        let rows = row_mask.as_ref().map(|mask| up(mask));
        let lookup = Lookup { tokens: device.uploaded(tokens).unwrap(), batch, hidden, rows, locked: &views };
        let (x, d_x, d_table) = (device.allocate(gradient.len()).unwrap(), up(&gradient), up(&table));
        let mut program = Program::default();
        forward(&mut program, up(&table), &lookup, x);
        let occurrences = device.uploaded(&occurrences(tokens)).unwrap();
        backward(&mut program, d_table, &lookup, occurrences, d_x);
        device.run(&program).unwrap();
        [x, d_x, d_table].map(|view| device.downloaded(view).unwrap())
    });
    let locked: Vec<&[f32]> = locked.iter().map(Vec::as_slice).collect();
    let lookup = reference::Lookup { tokens, batch, hidden, rows: row_mask.as_deref(), locked: &locked };
    let (mut x, mut d_x, mut d_table) = (vec![0.0; gradient.len()], gradient, table.clone());
    reference::forward(&table, &lookup, &mut x);
    reference::backward(&mut d_table, &lookup, &mut d_x);
    let name = format!("V = {vocabulary}, B = {batch}, H = {hidden}, {masks} masks");
    assert!(found[0] == x, "x of {name}");
    assert!(found[1] == d_x, "gradient of x of {name}");
    assert!(found[2] == d_table, "gradient of the table of {name}");
}

#[test]
fn emulator_lookup_and_gradient_match_reference() {
    let tokens = [0, 4, 2, 4, 4, 1, 0, 4, 2, 2, 1, 4];
    check(&tokens, 5, 3, 7, false, 0);
    check(&tokens, 5, 3, 36, true, 2);
    check(&tokens, 6, 1, 1, true, 1);
    check(&[3], 4, 1, 17, false, 1);
    // More distinct tokens than a block has warps, and one that is frequent.
    let tokens: Vec<u32> = (0..60).map(|i| if i % 3 == 0 { 7 } else { i % 21 }).collect();
    check(&tokens, 30, 4, 33, true, 4);
}
