//! The four tables of results that the DARTS paper published, row by row, to stand beside a run's own figures.
//!
//! Figures are those of the ICLR 2019 paper (Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search"); where the first arXiv version (June 2018,
//! 1806.09055v1) differs, a row says how. Nothing here is computed or rounded anew.

/// A published number, with its standard deviation where one was given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The number as printed.
    pub value: f64,
    /// Decimals that were printed.
    pub decimals: usize,
    /// Standard deviation over several trainings.
    pub deviation: Option<f64>,
}

/// What a search cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cost {
    /// Made by hand: no search.
    None,
    /// GPU-days (of a GTX 1080 Ti for the authors' own searches).
    GpuDays(f64),
    /// About so many GPU-days.
    AboutGpuDays(f64),
    /// CPU-days.
    CpuDays(f64),
}

/// How an architecture was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By people.
    Manual,
    /// Reinforcement learning.
    Reinforcement,
    /// Evolution.
    Evolution,
    /// Sequential model-based optimization.
    ModelBased,
    /// Random search.
    Random,
    /// Gradient descent on a relaxation.
    Gradient,
}

/// One row of a published table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The architecture and what was done to it.
    pub architecture: &'static str,
    /// Where the figures come from, if not from the DARTS authors.
    pub source: Option<&'static str>,
    /// Whether the DARTS authors trained it in their own set-up (†).
    pub retrained: bool,
    /// The two figures of the table's [`Table::figures`]; error tables with one figure leave the second empty.
    pub figures: [Option<Figure>; 2],
    /// Parameters in millions, as printed (`~5`).
    pub parameters: Option<&'static str>,
    /// Multiply-adds in millions.
    pub multiply_adds: Option<u32>,
    /// Cost of the search.
    pub cost: Cost,
    /// How it was found.
    pub method: Method,
    /// What the first arXiv version says instead.
    pub v1: Option<&'static str>,
}

/// A published table.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its number in the paper.
    pub number: u8,
    /// What it shows.
    pub title: &'static str,
    /// Headings of the figures: one or two.
    pub figures: &'static [&'static str],
    /// Which of them a run's own result is set beside.
    pub headline: usize,
    /// Whether it has a column of multiply-adds.
    pub multiply_adds: bool,
    /// Every row.
    pub rows: &'static [Row],
    /// What a reader should know beside it.
    pub remarks: &'static [&'static str],
}

impl Table {
    /// The table of the data that a task uses, `cifar10`, `ptb`, …; synthetic data get the table of what they stand in for. None for data that the paper
    /// has no table of.
    pub fn of_task(task: &str) -> Option<&'static Self> {
        match task {
            "cifar10" | "synthetic-images" => Some(&CIFAR10),
            "ptb" | "synthetic-text" => Some(&PENN_TREEBANK),
            "imagenet" => Some(&IMAGENET),
            "wikitext2" => Some(&WIKITEXT2),
            _ => None,
        }
    }
}

impl Figure {
    /// The number as the paper printed it.
    pub fn text(&self) -> String {
        let value = format!("{:.*}", self.decimals, self.value);
        match self.deviation {
            Some(deviation) => format!("{value} ± {deviation:.*}", self.decimals),
            None => value,
        }
    }
}

impl Cost {
    /// The number as the paper printed it; a dash for none.
    pub fn text(&self) -> String {
        match self {
            Self::None => "–".to_owned(),
            Self::GpuDays(days) => format!("{days}"),
            Self::AboutGpuDays(days) => format!("~{days}"),
            Self::CpuDays(days) => format!("{days} CPU-days"),
        }
    }
}

impl Method {
    /// As the paper names it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Reinforcement => "RL",
            Self::Evolution => "evolution",
            Self::ModelBased => "SMBO",
            Self::Random => "random",
            Self::Gradient => "gradient",
        }
    }
}

use Method::{Evolution, Gradient, Manual, ModelBased, Random, Reinforcement};

const fn row(architecture: &'static str, method: Method) -> Row {
    Row {
        architecture,
        source: None,
        retrained: false,
        figures: [None, None],
        parameters: None,
        multiply_adds: None,
        cost: Cost::None,
        method,
        v1: None,
    }
}

impl Row {
    const fn by(self, source: &'static str) -> Self {
        Self { source: Some(source), ..self }
    }

    const fn retrained(self) -> Self {
        Self { retrained: true, ..self }
    }

    /// CIFAR-10: test error in %, printed with two decimals.
    const fn error(self, value: f64) -> Self {
        Self { figures: [Some(Figure { value, decimals: 2, deviation: None }), None], ..self }
    }

    const fn error_pm(self, value: f64, deviation: f64) -> Self {
        Self { figures: [Some(Figure { value, decimals: 2, deviation: Some(deviation) }), None], ..self }
    }

    /// Two figures with one decimal: perplexities, or top-1 and top-5 errors.
    const fn pair(self, first: Option<f64>, second: Option<f64>) -> Self {
        Self { figures: [one_decimal(first), one_decimal(second)], ..self }
    }

