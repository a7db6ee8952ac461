//! Arrow rows into bodies of one schema.
use apache_avro::Schema;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use thiserror::Error;

use super::arrow_schema::data_type;
use super::frame;
use super::from_json::default_body;
use super::rows::{bind_record, write_record};
use super::shape::{Record, Shape, member_names};
use crate::error::Explain;
use crate::format::error::{SchemaError, join};

/// Why a row is not a value of the schema.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("encode `{path}` of row {row}: {why}")]
pub struct EncodeError {
    /// The column.
    pub path: String,
    /// The row of the batch, from 0.
    pub row: usize,
    /// What is wrong with its value.
    pub why: String,
}

impl Explain for EncodeError {
    fn code(&self) -> &'static str {
        "F0205"
    }

    fn fix(&self) -> Option<String> {
        Some(format!("let the schema allow this value of `{}`, or filter it out before", self.path))
    }
}

/// Encodes rows of one table as bodies of one schema; the way back of [`super::Decoder`].
///
/// Columns are matched by name. A field without a column takes its default; columns without a field are left out.
pub struct Encoder {
    record: Record,
    schema_id: Option<i32>,
}

impl Encoder {
    /// For rows with the columns of `rows`, as bodies of `schema`.
    ///
    /// # Errors
    /// [`SchemaError::Mismatch`] if a column's type is not the one that [`super::arrow_schema`] gives its field;
    /// [`SchemaError::Missing`] if a field has neither a column nor a default.
    pub fn new(schema: &Schema, rows: &arrow::datatypes::Schema) -> Result<Self, SchemaError> {
        let record = Shape::root(schema)?;
        check(&record, rows.fields(), "")?;
        Ok(Self { record, schema_id: None })
    }

    /// Puts the frame with this schema id in front of every body.
    #[must_use]
    pub fn framed(mut self, schema_id: i32) -> Self {
        self.schema_id = Some(schema_id);
        self
    }

    /// Returns one value per row, in their order.
    ///
    /// # Errors
    /// If a value does not fit: NULL where the schema has none, a symbol the enum has not, a time out of range.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Vec<Bytes>, EncodeError> {
        let schema = batch.schema();
        let columns = |name: &str| schema.fields().find(name).map(|(index, _)| batch.column(index).as_ref());
        let root = bind_record(&self.record, &columns, "").map_err(|(path, why)| EncodeError { path, row: 0, why })?;
        // All rows in one buffer, cut into slices: one allocation for a batch.
        let mut out = Vec::new();
        let mut ends = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if let Some(id) = self.schema_id {
                frame::write(id, &mut out);
            }
            write_record(&root, row, &mut out).map_err(|(path, why)| EncodeError { path, row, why })?;
            ends.push(out.len());
        }
        let whole = Bytes::from(out);
        let mut start = 0;
        Ok(ends
            .into_iter()
            .map(|end| {
                let slice = whole.slice(start..end);
                start = end;
                slice
            })
            .collect())
    }
}

/// Checks types before there are rows.
fn check(record: &Record, fields: &arrow::datatypes::Fields, path: &str) -> Result<(), SchemaError> {
    for field in &record.fields {
        let path = join(path, &field.name);
        match fields.find(&field.name) {
            Some((_, column)) => fits(&field.shape, column.data_type(), &path)?,
            None => {
                default_body(&field.shape, field.default.as_ref())
                    .ok_or_else(|| SchemaError::Missing { path, target: field.shape.describe() })?;
            }
        }
    }
    Ok(())
}

fn fits(shape: &Shape, column: &DataType, path: &str) -> Result<(), SchemaError> {
    match (shape.strip_null(), column) {
        (Shape::Record(record), DataType::Struct(fields)) => check(record, fields, path),
        (Shape::Array(item), DataType::List(element)) => fits(item, element.data_type(), &format!("{path}[]")),
        (Shape::Map(value), DataType::Map(entries, _)) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => fits(value, fields[1].data_type(), &format!("{path}{{}}")),
            _ => Ok(()),
        },
        (Shape::Union(branches), DataType::Struct(fields)) => {
            for (branch, name) in branches.iter().zip(member_names(branches)) {
                if let Some((_, member)) = fields.find(&name) {
                    fits(branch, member.data_type(), &join(path, &name))?;
                }
            }
            Ok(())
        }
        // The zone of a timestamp does not change the moment.
        (Shape::Timestamp { utc: true, .. }, DataType::Timestamp(TimeUnit::Microsecond, Some(_))) => Ok(()),
        (only, column) if &data_type(only) == column || matches!(only, Shape::Null) => Ok(()),
        _ => Err(SchemaError::Mismatch { path: path.to_owned(), writer: shape.describe(), target: column.to_string() }),
    }
}
