//! A history in memory: for tests, the simulator, and runs nobody wants to keep.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::step::{self, Amended, AttemptStep};
use super::{
    ActiveRun, Applied, Backfill, Call, Change, Event, History, HistoryError, HistoryView, Holding, LastRun, NewRun,
    Paused, RunFilter, Seen, TaskChange,
};
use crate::dag::Dag;
use crate::owner::{Owner, OwnerRecord};
use crate::run::{Attempt, Cause, Run, RunState, RunStep, TaskInstance, TaskStep};
use crate::trigger::FileId;

/// A history that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryHistory(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<String, Record>,
    keys: BTreeSet<String>,
    arrivals: BTreeSet<(String, FileId)>,
    seen: BTreeMap<(String, u32), Seen>,
    owners: BTreeMap<String, OwnerRecord>,
    holdings: Vec<Holding>,
    paused: BTreeMap<String, Paused>,
    /// With whether they have started a run.
    events: Vec<(Event, bool)>,
    backfills: Vec<Backfill>,
    missed: BTreeSet<(String, String)>,
    calls: Vec<Call>,
    order: u64,
    version: u64,
}

#[derive(Debug, Clone)]
struct Record {
    run: Run,
    order: u64,
    definition: Option<Arc<Dag>>,
    tasks: Vec<TaskInstance>,
    attempts: Vec<Attempt>,
}

