//! Debezium's envelopes in Avro, in Confluent's frame.
//!
//! The envelope is read as any other Avro record, into columns of its own: `before`, `after` and `message` with the same
//! members, and what there is beside them. When rows are handed out, those of the right one are taken.
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray, RecordBatch, StructArray};
use arrow::compute::{cast, kernels::zip::zip};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;

use super::avro::{Avro, Reading};
use super::debezium::{columns_of, finish, row_columns};
use super::{Blocked, Body, BodySettings, Refused, Taken};
use crate::error::Result;
use crate::format::debezium::{Event, Meta};
use crate::format::{SchemaError, avro};
use crate::pipeline::LandingError;
use crate::record::Record;

/// The members of an envelope that have a row each.
const ROWS: [&str; 3] = ["before", "after", "message"];

const ENVELOPE: Reading = Reading { parse, columns: envelope_columns };

struct DebeziumAvro {
    topic: String,
    envelopes: Avro,
    columns: SchemaRef,
}

/// Opens the body with the columns of the table and of all versions of the subject, if there are any yet.
pub(super) async fn open(mut settings: BodySettings) -> Result<Box<dyn Body>> {
    let rows = settings.there.take().map(|there| row_columns(there.fields()));
    settings.there = rows.filter(|rows| !rows.is_empty()).map(|rows| Schema::new(envelope(&rows)));
    let topic = settings.topic.clone();
    let envelopes = Avro::open(settings, ENVELOPE).await?;
    let columns = columns_of(&rows_of(envelopes.columns()));
    Ok(Box::new(DebeziumAvro { topic, envelopes, columns }))
}

/// The columns of an envelope around rows of these.
fn envelope(rows: &Fields) -> Vec<FieldRef> {
    let row = DataType::Struct(rows.clone());
    ROWS.iter().map(|name| Arc::new(Field::new(*name, row.clone(), true))).collect()
}

/// The columns of rows, from those of their envelopes.
fn rows_of(envelope: &Schema) -> Fields {
    match envelope.field_with_name("after").map(Field::data_type) {
        Ok(DataType::Struct(rows)) => rows.clone(),
        _ => Fields::empty(),
    }
}

/// Parses a schema whose types have the names that Kafka Connect gives them; where Avro has a name for the same, it is added.
fn parse(text: &str) -> std::result::Result<AvroSchema, String> {
    let mut schema: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    name_types(&mut schema);
    AvroSchema::parse(&schema).map_err(|error| error.to_string())
}

fn name_types(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Array(all) => all.iter_mut().for_each(name_types),
        serde_json::Value::Object(members) => {
            let text = |key: &str| members.get(key).and_then(serde_json::Value::as_str);
            let logical = match (text("type"), text("connect.name")) {
                (Some("int"), Some("io.debezium.time.Date")) => Some("date"),
                (Some("int"), Some("io.debezium.time.Time")) => Some("time-millis"),
                (Some("long"), Some("io.debezium.time.MicroTime")) => Some("time-micros"),
                (Some("long"), Some("io.debezium.time.Timestamp")) => Some("local-timestamp-millis"),
                (Some("long"), Some("io.debezium.time.MicroTimestamp")) => Some("local-timestamp-micros"),
                (Some("long"), Some("io.debezium.time.NanoTimestamp")) => Some("local-timestamp-nanos"),
                _ => None,
            };
            if let Some(logical) = logical {
                members.insert("logicalType".to_owned(), logical.into());
            }
            members.values_mut().for_each(name_types);
        }
        _ => {}
    }
}

/// The columns of the envelope that are read: its rows, and what says when and where the change was.
fn envelope_columns(schema: &AvroSchema) -> std::result::Result<Schema, SchemaError> {
    let all = avro::arrow_schema(schema)?;
    let member = |name: &str| all.field_with_name(name).ok().map(|field| field.data_type().clone());
    let row = ["after", "before", "message"].iter().find_map(|name| match member(name) {
        Some(DataType::Struct(rows)) => Some(rows),
        _ => None,
    });
    let (Some(row), Some(DataType::Utf8)) = (row, member("op")) else {
        return Err(SchemaError::Unsupported {
            path: "after".to_owned(),
            found: "something else".to_owned(),
            why: "the schema is not that of a Debezium envelope",
        });
    };
    let mut fields = envelope(&row);
    for field in all.fields().iter().filter(|field| ["op", "source", "transaction"].contains(&field.name().as_str())) {
        fields.push(Arc::clone(field));
    }
    Ok(Schema::new(fields))
}

