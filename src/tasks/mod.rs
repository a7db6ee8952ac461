//! Etl work as orchestrator tasks. [`KINDS`] is the one list: DAG files, `tidemill kinds`, the JSON Schema and "did you
//! mean" all read it. A new kind is one new file and one new line.
mod check;
mod choose;
mod files;
mod generate;
mod http;
mod ingest;
mod load;
mod maintain;
mod models;
mod observe;
mod publish;
mod shell;
mod stream;
mod wait;

use std::sync::Arc;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidemill_etl::table::TableName;
use tidemill_orchestrator::{KeySpec, KindSpec, Outcome, Retry, Shape, Task, TaskContext, TaskError, TaskFactory};

use crate::failure::{Exit, Failure};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(crate) use generate::{DEFAULT as DEFAULT_GENERATOR, Order, generate};
pub(crate) use stream::landings;

/// What a task of ours does; [`Bound`] makes it the orchestrator's.
#[async_trait]
trait Work: Send + Sync {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed>;
}

/// A kind of task: what it accepts, and how it is made of its settings.
struct Kind {
    spec: KindSpec,
    open: fn(&Value) -> Result<Box<dyn Work>, TaskError>,
}

/// Every kind of task.
const KINDS: &[Kind] = &[
    ingest::KIND,
    files::KIND,
    stream::KIND,
    models::KIND,
    check::KIND,
    publish::KIND,
    load::KIND,
    maintain::KIND,
    generate::KIND,
    shell::KIND,
    http::KIND,
    wait::KIND,
    choose::BRANCH,
    choose::CONDITION,
];

/// Makes the tasks of one project.
pub(crate) struct Tasks {
    house: Arc<Lakehouse>,
    metrics: Arc<Metrics>,
    specs: Vec<KindSpec>,
}

impl Tasks {
    pub(crate) fn new(house: Arc<Lakehouse>, metrics: Arc<Metrics>) -> Self {
        Self { house, metrics, specs: specs() }
    }
}

/// What DAG files may say of each kind.
pub(crate) fn specs() -> Vec<KindSpec> {
    KINDS.iter().map(|kind| kind.spec).collect()
}

impl TaskFactory for Tasks {
    fn kinds(&self) -> &[KindSpec] {
        &self.specs
    }

    fn open(&self, kind: &str, settings: &Value) -> Result<Box<dyn Task>, TaskError> {
        let Some(kind) = KINDS.iter().find(|known| known.spec.name == kind) else {
            return Err(TaskError::new("D0007", format!("there is no task kind `{kind}`"), Retry::Never));
        };
        let work = (kind.open)(settings)?;
        Ok(Box::new(Bound { work, house: Arc::clone(&self.house), metrics: Arc::clone(&self.metrics) }))
    }
}

struct Bound {
    work: Box<dyn Work>,
    house: Arc<Lakehouse>,
    metrics: Arc<Metrics>,
}

#[async_trait]
impl Task for Bound {
    async fn run(&self, context: &TaskContext) -> Result<Outcome, TaskError> {
        self.work.run(&self.house, &self.metrics, context).await.map_err(|failed| failed.0)
    }
}

/// How a task of ours fails, from whatever it met.
pub(crate) struct Failed(TaskError);

impl From<tidemill_etl::Error> for Failed {
    fn from(error: tidemill_etl::Error) -> Self {
        Failure::from(error).into()
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        let parts = failure.parts();
        // Settings and files of the project: the same again gives the same again.
        let mut failed = TaskError::new(parts.code, parts.what.clone(), failure.retry());
        failed.place.clone_from(&parts.place);
        failed.why.clone_from(&parts.why);
        failed.fix.clone_from(&parts.fix);
        failed.found_rows = parts.exit == Exit::Found;
        // A task has one failure; further problems of the same step are told as its cause.
        for more in failure.each().skip(1) {
            let said = failed.why.take().map(|why| format!("{why}\n")).unwrap_or_default();
            failed.why = Some(format!("{said}{}", more.what));
        }
        Self(failed)
    }
}

impl From<TaskError> for Failed {
    fn from(error: TaskError) -> Self {
        Self(error)
    }
}

/// Settings of a kind, read into its struct. The DAG file was checked against the kind's keys; what is left is the
/// type of values that came out of templates.
fn read<T: DeserializeOwned>(settings: &Value) -> Result<T, TaskError> {
    serde_json::from_value(settings.clone()).map_err(|error| {
        TaskError::new("D0020", "a setting of the task has the wrong type", Retry::Never)
            .why(error.to_string())
            .fix("see `tidemill kinds` for what each key takes")
    })
}

fn table(name: &str) -> Result<TableName, Failed> {
    name.parse::<TableName>().map_err(|error| tidemill_etl::Error::from(error).into())
}

/// A number as people read it: `8,701`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

const fn key(name: &'static str, shape: Shape, about: &'static str) -> KeySpec {
    KeySpec { name, shape, required: false, about, default: None }
}

const fn required(name: &'static str, shape: Shape, about: &'static str) -> KeySpec {
    KeySpec { name, shape, required: true, about, default: None }
}

const fn with_default(name: &'static str, shape: Shape, about: &'static str, default: &'static str) -> KeySpec {
    KeySpec { name, shape, required: false, about, default: Some(default) }
}
