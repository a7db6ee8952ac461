//! Runs, task instances and attempts: what they are and how they may change. The transitions are one table each, tested whole.
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::retry::fnv64;
use crate::task::TaskError;

/// The half-open span `[start, end)` of time a run covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// The first instant in it.
    pub start: DateTime<Utc>,
    /// The first instant after it.
    pub end: DateTime<Utc>,
}

/// Why a run exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// Somebody asked for it.
    Manual {
        /// Who or what asked.
        by: String,
    },
    /// An interval ended.
    Cron {
        /// Which trigger of the DAG, from 0.
        trigger: u32,
    },
    /// A file arrived.
    File {
        /// Its path, relative to the project folder.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// Its modification time in nanoseconds since 1970.
        modified: i64,
    },
    /// No run was under way.
    Continuous,
}

macro_rules! states {
    ($(#[$about:meta])* $name:ident { $($(#[$one:meta])* $state:ident = $text:literal $ended:literal),* $(,)? }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$one])* $state),* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$state),*];

            /// The name used in the history and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$state => $text),* }
            }

            /// The state of that name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.name() == name)
            }

            /// Whether nothing can happen any more.
            pub fn ended(self) -> bool {
                match self { $(Self::$state => $ended),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

states! {
    /// How far a run is.
    RunState {
        /// Waits for its turn.
        Queued = "queued" false,
        /// Under way.
        Running = "running" false,
        /// Ended well.
        Success = "success" true,
        /// Ended badly.
        Failed = "failed" true,
        /// Stopped by somebody.
        Cancelled = "cancelled" true,
    }
}

states! {
    /// How far a task of a run is.
    TaskState {
        /// Has not started.
        Waiting = "waiting" false,
        /// An attempt is under way.
        Running = "running" false,
        /// An attempt failed; the next one starts later.
        UpForRetry = "up_for_retry" false,
        /// Done.
        Success = "success" true,
        /// The last attempt failed.
        Failed = "failed" true,
        /// Not needed.
        Skipped = "skipped" true,
        /// Never started, because something before it failed.
        UpstreamFailed = "upstream_failed" true,
        /// Stopped by somebody.
        Cancelled = "cancelled" true,
    }
}

/// What can happen to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunStep {
    /// Its turn came.
    Begin,
    /// All leaves ended well.
    Succeed,
    /// A leaf failed, or it could not begin.
    Fail,
    /// Somebody stopped it.
    Cancel,
}

/// What can happen to a task of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStep {
    /// A new attempt starts.
    Start,
    /// The attempt that was running when its process died starts again, under its number.
    Resume,
    /// The attempt did its work.
    Succeed,
    /// It is not needed, or the attempt found nothing to do.
    Skip,
    /// The attempt failed and another one will follow.
    Retry,
    /// The attempt failed and it was the last.
    Fail,
    /// Something before it failed.
    Block,
    /// Somebody stopped it.
    Cancel,
}

/// Every allowed change of a run.
pub const RUN_TRANSITIONS: &[(RunState, RunStep, RunState)] = &[
    (RunState::Queued, RunStep::Begin, RunState::Running),
    (RunState::Queued, RunStep::Fail, RunState::Failed),
    (RunState::Queued, RunStep::Cancel, RunState::Cancelled),
    (RunState::Running, RunStep::Succeed, RunState::Success),
    (RunState::Running, RunStep::Fail, RunState::Failed),
    (RunState::Running, RunStep::Cancel, RunState::Cancelled),
];

/// Every allowed change of a task instance.
pub const TASK_TRANSITIONS: &[(TaskState, TaskStep, TaskState)] = &[
    (TaskState::Waiting, TaskStep::Start, TaskState::Running),
    (TaskState::Waiting, TaskStep::Skip, TaskState::Skipped),
    (TaskState::Waiting, TaskStep::Block, TaskState::UpstreamFailed),
    (TaskState::Waiting, TaskStep::Cancel, TaskState::Cancelled),
    (TaskState::Running, TaskStep::Resume, TaskState::Running),
    (TaskState::Running, TaskStep::Succeed, TaskState::Success),
    (TaskState::Running, TaskStep::Skip, TaskState::Skipped),
    (TaskState::Running, TaskStep::Retry, TaskState::UpForRetry),
    (TaskState::Running, TaskStep::Fail, TaskState::Failed),
    (TaskState::Running, TaskStep::Cancel, TaskState::Cancelled),
    (TaskState::UpForRetry, TaskStep::Start, TaskState::Running),
    (TaskState::UpForRetry, TaskStep::Cancel, TaskState::Cancelled),
];

impl RunState {
    /// The state after `step`, or `None` if that cannot happen now.
    pub fn after(self, step: RunStep) -> Option<Self> {
        RUN_TRANSITIONS.iter().find(|(from, by, _)| (*from, *by) == (self, step)).map(|(_, _, to)| *to)
    }
}

impl TaskState {
    /// The state after `step`, or `None` if that cannot happen now.
    pub fn after(self, step: TaskStep) -> Option<Self> {
        TASK_TRANSITIONS.iter().find(|(from, by, _)| (*from, *by) == (self, step)).map(|(_, _, to)| *to)
    }
}

/// One execution of a DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its name: DAG, instant and a few digits. Sorts by time within a DAG.
    pub id: String,
    /// The DAG.
    pub dag: String,
    /// What it is the only run of (an interval, a file), if anything.
    pub key: Option<String>,
    /// How far it is.
    pub state: RunState,
    /// Why it exists.
    pub cause: Cause,
    /// The time it covers, if it was started by the clock.
    pub interval: Option<Interval>,
    /// A label that tells scheduled runs apart: the start of the interval.
    pub logical_date: Option<DateTime<Utc>>,
    /// What it was given; from `Begin` on, all params with their values.
    pub params: Map<String, Value>,
    /// Flags of whoever asked for it, such as `drain`.
    pub options: Map<String, Value>,
    /// The pinned definition, from `Begin` on.
    pub revision: Option<String>,
    /// The process that drives it; absent while nobody does.
    pub owner: Option<String>,
    /// When it was asked for.
    pub queued_at: DateTime<Utc>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Why it could not begin.
    pub error: Option<TaskError>,
}

