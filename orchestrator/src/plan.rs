//! What to do next: from the definitions, the history and the time to actions. Pure; the loop around it is [`crate::scheduler`].
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::dag::{Dag, Dags, TaskDef, Trigger, graph};
use crate::history::{ActiveRun, Change, HistoryView, NewRun, TaskChange};
use crate::rule::Verdict;
use crate::run::{Cause, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep, run_id};
use crate::schedule::interval;
use crate::task::{Outcome, Retry, TaskError};
use crate::trigger::FileId;

/// Runs of a DAG that wait for their turn, at most: what has arrived beyond that stays where it is until there is room.
const MOST_QUEUED: usize = 16;

/// The pause before a continuous run starts again after one that ended well.
const CONTINUOUS_PAUSE: TimeDelta = TimeDelta::seconds(1);

/// The longest pause before a continuous run starts again after failures.
const CONTINUOUS_LONGEST: TimeDelta = TimeDelta::seconds(60);

/// An attempt that has ended in this process.
#[derive(Debug)]
pub struct Ended {
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// The attempt.
    pub attempt: u32,
    /// How; `None`: it was interrupted by a shutdown and goes on with the next process.
    pub how: Option<Result<Outcome, TaskError>>,
}

/// A file that has settled and is not known to have started a run.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The DAG.
    pub dag: String,
    /// Which trigger of the DAG, from 0.
    pub trigger: usize,
    /// The file.
    pub file: FileId,
}

/// Which runs this process is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All: triggers, what others asked for, what dead processes left.
    All,
    /// One run, and what dead processes left of its DAG.
    Run {
        /// The run.
        run: String,
        /// Its DAG.
        dag: String,
    },
}

/// What a decision depends on besides definitions and history.
#[derive(Debug)]
pub struct Situation<'a> {
    /// The present.
    pub now: DateTime<Utc>,
    /// This process.
    pub me: &'a str,
    /// What this process is about.
    pub scope: &'a Scope,
    /// Owners whose runs may be taken over.
    pub gone: &'a BTreeSet<String>,
    /// The attempts under way in this process, as (run, task).
    pub live: &'a BTreeSet<(String, String)>,
    /// The attempts that have ended since the last decision.
    pub ended: &'a [Ended],
    /// Files that have settled.
    pub arrived: &'a [Arrived],
    /// Runs somebody wants stopped.
    pub cancelled: &'a BTreeSet<String>,
    /// How many attempts may be under way at once.
    pub slots: usize,
    /// Only note what has ended; start nothing.
    pub stopping: bool,
}

/// An attempt to be started.
#[derive(Debug, Clone)]
pub struct Work {
    /// The run.
    pub run: Run,
    /// The task.
    pub task: TaskDef,
    /// The attempt, from 1.
    pub attempt: u32,
    /// It was under way in another process before.
    pub resumed: bool,
    /// What templates may name.
    pub names: Value,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Record a change.
    Record(Change),
    /// Record a change; if it is accepted, start the attempt.
    Launch(Change, Box<Work>),
}

/// Decides what to do now. The same inputs give the same actions; a finished task is never started again.
///
/// Actions are in order and belong in one transaction. Doing them and deciding again comes to rest.
pub fn decide(dags: &Dags, view: &HistoryView, situation: &Situation<'_>) -> Vec<Action> {
    let mut plan = Plan { situation, actions: Vec::new(), slots: situation.slots.saturating_sub(situation.live.len()) };
    let mut begun: BTreeMap<&str, u32> = BTreeMap::new();
    for active in view.runs.iter().filter(|active| active.run.state == RunState::Running) {
        *begun.entry(active.run.dag.as_str()).or_default() += 1;
    }
    for active in &view.runs {
        let mine = active.run.owner.as_deref() == Some(situation.me);
        if !mine && !plan.claim(&active.run) {
            continue;
        }
        if active.run.state == RunState::Queued {
            plan.queued(dags, &active.run, &mut begun);
        } else if let Some(definition) = &active.definition {
            RunPlan::new(&mut plan, definition, active).advance();
        }
    }
    if !situation.stopping && *situation.scope == Scope::All {
        for dag in dags.iter() {
            plan.triggers(dag, view);
        }
    }
    plan.actions
}

