//! What starts runs by itself: the clock, files, the end of the last run, and what is left of a backfill.
use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Map, Value};

use super::Plan;
use crate::dag::{Batch, Dag, Dags, EventOf, EventTrigger, FileTrigger, ScheduleTrigger, Trigger};
use crate::history::{Change, Event, HistoryView, NewRun};
use crate::run::{Cause, Interval, Run, RunState, run_id};
use crate::schedule::interval;

/// Runs of a DAG that wait for their turn, at most: what has arrived beyond that stays where it is until there is room.
const MOST_QUEUED: usize = 16;

/// The pause before a continuous run starts again after one that ended well.
const CONTINUOUS_PAUSE: TimeDelta = TimeDelta::seconds(1);

/// The longest pause before a continuous run starts again after failures.
const CONTINUOUS_LONGEST: TimeDelta = TimeDelta::seconds(60);

impl Plan<'_> {
    pub(super) fn triggers(&mut self, dag: &Dag, view: &HistoryView) {
        // A backfill is no reason for the clock to wait.
        let active: Vec<&Run> = view
            .runs
            .iter()
            .map(|active| &active.run)
            .filter(|run| run.dag == dag.id && run.backfill().is_none())
            .collect();
        let mut queued = active.iter().filter(|run| run.state == RunState::Queued).count();
        for (index, trigger) in dag.triggers.iter().enumerate() {
            match trigger {
                Trigger::Schedule(trigger) => self.tick(dag, index, trigger, view, active.len()),
                Trigger::File(trigger) => self.files(dag, index, trigger, &mut queued),
                Trigger::Event(trigger) => self.events(dag, index, trigger, view, &mut queued),
                Trigger::Continuous => self.continuous(dag, view, active.is_empty()),
            }
        }
    }

    fn tick(&mut self, dag: &Dag, index: usize, trigger: &ScheduleTrigger, view: &HistoryView, active: usize) {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let Some(seen) = view.seen.get(&(dag.id.clone(), number)) else {
            self.record(Change::Meet { dag: dag.id.clone(), trigger: number });
            return;
        };
        let due = interval::next(trigger, seen.last_end, seen.first_seen, self.situation.now)
            .filter(|interval| interval.end <= self.situation.now);
        let room = active < usize::try_from(dag.max_active_runs).unwrap_or(usize::MAX);
        if let Some(interval) = due.filter(|_| room) {
            let start = interval.start.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            let key = format!("cron {} {number} {start}", dag.id);
            self.create(dag, Some(key), Cause::Schedule { trigger: number }, Some(interval), Map::new());
        }
    }

    fn files(&mut self, dag: &Dag, index: usize, trigger: &FileTrigger, queued: &mut usize) {
        let arrived = self.situation.arrived.iter();
        for arrived in arrived.filter(|arrived| arrived.dag == dag.id && arrived.trigger == index) {
            if *queued >= MOST_QUEUED {
                return;
            }
            *queued += 1;
            let file = &arrived.file;
            let params = trigger.param.iter().map(|param| (param.clone(), Value::String(file.path.clone()))).collect();
            let cause = Cause::File { path: file.path.clone(), size: file.size, modified: file.modified };
            self.create(dag, None, cause, None, params);
        }
    }

    /// What happened starts a run each, or one run all.
    fn events(&mut self, dag: &Dag, index: usize, trigger: &EventTrigger, view: &HistoryView, queued: &mut usize) {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        let events: Vec<&Event> =
            view.events.iter().filter(|event| event.dag == dag.id && event.trigger == number).collect();
        let groups: Vec<&[&Event]> = match trigger.batch {
            Batch::Each => events.chunks(1).collect(),
            // While a run waits for its turn, what comes is for the next one: what a run was asked for does not change.
            Batch::All if *queued == 0 && !events.is_empty() => vec![&events],
            Batch::All => Vec::new(),
        };
        for group in groups {
            if *queued >= MOST_QUEUED {
                return;
            }
            *queued += 1;
            let body = match (trigger.batch, group) {
                (Batch::Each, [one]) => one.body.clone(),
                _ => group.iter().map(|event| event.body.clone()).collect(),
            };
            let params = trigger.param.iter().map(|param| (param.clone(), body.clone())).collect();
            let cause = Cause::Event { trigger: number, keys: group.iter().map(|event| event.key.clone()).collect() };
            self.create(dag, None, cause, None, params);
        }
    }

    fn continuous(&mut self, dag: &Dag, view: &HistoryView, idle: bool) {
        let now = self.situation.now;
        let rested = view.last.get(&dag.id).is_none_or(|last| {
            let pause = match last.failures {
                0 => CONTINUOUS_PAUSE,
                failures => (CONTINUOUS_PAUSE * (1 << failures.min(6))).min(CONTINUOUS_LONGEST),
            };
            // A clock that went back must not stop a stream.
            now - last.ended_at >= pause || now < last.ended_at
        });
        if idle && rested {
            // The key makes two schedulers that decide at once make one run.
            let last = view.last.get(&dag.id).map_or(0, |last| last.ended_at.timestamp_micros());
            let key = format!("continuous {} {last}", dag.id);
            self.create(dag, Some(key), Cause::Continuous, None, Map::new());
        }
    }

    /// Notes, with the run's end, that it is to start runs of other DAGs. A run that was opened again and ended once more does so once more.
    pub(super) fn start_others(&mut self, run: &Run, dags: &Dags, state: RunState) {
        for dag in dags.iter() {
            for (trigger, number) in dag.triggers.iter().zip(0..) {
                let Trigger::Event(EventTrigger { of: EventOf::Dag { dag: watched, any_end }, .. }) = trigger else {
                    continue;
                };
                if *watched != run.dag || !any_end && state != RunState::Success {
                    continue;
                }
                let key = format!("{} {}", run.id, run.amended);
                let body = serde_json::json!({"dag": run.dag, "run": run.id, "state": state, "interval": run.interval});
                let event = Box::new(Event { dag: dag.id.clone(), trigger: number, key, body });
                self.record(Change::Event { event, end_of: Some(run.id.clone()), past: false });
            }
        }
    }

    /// Makes the next runs of backfills, as many as may be open at once. The key makes one run of each interval, whoever decides.
    pub(super) fn backfills(&mut self, dags: &Dags, view: &HistoryView) {
        for backfill in &view.backfills {
            let Some(dag) = dags.get(&backfill.dag) else { continue };
            let open = view.runs.iter().filter(|active| active.run.backfill() == Some(&backfill.id)).count();
            let room = usize::try_from(backfill.at_once).unwrap_or(usize::MAX).saturating_sub(open);
            for (interval, number) in backfill.intervals.iter().zip(0..).skip(backfill.made as usize).take(room) {
                let cause = Cause::Backfill { backfill: backfill.id.clone(), number };
                let key = format!("backfill {} {number}", backfill.id);
                self.create(dag, Some(key), cause, Some(*interval), backfill.params.clone());
            }
        }
    }

    fn create(
        &mut self,
        dag: &Dag,
        key: Option<String>,
        cause: Cause,
        interval: Option<Interval>,
        params: Map<String, Value>,
    ) {
        let salt = format!("{} {} {:?} {cause:?}", self.situation.me, self.actions.len(), key);
        let id = run_id(&dag.id, self.situation.now, &salt);
        let new = NewRun { id, dag: dag.id.clone(), key, cause, interval, params, options: Map::new(), owned: true };
        self.record(Change::Create(Box::new(new)));
    }
}
