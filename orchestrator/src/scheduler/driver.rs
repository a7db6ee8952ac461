//! One owner at work: it looks, decides, records, starts, and waits for something to happen.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::replica::Replica;
use super::{RunEvent, RunReport, RunRequest, Scheduler, TICK, report};
use crate::OrchestratorError;
use crate::dag::Trigger;
use crate::history::{Change, History, HistoryError, NewRun};
use crate::owner::{HEARTBEAT, LEASE, Owner};
use crate::plan::{Action, Arrived, Ended, Scope, Situation, decide_on};
use crate::run::{Cause, run_id};
use crate::task::{Retry, TaskError};
use crate::trigger::{FileId, Watch};
use crate::worker::Worker;

/// How long what was started together has to end together: it is recorded in one transaction then. Half of what a disk takes for one.
const TOGETHER: Duration = Duration::from_millis(2);

/// An attempt under way here.
pub(super) struct Live {
    attempt: u32,
    token: CancellationToken,
    task: tokio::task::Id,
    /// In which batch it was started.
    batch: u64,
}

/// One owner at work.
pub(super) struct Driver<'s> {
    pub(super) scheduler: &'s Scheduler,
    pub(super) owner: Owner,
    pub(super) scope: Scope,
    pub(super) worker: Worker,
    pub(super) events: Option<mpsc::Sender<RunEvent>>,
    pub(super) running: JoinSet<Ended>,
    pub(super) live: BTreeMap<(String, String), Live>,
    pub(super) ended: Vec<Ended>,
    pub(super) watches: BTreeMap<(String, usize), (String, Watch)>,
    pub(super) arrived: Vec<Arrived>,
    pub(super) beat: Option<DateTime<Utc>>,
    pub(super) looked: Option<Instant>,
    /// What the history holds of runs that have not ended.
    pub(super) replica: Replica,
    /// The number of the last batch of attempts, when it was started, and how many of it are under way.
    batch: (u64, Option<Instant>, usize),
    /// The history's, when there was nothing more to do.
    pub(super) version: Option<u64>,
    pub(super) waiting: BTreeMap<String, String>,
    /// Calls that were begun here, with their number of tries.
    pub(super) calling: BTreeSet<(String, u32)>,
    pub(super) told: JoinSet<()>,
    pub(super) stopping: bool,
}

