//! α to genotype against the golden cases, and the tie rules on rows made by hand.

mod common;

use darts_cells::{
    Error,
    genotype::Genotype,
    primitive::{Activation, Primitive},
    space::{ConvSpace, RecurrentSpace},
};
use serde_json::Value;

fn rows(value: &Value) -> Vec<f32> {
    let rows = value.as_array().unwrap().iter();
    rows.flat_map(|row| row.as_array().unwrap()).map(|number| number.as_f64().unwrap() as f32).collect()
}

fn cases(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn names(value: &Value) -> Vec<&str> {
    value["primitives"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[test]
fn convolutional_cells_match_golden() {
    for path in common::golden_files("derive_conv", "json") {
        let file = cases(&path);
        let primitives = names(&file).into_iter().map(|name| name.parse().unwrap()).collect::<Vec<Primitive>>();
        for case in file["cases"].as_array().unwrap() {
            let alphas = [rows(&case["alphas_normal"]), rows(&case["alphas_reduce"])];
            let edges = alphas[0].len() / primitives.len();
            let nodes = (1..).find(|nodes| nodes * (nodes + 3) / 2 >= edges).unwrap();
            let space = ConvSpace { nodes, primitives: primitives.clone() };
            let expected: Genotype = serde_json::from_value(case["genotype"].clone()).unwrap();
            assert_eq!(Genotype::from(space.derive(&alphas.concat()).unwrap()), expected, "{}", case["note"]);
        }
    }
}

#[test]
fn recurrent_cells_match_golden() {
    for path in common::golden_files("derive_recurrent", "json") {
        let file = cases(&path);
        let activations = names(&file).into_iter().map(|name| name.parse().unwrap()).collect::<Vec<Activation>>();
        for case in file["cases"].as_array().unwrap() {
            let alphas = rows(&case["alphas"]);
            let edges = alphas.len() / activations.len();
            let nodes = (1..).find(|nodes| nodes * (nodes + 1) / 2 >= edges).unwrap();
            let space = RecurrentSpace { nodes, activations: activations.clone() };
            let expected: Genotype = serde_json::from_value(case["genotype"].clone()).unwrap();
            assert_eq!(Genotype::from(space.derive(&alphas).unwrap()), expected, "{}", case["kind"]);
        }
    }
}

#[test]
fn the_same_numbers_in_another_order_tie_and_the_lower_edge_wins() {
    let space = RecurrentSpace { nodes: 2, ..RecurrentSpace::darts() };
    // Node 2 has two edges with the same numbers in another order; summed as they stand, the weights differ in their last bit.
    let alphas = [[0.0, 1.0, 0.0, 0.0, 0.0], [0.1, 0.7, 0.2, 0.3, 0.6], [0.6, 0.3, 0.7, 0.1, 0.2]];
    let genotype = space.derive(&alphas.concat()).unwrap();
    assert_eq!(genotype.recurrent, [(Activation::Tanh, 0), (Activation::Tanh, 0)]);
}

#[test]
fn all_equal_alphas_give_the_lowest_edges_and_operations() {
    let genotype = ConvSpace::darts().derive(&[0.0; 2 * 14 * 8]).unwrap();
    assert!(genotype.normal.iter().enumerate().all(|(i, &pair)| pair == (Primitive::MaxPool3x3, i % 2)));
    let genotype = RecurrentSpace::darts().derive(&[0.0; 36 * 5]).unwrap();
    assert!(genotype.recurrent.iter().all(|&pair| pair == (Activation::Tanh, 0)));
}

#[test]
fn alphas_without_a_choice_are_refused() {
    let mut alphas = vec![0.0; 2 * 14 * 8];
    alphas[14 * 8 + 9] = f32::NAN;
    let refused = ConvSpace::darts().derive(&alphas).unwrap_err();
    assert!(matches!(refused, Error::NotFinite { row: 1, column: 1, .. }), "{refused}");
    assert!(matches!(ConvSpace::darts().derive(&alphas[1..]), Err(Error::Length { .. })));
    assert!(matches!(RecurrentSpace::darts().derive(&[0.0; 5]), Err(Error::Length { expected: 180, .. })));
}