    const fn size(self, millions: &'static str) -> Self {
        Self { parameters: Some(millions), ..self }
    }

    const fn adds(self, millions: u32) -> Self {
        Self { multiply_adds: Some(millions), ..self }
    }

    const fn days(self, days: f64) -> Self {
        Self { cost: Cost::GpuDays(days), ..self }
    }

    const fn cost(self, cost: Cost) -> Self {
        Self { cost, ..self }
    }

    const fn v1(self, difference: &'static str) -> Self {
        Self { v1: Some(difference), ..self }
    }
}

const fn one_decimal(value: Option<f64>) -> Option<Figure> {
    match value {
        Some(value) => Some(Figure { value, decimals: 1, deviation: None }),
        None => None,
    }
}

/// Table 1.
pub const CIFAR10: Table = Table {
    number: 1,
    title: "CIFAR-10, test error",
    figures: &["test error %"],
    headline: 0,
    multiply_adds: false,
    rows: &[
        row("DenseNet-BC", Manual).by("Huang 2017").error(3.46).size("25.6"),
        row("NASNet-A + cutout", Reinforcement).by("Zoph 2018").error(2.65).size("3.3").days(2000.0).v1("cost 1800"),
        row("NASNet-A + cutout", Reinforcement).retrained().error(2.83).size("3.1").days(2000.0).v1("cost 3150"),
        row("BlockQNN", Reinforcement).by("Zhong 2018").error(3.54).size("39.8").days(96.0).v1("absent"),
        row("AmoebaNet-A", Evolution).by("Real 2018").error_pm(3.34, 0.06).size("3.2").days(3150.0),
        row("AmoebaNet-A + cutout", Evolution).retrained().error(3.12).size("3.1").days(3150.0),
        row("AmoebaNet-B + cutout", Evolution).by("Real 2018").error_pm(2.55, 0.05).size("2.8").days(3150.0),
        row("Hierarchical evolution", Evolution).by("Liu 2018b").error_pm(3.75, 0.12).size("15.7").days(300.0),
        row("PNAS", ModelBased).by("Liu 2018a").error_pm(3.41, 0.09).size("3.2").days(225.0).v1("absent"),
        row("ENAS + cutout", Reinforcement).by("Pham 2018").error(2.89).size("4.6").days(0.5),
        row("ENAS + cutout, 8 repeats, DARTS’ selection", Reinforcement).error(2.91).size("4.2").days(4.0).v1("absent"),
        row("Random search (best of 24 after 100 epochs) + cutout", Random)
            .error_pm(3.29, 0.15)
            .size("3.2")
            .days(4.0)
            .v1("“Random” 3.49, 3.1 M, no cost"),
        row("DARTS first order + cutout", Gradient).error_pm(3.00, 0.14).size("3.3").days(1.5).v1("2.94, 2.9 M"),
        row("DARTS second order + cutout", Gradient)
            .error_pm(2.76, 0.09)
            .size("3.3")
            .days(4.0)
            .v1("2.83 ± 0.06, 3.4 M"),
    ],
    remarks: &[
        "The cost is that of the search alone; selection took 1 GPU-day more, the final training 1.5.",
        "Protocol: four searches with different seeds, each cell trained for 100 epochs, the best on validation data trained in full; the test set is never used before that.",
        "Ablations of the same section: α and w by coordinate descent on training and validation data together, 4.16 ± 0.16 % (3.1 M); both at once by SGD, 3.56 ± 0.10 % (3.0 M).",
    ],
};

/// Table 2.
pub const PENN_TREEBANK: Table = Table {
    number: 2,
    title: "Penn Treebank, perplexity",
    figures: &["valid", "test"],
    headline: 1,
    multiply_adds: false,
    rows: &[
        row("Variational RHN", Manual).by("Zilly 2016").pair(Some(67.9), Some(65.4)).size("23"),
        row("LSTM", Manual).by("Merity 2018").pair(Some(60.7), Some(58.8)).size("24"),
        row("LSTM + skip connections", Manual).by("Melis 2018").pair(Some(60.9), Some(58.3)).size("24"),
        row("LSTM + 15 softmax experts", Manual).by("Yang 2018").pair(Some(58.1), Some(56.0)).size("22"),
        row("NAS", Reinforcement).by("Zoph & Le 2017").pair(None, Some(64.0)).size("25").cost(Cost::CpuDays(1e4)),
        row("ENAS (released code)", Reinforcement).by("Pham 2018").pair(Some(68.3), Some(63.1)).size("24").days(0.5),
        row("ENAS", Reinforcement).retrained().pair(Some(60.8), Some(58.6)).size("24").days(0.5),
        row("Random search (best of 8 after 300 epochs)", Random).pair(Some(61.8), Some(59.4)).size("23").days(2.0),
        row("DARTS first order", Gradient).pair(Some(60.2), Some(57.6)).size("23").days(0.5),
        row("DARTS second order", Gradient).pair(Some(58.1), Some(55.7)).size("23").days(1.0),
    ],
    remarks: &["The cost is that of the search alone; the final training took 3 GPU-days."],
};

