//! Columns as a query gives them, brought to the types that Delta can store.
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;

/// The storable form of `schema`: all columns nullable, text as Utf8, instants in microseconds UTC (an instant without
/// a zone is UTC), unsigned numbers signed, dictionaries unpacked, columns that are always NULL as text.
pub fn storable(schema: &Schema) -> SchemaRef {
    let field = |f: &FieldRef| Arc::new(Field::new(f.name(), storable_type(f.data_type()), true));
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn storable_type(data_type: &DataType) -> DataType {
    let inner = |f: &FieldRef| Arc::new(Field::new(f.name(), storable_type(f.data_type()), f.is_nullable()));
    match data_type {
        DataType::Utf8View
        | DataType::LargeUtf8
        | DataType::Null
        | DataType::Time32(_)
        | DataType::Time64(_)
        | DataType::Interval(_)
        | DataType::Duration(_) => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Date64 => DataType::Date32,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale) => DataType::Decimal128((*precision).min(38), *scale),
        DataType::Dictionary(_, values) => storable_type(values),
        DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::List(item)
        | DataType::ListView(item) => {
            DataType::List(Arc::new(Field::new("element", storable_type(item.data_type()), item.is_nullable())))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// The batch with its columns cast to `schema` (by position).
///
/// # Errors
/// A value that does not fit: never cut or made NULL.
pub fn to_storable(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let exact = CastOptions { safe: false, ..CastOptions::default() };
    let cast = |(column, field): (&ArrayRef, &FieldRef)| {
        if column.data_type() == field.data_type() {
            Ok(Arc::clone(column))
        } else {
            cast_with_options(column, field.data_type(), &exact)
        }
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(cast).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}
