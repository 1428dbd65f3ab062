//! Products of all layouts, tiles and divisions against `darts_ops::matmul`.

use darts_cuda::matmul::{Division, Matrix, Tile, multiply, multiply_divided, scratch_len};
use darts_cuda::{Backend, Memory, Precision, Program, View, Write};
use darts_cuda_emulator::{TestDevice, in_all_orders};
use darts_ops::matmul as reference;

use crate::common::rounded;
use crate::{close, values};

/// A product: which factors are stored transposed, what it does to `out`, whether it has a scale.
#[derive(Copy, Clone, Debug)]
struct Case {
    precision: Precision,
    m: usize,
    k: usize,
    n: usize,
    transposed: (bool, bool),
    write: Write,
    scaled: bool,
}

const PLAIN: Case = Case {
    precision: Precision::F32,
    m: 0,
    k: 0,
    n: 0,
    transposed: (false, false),
    write: Write::Overwrite,
    scaled: false,
};

/// Floats between the rows of `out`, which must stay as they were.
const GAP: usize = 3;

impl Case {
    fn out(self) -> Vec<f32> {
        values(self.m * (self.n + GAP), 3)
    }

    fn run(self, device: &TestDevice, division: Option<Division>) -> Vec<f32> {
        let Self { precision, m, k, n, transposed, write, scaled } = self;
        let [a, b] = [(m * k, 1), (k * n, 2)].map(|(len, seed)| device.uploaded(&values(len, seed)).unwrap());
        let out = device.uploaded(&self.out()).unwrap();
        let scale = scaled.then(|| device.uploaded(&values(m * n, 4)).unwrap());
        let a = if transposed.0 { Matrix::new(a, k, m).transposed() } else { Matrix::new(a, m, k) };
        let b = if transposed.1 { Matrix::new(b, n, k).transposed() } else { Matrix::new(b, k, n) };
        let matrix = Matrix::with_stride(out, m, n, n + GAP);
        let mut program = Program::default();
        let scratch = |len| device.allocate(len).unwrap();
        match division {
            Some(division) => {
                let scratch = scratch(division.scratch_len(m, k, n));
                multiply_divided(&mut program, precision, division, a, b, matrix, write, scale, scratch);
            }
            None => multiply(&mut program, precision, a, b, matrix, write, scale, scratch(scratch_len(m, k, n))),
        }
        device.run(&program).unwrap();
        device.downloaded(out).unwrap()
    }

    fn expected(self) -> Vec<f32> {
        let Self { precision, m, k, n, transposed, write, scaled } = self;
        let factor = |len, seed| values(len, seed).into_iter().map(|value| rounded(value, precision)).collect();
        let (a, b): (Vec<f32>, Vec<f32>) = (factor(m * k, 1), factor(k * n, 2));
        let mut product = vec![0.0; m * n];
        let a =
            if transposed.0 { reference::Matrix::new(&a, k, m).transposed() } else { reference::Matrix::new(&a, m, k) };
        let b =
            if transposed.1 { reference::Matrix::new(&b, n, k).transposed() } else { reference::Matrix::new(&b, k, n) };
        reference::multiply(a, b, reference::MatrixMut::new(&mut product, m, n), darts_ops::Write::Overwrite);
        if scaled {
            product.iter_mut().zip(values(m * n, 4)).for_each(|(product, scale)| *product *= scale);
        }
        let mut out = self.out();
        for (out, product) in out.chunks_mut(n + GAP).zip(product.chunks(n)) {
            for (out, product) in out.iter_mut().zip(product) {
                *out = if write == Write::Accumulate { *out + product } else { *product };
            }
        }
        out
    }

    #[track_caller]
    fn check(self, division: Option<Division>) {
        let found = in_all_orders(|device| self.run(device, division));
        close(&format!("{self:?} {division:?}"), &found, &self.expected(), 2e-6);
    }
}

#[test]
fn emulator_products_of_every_layout_match_reference() {
    for (m, k, n) in [(1, 1, 1), (5, 36, 17), (33, 17, 40)] {
        for transposed in [(false, false), (true, false), (false, true), (true, true)] {
            for (write, scaled) in [(Write::Overwrite, true), (Write::Accumulate, false), (Write::Accumulate, true)] {
                Case { m, k, n, transposed, write, scaled, ..PLAIN }.check(None);
            }
        }
    }
}

#[test]
fn emulator_every_tile_and_division_matches_reference() {
    for (tile, m, n) in [(Tile::Small, 34, 65), (Tile::Medium, 70, 65), (Tile::Large, 131, 130)] {
        for (k, splits) in [(19, 1), (75, 1), (75, 3)] {
            let division = Some(Division { tile, splits });
            Case { m, k, n, ..PLAIN }.check(division);
            if splits > 1 {
                let transposed = (true, true);
                Case { m, k, n, transposed, write: Write::Accumulate, scaled: true, ..PLAIN }.check(division);
            }
        }
    }
}

#[test]
fn emulator_products_on_tensor_cores_match_products_of_rounded_factors() {
    for precision in [Precision::Tf32, Precision::Bf16] {
        for (tile, m, n) in [(Tile::Small, 34, 17), (Tile::Medium, 70, 65), (Tile::Large, 129, 130)] {
            let layouts = [(false, false), (true, false), (false, true), (true, true)];
            for (i, transposed) in layouts.into_iter().enumerate().filter(|(i, _)| tile != Tile::Large || *i < 2) {
                // One tile and less of k, and several in one or two parts.
                let (k, splits) = [(19, 1), (70, 2), (33, 1), (16, 1)][i];
                let write = if i == 1 { Write::Accumulate } else { Write::Overwrite };
                let case = Case { precision, m, k, n, transposed, write, scaled: i > 1 };
                case.check(Some(Division { tile, splits }));
            }
        }
        Case { precision, m: 1, k: 1, n: 1, ..PLAIN }.check(None);
        Case { precision, m: 2, n: 3, ..PLAIN }.check(None);
    }
}

#[test]
fn emulator_a_sum_over_nothing_is_zero() {
    Case { m: 2, n: 3, ..PLAIN }.check(None);
    Case { m: 2, n: 3, write: Write::Accumulate, ..PLAIN }.check(None);
}

#[test]
fn emulator_numbers_beyond_a_factor_are_not_read() {
    // Rows of the factors end in a gap of NaN, which memory is filled with.
    let (m, k, n) = (5, 6, 7);
    let found = in_all_orders(|device| {
        let strided = |rows: usize, columns: usize, seed| -> View {
            let view = device.uploaded(&vec![f32::NAN; rows * (columns + 2)]).unwrap();
            for (row, values) in values(rows * columns, seed).chunks(columns).enumerate() {
                let start = row * (columns + 2);
                device.upload(view.slice(start..start + columns), values).unwrap();
            }
            view
        };
        let a = Matrix::with_stride(strided(m, k, 1), m, k, k + 2);
        let b = Matrix::with_stride(strided(k, n, 2), k, n, n + 2);
        let out = device.allocate(m * n).unwrap();
        let mut program = Program::default();
        multiply(&mut program, Precision::F32, a, b, Matrix::new(out, m, n), Write::Overwrite, None, View::none());
        device.run(&program).unwrap();
        device.downloaded(out).unwrap()
    });
    let expected = Case { m, k, n, ..PLAIN }.expected();
    let expected: Vec<f32> = expected.chunks(n + GAP).flat_map(|row| &row[..n]).copied().collect();
    close("product", &found, &expected, 2e-6);
}
