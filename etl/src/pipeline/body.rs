//! What the values of a topic's records are: one kind per way of writing them.
//!
//! A [`Body`] turns the value of one record into one row of the record's own columns; [`super::Decoder`] adds what
//! every landed row has (place, key, event time) and makes dead letters of what a body refuses. [`KINDS`] is the one
//! list: the setting `format` of a stream, `tidemill kinds` and the docs read it. A new kind is one file and one line.
mod avro;
mod debezium;
mod debezium_avro;
mod debezium_json;
mod json;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use chrono_tz::Tz;

use crate::error::{Error, Result};
pub use crate::format::json::OnUnknown;
use crate::record::Record;
use crate::schema_registry::Registry;

/// What a body is opened with.
pub struct BodySettings {
    /// The topic.
    pub topic: String,
    /// The subject of its values in the registry.
    pub subject: String,
    /// Where schemas are found by id.
    pub registry: Arc<dyn Registry>,
    /// The table's own columns if there is a table already, without those that landing adds.
    pub there: Option<Schema>,
    /// What times without an offset mean.
    pub zone: Tz,
    /// What to do with records whose schema contradicts the table's columns.
    pub on_incompatible: OnIncompatible,
    /// Columns that somebody declared, for ways of writing that name no types.
    pub declared: Option<Schema>,
    /// What to do with fields that no column has, where nothing but the records says which there are.
    pub on_unknown: OnUnknown,
}

/// What to do with records whose schema contradicts the table's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnIncompatible {
    /// Each is a dead letter; records of other schemas go on.
    #[default]
    DeadLetter,
    /// The stream stops until a person has decided.
    Stop,
}

/// Reads the values of a topic's records into columns.
///
/// Contract:
/// 1. `prepare` is called with a micro-batch before its records are read, while no row is held. Only there may
///    [`Body::columns`] grow, and it only grows: a column never goes away or changes its type, but that a struct in it
///    may get more members.
/// 2. `read` appends one row, or nothing. What it refuses costs no other record anything.
/// 3. The same records after the same columns give the same rows, whatever the cuts between micro-batches.
#[async_trait]
pub trait Body: Send {
    /// The record's own columns as they are known now.
    fn columns(&self) -> &SchemaRef;

    /// Whether any record may bring further columns, so that one that is not there yet may still come.
    fn open_ended(&self) -> bool {
        false
    }

    /// Gets ready for these records: asks for schemas not seen before, and adds the columns they bring.
    ///
    /// # Errors
    /// [`Blocked`] if a record has to wait for something that cannot be asked now; those before it can be read.
    async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked>;

    /// Appends the record's value as a row.
    ///
    /// # Errors
    /// [`Refused`] says why it is no row; then nothing was appended.
    fn read(&mut self, record: &Record) -> std::result::Result<Taken, Refused>;

    /// Hands out the rows read since the last flush, in their order.
    ///
    /// # Errors
    /// If the columns do not form a batch, which is a fault of this program.
    fn flush(&mut self) -> Result<RecordBatch>;
}

/// The record at `index` cannot be read yet.
#[derive(Debug)]
pub struct Blocked {
    /// Its index among the records handed in.
    pub index: usize,
    /// What it waits for. [`Retry::Later`](crate::Retry) means that trying again can help.
    pub error: Error,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A row, written with this schema if there is one.
    Row(Option<i32>),
    /// It says nothing that a row could hold, and that is no fault: the tombstone after a deletion, a heartbeat.
    Nothing,
}

/// Why a record is no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// One word to count by.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub detail: String,
    /// The writer's schema, where the record names one.
    pub schema_id: Option<i32>,
}

impl Refused {
    /// A refusal of a record that names no schema.
    pub fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), schema_id: None }
    }
}

/// A way of writing records.
pub struct BodyKind {
    /// What `format` says.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    open: fn(BodySettings) -> Opening,
}

type Opening = futures::future::BoxFuture<'static, Result<Box<dyn Body>>>;

/// Every way of writing records.
pub const KINDS: &[BodyKind] = &[
    BodyKind {
        name: "avro",
        about: "Avro in Confluent's frame, each record by the schema it was written with",
        open: |settings| Box::pin(avro::open(settings)),
    },
    BodyKind {
        name: "json",
        about: "one JSON object per record; columns are declared, or come from the records",
        open: |settings| Box::pin(async move { json::open(&settings) }),
    },
    BodyKind {
        name: "debezium-json",
        about: "changes of a database as Debezium writes them in JSON, with the schema in each record or without",
        open: |settings| Box::pin(async move { debezium_json::open(&settings) }),
    },
    BodyKind {
        name: "debezium-avro",
        about: "changes of a database as Debezium writes them in Avro, in Confluent's frame",
        open: |settings| Box::pin(debezium_avro::open(settings)),
    },
];

/// Opens the body of kind `name`; `None` if there is no such kind.
///
/// # Errors
/// What the kind needs before the first record, such as a schema in the registry.
pub async fn open(name: &str, settings: BodySettings) -> Option<Result<Box<dyn Body>>> {
    let kind = KINDS.iter().find(|kind| kind.name == name)?;
    Some((kind.open)(settings).await)
}

#[cfg(test)]
mod tests;
