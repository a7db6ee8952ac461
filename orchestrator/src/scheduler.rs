//! The loop around [`crate::plan`]: look, decide, record, start, and wait for something to happen.
//!
//! [`Scheduler::serve`] is what `tidemill up` runs; [`Scheduler::run_now`] drives one run in the foreground, on the same history, beside a serving
//! scheduler or without one. Each of them is an owner of its own (see [`crate::owner`]).
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::OrchestratorError;
use crate::clock::Clock;
use crate::dag::{Dags, FileTrigger, Trigger};
use crate::history::{Call, Change, History, HistoryError, HistoryView, NewRun};
use crate::owner::{HEARTBEAT, LEASE, Owner};
use crate::plan::{Action, Arrived, Ended, Scope, Situation, decide, why_queued};
use crate::run::{Cause, Interval, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep, run_id};
use crate::task::{Retry, TaskError, TaskFactory};
use crate::trigger::{FileId, Watch, list};
use crate::worker::{Worker, log_path};

/// How often everything is looked at, and the clock for what is due.
const TICK: Duration = Duration::from_millis(200);

/// How often the history is asked whether others wrote anything: a question of microseconds.
const GLANCE: Duration = Duration::from_millis(20);

/// How often folders are listed.
const LOOK: Duration = Duration::from_millis(500);

/// How often folders are listed whose files have arrived at once.
const LOOK_AT_ONCE: Duration = Duration::from_millis(40);

/// How often somebody is tried to be told.
const CALL_TRIES: u32 = 6;

/// The wait before they are tried again; it doubles from there.
const CALL_AGAIN: TimeDelta = TimeDelta::seconds(2);

/// Tells people what happened, as DAG files ask for it.
#[async_trait]
pub trait Caller: Send + Sync {
    /// Tells it once. An id may come again after a crash.
    ///
    /// # Errors
    /// Why whoever is to be told was not; they are tried again, up to six times.
    async fn call(&self, call: &Call) -> Result<(), String>;
}

/// Those files that are whole as far as size and marker say.
fn complete(mut listing: Vec<FileId>, trigger: &FileTrigger, root: &std::path::Path) -> Vec<FileId> {
    listing.retain(|file| {
        let marked = trigger.marker.as_ref().is_none_or(|marker| root.join(format!("{}{marker}", file.path)).exists());
        file.size >= trigger.min_size && marked && !is_marker(file, trigger)
    });
    listing
}

/// A marker that the pattern matches, too, is not a file of its own.
fn is_marker(file: &FileId, trigger: &FileTrigger) -> bool {
    trigger.marker.as_ref().is_some_and(|marker| file.path.ends_with(marker.as_str()))
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

/// An attempt under way here.
struct Live {
    attempt: u32,
    token: CancellationToken,
    task: tokio::task::Id,
}

/// One owner at work.
struct Driver<'s> {
    scheduler: &'s Scheduler,
    owner: Owner,
    scope: Scope,
    worker: Worker,
    events: Option<mpsc::Sender<RunEvent>>,
    running: JoinSet<Ended>,
    live: BTreeMap<(String, String), Live>,
    ended: Vec<Ended>,
    watches: BTreeMap<(String, usize), (String, Watch)>,
    arrived: Vec<Arrived>,
    beat: Option<DateTime<Utc>>,
    looked: Option<tokio::time::Instant>,
    /// The history's, when there was nothing more to do.
    version: Option<u64>,
    waiting: BTreeMap<String, String>,
    /// Calls that were begun here, with their number of tries.
    calling: BTreeSet<(String, u32)>,
    told: JoinSet<()>,
    stopping: bool,
}

impl<'s> Driver<'s> {
    async fn new(
        scheduler: &'s Scheduler,
        scope: Scope,
        events: Option<mpsc::Sender<RunEvent>>,
    ) -> Result<Self, OrchestratorError> {
        let config = &scheduler.config;
        let salt =
            format!("{} {}", scheduler.calls.fetch_add(1, Ordering::Relaxed), config.clock.now().timestamp_micros());
        let owner = config.owner.clone().unwrap_or_else(|| Owner::this_process(&salt));
        let worker = Worker {
            factory: Arc::clone(&config.factory),
            clock: Arc::clone(&config.clock),
            project_dir: config.project_dir.clone(),
            log_dir: config.log_dir.clone(),
            log_cap: config.log_cap,
            grace: config.grace,
            events: events.clone(),
        };
        let mut driver = Self {
            scheduler,
            owner,
            scope,
            worker,
            events,
            running: JoinSet::new(),
            live: BTreeMap::new(),
            ended: Vec::new(),
            watches: BTreeMap::new(),
            arrived: Vec::new(),
            beat: None,
            looked: None,
            version: None,
            waiting: BTreeMap::new(),
            calling: BTreeSet::new(),
            told: JoinSet::new(),
            stopping: false,
        };
        driver.heartbeat().await?;
        Ok(driver)
    }

