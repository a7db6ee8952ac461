//! DAGs, their history, and runs in this process, as commands need them.
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use tidemill_orchestrator::history::open_shared;
use tidemill_orchestrator::{
    Dags, History, Loaded, RunEvent, RunReport, RunRequest, RunState, Scheduler, SchedulerConfig, SqliteHistory,
    TaskError, TaskState,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::call::People;
use crate::embedded::ERRORS;
use crate::failure::{Exit, Failure, Result, dag_problems};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::report::{Progress, Report, Unit};
use crate::tasks::{Tasks, specs};

/// Events that may wait to be shown.
const EVENTS: usize = 1024;

/// A project's DAGs and their history.
pub(crate) struct Runner {
    pub(crate) house: Arc<Lakehouse>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) loaded: Loaded,
}

impl Runner {
    /// Reads the DAGs and opens the history.
    pub(crate) fn open(house: &Arc<Lakehouse>, metrics: &Arc<Metrics>) -> Result<Self> {
        let project = &house.project;
        let loaded = load(house);
        let wanted = &project.settings.history;
        let history: Arc<dyn History> = if wanted.url.is_empty() {
            let path = project.state("history.db")?;
            Arc::new(SqliteHistory::open(&path).map_err(tidemill_orchestrator::OrchestratorError::from)?)
        } else {
            open_shared(wanted.url.expose(), &wanted.schema).map_err(tidemill_orchestrator::OrchestratorError::from)?
        };
        let mut config = SchedulerConfig::new(
            loaded.dags.clone(),
            Arc::new(Tasks::new(Arc::clone(house), Arc::clone(metrics))),
            Arc::clone(&history),
            Arc::clone(&house.clock),
            project.root.clone(),
            project.state("logs")?,
        );
        config.grace = project.settings.server.grace;
        config.pools.clone_from(&project.settings.pools);
        config.caller = Some(Arc::new(People { project_dir: project.root.clone() }));
        Ok(Self { house: Arc::clone(house), history, scheduler: Arc::new(Scheduler::new(config)), loaded })
    }

    /// All problems of the DAG files.
    pub(crate) fn problems(&self) -> Option<Failure> {
        dag_problems(&self.loaded, &self.house.project.root)
    }

    /// Fails if this DAG is broken or not there; problems of other files are only said.
    pub(crate) fn need(&self, report: &Report, dag: &str) -> Result<()> {
        let Some(problems) = self.problems() else {
            return self.loaded.dags.find(dag).map(drop).map_err(Failure::from);
        };
        if self.loaded.dags.get(dag).is_none() {
            return Err(problems);
        }
        report.failure(&problems.warning());
        Ok(())
    }

    /// Runs a DAG here and now, showing how it goes.
    pub(crate) async fn run(
        &self,
        report: &Report,
        dag: &str,
        params: Map<String, Value>,
        drain: bool,
        cancel: &CancellationToken,
    ) -> Result<RunReport> {
        let (sender, events) = mpsc::channel(EVENTS);
        let mut options = Map::new();
        if drain {
            options.insert("drain".to_owned(), Value::Bool(true));
        }
        let request = RunRequest {
            dag: dag.to_owned(),
            params,
            options,
            interval: None,
            by: "command line".to_owned(),
            events: Some(sender),
            cancel: cancel.child_token(),
        };
        let shown = tokio::spawn(show(report.clone(), events));
        let outcome = self.scheduler.run_now(request).await;
        // The sender went with the request, so the display ends by itself.
        drop(shown.await);
        Ok(outcome?)
    }
}

/// Reads the DAG files.
pub(crate) fn load(house: &Lakehouse) -> Loaded {
    Dags::load(&house.project.settings.paths.dags, &specs())
}

/// Shows what happens until nobody tells any more.
pub(crate) async fn show(report: Report, mut events: mpsc::Receiver<RunEvent>) {
    let mut under_way: BTreeMap<(String, String), Progress> = BTreeMap::new();
    while let Some(event) = events.recv().await {
        match event {
            RunEvent::RunWaiting { run, why, .. } => report.note(format_args!("{run} waits: {why}")),
            RunEvent::RunStarted { run, resumed: true, .. } => report.note(format_args!("{run} goes on")),
            RunEvent::TaskStarted { run, task, attempt, .. } => {
                let again = if attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
                let bar = report.bar(format!("{}.{task}{again}", dag_of(&run)), None, Unit::Things);
                under_way.insert((run, task), bar);
            }
            RunEvent::Progress { run, task, done, total, unit, .. } => {
                if let Some(bar) = under_way.get_mut(&(run, task)) {
                    bar.unit(if unit == "bytes" { Unit::Bytes } else { Unit::Things });
                    if let Some(total) = total {
                        bar.set_total(total);
                    }
                    bar.set(done);
                }
            }
            RunEvent::TaskEnded { run, task, state, summary, error, retry_at, .. } => {
                let Some(bar) = under_way.remove(&(run, task)) else { continue };
                match (state, error) {
                    (TaskState::Deferred, _) => {
                        let at = retry_at.map(|at| at.format("; looks again at %H:%M:%S").to_string());
                        bar.done(format_args!("{summary}{}", at.unwrap_or_default()));
                    }
                    (TaskState::UpForRetry, Some(error)) => {
                        let at = retry_at.map(|at| at.format(" at %H:%M:%S").to_string()).unwrap_or_default();
                        bar.done(format_args!("{}; tried again{at}", error.what));
                    }
                    (_, Some(error)) => bar.done(format_args!("failed: {}", error.what)),
                    (_, None) if summary.is_empty() => bar.done(state.name()),
                    (_, None) => bar.done(summary),
                }
            }
            RunEvent::RunStarted { .. } | RunEvent::Line { .. } | RunEvent::RunEnded { .. } => {}
        }
    }
}

fn dag_of(run: &str) -> &str {
    run.rsplitn(3, '-').last().unwrap_or(run)
}

/// How the process ends after a run.
pub(crate) fn exit_of(report: &RunReport) -> Exit {
    match report.run.state {
        RunState::Success => Exit::Done,
        RunState::Cancelled => Exit::Stopped,
        _ if report.found_rows => Exit::Found,
        _ => Exit::Failed,
    }
}

/// The failures of a run's tasks, each as it is explained; `None` if there are none.
pub(crate) fn failure_of(report: &RunReport) -> Option<Failure> {
    let exit = exit_of(report);
    let of_run = report.run.error.as_ref().map(|error| failure(error, None, &report.run.id));
    let of_tasks = report.tasks.iter().filter(|task| task.instance.state == TaskState::Failed).filter_map(|task| {
        let error = task.instance.error.as_ref()?;
        Some(failure(error, Some(&task.instance.task), &report.run.id))
    });
    Failure::all(of_run.into_iter().chain(of_tasks)).map(|failure| failure.exit(exit))
}

fn failure(error: &TaskError, task: Option<&str>, run: &str) -> Failure {
    // Codes are static in reports; one without a page is a bug that a test catches.
    let code = ERRORS.iter().find(|(code, _)| **code == *error.code).map_or("X0001", |(code, _)| *code);
    let place = match (task, &error.place) {
        (Some(task), Some(place)) => format!("run {run}, task `{task}`, {place}"),
        (Some(task), None) => format!("run {run}, task `{task}`"),
        (None, _) => format!("run {run}"),
    };
    Failure::new(code, &error.what).place(place).maybe_why(error.why.clone()).maybe_fix(error.fix.clone())
}
