//! What to do next: from the definitions, the history and the time to actions. Pure; the loop around it is [`crate::scheduler`].
//!
//! `starts` makes runs, `progress` moves one on from how it stands (`standing`; `list` those of its tasks that are run for items), `limits` says which of the tasks that are ready may start, `names` what their templates may name,
//! `tell` who hears of it. Beside them, for people: [`why`] explains what waits, and [`amend`] what clearing a task means.
pub mod amend;
mod limits;
mod list;
mod names;
mod progress;
pub(crate) mod standing;
mod starts;
mod tell;
pub mod why;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::dag::{CallOn, Dags, TaskDef};
use crate::history::{ActiveRun, Change, HistoryView, TaskChange};
use crate::run::{Run, RunState, RunStep, TaskStep};
use crate::task::{Outcome, Retry, TaskError};
use crate::trigger::FileId;

use limits::Limits;
pub use limits::UNNAMED_POOL;
use progress::Progress;
use standing::{Standing, Standings};
pub use why::{Why, why_queued};

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
    /// How many attempts may be under way at once in this process.
    pub slots: usize,
    /// How many slots each pool has, over all processes.
    pub pools: &'a BTreeMap<String, u32>,
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
    /// When the task started first, if it is not now.
    pub since: Option<DateTime<Utc>>,
    /// The names of the tasks directly after it.
    pub next: Vec<String>,
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
    decide_on(dags, view, &mut Standings::of(&view.runs), situation)
}

/// Decides as [`decide`] does, for whoever keeps the standings of the view's runs. What is tried out in them is taken back: they are afterwards as
/// they were before.
pub(crate) fn decide_on(
    dags: &Dags,
    view: &HistoryView,
    standings: &mut Standings,
    situation: &Situation<'_>,
) -> Vec<Action> {
    let mut plan = Plan { situation, actions: Vec::new(), ended: Vec::new(), known: HashSet::new() };
    plan.ended.extend(situation.ended);
    plan.ended.sort_by_key(|ended| &ended.run);
    plan.known.extend(situation.ended.iter().map(|ended| (ended.run.as_str(), ended.task.as_str())));
    let mut begun: BTreeMap<&str, u32> = BTreeMap::new();
    for active in view.runs.iter().filter(|active| counted(&active.run)) {
        *begun.entry(active.run.dag.as_str()).or_default() += 1;
    }
    let mut under_way = Vec::new();
    for (active, standing) in view.runs.iter().zip(&mut standings.0) {
        let mine = active.run.owner.as_deref() == Some(situation.me);
        if !mine && !plan.claim(&active.run) {
            continue;
        }
        if active.run.state == RunState::Queued {
            plan.queued(dags, view, active, standing.as_ref(), &mut begun);
        } else if let (Some(definition), Some(standing)) = (&active.definition, standing) {
            let mut progress = Progress::new(definition, &active.run, standing);
            progress.advance(&mut plan, dags, view);
            under_way.push(progress);
        }
    }
    if !situation.stopping {
        Limits::new(view, situation).start(&mut plan, &mut under_way);
        if *situation.scope == Scope::All {
            for dag in dags.iter().filter(|dag| !view.paused.contains_key(&dag.id)) {
                plan.triggers(dag, view);
            }
            plan.backfills(dags, view);
        }
    }
    let actions = plan.actions;
    under_way.into_iter().for_each(Progress::take_back);
    actions
}

/// Whether a run is one of those that its DAG allows so many of at once.
fn counted(run: &Run) -> bool {
    run.state == RunState::Running && run.backfill().is_none()
}

struct Plan<'a> {
    situation: &'a Situation<'a>,
    actions: Vec<Action>,
    /// The attempts that have ended, by run.
    ended: Vec<&'a Ended>,
    /// Their runs and tasks.
    known: HashSet<(&'a str, &'a str)>,
}

impl<'a> Plan<'a> {
    /// The attempts of a run that have ended, in their order.
    fn ended_of(&self, run: &str) -> Vec<&'a Ended> {
        let from = self.ended.partition_point(|ended| ended.run.as_str() < run);
        self.ended[from..].iter().take_while(|ended| ended.run == run).copied().collect()
    }

    fn just_ended(&self, run: &str, task: &str) -> bool {
        self.known.contains(&(run, task))
    }

    fn record(&mut self, change: Change) {
        self.actions.push(Action::Record(change));
    }

    /// Whether somebody wants a run stopped.
    fn cancelled(&self, run: &Run) -> bool {
        run.cancel.is_some() || self.situation.cancelled.contains(&run.id)
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
    fn queued<'v>(
        &mut self,
        dags: &Dags,
        view: &HistoryView,
        active: &'v ActiveRun,
        standing: Option<&Standing>,
        begun: &mut BTreeMap<&'v str, u32>,
    ) {
        let run = &active.run;
        if self.cancelled(run) {
            let tasks = standing.map(Standing::tasks).unwrap_or_default();
            for task in tasks.iter().filter(|task| !task.state.ended()) {
                // Only a run that was opened again has tasks already.
                let mut change = TaskChange::plain(&run.id, &task.task, TaskStep::Cancel, task.attempt);
                change.amended = run.amended;
                self.record(Change::Task(Box::new(change)));
            }
            self.record(Change::End { run: run.id.clone(), step: RunStep::Cancel, error: None });
            self.start_others(run, dags, RunState::Cancelled);
            return;
        }
        let running = begun.get(run.dag.as_str()).copied().unwrap_or_default();
        if self.situation.stopping || why::holds_back(dags, view, active, running) {
            return;
        }
        // What a run began with stays, also when it is opened again.
        let definition = active.definition.as_ref().map_or_else(|| dags.find(&run.dag), Ok);
        match definition.and_then(|dag| Ok((dag, dag.resolve_params(&run.params)?))) {
            Ok((dag, params)) => {
                if run.backfill().is_none() {
                    *begun.entry(run.dag.as_str()).or_default() += 1;
                }
                self.record(Change::Begin { run: run.id.clone(), definition: Arc::clone(dag), params });
            }
            Err(error) => {
                let mut failure = TaskError::new(error.code(), error.to_string(), Retry::AfterPerson);
                failure.fix = error.fix();
                let pinned = active.definition.as_ref().or_else(|| dags.get(&run.dag));
                let calls = pinned.map(|dag| {
                    tell::calls(self.situation.now, &dag.calls, run, "", 0, CallOn::Failure, Some(&failure))
                });
                self.record(Change::End { run: run.id.clone(), step: RunStep::Fail, error: Some(failure) });
                self.start_others(run, dags, RunState::Failed);
                calls.into_iter().flatten().for_each(|call| self.record(call));
            }
        }
    }
}
