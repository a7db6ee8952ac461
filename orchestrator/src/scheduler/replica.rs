//! What the history holds of runs that have not ended, in memory: read once, and from then on kept true by the changes that the history has
//! accepted from here. Whoever else writes the history makes it another version, and then it is read again.
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::history::{ActiveRun, Change, HistoryView, Holding, NewRun, Seen, TaskChange, step};
use crate::plan::standing::{Standing, Standings};
use crate::run::{Cause, RunStep, TaskInstance, TaskState, TaskStep};

/// A view of the history that follows what is written from here. The tasks of its runs are in their standings, and only there.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) view: HistoryView,
    pub(crate) standings: Standings,
    /// The version of the history that this is; absent: none, it must be read again.
    pub(crate) version: Option<u64>,
    /// The DAGs whose last runs were asked for.
    last_of: Vec<String>,
    place: HashMap<String, usize>,
}

impl Replica {
    /// Takes what was read.
    pub(crate) fn load(&mut self, mut view: HistoryView, last_of: Vec<String>, version: u64) {
        self.standings = Standings::of(&view.runs);
        for active in &mut view.runs {
            active.tasks = Vec::new();
        }
        self.view = view;
        self.last_of = last_of;
        self.version = Some(version);
        self.sort();
    }

    /// Whether it is the history at that version, with the last runs of these DAGs.
    pub(crate) fn is(&self, version: u64, last_of: &[String]) -> bool {
        self.version == Some(version) && self.last_of == last_of
    }

    /// The place of a run in the view.
    pub(crate) fn find(&self, run: &str) -> Option<usize> {
        self.place.get(run).copied()
    }

    /// How a run stands.
    pub(crate) fn standing(&self, run: &str) -> Option<&Standing> {
        self.standings.0.get(self.find(run)?)?.as_ref()
    }

