//! A table's changes as records of a topic, each once.
//!
//! Of a table kept with change data these are rows that are new or changed; of any other one the rows that its versions
//! added, and a version that takes rows away is refused.
//!
//! The topic's publisher keeps the cursor: the table's version it has published up to, in the same step as the records
//! (a SQLite transaction, or a Kafka transaction). Many changes are split into several steps; the cursor then also
//! says how many rows of the range are out, and the rows of a range always come in the same order.
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use datafusion::catalog::TableProvider;
use deltalake::delta_datafusion::DeltaCdfTableProvider;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::error::{Explain, Result, Retry};
use crate::format::avro::Encoder;
use crate::format::json;
use crate::record::NewRecord;
use crate::schema_registry::Registry;
use crate::table::{Table, TableError, TableName};
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
    /// The table: kept with change data, or one that rows are only added to.
    pub table: TableName,
    /// The topic.
    pub topic: String,
    /// How values are written.
    pub values: Values,
    /// A SELECT over `changes`: the table's columns, `_change_type` (`insert` or `update_postimage`) and, of a table kept
    /// with change data, `_commit_version` and `_commit_timestamp`.
    pub sql: String,
    /// The column that gives the record's key.
    pub key: String,
    /// Columns of `sql` that give the order of the records; where they say nothing, the key and all others do.
    pub order: Vec<String>,
}

/// How the values of records are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Values {
    /// As Avro, with the newest schema of this subject.
    Avro {
        /// The subject.
        subject: String,
    },
    /// As one JSON object of all columns but those whose names begin with `_`.
    Json,
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
    let table = engine.existing(&work.table).await?;
    let opened = Opened::of(registry, work).await?;
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
    let (changes, what) = changes(engine, &table, cursor.version, start, end).await?;
    let given = || HashMap::from([(TableName::new("public", "all_changes"), Arc::clone(&changes))]);
    let sql =
        format!("WITH changes AS ({what}) SELECT * FROM ({}) AS published", work.sql.trim().trim_end_matches(';'));
    let columns = engine.query_with(&format!("{sql} LIMIT 0"), given()).await?.schema;
    let mut rows = engine.query_with(&format!("{sql} ORDER BY {}", work.order(&columns)), given()).await?;
    let encoder = opened.encoder(&rows.schema)?;
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
        let keys =
            arrow::compute::cast(batch.column(key), &DataType::Utf8).map_err(|e| work.bad_schema(e.to_string()))?;
        let keys = keys.as_string::<i32>();
        let values = encoder.encode(&batch, work)?;
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

/// What is to be published, and the SELECT that takes new images of it.
async fn changes(
    engine: &Engine,
    table: &Table,
    published: Option<u64>,
    start: u64,
    end: u64,
) -> Result<(Arc<dyn TableProvider>, &'static str)> {
    if table.keeps_changes() {
        let changes = table.delta().clone().scan_cdf().with_starting_version(start).with_ending_version(end);
        let changes = DeltaCdfTableProvider::try_new(changes)
            .map_err(|e| TableError::delta("read the changes of", table.name(), e))?;
        // Old images and deletes are not events.
        return Ok((
            Arc::new(changes),
            "SELECT * FROM public.all_changes WHERE _change_type IN ('insert', 'update_postimage')",
        ));
    }
    // A range that was begun before ends where it ended then.
    let pinned = if end == table.version() { table.clone() } else { engine.lake().table_at(table.name(), end).await? };
    let range = pinned.appended(published, None).await?;
    let session = engine.bare_session();
    let changes = pinned.appended_rows(session.context(), &range)?;
    Ok((changes, "SELECT *, 'insert' AS _change_type FROM public.all_changes"))
}

/// How values are written, with what that needs.
enum Opened<'a> {
    Avro { work: &'a Publish, id: i32, schema: AvroSchema },
    Json,
}

/// Rows to values.
enum Encoding {
    Avro(Encoder),
    /// With the columns that are in the value.
    Json(Vec<usize>),
}

impl<'a> Opened<'a> {
    async fn of(registry: &dyn Registry, work: &'a Publish) -> Result<Self> {
        let Values::Avro { subject } = &work.values else { return Ok(Self::Json) };
        let registered = registry.latest(subject).await?;
        let registered =
            registered.ok_or_else(|| PublishError::NoSchema { topic: work.topic.clone(), subject: subject.clone() })?;
        let schema = AvroSchema::parse_str(&registered.schema).map_err(|e| work.bad_schema(e.to_string()))?;
        Ok(Self::Avro { work, id: registered.id, schema })
    }

    fn encoder(&self, rows: &Schema) -> Result<Encoding> {
        Ok(match self {
            Self::Json => {
                let shown = rows.fields().iter().enumerate().filter(|(_, field)| !field.name().starts_with('_'));
                Encoding::Json(shown.map(|(at, _)| at).collect())
            }
            Self::Avro { work, id, schema } => {
                // Columns that only order the records are no fields.
                let fields = match schema {
                    AvroSchema::Record(record) => record.fields.iter().map(|field| field.name.as_str()).collect(),
                    _ => Vec::new(),
                };
                let extra = rows
                    .fields()
                    .iter()
                    .find(|field| work.order.contains(field.name()) && !fields.contains(&field.name().as_str()));
                if let Some(extra) = extra {
                    return Err(work
                        .bad_schema(format!("`{}` of `order` has to be a field of the schema", extra.name()))
                        .into());
                }
                Encoding::Avro(Encoder::new(schema, rows)?.framed(*id))
            }
        })
    }
}

impl Encoding {
    fn encode(&self, batch: &RecordBatch, work: &Publish) -> Result<Vec<bytes::Bytes>> {
        Ok(match self {
            Self::Avro(encoder) => encoder.encode(batch)?,
            Self::Json(shown) => {
                let batch = batch.project(shown).map_err(|e| work.bad_schema(e.to_string()))?;
                let value = |row| Ok(bytes::Bytes::from(json::to_json(&batch, row)?.to_string()));
                (0..batch.num_rows()).map(value).collect::<Result<_>>()?
            }
        })
    }
}

impl Publish {
    fn bad_schema(&self, why: String) -> PublishError {
        let subject = match &self.values {
            Values::Avro { subject } => subject.clone(),
            Values::Json => self.topic.clone(),
        };
        PublishError::BadSchema { topic: self.topic.clone(), subject, why }
    }

    /// An order that makes a range the same however often it is read: where two rows tie in it, they are the same.
    fn order(&self, columns: &Schema) -> String {
        let mut names: Vec<&str> = self.order.iter().map(String::as_str).collect();
        names.push(&self.key);
        let rest = columns.fields().iter().filter(|field| !matches!(field.data_type(), DataType::Map(..)));
        names.extend(rest.map(|field| field.name().as_str()));
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(*name));
        names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect::<Vec<_>>().join(", ")
    }
}

fn text(cursor: &Cursor) -> String {
    serde_json::to_string(cursor).unwrap_or_default()
}
