//! `tidemill completions SHELL`.
use clap::CommandFactory as _;

use super::Context;
use crate::cli::Cli;
use crate::failure::{Exit, Result};

pub(super) fn run(context: &Context, shell: clap_complete::Shell) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidemill", &mut script);
    context.report.output(|out| out.write_all(&script))?;
    Ok(Exit::Done)
}
