//! The promises of the drawings: nothing overlaps, no line runs through a label or a node that it does not belong to, every SVG is well-formed.

use darts_cells::genotype::{Genotype, named};
use resvg::usvg::roxmltree::Document;

use super::{
    layout::{Layout, Placed},
    *,
};

fn genotypes() -> Vec<(&'static str, Genotype)> {
    let conv = named::CONV.iter().map(|cell| (cell.name, Genotype::from(cell.genotype())));
    let recurrent = named::RECURRENT.iter().map(|cell| (cell.name, Genotype::from(cell.genotype())));
    conv.chain(recurrent).collect()
}

fn overlap(a: Placed, b: Placed) -> bool {
    (a.x - b.x).abs() < (a.width + b.width) / 2.0 - 0.01 && (a.y - b.y).abs() < (a.height + b.height) / 2.0 - 0.01
}

fn boxes(layout: &Layout) -> Vec<Placed> {
    layout.nodes.iter().copied().chain(layout.routes.iter().filter_map(|route| route.label)).collect()
}

#[test]
fn boxes_of_named_cells_do_not_overlap_and_lie_within_the_drawing() {
    for (name, genotype) in genotypes() {
        for graph in graphs(&genotype) {
            let layout = render::plan(&graph);
            let boxes = boxes(&layout);
            for (index, a) in boxes.iter().enumerate() {
                assert!(a.x >= 0.0 && a.x + a.width / 2.0 <= layout.width + 0.01, "{name} {}: {a:?}", graph.title);
                assert!(
                    a.y - a.height / 2.0 >= -0.01 && a.y + a.height / 2.0 <= layout.height + 0.01,
                    "{name} {}: {a:?}",
                    graph.title
                );
                for b in &boxes[index + 1..] {
                    assert!(!overlap(*a, *b), "{name} {}: {a:?} and {b:?}", graph.title);
                }
            }
        }
    }
}

#[test]
fn lines_of_named_cells_run_through_no_foreign_box() {
    for (name, genotype) in genotypes() {
        for graph in graphs(&genotype) {
            let layout = render::plan(&graph);
            for (route, edge) in layout.routes.iter().zip(&graph.edges) {
                for stop in &route.stops {
                    let line = Placed {
                        x: (stop.left + stop.right) / 2.0,
                        y: stop.y,
                        width: stop.right - stop.left,
                        height: 0.0,
                    };
                    let foreign = boxes(&layout).into_iter().filter(|place| {
                        let own = [layout.nodes[edge.from], layout.nodes[edge.to]].into_iter().chain(route.label);
                        !own.into_iter().any(|own| (own.x, own.y) == (place.x, place.y))
                    });
                    for place in foreign {
                        assert!(!overlap(line, place), "{name} {}: {edge:?} runs through {place:?}", graph.title);
                    }
                }
                // Between stops there are no boxes: columns do not overlap.
                assert!(
                    route.stops.windows(2).all(|pair| pair[0].right < pair[1].left),
                    "{name} {}: {edge:?}",
                    graph.title
                );
            }
        }
    }
}

#[test]
fn edges_with_the_same_ends_are_two_lines_with_a_label_each() {
    let graph = CellGraph::conv("Normal cell", &[("avg_pool_3x3", 0), ("avg_pool_3x3", 0)], &[2]);
    let layout = render::plan(&graph);
    let (Some(a), Some(b)) = (layout.routes[0].label, layout.routes[1].label) else { panic!("two labels expected") };
    assert!((a.y - b.y).abs() > a.height);
    assert_ne!(layout.routes[0].stops[0].y, layout.routes[1].stops[0].y, "they leave their source at two places");
}

#[test]
fn inputs_are_left_outputs_right_and_the_first_input_is_on_top() {
    for (name, genotype) in genotypes() {
        for graph in graphs(&genotype) {
            let nodes = render::plan(&graph).nodes;
            for edge in &graph.edges {
                assert!(nodes[edge.from].x < nodes[edge.to].x, "{name} {}: {edge:?}", graph.title);
            }
            assert!(nodes[0].y < nodes[1].y, "{name} {}", graph.title);
        }
    }
}

#[test]
fn drawings_are_well_formed_name_every_operation_and_escape_their_name() {
    for (name, genotype) in genotypes() {
        for drawing in drawings(&genotype, Some("<cell> & \"co\"")) {
            let document =
                Document::parse(&drawing.svg).unwrap_or_else(|error| panic!("{name} {}: {error}", drawing.stem));
            assert!(document.descendants().any(|node| node.text() == Some("<cell> & \"co\"")));
        }
        let labels = sheet(&genotype, None).matches("class=\"cell-op\"").count();
        let expected = match &genotype {
            Genotype::Conv(cells) => cells.normal.len() + cells.reduce.len(),
            Genotype::Recurrent(cell) => cell.recurrent.len(),
        };
        assert_eq!(labels, expected, "{name}");
    }
}

#[test]
fn a_cell_is_drawn_the_same_way_every_time() {
    let genotype = Genotype::from(named::CONV[3].genotype());
    assert_eq!(sheet(&genotype, None), sheet(&genotype, None));
}

#[test]
fn a_png_has_the_size_that_was_asked_for_and_ink_on_it() {
    let svg = sheet(&Genotype::from(named::CONV[1].genotype()), Some("DARTS_V2"));
    let bytes = png(&svg, 1.5).unwrap();
    let pixels = resvg::tiny_skia::Pixmap::decode_png(&bytes).unwrap();
    let width: f32 = Document::parse(&svg).unwrap().root_element().attribute("width").unwrap().parse().unwrap();
    assert_eq!(pixels.width(), (width * 1.5).ceil() as u32);
    let dark = pixels.pixels().iter().filter(|pixel| pixel.alpha() == 255 && pixel.red() < 80).count();
    assert!(dark > 2000, "{dark} dark pixels: are texts drawn?");
}

#[test]
fn what_is_no_picture_is_refused() {
    assert!(matches!(png("<svg", 1.0), Err(crate::report::ReportError::Drawing { .. })));
    let svg = sheet(&Genotype::from(named::CONV[0].genotype()), None);
    for scale in [0.0, -1.0, f32::NAN, 1e9] {
        assert!(matches!(png(&svg, scale), Err(crate::report::ReportError::Drawing { .. })), "{scale}");
    }
}
