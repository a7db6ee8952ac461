//! Avro in Confluent's frame. Each record is read by the schema it was written with; columns come from the subject's
//! schemas and from every schema met, and what a schema adds becomes a column.
use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::Schema as AvroSchema;
use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, Schema, SchemaRef};
use async_trait::async_trait;

use super::{Blocked, Body, BodySettings, OnIncompatible, Refused, Taken};
use crate::error::Result;
use crate::format::SchemaError;
use crate::format::avro::{self, Plan, frame};
use crate::format::column::Columns;
use crate::pipeline::LandingError;
use crate::record::Record;
use crate::schema_registry::Registry;
use crate::table::grown;

/// Ids of which nothing can be read are remembered up to this many, so that a topic full of random ids fills no memory.
const REMEMBERED: usize = 10_000;

enum Writer {
    Known(Plan),
    /// Its records cannot become rows of this table: why, in a word and in full.
    Refused(&'static str, String),
}

/// How the text of a schema is understood.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Parses it, or says why it is no schema.
    pub(super) parse: fn(&str) -> std::result::Result<AvroSchema, String>,
    /// The columns that records of it have.
    pub(super) columns: fn(&AvroSchema) -> std::result::Result<Schema, SchemaError>,
}

const PLAIN: Reading = Reading {
    parse: |text| AvroSchema::parse_str(text).map_err(|error| error.to_string()),
    columns: avro::arrow_schema,
};

pub(super) struct Avro {
    topic: String,
    reading: Reading,
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
    let (topic, subject) = (settings.topic.clone(), settings.subject.clone());
    let avro = Avro::open(settings, PLAIN).await?;
    if avro.brought.is_empty() {
        return Err(LandingError::NoSchema { topic, subject }.into());
    }
    Ok(Box::new(avro))
}

/// Adds the columns of `schema` that are not there yet, members of structs too, and notes which schema brought a column.
/// Every column may be NULL: a writer that lacks a field then still has rows.
fn add(fields: &Fields, brought: &mut HashMap<String, i32>, id: i32, schema: &Schema) -> Fields {
    for field in schema.fields() {
        if fields.find(field.name()).is_none_or(|(_, known)| known.data_type() == field.data_type()) {
            brought.entry(field.name().clone()).or_insert(id);
        }
    }
    grown(fields, schema.fields())
}

impl Avro {
    pub(super) async fn open(settings: BodySettings, reading: Reading) -> Result<Self> {
        let mut fields = settings.there.as_ref().map_or_else(Fields::empty, |there| there.fields().clone());
        let mut brought = HashMap::new();
        for version in settings.registry.versions(&settings.subject).await? {
            let schema = (reading.parse)(&version.schema).map_err(|why| LandingError::BadSchema {
                subject: format!("{} version {}", settings.subject, version.version),
                why,
            })?;
            fields = add(&fields, &mut brought, version.id, &(reading.columns)(&schema)?);
        }
        Ok(Self {
            topic: settings.topic,
            reading,
            registry: settings.registry,
            on_incompatible: settings.on_incompatible,
            rows: Columns::new(Arc::new(Schema::new(fields)))?,
            brought,
            schemas: HashMap::new(),
            writers: HashMap::new(),
        })
    }

    /// Learns the schema `id`: the columns it brings, or why its records cannot become rows.
    async fn learn(&mut self, id: i32) -> Result<()> {
        let refused = match self.registry.by_id(id).await? {
            None => format!("the registry has no schema {id}"),
            Some(text) => match (self.reading.parse)(&text) {
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
        let columns = match (self.reading.columns)(&schema) {
            Ok(columns) => columns,
            Err(error) => {
                self.writers.insert(id, Writer::Refused("incompatible_schema", format!("schema {id}: {error}")));
                return Ok(());
            }
        };
        // What contradicts the table is settled first: a schema that is refused brings no columns.
        let now = self.plan(id, &schema, self.rows.schema())?;
        if !matches!(now, Writer::Known(_)) {
            self.writers.insert(id, now);
            return Ok(());
        }
        let fields = add(self.rows.schema().fields(), &mut self.brought, id, &columns);
        if &fields != self.rows.schema().fields() {
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
            // Not remembered any more among many that nobody knows.
            None => {
                let detail = format!("the registry has no schema {id}");
                Err(Refused { reason: "unknown_schema", detail, schema_id: Some(id) })
            }
        }
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        Ok(self.rows.flush()?)
    }
}
