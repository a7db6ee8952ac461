//! A table's changes as records of a topic, each once.
//!
//! The topic's publisher keeps the cursor: the table's version it has published up to, in the same step as the records
//! (a SQLite transaction, or a Kafka transaction). Many changes are split into several steps; the cursor then also
//! says how many rows of the range are out, and the rows of a range always come in the same order.
use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::{Array, AsArray};
use datafusion::catalog::TableProvider;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::error::{Explain, Result, Retry};
use crate::format::avro::Encoder;
use crate::record::NewRecord;
use crate::schema_registry::Registry;
use crate::table::{TableError, TableName};
use crate::topic::Broker;

/// Rows that go out in one step.
const STEP: usize = 20_000;

/// A failure to publish.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject has no schema to encode with.
    #[error("publish to `{topic}`: the subject `{subject}` has no schema")]
    NoSchema {
        /// The topic.
        topic: String,
        /// The subject.
        subject: String,
    },
    /// The schema is not Avro.
    #[error("publish to `{topic}`: the schema of `{subject}` cannot be used")]
    BadSchema {
        /// The topic.
        topic: String,
        /// The subject.
        subject: String,
        /// Why not.
        why: String,
    },
    /// The key column is not in the SELECT.
    #[error("publish to `{topic}`: there is no column `{key}` for the key")]
    NoKey {
        /// The topic.
        topic: String,
        /// The column.
        key: String,
    },
    /// The cursor in the topic cannot be read.
    #[error("publish to `{topic}`: its cursor cannot be read")]
    Cursor {
        /// The topic.
        topic: String,
        /// Why not.
        why: String,
    },
}

impl Explain for PublishError {
    fn code(&self) -> &'static str {
        match self {
            Self::NoSchema { .. } => "K0101",
            Self::BadSchema { .. } => "K0102",
            Self::NoKey { .. } => "K0103",
            Self::Cursor { .. } => "K0104",
        }
    }

    fn retry(&self) -> Retry {
        Retry::AfterPerson
    }

    fn why(&self) -> Option<String> {
        match self {
            Self::BadSchema { why, .. } | Self::Cursor { why, .. } => Some(why.clone()),
            _ => None,
        }
    }

    fn fix(&self) -> Option<String> {
        match self {
            Self::NoSchema { subject, .. } => Some(format!("register one: `tidemill schemas add {subject} FILE`")),
            Self::NoKey { .. } => Some("name a column of the task's `sql` as `key`".to_owned()),
            _ => None,
        }
    }
}

/// What is published.
pub struct Publish {
    /// The stable name: the publisher's identity.
    pub name: String,
    /// The table, kept with change data.
    pub table: TableName,
    /// The topic.
    pub topic: String,
    /// The subject whose newest schema the records are written with.
    pub subject: String,
    /// A SELECT over `changes`: the table's columns, `_change_type` (`insert` or `update_postimage`),
    /// `_commit_version` and `_commit_timestamp`.
    pub sql: String,
    /// The column that gives the record's key.
    pub key: String,
}

/// What publishing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Records written now.
    pub records: u64,
    /// The table's version that is out.
    pub version: u64,
}

/// The publisher's cursor, as JSON in its progress.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
struct Cursor {
    /// The table's own id: a table made anew is published anew.
    table: String,
    /// Versions up to here are out, whole.
    version: Option<u64>,
    /// A range being published: its last version, and how many of its rows are out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<(u64, u64)>,
}