    /// Follows changes that the history has accepted, which it says made it `version`. What it cannot follow is read again.
    pub(crate) fn follow<'c>(
        &mut self,
        owner: &str,
        now: DateTime<Utc>,
        changes: impl Iterator<Item = &'c Change>,
        version: Option<u64>,
    ) {
        self.version = version;
        if version.is_none() {
            return;
        }
        let mut moved = false;
        for change in changes {
            moved |= matches!(change, Change::Create(_) | Change::End { .. });
            if !self.one(owner, now, change) {
                self.version = None;
                return;
            }
        }
        if moved {
            let mut open = self.view.runs.iter().map(|active| !active.run.state.ended());
            self.standings.0.retain(|_| open.next().unwrap_or_default());
            let ended: BTreeSet<String> = self
                .view
                .runs
                .iter()
                .map(|active| &active.run)
                .filter(|run| run.state.ended())
                .map(|run| run.id.clone())
                .collect();
            self.view.runs.retain(|active| !active.run.state.ended());
            self.view.missed.retain(|(run, _)| !ended.contains(run));
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.place = self.view.runs.iter().enumerate().map(|(place, active)| (active.run.id.clone(), place)).collect();
    }

    /// Follows one change; false if that cannot be done from here.
    fn one(&mut self, owner: &str, now: DateTime<Utc>, change: &Change) -> bool {
        match change {
            Change::Task(change) => self.task(owner, now, change),
            Change::Meet { dag, trigger } => {
                self.view.seen.insert((dag.clone(), *trigger), Seen { first_seen: now, last_end: None });
                true
            }
            Change::Create(new) => self.create(owner, now, new),
            Change::Claim { run, .. } => self.change_run(run, |active| {
                active.run.owner = Some(owner.to_owned());
                true
            }),
            Change::Begin { run, definition, params } => {
                let Some(place) = self.find(run) else { return false };
                let ActiveRun { run, definition: pinned, .. } = &mut self.view.runs[place];
                if !step::step_run(run, owner, now, RunStep::Begin, None) {
                    return false;
                }
                if run.revision.is_none() {
                    run.params.clone_from(params);
                    run.revision = Some(definition.revision());
                    *pinned = Some(Arc::clone(definition));
                    let tasks = definition.tasks.iter().map(|task| TaskInstance::waiting(&run.id, &task.id)).collect();
                    self.standings.0[place] = Some(Standing::new(definition, tasks));
                }
                true
            }
            Change::End { run, step, error } => {
                let last_of = &self.last_of;
                let Some(active) = self.place.get(run).map(|place| &mut self.view.runs[*place]) else { return false };
                // A DAG whose last end matters: that is the history's to say.
                !last_of.contains(&active.run.dag) && step::step_run(&mut active.run, owner, now, *step, error.as_ref())
            }
            Change::Missed { run, task } => self.view.missed.insert((run.clone(), task.clone())),
            Change::Event { past: true, .. } => true,
            Change::Event { event, past: false, .. } => {
                self.view.events.push((**event).clone());
                true
            }
            Change::Call(call) => {
                self.view.calls.push((**call).clone());
                true
            }
            // What people ask for, and what is rare.
            Change::Amend { .. }
            | Change::Cancel { .. }
            | Change::Pause { .. }
            | Change::Backfill(_)
            | Change::EndBackfill { .. }
            | Change::Called { .. } => false,
        }
    }

    fn change_run(&mut self, run: &str, change: impl FnOnce(&mut ActiveRun) -> bool) -> bool {
        self.find(run).is_some_and(|place| change(&mut self.view.runs[place]))
    }

    fn task(&mut self, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> bool {
        let Some(of_run) = self.find(&change.run) else { return false };
        let Some(definition) = &self.view.runs[of_run].definition else { return false };
        let Some(standing) = &mut self.standings.0[of_run] else { return false };
        let Some(place) = standing.find(&change.task).filter(|_| change.step != TaskStep::Map) else { return false };
        let mut task = standing.tasks()[place].clone();
        let held = task.state == TaskState::Running;
        if step::step_task(&mut task, owner, now, change).is_none() {
            return false;
        }
        standing.set(definition, place, task);
        if held {
            self.view.holdings.retain(|held| (&held.task, &held.run) != (&change.task, &change.run));
        }
        self.view.holdings.extend(change.holds.iter().map(|hold| Holding {
            name: hold.name.clone(),
            run: change.run.clone(),
            task: change.task.clone(),
            slots: hold.slots,
            since: now,
        }));
        true
    }

    fn create(&mut self, owner: &str, now: DateTime<Utc>, new: &NewRun) -> bool {
        match &new.cause {
            Cause::Event { trigger, keys } => {
                let keys: BTreeSet<&String> = keys.iter().collect();
                self.view
                    .events
                    .retain(|event| event.dag != new.dag || event.trigger != *trigger || !keys.contains(&event.key));
            }
            Cause::Schedule { trigger } => {
                if let Some(seen) = self.view.seen.get_mut(&(new.dag.clone(), *trigger)) {
                    seen.last_end = seen.last_end.max(new.interval.map(|interval| interval.end));
                }
            }
            Cause::Backfill { backfill, number } => {
                for known in self.view.backfills.iter_mut().filter(|known| known.id == *backfill) {
                    known.made = known.made.max(number + 1);
                }
                self.view.backfills.retain(|known| (known.made as usize) < known.intervals.len());
            }
            Cause::File { .. } | Cause::Manual { .. } | Cause::Continuous => {}
        }
        let run = step::create(new, owner, now);
        let place = self.view.runs.partition_point(|active| active.run.queued_at <= now);
        self.view.runs.insert(place, ActiveRun { run, definition: None, tasks: Vec::new() });
        self.standings.0.insert(place, None);
        // What stood behind it has moved.
        if place + 1 == self.view.runs.len() {
            self.place.insert(new.id.clone(), place);
        } else {
            self.sort();
        }
        true
    }
}
