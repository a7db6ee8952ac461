//! A history in memory: for tests, the simulator, and runs nobody wants to keep.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::step::{self, AttemptStep};
use super::{ActiveRun, Change, History, HistoryError, HistoryView, LastRun, NewRun, RunFilter, Seen, TaskChange};
use crate::dag::Dag;
use crate::owner::{Owner, OwnerRecord};
use crate::run::{Attempt, Cause, Run, RunState, RunStep, TaskInstance};
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
    order: u64,
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
            Change::Begin { definition, .. } if self.running(&definition.id) >= definition.max_active_runs as usize => {
                false
            }
            Change::Begin { run, definition, params } => self.runs.get_mut(run).is_some_and(|record| {
                let begun = step::step_run(&mut record.run, owner, now, RunStep::Begin, None);
                if begun {
                    record.run.params.clone_from(params);
                    record.run.revision = Some(definition.revision());
                    record.tasks = definition.tasks.iter().map(|task| TaskInstance::waiting(run, &task.id)).collect();
                    record.definition = Some(Arc::clone(definition));
                }
                begun
            }),
            Change::Task(change) => {
                self.runs.get_mut(&change.run).is_some_and(|record| record.task(owner, now, change))
            }
            Change::End { run, step, error } => self
                .runs
                .get_mut(run)
                .is_some_and(|record| step::step_run(&mut record.run, owner, now, *step, error.as_ref())),
        }
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
            Cause::Cron { trigger } => {
                if let Some(seen) = self.seen.get_mut(&(new.dag.clone(), *trigger)) {
                    seen.last_end = seen.last_end.max(new.interval.map(|interval| interval.end));
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

    fn running(&self, dag: &str) -> usize {
        self.runs.values().filter(|record| record.run.dag == dag && record.run.state == RunState::Running).count()
    }

    fn in_order(&self) -> Vec<&Record> {
        let mut records: Vec<&Record> = self.runs.values().collect();
        records.sort_by_key(|record| (record.run.queued_at, record.order));
        records
    }
}

impl Record {
    fn task(&mut self, owner: &str, now: DateTime<Utc>, change: &TaskChange) -> bool {
        if self.run.owner.as_deref() != Some(owner) || self.run.state != RunState::Running {
            return false;
        }
        let Some(task) = self.tasks.iter_mut().find(|task| task.task == change.task) else { return false };
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
        true
    }
}

impl History for MemoryHistory {
    fn apply(&self, owner: &str, now: DateTime<Utc>, changes: &[Change]) -> Result<Vec<bool>, HistoryError> {
        let mut state = self.state();
        Ok(changes.iter().map(|change| state.apply(owner, now, change)).collect())
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
        Ok(HistoryView { runs, seen: state.seen.clone(), last })
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

    fn tasks(&self, run: &str) -> Result<Vec<TaskInstance>, HistoryError> {
        Ok(self.state().runs.get(run).map(|record| record.tasks.clone()).unwrap_or_default())
    }

    fn attempts(&self, run: &str) -> Result<Vec<Attempt>, HistoryError> {
        let mut attempts = self.state().runs.get(run).map(|record| record.attempts.clone()).unwrap_or_default();
        attempts.sort_by(|a, b| (&a.task, a.number).cmp(&(&b.task, b.number)));
        Ok(attempts)
    }

    fn definition(&self, run: &str) -> Result<Option<Arc<Dag>>, HistoryError> {
        Ok(self.state().runs.get(run).and_then(|record| record.definition.clone()))
    }
}