/// Says why a queued run does not begin, for whoever waits for it.
pub fn why_queued(dags: &Dags, view: &HistoryView, run: &str) -> Option<String> {
    let queued = view.runs.iter().find(|active| active.run.id == run && active.run.state == RunState::Queued)?;
    let most = dags.get(&queued.run.dag).map_or(1, |dag| dag.max_active_runs);
    let running: Vec<&str> = view
        .runs
        .iter()
        .filter(|active| active.run.dag == queued.run.dag && active.run.state == RunState::Running)
        .map(|active| active.run.id.as_str())
        .collect();
    (!running.is_empty()).then(|| format!("waits for {} to end (max_active_runs = {most})", running.join(", ")))
}

struct Plan<'a> {
    situation: &'a Situation<'a>,
    actions: Vec<Action>,
    slots: usize,
}

impl Plan<'_> {
    fn record(&mut self, change: Change) {
        self.actions.push(Action::Record(change));
    }

    /// Takes a run that is nobody's or a dead process's, if it is this process's business.
    fn claim(&mut self, run: &Run) -> bool {
        let situation = self.situation;
        let business = match (situation.scope, &run.owner) {
            (Scope::All, None) => true,
            (Scope::All, Some(owner)) => situation.gone.contains(owner),
            (Scope::Run { .. }, None) => false,
            (Scope::Run { dag, .. }, Some(owner)) => run.dag == *dag && situation.gone.contains(owner),
        };
        let take = business && !situation.stopping;
        if take {
            self.record(Change::Claim { run: run.id.clone(), from: run.owner.clone() });
        }
        take
    }

    /// Begins a run whose turn has come.
    fn queued<'v>(&mut self, dags: &Dags, run: &'v Run, begun: &mut BTreeMap<&'v str, u32>) {
        if self.situation.cancelled.contains(&run.id) {
            self.record(Change::End { run: run.id.clone(), step: RunStep::Cancel, error: None });
            return;
        }
        if self.situation.stopping {
            return;
        }
        let definition = dags.find(&run.dag);
        let running = begun.entry(run.dag.as_str()).or_default();
        if definition.as_ref().is_ok_and(|dag| *running >= dag.max_active_runs) {
            return;
        }
        match definition.and_then(|dag| Ok((dag, dag.resolve_params(&run.params)?))) {
            Ok((dag, params)) => {
                *running += 1;
                self.record(Change::Begin { run: run.id.clone(), definition: Arc::clone(dag), params });
            }
            Err(error) => {
                let mut failure = TaskError::new(error.code(), error.to_string(), Retry::AfterPerson);
                failure.fix = error.fix();
                self.record(Change::End { run: run.id.clone(), step: RunStep::Fail, error: Some(failure) });
            }
        }
    }

    fn triggers(&mut self, dag: &Dag, view: &HistoryView) {
        let situation = self.situation;
        let active: Vec<&Run> = view.runs.iter().map(|active| &active.run).filter(|run| run.dag == dag.id).collect();
        let mut queued = active.iter().filter(|run| run.state == RunState::Queued).count();
        for (index, trigger) in dag.triggers.iter().enumerate() {
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            match trigger {
                Trigger::Schedule(cron) => {
                    let Some(seen) = view.seen.get(&(dag.id.clone(), number)) else {
                        self.record(Change::Meet { dag: dag.id.clone(), trigger: number });
                        continue;
                    };
                    let due = interval::next(cron, seen.last_end, seen.first_seen, situation.now)
                        .filter(|interval| interval.end <= situation.now);
                    let room = active.len() < usize::try_from(dag.max_active_runs).unwrap_or(usize::MAX);
                    if let Some(interval) = due.filter(|_| room) {
                        let key = format!(
                            "cron {} {number} {}",
                            dag.id,
                            interval.start.to_rfc3339_opts(SecondsFormat::AutoSi, true)
                        );
                        self.create(dag, Some(key), Cause::Cron { trigger: number }, Some(interval), Map::new());
                    }
                }
                Trigger::File(trigger) => {
                    for arrived in
                        situation.arrived.iter().filter(|arrived| arrived.dag == dag.id && arrived.trigger == index)
                    {
                        if queued >= MOST_QUEUED {
                            break;
                        }
                        queued += 1;
                        let file = &arrived.file;
                        let params = trigger
                            .param
                            .iter()
                            .map(|param| (param.clone(), Value::String(file.path.clone())))
                            .collect();
                        let cause = Cause::File { path: file.path.clone(), size: file.size, modified: file.modified };
                        self.create(dag, None, cause, None, params);
                    }
                }
                Trigger::Continuous => {
                    let rested = view.last.get(&dag.id).is_none_or(|last| {
                        let pause = match last.failures {
                            0 => CONTINUOUS_PAUSE,
                            failures => (CONTINUOUS_PAUSE * (1 << failures.min(6))).min(CONTINUOUS_LONGEST),
                        };
                        // A clock that went back must not stop a stream.
                        situation.now - last.ended_at >= pause || situation.now < last.ended_at
                    });
                    if active.is_empty() && rested {
                        // The key makes two schedulers that decide at once make one run.
                        let last = view.last.get(&dag.id).map_or(0, |last| last.ended_at.timestamp_micros());
                        self.create(
                            dag,
                            Some(format!("continuous {} {last}", dag.id)),
                            Cause::Continuous,
                            None,
                            Map::new(),
                        );
                    }
                }
            }
        }
    }

    fn create(
        &mut self,
        dag: &Dag,
        key: Option<String>,
        cause: Cause,
        interval: Option<crate::run::Interval>,
        params: Map<String, Value>,
    ) {
        let salt = format!("{} {} {:?} {cause:?}", self.situation.me, self.actions.len(), key);
        let id = run_id(&dag.id, self.situation.now, &salt);
        let new = NewRun { id, dag: dag.id.clone(), key, cause, interval, params, options: Map::new(), owned: true };
        self.record(Change::Create(Box::new(new)));
    }
}

