//! `tidemill runs` and `tidemill logs`.
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tidemill_orchestrator::history::{Change, RunFilter};
use tidemill_orchestrator::plan::amend::{Wish, amend};
use tidemill_orchestrator::{OrchestratorError, RunReport, RunState, TaskInstance, TaskState};

use super::Context;
use crate::cli::{MarkAs, Runs};
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
        Runs::List { dag, state, limit } => {
            let state = match state {
                None => None,
                Some(name) => Some(RunState::named(name).ok_or_else(|| {
                    Failure::unknown("state of runs", name, RunState::ALL.iter().map(|state| state.name()))
                })?),
            };
            let filter = RunFilter { dag: dag.clone(), state, limit: *limit };
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
        Runs::Gantt { run } => gantt(context, &runner.scheduler.report(&find(&runner, run)?)?)?,
        Runs::Forget { older_than } => {
            let span = chrono::TimeDelta::from_std(*older_than).unwrap_or(chrono::TimeDelta::MAX);
            let count = match runner.house.clock.now().checked_sub_signed(span) {
                Some(before) => forget(&runner, before)?,
                None => 0,
            };
            if context.report.json() {
                context.report.one(&json!({ "forgotten": count }))?;
            }
            context.report.note(format_args!("{count} runs are forgotten, with their logs"));
        }
        Runs::Cancel { run } => {
            let run = find(&runner, run)?;
            let change = Change::Cancel { run: run.clone(), by: "command line".to_owned() };
            ask(context, &runner, change, &run, "it is being stopped", "it has ended already")?;
        }
        Runs::Clear { run, tasks, downstream } => {
            let run = find(&runner, run)?;
            wish(context, &runner, &run, tasks, Wish::Clear { downstream: *downstream })?;
        }
        Runs::Mark { run, tasks, state } => {
            let run = find(&runner, run)?;
            let wish_for = match state {
                MarkAs::Success => Wish::Success,
                MarkAs::Failed => Wish::Failed,
                MarkAs::Skipped => Wish::Skip,
            };
            wish(context, &runner, &run, tasks, wish_for)?;
        }
    }
    Ok(Exit::Done)
}

/// Forgets runs that ended before an instant, and then removes their logs: logs without a run hurt nobody.
pub(crate) fn forget(runner: &Runner, before: chrono::DateTime<chrono::Utc>) -> Result<usize> {
    // So few at once that nobody waits long for the history.
    const AT_ONCE: usize = 500;
    let logs = runner.house.project.state("logs")?;
    let mut count = 0;
    loop {
        let forgotten = runner.history.forget(before, AT_ONCE).map_err(OrchestratorError::from)?;
        for (dag, run) in &forgotten {
            let folder = logs.join(dag).join(run);
            if let Err(error) = std::fs::remove_dir_all(&folder)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(Failure::io(&error, "remove", &folder));
            }
        }
        count += forgotten.len();
        if forgotten.len() < AT_ONCE {
            return Ok(count);
        }
    }
}

/// Asks something of the scheduler that drives a run.
fn ask(context: &Context, runner: &Runner, change: Change, run: &str, done: &str, not: &str) -> Result<()> {
    let now = runner.house.clock.now();
    let accepted = runner.history.apply("", now, &[change]).map_err(OrchestratorError::from)?;
    let accepted = accepted.first() == Some(&true);
    if context.report.json() {
        context.report.one(&json!({ "run": run, "accepted": accepted }))?;
    }
    context.report.note(format_args!("{run}: {}", if accepted { done } else { not }));
    Ok(())
}

/// Does to tasks of a run what somebody wants.
fn wish(context: &Context, runner: &Runner, run: &str, tasks: &[String], wish: Wish) -> Result<()> {
    let known = runner.history.tasks(run).map_err(OrchestratorError::from)?;
    let names = || known.iter().map(|task| task.task.as_str());
    if let Some(unknown) = tasks.iter().find(|task| names().all(|name| name != *task)) {
        return Err(Failure::unknown("task", unknown, names().collect::<Vec<_>>()));
    }
    let failed = |task: &&TaskInstance| matches!(task.state, TaskState::Failed | TaskState::Cancelled);
    let of: Vec<String> = if tasks.is_empty() {
        known.iter().filter(failed).map(|task| task.task.clone()).collect()
    } else {
        tasks.to_vec()
    };
    let change = match runner.history.definition(run).map_err(OrchestratorError::from)? {
        Some(definition) => amend(&definition, run, &known, &of, wish),
        None => None,
    };
    let Some(change) = change else {
        context.report.note(format_args!("{run}: nothing to change"));
        return Ok(());
    };
    if let Change::Amend { steps, .. } = &change {
        for (task, step) in steps {
            context.report.note(format_args!("  {task}: {}", step.name()));
        }
    }
    let done = "done; a running `tidemill up` goes on with it";
    ask(context, runner, change, run, done, "its tasks have changed meanwhile; look again with `tidemill runs show`")
}

