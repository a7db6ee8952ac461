//! The contract for every kind, and what only one of them can meet.
mod avro;
mod debezium;
mod json;

use std::sync::Arc;

use arrow::datatypes::Schema;
use object_store::memory::InMemory;
use object_store::path::Path;

use super::{Body, BodySettings, KINDS, OnIncompatible, OnUnknown, open};
use crate::position::TopicPartition;
use crate::record::Record;
use crate::schema_registry::{EmbeddedRegistry, Registry};

/// The kinds of which a file here has the records for the contract.
const COVERED: &[&str] = &["avro", "json", "debezium-json", "debezium-avro"];

#[test]
fn every_kind_is_tested() {
    let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(kinds, COVERED);
}

fn registry() -> Arc<dyn Registry> {
    Arc::new(EmbeddedRegistry::open(Arc::new(InMemory::new()), Path::from("_schemas")))
}

fn settings(registry: &Arc<dyn Registry>) -> BodySettings {
    BodySettings {
        topic: "events".to_owned(),
        subject: "events-value".to_owned(),
        registry: Arc::clone(registry),
        there: None,
        zone: chrono_tz::UTC,
        on_incompatible: OnIncompatible::DeadLetter,
        declared: None,
        on_unknown: OnUnknown::Evolve,
    }
}

/// Records of two partitions in the order in which they are read.
fn records(values: impl IntoIterator<Item = Option<Vec<u8>>>) -> Vec<Record> {
    let record = |(offset, value): (i64, Option<Vec<u8>>)| Record {
        partition: TopicPartition::new("events", i32::from(offset % 2 == 1)).into(),
        offset: offset / 2,
        timestamp_ms: offset,
        key: None,
        value: value.map(Into::into),
        headers: Vec::new(),
    };
    (0..).zip(values).map(record).collect()
}

/// Lands the records in one micro-batch: the rows as JSON, and why others are none.
async fn landed(body: &mut dyn Body, records: &[Record]) -> (Vec<serde_json::Value>, Vec<String>) {
    body.prepare(records).await.unwrap();
    let mut refused = Vec::new();
    for record in records {
        if let Err(why) = body.read(record) {
            refused.push(format!("{}: {}", why.reason, why.detail));
        }
    }
    let rows = body.flush().unwrap();
    ((0..rows.num_rows()).map(|row| crate::format::json::to_json(&rows, row).unwrap()).collect(), refused)
}

/// The columns by name, as `tables show` prints them.
fn columns(schema: &Schema) -> Vec<String> {
    let shown = |field: &Arc<arrow::datatypes::Field>| {
        format!("{} {}", field.name(), crate::table::type_name(field.data_type()))
    };
    schema.fields().iter().map(shown).collect()
}
