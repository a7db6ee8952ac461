//! One run under way: what its attempts' ends mean, what can start, and when it has ended. Tasks change here as they will in the history.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::Value;

use super::limits::holds;
use super::names::{before, names};
use super::{Ended, Plan, Work, tell};
use crate::dag::{CallOn, Dag, Dags, EventOf, EventTrigger, OnCrash, TaskDef, Trigger, graph, template};
use crate::history::{ActiveRun, Change, Event, HistoryView, Hold, TaskChange};
use crate::rule::Verdict;
use crate::run::{Choice, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep};
use crate::task::{Retry, TaskError};

/// A task that may start as far as its run is concerned.
pub(super) struct Ready {
    pub(super) task: String,
    pub(super) step: TaskStep,
    pub(super) priority: i32,
}

/// One run.
pub(super) struct Progress<'v> {
    pub(super) definition: &'v Arc<Dag>,
    pub(super) run: &'v Run,
    pub(super) tasks: BTreeMap<String, TaskInstance>,
    /// How many tasks were made for the items of each list.
    pub(super) lists: BTreeMap<&'v str, u32>,
    /// Whether some task has chosen that nothing after it is to run.
    nothing: bool,
    pub(super) ready: Vec<Ready>,
}

impl<'v> Progress<'v> {
    pub(super) fn new(definition: &'v Arc<Dag>, active: &'v ActiveRun) -> Self {
        let tasks = active.tasks.iter().map(|task| (task.task.clone(), task.clone())).collect();
        let mut lists: BTreeMap<&str, u32> = BTreeMap::new();
        for task in active.tasks.iter().filter(|task| task.item.is_some()) {
            *lists.entry(task.defined()).or_default() += 1;
        }
        let nothing = active.tasks.iter().any(|task| task.choice == Choice::Nothing);
        Self { definition, run: &active.run, tasks, lists, nothing, ready: Vec::new() }
    }

