//! `darts derive`: the cell of a search so far, from its latest good checkpoint.

use crate::args::DeriveArgs;
use crate::failure::{Result, failed, print};

pub(crate) fn run(typed: &DeriveArgs) -> Result<()> {
    let genotype = darts_runs::derive(&typed.run_dir)?.genotype;
    if typed.text {
        return print(&genotype.to_string());
    }
    let json = genotype.to_json().map_err(failed)?;
    print(json.trim_end())
}