impl MemoryHistory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, owner: &str, now: DateTime<Utc>, change: &Change) -> bool {
        match change {
            Change::Meet { dag, trigger } => {
                let key = (dag.clone(), *trigger);
                !self.seen.contains_key(&key)
                    && self.seen.insert(key, Seen { first_seen: now, last_end: None }).is_none()
            }
            Change::Create(new) => self.create(owner, now, new),
            Change::Claim { run, from } => self.runs.get_mut(run).is_some_and(|record| {
                let free = record.run.owner == *from && !record.run.state.ended();
                if free {
                    record.run.owner = Some(owner.to_owned());
                }
                free
            }),
            Change::Begin { run, definition, .. } if !self.room(run, definition) => false,
            Change::Begin { run, definition, params } => self.runs.get_mut(run).is_some_and(|record| {
                let begun = step::step_run(&mut record.run, owner, now, RunStep::Begin, None);
                if begun && record.definition.is_none() {
                    record.run.params.clone_from(params);
                    record.run.revision = Some(definition.revision());
                    record.tasks = definition.tasks.iter().map(|task| TaskInstance::waiting(run, &task.id)).collect();
                    record.definition = Some(Arc::clone(definition));
                }
                begun
            }),
            Change::Task(change) => self.task(owner, now, change),
            Change::Amend { run, steps } => self.runs.get_mut(run).is_some_and(|record| record.amend(now, steps)),
            Change::Cancel { run, by } => self.runs.get_mut(run).is_some_and(|record| {
                let open = !record.run.state.ended();
                if open {
                    record.run.cancel = Some(by.clone());
                }
                open
            }),
            Change::Event { end_of: Some(run), .. }
                if !self.runs.get(run).is_some_and(|record| record.run.state.ended()) =>
            {
                false
            }
            Change::Event { event, past, .. } => {
                let same =
                    |known: &Event| (&known.dag, known.trigger, &known.key) == (&event.dag, event.trigger, &event.key);
                let new = !self.events.iter().any(|(known, _)| same(known));
                if new {
                    self.events.push((Event::clone(event), *past));
                }
                new
            }
            Change::Pause { dag, by: Some(by) } => {
                let free = !self.paused.contains_key(dag);
                if free {
                    self.paused.insert(dag.clone(), Paused { by: by.clone(), since: now });
                }
                free
            }
            Change::Pause { dag, by: None } => self.paused.remove(dag).is_some(),
            Change::Backfill(new) => {
                let free = self.backfills.iter().all(|known| known.id != new.id);
                if free {
                    self.backfills.push(Backfill::clone(new));
                }
                free
            }
            Change::EndBackfill { backfill } => {
                let open =
                    |known: &&mut Backfill| known.id == *backfill && (known.made as usize) < known.intervals.len();
                self.backfills
                    .iter_mut()
                    .find(open)
                    .map(|known| known.intervals.truncate(known.made as usize))
                    .is_some()
            }
            Change::Missed { run, task } => {
                self.runs.contains_key(run) && self.missed.insert((run.clone(), task.clone()))
            }
            Change::Call(call) => {
                let free = self.runs.contains_key(&call.run) && self.calls.iter().all(|known| known.id != call.id);
                if free {
                    self.calls.push(Call::clone(call));
                }
                free
            }
            Change::Called { call, tries, again_at } => {
                let Some(at) = self.calls.iter().position(|known| known.id == *call && known.tries == *tries) else {
                    return false;
                };
                match again_at {
                    Some(again_at) => {
                        self.calls[at].due_at = *again_at;
                        self.calls[at].tries += 1;
                    }
                    None => drop(self.calls.remove(at)),
                }
                true
            }
            Change::End { run, step, error } => self.runs.get_mut(run).is_some_and(|record| {
                record.tasks.iter().all(|task| task.state.ended())
                    && step::step_run(&mut record.run, owner, now, *step, error.as_ref())
            }),
        }
    }

    fn task(&mut self, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> bool {
        let short = change.holds.iter().any(|hold| {
            let others = self
                .holdings
                .iter()
                .filter(|held| held.name == hold.name && (&held.run, &held.task) != (&change.run, &change.task));
            others.map(|held| held.slots).sum::<u32>() + hold.slots > hold.limit
        });
        if short || !self.runs.get_mut(&change.run).is_some_and(|record| record.task(owner, now, change)) {
            return false;
        }
        self.holdings.retain(|held| (&held.run, &held.task) != (&change.run, &change.task));
        self.holdings.extend(change.holds.iter().map(|hold| Holding {
            name: hold.name.clone(),
            run: change.run.clone(),
            task: change.task.clone(),
            slots: hold.slots,
            since: now,
        }));
        true
    }

    fn create(&mut self, owner: &str, now: DateTime<Utc>, new: &NewRun) -> bool {
        if self.runs.contains_key(&new.id) || new.key.as_ref().is_some_and(|key| self.keys.contains(key)) {
            return false;
        }
        match &new.cause {
            Cause::File { path, size, modified } => {
                let file = FileId { path: path.clone(), size: *size, modified: *modified };
                if !self.arrivals.insert((new.dag.clone(), file)) {
                    return false;
                }
            }
            Cause::Event { trigger, keys } => {
                let of_run =
                    |event: &Event| event.dag == new.dag && event.trigger == *trigger && keys.contains(&event.key);
                let open = self.events.iter().filter(|(event, used)| !used && of_run(event)).count();
                if open != keys.len() {
                    return false;
                }
                self.events.iter_mut().filter(|(event, _)| of_run(event)).for_each(|(_, used)| *used = true);
            }
            Cause::Schedule { trigger } => {
                if let Some(seen) = self.seen.get_mut(&(new.dag.clone(), *trigger)) {
                    seen.last_end = seen.last_end.max(new.interval.map(|interval| interval.end));
                }
            }
            Cause::Backfill { backfill, number } => {
                if let Some(known) = self.backfills.iter_mut().find(|known| known.id == *backfill) {
                    known.made = known.made.max(number + 1);
                }
            }
            Cause::Manual { .. } | Cause::Continuous => {}
        }
        self.keys.extend(new.key.clone());
        self.order += 1;
        let record = Record {
            run: step::create(new, owner, now),
            order: self.order,
            definition: None,
            tasks: Vec::new(),
            attempts: Vec::new(),
        };
        self.runs.insert(new.id.clone(), record);
        true
    }

    /// Whether a run may begin beside those of its DAG that are running. Those of backfills are not counted.
    fn room(&self, run: &str, dag: &Dag) -> bool {
        let running = self
            .runs
            .values()
            .map(|record| &record.run)
            .filter(|run| run.dag == dag.id && run.state == RunState::Running && run.backfill().is_none());
        self.runs.get(run).is_some_and(|record| record.run.backfill().is_some())
            || running.count() < dag.max_active_runs as usize
    }

    fn in_order(&self) -> Vec<&Record> {
        let mut records: Vec<&Record> = self.runs.values().collect();
        records.sort_by_key(|record| (record.run.queued_at, record.order));
        records
    }
}

