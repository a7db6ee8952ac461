//! Debezium's envelopes in JSON, with the schema beside the payload or without one.
//!
//! A schema counts from the first record that it makes a row: as everywhere, a record that is refused brings no columns.
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, Schema, SchemaRef};
use async_trait::async_trait;

use super::debezium::{columns_of, finish, row_columns};
use super::json::starting_columns;
use super::{Blocked, Body, BodySettings, OnIncompatible, OnUnknown, Refused, Taken};
use crate::error::Result;
use crate::format::SchemaError;
use crate::format::debezium::{Connect, Envelope, Meta, Unreadable, meta_fields, of_envelope};
use crate::format::json::{Growing, Malformed, Plan};
use crate::pipeline::LandingError;
use crate::pipeline::decode::META_COLUMNS;
use crate::position::Offset;
use crate::record::Record;
use crate::table::grown;

/// Schemas are remembered up to this many from one micro-batch to the next. A connector makes a new one only when its
/// table changes.
const REMEMBERED: usize = 1_000;

/// A schema that came beside a payload.
struct Writer {
    /// As it was written.
    text: String,
    /// What its rows are, or why they cannot be rows of the table.
    rows: std::result::Result<Connect, String>,
    /// How they fill the columns.
    plan: Option<Plan>,
}

struct DebeziumJson {
    topic: String,
    on_incompatible: OnIncompatible,
    on_unknown: OnUnknown,
    rows: Growing,
    columns: SchemaRef,
    meta: Meta,
    writers: Vec<Writer>,
    /// The place among the writers of the last one that was met.
    last: usize,
    /// Rows without a schema that are read in another form than their own, by partition and offset.
    instead: HashMap<(i32, Offset), Vec<u8>>,
}

/// Opens the body with the columns of the table and the declared ones.
pub(super) fn open(settings: &BodySettings) -> Result<Box<dyn Body>> {
    let start = row_columns(starting_columns(settings)?.fields());
    let meta = meta_fields();
    let reserved: Vec<&str> = META_COLUMNS.into_iter().chain(meta.iter().map(|field| field.name().as_str())).collect();
    let rows = Growing::new(Arc::new(Schema::new(start)), settings.on_unknown, settings.zone)?.reserving(&reserved);
    Ok(Box::new(DebeziumJson {
        topic: settings.topic.clone(),
        on_incompatible: settings.on_incompatible,
        on_unknown: settings.on_unknown,
        columns: columns_of(rows.schema().fields()),
        rows,
        meta: Meta::default(),
        writers: Vec::new(),
        last: 0,
        instead: HashMap::new(),
    }))
}

impl From<Unreadable> for Refused {
    fn from(unreadable: Unreadable) -> Self {
        Self::new(unreadable.word(), unreadable.to_string())
    }
}

/// The place of the writer with this schema; most often the last one.
fn place(writers: &[Writer], last: usize, schema: &str) -> Option<usize> {
    match writers.get(last) {
        Some(writer) if writer.text == schema => Some(last),
        _ => writers.iter().position(|writer| writer.text == schema),
    }
}

/// Why a schema does not count.
enum Unfit {
    /// It contradicts the columns there are.
    Schema(SchemaError),
    /// The row beside it is none by it; another one may be.
    Row(Malformed),
}

/// What the rows of a schema are, and the columns with those that it brings.
fn columns_with(schema: &str, rows: &Growing) -> std::result::Result<(Connect, Fields), SchemaError> {
    let broken = |error: serde_json::Error| SchemaError::Unsupported {
        path: "schema".to_owned(),
        found: error.to_string(),
        why: "it is no JSON",
    };
    let connect = of_envelope(&serde_json::from_str(schema).map_err(broken)?)?;
    let columns = grown(rows.schema().fields(), &connect.fields());
    Ok((connect, columns))
}

/// What the rows of a schema are and the columns with those that it brings, if `row` then is one.
fn tried(schema: &str, row: &str, rows: &Growing) -> std::result::Result<(Connect, Fields), Unfit> {
    let (connect, columns) = columns_with(schema, rows).map_err(Unfit::Schema)?;
    let object = connect.object(&columns, "").map_err(Unfit::Schema)?;
    rows.try_with(&columns, object, row.as_bytes()).map_err(Unfit::Schema)?.map_err(Unfit::Row)?;
    Ok((connect, columns))
}

#[async_trait]
impl Body for DebeziumJson {
    fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    fn open_ended(&self) -> bool {
        self.on_unknown == OnUnknown::Evolve
    }

