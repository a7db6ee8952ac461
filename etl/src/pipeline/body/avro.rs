//! Avro in Confluent's frame. Each record is read by the schema it was written with; columns come from the subject's
//! schemas and from every schema met, and what a schema adds becomes a column.
use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;

use super::{Blocked, Body, BodySettings, OnIncompatible, Refused, Taken};
use crate::error::Result;
use crate::format::avro::{self, Plan, frame};
use crate::format::column::Columns;
use crate::pipeline::LandingError;
use crate::record::Record;
use crate::schema_registry::Registry;

/// Ids of which nothing can be read are remembered up to this many, so that a topic full of random ids fills no memory.
const REMEMBERED: usize = 10_000;

enum Writer {
    Known(Plan),
    /// Its records cannot become rows of this table: why, in a word and in full.
    Refused(&'static str, String),
}

struct Avro {
    topic: String,
    registry: Arc<dyn Registry>,
    on_incompatible: OnIncompatible,
    rows: Columns,
    /// The id of the schema that brought a column, where that is known.
    brought: HashMap<String, i32>,
    schemas: HashMap<i32, AvroSchema>,
    writers: HashMap<i32, Writer>,
}

/// Opens the body with the columns of the table and of all versions of the subject.
pub(super) async fn open(settings: BodySettings) -> Result<Box<dyn Body>> {
    let mut fields: Vec<FieldRef> = settings.there.iter().flat_map(|there| there.fields().iter().cloned()).collect();
    let mut brought = HashMap::new();
    let versions = settings.registry.versions(&settings.subject).await?;
    if versions.is_empty() {
        let (topic, subject) = (settings.topic, settings.subject);
        return Err(LandingError::NoSchema { topic, subject }.into());
    }
    for version in versions {
        let schema = AvroSchema::parse_str(&version.schema).map_err(|e| LandingError::BadSchema {
            subject: format!("{} version {}", settings.subject, version.version),
            why: e.to_string(),
        })?;
        add(&mut fields, &mut brought, version.id, &avro::arrow_schema(&schema)?);
    }
    Ok(Box::new(Avro {
        topic: settings.topic,
        registry: settings.registry,
        on_incompatible: settings.on_incompatible,
        rows: Columns::new(Arc::new(Schema::new(fields)))?,
        brought,
        schemas: HashMap::new(),
        writers: HashMap::new(),
    }))
}

/// Adds the columns of `schema` that are not there yet. Every column may be NULL: a writer that lacks a field then
/// still has rows.
fn add(fields: &mut Vec<FieldRef>, brought: &mut HashMap<String, i32>, id: i32, schema: &Schema) -> bool {
    let before = fields.len();
    for field in schema.fields() {
        match fields.iter().find(|known| known.name() == field.name()) {
            None => fields.push(Arc::new(Field::clone(field).with_nullable(true))),
            Some(known) if known.data_type() != field.data_type() => continue,
            Some(_) => {}
        }
        brought.entry(field.name().clone()).or_insert(id);
    }
    fields.len() > before
}

impl Avro {
    /// Learns the schema `id`: the columns it brings, or why its records cannot become rows.
    async fn learn(&mut self, id: i32) -> Result<()> {
        let refused = match self.registry.by_id(id).await? {
            None => format!("the registry has no schema {id}"),
            Some(text) => match AvroSchema::parse_str(&text) {
                Err(error) => format!("schema {id} is not Avro: {error}"),
                Ok(schema) => return self.adopt(id, schema),
            },
        };
        if self.writers.len() >= REMEMBERED {
            self.writers.retain(|_, writer| matches!(writer, Writer::Known(_)));
        }
        self.writers.insert(id, Writer::Refused("unknown_schema", refused));
        Ok(())
    }

    fn adopt(&mut self, id: i32, schema: AvroSchema) -> Result<()> {
        let columns = match avro::arrow_schema(&schema) {
            Ok(columns) => columns,
            Err(error) => {
                self.writers.insert(id, Writer::Refused("incompatible_schema", format!("schema {id}: {error}")));
                return Ok(());
            }
        };
        let mut fields: Vec<FieldRef> = self.rows.schema().fields().iter().cloned().collect();
        // What contradicts the table is settled first: a schema that is refused brings no columns.
        let now = self.plan(id, &schema, self.rows.schema())?;
        if matches!(now, Writer::Known(_)) && add(&mut fields, &mut self.brought, id, &columns) {
            self.rows = Columns::new(Arc::new(Schema::new(fields)))?;
            for (id, schema) in &self.schemas {
                let planned = self.plan(*id, schema, self.rows.schema())?;
                self.writers.insert(*id, planned);
            }
        }
        let planned = self.plan(id, &schema, self.rows.schema())?;
        self.writers.insert(id, planned);
        self.schemas.insert(id, schema);
        Ok(())
    }

    fn plan(&self, id: i32, schema: &AvroSchema, columns: &SchemaRef) -> Result<Writer> {
        let error = match Plan::new(schema, columns.fields()) {
            Ok(plan) => return Ok(Writer::Known(plan)),
            Err(error) => error,
        };
        let column = error.path().and_then(|path| path.split(['.', '[', '{']).next()).unwrap_or_default();
        let other = match self.brought.get(column) {
            Some(other) => format!(", whose column `{column}` is as schema {other} has it"),
            None => String::new(),
        };
        let why = format!("schema {id} contradicts the table{other}: {error}");
        match self.on_incompatible {
            OnIncompatible::DeadLetter => Ok(Writer::Refused("incompatible_schema", why)),
            OnIncompatible::Stop => Err(LandingError::Incompatible { topic: self.topic.clone(), id, why }.into()),
        }
    }
}

#[async_trait]
impl Body for Avro {
    fn columns(&self) -> &SchemaRef {
        self.rows.schema()
    }

    async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked> {
        let mut last = None;
        for (index, record) in records.iter().enumerate() {
            let Some(Ok((id, _))) = record.value.as_ref().map(|value| frame::split(value)) else { continue };
            // Neighbours mostly share their schema.
            if last != Some(id) && !self.writers.contains_key(&id) {
                self.learn(id).await.map_err(|error| Blocked { index, error })?;
            }
            last = Some(id);
        }
        Ok(())
    }

    fn read(&mut self, record: &Record) -> std::result::Result<Taken, Refused> {
        let Some(value) = &record.value else {
            return Err(Refused::new("tombstone", "the record has a key but no value"));
        };
        let (id, body) = frame::split(value).map_err(|problem| Refused::new("not_framed", problem.to_string()))?;
        match self.writers.get(&id) {
            Some(Writer::Known(plan)) => match plan.read(body, &mut self.rows) {
                Ok(()) => Ok(Taken::Row(Some(id))),
                Err(bad) => Err(Refused { reason: bad.reason.word(), detail: bad.to_string(), schema_id: Some(id) }),
            },
            Some(Writer::Refused(reason, detail)) => {
                Err(Refused { reason, detail: detail.clone(), schema_id: Some(id) })
            }
            None => Err(Refused { reason: "unknown_schema", detail: format!("schema {id}"), schema_id: Some(id) }),
        }
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        Ok(self.rows.flush()?)
    }
}
