//! `tidemill dags`, `kinds` and `schema`.
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tidemill_orchestrator::history::{Change, RunFilter};
use tidemill_orchestrator::{Dag, OrchestratorError};

use super::Context;
use crate::cli::{Assignment, Dags};
use crate::failure::{Exit, Failure, Result};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::runner::{Runner, exit_of, failure_of};
use crate::status::triggers;
use crate::tasks::specs;

#[derive(Serialize)]
struct Row {
    dag: String,
    state: Option<&'static str>,
    starts: String,
    about: String,
    tasks: usize,
    last_run: Option<String>,
}

/// What of a [`Row`] people want to see at once; the rest is in `dags show` and `runs list`.
#[derive(Serialize)]
struct Short<'a> {
    dag: &'a str,
    last_run: &'a str,
    starts: &'a str,
    about: &'a str,
}

#[derive(Serialize)]
struct TaskRow {
    task: String,
    kind: String,
    after: String,
    retries: u32,
    about: String,
}

pub(super) async fn run(context: &Context, command: &Dags) -> Result<Exit> {
    let house = Lakehouse::new(context.project()?);
    let runner = Runner::open(&house, &Arc::new(Metrics::default()))?;
    match command {
        Dags::List => {
            let mut rows = Vec::new();
            for dag in runner.loaded.dags.iter() {
                let filter = RunFilter { dag: Some(dag.id.clone()), state: None, limit: 1 };
                let last = runner.history.runs(&filter).map_err(OrchestratorError::from)?.into_iter().next();
                rows.push(Row {
                    dag: dag.id.clone(),
                    about: dag.description.clone(),
                    starts: triggers(dag).join("; "),
                    tasks: dag.tasks.len(),
                    state: last.as_ref().map(|run| run.state.name()),
                    last_run: last.map(|run| run.id),
                });
            }
            if context.report.json() {
                context.report.rows(&rows)?;
            } else {
                let short = rows.iter().map(|row| Short {
                    dag: &row.dag,
                    last_run: row.state.unwrap_or("none yet"),
                    starts: &row.starts,
                    about: &row.about,
                });
                context.report.rows(&short.collect::<Vec<_>>())?;
            }
            match runner.problems() {
                None => Ok(Exit::Done),
                Some(problems) => Err(problems),
            }
        }
        Dags::Show { id } => {
            runner.need(&context.report, id)?;
            show(context, runner.loaded.dags.find(id)?)?;
            Ok(Exit::Done)
        }
        Dags::Run { id, params, drain } => {
            runner.need(&context.report, id)?;
            let params = runner.loaded.dags.find(id)?.read_params(&pairs(params))?;
            let report = runner.run(&context.report, id, params, *drain, &context.stop).await?;
            if context.report.json() {
                context.report.one(&report)?;
            }
            if let Some(failure) = failure_of(&report) {
                return Err(failure);
            }
            let took =
                report.run.ended_at.zip(report.run.started_at).and_then(|(end, start)| (end - start).to_std().ok());
            let took = took.map(crate::report::seconds).unwrap_or_default();
            context.report.note(format_args!("{} {} in {took}", report.run.id, report.run.state.name()));
            Ok(exit_of(&report))
        }
        Dags::Pause { id } => pause(context, &house, &runner, id, true),
        Dags::Resume { id } => pause(context, &house, &runner, id, false),
        Dags::Backfill(asked) => super::dag_backfill::run(context, &house, &runner, asked),
        Dags::Test(asked) => super::dag_test::run(context, &house, &runner, asked).await,
        Dags::Trigger { id, params, key } => {
            runner.need(&context.report, id)?;
            let dag = runner.loaded.dags.find(id)?;
            let params = dag.resolve_params(&dag.read_params(&pairs(params))?)?;
            let options = serde_json::Map::new();
            let (run, made) = runner
                .history
                .enqueue_once(id, params, options, "command line", key.as_deref(), house.clock.now())
                .map_err(OrchestratorError::from)?;
            if context.report.json() {
                context.report.one(&json!({ "run": run, "made": made }))?;
            } else {
                context.report.line(&run)?;
            }
            context.report.note(if made {
                "a running `tidemill up` takes it; follow it with `tidemill runs show`"
            } else {
                "there is a run with this key already: nothing was made"
            });
            Ok(Exit::Done)
        }
    }
}