impl Record {
    fn task(&mut self, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> bool {
        if self.run.owner.as_deref() != Some(owner) || !step::open_to(self.run.state, change.step) {
            return false;
        }
        let Some(position) = self.tasks.iter().position(|task| task.task == change.task) else { return false };
        let task = &mut self.tasks[position];
        if !step::current(self.run.amended, task.state, change) {
            return false;
        }
        let Some(attempt_step) = step::step_task(task, owner, now, change) else { return false };
        let current =
            self.attempts.iter_mut().find(|attempt| attempt.task == change.task && attempt.number == change.attempt);
        match (attempt_step, current) {
            (AttemptStep::New(attempt), _) => self.attempts.push(*attempt),
            (AttemptStep::Resumed, Some(attempt)) => {
                attempt.resumes += 1;
                owner.clone_into(&mut attempt.owner);
            }
            (AttemptStep::Ended, Some(attempt)) => step::end_attempt(attempt, now, change),
            _ => {}
        }
        let items: Vec<TaskInstance> = change
            .items
            .iter()
            .zip(0..)
            .map(|(item, number)| {
                let mut task = TaskInstance::of_item(&change.run, &change.task, number, item.clone());
                // The list may have been there before it was cleared.
                let numbers = self.attempts.iter().filter(|attempt| attempt.task == task.task);
                task.base = numbers.map(|attempt| attempt.number).max().unwrap_or_default();
                task.attempt = task.base;
                task
            })
            .collect();
        let after = self.tasks.split_off(position + 1);
        self.tasks.extend(items.into_iter().chain(after));
        true
    }

    fn amend(&mut self, now: DateTime<Utc>, steps: &[(String, TaskStep)]) -> bool {
        let mut tasks = self.tasks.clone();
        for (name, step) in steps {
            let Some(task) = tasks.iter_mut().find(|task| task.task == *name) else { return false };
            match step::amend(task, now, *step) {
                Amended::Refused => return false,
                Amended::Done if task.item.is_none() && *step == TaskStep::Clear => {
                    // What was made for the items of its list goes with it; their attempts stay.
                    tasks.retain(|other| other.item.is_none() || other.defined() != name);
                }
                Amended::Done | Amended::Wanted => {}
            }
        }
        self.tasks = tasks;
        self.run.amended += 1;
        step::reopen(&mut self.run);
        true
    }
}

impl History for MemoryHistory {
    fn apply(&self, owner: &str, now: DateTime<Utc>, changes: &[Change]) -> Result<Vec<bool>, HistoryError> {
        let mut state = self.state();
        state.version += 1;
        Ok(changes.iter().map(|change| state.apply(owner, now, change)).collect())
    }

    fn apply_at(
        &self,
        owner: &str,
        now: DateTime<Utc>,
        changes: &[Change],
        version: u64,
    ) -> Result<Applied, HistoryError> {
        let mut state = self.state();
        let alone = state.version == version;
        state.version += 1;
        let accepted = changes.iter().map(|change| state.apply(owner, now, change)).collect();
        Ok(Applied { accepted, version: alone.then_some(state.version) })
    }

    fn view(&self, last_of: &[String]) -> Result<HistoryView, HistoryError> {
        let state = self.state();
        let runs = state
            .in_order()
            .into_iter()
            .filter(|record| !record.run.state.ended())
            .map(|record| ActiveRun {
                run: record.run.clone(),
                definition: record.definition.clone(),
                tasks: record.tasks.clone(),
            })
            .collect();
        let mut last = BTreeMap::new();
        for dag in last_of {
            let mut ended: Vec<&Run> = state
                .runs
                .values()
                .map(|record| &record.run)
                .filter(|run| run.dag == *dag && run.ended_at.is_some())
                .collect();
            ended.sort_by_key(|run| (std::cmp::Reverse(run.ended_at), std::cmp::Reverse(run.id.clone())));
            if let Some(ended_at) = ended.first().and_then(|run| run.ended_at) {
                let failures = ended.iter().take(10).take_while(|run| run.state == RunState::Failed).count();
                last.insert(dag.clone(), LastRun { ended_at, failures: u32::try_from(failures).unwrap_or(10) });
            }
        }
        let open = |run: &String| state.runs.get(run).is_some_and(|record| !record.run.state.ended());
        Ok(HistoryView {
            runs,
            seen: state.seen.clone(),
            last,
            holdings: state.holdings.clone(),
            paused: state.paused.clone(),
            events: state.events.iter().filter(|(_, used)| !used).map(|(event, _)| event.clone()).collect(),
            backfills: state
                .backfills
                .iter()
                .filter(|known| (known.made as usize) < known.intervals.len())
                .cloned()
                .collect(),
            missed: state.missed.iter().filter(|(run, _)| open(run)).cloned().collect(),
            calls: state.calls.clone(),
        })
    }

