//! The loop around [`crate::plan`]: look, decide, record, start, and wait for something to happen.
//!
//! [`Scheduler::serve`] is what `tidemill up` runs; [`Scheduler::run_now`] drives one run in the foreground, on the same history, beside a serving
//! scheduler or without one. Each of them is an owner of its own (see [`crate::owner`]).
mod driver;
pub(crate) mod replica;
mod tell;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::OrchestratorError;
use crate::clock::Clock;
use crate::dag::Dags;
use crate::history::{Call, History};
use crate::owner::Owner;
use crate::plan::Scope;
use crate::run::{Interval, Run, RunState, TaskInstance, TaskState};
use crate::task::{TaskError, TaskFactory};
use crate::worker::log_path;

use driver::Driver;

/// How often everything is looked at, and the clock for what is due.
const TICK: Duration = Duration::from_millis(200);

/// How often the history is asked whether others wrote anything: a question of microseconds.
const GLANCE: Duration = Duration::from_millis(20);

/// Tells people what happened, as DAG files ask for it.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Tells it once. An id may come again after a crash.
    ///
    /// # Errors
    /// Why whoever is to be told was not; they are tried again, up to six times.
    async fn call(&self, call: &Call) -> Result<(), String>;
}

/// Everything a scheduler needs.
#[derive(Clone)]
pub struct SchedulerConfig {
    /// The DAGs; [`Scheduler::reload`] changes them.
    pub dags: Dags,
    /// Makes tasks.
    pub factory: Arc<dyn TaskFactory>,
    /// The durable record.
    pub history: Arc<dyn History>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Relative paths start here.
    pub project_dir: PathBuf,
    /// The logs of attempts go here: `DAG/RUN/TASK/ATTEMPT.log`.
    pub log_dir: PathBuf,
    /// Who drives the runs; `None`: this process, a new identity for each call.
    pub owner: Option<Owner>,
    /// How many attempts may be under way at once.
    pub slots: usize,
    /// How many slots each pool has, over all processes.
    pub pools: BTreeMap<String, u32>,
    /// Tells people; absent: whom DAG files name is told by another process.
    pub caller: Option<Arc<dyn Caller>>,
    /// The largest log of an attempt in bytes.
    pub log_cap: u64,
    /// How long a task may take to stop when asked to.
    pub grace: Duration,
}

impl SchedulerConfig {
    /// A configuration with 32 slots, logs of at most 16 MiB, and ten seconds of grace.
    pub fn new(
        dags: Dags,
        factory: Arc<dyn TaskFactory>,
        history: Arc<dyn History>,
        clock: Arc<dyn Clock>,
        project_dir: PathBuf,
        log_dir: PathBuf,
    ) -> Self {
        let grace = Duration::from_secs(10);
        Self {
            dags,
            factory,
            history,
            clock,
            project_dir,
            log_dir,
            owner: None,
            slots: 32,
            pools: BTreeMap::new(),
            caller: None,
            log_cap: 16 << 20,
            grace,
        }
    }
}

/// A run somebody waits for.
pub struct RunRequest {
    /// The DAG.
    pub dag: String,
    /// What it is given; the rest are defaults.
    pub params: Map<String, Value>,
    /// Flags, such as `drain`.
    pub options: Map<String, Value>,
    /// The time it covers, if any.
    pub interval: Option<Interval>,
    /// Who asks, for the record.
    pub by: String,
    /// Gets what happens, live. `Line` and `Progress` are dropped while it is full.
    pub events: Option<mpsc::Sender<RunEvent>>,
    /// Stops the run: its tasks are asked to stop and the run ends as cancelled.
    pub cancel: CancellationToken,
}

/// Something that happened, for live displays.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields are those of the record they are about")]
pub enum RunEvent {
    /// A run does not begin yet, and why.
    RunWaiting { run: String, dag: String, why: String },
    /// A run began, or goes on after a crash.
    RunStarted { run: String, dag: String, tasks: Vec<String>, resumed: bool },
    /// An attempt started.
    TaskStarted { run: String, task: String, attempt: u32, resumed: bool },
    /// How far an attempt is.
    Progress { run: String, task: String, attempt: u32, done: u64, total: Option<u64>, unit: &'static str },
    /// A line of an attempt's log.
    Line { run: String, task: String, attempt: u32, line: String },
    /// A task ended, was skipped, or will be tried again (`UpForRetry`).
    TaskEnded {
        run: String,
        task: String,
        attempt: u32,
        state: TaskState,
        summary: String,
        error: Option<TaskError>,
        retry_at: Option<DateTime<Utc>>,
    },
    /// A run ended.
    RunEnded { run: String, dag: String, state: RunState, error: Option<TaskError> },
}

/// How a run went.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The run.
    pub run: Run,
    /// Its tasks, in the order of the DAG.
    pub tasks: Vec<TaskReport>,
    /// Whether a check found rows.
    pub found_rows: bool,
}

