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
    #[serde(rename = "cron")]
    Schedule {
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
    /// Something happened.
    Event {
        /// Which trigger of the DAG, from 0.
        trigger: u32,
        /// What, by its keys, in order.
        keys: Vec<String>,
    },
    /// Somebody asked for the runs of a range of time.
    Backfill {
        /// The backfill.
        backfill: String,
        /// Which of its intervals, from 0.
        number: u32,
    },
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
        /// An attempt put itself off until later and holds nothing meanwhile.
        Deferred = "deferred" false,
        /// Became one task for each item of a list; ends when they have.
        Mapped = "mapped" false,
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
    /// Somebody changed a task of it after it had ended: it waits for its turn again.
    Reopen,
}

/// What can happen to a task of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The attempt puts itself off.
    Defer,
    /// The attempt that put itself off goes on, under its number.
    Wake,
    /// It becomes one task for each item of a list.
    Map,
    /// Somebody wants it done again: it waits as if it had never started. Its attempts go on counting.
    Clear,
    /// Somebody wants a task of its list done again: the list waits for it.
    Reopen,
    /// Somebody says that it is done.
    MarkSuccess,
    /// Somebody says that it has failed.
    MarkFailed,
    /// Somebody says that it is not needed.
    MarkSkipped,
}

/// Every allowed change of a run.
pub const RUN_TRANSITIONS: &[(RunState, RunStep, RunState)] = &[
    (RunState::Queued, RunStep::Begin, RunState::Running),
    (RunState::Queued, RunStep::Fail, RunState::Failed),
    (RunState::Queued, RunStep::Cancel, RunState::Cancelled),
    (RunState::Running, RunStep::Succeed, RunState::Success),
    (RunState::Running, RunStep::Fail, RunState::Failed),
    (RunState::Running, RunStep::Cancel, RunState::Cancelled),
    (RunState::Success, RunStep::Reopen, RunState::Queued),
    (RunState::Failed, RunStep::Reopen, RunState::Queued),
    (RunState::Cancelled, RunStep::Reopen, RunState::Queued),
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
    (TaskState::Running, TaskStep::Defer, TaskState::Deferred),
    (TaskState::Deferred, TaskStep::Wake, TaskState::Running),
    (TaskState::Deferred, TaskStep::Cancel, TaskState::Cancelled),
    // A list of items.
    (TaskState::Waiting, TaskStep::Map, TaskState::Mapped),
    (TaskState::Waiting, TaskStep::Fail, TaskState::Failed),
    (TaskState::Mapped, TaskStep::Succeed, TaskState::Success),
    (TaskState::Mapped, TaskStep::Skip, TaskState::Skipped),
    (TaskState::Mapped, TaskStep::Fail, TaskState::Failed),
    (TaskState::Mapped, TaskStep::Cancel, TaskState::Cancelled),
    // What somebody wants of a task that is not running: of one that is, it is noted, and done when the attempt has stopped.
    (TaskState::UpForRetry, TaskStep::Clear, TaskState::Waiting),
    (TaskState::Success, TaskStep::Clear, TaskState::Waiting),
    (TaskState::Failed, TaskStep::Clear, TaskState::Waiting),
    (TaskState::Skipped, TaskStep::Clear, TaskState::Waiting),
    (TaskState::UpstreamFailed, TaskStep::Clear, TaskState::Waiting),
    (TaskState::Cancelled, TaskStep::Clear, TaskState::Waiting),
    (TaskState::Success, TaskStep::Reopen, TaskState::Mapped),
    (TaskState::Failed, TaskStep::Reopen, TaskState::Mapped),
    (TaskState::Skipped, TaskStep::Reopen, TaskState::Mapped),
    (TaskState::Cancelled, TaskStep::Reopen, TaskState::Mapped),
    (TaskState::Waiting, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::UpForRetry, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::Failed, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::Skipped, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::UpstreamFailed, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::Cancelled, TaskStep::MarkSuccess, TaskState::Success),
    (TaskState::Waiting, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::UpForRetry, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::Success, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::Skipped, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::UpstreamFailed, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::Cancelled, TaskStep::MarkFailed, TaskState::Failed),
    (TaskState::Waiting, TaskStep::MarkSkipped, TaskState::Skipped),
    (TaskState::UpForRetry, TaskStep::MarkSkipped, TaskState::Skipped),
    (TaskState::Success, TaskStep::MarkSkipped, TaskState::Skipped),
    (TaskState::Failed, TaskStep::MarkSkipped, TaskState::Skipped),
    (TaskState::UpstreamFailed, TaskStep::MarkSkipped, TaskState::Skipped),
    (TaskState::Cancelled, TaskStep::MarkSkipped, TaskState::Skipped),
];

