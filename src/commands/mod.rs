//! One function per command. Each gets the [`Context`], does its work and says how the process ends.
mod completions;
mod explain;
mod health;
pub(crate) mod init;
mod settings;

use tokio_util::sync::CancellationToken;

use crate::cli::{Command, Global};
use crate::failure::{Exit, Failure, Result};
use crate::project::Project;
use crate::report::Report;
use crate::settings::Environment;

/// What every command works with.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Where everything a person reads goes through.
    pub(crate) report: Report,
    /// The flags every command understands.
    pub(crate) global: Global,
    /// The environment as it was at the start.
    pub(crate) environment: Environment,
    /// Cancelled at the first Ctrl-C or SIGTERM: finish what is under way, then return [`Exit::Stopped`].
    pub(crate) stop: CancellationToken,
}

impl Context {
    /// The project one stands in, with its settings.
    ///
    /// # Errors
    /// S0001 if there is none; every problem of its settings.
    pub(crate) fn project(&self) -> Result<Project> {
        Project::open(&self.global, &self.environment)
    }
}

/// Runs one command.
pub(crate) async fn run(context: &Context, command: Command) -> Result<Exit> {
    match command {
        Command::Init { dir } => init::run(context, &dir),
        Command::Explain { code } => explain::run(context, code.as_deref()),
        Command::Settings { prefix } => settings::run(context, prefix.as_deref()),
        Command::Health => health::run(context).await,
        Command::Completions { shell } => completions::run(context, shell),
        _ => Err(Failure::new("X0004", "this command is not part of this build")),
    }
}
