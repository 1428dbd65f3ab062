//! `darts search`: searches a cell in a run folder.

use darts_runs::SearchRun;

use crate::args::SearchArgs;
use crate::failure::Result;
use crate::terminal::Terminal;
use crate::{interrupt, meant, outcome};

pub(crate) fn run(typed: &SearchArgs) -> Result<()> {
    let config = meant::search(typed)?;
    let options = meant::run_options(&typed.run, config.data())?;
    interrupt::listen()?;
    let mut terminal = Terminal::new(typed.run.machine.quiet);
    let outcome = SearchRun::open_or_create(&typed.run.out, config, options)?.run(&mut terminal)?;
    outcome::report(&outcome, &terminal)
}