    fn version(&self) -> Result<u64, HistoryError> {
        Ok(self.state().version)
    }

    fn unseen(&self, dag: &str, files: &[FileId]) -> Result<Vec<FileId>, HistoryError> {
        let state = self.state();
        Ok(files.iter().filter(|file| !state.arrivals.contains(&(dag.to_owned(), (*file).clone()))).cloned().collect())
    }

    fn heartbeat(&self, owner: &Owner, lease_until: DateTime<Utc>) -> Result<(), HistoryError> {
        let record = OwnerRecord { owner: owner.clone(), lease_until, retired: false };
        self.state().owners.insert(owner.id.clone(), record);
        Ok(())
    }

    fn retire(&self, owner: &str) -> Result<(), HistoryError> {
        if let Some(record) = self.state().owners.get_mut(owner) {
            record.retired = true;
        }
        Ok(())
    }

    fn owners(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        let state = self.state();
        let wanted: BTreeSet<&String> = state
            .runs
            .values()
            .filter(|record| !record.run.state.ended())
            .filter_map(|record| record.run.owner.as_ref())
            .collect();
        Ok(wanted.into_iter().filter_map(|id| state.owners.get(id).cloned()).collect())
    }

    fn schedulers(&self) -> Result<Vec<OwnerRecord>, HistoryError> {
        Ok(self.state().owners.values().filter(|record| !record.retired).cloned().collect())
    }

    fn runs(&self, filter: &RunFilter) -> Result<Vec<Run>, HistoryError> {
        let state = self.state();
        let wanted = |run: &&Run| {
            filter.dag.as_ref().is_none_or(|dag| run.dag == *dag) && filter.state.is_none_or(|state| run.state == state)
        };
        Ok(state
            .in_order()
            .into_iter()
            .rev()
            .map(|record| &record.run)
            .filter(wanted)
            .take(filter.limit)
            .cloned()
            .collect())
    }

    fn run(&self, id: &str) -> Result<Option<Run>, HistoryError> {
        Ok(self.state().runs.get(id).map(|record| record.run.clone()))
    }

    fn run_of_key(&self, key: &str) -> Result<Option<String>, HistoryError> {
        let state = self.state();
        Ok(state
            .runs
            .values()
            .find(|record| record.run.key.as_deref() == Some(key))
            .map(|record| record.run.id.clone()))
    }

    fn last_event(&self, dag: &str, trigger: u32) -> Result<Option<String>, HistoryError> {
        let state = self.state();
        let mut of_trigger = state.events.iter().filter(|(event, _)| event.dag == dag && event.trigger == trigger);
        Ok(of_trigger.next_back().map(|(event, _)| event.key.clone()))
    }

    fn tasks(&self, run: &str) -> Result<Vec<TaskInstance>, HistoryError> {
        Ok(self.state().runs.get(run).map(|record| record.tasks.clone()).unwrap_or_default())
    }

    fn attempts(&self, run: &str) -> Result<Vec<Attempt>, HistoryError> {
        let mut attempts = self.state().runs.get(run).map(|record| record.attempts.clone()).unwrap_or_default();
        attempts.sort_by(|a, b| (&a.task, a.number).cmp(&(&b.task, b.number)));
        Ok(attempts)
    }

    fn forget(&self, before: DateTime<Utc>, most: usize) -> Result<Vec<(String, String)>, HistoryError> {
        let mut state = self.state();
        let mut old: Vec<(DateTime<Utc>, String, String)> = state
            .runs
            .values()
            .filter_map(|record| {
                let ended = record.run.ended_at.filter(|ended| *ended < before)?;
                Some((ended, record.run.dag.clone(), record.run.id.clone()))
            })
            .collect();
        old.sort();
        old.truncate(most);
        for (_, _, run) in &old {
            if let Some(key) = state.runs.remove(run).and_then(|record| record.run.key) {
                state.keys.remove(&key);
            }
            state.calls.retain(|call| call.run != *run);
            state.missed.retain(|(missed, _)| missed != run);
        }
        Ok(old.into_iter().map(|(_, dag, run)| (dag, run)).collect())
    }

    fn definition(&self, run: &str) -> Result<Option<Arc<Dag>>, HistoryError> {
        Ok(self.state().runs.get(run).and_then(|record| record.definition.clone()))
    }
}
