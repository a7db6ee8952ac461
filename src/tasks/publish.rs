//! `publish`: a table's changes as records of a topic, each once.
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;
use tidemill_etl::publish::{Publish, Values, publish};
use tidemill_orchestrator::{KindSpec, Outcome, Shape, TaskContext, TaskError};

use super::{Failed, Kind, Work, count, key, read, required, table, with_default};
use crate::lakehouse::Lakehouse;
use crate::metrics::Metrics;

pub(super) const KIND: Kind = Kind {
    spec: KindSpec {
        name: "publish",
        about: "rows that are new or changed in a table, as records of a topic, each once",
        keys: &[
            required("table", Shape::Text, "the table, as schema.table"),
            required("topic", Shape::Text, "the topic; created if it is not there"),
            required("key", Shape::Text, "the column of `sql` that gives the record's key"),
            required("sql", Shape::Text, "a SELECT over `changes` that gives the fields of the topic's schema"),
            with_default(
                "format",
                Shape::Text,
                "how values are written: avro, or json: one object without columns that begin with _",
                "avro",
            ),
            key("order", Shape::ListOfText, "columns of `sql` that give the order of the records; without it, the key"),
            key("name", Shape::Text, "the stable name of this publisher; without it, DAG.TASK"),
        ],
    },
    open,
};

#[derive(Deserialize)]
struct Settings {
    table: String,
    topic: String,
    key: String,
    sql: String,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    order: Vec<String>,
    name: Option<String>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Avro,
    Json,
}

fn open(settings: &Value) -> Result<Box<dyn Work>, TaskError> {
    Ok(Box::new(read::<Settings>(settings)?))
}

#[async_trait]
impl Work for Settings {
    async fn run(&self, house: &Lakehouse, metrics: &Metrics, context: &TaskContext) -> Result<Outcome, Failed> {
        let work = Publish {
            name: self.name.clone().unwrap_or_else(|| format!("{}.{}", context.dag, context.task)),
            table: table(&self.table)?,
            topic: self.topic.clone(),
            values: match self.format {
                Format::Avro => Values::Avro { subject: house.subject(&self.topic) },
                Format::Json => Values::Json,
            },
            sql: self.sql.clone(),
            key: self.key.clone(),
            order: self.order.clone(),
        };
        let broker = house.broker().await?;
        let registry = house.registry().await?;
        let done = publish(house.engine().await?, broker.as_ref(), registry.as_ref(), &work, &context.cancel).await?;
        metrics.published(&self.topic, done.records);
        let summary = match done.records {
            0 => format!("nothing new for {}", self.topic),
            records => format!("{} events to {}", count(records), self.topic),
        };
        Ok(Outcome::done(summary).with(serde_json::to_value(done).unwrap_or_default()))
    }
}