    pub(super) fn advance(&mut self, plan: &mut Plan<'_>, dags: &Dags, view: &HistoryView) {
        let situation = plan.situation;
        for ended in situation.ended.iter().filter(|ended| ended.run == self.run.id) {
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

    /// Changes a task here and in the history.
    pub(super) fn step(&mut self, plan: &mut Plan<'_>, mut change: TaskChange) -> bool {
        let Some(task) = self.tasks.get_mut(&change.task) else { return false };
        let Some(state) = task.state.after(change.step) else { return false };
        task.state = state;
        task.retry_at = change.retry_at;
        task.error = change.error.clone().or(task.error.take());
        task.summary.clone_from(&change.summary);
        task.result.clone_from(&change.result);
        task.choice.clone_from(&change.choice);
        self.nothing |= change.choice == Choice::Nothing;
        change.amended = self.run.amended;
        let calls = tell::of_task(plan.situation.now, self.definition, self.run, &change, state);
        plan.record(Change::Task(Box::new(change)));
        for call in calls {
            plan.record(call);
        }
        true
    }

    fn ended(&mut self, plan: &mut Plan<'_>, ended: &Ended) {
        let Some(task) = self.tasks.get(&ended.task).filter(|task| task.attempt == ended.attempt) else { return };
        if let Some(wanted) = task.wanted {
            self.obey(plan, &ended.task, wanted);
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
        let wait = self
            .definition
            .task(&change.task)
            .filter(|task| task.retry.covers(error) && !plan.cancelled(self.run))
            .and_then(|task| task.retry.wait(change.attempt.saturating_sub(base), &seed));
        change.step = if wait.is_some() { TaskStep::Retry } else { TaskStep::Fail };
        let now = plan.situation.now;
        change.retry_at = wait.map(|wait| now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(365)));
        change.error = Some(error.clone());
    }

    /// Does to a task whose attempt has stopped what somebody wants of it.
    fn obey(&mut self, plan: &mut Plan<'_>, task: &str, wanted: TaskStep) {
        let Some(known) = self.tasks.get_mut(task) else { return };
        let change = TaskChange::plain(&self.run.id, task, TaskStep::Cancel, known.attempt);
        plan.record(Change::Task(Box::new(change)));
        plan.record(Change::Amend { run: self.run.id.clone(), steps: vec![(task.to_owned(), wanted)] });
        // What follows is judged when it is so: the history refuses what is decided on the state before.
        known.state = TaskState::Running;
    }

    /// Tasks that are recorded as running, but not here: their process died.
    fn crashed(&mut self, plan: &mut Plan<'_>) {
        let lost: Vec<(String, u32, u32, Option<TaskStep>)> = self
            .tasks
            .values()
            .filter(|known| known.state == TaskState::Running && !self.live(plan, &known.task))
            .filter(|known| !self.just_ended(plan, &known.task))
            .map(|known| (known.task.clone(), known.attempt, known.base, known.wanted))
            .collect();
        for (task, attempt, base, wanted) in lost {
            if let Some(wanted) = wanted {
                self.obey(plan, &task, wanted);
            } else if self.definition.task(&task).is_some_and(|task| task.policy.on_crash == OnCrash::Fail) {
                let error = TaskError::new("D0126", "the process that ran the attempt died", Retry::Later)
                    .why("the task says `on_crash = \"fail\"`")
                    .fix("look at what it has done, then clear the task or mark it");
                let mut change = TaskChange::plain(&self.run.id, &task, TaskStep::Fail, attempt);
                self.failed(plan, &mut change, base, &error);
                self.step(plan, change);
            }
        }
        let deferred: Vec<(String, TaskStep)> = self
            .tasks
            .values()
            .filter(|known| known.state == TaskState::Deferred && !self.live(plan, &known.task))
            .filter_map(|known| Some((known.task.clone(), known.wanted?)))
            .collect();
        for (task, wanted) in deferred {
            self.obey(plan, &task, wanted);
        }
    }

    fn just_ended(&self, plan: &Plan<'_>, task: &str) -> bool {
        plan.situation.ended.iter().any(|ended| ended.run == self.run.id && ended.task == task)
    }

    /// Ends what somebody wants stopped, once nothing of it is under way here.
    fn cancel(&mut self, plan: &mut Plan<'_>, dags: &Dags) {
        let open: Vec<(String, u32)> = self
            .tasks
            .values()
            .filter(|known| !known.state.ended() && !self.live(plan, &known.task))
            .map(|known| (known.task.clone(), known.attempt))
            .collect();
        for (task, attempt) in open {
            let change = TaskChange::plain(&self.run.id, &task, TaskStep::Cancel, attempt);
            self.step(plan, change);
        }
        if self.tasks.values().all(|task| task.state.ended()) {
            plan.record(Change::End { run: self.run.id.clone(), step: RunStep::Cancel, error: None });
            self.start_others(plan, dags, RunState::Cancelled);
        }
    }

    fn live(&self, plan: &Plan<'_>, task: &str) -> bool {
        plan.situation.live.contains(&(self.run.id.clone(), task.to_owned()))
    }

    /// What the rule of a task says, and what the tasks before it have chosen.
    fn verdict(&self, task: &TaskDef) -> Verdict {
        if self.left_out(task) {
            return Verdict::Skip;
        }
        let mut upstream: Vec<TaskState> = Vec::with_capacity(task.after.len());
        for id in &task.after {
            // As in Airflow, each task of a list counts for itself.
            match self.tasks.get(id) {
                Some(list) if self.lists.contains_key(id.as_str()) && list.state.ended() => {
                    upstream.extend(self.items(id).map(|item| item.state));
                }
                Some(known) => upstream.push(known.state),
                None => {}
            }
        }
        task.rule.judge(&upstream)
    }

    /// Whether a task before this one has chosen others.
    fn left_out(&self, task: &TaskDef) -> bool {
        let choice = |id: &str| {
            self.tasks
                .get(id)
                .filter(|known| known.state == TaskState::Success)
                .map_or(&Choice::All, |known| &known.choice)
        };
        let directly = task.after.iter().any(|id| match choice(id) {
            Choice::All => false,
            Choice::NotNext | Choice::Nothing => true,
            // What is chosen brings what comes after it along, as in Airflow.
            Choice::Only(chosen) => {
                !chosen.contains(&task.id)
                    && !before(self.definition, task).iter().any(|id| chosen.iter().any(|chosen| chosen == id))
            }
        });
        directly || self.nothing && before(self.definition, task).iter().any(|id| *choice(id) == Choice::Nothing)
    }

    /// Settles tasks that will never start, and lists; that can settle others.
    fn judge(&mut self, plan: &mut Plan<'_>) {
        let definition = Arc::clone(self.definition);
        loop {
            let mut changed = false;
            for task in &definition.tasks {
                changed |= match self.tasks.get(&task.id).map(|known| known.state) {
                    Some(TaskState::Waiting) => match self.verdict(task) {
                        Verdict::Skip => self.settle(plan, &task.id, TaskStep::Skip),
                        Verdict::UpstreamFailed => self.settle(plan, &task.id, TaskStep::Block),
                        Verdict::Ready => task.policy.map.as_ref().is_some_and(|over| self.map(plan, task, over)),
                        Verdict::Wait => false,
                    },
                    Some(TaskState::Mapped) => self.gather(plan, task),
                    _ => false,
                };
            }
            if !changed {
                return;
            }
        }
    }

    fn settle(&mut self, plan: &mut Plan<'_>, task: &str, step: TaskStep) -> bool {
        let attempt = self.tasks.get(task).map_or(0, |known| known.attempt);
        self.step(plan, TaskChange::plain(&self.run.id, task, step, attempt))
    }

    /// Says which deadlines have passed, once.
    fn late(&self, plan: &mut Plan<'_>, view: &HistoryView) {
        let Some(started) = self.run.started_at else { return };
        let now = plan.situation.now;
        let passed = |deadline| TimeDelta::from_std(deadline).is_ok_and(|deadline| now - started >= deadline);
        let of_run = self.definition.deadline.filter(|deadline| passed(*deadline)).map(|_| "");
        let of_tasks = self.definition.tasks.iter().filter(|task| {
            task.policy.deadline.is_some_and(passed)
                && self.tasks.get(&task.id).is_some_and(|known| !known.state.ended())
        });
        for task in of_run.into_iter().chain(of_tasks.map(|task| task.id.as_str())) {
            let known: BTreeSet<(String, String)> = [(self.run.id.clone(), task.to_owned())].into();
            if known.is_subset(&view.missed) {
                continue;
            }
            plan.record(Change::Missed { run: self.run.id.clone(), task: task.to_owned() });
            for call in tell::calls(now, self.definition, self.run, task, 0, CallOn::Deadline, None) {
                plan.record(call);
            }
        }
    }

    /// Notes what may start, as far as this run is concerned, in file order.
    fn find_ready(&mut self, plan: &Plan<'_>) {
        let now = plan.situation.now;
        let definition = Arc::clone(self.definition);
        for task in &definition.tasks {
            let mapped = self.tasks.get(&task.id).is_some_and(|known| known.state == TaskState::Mapped);
            let instances: Vec<&TaskInstance> =
                if mapped { self.items(&task.id).collect() } else { self.tasks.get(&task.id).into_iter().collect() };
            let mut ready = Vec::new();
            for known in instances {
                let step = match known.state {
                    TaskState::Waiting if mapped => TaskStep::Start,
                    TaskState::Waiting if task.policy.map.is_none() && self.verdict(task) == Verdict::Ready => {
                        TaskStep::Start
                    }
                    TaskState::UpForRetry if known.retry_at.is_none_or(|at| at <= now) => TaskStep::Start,
                    TaskState::Deferred if known.wanted.is_none() && known.retry_at.is_none_or(|at| at <= now) => {
                        TaskStep::Wake
                    }
                    TaskState::Running
                        if known.wanted.is_none()
                            && !self.live(plan, &known.task)
                            && !self.just_ended(plan, &known.task) =>
                    {
                        TaskStep::Resume
                    }
                    _ => continue,
                };
                ready.push(Ready { task: known.task.clone(), step, priority: task.policy.priority });
            }
            self.ready.extend(ready);
        }
    }

    /// Starts a ready task.
    pub(super) fn launch(&mut self, place: usize, holds: Vec<Hold>) -> Option<(TaskChange, Work)> {
        let (id, step) = (self.ready[place].task.clone(), self.ready[place].step);
        let definition = Arc::clone(self.definition);
        let mut task = definition.task(&id)?.clone();
        let known = self.tasks.get_mut(&id)?;
        let attempt = if step == TaskStep::Start { known.attempt + 1 } else { known.attempt };
        let mut change = TaskChange::plain(&self.run.id, &id, step, attempt);
        change.amended = self.run.amended;
        change.holds = holds;
        known.state = TaskState::Running;
        let (item, since) = (known.item.clone(), known.started_at);
        let names = names(&definition, self.run, &self.tasks, &task, attempt, item.as_ref());
        let next = definition.after(&task.id).map(|task| task.id.clone()).collect();
        task.id = id;
        let work = Work { run: self.run.clone(), task, attempt, resumed: step == TaskStep::Resume, since, next, names };
        Some((change, work))
    }

    /// The task that a task waits for, if its rule waits.
    pub(super) fn waits_for(&self, task: &TaskDef) -> Option<&TaskInstance> {
        let open = |id: &String| self.tasks.get(id).filter(|known| !known.state.ended());
        (self.verdict(task) == Verdict::Wait).then(|| task.after.iter().find_map(open)).flatten()
    }

    /// A task as it is.
    pub(super) fn task(&self, id: &str) -> Option<&TaskInstance> {
        self.tasks.get(id)
    }

    /// What a task would hold.
    pub(super) fn holds_of(&self, id: &str, pools: &BTreeMap<String, u32>) -> Vec<Hold> {
        let (Some(task), Some(known)) = (self.definition.task(id), self.tasks.get(id)) else { return Vec::new() };
        let key = task.policy.key.as_ref().map(|key| {
            let names = names(self.definition, self.run, &self.tasks, task, known.attempt, known.item.as_ref());
            match template::render_one(&Value::String(key.key.clone()), &names) {
                Ok(Value::String(key)) => key,
                Ok(other) => other.to_string(),
                // It starts with the key as it is written, and its settings will say the same is missing.
                Err(_) => key.key.clone(),
            }
        });
        holds(self.definition, task, key, pools)
    }

    /// Notes, with the run's end, that it is to start runs of other DAGs. A run that was opened again and ended once more does so once more.
    fn start_others(&self, plan: &mut Plan<'_>, dags: &Dags, state: RunState) {
        for dag in dags.iter() {
            for (trigger, number) in dag.triggers.iter().zip(0..) {
                let Trigger::Event(EventTrigger { of: EventOf::Dag { dag: watched, any_end }, .. }) = trigger else {
                    continue;
                };
                if *watched != self.run.dag || !any_end && state != RunState::Success {
                    continue;
                }
                let key = format!("{} {}", self.run.id, self.run.amended);
                let body = serde_json::json!({"dag": self.run.dag, "run": self.run.id, "state": state, "interval": self.run.interval});
                let event = Box::new(Event { dag: dag.id.clone(), trigger: number, key, body });
                plan.record(Change::Event { event, end_of: Some(self.run.id.clone()), past: false });
            }
        }
    }

    /// Ends the run when all its tasks have ended: as its leaves did.
    fn end(&mut self, plan: &mut Plan<'_>, dags: &Dags) {
        if !self.tasks.values().all(|task| task.state.ended()) {
            return;
        }
        let failed = graph::leaves(self.definition)
            .iter()
            .filter_map(|leaf| self.tasks.get(*leaf))
            .any(|task| matches!(task.state, TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled));
        let step = if failed { RunStep::Fail } else { RunStep::Succeed };
        plan.record(Change::End { run: self.run.id.clone(), step, error: None });
        self.start_others(plan, dags, if failed { RunState::Failed } else { RunState::Success });
        let on = if failed { CallOn::Failure } else { CallOn::Success };
        let first = self.tasks.values().find_map(|task| task.error.as_ref().filter(|_| failed));
        for call in tell::calls(plan.situation.now, self.definition, self.run, "", 0, on, first) {
            plan.record(call);
        }
    }
}