impl TaskStep {
    /// All of them, with the names they have in the history.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::Start, "start"),
        (Self::Resume, "resume"),
        (Self::Succeed, "succeed"),
        (Self::Skip, "skip"),
        (Self::Retry, "retry"),
        (Self::Fail, "fail"),
        (Self::Block, "block"),
        (Self::Cancel, "cancel"),
        (Self::Defer, "defer"),
        (Self::Wake, "wake"),
        (Self::Map, "map"),
        (Self::Clear, "clear"),
        (Self::Reopen, "reopen"),
        (Self::MarkSuccess, "mark_success"),
        (Self::MarkFailed, "mark_failed"),
        (Self::MarkSkipped, "mark_skipped"),
    ];

    /// The name used in the history.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(step, _)| *step == self).map_or("", |(_, name)| name)
    }

    /// The step of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(step, _)| *step)
    }

    /// Whether it is something that people want, of whoever the run is.
    pub fn of_people(self) -> bool {
        matches!(self, Self::Clear | Self::Reopen | Self::MarkSuccess | Self::MarkFailed | Self::MarkSkipped)
    }
}

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
    /// Who wants it stopped, if anybody does.
    pub cancel: Option<String>,
    /// How often somebody has changed its tasks: what was decided before the last time is refused.
    pub amended: u32,
}

impl Run {
    /// The backfill it is part of.
    pub fn backfill(&self) -> Option<&str> {
        match &self.cause {
            Cause::Backfill { backfill, .. } => Some(backfill),
            _ => None,
        }
    }
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
    /// When the next attempt may start, while up for retry; when the attempt goes on, while deferred.
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
    /// How many attempts there were when somebody last cleared it: retries are counted from there.
    pub base: u32,
    /// What somebody wants of it, while its attempt has not stopped yet.
    pub wanted: Option<TaskStep>,
    /// Which of the tasks after it are to run, once it has succeeded.
    pub choice: Choice,
    /// Of a task that was made for one item of a list: which, from 0, and the item.
    pub item: Option<(u32, Value)>,
}

/// Which of the tasks after a task are to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// All, as their rules say.
    #[default]
    All,
    /// Of those directly after it only these, and what comes after them.
    Only(Vec<String>),
    /// None of those directly after it; what comes further on, as its rule says.
    NotNext,
    /// None of those after it, however far.
    Nothing,
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
            base: 0,
            wanted: None,
            choice: Choice::All,
            item: None,
        }
    }

    /// The task of one item of a list, which has not started.
    pub fn of_item(run: &str, task: &str, number: u32, item: Value) -> Self {
        Self { item: Some((number, item)), ..Self::waiting(run, &item_name(task, number)) }
    }

    /// The task in the DAG's definition: that of the list, of a task that was made for one item.
    pub fn defined(&self) -> &str {
        defined(&self.task)
    }
}

/// The name of a task that was made for one item of a list: `load[3]`.
pub fn item_name(task: &str, number: u32) -> String {
    format!("{task}[{number}]")
}

/// The task in a DAG's definition that an instance is of.
pub fn defined(task: &str) -> &str {
    task.split_once('[').map_or(task, |(task, _)| task)
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
    fn the_tables_hold_each_change_once_and_only_people_change_what_has_ended() {
        let runs = [RunStep::Begin, RunStep::Succeed, RunStep::Fail, RunStep::Cancel, RunStep::Reopen];
        let allowed: usize =
            RunState::ALL.iter().map(|state| runs.iter().filter(|step| state.after(**step).is_some()).count()).sum();
        assert_eq!(allowed, RUN_TRANSITIONS.len());
        for state in RunState::ALL {
            let moves: Vec<&RunStep> = runs.iter().filter(|step| state.after(**step).is_some()).collect();
            assert_eq!(state.ended(), moves == [&RunStep::Reopen], "{state}");
            assert_eq!(RunState::named(state.name()), Some(*state));
        }
        let allowed: usize = TaskState::ALL
            .iter()
            .map(|state| TaskStep::ALL.iter().filter(|(step, _)| state.after(*step).is_some()).count())
            .sum();
        assert_eq!(allowed, TASK_TRANSITIONS.len());
        for state in TaskState::ALL {
            let by_itself = TaskStep::ALL.iter().any(|(step, _)| !step.of_people() && state.after(*step).is_some());
            assert_eq!(state.ended(), !by_itself, "{state}");
            assert_eq!(TaskState::named(state.name()), Some(*state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for (step, name) in TaskStep::ALL {
            assert_eq!((TaskStep::named(name), step.name()), (Some(*step), *name));
        }
        // Only a start makes an attempt, and only what is running, or a list of it, can succeed by itself.
        assert!(
            TASK_TRANSITIONS.iter().filter(|(_, step, _)| *step == TaskStep::Succeed).all(|(from, _, _)| [
                TaskState::Running,
                TaskState::Mapped
            ]
            .contains(from))
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
