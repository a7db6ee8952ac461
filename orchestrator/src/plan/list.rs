//! Tasks that are run once for each item of a list: how they are made, how many run at once, and how the list ends.
use serde_json::Value;

use super::Plan;
use super::progress::Progress;
use crate::dag::{MOST_ITEMS, template};
use crate::history::TaskChange;
use crate::run::{TaskInstance, TaskState, TaskStep};
use crate::task::{Retry, TaskError};

impl Progress<'_> {
    /// Makes one task for each item of a list.
    pub(super) fn map(&mut self, plan: &mut Plan<'_>, of: usize) {
        let task = &self.definition.tasks[of];
        let Some(map) = &task.policy.map else { return };
        let attempt = self.standing.own(of).map_or(0, |known| known.attempt);
        let names = self.names(of, 0, None);
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
        // They start when the history has them: it knows the attempts that items of these names had before.
        self.step(plan, change);
    }

    /// Ends a list when all its tasks have ended: failed if one has, skipped if all are, else with all results in order.
    pub(super) fn gather(&mut self, plan: &mut Plan<'_>, of: usize) {
        let task = &self.definition.tasks[of];
        let items = self.standing.items(of);
        let count = items.len();
        let number = |state: TaskState| items.iter().filter(|item| item.state == state).count();
        let bad = number(TaskState::Failed) + number(TaskState::UpstreamFailed) + number(TaskState::Cancelled);
        let attempt = self.standing.own(of).map_or(0, |known| known.attempt);
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
        self.step(plan, change);
    }

    /// Whether one more task of its list may run.
    pub(super) fn room(&self, place: usize) -> bool {
        let of = self.standing.of(place);
        let most = self.definition.tasks[of].policy.map.as_ref().and_then(|map| map.at_once);
        most.is_none_or(|most| self.standing.running_items(of) < most as usize)
    }

    /// The first task of a list that has not ended.
    pub(super) fn open_item(&self, of: usize) -> Option<&TaskInstance> {
        self.standing.items(of).iter().find(|item| !item.state.ended())
    }
}