/// Table 3.
pub const IMAGENET: Table = Table {
    number: 3,
    title: "ImageNet in the mobile setting, test error",
    figures: &["top-1 %", "top-5 %"],
    headline: 0,
    multiply_adds: true,
    rows: &[
        row("Inception-v1", Manual).by("Szegedy 2015").pair(Some(30.2), Some(10.1)).size("6.6").adds(1448),
        row("MobileNet", Manual).by("Howard 2017").pair(Some(29.4), Some(10.5)).size("4.2").adds(569),
        row("ShuffleNet 2× (v1)", Manual)
            .by("Zhang 2017")
            .pair(Some(29.1), Some(10.2))
            .size("~5")
            .adds(524)
            .v1("only in v1"),
        row("ShuffleNet 2× (v2)", Manual).by("Zhang 2017").pair(Some(26.3), None).size("~5").adds(524),
        row("NASNet-A", Reinforcement)
            .by("Zoph 2018")
            .pair(Some(26.0), Some(8.4))
            .size("5.3")
            .adds(564)
            .days(2000.0)
            .v1("cost 1800"),
        row("NASNet-B", Reinforcement)
            .by("Zoph 2018")
            .pair(Some(27.2), Some(8.7))
            .size("5.3")
            .adds(488)
            .days(2000.0)
            .v1("cost 1800"),
        row("NASNet-C", Reinforcement)
            .by("Zoph 2018")
            .pair(Some(27.5), Some(9.0))
            .size("4.9")
            .adds(558)
            .days(2000.0)
            .v1("cost 1800"),
        row("AmoebaNet-A", Evolution).by("Real 2018").pair(Some(25.5), Some(8.0)).size("5.1").adds(555).days(3150.0),
        row("AmoebaNet-B", Evolution).by("Real 2018").pair(Some(26.0), Some(8.5)).size("5.3").adds(555).days(3150.0),
        row("AmoebaNet-C", Evolution).by("Real 2018").pair(Some(24.3), Some(7.6)).size("6.4").adds(570).days(3150.0),
        row("PNAS", ModelBased)
            .by("Liu 2018a")
            .pair(Some(25.8), Some(8.1))
            .size("5.1")
            .adds(588)
            .cost(Cost::AboutGpuDays(225.0)),
        row("DARTS (searched on CIFAR-10)", Gradient)
            .pair(Some(26.7), Some(8.7))
            .size("4.7")
            .adds(574)
            .days(4.0)
            .v1("26.9, 9.0, 4.9 M, 595 M"),
    ],
    remarks: &[
        "The paper’s multiply-adds follow another convention than this project’s, which counts 529.9 M for the same network.",
    ],
};

/// Table 4.
pub const WIKITEXT2: Table = Table {
    number: 4,
    title: "WikiText-2, perplexity",
    figures: &["valid", "test"],
    headline: 1,
    multiply_adds: false,
    rows: &[
        row("LSTM + augmented loss", Manual).by("Inan 2017").pair(Some(91.5), Some(87.0)).size("28"),
        row("LSTM + continuous cache pointer", Manual).by("Grave 2016").pair(None, Some(68.9)),
        row("LSTM", Manual).by("Merity 2018").pair(Some(69.1), Some(66.0)).size("33"),
        row("LSTM + skip connections", Manual).by("Melis 2018").pair(Some(69.1), Some(65.9)).size("24"),
        row("LSTM + 15 softmax experts", Manual).by("Yang 2018").pair(Some(66.0), Some(63.3)).size("33"),
        row("ENAS (searched on PTB)", Reinforcement).retrained().pair(Some(72.4), Some(70.4)).size("33").days(0.5),
        row("DARTS (searched on PTB)", Gradient).pair(Some(71.2), Some(69.6)).size("33").days(1.0),
    ],
    remarks: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_as_many_rows_as_published() {
        let rows = [&CIFAR10, &PENN_TREEBANK, &IMAGENET, &WIKITEXT2].map(|table| (table.number, table.rows.len()));
        assert_eq!(rows, [(1, 14), (2, 10), (3, 12), (4, 7)]);
    }

    #[test]
    fn figures_print_as_published() {
        let darts = CIFAR10.rows.last().unwrap();
        assert_eq!(darts.figures[0].unwrap().text(), "2.76 ± 0.09");
        assert_eq!(darts.cost.text(), "4");
        assert_eq!(CIFAR10.rows[12].figures[0].unwrap().text(), "3.00 ± 0.14");
        assert_eq!(PENN_TREEBANK.rows[4].cost.text(), "10000 CPU-days");
        assert_eq!(IMAGENET.rows[10].cost.text(), "~225");
        assert_eq!(WIKITEXT2.rows[1].parameters, None);
    }

    #[test]
    fn data_without_a_published_table_have_none() {
        assert_eq!(Table::of_task("synthetic-text").map(|table| table.number), Some(2));
        assert!(Table::of_task("image-folder").is_none());
    }
}
