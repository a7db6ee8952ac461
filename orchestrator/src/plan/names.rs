//! What the templates of a task may name.
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::standing::Standing;
use crate::dag::{Dag, TaskDef, template};
use crate::run::{Interval, Run};

/// The names for one task (`of`, of the definition): its run, the time it covers, its place, and of the tasks before it how they
/// ended.
pub(super) fn names(
    dag: &Dag,
    run: &Run,
    interval: Option<Interval>,
    standing: &Standing,
    of: usize,
    attempt: u32,
    item: Option<&(u32, Value)>,
) -> Value {
    let instant = |at: DateTime<Utc>| Value::String(at.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    let task = &dag.tasks[of];
    // Where nothing is named, a chain of thousands need not be gone through for each of its tasks.
    let before: Map<String, Value> = if names_anything(task, item.is_some()) {
        let ended = standing.all_before(of).into_iter().filter_map(|of| standing.own(of));
        let ended = ended.filter(|known| known.state.ended());
        ended
            .map(|known| {
                (known.task.clone(), json!({"state": known.state, "summary": known.summary, "result": known.result}))
            })
            .collect()
    } else {
        Map::new()
    };
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
    if let Some(interval) = interval {
        names["interval"] = json!({"start": instant(interval.start), "end": instant(interval.end)});
    }
    if let Some((index, item)) = item {
        names["item"] = item.clone();
        names["index"] = json!(index);
    }
    names
}

/// Whether there is a template anywhere in a task. Its list is nothing to the task of one of its items.
fn names_anything(task: &TaskDef, of_item: bool) -> bool {
    let key = task.policy.key.as_ref().is_some_and(|key| template::is_template(&key.key));
    let list = task.policy.map.as_ref().filter(|_| !of_item).is_some_and(|map| template::any_template(&map.over));
    key || list || task.settings.values().any(template::any_template)
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
