//! One run under way: what its attempts' ends mean, what can start, and when it has ended. Tasks change here as they will in the history.
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::Value;

use super::limits::holds;
use super::names::names;
use super::standing::{Standing, Turn};
use super::{Ended, Plan, Work, tell};
use crate::dag::{CallOn, Dag, Dags, OnCrash, TaskDef, TaskPolicy, Trigger, graph, template};
use crate::history::{Change, HistoryView, Hold, TaskChange};
use crate::rule::Verdict;
use crate::run::{Cause, Interval, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep};
use crate::schedule::interval;
use crate::task::{Retry, TaskError};

/// One run.
pub(super) struct Progress<'v> {
    pub(super) definition: &'v Arc<Dag>,
    pub(super) run: &'v Run,
    pub(super) standing: &'v mut Standing,
    /// Tasks as they were, in the order they were changed here.
    before: Vec<(usize, TaskInstance)>,
    /// Places whose process died.
    pub(super) lost: Vec<usize>,
    /// Places whose time has come.
    due: BTreeSet<Turn>,
    /// The time the run covers, once it was asked for.
    covers: OnceCell<Option<Interval>>,
}

impl<'v> Progress<'v> {
    pub(super) fn new(definition: &'v Arc<Dag>, run: &'v Run, standing: &'v mut Standing) -> Self {
        let covers = OnceCell::new();
        Self { definition, run, standing, before: Vec::new(), lost: Vec::new(), due: BTreeSet::new(), covers }
    }

    /// Puts the tasks back as the history has them.
    pub(super) fn take_back(self) {
        for (place, task) in self.before.into_iter().rev() {
            self.standing.set(self.definition, place, task);
        }
    }

    pub(super) fn advance(&mut self, plan: &mut Plan<'_>, dags: &Dags, view: &HistoryView) {
        let situation = plan.situation;
        for ended in plan.ended_of(&self.run.id) {
            self.ended(plan, ended);
        }
        if plan.cancelled(self.run) {
            self.cancel(plan, dags);
            return;
        }
        if situation.stopping {
            self.end(plan, dags);
            return;
        }
        self.crashed(plan);
        self.judge(plan);
        self.late(plan, view);
        self.find_ready(plan);
        self.end(plan, dags);
    }

    /// Changes a task here.
    fn set(&mut self, place: usize, new: TaskInstance) {
        let old = self.standing.set(self.definition, place, new);
        self.before.push((place, old));
    }

    /// Changes a task here and in the history.
    pub(super) fn step(&mut self, plan: &mut Plan<'_>, mut change: TaskChange) {
        let Some(place) = self.standing.find(&change.task) else { return };
        let known = self.standing.at(place);
        let Some(state) = known.state.after(change.step) else { return };
        let error = change.error.clone().or_else(|| known.error.clone());
        let task = TaskInstance {
            state,
            retry_at: change.retry_at,
            error,
            summary: change.summary.clone(),
            result: change.result.clone(),
            choice: change.choice.clone(),
            run: known.run.clone(),
            task: known.task.clone(),
            item: known.item.clone(),
            ..*known
        };
        self.set(place, task);
        change.amended = self.run.amended;
        let task = &self.definition.tasks[self.standing.of(place)];
        let calls = tell::of_task(plan.situation.now, self.definition, task, self.run, &change, state);
        plan.record(Change::Task(Box::new(change)));
        for call in calls {
            plan.record(call);
        }
    }

    fn ended(&mut self, plan: &mut Plan<'_>, ended: &Ended) {
        let Some(place) = self.standing.find(&ended.task) else { return };
        let task = self.standing.at(place);
        if task.attempt != ended.attempt {
            return;
        }
        if let Some(wanted) = task.wanted {
            self.obey(plan, place, wanted);
            return;
        }
        let Some(how) = &ended.how else { return };
        let base = task.base;
        let mut change = TaskChange::plain(&self.run.id, &ended.task, TaskStep::Succeed, ended.attempt);
        match how {
            Ok(outcome) => {
                change.step = match outcome.again_at {
                    Some(_) => TaskStep::Defer,
                    None if outcome.skipped => TaskStep::Skip,
                    None => TaskStep::Succeed,
                };
                change.retry_at = outcome.again_at;
                change.summary.clone_from(&outcome.summary);
                change.result.clone_from(&outcome.result);
                change.choice.clone_from(&outcome.choice);
            }
            Err(error) => self.failed(plan, &mut change, base, error),
        }
        self.step(plan, change);
    }