/// Draws when each task ran.
fn gantt(context: &Context, report: &RunReport) -> Result<()> {
    const WIDTH: i64 = 50;
    let spans: Vec<_> = report
        .tasks
        .iter()
        .filter_map(|task| Some((task, task.instance.started_at?, task.instance.ended_at)))
        .collect();
    if context.report.json() {
        let rows = report.tasks.iter().map(|task| {
            let instance = &task.instance;
            json!({ "task": instance.task, "state": instance.state, "started_at": instance.started_at, "ended_at": instance.ended_at, "seconds": task.seconds })
        });
        return context.report.rows(&rows.collect::<Vec<_>>());
    }
    let Some(begin) = spans.iter().map(|(_, start, _)| *start).min() else {
        context.report.note("no task of it has started");
        return Ok(());
    };
    let last = spans.iter().filter_map(|(_, start, end)| end.or(Some(*start))).max().unwrap_or(begin);
    let whole = (last - begin).num_milliseconds().max(1);
    let names = spans.iter().map(|(task, ..)| task.instance.task.chars().count()).max().unwrap_or_default();
    for (task, start, end) in spans {
        let at = |instant: chrono::DateTime<chrono::Utc>| {
            ((instant - begin).num_milliseconds() * WIDTH / whole).clamp(0, WIDTH)
        };
        let (from, to) = (at(start), at(end.unwrap_or(last)));
        let column = |place: i64| usize::try_from(place).unwrap_or_default();
        let bar = format!("{}{}", " ".repeat(column(from)), "█".repeat(column((to - from).max(1))));
        let took = task.seconds.map(|seconds| format!("{seconds:.2} s")).unwrap_or_default();
        let line = format!("{:names$}  {bar:51} {} {took}", task.instance.task, task.instance.state);
        context.report.line(line.trim_end())?;
    }
    Ok(())
}

/// `tidemill logs RUN [TASK] [-f]`.
pub(super) async fn logs(context: &Context, run: &str, task: Option<&str>, follow: bool) -> Result<Exit> {
    let runner = open(context)?;
    let run = find(&runner, run)?;
    let mut read: BTreeMap<PathBuf, usize> = BTreeMap::new();
    loop {
        let report = runner.scheduler.report(&run)?;
        let ended = report.run.state.ended();
        print_logs(context, &report, task, &mut read)?;
        if !follow || ended {
            return Ok(Exit::Done);
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(Exit::Stopped),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

/// Prints what was not printed yet of the logs of a run; `read`: how many lines of each were.
fn print_logs(
    context: &Context,
    report: &RunReport,
    task: Option<&str>,
    read: &mut BTreeMap<PathBuf, usize>,
) -> Result<()> {
    if let Some(task) = task
        && !report.tasks.iter().any(|known| known.instance.task == task)
    {
        return Err(Failure::unknown("task", task, report.tasks.iter().map(|known| known.instance.task.as_str())));
    }
    for known in report.tasks.iter().filter(|known| task.is_none_or(|task| known.instance.task == task)) {
        let Some(path) = &known.log else { continue };
        let Ok(file) = std::fs::File::open(path) else { continue };
        let known_lines = read.entry(path.clone()).or_default();
        for line in BufReader::new(file).lines().skip(*known_lines) {
            let line = line.map_err(|error| Failure::io(&error, "read", path))?;
            *known_lines += 1;
            context.report.line(&if task.is_some() { line } else { format!("{} | {line}", known.instance.task) })?;
        }
    }
    Ok(())
}

pub(super) fn open(context: &Context) -> Result<Runner> {
    Runner::open(&Lakehouse::new(context.project()?), &Arc::new(Metrics::default()))
}

/// The run with this id, or the only one whose id begins with it.
pub(super) fn find(runner: &Runner, run: &str) -> Result<String> {
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
