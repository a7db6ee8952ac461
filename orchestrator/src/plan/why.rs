//! Why something does not happen: the one fact it waits for, who holds it, since when, and until when that is expected. Pure, and from the same
//! reckoning as [`super::decide`].
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::progress::Progress;
use super::standing::Standing;
use crate::dag::{Dag, Dags, EventOf, Trigger};
use crate::history::{ActiveRun, HistoryView};
use crate::run::{Cause, RunState, TaskInstance, TaskState};
use crate::schedule::interval;

/// The one fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Why {
    /// What waits: a DAG, a run, or a task of one.
    pub of: String,
    /// What it waits for, or what it does: reads after its name.
    pub what: String,
    /// Who holds what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Until when, if that can be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

impl Why {
    fn new(of: impl Into<String>, what: impl Into<String>) -> Self {
        Self { of: of.into(), what: what.into(), holder: None, since: None, until: None }
    }
}

/// What an answer depends on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The DAGs.
    pub dags: &'a Dags,
    /// The history.
    pub view: &'a HistoryView,
    /// The present.
    pub now: DateTime<Utc>,
    /// Owners that are alive.
    pub alive: &'a BTreeSet<String>,
    /// How many slots each pool has.
    pub pools: &'a BTreeMap<String, u32>,
    /// How long each task took when it last succeeded; the run itself has the empty name.
    pub usual: &'a BTreeMap<String, TimeDelta>,
}

/// Says why no run of a DAG begins.
pub fn of_dag(facts: &Facts<'_>, dag: &Dag) -> Why {
    if let Some(paused) = facts.view.paused.get(&dag.id) {
        return Why {
            holder: Some(paused.by.clone()),
            since: Some(paused.since),
            ..Why::new(&dag.id, "is paused: only people start runs of it")
        };
    }
    if facts.alive.is_empty() {
        return Why::new(&dag.id, "has no scheduler: start `tidemill up`");
    }
    let ticks = dag.triggers.iter().zip(0..).filter_map(|(trigger, number)| {
        let Trigger::Schedule(trigger) = trigger else { return None };
        let seen = facts.view.seen.get(&(dag.id.clone(), number));
        let first_seen = seen.map_or(facts.now, |seen| seen.first_seen);
        interval::next(trigger, seen.and_then(|seen| seen.last_end), first_seen, facts.now).map(|interval| interval.end)
    });
    let file = dag.triggers.iter().find_map(|trigger| match trigger {
        Trigger::File(file) => Some(format!("waits for a file that matches `{}`", file.path)),
        Trigger::Event(event) => Some(match &event.of {
            EventOf::Dag { dag, .. } => format!("waits for a run of `{dag}` to end"),
            EventOf::Table(table) => format!("waits for a new version of `{table}`"),
        }),
        _ => None,
    });
    match (ticks.min(), file) {
        (Some(tick), _) => Why { until: Some(tick), ..Why::new(&dag.id, "waits for its next tick") },
        (None, Some(file)) => Why::new(&dag.id, file),
        (None, None) if dag.triggers.contains(&Trigger::Continuous) => {
            Why::new(&dag.id, "rests a moment before it starts again")
        }
        (None, None) => Why::new(&dag.id, "is started by people only: `tidemill dags trigger`"),
    }
}

/// Says why a run does not begin, or what the tasks of it that are open wait for.
pub fn of_run(facts: &Facts<'_>, active: &ActiveRun) -> Vec<Why> {
    if let Some(why) = run_itself(facts, active) {
        return vec![why];
    }
    let open = active.tasks.iter().filter(|task| !task.state.ended() && task.item.is_none());
    let Some(definition) = &active.definition else { return open.map(|task| not_begun(active, &task.task)).collect() };
    let mut standing = Standing::new(definition, active.tasks.clone());
    let progress = Progress::new(definition, &active.run, &mut standing);
    open.map(|task| task_itself(facts, &progress, &task.task)).collect()
}

/// Says what a task of a run waits for, or what it does.
pub fn of_task(facts: &Facts<'_>, active: &ActiveRun, task: &str) -> Why {
    if let Some(why) = run_itself(facts, active) {
        return why;
    }
    let Some(definition) = &active.definition else { return not_begun(active, task) };
    let mut standing = Standing::new(definition, active.tasks.clone());
    task_itself(facts, &Progress::new(definition, &active.run, &mut standing), task)
}

fn not_begun(active: &ActiveRun, task: &str) -> Why {
    Why::new(format!("{}.{task}", active.run.id), "waits for its run to begin")
}

/// What a task of a run that is under way waits for, or what it does.
fn task_itself(facts: &Facts<'_>, progress: &Progress<'_>, task: &str) -> Why {
    let of = format!("{}.{task}", progress.run.id);
    let Some(place) = progress.standing.find(task) else { return Why::new(of, "is no task of this run") };
    let (defined, known) = (progress.standing.of(place), progress.standing.at(place));
    let expected = |task: &TaskInstance| {
        facts.usual.get(task.defined()).zip(task.started_at).map(|(usual, started)| (started + *usual).max(facts.now))
    };
    match known.state {
        state if state.ended() => Why { since: known.ended_at, ..Why::new(of, format!("is {state}")) },
        TaskState::Running => {
            let what = format!("is running, attempt {}", known.attempt);
            Why { since: known.started_at, until: expected(known), ..Why::new(of, what) }
        }
        TaskState::UpForRetry => {
            let said = known.error.as_ref().map(|error| format!(": {}", error.what)).unwrap_or_default();
            let what = format!("waits to be tried again after attempt {}{said}", known.attempt);
            Why { until: known.retry_at, ..Why::new(of, what) }
        }
        TaskState::Deferred => {
            let what = if known.summary.is_empty() { "has put itself off".to_owned() } else { known.summary.clone() };
            Why { since: known.started_at, until: known.retry_at, ..Why::new(of, what) }
        }
        TaskState::Mapped => match progress.open_item(defined) {
            Some(item) => Why { holder: Some(item.task.clone()), ..Why::new(of, "waits for the tasks of its list") },
            None => Why::new(of, "is about to end"),
        },
        _ => {
            if let Some(before) = progress.waits_for(defined) {
                let what = format!("waits for task `{}`, which is {}", before.task, before.state);
                let (since, until) = (before.started_at, expected(before));
                return Why { holder: Some(before.task.clone()), since, until, ..Why::new(of, what) };
            }
            held(facts, progress, of.clone(), place)
                .unwrap_or_else(|| Why::new(of, "is ready: it starts as soon as the scheduler has a free slot"))
        }
    }
}