    fn now(&self) -> DateTime<Utc> {
        self.scheduler.config.clock.now()
    }

    /// Asks the history on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn History) -> Result<T, HistoryError> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let history = Arc::clone(&self.scheduler.config.history);
        match tokio::task::spawn_blocking(move || ask(history.as_ref())).await {
            Ok(answer) => answer,
            Err(error) => Err(HistoryError::Store { doing: "read", source: error.into() }),
        }
    }

    async fn heartbeat(&mut self) -> Result<(), HistoryError> {
        let now = self.now();
        // A clock that went back is a reason to beat, too.
        if self.beat.is_some_and(|beat| now - beat < HEARTBEAT && now >= beat) {
            return Ok(());
        }
        let owner = self.owner.clone();
        self.ask(move |history| history.heartbeat(&owner, now + LEASE)).await?;
        self.beat = Some(now);
        Ok(())
    }

    /// Whether others have changed the history since the last turn, or it is time to look at folders.
    async fn news(&mut self) -> bool {
        let files = self.looked.is_some_and(|looked| tokio::time::Instant::now() - looked >= self.look_every());
        let version = self.ask(|history| history.version()).await.ok();
        files && self.watches_at_once() || version != self.version
    }

    /// Whether a file trigger takes files as soon as they are there.
    fn watches_at_once(&self) -> bool {
        let at_once = |trigger: &Trigger| matches!(trigger, Trigger::File(file) if file.settle < LOOK_AT_ONCE);
        self.scheduler.dags().iter().any(|dag| dag.triggers.iter().any(at_once))
    }

    fn look_every(&self) -> Duration {
        if self.watches_at_once() { LOOK_AT_ONCE } else { LOOK }
    }

    /// Waits until an attempt ends; for ever if none runs.
    async fn wait(&mut self) {
        match self.running.join_next().await {
            Some(joined) => self.note(joined),
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, joined: Result<Ended, tokio::task::JoinError>) {
        match joined {
            Ok(ended) => self.ended.push(ended),
            // The worker catches what tasks do; this is a bug in it.
            Err(error) => {
                tracing::error!(%error, "an attempt ended without saying how");
                let lost = self.live.iter().find(|(_, live)| live.task == error.id());
                if let Some(((run, task), live)) = lost {
                    let how = TaskError::new("D0111", "the attempt panicked, which is a bug of Tidemill", Retry::Later);
                    let (run, task, attempt) = (run.clone(), task.clone(), live.attempt);
                    self.ended.push(Ended { run, task, attempt, how: Some(Err(how.why(error.to_string()))) });
                }
            }
        }
    }

    /// Looks, decides and acts until there is nothing more to do now.
    async fn turn(&mut self, cancelled: &BTreeSet<String>) -> Result<HistoryView, HistoryError> {
        self.heartbeat().await?;
        self.look().await?;
        loop {
            while let Some(joined) = self.running.try_join_next() {
                self.note(joined);
            }
            let dags = self.scheduler.dags();
            let continuous: Vec<String> = dags
                .iter()
                .filter(|dag| dag.triggers.contains(&Trigger::Continuous))
                .map(|dag| dag.id.clone())
                .collect();
            // The version before the view: what is written between the two is news.
            let ask =
                move |history: &dyn History| Ok((history.version()?, history.view(&continuous)?, history.owners()?));
            let (version, view, owners) = self.ask(ask).await?;
            let now = self.now();
            let gone: BTreeSet<String> = owners
                .iter()
                .filter(|record| record.owner.id != self.owner.id && record.gone(&self.owner, now))
                .map(|record| record.owner.id.clone())
                .collect();
            self.drop_lost(&view);
            self.stop_unwanted(&view);
            self.call(&view);
            for ended in &self.ended {
                self.live.remove(&(ended.run.clone(), ended.task.clone()));
            }
            let live: BTreeSet<(String, String)> = self.live.keys().cloned().collect();
            let situation = Situation {
                now,
                me: &self.owner.id,
                scope: &self.scope,
                gone: &gone,
                live: &live,
                ended: &self.ended,
                arrived: &self.arrived,
                cancelled,
                slots: self.scheduler.config.slots,
                pools: &self.scheduler.config.pools,
                stopping: self.stopping,
            };
            let actions = decide(&dags, &view, &situation);
            if actions.is_empty() {
                self.ended.clear();
                self.say_why(&dags, &view).await;
                self.version = Some(version);
                return Ok(view);
            }
            let changes: Vec<Change> = actions
                .iter()
                .map(|action| match action {
                    Action::Record(change) | Action::Launch(change, _) => change.clone(),
                })
                .collect();
            let owner = self.owner.id.clone();
            let accepted = self.ask(move |history| history.apply(&owner, now, &changes)).await?;
            self.ended.clear();
            for (action, accepted) in actions.into_iter().zip(&accepted) {
                self.perform(action, *accepted, &view).await;
            }
            if !accepted.contains(&true) {
                // Another process was faster; what it did is seen at the next tick.
                return Ok(view);
            }
        }
    }

    /// Stops attempts of runs that belong to somebody else by now: their results would be refused.
    fn drop_lost(&mut self, view: &HistoryView) {
        let mine: BTreeSet<&str> = view
            .runs
            .iter()
            .filter(|active| active.run.owner.as_ref() == Some(&self.owner.id))
            .map(|active| active.run.id.as_str())
            .collect();
        for ((run, task), live) in &self.live {
            if !mine.contains(run.as_str()) && !live.token.is_cancelled() {
                tracing::warn!(run, task, "another process took the run over; stopping its task here");
                live.token.cancel();
            }
        }
    }

    /// Stops attempts of runs and tasks that somebody wants otherwise.
    fn stop_unwanted(&self, view: &HistoryView) {
        for active in view.runs.iter().filter(|active| active.run.owner.as_ref() == Some(&self.owner.id)) {
            let run = &active.run;
            for task in active.tasks.iter().filter(|task| run.cancel.is_some() || task.wanted.is_some()) {
                if let Some(live) = self.live.get(&(run.id.clone(), task.task.clone())) {
                    live.token.cancel();
                }
            }
        }
    }

    /// Tells people what they are still to be told: the scheduler that serves, each call in a task of its own.
    fn call(&mut self, view: &HistoryView) {
        let Some(caller) = &self.scheduler.config.caller else { return };
        if self.stopping {
            return;
        }
        let now = self.now();
        let mine = |run: &str| match &self.scope {
            Scope::All => true,
            Scope::Run { run: own, .. } => run == own,
        };
        for call in view.calls.iter().filter(|call| call.due_at <= now && mine(&call.run)) {
            if !self.calling.insert((call.id.clone(), call.tries)) {
                continue;
            }
            let (caller, history, clock) = (
                Arc::clone(caller),
                Arc::clone(&self.scheduler.config.history),
                Arc::clone(&self.scheduler.config.clock),
            );
            let (call, owner) = (call.clone(), self.owner.id.clone());
            self.told.spawn(async move {
                let again_at = match caller.call(&call).await {
                    Ok(()) => None,
                    Err(why) => {
                        let last = call.tries + 1 >= CALL_TRIES;
                        tracing::warn!(
                            call = call.id,
                            tries = call.tries + 1,
                            why,
                            last,
                            "cannot tell whom a DAG names"
                        );
                        (!last).then(|| clock.now() + CALL_AGAIN * (1 << call.tries.min(10)))
                    }
                };
                let change = Change::Called { call: call.id, tries: call.tries, again_at };
                let now = clock.now();
                let done = tokio::task::spawn_blocking(move || history.apply(&owner, now, &[change])).await;
                if let Ok(Err(error)) = done {
                    tracing::warn!(%error, "somebody will be told twice");
                }
            });
        }
        while self.told.try_join_next().is_some() {}
    }

    async fn perform(&mut self, action: Action, accepted: bool, view: &HistoryView) {
        match action {
            Action::Launch(_, work) if accepted => {
                let token = CancellationToken::new();
                let (run, task, attempt, resumed) =
                    (work.run.id.clone(), work.task.id.clone(), work.attempt, work.resumed);
                let key = (run.clone(), task.clone());
                self.send(RunEvent::TaskStarted { run, task, attempt, resumed }).await;
                let handle = self.running.spawn(self.worker.clone().attempt(*work, token.clone()));
                self.live.insert(key, Live { attempt, token, task: handle.id() });
            }
            Action::Record(Change::Create(new)) => {
                // Refused means recorded before: either way nobody has to look at the file again.
                if let Cause::File { path, size, modified } = &new.cause {
                    let file = FileId { path: path.clone(), size: *size, modified: *modified };
                    self.arrived.retain(|arrived| arrived.dag != new.dag || arrived.file != file);
                }
            }
            Action::Record(change) if accepted => self.tell(change, view).await,
            Action::Launch(..) | Action::Record(_) => {}
        }
    }

    /// Tells whoever listens about a change.
    async fn tell(&mut self, change: Change, view: &HistoryView) {
        let record = |run: &str| view.runs.iter().find(|active| active.run.id == run);
        match change {
            Change::Begin { run, definition, .. } => {
                self.waiting.remove(&run);
                let tasks = definition.tasks.iter().map(|task| task.id.clone()).collect();
                self.send(RunEvent::RunStarted { run, dag: definition.id.clone(), tasks, resumed: false }).await;
            }
            Change::Claim { run, .. } => {
                if let Some(active) = record(&run).filter(|active| active.run.state == RunState::Running) {
                    let tasks = active.tasks.iter().map(|task| task.task.clone()).collect();
                    self.send(RunEvent::RunStarted { run, dag: active.run.dag.clone(), tasks, resumed: true }).await;
                }
            }
            Change::Task(change) => {
                // The state follows from the step; where a task came from does not matter to a display.
                let state = match change.step {
                    TaskStep::Succeed => TaskState::Success,
                    TaskStep::Skip => TaskState::Skipped,
                    TaskStep::Retry => TaskState::UpForRetry,
                    TaskStep::Fail => TaskState::Failed,
                    TaskStep::Block => TaskState::UpstreamFailed,
                    TaskStep::Cancel => TaskState::Cancelled,
                    TaskStep::Defer => TaskState::Deferred,
                    _ => return,
                };
                let event = RunEvent::TaskEnded {
                    run: change.run,
                    task: change.task,
                    attempt: change.attempt,
                    state,
                    summary: change.summary,
                    error: change.error,
                    retry_at: change.retry_at,
                };
                self.send(event).await;
            }
            Change::End { run, step, error } => {
                let state = match step {
                    RunStep::Succeed => RunState::Success,
                    RunStep::Cancel => RunState::Cancelled,
                    RunStep::Begin | RunStep::Fail | RunStep::Reopen => RunState::Failed,
                };
                let dag = record(&run).map(|active| active.run.dag.clone()).unwrap_or_default();
                self.send(RunEvent::RunEnded { run, dag, state, error }).await;
            }
            _ => {}
        }
    }

    async fn send(&self, event: RunEvent) {
        if let Some(events) = &self.events {
            // A listener that has gone has heard enough.
            drop(events.send(event).await);
        }
    }

    /// Says why the run in the foreground does not begin, once for each reason.
    async fn say_why(&mut self, dags: &Dags, view: &HistoryView) {
        let Scope::Run { run, dag } = &self.scope else { return };
        let (run, dag) = (run.clone(), dag.clone());
        if let Some(why) = why_queued(dags, view, &run)
            && self.waiting.insert(run.clone(), why.clone()).as_ref() != Some(&why)
        {
            self.send(RunEvent::RunWaiting { run, dag, why }).await;
        }
    }

    /// Lists the folders of file triggers, twice a second at most.
    async fn look(&mut self) -> Result<(), HistoryError> {
        let now = tokio::time::Instant::now();
        if self.scope != Scope::All
            || self.stopping
            || self.looked.is_some_and(|looked| now - looked < self.look_every())
        {
            return Ok(());
        }
        self.looked = Some(now);
        let dags = self.scheduler.dags();
        let mut arrived = Vec::new();
        let mut watched = BTreeSet::new();
        for dag in dags.iter() {
            for (index, trigger) in dag.triggers.iter().enumerate() {
                let Trigger::File(trigger) = trigger else { continue };
                let key = (dag.id.clone(), index);
                watched.insert(key.clone());
                let (root, pattern) = (self.scheduler.config.project_dir.clone(), trigger.path.clone());
                let listing = match tokio::task::spawn_blocking(move || list(&root, &pattern)).await {
                    Ok(Ok(listing)) => complete(listing, trigger, &self.scheduler.config.project_dir),
                    Ok(Err(error)) => {
                        tracing::warn!(dag = dag.id, pattern = trigger.path, %error, "cannot list the files of a trigger");
                        continue;
                    }
                    Err(_) => continue,
                };
                let at = self.now();
                let entry = self.watches.entry(key).or_default();
                if entry.0 != trigger.path {
                    *entry = (trigger.path.clone(), Watch::default());
                }
                let settled = entry.1.observe(&listing, trigger.settle, at);
                if settled.is_empty() {
                    continue;
                }
                let (id, files) = (dag.id.clone(), settled.clone());
                let unseen = self.ask(move |history| history.unseen(&id, &files)).await?;
                if let Some((_, watch)) = self.watches.get_mut(&(dag.id.clone(), index)) {
                    settled.iter().filter(|file| !unseen.contains(file)).for_each(|file| watch.handled(file));
                }
                arrived.extend(unseen.into_iter().map(|file| Arrived { dag: dag.id.clone(), trigger: index, file }));
            }
        }
        self.watches.retain(|key, _| watched.contains(key));
        self.arrived = arrived;
        Ok(())
    }

    /// Makes the run and drives it to its end.
    async fn foreground(
        &mut self,
        request: &RunRequest,
        params: Map<String, Value>,
    ) -> Result<RunReport, OrchestratorError> {
        let run = self.make(request, params).await?;
        self.scope = Scope::Run { run: run.clone(), dag: request.dag.clone() };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut cancelled = BTreeSet::new();
        loop {
            if request.cancel.is_cancelled() && cancelled.insert(run.clone()) {
                // Only the run asked for ends; one that was taken over is left to whoever comes next.
                self.stopping = true;
                self.live.values().for_each(|live| live.token.cancel());
            }
            let view = self.turn(&cancelled).await?;
            if !view.runs.iter().any(|active| active.run.id == run) {
                let (id, log_dir) = (run.clone(), self.scheduler.config.log_dir.clone());
                let history = Arc::clone(&self.scheduler.config.history);
                let report = tokio::task::spawn_blocking(move || report(history.as_ref(), &log_dir, &id)).await;
                return report.map_err(|error| HistoryError::Store { doing: "read", source: error.into() })?;
            }
            tokio::select! {
                () = request.cancel.cancelled(), if cancelled.is_empty() => {}
                _ = tick.tick() => {}
                () = self.wait() => {}
            }
        }
    }

    async fn make(&self, request: &RunRequest, params: Map<String, Value>) -> Result<String, HistoryError> {
        let now = self.now();
        let mut number = 0_u32;
        loop {
            let id = run_id(&request.dag, now, &format!("{} {number}", self.owner.id));
            let new = NewRun {
                id: id.clone(),
                dag: request.dag.clone(),
                key: None,
                cause: Cause::Manual { by: request.by.clone() },
                interval: request.interval,
                params: params.clone(),
                options: request.options.clone(),
                owned: true,
            };
            let owner = self.owner.id.clone();
            let made = self.ask(move |history| history.apply(&owner, now, &[Change::Create(Box::new(new))])).await?;
            if made.first() == Some(&true) {
                return Ok(id);
            }
            number += 1;
        }
    }

    /// Asks what runs to stop, records what is done, and says goodbye.
    async fn stop(&mut self) -> Result<(), OrchestratorError> {
        self.stopping = true;
        self.live.values().for_each(|live| live.token.cancel());
        while let Some(joined) = self.running.join_next().await {
            self.note(joined);
        }
        self.turn(&BTreeSet::new()).await?;
        // Who is being told is told; who was not is told by the next process.
        let told = async { while self.told.join_next().await.is_some() {} };
        drop(tokio::time::timeout(self.scheduler.config.grace, told).await);
        let id = self.owner.id.clone();
        self.ask(move |history| history.retire(&id)).await?;
        Ok(())
    }
}
