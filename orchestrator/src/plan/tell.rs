//! Who is to be told what: recorded with what happened, in the same transaction, so that nobody is forgotten; told afterwards, at least once.
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::dag::{CallOn, Callback, Dag, TaskDef};
use crate::history::{Call, Change, TaskChange};
use crate::run::{Run, TaskState, TaskStep};
use crate::task::TaskError;

/// The calls that go with a change of a task. The tasks of a list call for themselves, the list does not.
pub(super) fn of_task(
    now: DateTime<Utc>,
    dag: &Dag,
    task: &TaskDef,
    run: &Run,
    change: &TaskChange,
    state: TaskState,
) -> Vec<Change> {
    let on = match (change.step, state) {
        (TaskStep::Retry, _) => CallOn::Retry,
        (TaskStep::Fail, _) => CallOn::Failure,
        (TaskStep::Succeed, _) => CallOn::Success,
        _ => return Vec::new(),
    };
    let of_items = task.policy.map.is_some() && task.id == change.task;
    if of_items && change.error.as_ref().is_none_or(|error| *error.code != *"D0127") {
        return Vec::new();
    }
    let mut all = calls(now, &task.policy.calls, run, &change.task, change.attempt, on, change.error.as_ref());
    if on == CallOn::Retry {
        // A run is not tried again, its tasks are: so this is told to whoever wants to know it of the DAG.
        let wanted = dag.calls.iter().filter(|call| call.on == on);
        all.extend(wanted.enumerate().map(|(number, call)| {
            let body = body(now, run, &change.task, change.attempt, on, change.error.as_ref());
            let id = format!("{}/{}/{}/dag-{}/{number}", run.id, change.task, change.attempt, name(on));
            Change::Call(Box::new(Call { id, run: run.id.clone(), to: call.to.clone(), body, due_at: now, tries: 0 }))
        }));
    }
    all
}

/// The calls of those `wanted` that are about a task, or (`task` empty) about the run.
pub(super) fn calls(
    now: DateTime<Utc>,
    wanted: &[Callback],
    run: &Run,
    task: &str,
    attempt: u32,
    on: CallOn,
    error: Option<&TaskError>,
) -> Vec<Change> {
    let wanted = wanted.iter().filter(|call| call.on == on);
    wanted
        .enumerate()
        .map(|(number, call)| {
            let body = body(now, run, task, attempt, on, error);
            // A task that was cleared can fail again, and a run that was opened again, too.
            let id = format!("{}/{task}/{attempt}/{}/{}/{number}", run.id, name(on), run.amended);
            Change::Call(Box::new(Call { id, run: run.id.clone(), to: call.to.clone(), body, due_at: now, tries: 0 }))
        })
        .collect()
}

fn body(
    now: DateTime<Utc>,
    run: &Run,
    task: &str,
    attempt: u32,
    on: CallOn,
    error: Option<&TaskError>,
) -> serde_json::Value {
    let instant = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    json!({
        "event": name(on),
        "dag": run.dag,
        "run": run.id,
        "task": Some(task).filter(|task| !task.is_empty()),
        "attempt": Some(attempt).filter(|attempt| *attempt > 0),
        "at": instant(now),
        "interval": run.interval.map(|interval| json!({"start": instant(interval.start), "end": instant(interval.end)})),
        "error": error,
    })
}

fn name(on: CallOn) -> &'static str {
    match on {
        CallOn::Failure => "failure",
        CallOn::Success => "success",
        CallOn::Retry => "retry",
        CallOn::Deadline => "deadline",
    }
}
