//! `darts train`: trains a discrete network from scratch in a run folder.

use darts_runs::TrainRun;

use crate::args::TrainArgs;
use crate::failure::Result;
use crate::terminal::Terminal;
use crate::{interrupt, meant, outcome};

pub(crate) fn run(typed: &TrainArgs) -> Result<()> {
    let config = meant::train(typed)?;
    let mut options = meant::run_options(&typed.run, config.data())?;
    options.max_bad_images = typed.max_bad_images.unwrap_or_default();
    interrupt::listen()?;
    let mut terminal = Terminal::new(typed.run.machine.quiet);
    let outcome = TrainRun::open_or_create(&typed.run.out, config, options)?.run(&mut terminal)?;
    outcome::report(&outcome, &terminal)
}
