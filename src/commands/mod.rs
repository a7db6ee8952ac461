//! One function per command. Each gets the [`Context`], does its work and says how the process ends.
mod backfill;
mod backup;
mod completions;
mod dag_backfill;
mod dag_test;
mod dags;
mod dead_letters;
mod demo;
mod doctor;
mod explain;
mod generate;
mod health;
pub(crate) mod init;
mod model_explain;
mod models;
mod query;
mod runs;
mod schedule;
mod schemas;
mod settings;
mod streams;
mod tables;
mod topics;
mod up;
mod verify;
mod why;

use tokio_util::sync::CancellationToken;

use crate::cli::{Command, Global, SchemaKind};
use crate::failure::{Exit, Result};
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

/// How this program was called, so that a hint can be typed as it stands.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "tidemill".to_owned())
}

/// Runs one command.
pub(crate) async fn run(context: &Context, command: Command) -> Result<Exit> {
    match command {
        Command::Init { dir, pipeline } => init::run(context, &dir, &pipeline),
        Command::Explain { code } => explain::run(context, code.as_deref()),
        Command::Settings { prefix } => settings::run(context, prefix.as_deref()),
        Command::Doctor => Box::pin(doctor::run(context)).await,
        Command::Backup { to } => backup::backup(context, &to),
        Command::Restore { from, replace } => backup::restore(context, &from, replace).await,
        Command::Health => health::run(context).await,
        Command::Completions { shell } => completions::run(context, shell),
        Command::Demo(demo) => Box::pin(demo::run(context, &demo)).await,
        Command::Up(up) => Box::pin(up::run(context, &up)).await,
        Command::Dags(command) => Box::pin(dags::run(context, &command)).await,
        Command::Schedule(asked) => schedule::run(context, &asked),
        Command::Runs(command) => runs::run(context, &command),
        Command::Logs { run, task, follow } => runs::logs(context, &run, task.as_deref(), follow).await,
        Command::Why { what } => why::run(context, &what),
        Command::Topics(command) => Box::pin(topics::run(context, &command)).await,
        Command::Schemas(command) => Box::pin(schemas::run(context, &command)).await,
        Command::Generate(command) => Box::pin(generate::run(context, &command)).await,
        Command::Query(query) => Box::pin(query::run(context, &query)).await,
        Command::Tables(command) => Box::pin(tables::run(context, &command)).await,
        Command::Models(command) => Box::pin(models::run(context, &command)).await,
        Command::Checks(command) => Box::pin(models::checks(context, &command)).await,
        Command::DeadLetters(command) => Box::pin(dead_letters::run(context, &command)).await,
        Command::Streams(command) => Box::pin(streams::run(context, &command)).await,
        Command::Verify(asked) => Box::pin(verify::run(context, &asked)).await,
        Command::Schema { kind: SchemaKind::Dag } => dags::schema(context),
        Command::Kinds { kind } => dags::kinds(context, kind.as_deref()),
    }
}
