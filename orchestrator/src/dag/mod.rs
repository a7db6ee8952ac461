//! DAG files: what runs when, as written by people in `dags/*.toml`, and as everything else here sees it.
//!
//! `load` finds the files, `parse` reads one with `fields` (typed access that remembers places), `kind` checks a task's settings against its
//! kind, `graph` finds loops, `template` checks and renders `{{ … }}`. Every check adds a [`Problem`] and goes on.
mod fields;
pub mod graph;
mod kind;
mod load;
mod parse;
mod policy;
mod problem;
mod schema;
mod settings;
pub mod template;
mod triggers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::OrchestratorError;
use crate::retry::{RetryPolicy, fnv64};
use crate::rule::TriggerRule;
use crate::schedule::Schedule;
use crate::suggest;

pub use kind::{KeySpec, KindSpec, Shape};
pub use load::Loaded;
pub use policy::{
    CALLS, CallOn, CallTo, Callback, KeyUse, MOST_ITEMS, MapOver, ON_CRASH, OnCrash, PoolUse, TaskPolicy,
};
pub use problem::{Problem, Related, Severity};
pub use schema::schema;
pub(crate) use settings::settle_rendered;
pub use settings::{parse_duration, read_toml};
pub use triggers::parse_instant;

/// One DAG: tasks, their order, and what starts a run of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dag {
    /// The name: the stem of its file.
    pub id: String,
    /// One line for people.
    pub description: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// How many of its runs may be under way at once.
    pub max_active_runs: u32,
    /// How many of its tasks may run at once, in all its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_tasks: Option<u32>,
    /// How long after its start a run should have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Whom to tell about a run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Callback>,
    /// What starts runs.
    pub triggers: Vec<Trigger>,
    /// What a run can be given, in file order.
    pub params: Vec<Param>,
    /// The tasks, in file order.
    pub tasks: Vec<TaskDef>,
    /// Where it was read from; not part of a pinned definition.
    #[serde(skip)]
    pub file: PathBuf,
}

/// What starts runs of a DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trigger {
    /// A file that arrives.
    File(FileTrigger),
    /// The clock.
    #[serde(rename = "cron")]
    Schedule(Box<ScheduleTrigger>),
    /// Something that happened: a run of another DAG ended, a table has a new version.
    Event(EventTrigger),
    /// Whenever no run is under way.
    Continuous,
}

/// Something that happened starts a run, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTrigger {
    /// What is watched.
    pub of: EventOf,
    /// Whether each event starts a run, or one run all that have come since the last one was asked for.
    pub batch: Batch,
    /// The param of the run that gets what happened: one event, or with [`Batch::All`] a list of them.
    pub param: Option<String>,
}

/// What is watched for events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventOf {
    /// The runs of a DAG.
    Dag {
        /// The DAG.
        dag: String,
        /// Also those that failed or were stopped.
        any_end: bool,
    },
    /// The versions of a table.
    Table(String),
}

/// What several events between two runs become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Batch {
    /// A run each, in their order.
    #[default]
    Each,
    /// One run.
    All,
}

/// All values of [`Batch`] by the name used in DAG files.
pub const BATCHES: &[(&str, Batch)] = &[("each", Batch::Each), ("all", Batch::All)];

/// A file that matches and has settled starts one run, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTrigger {
    /// The pattern, relative to the project folder: `*` and `?` within a name, `**` for any folders.
    pub path: String,
    /// The param of the run that gets the path.
    pub param: Option<String>,
    /// For how long size and modification time must be unchanged.
    pub settle: Duration,
    /// The file has arrived when there is another one beside it with this at the end of its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
    /// It has not arrived while it is smaller, in bytes.
    #[serde(default, skip_serializing_if = "policy::usual")]
    pub min_size: u64,
}

/// Each interval between two ticks of a schedule gets one run, at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleTrigger {
    /// When it ticks.
    pub schedule: Schedule,
    /// The earliest start of an interval. Absent: the tick before the DAG was first seen.
    pub start: Option<DateTime<Utc>>,
    /// Whether intervals missed while nothing ran are made up for.
    pub catch_up: bool,
    /// How many of them at most, the latest ones; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_limit: Option<u32>,
}

/// The type of a param.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// True or false.
    Boolean,
    /// A list.
    Array,
    /// A table.
    Object,
}

/// Something a run can be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: ParamType,
    /// Used when the run is not given one; without it the param is required.
    pub default: Option<Value>,
    /// One line for people.
    pub about: String,
}

/// One task of a DAG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDef {
    /// Its name within the DAG.
    pub id: String,
    /// What kind of work it is.
    pub kind: String,
    /// The tasks it comes after.
    pub after: Vec<String>,
    /// How often it is tried again.
    pub retry: RetryPolicy,
    /// The longest an attempt may take.
    pub timeout: Option<Duration>,
    /// When it starts, given how the tasks before it ended.
    pub rule: TriggerRule,
    /// Limits, crashes, lists, and whom to tell.
    #[serde(default, skip_serializing_if = "policy::usual")]
    pub policy: TaskPolicy,
    /// One line for people.
    pub about: String,
    /// The settings of its kind, templates not yet rendered.
    pub settings: Map<String, Value>,
}

