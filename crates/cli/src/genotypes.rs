//! `darts genotypes`: the built-in cells, by name.

use darts_cells::genotype::{Genotype, named};
use serde_json::json;

use crate::args::{GenotypesArgs, Kind};
use crate::failure::{Result, print};

pub(crate) fn run(typed: &GenotypesArgs) -> Result<()> {
    for (name, genotype) in named::all() {
        let kind = match genotype {
            Genotype::Conv(_) => Kind::Conv,
            Genotype::Recurrent(_) => Kind::Recurrent,
        };
        if typed.kind.is_some_and(|wanted| wanted != kind) {
            continue;
        }
        let kind = if kind == Kind::Conv { "conv" } else { "recurrent" };
        if typed.json {
            print(&json!({ "name": name, "kind": kind, "genotype": genotype }).to_string())?;
        } else {
            print(&format!("{name} ({kind}): {genotype}"))?;
        }
    }
    Ok(())
}
