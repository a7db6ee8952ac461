//! What a change does to a run, a task and its attempt: pure, and the same for every store.
use chrono::{DateTime, Utc};

use super::{NewRun, TaskChange};
use crate::run::{Attempt, Run, RunState, RunStep, TaskInstance, TaskStep};
use crate::task::TaskError;

/// The run of a [`NewRun`].
pub(super) fn create(new: &NewRun, owner: &str, now: DateTime<Utc>) -> Run {
    Run {
        id: new.id.clone(),
        dag: new.dag.clone(),
        key: new.key.clone(),
        state: RunState::Queued,
        cause: new.cause.clone(),
        interval: new.interval,
        logical_date: new.interval.map(|interval| interval.start),
        params: new.params.clone(),
        options: new.options.clone(),
        revision: None,
        owner: new.owned.then(|| owner.to_owned()),
        queued_at: now,
        started_at: None,
        ended_at: None,
        error: None,
    }
}

/// Moves a run on; false if that is not allowed.
pub(super) fn step_run(
    run: &mut Run,
    owner: &str,
    now: DateTime<Utc>,
    step: RunStep,
    error: Option<&TaskError>,
) -> bool {
    let Some(state) = run.state.after(step).filter(|_| run.owner.as_deref() == Some(owner)) else { return false };
    run.state = state;
    if step == RunStep::Begin {
        run.started_at = Some(now);
    }
    if state.ended() {
        run.ended_at = Some(now);
        run.error = error.cloned();
    }
    true
}

/// What becomes of the attempts of a task.
pub(super) enum AttemptStep {
    /// Nothing: no attempt is concerned.
    None,
    /// A new one.
    New(Box<Attempt>),
    /// The current one goes on in another process.
    Resumed,
    /// The current one ended.
    Ended,
}

/// Moves a task on; `None` if that is not allowed. The caller has checked that the run belongs to the owner.
pub(super) fn step_task(
    task: &mut TaskInstance,
    owner: &str,
    now: DateTime<Utc>,
    change: &TaskChange,
) -> Option<AttemptStep> {
    let state = task.state.after(change.step)?;
    let expected = if change.step == TaskStep::Start { task.attempt + 1 } else { task.attempt };
    if change.attempt != expected {
        return None;
    }
    let was = task.state;
    task.state = state;
    task.attempt = expected;
    task.retry_at = change.retry_at.filter(|_| change.step == TaskStep::Retry);
    if state.ended() {
        task.ended_at = Some(now);
        task.summary.clone_from(&change.summary);
        task.result.clone_from(&change.result);
    }
    match change.step {
        TaskStep::Start => {
            task.started_at = task.started_at.or(Some(now));
            Some(AttemptStep::New(Box::new(Attempt {
                run: task.run.clone(),
                task: task.task.clone(),
                number: expected,
                state,
                owner: owner.to_owned(),
                started_at: now,
                ended_at: None,
                resumes: 0,
                error: None,
            })))
        }
        TaskStep::Resume => Some(AttemptStep::Resumed),
        TaskStep::Succeed => {
            task.error = None;
            Some(AttemptStep::Ended)
        }
        TaskStep::Skip | TaskStep::Retry | TaskStep::Fail | TaskStep::Cancel => {
            task.error = change.error.clone().or_else(|| task.error.take().filter(|_| change.step == TaskStep::Cancel));
            Some(if was == crate::run::TaskState::Running { AttemptStep::Ended } else { AttemptStep::None })
        }
        TaskStep::Block => Some(AttemptStep::None),
    }
}

/// Moves an attempt on, after its task.
pub(super) fn end_attempt(attempt: &mut Attempt, now: DateTime<Utc>, change: &TaskChange) {
    attempt.ended_at = Some(now);
    attempt.error.clone_from(&change.error);
    attempt.state = match change.step {
        // An attempt that is tried again has failed, even if its task has not.
        TaskStep::Retry | TaskStep::Fail => crate::run::TaskState::Failed,
        step => crate::run::TaskState::Running.after(step).unwrap_or(attempt.state),
    };
}