impl DebeziumAvro {
    fn rows(&self, envelopes: &RecordBatch) -> std::result::Result<RecordBatch, ArrowError> {
        let op = envelopes.column_by_name("op").map(|op| op.as_string::<i32>().clone());
        let is = |wanted: &str| -> BooleanArray {
            (0..envelopes.num_rows())
                .map(|row| Some(op.as_ref().is_some_and(|op| op.is_valid(row) && op.value(row) == wanted)))
                .collect()
        };
        let (deleted, message) = (is("d"), is("m"));
        let part = |name: &str| envelopes.column_by_name(name).and_then(|part| part.as_struct_opt());
        let mut columns: Vec<ArrayRef> = Vec::new();
        if let (Some(before), Some(after), Some(said)) = (part("before"), part("after"), part("message")) {
            for ((before, after), said) in before.columns().iter().zip(after.columns()).zip(said.columns()) {
                columns.push(zip(&message, said, &zip(&deleted, before, after)?)?);
            }
        }
        let mut meta = Meta::default();
        for event in events(envelopes)? {
            meta.push(event);
        }
        let rows = rows_of(envelopes.schema_ref());
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(envelopes.num_rows()));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::new(rows)), columns, &options)?;
        finish(&rows, &mut meta, &self.columns)
    }
}

/// What each envelope says beside its row.
fn events(envelopes: &RecordBatch) -> std::result::Result<Vec<Event>, ArrowError> {
    let mut events = vec![Event::default(); envelopes.num_rows()];
    let texts = |parts: &StructArray| -> std::result::Result<Vec<(String, ArrayRef)>, ArrowError> {
        let plain = |(name, column): (&str, &ArrayRef)| {
            (!column.data_type().is_nested()).then(|| Ok((name.to_owned(), cast(column, &DataType::Utf8)?)))
        };
        parts.column_names().into_iter().zip(parts.columns()).filter_map(plain).collect()
    };
    let value = |column: &ArrayRef, row: usize| {
        let column = column.as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    if let Some(op) = envelopes.column_by_name("op") {
        for (row, event) in events.iter_mut().enumerate() {
            event.op = value(op, row).unwrap_or_default();
        }
    }
    if let Some(source) = envelopes.column_by_name("source").and_then(|source| source.as_struct_opt()) {
        for (name, column) in texts(source)? {
            for (row, event) in events.iter_mut().enumerate() {
                event.source.set(&name, value(&column, row));
            }
        }
    }
    if let Some(transaction) = envelopes.column_by_name("transaction").and_then(|part| part.as_struct_opt()) {
        for (_, column) in texts(transaction)?.iter().filter(|(name, _)| name == "id") {
            for (row, event) in events.iter_mut().enumerate() {
                event.transaction = value(column, row);
            }
        }
    }
    Ok(events)
}

#[async_trait]
impl Body for DebeziumAvro {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn open_ended(&self) -> bool {
        true
    }

    async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked> {
        let before = Arc::clone(self.envelopes.columns());
        let prepared = self.envelopes.prepare(records).await;
        if !Arc::ptr_eq(&before, self.envelopes.columns()) {
            self.columns = columns_of(&rows_of(self.envelopes.columns()));
        }
        prepared
    }

    fn read(&mut self, record: &Record) -> std::result::Result<Taken, Refused> {
        if record.value.is_none() { Ok(Taken::Nothing) } else { self.envelopes.read(record) }
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        let envelopes = self.envelopes.flush()?;
        let rows = self.rows(&envelopes);
        Ok(rows.map_err(|source| LandingError::Arrow { topic: self.topic.clone(), source })?)
    }
}
