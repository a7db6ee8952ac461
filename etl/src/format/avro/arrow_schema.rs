//! The table columns for an Avro schema; the table of types is in [`super`].
use std::sync::Arc;

use apache_avro::Schema;
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

use super::shape::{Record, Shape, member_names};
use crate::format::error::SchemaError;

/// Returns the columns that records of `schema` are stored in, in the order of its fields; all may be NULL.
///
/// # Errors
/// If a type contains itself, is too large, or is a decimal of more than 38 digits.
pub fn arrow_schema(schema: &Schema) -> Result<arrow::datatypes::Schema, SchemaError> {
    Ok(arrow::datatypes::Schema::new(record_fields(&Shape::root(schema)?)))
}

fn record_fields(record: &Record) -> Fields {
    record.fields.iter().map(|field| Field::new(&field.name, data_type(&field.shape), true)).collect()
}

pub(super) fn data_type(shape: &Shape) -> DataType {
    match shape {
        Shape::Null | Shape::String | Shape::Enum { .. } | Shape::UuidText | Shape::UuidBytes | Shape::UuidFixed(_) => {
            DataType::Utf8
        }
        Shape::Boolean => DataType::Boolean,
        Shape::Int => DataType::Int32,
        Shape::Long | Shape::TimeMillis | Shape::TimeMicros => DataType::Int64,
        Shape::Float => DataType::Float32,
        Shape::Double => DataType::Float64,
        Shape::Bytes | Shape::Fixed(_) => DataType::Binary,
        Shape::Decimal { precision, scale, .. } => DataType::Decimal128(*precision, *scale),
        Shape::Date => DataType::Date32,
        Shape::Timestamp { utc: true, .. } => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Shape::Timestamp { utc: false, .. } => DataType::Timestamp(TimeUnit::Microsecond, None),
        Shape::Duration(_) => DataType::Struct(
            ["months", "days", "millis"].map(|name| Field::new(name, DataType::Int64, true)).into_iter().collect(),
        ),
        // The names are those that Delta readers and writers use, so a batch fits the table as it is.
        Shape::Array(item) => DataType::List(Arc::new(Field::new("element", data_type(item), true))),
        Shape::Map(value) => {
            let entries = vec![Field::new("key", DataType::Utf8, false), Field::new("value", data_type(value), true)];
            DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entries.into()), false)), false)
        }
        Shape::Record(record) => DataType::Struct(record_fields(record)),
        Shape::Union(branches) => match shape.strip_null() {
            Shape::Union(_) if Shape::live(branches).next().is_none() => DataType::Utf8,
            Shape::Union(_) => DataType::Struct(
                branches
                    .iter()
                    .zip(member_names(branches))
                    .filter(|(branch, _)| !matches!(branch, Shape::Null))
                    .map(|(branch, name)| Field::new(name, data_type(branch), true))
                    .collect(),
            ),
            only => data_type(only),
        },
    }
}
