//! Arrow rows into bodies of one schema.
use std::sync::Arc;

use apache_avro::Schema;
use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Fields, TimeUnit};
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
    columns: arrow::datatypes::Schema,
    read_as: Vec<DataType>,
    schema_id: Option<i32>,
}

impl Encoder {
    /// For rows with the columns of `rows`, as bodies of `schema`.
    ///
    /// # Errors
    /// [`SchemaError::Mismatch`] if a column's type is neither the one that [`super::arrow_schema`] gives its field nor
    /// a smaller one of its kind; [`SchemaError::Missing`] if a field has neither a column nor a default.
    pub fn new(schema: &Schema, rows: &arrow::datatypes::Schema) -> Result<Self, SchemaError> {
        let record = Shape::root(schema)?;
        let read_as = read_as(&record, rows.fields(), "")?;
        Ok(Self { record, columns: rows.clone(), read_as, schema_id: None })
    }

    /// Puts the frame with this schema id in front of every body.
    #[must_use]
    pub fn framed(mut self, schema_id: i32) -> Self {
        self.schema_id = Some(schema_id);
        self
    }

    /// Returns one value per row, in their order. The batch has the columns that the encoder was made for.
    ///
    /// # Errors
    /// If a value does not fit: NULL where the schema has none, a symbol the enum has not, a time out of range.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Vec<Bytes>, EncodeError> {
        let whole = |path: String, why: String| EncodeError { path, row: 0, why };
        let mut arrays = Vec::with_capacity(batch.num_columns());
        for ((column, data_type), field) in batch.columns().iter().zip(&self.read_as).zip(self.columns.fields()) {
            let array = if column.data_type() == data_type { Ok(Arc::clone(column)) } else { cast(column, data_type) };
            arrays.push(array.map_err(|error| whole(field.name().clone(), error.to_string()))?);
        }
        let columns = |name: &str| {
            let (index, _) = self.columns.fields().find(name)?;
            arrays.get(index).map(AsRef::as_ref)
        };
        let root = bind_record(&self.record, &columns, "").map_err(|(path, why)| whole(path, why))?;
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
        let bytes = Bytes::from(out);
        let mut start = 0;
        Ok(ends
            .into_iter()
            .map(|end| {
                let slice = bytes.slice(start..end);
                start = end;
                slice
            })
            .collect())
    }
}

/// The types that the columns of a record are read as.
fn read_as(record: &Record, fields: &Fields, path: &str) -> Result<Vec<DataType>, SchemaError> {
    for field in &record.fields {
        if fields.find(&field.name).is_none() && default_body(&field.shape, field.default.as_ref()).is_none() {
            let path = join(path, &field.name);
            return Err(SchemaError::Missing { path, target: field.shape.describe() });
        }
    }
    fields
        .iter()
        .map(|column| match record.fields.iter().find(|field| &field.name == column.name()) {
            Some(field) => storage(&field.shape, column.data_type(), &join(path, column.name())),
            None => Ok(column.data_type().clone()),
        })
        .collect()
}

/// The type that a column is read as: its own, or one to which it is cast without loss. Queries return views, large
/// texts and dictionaries where tables hold plain texts.
fn storage(shape: &Shape, column: &DataType, path: &str) -> Result<DataType, SchemaError> {
    if let DataType::Dictionary(_, values) = column {
        return storage(shape, values, path);
    }
    let only = shape.strip_null();
    let plain = data_type(only);
    let same = match (only, column) {
        (Shape::Record(record), DataType::Struct(fields)) => {
            return Ok(with_types(fields, read_as(record, fields, path)?));
        }
        (Shape::Union(branches), DataType::Struct(fields)) => {
            let names = member_names(branches);
            let types = fields.iter().map(|field| match names.iter().position(|name| name == field.name()) {
                Some(branch) => storage(&branches[branch], field.data_type(), &join(path, field.name())),
                None => Ok(field.data_type().clone()),
            });
            return Ok(with_types(fields, types.collect::<Result<_, _>>()?));
        }
        (Shape::Array(item), DataType::List(element) | DataType::LargeList(element)) => {
            let element_type = storage(item, element.data_type(), &format!("{path}[]"))?;
            return Ok(DataType::List(retyped(element, element_type)));
        }
        (Shape::Map(value), DataType::Map(entries, sorted)) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let value = storage(value, fields[1].data_type(), &format!("{path}{{}}"))?;
                return Ok(DataType::Map(retyped(entries, with_types(fields, vec![DataType::Utf8, value])), *sorted));
            }
            _ => false,
        },
        (Shape::Null, _) => return Ok(column.clone()),
        // More digits than the schema has are a matter of single values.
        (Shape::Decimal { scale, .. }, DataType::Decimal128(_, places)) if scale == places => return Ok(column.clone()),
        // The zone of a timestamp does not change the moment.
        (Shape::Timestamp { utc, .. }, DataType::Timestamp(_, zone)) if *utc == zone.is_some() => {
            return Ok(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()));
        }
        (_, DataType::Utf8View | DataType::LargeUtf8) => plain == DataType::Utf8,
        (_, DataType::BinaryView | DataType::LargeBinary) => plain == DataType::Binary,
        (Shape::Int | Shape::Long, DataType::Int8 | DataType::Int16)
        | (Shape::Long | Shape::Double, DataType::Int32)
        | (Shape::Double, DataType::Float32) => true,
        _ => &plain == column,
    };
    if same {
        return Ok(plain);
    }
    Err(SchemaError::Mismatch { path: path.to_owned(), writer: shape.describe(), target: column.to_string() })
}

fn with_types(fields: &Fields, types: Vec<DataType>) -> DataType {
    DataType::Struct(fields.iter().zip(types).map(|(field, data_type)| retyped(field, data_type)).collect())
}

fn retyped(field: &FieldRef, data_type: DataType) -> FieldRef {
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}
