//! Tasks that are run once for each item of a list: how they are made, how many run at once, and how the list ends.
use serde_json::Value;

use super::Plan;
use super::names::names;
use super::progress::Progress;
use crate::dag::{MOST_ITEMS, MapOver, TaskDef, template};
use crate::history::TaskChange;
use crate::run::{TaskInstance, TaskState, TaskStep, item_name};
use crate::task::{Retry, TaskError};

impl Progress<'_> {
    /// The tasks of the items of a list, in its order.
    pub(super) fn items(&self, list: &str) -> impl Iterator<Item = &TaskInstance> {
        let count = self.lists.get(list).copied().unwrap_or_default();
        (0..count).filter_map(move |number| self.tasks.get(&item_name(list, number)))
    }

    /// Makes one task for each item of a list.
    pub(super) fn map(&mut self, plan: &mut Plan<'_>, task: &TaskDef, map: &MapOver) -> bool {
        let attempt = self.tasks.get(&task.id).map_or(0, |known| known.attempt);
        let names = names(self.definition, self.run, &self.tasks, task, 0, None);
        let fault = |why: String| {
            TaskError::new("D0127", "the list of the task cannot be made", Retry::Never)
                .why(why)
                .fix("`map` must give an array; see what the tasks before it hand on with `tidemill runs show`")
        };
        let mut change = TaskChange::plain(&self.run.id, &task.id, TaskStep::Map, attempt);
        match template::render_one(&map.over, &names) {
            Ok(Value::Array(items)) if items.is_empty() => {
                change.step = TaskStep::Skip;
                "nothing in its list".clone_into(&mut change.summary);
            }
            Ok(Value::Array(items)) if items.len() <= MOST_ITEMS => change.items = items,
            Ok(Value::Array(items)) => {
                change.step = TaskStep::Fail;
                change.error = Some(fault(format!("it has {} items, at most {MOST_ITEMS} are possible", items.len())));
            }
            Ok(other) => {
                change.step = TaskStep::Fail;
                change.error = Some(fault(format!("`map` gave {other}")));
            }
            Err(why) => {
                change.step = TaskStep::Fail;
                change.error = Some(fault(why));
            }
        }
        let items = change.items.clone();
        if !self.step(plan, change) {
            return false;
        }
        // They start when the history has them: it knows the attempts that items of these names had before.
        if let Some(known) = self.definition.tasks.iter().find(|known| known.id == task.id && !items.is_empty()) {
            self.lists.insert(&known.id, u32::try_from(items.len()).unwrap_or(u32::MAX));
        }
        true
    }

    /// Ends a list when all its tasks have ended: failed if one has, skipped if all are, else with all results in order.
    pub(super) fn gather(&mut self, plan: &mut Plan<'_>, task: &TaskDef) -> bool {
        let count = self.lists.get(task.id.as_str()).copied().unwrap_or_default();
        let items: Vec<&TaskInstance> = self.items(&task.id).collect();
        if items.len() != count as usize || !items.iter().all(|item| item.state.ended()) {
            return false;
        }
        let number = |state: TaskState| items.iter().filter(|item| item.state == state).count();
        let bad = number(TaskState::Failed) + number(TaskState::UpstreamFailed) + number(TaskState::Cancelled);
        let attempt = self.tasks.get(&task.id).map_or(0, |known| known.attempt);
        let mut change = TaskChange::plain(&self.run.id, &task.id, TaskStep::Succeed, attempt);
        change.summary = format!("{} of {count} items done", number(TaskState::Success));
        change.result = Value::Array(items.iter().map(|item| item.result.clone()).collect());
        if bad > 0 {
            change.step = TaskStep::Fail;
            change.error = items.iter().find_map(|item| item.error.clone()).map(|first| {
                let what = format!("{bad} of {count} items failed, the first one: {}", first.what);
                TaskError { what, ..first }
            });
        } else if number(TaskState::Skipped) == items.len() {
            change.step = TaskStep::Skip;
        }
        self.step(plan, change)
    }

    /// Whether one more task of its list may run.
    pub(super) fn room(&self, place: usize) -> bool {
        let ready = &self.ready[place];
        let Some(task) = self.definition.task(&ready.task) else { return false };
        let Some(most) = task.policy.map.as_ref().and_then(|map| map.at_once) else { return true };
        let running = self.items(&task.id).filter(|item| item.state == TaskState::Running).count();
        ready.step == TaskStep::Resume || running < most as usize
    }

    /// The first task of a list that has not ended.
    pub(super) fn open_item(&self, list: &str) -> Option<&TaskInstance> {
        self.items(list).find(|item| !item.state.ended())
    }
}
