//! What a change does to a run, a task and its attempt: pure, and the same for every store.
use chrono::{DateTime, Utc};

use super::{NewRun, TaskChange};
use crate::run::{Attempt, Choice, Run, RunState, RunStep, TaskInstance, TaskState, TaskStep};
use crate::task::TaskError;

/// The run of a [`NewRun`].
pub(crate) fn create(new: &NewRun, owner: &str, now: DateTime<Utc>) -> Run {
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
        cancel: None,
        amended: 0,
    }
}

/// Moves a run on; false if that is not allowed.
pub(crate) fn step_run(
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
pub(crate) enum AttemptStep {
    /// Nothing: no attempt is concerned.
    None,
    /// A new one.
    New(Box<Attempt>),
    /// The current one goes on in another process.
    Resumed,
    /// The current one ended.
    Ended,
}

/// Whether what was decided about a task was decided on what is still so: of a task that runs only its process knows more, of others people may
/// have changed what was judged.
///
/// `amended`: [`Run::amended`] as it is.
pub(super) fn current(amended: u32, state: TaskState, change: &TaskChange) -> bool {
    state != TaskState::Waiting || change.amended == amended
}

/// Whether tasks of a run in this state can change so. One that waits for its turn again can only be stopped.
pub(super) fn open_to(state: RunState, step: TaskStep) -> bool {
    state == RunState::Running || state == RunState::Queued && step == TaskStep::Cancel
}

/// What becomes of what somebody wants of a task.
pub(super) enum Amended {
    /// It is so now.
    Done,
    /// It will be, when the attempt has stopped.
    Wanted,
    /// It cannot be.
    Refused,
}

/// Does to a task what somebody wants.
pub(super) fn amend(task: &mut TaskInstance, now: DateTime<Utc>, step: TaskStep) -> Amended {
    if !step.of_people() {
        return Amended::Refused;
    }
    if matches!(task.state, TaskState::Running | TaskState::Deferred) && step != TaskStep::Reopen {
        task.wanted = Some(step);
        return Amended::Wanted;
    }
    let Some(state) = task.state.after(step) else { return Amended::Refused };
    task.state = state;
    task.wanted = None;
    task.retry_at = None;
    task.error = None;
    if step == TaskStep::Clear {
        *task = TaskInstance {
            attempt: task.attempt,
            base: task.attempt,
            item: task.item.take(),
            ..TaskInstance::waiting(&task.run, &task.task)
        };
    } else if step == TaskStep::Reopen {
        task.ended_at = None;
    } else {
        task.ended_at = Some(now);
        task.choice = Choice::All;
        "set by hand".clone_into(&mut task.summary);
    }
    Amended::Done
}

/// Makes an ended run wait for its turn again.
pub(super) fn reopen(run: &mut Run) {
    if let Some(state) = run.state.after(RunStep::Reopen) {
        run.state = state;
        run.owner = None;
        run.ended_at = None;
        run.error = None;
        run.cancel = None;
    }
}

/// Moves a task on; `None` if that is not allowed. The caller has checked that the run belongs to the owner.
pub(crate) fn step_task(
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
    task.retry_at = change.retry_at.filter(|_| matches!(change.step, TaskStep::Retry | TaskStep::Defer));
    if state.ended() {
        task.ended_at = Some(now);
        task.summary.clone_from(&change.summary);
        task.result.clone_from(&change.result);
        task.choice.clone_from(&change.choice);
    }
    let open = matches!(was, TaskState::Running | TaskState::Deferred);
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
            Some(if open { AttemptStep::Ended } else { AttemptStep::None })
        }
        TaskStep::Defer => {
            task.summary.clone_from(&change.summary);
            Some(AttemptStep::None)
        }
        TaskStep::Map => {
            task.started_at = Some(now);
            Some(AttemptStep::None)
        }
        TaskStep::Skip | TaskStep::Retry | TaskStep::Fail | TaskStep::Cancel => {
            task.error = change.error.clone().or_else(|| task.error.take().filter(|_| change.step == TaskStep::Cancel));
            Some(if open { AttemptStep::Ended } else { AttemptStep::None })
        }
        TaskStep::Block | TaskStep::Wake => Some(AttemptStep::None),
        TaskStep::Clear | TaskStep::Reopen | TaskStep::MarkSuccess | TaskStep::MarkFailed | TaskStep::MarkSkipped => {
            None
        }
    }
}

/// Moves an attempt on, after its task.
pub(super) fn end_attempt(attempt: &mut Attempt, now: DateTime<Utc>, change: &TaskChange) {
    attempt.ended_at = Some(now);
    attempt.error.clone_from(&change.error);
    attempt.state = match change.step {
        // An attempt that is tried again has failed, even if its task has not.
        TaskStep::Retry | TaskStep::Fail => TaskState::Failed,
        step => TaskState::Running.after(step).unwrap_or(attempt.state),
    };
}