/// How a task of a run went.
#[derive(Debug, Clone, Serialize)]
pub struct TaskReport {
    /// The task.
    pub instance: TaskInstance,
    /// Seconds from the start of its first attempt to its end.
    pub seconds: Option<f64>,
    /// The log of its last attempt.
    pub log: Option<PathBuf>,
}

/// Starts runs and drives them to their end.
pub struct Scheduler {
    config: SchedulerConfig,
    dags: RwLock<Arc<Dags>>,
    calls: AtomicU64,
}

impl Scheduler {
    /// Makes a scheduler; nothing happens until it is asked to run or to serve.
    pub fn new(config: SchedulerConfig) -> Self {
        let dags = RwLock::new(Arc::new(config.dags.clone()));
        Self { config, dags, calls: AtomicU64::new(0) }
    }

    /// Puts other DAGs in place. Runs under way keep the definition they began with.
    pub fn reload(&self, dags: Dags) {
        *self.dags.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dags);
    }

    /// The DAGs in place.
    pub fn dags(&self) -> Arc<Dags> {
        Arc::clone(&self.dags.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves all triggers, requests and left-over runs until cancelled; then asks running tasks to stop, and leaves what is not done to the next start.
    ///
    /// # Errors
    /// If the history cannot be opened for this scheduler at all. Later failures of the history are waited out.
    pub async fn serve(
        &self,
        events: Option<mpsc::Sender<RunEvent>>,
        cancel: CancellationToken,
    ) -> Result<(), OrchestratorError> {
        let mut driver = Driver::new(self, Scope::All, events).await?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut glance = tokio::time::interval(GLANCE);
        glance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !cancel.is_cancelled() {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = tick.tick() => {}
                () = driver.wait() => {}
                _ = glance.tick() => {
                    if !driver.news().await {
                        continue;
                    }
                }
            }
            if let Err(error) = driver.turn(&BTreeSet::new()).await {
                // A full disk or a locked file passes; what happened meanwhile is still in memory and is written then.
                tracing::error!(%error, "the run history is not available");
                tokio::select! {
                    () = cancel.cancelled() => break,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
        driver.stop().await
    }

    /// Runs a DAG now, in this process, and waits for its end. If a process died under an earlier run of the DAG, that run goes on first.
    ///
    /// # Errors
    /// If the DAG or a param is not known, or the history fails.
    pub async fn run_now(&self, request: RunRequest) -> Result<RunReport, OrchestratorError> {
        let dags = self.dags();
        let dag = dags.find(&request.dag)?;
        let params = dag.resolve_params(&request.params)?;
        let scope = Scope::Run { run: String::new(), dag: dag.id.clone() };
        let mut driver = Driver::new(self, scope, request.events.clone()).await?;
        let report = driver.foreground(&request, params).await;
        let stopped = driver.stop().await;
        let report = report?;
        stopped?;
        Ok(report)
    }

    /// Reads how a run went, or how far it is.
    ///
    /// # Errors
    /// If there is no such run, or the history fails.
    pub fn report(&self, run: &str) -> Result<RunReport, OrchestratorError> {
        report(self.config.history.as_ref(), &self.config.log_dir, run)
    }
}

/// Reads how a run went, or how far it is, from a history.
///
/// # Errors
/// If there is no such run, or the history fails.
pub fn report(history: &dyn History, log_dir: &std::path::Path, run: &str) -> Result<RunReport, OrchestratorError> {
    let record = history.run(run)?.ok_or_else(|| OrchestratorError::UnknownRun { run: run.to_owned() })?;
    let tasks: Vec<TaskReport> = history
        .tasks(run)?
        .into_iter()
        .map(|instance| {
            let span = instance.started_at.zip(instance.ended_at).and_then(|(start, end)| (end - start).to_std().ok());
            let log =
                (instance.attempt > 0).then(|| log_path(log_dir, &record.dag, run, &instance.task, instance.attempt));
            TaskReport { instance, seconds: span.map(|span| span.as_secs_f64()), log }
        })
        .collect();
    let found_rows = tasks.iter().any(|task| task.instance.error.as_ref().is_some_and(|error| error.found_rows));
    Ok(RunReport { run: record, tasks, found_rows })
}