/// One task of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskInstance {
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// How far it is.
    pub state: TaskState,
    /// The number of the last attempt; 0 before the first.
    pub attempt: u32,
    /// When the next attempt may start, while up for retry.
    pub retry_at: Option<DateTime<Utc>>,
    /// When the first attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// What it did, one line.
    pub summary: String,
    /// What it hands to the tasks after it.
    pub result: Value,
    /// How the last attempt failed.
    pub error: Option<TaskError>,
}

impl TaskInstance {
    /// A task that has not started.
    pub fn waiting(run: &str, task: &str) -> Self {
        Self {
            run: run.to_owned(),
            task: task.to_owned(),
            state: TaskState::Waiting,
            attempt: 0,
            retry_at: None,
            started_at: None,
            ended_at: None,
            summary: String::new(),
            result: Value::Null,
            error: None,
        }
    }
}

/// One try of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The run.
    pub run: String,
    /// The task.
    pub task: String,
    /// Its number, from 1.
    pub number: u32,
    /// `Running` until it ended; then how.
    pub state: TaskState,
    /// The process that runs or ran it.
    pub owner: String,
    /// When it started, the first time.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How often a process died under it.
    pub resumes: u32,
    /// How it failed.
    pub error: Option<TaskError>,
}

/// Makes the id of a run: `DAG-20261120T110000-7f3a01`. `salt` tells runs of one second apart.
pub fn run_id(dag: &str, now: DateTime<Utc>, salt: &str) -> String {
    let micros = now.timestamp_micros();
    let digits = fnv64(format!("{dag}\n{micros}\n{salt}").as_bytes()) >> 40;
    format!("{dag}-{}-{digits:06x}", now.format("%Y%m%dT%H%M%S"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_hold_each_change_once_and_nothing_leaves_an_ended_state() {
        let runs = [RunStep::Begin, RunStep::Succeed, RunStep::Fail, RunStep::Cancel];
        let allowed: usize =
            RunState::ALL.iter().map(|state| runs.iter().filter(|step| state.after(**step).is_some()).count()).sum();
        assert_eq!(allowed, RUN_TRANSITIONS.len());
        for state in RunState::ALL {
            assert_eq!(state.ended(), runs.iter().all(|step| state.after(*step).is_none()), "{state}");
            assert_eq!(RunState::named(state.name()), Some(*state));
        }
        let tasks = [
            TaskStep::Start,
            TaskStep::Resume,
            TaskStep::Succeed,
            TaskStep::Skip,
            TaskStep::Retry,
            TaskStep::Fail,
            TaskStep::Block,
            TaskStep::Cancel,
        ];
        let allowed: usize =
            TaskState::ALL.iter().map(|state| tasks.iter().filter(|step| state.after(**step).is_some()).count()).sum();
        assert_eq!(allowed, TASK_TRANSITIONS.len());
        for state in TaskState::ALL {
            assert_eq!(state.ended(), tasks.iter().all(|step| state.after(*step).is_none()), "{state}");
            assert_eq!(TaskState::named(state.name()), Some(*state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        // Only a start makes an attempt, and only a running task can succeed.
        assert!(
            TASK_TRANSITIONS
                .iter()
                .filter(|(_, step, _)| *step == TaskStep::Succeed)
                .all(|(from, _, _)| *from == TaskState::Running)
        );
    }

    #[test]
    fn ids_are_readable_and_sort_by_time() {
        let at: DateTime<Utc> = "2026-11-20T11:00:00Z".parse().unwrap();
        let id = run_id("movies_catalog", at, "a");
        assert!(id.starts_with("movies_catalog-20261120T110000-") && id.len() == 37, "{id}");
        assert_ne!(id, run_id("movies_catalog", at, "b"));
        assert!(id < run_id("movies_catalog", at + chrono::TimeDelta::seconds(1), "a"));
    }
}
