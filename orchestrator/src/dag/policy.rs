//! What a DAG file may say about how its tasks are run, besides their order: limits, crashes, lists, and whom to tell.
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a task holds of a pool while it runs. How many slots a pool has is a setting of the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolUse {
    /// The pool.
    pub name: String,
    /// How many of its slots.
    pub slots: u32,
}

/// A key of which only so many tasks run at once, in all runs of all DAGs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUse {
    /// The key; a template.
    pub key: String,
    /// How many tasks with an equal key may run at once.
    pub limit: u32,
}

/// What becomes of an attempt whose process died.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnCrash {
    /// It runs again, as the same attempt. Work that is done twice must do no harm.
    #[default]
    Rerun,
    /// It has failed.
    Fail,
}

/// All values of [`OnCrash`] by the name used in DAG files.
pub const ON_CRASH: &[(&str, OnCrash)] = &[("rerun", OnCrash::Rerun), ("fail", OnCrash::Fail)];

/// A task that is run once for each item of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapOver {
    /// The list, or a template that gives one.
    pub over: Value,
    /// How many items may be under way at once; absent: as many as there are slots.
    pub at_once: Option<u32>,
}

/// The longest list a task may be run for. Every item is a row of the history and of each view of the run.
pub const MOST_ITEMS: usize = 10_000;

/// Something to tell somebody about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOn {
    /// It failed for good.
    Failure,
    /// It succeeded.
    Success,
    /// An attempt failed and there will be another.
    Retry,
    /// It has not ended in time.
    Deadline,
}

/// All values of [`CallOn`] by the name of their key in DAG files.
pub const CALLS: &[(&str, CallOn)] = &[
    ("on_failure", CallOn::Failure),
    ("on_success", CallOn::Success),
    ("on_retry", CallOn::Retry),
    ("on_deadline", CallOn::Deadline),
];

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallTo {
    /// A POST of JSON to this URL.
    Webhook(String),
    /// A shell command, with the same JSON on its standard input.
    Command(String),
}

/// Whom to tell what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// What.
    pub on: CallOn,
    /// Whom.
    pub to: CallTo,
}

/// What is said of a task besides its work.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TaskPolicy {
    /// It goes before tasks of a lower number when slots are short.
    #[serde(default, skip_serializing_if = "usual")]
    pub priority: i32,
    /// The pool it takes slots of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolUse>,
    /// The key that it does not share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyUse>,
    /// What becomes of an attempt whose process died.
    #[serde(default, skip_serializing_if = "usual")]
    pub on_crash: OnCrash,
    /// The list it is run for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapOver>,
    /// How long after the start of its run it should have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Whom to tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Callback>,
}

/// For what is not written down where it is what it always was: so the revision of a definition stays.
pub(super) fn usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
