//! Who hears of what happens: whom DAG files name, and whoever watches.
use std::sync::Arc;

use chrono::TimeDelta;

use super::RunEvent;
use super::driver::Driver;
use crate::dag::Dags;
use crate::history::Change;
use crate::plan::standing::Standing;
use crate::plan::{Scope, why_queued};
use crate::run::{RunState, RunStep, TaskState, TaskStep};

/// How often somebody is tried to be told.
const CALL_TRIES: u32 = 6;

/// The wait before they are tried again; it doubles from there.
const CALL_AGAIN: TimeDelta = TimeDelta::seconds(2);

impl Driver<'_> {
    /// Tells people what they are still to be told: the scheduler that serves, each call in a task of its own.
    pub(super) fn call(&mut self) {
        let Some(caller) = &self.scheduler.config.caller else { return };
        if self.stopping {
            return;
        }
        let now = self.now();
        let mine = |run: &str| match &self.scope {
            Scope::All => true,
            Scope::Run { run: own, .. } => run == own,
        };
        for call in self.replica.view.calls.iter().filter(|call| call.due_at <= now && mine(&call.run)) {
            if !self.calling.insert((call.id.clone(), call.tries)) {
                continue;
            }
            let (caller, history, clock) = (
                Arc::clone(caller),
                Arc::clone(&self.scheduler.config.history),
                Arc::clone(&self.scheduler.config.clock),
            );
            let (call, owner) = (call.clone(), self.owner.id.clone());
            self.told.spawn(async move {
                let again_at = match caller.call(&call).await {
                    Ok(()) => None,
                    Err(why) => {
                        let last = call.tries + 1 >= CALL_TRIES;
                        tracing::warn!(
                            call = call.id,
                            tries = call.tries + 1,
                            why,
                            last,
                            "cannot tell whom a DAG names"
                        );
                        (!last).then(|| clock.now() + CALL_AGAIN * (1 << call.tries.min(10)))
                    }
                };
                let change = Change::Called { call: call.id, tries: call.tries, again_at };
                let now = clock.now();
                let done = tokio::task::spawn_blocking(move || history.apply(&owner, now, &[change])).await;
                if let Ok(Err(error)) = done {
                    tracing::warn!(%error, "somebody will be told twice");
                }
            });
        }
        while self.told.try_join_next().is_some() {}
    }

    /// Tells whoever listens about a change.
    pub(super) async fn tell(&mut self, change: Change) {
        match change {
            Change::Begin { run, definition, .. } => {
                self.waiting.remove(&run);
                let tasks = definition.tasks.iter().map(|task| task.id.clone()).collect();
                self.send(RunEvent::RunStarted { run, dag: definition.id.clone(), tasks, resumed: false }).await;
            }
            Change::Claim { run, .. } => {
                let known = self.replica.find(&run).map(|place| &self.replica.view.runs[place].run);
                if let Some(known) = known.filter(|known| known.state == RunState::Running) {
                    let tasks = self.replica.standing(&run).map(Standing::tasks).unwrap_or_default();
                    let tasks = tasks.iter().map(|task| task.task.clone()).collect();
                    self.send(RunEvent::RunStarted { run, dag: known.dag.clone(), tasks, resumed: true }).await;
                }
            }
            Change::Task(change) => {
                // The state follows from the step; where a task came from does not matter to a display.
                let state = match change.step {
                    TaskStep::Succeed => TaskState::Success,
                    TaskStep::Skip => TaskState::Skipped,
                    TaskStep::Retry => TaskState::UpForRetry,
                    TaskStep::Fail => TaskState::Failed,
                    TaskStep::Block => TaskState::UpstreamFailed,
                    TaskStep::Cancel => TaskState::Cancelled,
                    TaskStep::Defer => TaskState::Deferred,
                    _ => return,
                };
                let event = RunEvent::TaskEnded {
                    run: change.run,
                    task: change.task,
                    attempt: change.attempt,
                    state,
                    summary: change.summary,
                    error: change.error,
                    retry_at: change.retry_at,
                };
                self.send(event).await;
            }
            Change::End { run, step, error } => {
                let state = match step {
                    RunStep::Succeed => RunState::Success,
                    RunStep::Cancel => RunState::Cancelled,
                    RunStep::Begin | RunStep::Fail | RunStep::Reopen => RunState::Failed,
                };
                let known = self.replica.find(&run).map(|place| &self.replica.view.runs[place].run);
                let dag = known.map(|run| run.dag.clone()).unwrap_or_default();
                self.send(RunEvent::RunEnded { run, dag, state, error }).await;
            }
            _ => {}
        }
    }

    pub(super) async fn send(&self, event: RunEvent) {
        if let Some(events) = &self.events {
            // A listener that has gone has heard enough.
            drop(events.send(event).await);
        }
    }

    /// Says why the run in the foreground does not begin, once for each reason.
    pub(super) async fn say_why(&mut self, dags: &Dags) {
        let Scope::Run { run, dag } = &self.scope else { return };
        let (run, dag) = (run.clone(), dag.clone());
        if let Some(why) = why_queued(dags, &self.replica.view, &run)
            && self.waiting.insert(run.clone(), why.clone()).as_ref() != Some(&why)
        {
            self.send(RunEvent::RunWaiting { run, dag, why }).await;
        }
    }
}
