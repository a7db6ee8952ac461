//! What people's wishes mean for the tasks of a run.
use super::names::before;
use crate::dag::Dag;
use crate::history::Change;
use crate::run::{TaskInstance, TaskState, TaskStep};

/// What somebody wants of tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Done again, and with `downstream` what comes after them, too.
    Clear {
        /// Whether what comes after them is cleared, too.
        downstream: bool,
    },
    /// Taken for done.
    Success,
    /// Taken for failed.
    Failed,
    /// Taken for not needed.
    Skip,
}

/// The change that fulfils a wish; `None` if there is nothing to change. Of what comes after the tasks, what had no chance because of them gets
/// another.
pub fn amend(dag: &Dag, run: &str, tasks: &[TaskInstance], of: &[String], wish: Wish) -> Option<Change> {
    let step = match wish {
        Wish::Clear { .. } => TaskStep::Clear,
        Wish::Success => TaskStep::MarkSuccess,
        Wish::Failed => TaskStep::MarkFailed,
        Wish::Skip => TaskStep::MarkSkipped,
    };
    let chosen = |task: &TaskInstance| of.contains(&task.task);
    let mut steps = Vec::new();
    for task in tasks {
        if chosen(task) {
            let running = matches!(task.state, TaskState::Running | TaskState::Deferred);
            if running || task.state.after(step).is_some() {
                steps.push((task.task.clone(), step));
            }
            // One item of a list: the list is open again.
            continue;
        }
        if of.iter().any(|id| id != &task.task && crate::run::defined(id) == task.task) {
            if task.state.after(TaskStep::Reopen).is_some() {
                steps.push((task.task.clone(), TaskStep::Reopen));
            }
            continue;
        }
        let Some(definition) = dag.task(&task.task).filter(|_| task.item.is_none()) else { continue };
        let after = before(dag, definition).iter().any(|id| of.iter().any(|of| crate::run::defined(of) == *id));
        let blocked = matches!(task.state, TaskState::UpstreamFailed | TaskState::Skipped);
        let again = match wish {
            Wish::Clear { downstream } => downstream && task.state != TaskState::Waiting || blocked,
            Wish::Success | Wish::Failed | Wish::Skip => blocked,
        };
        let can = matches!(task.state, TaskState::Running | TaskState::Deferred)
            || task.state.after(TaskStep::Clear).is_some();
        if after && again && can {
            steps.push((task.task.clone(), TaskStep::Clear));
        }
    }
    (!steps.is_empty()).then(|| Change::Amend { run: run.to_owned(), steps })
}
