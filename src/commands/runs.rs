//! `tidemill runs` and `tidemill logs`.
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;

use serde::Serialize;
use tidemill_orchestrator::history::RunFilter;
use tidemill_orchestrator::{History as _, OrchestratorError};

use super::Context;
use crate::cli::Runs;
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::runner::{Runner, failure_of};

#[derive(Serialize)]
struct Row {
    run: String,
    state: &'static str,
    queued_at: String,
    seconds: Option<f64>,
}

#[derive(Serialize)]
struct TaskRow {
    task: String,
    state: &'static str,
    attempt: u32,
    seconds: Option<f64>,
    summary: String,
}

pub(super) fn run(context: &Context, command: &Runs) -> Result<Exit> {
    let runner = open(context)?;
    match command {
        Runs::List { dag, limit } => {
            let filter = RunFilter { dag: dag.clone(), state: None, limit: *limit };
            let runs = runner.history.runs(&filter).map_err(OrchestratorError::from)?;
            let rows = runs.into_iter().map(|run| Row {
                state: run.state.name(),
                queued_at: run.queued_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
                seconds: run
                    .started_at
                    .zip(run.ended_at)
                    .and_then(|(start, end)| (end - start).to_std().ok())
                    .map(|span| span.as_secs_f64()),
                run: run.id,
            });
            context.report.rows(&rows.collect::<Vec<_>>())?;
        }
        Runs::Show { run } => {
            let report = runner.scheduler.report(&find(&runner, run)?)?;
            if context.report.json() {
                context.report.one(&report)?;
                return Ok(Exit::Done);
            }
            context.report.note(format_args!("{} {}", report.run.id, report.run.state.name()));
            for (name, value) in &report.run.params {
                context.report.note(format_args!("  {name} = {value}"));
            }
            let rows = report.tasks.iter().map(|task| TaskRow {
                task: task.instance.task.clone(),
                state: task.instance.state.name(),
                attempt: task.instance.attempt,
                seconds: task.seconds,
                summary: task
                    .instance
                    .error
                    .as_ref()
                    .map_or_else(|| task.instance.summary.clone(), |error| error.what.clone()),
            });
            context.report.rows(&rows.collect::<Vec<_>>())?;
            if let Some(failure) = failure_of(&report) {
                // It is what was asked for, not a failure of this command.
                context.report.failure(&failure);
            }
        }
    }
    Ok(Exit::Done)
}

/// `tidemill logs RUN [TASK]`.
pub(super) fn logs(context: &Context, run: &str, task: Option<&str>) -> Result<Exit> {
    let runner = open(context)?;
    let report = runner.scheduler.report(&find(&runner, run)?)?;
    if let Some(task) = task
        && !report.tasks.iter().any(|known| known.instance.task == task)
    {
        return Err(Failure::unknown("task", task, report.tasks.iter().map(|known| known.instance.task.as_str())));
    }
    for known in report.tasks.iter().filter(|known| task.is_none_or(|task| known.instance.task == task)) {
        let Some(path) = &known.log else { continue };
        let Ok(file) = std::fs::File::open(path) else { continue };
        for line in BufReader::new(file).lines() {
            let line = line.map_err(|error| Failure::io(&error, "read", path))?;
            context.report.line(&if task.is_some() { line } else { format!("{} | {line}", known.instance.task) })?;
        }
    }
    Ok(Exit::Done)
}

fn open(context: &Context) -> Result<Runner> {
    Runner::open(&Lakehouse::new(context.project()?), &Arc::new(Metrics::default()))
}

/// The run with this id, or the only one whose id begins with it.
fn find(runner: &Runner, run: &str) -> Result<String> {
    if runner.history.run(run).map_err(OrchestratorError::from)?.is_some() {
        return Ok(run.to_owned());
    }
    let filter = RunFilter { dag: None, state: None, limit: 1000 };
    let runs = runner.history.runs(&filter).map_err(OrchestratorError::from)?;
    let matching: Vec<&str> = runs.iter().map(|r| r.id.as_str()).filter(|id| id.starts_with(run)).collect();
    match matching.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(Failure::unknown("run", run, runs.iter().map(|r| r.id.as_str()))),
        [newest, ..] => Err(Failure::new("X0003", format!("`{run}` begins {} runs", matching.len()))
            .fix(format!("give more letters; the newest of them is `{newest}`"))),
    }
}