/// `tidemill dags pause` and `resume`.
fn pause(context: &Context, house: &Lakehouse, runner: &Runner, id: &str, pause: bool) -> Result<Exit> {
    runner.loaded.dags.find(id)?;
    let by = pause.then(|| "command line".to_owned());
    let change = Change::Pause { dag: id.to_owned(), by };
    let done = runner.history.apply("", house.clock.now(), &[change]).map_err(OrchestratorError::from)?;
    let changed = done.first() == Some(&true);
    if context.report.json() {
        context.report.one(&json!({ "dag": id, "paused": pause, "changed": changed }))?;
    }
    context.report.note(match (pause, changed) {
        (true, true) => format!("{id} starts no more runs by itself; what runs goes on to its end"),
        (true, false) => format!("{id} was paused already"),
        (false, true) => format!("{id} starts runs again"),
        (false, false) => format!("{id} was not paused"),
    });
    Ok(Exit::Done)
}

pub(super) fn pairs(params: &[Assignment]) -> Vec<(String, String)> {
    params.iter().map(|param| (param.key.clone(), param.value.clone())).collect()
}

fn show(context: &Context, dag: &Dag) -> Result<()> {
    if context.report.json() {
        return context.report.one(dag);
    }
    context.report.note(format_args!("{}: {}", dag.id, dag.description));
    for trigger in triggers(dag) {
        context.report.note(format_args!("  starts {trigger}"));
    }
    for param in &dag.params {
        let default = param.default.as_ref().map_or("no default".to_owned(), |value| format!("default {value}"));
        context.report.note(format_args!(
            "  param {} ({}, {default}) {}",
            param.name,
            param.r#type.name(),
            param.about
        ));
    }
    let row = |task: &tidemill_orchestrator::dag::TaskDef| TaskRow {
        task: task.id.clone(),
        kind: task.kind.clone(),
        after: task.after.join(", "),
        retries: task.retry.retries,
        about: match task.about.as_str() {
            "" => specs().iter().find(|spec| spec.name == task.kind).map_or("", |spec| spec.about).to_owned(),
            about => about.to_owned(),
        },
    };
    context.report.rows(&dag.tasks.iter().map(row).collect::<Vec<_>>())
}

#[derive(Serialize)]
struct KindRow {
    kind: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
struct KeyRow {
    key: &'static str,
    takes: &'static str,
    required: bool,
    default: Option<&'static str>,
    about: &'static str,
}

/// `tidemill kinds [KIND]`.
pub(super) fn kinds(context: &Context, kind: Option<&str>) -> Result<Exit> {
    let specs = specs();
    match kind {
        None => {
            let rows: Vec<KindRow> = specs.iter().map(|spec| KindRow { kind: spec.name, about: spec.about }).collect();
            context.report.rows(&rows)?;
        }
        Some(name) => {
            let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
                return Err(Failure::unknown("task kind", name, specs.iter().map(|spec| spec.name)));
            };
            let rows = spec.keys.iter().map(|key| KeyRow {
                key: key.name,
                takes: key.shape.article(),
                required: key.required,
                default: key.default,
                about: key.about,
            });
            context.report.rows(&rows.collect::<Vec<_>>())?;
        }
    }
    Ok(Exit::Done)
}

/// `tidemill schema dag`.
pub(super) fn schema(context: &Context) -> Result<Exit> {
    let schema: Value = tidemill_orchestrator::dag::schema(&specs());
    let text = serde_json::to_string_pretty(&schema).map_err(|error| Failure::bug(error.to_string()))?;
    context.report.line(&text)?;
    Ok(Exit::Done)
}