    /// Makes a change of a failed attempt: another one later, or the end.
    fn failed(&self, plan: &Plan<'_>, change: &mut TaskChange, base: u32, error: &TaskError) {
        let seed = format!("{}/{}", self.run.id, change.task);
        let task = self.standing.find(&change.task).map(|place| &self.definition.tasks[self.standing.of(place)]);
        let wait = task
            .filter(|task| task.retry.covers(error) && !plan.cancelled(self.run))
            .and_then(|task| task.retry.wait(change.attempt.saturating_sub(base), &seed));
        change.step = if wait.is_some() { TaskStep::Retry } else { TaskStep::Fail };
        let now = plan.situation.now;
        change.retry_at = wait.map(|wait| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(365)));
        change.error = Some(error.clone());
    }

    /// Does to a task whose attempt has stopped what somebody wants of it.
    fn obey(&mut self, plan: &mut Plan<'_>, place: usize, wanted: TaskStep) {
        let known = self.standing.at(place);
        let change = TaskChange::plain(&self.run.id, &known.task, TaskStep::Cancel, known.attempt);
        let steps = vec![(known.task.clone(), wanted)];
        // What follows is judged when it is so: the history refuses what is decided on the state before.
        let task = TaskInstance { state: TaskState::Running, ..known.clone() };
        plan.record(Change::Task(Box::new(change)));
        plan.record(Change::Amend { run: self.run.id.clone(), steps });
        self.set(place, task);
    }

    /// Tasks that are recorded as running, but not here: their process died.
    fn crashed(&mut self, plan: &mut Plan<'_>) {
        let lost: Vec<usize> = self
            .standing
            .running()
            .filter(|place| {
                let task = &self.standing.at(*place).task;
                !self.live(plan, task) && !plan.just_ended(&self.run.id, task)
            })
            .collect();
        for place in lost {
            let known = self.standing.at(place);
            if let Some(wanted) = known.wanted {
                self.obey(plan, place, wanted);
            } else if self.definition.tasks[self.standing.of(place)].policy.on_crash == OnCrash::Fail {
                let error = TaskError::new("D0126", "the process that ran the attempt died", Retry::Later)
                    .why("the task says `on_crash = \"fail\"`")
                    .fix("look at what it has done, then clear the task or mark it");
                let base = known.base;
                let mut change = TaskChange::plain(&self.run.id, &known.task, TaskStep::Fail, known.attempt);
                self.failed(plan, &mut change, base, &error);
                self.step(plan, change);
            }
        }
        let put_off: Vec<(usize, TaskStep)> = self
            .standing
            .later()
            .map(|place| (place, self.standing.at(place)))
            .filter(|(_, known)| known.state == TaskState::Deferred && !self.live(plan, &known.task))
            .filter_map(|(place, known)| Some((place, known.wanted?)))
            .collect();
        for (place, wanted) in put_off {
            self.obey(plan, place, wanted);
        }
    }

    /// Ends what somebody wants stopped, once nothing of it is under way here.
    fn cancel(&mut self, plan: &mut Plan<'_>, dags: &Dags) {
        let open: Vec<(String, u32)> = self
            .standing
            .tasks()
            .iter()
            .filter(|known| !known.state.ended() && !self.live(plan, &known.task))
            .map(|known| (known.task.clone(), known.attempt))
            .collect();
        for (task, attempt) in open {
            let change = TaskChange::plain(&self.run.id, &task, TaskStep::Cancel, attempt);
            self.step(plan, change);
        }
        if self.standing.over() {
            plan.record(Change::End { run: self.run.id.clone(), step: RunStep::Cancel, error: None });
            plan.start_others(self.run, dags, RunState::Cancelled);
        }
    }

    fn live(&self, plan: &Plan<'_>, task: &str) -> bool {
        plan.situation.live.contains(&(self.run.id.clone(), task.to_owned()))
    }

    /// Settles tasks that will never start, and lists; that can settle others.
    fn judge(&mut self, plan: &mut Plan<'_>) {
        let mut from = 0;
        loop {
            let Some(of) = self.standing.first_unsettled(from) else {
                // What comes after a task may stand before it in the file.
                if from == 0 || self.standing.first_unsettled(0).is_none() {
                    return;
                }
                from = 0;
                continue;
            };
            from = of + 1;
            let Some(known) = self.standing.own(of) else { continue };
            match (known.state, self.standing.verdict(self.definition, of)) {
                (TaskState::Mapped, _) => self.gather(plan, of),
                (_, Verdict::Skip) => self.settle(plan, of, TaskStep::Skip),
                (_, Verdict::UpstreamFailed) => self.settle(plan, of, TaskStep::Block),
                (_, Verdict::Ready) => self.map(plan, of),
                (_, Verdict::Wait) => {}
            }
        }
    }

    fn settle(&mut self, plan: &mut Plan<'_>, of: usize, step: TaskStep) {
        let attempt = self.standing.own(of).map_or(0, |known| known.attempt);
        let change = TaskChange::plain(&self.run.id, &self.definition.tasks[of].id, step, attempt);
        self.step(plan, change);
    }

    /// Says which deadlines have passed, once.
    fn late(&self, plan: &mut Plan<'_>, view: &HistoryView) {
        let Some(started) = self.run.started_at else { return };
        let now = plan.situation.now;
        let passed = |deadline| TimeDelta::from_std(deadline).is_ok_and(|deadline| now - started >= deadline);
        let of_run = self.definition.deadline.filter(|deadline| passed(*deadline)).map(|_| "");
        let deadlines = self.standing.deadlines().iter().map(|of| (&self.definition.tasks[*of], *of));
        let of_tasks = deadlines.filter(|(task, of)| {
            task.policy.deadline.is_some_and(passed) && self.standing.own(*of).is_some_and(|known| !known.state.ended())
        });
        for task in of_run.into_iter().chain(of_tasks.map(|(task, _)| task.id.as_str())) {
            if view.missed.contains(&(self.run.id.clone(), task.to_owned())) {
                continue;
            }
            plan.record(Change::Missed { run: self.run.id.clone(), task: task.to_owned() });
            let calls = match self.definition.task(task) {
                Some(task) => &task.policy.calls,
                None => &self.definition.calls,
            };
            for call in tell::calls(now, calls, self.run, task, 0, CallOn::Deadline, None) {
                plan.record(call);
            }
        }
    }

    /// Notes what may go on, as far as this run is concerned; what may start, the standing has.
    fn find_ready(&mut self, plan: &Plan<'_>) {
        let goes_on = |place: &usize| {
            let known = self.standing.at(*place);
            known.wanted.is_none() && !self.live(plan, &known.task) && !plan.just_ended(&self.run.id, &known.task)
        };
        self.lost = self.standing.running().filter(goes_on).collect();
        let due = self.standing.due(plan.situation.now).filter(|place| {
            let known = self.standing.at(*place);
            known.state == TaskState::UpForRetry || known.wanted.is_none()
        });
        self.due = due.map(|place| (self.priority(place), place)).collect();
    }

    fn priority(&self, place: usize) -> std::cmp::Reverse<i32> {
        std::cmp::Reverse(self.definition.tasks[self.standing.of(place)].policy.priority)
    }

    /// The next task that may start as far as its run is concerned, after a turn.
    pub(super) fn next_turn(&self, after: Option<Turn>) -> Option<Turn> {
        use std::ops::Bound::{Excluded, Unbounded};
        if self.standing.over() {
            return None;
        }
        let due = self.due.range((after.map_or(Unbounded, Excluded), Unbounded)).next().copied();
        match (due, self.standing.next_ready(after)) {
            (Some(due), Some(ready)) => Some(due.min(ready)),
            (due, ready) => due.or(ready),
        }
    }

    /// How a task that may start does so.
    pub(super) fn start_of(&self, place: usize) -> TaskStep {
        if self.standing.at(place).state == TaskState::Deferred { TaskStep::Wake } else { TaskStep::Start }
    }

    /// Starts a task.
    pub(super) fn launch(&mut self, place: usize, step: TaskStep, holds: Vec<Hold>) -> (TaskChange, Work) {
        let of = self.standing.of(place);
        let known = self.standing.at(place);
        let attempt = if step == TaskStep::Start { known.attempt + 1 } else { known.attempt };
        let mut change = TaskChange::plain(&self.run.id, &known.task, step, attempt);
        change.amended = self.run.amended;
        change.holds = holds;
        let task = self.alone(of, &known.task);
        let names = self.names(of, attempt, known.item.as_ref());
        let next = self.standing.after(self.definition, of).map(|task| task.id.clone()).collect();
        let since = known.started_at;
        let run = Run { interval: self.covers(), ..self.run.clone() };
        let work = Work { run, task, attempt, resumed: step == TaskStep::Resume, since, next, names };
        let running = TaskInstance { state: TaskState::Running, ..known.clone() };
        self.set(place, running);
        (change, work)
    }

    /// A task as its attempt needs it: under the name of the instance, and without its list, which may be long.
    fn alone(&self, of: usize, id: &str) -> TaskDef {
        let TaskDef { kind, after, retry, timeout, rule, policy, about, settings, .. } = &self.definition.tasks[of];
        let TaskPolicy { priority, pool, key, on_crash, deadline, calls, map: _ } = policy;
        let (pool, key, calls) = (pool.clone(), key.clone(), calls.clone());
        let (priority, on_crash, deadline) = (*priority, *on_crash, *deadline);
        TaskDef {
            id: id.to_owned(),
            kind: kind.clone(),
            after: after.clone(),
            retry: retry.clone(),
            timeout: *timeout,
            rule: *rule,
            policy: TaskPolicy { priority, pool, key, on_crash, map: None, deadline, calls },
            about: about.clone(),
            settings: settings.clone(),
        }
    }

    /// The time the run covers. One that somebody asked for covers the latest interval of its DAG's schedule that had ended by then.
    fn covers(&self) -> Option<Interval> {
        *self.covers.get_or_init(|| {
            let schedule = self.definition.triggers.iter().find_map(|trigger| match trigger {
                Trigger::Schedule(trigger) => Some(&trigger.schedule),
                _ => None,
            });
            let asked_for = schedule.filter(|_| matches!(self.run.cause, Cause::Manual { .. }));
            self.run
                .interval
                .or_else(|| asked_for.and_then(|schedule| interval::asked_for(schedule, self.run.queued_at)))
        })
    }

    /// What the templates of a task may name.
    pub(super) fn names(&self, of: usize, attempt: u32, item: Option<&(u32, Value)>) -> Value {
        names(self.definition, self.run, self.covers(), self.standing, of, attempt, item)
    }

    /// The task that a task waits for, if its rule waits.
    pub(super) fn waits_for(&self, of: usize) -> Option<&TaskInstance> {
        let open = |of: &usize| self.standing.own(*of).filter(|known| !known.state.ended());
        let waits = self.standing.verdict(self.definition, of) == Verdict::Wait;
        waits.then(|| self.standing.before(of).iter().find_map(open)).flatten()
    }

    /// What a task would hold.
    pub(super) fn holds_of(&self, place: usize, pools: &BTreeMap<String, u32>) -> Vec<Hold> {
        let of = self.standing.of(place);
        let (task, known) = (&self.definition.tasks[of], self.standing.at(place));
        let key = task.policy.key.as_ref().map(|key| {
            let names = self.names(of, known.attempt, known.item.as_ref());
            match template::render_one(&Value::String(key.key.clone()), &names) {
                Ok(Value::String(key)) => key,
                Ok(other) => other.to_string(),
                // It starts with the key as it is written, and its settings will say the same is missing.
                Err(_) => key.key.clone(),
            }
        });
        holds(self.definition, task, key, pools)
    }

    /// Ends the run when all its tasks have ended: as its leaves did.
    fn end(&mut self, plan: &mut Plan<'_>, dags: &Dags) {
        if !self.standing.over() {
            return;
        }
        let failed = graph::leaves(self.definition)
            .iter()
            .filter_map(|leaf| Some(self.standing.at(self.standing.find(leaf)?)))
            .any(|task| matches!(task.state, TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled));
        let step = if failed { RunStep::Fail } else { RunStep::Succeed };
        plan.record(Change::End { run: self.run.id.clone(), step, error: None });
        plan.start_others(self.run, dags, if failed { RunState::Failed } else { RunState::Success });
        let on = if failed { CallOn::Failure } else { CallOn::Success };
        let first = self.standing.tasks().iter().find_map(|task| task.error.as_ref().filter(|_| failed));
        for call in tell::calls(plan.situation.now, &self.definition.calls, self.run, "", 0, on, first) {
            plan.record(call);
        }
    }
}
