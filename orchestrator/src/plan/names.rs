//! What the templates of a task may name.
use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use crate::dag::{Dag, TaskDef};
use crate::run::{Run, TaskInstance};

/// The names for one task: its run, its place, and of the tasks before it how they ended.
pub(super) fn names(
    dag: &Dag,
    run: &Run,
    tasks: &BTreeMap<String, TaskInstance>,
    task: &TaskDef,
    attempt: u32,
    item: Option<&(u32, Value)>,
) -> Value {
    let instant = |at: DateTime<Utc>| Value::String(at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    let before: Map<String, Value> = before(dag, task)
        .into_iter()
        .filter_map(|id| tasks.get(id).filter(|known| known.state.ended()))
        .map(|known| {
            (known.task.clone(), json!({"state": known.state, "summary": known.summary, "result": known.result}))
        })
        .collect();
    let mut names = json!({
        "params": run.params,
        "run": {
            "id": run.id,
            "dag": run.dag,
            "logical_date": run.logical_date.map(instant),
            "started_at": run.started_at.map(instant),
        },
        "task": {"id": task.id, "attempt": attempt},
        "tasks": before,
    });
    if let Some(interval) = run.interval {
        names["interval"] = json!({"start": instant(interval.start), "end": instant(interval.end)});
    }
    if let Some((index, item)) = item {
        names["item"] = item.clone();
        names["index"] = json!(index);
    }
    names
}

/// The tasks before a task, directly or not.
pub(super) fn before<'d>(dag: &'d Dag, task: &'d TaskDef) -> Vec<&'d str> {
    let mut found: Vec<&str> = Vec::new();
    let mut open = vec![task];
    while let Some(next) = open.pop() {
        for id in &next.after {
            if !found.contains(&id.as_str()) {
                found.push(id);
                open.extend(dag.task(id));
            }
        }
    }
    found
}