/// Publishes what the table has and the topic does not.
///
/// # Errors
/// [`PublishError`] if schema, key or stored progress do not fit; the failures of the table, the query and the broker.
/// What was committed before stays out, and the next call goes on behind it.
pub async fn publish(
    engine: &Engine,
    broker: &dyn Broker,
    registry: &dyn Registry,
    work: &Publish,
    stop: &CancellationToken,
) -> Result<Published> {
    let table = engine.lake().table(&work.table).await?;
    let registered = registry
        .latest(&work.subject)
        .await?
        .ok_or_else(|| PublishError::NoSchema { topic: work.topic.clone(), subject: work.subject.clone() })?;
    let bad_schema =
        |why: String| PublishError::BadSchema { topic: work.topic.clone(), subject: work.subject.clone(), why };
    let schema = AvroSchema::parse_str(&registered.schema).map_err(|e| bad_schema(e.to_string()))?;
    broker.create(&work.topic, 1).await?;
    let mut publisher = broker.publisher(&work.name).await?;
    let mut cursor = match publisher.progress() {
        None => Cursor { table: table.id(), version: None, open: None },
        Some(text) => serde_json::from_str(text)
            .map_err(|e| PublishError::Cursor { topic: work.topic.clone(), why: e.to_string() })?,
    };
    if cursor.table != table.id() {
        cursor = Cursor { table: table.id(), version: None, open: None };
    }
    let (end, mut done) = cursor.open.unwrap_or((table.version(), 0));
    let start = cursor.version.map_or(0, |version| version + 1);
    if start > end {
        return Ok(Published { records: 0, version: end });
    }
    let changes = table.delta().clone().scan_cdf().with_starting_version(start).with_ending_version(end);
    let changes = DeltaCdfTableProvider::try_new(changes)
        .map_err(|e| TableError::delta("read the changes of", &work.table, e))?;
    let changes: Arc<dyn TableProvider> = Arc::new(changes);
    let tables = HashMap::from([(TableName::new("public", "all_changes"), changes)]);
    // Old images and deletes are not events; the order makes a range the same however often it is read.
    let sql = format!(
        "WITH changes AS (SELECT * FROM public.all_changes WHERE _change_type IN ('insert', 'update_postimage')) \
         SELECT * FROM ({}) AS published ORDER BY \"{}\"",
        work.sql.trim().trim_end_matches(';'),
        work.key.replace('"', "\"\"")
    );
    let mut rows = engine.query_with(&sql, tables).await?;
    let encoder = Encoder::new(&schema, &rows.schema)?.framed(registered.id);
    let key = rows
        .schema
        .index_of(&work.key)
        .map_err(|_| PublishError::NoKey { topic: work.topic.clone(), key: work.key.clone() })?;
    let mut records = 0;
    let mut seen = 0;
    let mut staged = 0;
    while let Some(batch) = rows.next().await? {
        let already = usize::try_from(done.saturating_sub(seen)).unwrap_or(usize::MAX).min(batch.num_rows());
        seen += already as u64;
        let batch = batch.slice(already, batch.num_rows() - already);
        if batch.num_rows() == 0 {
            continue;
        }
        let keys = arrow::compute::cast(batch.column(key), &arrow::datatypes::DataType::Utf8)
            .map_err(|e| bad_schema(e.to_string()))?;
        let keys = keys.as_string::<i32>();
        let values = encoder.encode(&batch)?;
        let new: Vec<NewRecord> = values
            .into_iter()
            .enumerate()
            .map(|(row, value)| NewRecord {
                key: keys.is_valid(row).then(|| bytes::Bytes::copy_from_slice(keys.value(row).as_bytes())),
                value: Some(value),
                ..NewRecord::default()
            })
            .collect();
        staged += new.len();
        publisher.stage(&work.topic, new).await?;
        seen += batch.num_rows() as u64;
        if staged >= STEP {
            done = seen;
            cursor.open = Some((end, done));
            publisher.commit(&text(&cursor)).await?;
            records += staged as u64;
            staged = 0;
            if stop.is_cancelled() {
                return Ok(Published { records, version: cursor.version.unwrap_or_default() });
            }
        }
    }
    cursor.version = Some(end);
    cursor.open = None;
    publisher.commit(&text(&cursor)).await?;
    Ok(Published { records: records + staged as u64, version: end })
}

fn text(cursor: &Cursor) -> String {
    serde_json::to_string(cursor).unwrap_or_default()
}