/// One run under way: its tasks change here as they will in the history.
struct RunPlan<'p, 'a, 'v> {
    plan: &'p mut Plan<'a>,
    definition: &'v Arc<Dag>,
    run: &'v Run,
    tasks: HashMap<&'v str, TaskInstance>,
}

impl<'p, 'a, 'v> RunPlan<'p, 'a, 'v> {
    fn new(plan: &'p mut Plan<'a>, definition: &'v Arc<Dag>, active: &'v ActiveRun) -> Self {
        let tasks = active.tasks.iter().map(|task| (task.task.as_str(), task.clone())).collect();
        Self { plan, definition, run: &active.run, tasks }
    }

    fn advance(&mut self) {
        for ended in self.plan.situation.ended.iter().filter(|ended| ended.run == self.run.id) {
            self.ended(ended);
        }
        if self.plan.situation.cancelled.contains(&self.run.id) {
            self.cancel();
            return;
        }
        if self.plan.situation.stopping {
            self.end();
            return;
        }
        self.judge();
        self.start();
        self.end();
    }

    /// Changes a task here and in the history.
    fn step(&mut self, change: TaskChange) -> bool {
        let Some((_, task)) = self.tasks.iter_mut().find(|(id, _)| **id == change.task) else { return false };
        let Some(state) = task.state.after(change.step) else { return false };
        task.state = state;
        task.summary.clone_from(&change.summary);
        task.result.clone_from(&change.result);
        self.plan.record(Change::Task(Box::new(change)));
        true
    }

