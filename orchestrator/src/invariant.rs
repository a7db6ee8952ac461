//! What must always hold about runs, by id. The simulator and the tests check these after every step.
use std::collections::{BTreeMap, BTreeSet};

use crate::history::{History, HistoryError, RunFilter};
use crate::run::{Cause, RunState, TaskState};

/// Every invariant by its id.
pub const INVARIANTS: &[(&str, &str)] = &[
    ("R1", "a task instance has at most one live attempt"),
    ("R2", "a task that has ended never runs again, unless somebody clears it"),
    (
        "R3",
        "a crash spends no retry: there are as many attempts as failures, and one more at most, since a task was last cleared",
    ),
    ("R4", "a file starts one run of a DAG, an interval one run of a trigger"),
    ("R5", "no more runs of a DAG run at once than it allows"),
    ("R6", "a run has ended if and only if all its tasks have, unless it never began"),
    ("R8", "of what running tasks hold there is never more than there is"),
    ("R9", "an interval of a backfill gets one run, and no more of its runs are open at once than it allows"),
    ("R7", "every run ends once nothing disturbs it any more"),
    ("R10", "what a scheduler keeps of the history in mind is what the history holds"),
];

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The id.
    pub id: &'static str,
    /// What was found.
    pub what: String,
}

/// Checks what a history records. R1, R2, R7 and R10 are about a life, not a record: the simulator checks them.
///
/// # Errors
/// If the history cannot be read.
pub fn check(history: &dyn History) -> Result<Vec<Violation>, HistoryError> {
    let mut found = Vec::new();
    let mut once: BTreeSet<String> = BTreeSet::new();
    let mut running: BTreeMap<String, u32> = BTreeMap::new();
    for run in history.runs(&RunFilter { limit: usize::MAX, ..RunFilter::default() })? {
        let only = match &run.cause {
            Cause::File { path, size, modified } => Some(format!("{} {path} {size} {modified}", run.dag)),
            Cause::Schedule { trigger } => Some(format!("{} {trigger} {:?}", run.dag, run.interval)),
            Cause::Event { trigger, keys } => Some(format!("event {} {trigger} {keys:?}", run.dag)),
            Cause::Backfill { backfill, number } => Some(format!("backfill {backfill} {number}")),
            Cause::Manual { .. } | Cause::Continuous => None,
        };
        if let Some(only) = only.filter(|only| !once.insert(only.clone())) {
            found.push(Violation { id: "R4", what: format!("a second run for {only}: {}", run.id) });
        }
        let definition = history.definition(&run.id)?;
        if run.state == RunState::Running && run.backfill().is_none() {
            let count = running.entry(run.dag.clone()).or_default();
            *count += 1;
            if definition.as_ref().is_some_and(|dag| *count > dag.max_active_runs) {
                found.push(Violation { id: "R5", what: format!("{count} runs of {}", run.dag) });
            }
        }
        let tasks = history.tasks(&run.id)?;
        let all_ended = tasks.iter().all(|task| task.state.ended());
        if run.state.ended() && !all_ended {
            found.push(Violation { id: "R6", what: format!("{} is {} with tasks open", run.id, run.state) });
        }
        let attempts = history.attempts(&run.id)?;
        for task in &tasks {
            let of_task: Vec<_> =
                attempts.iter().filter(|attempt| attempt.task == task.task && attempt.number > task.base).collect();
            let failed = of_task.iter().filter(|attempt| attempt.state == TaskState::Failed).count();
            let open = of_task.iter().filter(|attempt| attempt.state == TaskState::Running).count();
            let runs = matches!(task.state, TaskState::Running | TaskState::Deferred);
            if of_task.len() + task.base as usize != task.attempt as usize
                || of_task.len() > failed + 1
                || open != usize::from(runs)
            {
                let what = format!(
                    "{}/{}: {} attempts, {failed} failed, {open} open, {}",
                    run.id,
                    task.task,
                    of_task.len(),
                    task.state
                );
                found.push(Violation { id: "R3", what });
            }
        }
    }
    Ok(found)
}
