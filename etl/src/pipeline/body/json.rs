//! One JSON object per record. Columns are those of the table and the declared ones; what to do with other fields is a
//! setting, and unless it says otherwise they become columns by the rules of [`crate::format::json`].
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use async_trait::async_trait;

use super::{Blocked, Body, BodySettings, OnUnknown, Refused, Taken};
use crate::error::Result;
use crate::format::json::{Growing, Malformed};
use crate::pipeline::LandingError;
use crate::pipeline::decode::META_COLUMNS;
use crate::position::Offset;
use crate::record::Record;
use crate::table::{merged, type_name};

struct Json {
    rows: Growing,
    on_unknown: OnUnknown,
    /// Records of this micro-batch, by partition and offset, that are read in another form than their own.
    instead: HashMap<(i32, Offset), Vec<u8>>,
}

/// Opens the body with the columns of the table and the declared ones.
pub(super) fn open(settings: &BodySettings) -> Result<Box<dyn Body>> {
    let columns = starting_columns(settings)?;
    let rows = Growing::new(columns, settings.on_unknown, settings.zone)?.reserving(&META_COLUMNS);
    Ok(Box::new(Json { rows, on_unknown: settings.on_unknown, instead: HashMap::new() }))
}

/// The table's columns with those declared.
pub(super) fn starting_columns(settings: &BodySettings) -> Result<SchemaRef> {
    let mut fields: Vec<FieldRef> = settings.there.iter().flat_map(|there| there.fields().iter().cloned()).collect();
    for field in settings.declared.iter().flat_map(Schema::fields) {
        let Some(there) = fields.iter_mut().find(|there| there.name() == field.name()) else {
            fields.push(Arc::clone(field));
            continue;
        };
        let Some(grown) = merged(there.data_type(), field.data_type()) else {
            return Err(LandingError::Declared {
                topic: settings.topic.clone(),
                column: field.name().clone(),
                declared: type_name(field.data_type()),
                there: type_name(there.data_type()),
            }
            .into());
        };
        *there = Arc::new(Field::clone(there).with_data_type(grown));
    }
    Ok(Arc::new(Schema::new(fields)))
}

impl From<Malformed> for Refused {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.word(), malformed.to_string())
    }
}

#[async_trait]
impl Body for Json {
    fn columns(&self) -> &SchemaRef {
        self.rows.schema()
    }

    fn open_ended(&self) -> bool {
        self.on_unknown == OnUnknown::Evolve
    }

    async fn prepare(&mut self, records: &[Record]) -> std::result::Result<(), Blocked> {
        let mut learning = self.rows.learning();
        for (index, record) in records.iter().enumerate() {
            let Some(value) = &record.value else { continue };
            learning.look(index, value).map_err(|error| Blocked { index, error: error.into() })?;
        }
        let place = |index: usize| records.get(index).map(|record| (record.partition.partition, record.offset));
        let instead = learning.finish().into_iter();
        self.instead = instead.filter_map(|(index, value)| Some((place(index)?, value))).collect();
        Ok(())
    }

    fn read(&mut self, record: &Record) -> std::result::Result<Taken, Refused> {
        let Some(value) = &record.value else {
            return Err(Refused::new("tombstone", "the record has a key but no value"));
        };
        let instead =
            if self.instead.is_empty() { None } else { self.instead.get(&(record.partition.partition, record.offset)) };
        self.rows.read(instead.map_or(&value[..], |instead| instead))?;
        Ok(Taken::Row(None))
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        Ok(self.rows.flush()?)
    }
}