    fn ended(&mut self, ended: &Ended) {
        let Some(how) = &ended.how else { return };
        let Some(task) = self.tasks.get(ended.task.as_str()).filter(|task| task.attempt == ended.attempt) else {
            return;
        };
        let mut change = TaskChange::plain(&self.run.id, &task.task, TaskStep::Succeed, ended.attempt);
        match how {
            Ok(outcome) => {
                change.step = if outcome.skipped { TaskStep::Skip } else { TaskStep::Succeed };
                change.summary.clone_from(&outcome.summary);
                change.result.clone_from(&outcome.result);
            }
            Err(error) => {
                let seed = format!("{}/{}", self.run.id, ended.task);
                let wait = self
                    .definition
                    .task(&ended.task)
                    .filter(|_| error.retry == Retry::Later && !self.plan.situation.cancelled.contains(&self.run.id))
                    .and_then(|task| task.retry.wait(ended.attempt, &seed));
                change.step = if wait.is_some() { TaskStep::Retry } else { TaskStep::Fail };
                let now = self.plan.situation.now;
                change.retry_at = wait.map(|wait| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(365)));
                change.error = Some(error.clone());
            }
        }
        self.step(change);
    }

    /// Ends what somebody wants stopped, once nothing of it is under way here.
    fn cancel(&mut self) {
        for task in &self.definition.tasks {
            let Some(known) = self.tasks.get(task.id.as_str()).filter(|known| !known.state.ended()) else { continue };
            if !self.live(&task.id) {
                let change = TaskChange::plain(&self.run.id, &task.id, TaskStep::Cancel, known.attempt);
                self.step(change);
            }
        }
        if self.tasks.values().all(|task| task.state.ended()) {
            self.plan.record(Change::End { run: self.run.id.clone(), step: RunStep::Cancel, error: None });
        }
    }

    fn live(&self, task: &str) -> bool {
        self.plan.situation.live.contains(&(self.run.id.clone(), task.to_owned()))
    }

    fn verdict(&self, task: &TaskDef) -> Verdict {
        let upstream: Vec<TaskState> =
            task.after.iter().filter_map(|id| self.tasks.get(id.as_str())).map(|task| task.state).collect();
        task.rule.judge(&upstream)
    }

    /// Settles tasks that will never start; that can settle others.
    fn judge(&mut self) {
        let definition = Arc::clone(self.definition);
        loop {
            let mut changed = false;
            for task in &definition.tasks {
                if self.tasks.get(task.id.as_str()).is_none_or(|known| known.state != TaskState::Waiting) {
                    continue;
                }
                let step = match self.verdict(task) {
                    Verdict::Skip => TaskStep::Skip,
                    Verdict::UpstreamFailed => TaskStep::Block,
                    Verdict::Ready | Verdict::Wait => continue,
                };
                changed |= self.step(TaskChange::plain(&self.run.id, &task.id, step, 0));
            }
            if !changed {
                return;
            }
        }
    }

    /// Starts what is ready, in file order, while there are slots.
    fn start(&mut self) {
        let definition = Arc::clone(self.definition);
        for task in &definition.tasks {
            if self.plan.slots == 0 {
                return;
            }
            let Some(known) = self.tasks.get(task.id.as_str()) else { continue };
            let (step, attempt) = match known.state {
                TaskState::Waiting if self.verdict(task) == Verdict::Ready => (TaskStep::Start, known.attempt + 1),
                TaskState::UpForRetry if known.retry_at.is_none_or(|at| at <= self.plan.situation.now) => {
                    (TaskStep::Start, known.attempt + 1)
                }
                // Recorded as under way, but not here: its process died.
                TaskState::Running if !self.live(&task.id) => (TaskStep::Resume, known.attempt),
                _ => continue,
            };
            let work = Work {
                run: self.run.clone(),
                task: task.clone(),
                attempt,
                resumed: step == TaskStep::Resume,
                names: self.names(task, attempt),
            };
            let change = Change::Task(Box::new(TaskChange::plain(&self.run.id, &task.id, step, attempt)));
            self.plan.slots -= 1;
            self.plan.actions.push(Action::Launch(change, Box::new(work)));
            if let Some(known) = self.tasks.get_mut(task.id.as_str()) {
                known.state = TaskState::Running;
            }
        }
    }

    /// Ends the run when all its tasks have ended: as its leaves did.
    fn end(&mut self) {
        if !self.tasks.values().all(|task| task.state.ended()) {
            return;
        }
        let failed = graph::leaves(self.definition)
            .iter()
            .filter_map(|leaf| self.tasks.get(leaf))
            .any(|task| matches!(task.state, TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled));
        let step = if failed { RunStep::Fail } else { RunStep::Succeed };
        self.plan.record(Change::End { run: self.run.id.clone(), step, error: None });
    }

    fn names(&self, task: &TaskDef, attempt: u32) -> Value {
        let instant = |at: DateTime<Utc>| Value::String(at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        let tasks: Map<String, Value> = self
            .tasks
            .values()
            .filter(|known| known.state.ended())
            .map(|known| {
                (known.task.clone(), json!({"state": known.state, "summary": known.summary, "result": known.result}))
            })
            .collect();
        let mut names = json!({
            "params": self.run.params,
            "run": {
                "id": self.run.id,
                "dag": self.run.dag,
                "logical_date": self.run.logical_date.map(instant),
                "started_at": self.run.started_at.map(instant),
            },
            "task": {"id": task.id, "attempt": attempt},
            "tasks": tasks,
        });
        if let Some(interval) = self.run.interval {
            names["interval"] = json!({"start": instant(interval.start), "end": instant(interval.end)});
        }
        names
    }
}
