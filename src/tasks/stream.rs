//! `stream`: topics into tables, exactly once.
//!
//! With `--drain` it lands what is there and ends. Otherwise it waits for records, lands them for `run_for`, and ends,
//! so that the tasks after it can bring models and warehouse up to date; the continuous trigger starts it again.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::{Field, Schema};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_etl::pipeline::body::{OnIncompatible, OnUnknown};
use tidemill_etl::pipeline::{Around, Clock, Landed, Landing, Limits, Progress, Reading, Rule, land};
use tidemill_etl::table::{TableName, parse_type};
use tidemill_orchestrator::dag::parse_duration;
use tidemill_orchestrator::{KindSpec, Outcome, Retry, Shape, TaskContext, TaskError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::observe::Observed;
use super::{Failed, Kind, Work, count, key, read, required, with_default};
use crate::failure::sentence;
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;
use crate::streams::{around, still_paused, until_paused};

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "stream",
        about: "topics into tables `schema.topic`, exactly once; bad records to bronze.dead_letters",
        keys: &[
            required(
                "stream",
                Shape::Text,
                "the stable name under which tables remember how far they are; never change it",
            ),
            required("topics", Shape::ListOfText, "the topics; one that is not there is created"),
            with_default("schema", Shape::Text, "the schema of the tables", "bronze"),
            key(
                "table",
                Shape::Text,
                "the table, as schema.table, where it is not named after its topic; one topic only",
            ),
            key("event_time", Shape::Text, "the field that gives `event_at`, as text or as a timestamp"),
            with_default(
                "event_time_format",
                Shape::Text,
                "how texts are read as event times: iso, or lenient: also 2000-1-14T8:10:41",
                "iso",
            ),
            key(
                "rules",
                Shape::Any,
                "a list of { name, expr }: SQL that is true for good rows; the first that is not makes a dead letter of that reason",
            ),
            key(
                "select",
                Shape::Table,
                "the table's columns as SQL over the record's, asked after the rules; without it, the record's as they are",
            ),
            key(
                "unique_key",
                Shape::ListOfText,
                "columns no two rows share the values of: the first wins, others are dead letters",
            ),
            key("max_rows", Shape::Integer, "rows that close a micro-batch; without it, the setting streams.max_rows"),
            key("linger", Shape::Duration, "how long a micro-batch waits for more; without it, streams.linger_ms"),
            with_default("partitions", Shape::Integer, "partitions of a topic that has to be created", "1"),
            with_default("run_for", Shape::Duration, "how long a run lands records after the first came", "10s"),
            with_default(
                "format",
                Shape::Text,
                "how records are written: avro, json, debezium-json or debezium-avro",
                "avro",
            ),
            key("columns", Shape::Table, "columns by name with their types as `tables show` prints them, for json"),
            with_default(
                "on_unknown",
                Shape::Text,
                "what to do with fields of json that no column has: evolve (add the column), ignore, or dead_letter",
                "evolve",
            ),
            with_default(
                "on_incompatible",
                Shape::Text,
                "what to do with records whose schema contradicts the table: dead_letter, or stop",
                "dead_letter",
            ),
            with_default(
                "on_gap",
                Shape::Text,
                "what to do if retention deleted what was not read: stop, or record",
                "stop",
            ),
            with_default(
                "shared",
                Shape::Boolean,
                "whether several processes share the partitions of the topics (Kafka), each reading its part",
                "false",
            ),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    stream: String,
    topics: Vec<String>,
    #[serde(default = "bronze")]
    schema: String,
    table: Option<String>,
    event_time: Option<String>,
    #[serde(default)]
    event_time_format: TimeFormat,
    #[serde(default)]
    rules: Vec<AuthoredRule>,
    #[serde(default)]
    select: serde_json::Map<String, Value>,
    #[serde(default)]
    unique_key: Vec<String>,
    max_rows: Option<usize>,
    linger: Option<String>,
    #[serde(default = "one")]
    partitions: i32,
    #[serde(default = "ten_seconds")]
    run_for: String,
    #[serde(default = "avro")]
    format: String,
    #[serde(default)]
    columns: serde_json::Map<String, Value>,
    #[serde(default)]
    on_unknown: Unknown,
    #[serde(default)]
    on_incompatible: Incompatible,
    #[serde(default)]
    on_gap: OnGap,
    #[serde(default)]
    shared: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthoredRule {
    name: String,
    expr: String,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum TimeFormat {
    #[default]
    Iso,
    Lenient,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Unknown {
    #[default]
    Evolve,
    Ignore,
    DeadLetter,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Incompatible {
    #[default]
    DeadLetter,
    Stop,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum OnGap {
    #[default]
    Stop,
    Record,
}

fn bronze() -> String {
    "bronze".to_owned()
}

fn avro() -> String {
    "avro".to_owned()
}

fn one() -> i32 {
    1
}

fn ten_seconds() -> String {
    "10s".to_owned()
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    let settings = read::<Settings>(settings)?;
    let wrong = |what: String, fix: &str| TaskError::new("D0116", what, Retry::Never).fix(fix);
    if settings.table.is_some() && settings.topics.len() != 1 {
        return Err(wrong(
            "`table` names one table for several topics".to_owned(),
            "give each topic a task of its own",
        ));
    }
    if settings.shared && !settings.unique_key.is_empty() {
        return Err(wrong(
            "`unique_key` with `shared`: no process knows what the others are writing".to_owned(),
            "let one process work the stream, or leave `unique_key` out",
        ));
    }
    if settings.max_rows == Some(0) {
        return Err(wrong("`max_rows` is 0".to_owned(), "set it to at least 1"));
    }
    for (n, rule) in settings.rules.iter().enumerate() {
        if rule.name.trim().is_empty() || settings.rules.iter().take(n).any(|earlier| earlier.name == rule.name) {
            let what = format!("rule {} has no name of its own: `{}`", n + 1, rule.name);
            return Err(wrong(what, "name each rule for what is wrong with the rows that break it"));
        }
    }
    if let Some((name, _)) = settings.select.iter().find(|(_, sql)| !sql.is_string()) {
        return Err(wrong(
            format!("`select.{name}` is no text"),
            "write it as SQL: `amount = \"CAST(amount AS BIGINT)\"`",
        ));
    }
    Ok(Box::new(settings))
}

/// The landings of a task with these settings, as it runs them with `--drain`.
pub(crate) fn landings(house: &Lakehouse, settings: &Value) -> Result<Vec<Landing>, TaskError> {
    let settings: Settings = read(settings)?;
    let columns = settings.columns().map_err(|failed| failed.0)?;
    let landing = |topic: &String| {
        let landing = settings.landing(house, topic, columns.as_ref(), true).map_err(|failed| failed.0)?;
        Ok(Landing { shared: false, ..landing })
    };
    settings.topics.iter().map(landing).collect()
}

impl Settings {
    /// The columns as they were declared, in their order.
    fn columns(&self) -> Result<Option<Schema>, Failed> {
        if self.columns.is_empty() {
            return Ok(None);
        }
        let mut fields = Vec::new();
        for (name, declared) in &self.columns {
            let text = declared.as_str().map_or_else(|| declared.to_string(), str::to_owned);
            fields.push(Field::new(name, parse_type(&text).map_err(tidemill_etl::Error::from)?, true));
        }
        Ok(Some(Schema::new(fields)))
    }

    fn table(&self, topic: &str) -> Result<TableName, Failed> {
        match &self.table {
            Some(name) => super::table(name),
            None => Ok(TableName::new(&self.schema, topic)),
        }
    }

    fn landing(
        &self,
        house: &Lakehouse,
        topic: &str,
        columns: Option<&Schema>,
        drain: bool,
    ) -> Result<Landing, Failed> {
        let streams = &house.project.settings.streams;
        let linger = match &self.linger {
            None => streams.linger,
            Some(text) => parse_duration(text)
                .map_err(|why| TaskError::new("D0020", "`linger` is not a duration", Retry::Never).why(why))?,
        };
        Ok(Landing {
            stream: self.stream.clone(),
            topic: topic.to_owned(),
            table: self.table(topic)?,
            format: self.format.clone(),
            subject: house.subject(topic),
            on_incompatible: match self.on_incompatible {
                Incompatible::DeadLetter => OnIncompatible::DeadLetter,
                Incompatible::Stop => OnIncompatible::Stop,
            },
            columns: columns.cloned(),
            on_unknown: match self.on_unknown {
                Unknown::Evolve => OnUnknown::Evolve,
                Unknown::Ignore => OnUnknown::Ignore,
                Unknown::DeadLetter => OnUnknown::DeadLetter,
            },
            event_time: self.event_time.clone(),
            reading: match self.event_time_format {
                TimeFormat::Iso => Reading::Iso,
                TimeFormat::Lenient => Reading::Lenient,
            },
            rules: self.rules.iter().map(|rule| Rule { name: rule.name.clone(), expr: rule.expr.clone() }).collect(),
            select: self
                .select
                .iter()
                .filter_map(|(name, sql)| Some((name.clone(), sql.as_str()?.to_owned())))
                .collect(),
            unique_key: self.unique_key.clone(),
            zone: streams.timestamps_without_zone,
            limits: Limits {
                rows: self.max_rows.unwrap_or(streams.max_rows),
                bytes: usize::try_from(streams.max_bytes.0).unwrap_or(usize::MAX),
                linger,
            },
            drain,
            record_gaps: self.on_gap == OnGap::Record,
            shared: self.shared,
        })
    }
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let run_for = parse_duration(&self.run_for)
            .map_err(|why| TaskError::new("D0020", "`run_for` is not a duration", Retry::Never).why(why))?;
        let columns = self.columns()?;
        let around = around(house).await?;
        if still_paused(&around.lake, &self.stream, context).await? {
            return Ok(Outcome::done("paused").with(json!({ "rows": 0, "dead_letters": 0 })));
        }
        let mut observed: Vec<Observed> = self.topics.iter().map(|topic| Observed::new(&self.stream, topic)).collect();
        let stop = context.cancel.child_token();
        let mut landings: JoinSet<(String, tidemill_etl::Result<Landed>)> = JoinSet::new();
        for Observed { topic, progress, .. } in &observed {
            around.broker.create(topic, self.partitions).await?;
            let landing = self.landing(house, topic, columns.as_ref(), context.drain)?;
            let (around, progress, stop) = (around.clone(), Arc::clone(progress), stop.clone());
            landings.spawn(async move {
                let landed = land(&around, &landing, &progress, &stop).await;
                if landed.is_err() {
                    // One topic that cannot go on ends the run; the others commit what they have.
                    stop.cancel();
                }
                (landing.topic, landed)
            });
        }
        let pausing = async {
            until_paused(&around.lake, &self.stream).await;
            context.log.line(format!("{} was paused", self.stream));
            stop.cancel();
            std::future::pending::<Infallible>().await
        };
        let look = lag(&around, &observed);
        let watch = watch(&mut observed, metrics, &around.clock, &stop, run_for, context);
        let gather = async {
            let mut all = Vec::new();
            while let Some(joined) = landings.join_next().await {
                all.push(joined);
            }
            all
        };
        let all = tokio::select! {
            all = gather => all,
            never = watch => match never {},
            never = look => match never {},
            never = pausing => match never {},
        };
        for one in &mut observed {
            one.tell(metrics, (around.clock)().timestamp_millis());
        }
        let mut rows = 0;
        let mut dead = 0;
        let mut failed = None;
        for joined in all {
            match joined {
                Ok((topic, Ok(landed))) => {
                    rows += landed.rows;
                    dead += landed.dead;
                    metrics.rows(&self.table(&topic)?.to_string(), landed.rows);
                    if landed.commits > 0 {
                        context.log.line(format!(
                            "{topic}: {} rows, {} dead letters in {} commits",
                            count(landed.rows),
                            count(landed.dead),
                            landed.commits
                        ));
                    }
                }
                Ok((topic, Err(error))) => {
                    context.log.line(format!("{topic}: {}", sentence(&error.to_string())));
                    failed.get_or_insert(Failed::from(error));
                }
                Err(panic) => {
                    let bug = TaskError::new("X0001", "landing ended by itself", Retry::Later);
                    failed.get_or_insert(bug.why(panic.to_string()).into());
                }
            }
        }
        metrics.dead_letters("stream", dead);
        if let Some(failed) = failed {
            return Err(failed);
        }
        let summary = match dead {
            0 => format!("{} rows landed", count(rows)),
            _ => format!("{} rows landed, {} dead letters", count(rows), count(dead)),
        };
        Ok(Outcome::done(summary).with(json!({ "rows": rows, "dead_letters": dead })))
    }
}

/// How often the lag is looked at, and told to the broker for its tools.
const LOOK: Duration = Duration::from_secs(5);

/// Reports how far the landings are, and ends them `run_for` after the first commit unless they drain.
async fn watch(
    observed: &mut [Observed],
    metrics: &Metrics,
    clock: &Clock,
    stop: &CancellationToken,
    run_for: Duration,
    context: &TaskContext,
) -> Infallible {
    let mut first = None;
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let sum = |of: fn(&Progress) -> &AtomicU64| -> u64 {
            observed.iter().map(|one| of(&one.progress).load(Ordering::Relaxed)).sum()
        };
        context.progress.report(sum(|progress| &progress.rows), None, "rows");
        let commits = sum(|progress| &progress.commits);
        for one in observed.iter_mut() {
            one.tell(metrics, clock().timestamp_millis());
        }
        if commits > 0 && !context.drain {
            let since = first.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= run_for {
                stop.cancel();
            }
        }
    }
}

/// Looks from time to time how far the topics go beyond what is committed. A broker that cannot be asked now is asked
/// again: landing itself says what is wrong with it.
fn lag(around: &Around, observed: &[Observed]) -> impl Future<Output = Infallible> + use<> {
    let broker = Arc::clone(&around.broker);
    let landings: Vec<(String, String, Arc<Progress>)> =
        observed.iter().map(|one| (one.stream.clone(), one.topic.clone(), Arc::clone(&one.progress))).collect();
    async move {
        loop {
            tokio::time::sleep(LOOK).await;
            for (stream, topic, progress) in &landings {
                let positions = progress.positions();
                if positions.is_empty() {
                    continue;
                }
                broker.note(&format!("tidemill-{stream}"), &positions).await;
                if let Ok(bounds) = broker.bounds(topic).await {
                    progress.look(&bounds);
                }
            }
        }
    }
}