/// What of what a task would hold is not free.
fn held(facts: &Facts<'_>, progress: &Progress<'_>, of: String, place: usize) -> Option<Why> {
    for hold in progress.holds_of(place, facts.pools) {
        let holdings: Vec<_> = facts.view.holdings.iter().filter(|held| held.name == hold.name).collect();
        let used: u32 = holdings.iter().map(|held| held.slots).sum();
        if used + hold.slots > hold.limit {
            let first = holdings.iter().min_by_key(|held| held.since)?;
            let what = format!("waits for {}: {used} of {} in use, {} needed", hold.name, hold.limit, hold.slots);
            let holder = Some(format!("{}.{}", first.run, first.task));
            return Some(Why { holder, since: Some(first.since), ..Why::new(of, what) });
        }
    }
    None
}

/// What holds a run as a whole, if anything does.
fn run_itself(facts: &Facts<'_>, active: &ActiveRun) -> Option<Why> {
    let run = &active.run;
    if run.state.ended() {
        return Some(Why { since: run.ended_at, ..Why::new(&run.id, format!("is {}", run.state)) });
    }
    if run.owner.as_ref().is_none_or(|owner| !facts.alive.contains(owner)) && facts.alive.is_empty() {
        return Some(Why::new(&run.id, "has no scheduler: start `tidemill up`"));
    }
    if run.state == RunState::Queued {
        let counted = facts.view.runs.iter().filter(|other| other.run.dag == run.dag && super::counted(&other.run));
        let running = u32::try_from(counted.count()).unwrap_or(u32::MAX);
        let mut why = held_back(facts.dags, facts.view, active, running)
            .unwrap_or_else(|| Why::new(&run.id, "is about to begin"));
        let holder =
            why.holder.as_ref().and_then(|holder| facts.view.runs.iter().find(|other| other.run.id == *holder));
        let started = holder.and_then(|holder| holder.run.started_at);
        why.until = started.zip(facts.usual.get("")).map(|(started, usual)| (started + *usual).max(facts.now));
        return Some(why);
    }
    run.owner.is_none().then(|| Why::new(&run.id, "is about to be taken over"))
}

/// Whether a queued run does not begin now; as [`held_back`], without a word.
pub(super) fn holds_back(dags: &Dags, view: &HistoryView, active: &ActiveRun, running: u32) -> bool {
    let run = &active.run;
    let by_people = matches!(run.cause, Cause::Manual { .. } | Cause::Backfill { .. });
    let most = active.definition.as_ref().or_else(|| dags.get(&run.dag)).map_or(u32::MAX, |dag| dag.max_active_runs);
    !by_people && view.paused.contains_key(&run.dag) || run.backfill().is_none() && running >= most
}

/// Why a queued run does not begin now; `running`: how many runs of its DAG are under way and counted.
pub(super) fn held_back(dags: &Dags, view: &HistoryView, active: &ActiveRun, running: u32) -> Option<Why> {
    let run = &active.run;
    if !holds_back(dags, view, active, running) {
        return None;
    }
    let by_people = matches!(run.cause, Cause::Manual { .. } | Cause::Backfill { .. });
    if let Some(paused) = view.paused.get(&run.dag).filter(|_| !by_people) {
        let what = "waits for its DAG to be resumed";
        return Some(Why { holder: Some(paused.by.clone()), since: Some(paused.since), ..Why::new(&run.id, what) });
    }
    let most = active.definition.as_ref().or_else(|| dags.get(&run.dag)).map_or(u32::MAX, |dag| dag.max_active_runs);
    let others = view.runs.iter().map(|other| &other.run).filter(|other| other.dag == run.dag && super::counted(other));
    let others: Vec<_> = others.collect();
    let names: Vec<&str> = others.iter().map(|other| other.id.as_str()).collect();
    let first = others.iter().min_by_key(|other| other.started_at)?;
    let what = format!("waits for {} to end (max_active_runs = {most})", names.join(", "));
    Some(Why { holder: Some(first.id.clone()), since: first.started_at, ..Why::new(&run.id, what) })
}

/// Says why a queued run does not begin, for whoever waits for it.
pub fn why_queued(dags: &Dags, view: &HistoryView, run: &str) -> Option<String> {
    let queued = view.runs.iter().find(|active| active.run.id == run && active.run.state == RunState::Queued)?;
    let counted = view.runs.iter().filter(|other| other.run.dag == queued.run.dag && super::counted(&other.run));
    let running = u32::try_from(counted.count()).unwrap_or(u32::MAX);
    held_back(dags, view, queued, running).map(|why| why.what)
}