impl<'s> Driver<'s> {
    pub(super) async fn new(
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
            replica: Replica::default(),
            batch: (0, None, 0),
            version: None,
            waiting: BTreeMap::new(),
            calling: BTreeSet::new(),
            told: JoinSet::new(),
            stopping: false,
        };
        driver.heartbeat().await?;
        Ok(driver)
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.scheduler.config.clock.now()
    }

    /// Asks the history on a thread that may block.
    pub(super) async fn ask<T: Send + 'static>(
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
    pub(super) async fn news(&mut self) -> bool {
        let files = self.looked.is_some_and(|looked| Instant::now() - looked >= self.look_every());
        let version = self.ask(|history| history.version()).await.ok();
        files && self.watches_at_once() || version != self.version
    }

    /// Waits until an attempt ends; for ever if none runs.
    pub(super) async fn wait(&mut self) {
        match self.running.join_next().await {
            Some(joined) => self.note(joined),
            None => std::future::pending().await,
        }
    }

    fn note(&mut self, joined: Result<Ended, tokio::task::JoinError>) {
        match joined {
            Ok(ended) => {
                let live = self.live.get(&(ended.run.clone(), ended.task.clone()));
                if live.is_some_and(|live| live.batch == self.batch.0) {
                    self.batch.2 = self.batch.2.saturating_sub(1);
                }
                self.ended.push(ended);
            }
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

    /// Takes the attempts that have ended; if some have, a moment is given to those that were started with them.
    async fn collect(&mut self) {
        while let Some(joined) = self.running.try_join_next() {
            self.note(joined);
        }
        let Some(until) = self.batch.1.map(|begun| begun + TOGETHER) else { return };
        while !self.ended.is_empty() && self.batch.2 > 0 {
            match tokio::time::timeout_at(until, self.running.join_next()).await {
                Ok(Some(joined)) => self.note(joined),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Reads what others have changed, and who is gone.
    async fn read(&mut self) -> Result<(u64, BTreeSet<String>), HistoryError> {
        let dags = self.scheduler.dags();
        let continuous = dags.iter().filter(|dag| dag.triggers.contains(&Trigger::Continuous));
        let last_of: Vec<String> = continuous.map(|dag| dag.id.clone()).collect();
        let (version, owners) = self.ask(|history| Ok((history.version()?, history.owners()?))).await?;
        let version = if self.replica.is(version, &last_of) {
            version
        } else {
            let asked = last_of.clone();
            // The version before the view: what is written between the two is news.
            let ask = move |history: &dyn History| Ok((history.version()?, history.view(&asked)?));
            let (version, view) = self.ask(ask).await?;
            self.replica.load(view, last_of, version);
            version
        };
        let now = self.now();
        let gone = owners
            .iter()
            .filter(|record| record.owner.id != self.owner.id && record.gone(&self.owner, now))
            .map(|record| record.owner.id.clone())
            .collect();
        Ok((version, gone))
    }

    /// Looks, decides and acts until there is nothing more to do now.
    pub(super) async fn turn(&mut self, cancelled: &BTreeSet<String>) -> Result<(), HistoryError> {
        self.heartbeat().await?;
        self.look().await?;
        loop {
            self.collect().await;
            let dags = self.scheduler.dags();
            let (version, gone) = self.read().await?;
            let now = self.now();
            self.stop_unwanted();
            self.call();
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
            let actions = decide_on(&dags, &self.replica.view, &mut self.replica.standings, &situation);
            if actions.is_empty() {
                self.ended.clear();
                self.say_why(&dags).await;
                self.version = Some(version);
                return Ok(());
            }
            let changes: Vec<Change> = actions
                .iter()
                .map(|action| match action {
                    Action::Record(change) | Action::Launch(change, _) => change.clone(),
                })
                .collect();
            let owner = self.owner.id.clone();
            let write = move |history: &dyn History| Ok((history.apply_at(&owner, now, &changes, version)?, changes));
            let (applied, changes) = self.ask(write).await?;
            self.ended.clear();
            self.batch = (self.batch.0 + 1, Some(Instant::now()), 0);
            for (action, accepted) in actions.into_iter().zip(&applied.accepted) {
                self.perform(action, *accepted).await;
            }
            let all = applied.accepted.iter().all(|accepted| *accepted);
            let accepted = changes.iter().zip(&applied.accepted).filter(|(_, accepted)| **accepted);
            // A refusal is a sign that others have changed what was decided on.
            let version = applied.version.filter(|_| all);
            self.replica.follow(&self.owner.id, now, accepted.map(|(change, _)| change), version);
            if !applied.accepted.contains(&true) {
                // Another process was faster; what it did is seen at the next tick.
                return Ok(());
            }
        }
    }

    /// Stops attempts of runs and tasks that somebody wants otherwise, and of runs that belong to somebody else by now: their results would be refused.
    fn stop_unwanted(&mut self) {
        for ((run, task), live) in &self.live {
            let known = self.replica.find(run).map(|place| &self.replica.view.runs[place].run);
            let Some(known) = known.filter(|known| known.owner.as_ref() == Some(&self.owner.id)) else {
                if !live.token.is_cancelled() {
                    tracing::warn!(run, task, "another process took the run over; stopping its task here");
                    live.token.cancel();
                }
                continue;
            };
            let wanted = || {
                let standing = self.replica.standing(run)?;
                standing.tasks()[standing.find(task)?].wanted
            };
            if known.cancel.is_some() || wanted().is_some() {
                live.token.cancel();
            }
        }
    }

    async fn perform(&mut self, action: Action, accepted: bool) {
        match action {
            Action::Launch(_, work) if accepted => {
                let token = CancellationToken::new();
                let (run, task, attempt, resumed) =
                    (work.run.id.clone(), work.task.id.clone(), work.attempt, work.resumed);
                let key = (run.clone(), task.clone());
                self.send(RunEvent::TaskStarted { run, task, attempt, resumed }).await;
                let handle = self.running.spawn(self.worker.clone().attempt(*work, token.clone()));
                self.live.insert(key, Live { attempt, token, task: handle.id(), batch: self.batch.0 });
                self.batch.2 += 1;
            }
            Action::Record(Change::Create(new)) => {
                // Refused means recorded before: either way nobody has to look at the file again.
                if let Cause::File { path, size, modified } = &new.cause {
                    let file = FileId { path: path.clone(), size: *size, modified: *modified };
                    self.arrived.retain(|arrived| arrived.dag != new.dag || arrived.file != file);
                }
            }
            Action::Record(change) if accepted => self.tell(change).await,
            Action::Launch(..) | Action::Record(_) => {}
        }
    }

    /// Makes the run and drives it to its end.
    pub(super) async fn foreground(
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
            self.turn(&cancelled).await?;
            if self.replica.version.is_some() && self.replica.find(&run).is_none() {
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
    pub(super) async fn stop(&mut self) -> Result<(), OrchestratorError> {
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