impl ParamType {
    /// All types by the name used in DAG files.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("array", Self::Array),
        ("object", Self::Object),
    ];

    /// The name used in DAG files.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("string", |(name, _)| name)
    }

    /// Says whether `value` is of this type.
    pub fn fits(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }

    /// Reads `text`, as given on a command line, as a value of this type.
    ///
    /// # Errors
    /// A fragment saying what was expected, if the text is not of this type.
    pub fn read(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::String => Value::String(text.to_owned()),
            _ => serde_json::from_str(text).map_err(|_| format!("must be {}, not `{text}`", self.article()))?,
        };
        if self.fits(&value) { Ok(value) } else { Err(format!("must be {}, not `{text}`", self.article())) }
    }

    /// The type with its article, for sentences.
    pub(crate) fn article(self) -> &'static str {
        match self {
            Self::String => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

impl Dag {
    /// Returns the task of that name; of the name of one item's task, that of the list.
    pub fn task(&self, id: &str) -> Option<&TaskDef> {
        let id = crate::run::defined(id);
        self.tasks.iter().find(|task| task.id == id)
    }

    /// The tasks directly after a task.
    pub fn after<'d>(&'d self, id: &'d str) -> impl Iterator<Item = &'d TaskDef> {
        self.tasks.iter().filter(move |task| task.after.iter().any(|before| before == id))
    }

    /// Returns a short name for exactly this definition: equal text in, equal revision out.
    pub fn revision(&self) -> String {
        let body = serde_json::to_vec(self).unwrap_or_default();
        let reversed: Vec<u8> = body.iter().rev().copied().collect();
        format!("{:016x}{:016x}", fnv64(&body), fnv64(&reversed))
    }

    /// Returns all params of a run: what it was given, checked, and the defaults of the rest, in declared order.
    ///
    /// # Errors
    /// [`OrchestratorError::Param`] for the first param that is unknown, missing, or of the wrong type.
    pub fn resolve_params(&self, given: &Map<String, Value>) -> Result<Map<String, Value>, OrchestratorError> {
        let trouble = |param: &str, trouble: String, hint: Option<String>| OrchestratorError::Param {
            dag: self.id.clone(),
            param: param.to_owned(),
            trouble,
            hint,
        };
        if let Some(name) = given.keys().find(|name| self.params.iter().all(|param| param.name != **name)) {
            let hint = suggest::hint(name, self.params.iter().map(|param| param.name.as_str()));
            return Err(trouble(name, "is not declared".to_owned(), hint));
        }
        let mut all = Map::new();
        for param in &self.params {
            let Some(value) = given.get(&param.name).or(param.default.as_ref()) else {
                let hint = format!("give it: `--param {}=…`", param.name);
                return Err(trouble(&param.name, "has no default and was not given".to_owned(), Some(hint)));
            };
            if !param.r#type.fits(value) {
                return Err(trouble(&param.name, format!("must be {}, not `{value}`", param.r#type.article()), None));
            }
            all.insert(param.name.clone(), value.clone());
        }
        Ok(all)
    }

    /// Reads params given as text (`--param name=value`) by their declared types and resolves them.
    ///
    /// # Errors
    /// As [`Dag::resolve_params`].
    pub fn read_params(&self, given: &[(String, String)]) -> Result<Map<String, Value>, OrchestratorError> {
        let mut values = Map::new();
        for (name, text) in given {
            let read = match self.params.iter().find(|param| param.name == *name) {
                Some(param) => param.r#type.read(text),
                None => Ok(Value::Null),
            };
            let value = read.map_err(|trouble| OrchestratorError::Param {
                dag: self.id.clone(),
                param: name.clone(),
                trouble,
                hint: None,
            })?;
            values.insert(name.clone(), value);
        }
        self.resolve_params(&values)
    }
}

/// All DAGs of a project, by name.
#[derive(Debug, Clone, Default)]
pub struct Dags {
    by_id: BTreeMap<String, Arc<Dag>>,
}

impl Dags {
    /// Returns the DAG of that name.
    pub fn get(&self, id: &str) -> Option<&Arc<Dag>> {
        self.by_id.get(id)
    }

    /// Returns the DAG of that name.
    ///
    /// # Errors
    /// [`OrchestratorError::UnknownDag`], with the nearest known name.
    pub fn find(&self, id: &str) -> Result<&Arc<Dag>, OrchestratorError> {
        self.get(id).ok_or_else(|| OrchestratorError::UnknownDag {
            dag: id.to_owned(),
            hint: suggest::hint(id, self.by_id.keys().map(String::as_str)),
        })
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Dag>> {
        self.by_id.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl FromIterator<Dag> for Dags {
    fn from_iter<T: IntoIterator<Item = Dag>>(dags: T) -> Self {
        Self { by_id: dags.into_iter().map(|dag| (dag.id.clone(), Arc::new(dag))).collect() }
    }
}