    async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked> {
        if self.writers.len() > REMEMBERED {
            self.writers.clear();
        }
        let before = Arc::clone(self.rows.schema());
        let mut blocked = None;
        let mut learning = self.rows.learning();
        for (index, record) in records.iter().enumerate() {
            let known = self.writers.get(self.last).map_or("", |writer| writer.text.as_str());
            let Some(Ok(Some(envelope))) = record.value.as_ref().map(|value| Envelope::read(value, known)) else {
                continue;
            };
            let Some(schema) = envelope.schema else {
                if let Some(row) = envelope.row {
                    let looked = learning.look(index, row.as_bytes());
                    looked.map_err(|error| Blocked { index, error: error.into() })?;
                }
                continue;
            };
            if let Some(place) = place(&self.writers, self.last, schema) {
                self.last = place;
                continue;
            }
            // Without a row there is nothing to read by it.
            let Some(row) = envelope.row else { continue };
            let rows = match tried(schema, row, learning.so_far()) {
                Ok((connect, columns)) => learning.adopt(columns).map(|()| connect).map_err(|error| error.to_string()),
                Err(Unfit::Schema(error)) => Err(error.to_string()),
                Err(Unfit::Row(_)) => continue,
            };
            if let (Err(why), OnIncompatible::Stop) = (&rows, self.on_incompatible) {
                let error = LandingError::Contradicts { topic: self.topic.clone(), why: why.clone() };
                // The records before this one can be read: what they need is finished below.
                blocked = Some(Blocked { index, error: error.into() });
                break;
            }
            self.last = self.writers.len();
            self.writers.push(Writer { text: schema.to_owned(), rows, plan: None });
        }
        let at = |index: usize| records.get(index).map(|record| (record.partition.partition, record.offset));
        let instead = learning.finish().into_iter();
        self.instead = instead.filter_map(|(index, row)| Some((at(index)?, row))).collect();
        let grew = !Arc::ptr_eq(&before, self.rows.schema());
        if grew {
            self.columns = columns_of(self.rows.schema().fields());
        }
        let fields = self.rows.schema().fields();
        for writer in self.writers.iter_mut().filter(|writer| grew || writer.plan.is_none()) {
            match writer.rows.as_ref().map(|connect| connect.object(fields, "")) {
                Ok(Ok(object)) => writer.plan = Some(self.rows.plan(object)),
                Ok(Err(error)) => writer.rows = Err(error.to_string()),
                Err(_) => {}
            }
        }
        blocked.map_or(Ok(()), Err)
    }

    fn read(&mut self, record: &Record) -> std::result::Result<Taken, Refused> {
        let Some(value) = &record.value else { return Ok(Taken::Nothing) };
        let known = self.writers.get(self.last).map_or("", |writer| writer.text.as_str());
        let Some(envelope) = Envelope::read(value, known)? else { return Ok(Taken::Nothing) };
        match (envelope.row, envelope.schema) {
            (None, _) => {
                if !self.rows.read_nothing() {
                    return Err(Refused::new("type", "there is no row, and a column is required"));
                }
            }
            (Some(row), Some(schema)) => {
                let found = place(&self.writers, self.last, schema);
                self.last = found.unwrap_or(self.last);
                match found.and_then(|place| self.writers.get(place)) {
                    Some(Writer { plan: Some(plan), .. }) => self.rows.read_with(plan, row.as_bytes())?,
                    Some(Writer { rows: Err(why), .. }) => {
                        return Err(Refused::new("incompatible_schema", why.clone()));
                    }
                    _ => {
                        // It made no row of any record so far, and none of this one.
                        return Err(match tried(schema, row, &self.rows) {
                            Err(Unfit::Row(malformed)) => malformed.into(),
                            Err(Unfit::Schema(error)) => Refused::new("incompatible_schema", error.to_string()),
                            Ok(_) => Refused::new("unknown_schema", "the schema was not met before"),
                        });
                    }
                }
            }
            (Some(row), None) => {
                let instead = self.instead.get(&(record.partition.partition, record.offset));
                self.rows.read(instead.map_or(row.as_bytes(), |instead| instead))?;
            }
        }
        self.meta.push(envelope.event);
        Ok(Taken::Row(None))
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        let rows = self.rows.flush()?;
        let changes = finish(&rows, &mut self.meta, &self.columns);
        Ok(changes.map_err(|source| LandingError::Arrow { topic: self.topic.clone(), source })?)
    }
}
